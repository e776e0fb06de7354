"""The PyTorch optimiser's updates under `torch.compile`, in one graph each, and the same numbers."""

from __future__ import annotations

import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from psgd_core.adapters.torch import PSGD, Affine  # noqa: E402
from psgd_core.descent import clips  # noqa: E402

N, STEPS = 16, 8


def run(p, fits=STEPS, **settings):
    """Return the parameters after some steps with a scheduler, the first `fits` of them with fitting."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    h = torch.randn(N, N, dtype=torch.float64)
    x = torch.nn.Parameter(torch.randn(N, dtype=torch.float64))
    settings = {"step": psgd.schedules.Exponential(0.5, 0.1, over=STEPS), "engine": "torch", **settings}
    optimizer = PSGD([x], p, update_probability=lambda t: 1.0 if t < fits else 1e-9, **settings)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for _ in range(STEPS):
        optimizer.step(lambda: torch.sum((h @ x) ** 2))
        scheduler.step()
    assert int(optimizer.group_state().preconditioner.count) == fits
    return x.detach()


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    ("p", "settings", "expected"),
    [
        (psgd.LowRank(rank=2), {}, 1),
        (psgd.XMat(), {"clip": clips.TrustRadius(), "curvature": "whitening", "fits": STEPS // 2}, 2),
        (psgd.Diagonal(), {"clip": None, "global_clip": clips.AdaptiveNorm(1.1), "fits": STEPS // 2}, 3),
        (Affine((4, 4)), {"scale": 0.1}, 1),
    ],
    ids=["LowRank", "XMat", "global", "Affine"],
)
def test_fitting_and_moving_compile_to_one_graph_each(p, settings, expected):
    """As often as the learning rate, the step and the count change; to two if all groups share a limit."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = run(p, compile={"backend": backend}, **settings)
    torch.testing.assert_close(compiled, run(p, **settings), rtol=1e-12, atol=1e-12)
    assert len(graphs) == expected  # with a pair and without
    assert all(len(graph.graph.nodes) > 50 for graph in graphs if "global_clip" not in settings)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_the_functional_core_compiles_as_a_whole():
    """``update`` and ``precondition`` on plain tensors, without the optimiser, through AOTAutograd."""
    torch._dynamo.reset()
    p = psgd.Diagonal()

    def both(state, v, h, g):
        state = p.update(state, v, h, 0.3)
        return state, p.precondition(state, g)

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    state = p.init(N, like=torch.zeros(1))
    for seed in range(3):
        v, h, g = torch.randn(3, N, generator=torch.Generator().manual_seed(seed))
        expected = both(state, v, h, g)
        state, y = compiled(state, v, h, g)
        torch.testing.assert_close((state, y), expected)
