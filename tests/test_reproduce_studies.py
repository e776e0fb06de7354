"""Runs of stages, what is measured of solutions, of memory and of time, and the experiments made of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from psgd_analysis.reproduce.curvature import GRID, Curvature  # noqa: E402
from psgd_analysis.reproduce.sizes import state_bytes  # noqa: E402
from psgd_analysis.reproduce.stages import Stage, Stages  # noqa: E402

# -- stages --------------------------------------------------------------------------------------------------


class Walk:
    """A random walk from somewhere, in need of its generator."""

    skipped = 1

    def __init__(self, x: Any, parts: int, seed: int, fatal: int = 99) -> None:
        self.x, self.parts, self.done, self.fatal = x, parts, 0, fatal
        self.rng = torch.Generator().manual_seed(seed)

    @property
    def status(self) -> str:
        if not bool(torch.isfinite(self.x).all()):
            return "diverged"
        return "done" if self.done == self.parts else "going"

    def advance(self) -> dict[str, float]:
        self.x = self.x + torch.randn(3, generator=self.rng)
        self.done += 1
        if self.done == self.fatal:
            self.x = self.x * torch.nan
        return {"x": float(self.x[0])}

    def final(self) -> dict[str, Any]:
        return {"x": self.x, "mean": float(self.x.mean())}

    def save(self, file: Any) -> None:
        torch.save({"x": self.x, "done": self.done, "rng": self.rng.get_state()}, file)

    def load(self, file: Any) -> None:
        held = torch.load(file, weights_only=True)
        self.x, self.done = held["x"], held["done"]
        self.rng.set_state(held["rng"])


def walks(fatal: int = 99) -> Stages:
    """Three walks; the second starts from where the first ended, the third from both."""
    stages = (
        Stage("a", 2, lambda found: Walk(torch.zeros(3), 2, 0)),
        Stage("b", 3, lambda found: Walk(found["a"]["x"], 3, 1, fatal), lambda walk: {"y": 2 * walk.x}),
        Stage("c", 1, lambda found: Walk(found["a"]["x"] + found["b"]["y"], 1, 2)),
    )
    return Stages(
        stages, lambda found: {k: [float(z) for z in next(iter(v.values()))] for k, v in found.items()}
    )


def walked(stages: Stages) -> list[dict[str, Any]]:
    metrics = []
    while stages.status == "going":
        metrics.append(stages.advance())
    return metrics


def test_a_stage_starts_from_what_those_before_found() -> None:
    found = walks()
    metrics = walked(found)
    assert found.parts == len(metrics) == 6
    assert [m["stage"] for m in metrics] == ["a", "a", "b", "b", "b", "c"]
    steps = [torch.Generator().manual_seed(k) for k in range(3)]
    a = sum(torch.randn(3, generator=steps[0]) for _ in range(2))
    b = 2 * (a + torch.randn(3, generator=steps[1]))
    for _ in range(2):
        b = b + 2 * torch.randn(3, generator=steps[1])
    c = a + b + torch.randn(3, generator=steps[2])
    for name, want in (("a", a), ("b", b), ("c", c)):
        np.testing.assert_allclose(found.final()[name], want.numpy(), rtol=1e-5, atol=1e-6)
    assert found.skipped == 3


@pytest.mark.parametrize("left_after", range(1, 7))
def test_stages_that_were_left_go_on_bit_for_bit(left_after: int) -> None:
    whole = walks()
    metrics = walked(whole)
    first, again, file = walks(), walks(), io.BytesIO()
    for _ in range(left_after):
        first.advance()
    first.save(file)
    file.seek(0)
    again.load(file)
    assert again.status == first.status
    assert walked(again) == metrics[left_after:]
    assert again.final() == whole.final()
    assert again.skipped == whole.skipped


def test_a_stage_that_diverges_ends_all() -> None:
    found = walks(fatal=2)
    assert len(walked(found)) == 4
    assert found.status == "diverged"
    assert list(found.final()) == ["a"]


# -- curvature -----------------------------------------------------------------------------------------------


def small() -> tuple[Any, Any]:
    """A net of 43 parameters and its loss on 20 examples, and its parameters as one vector."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
        x, y = torch.randn(20, 4, dtype=torch.float64), torch.randint(0, 3, (20,))
    return model, lambda: torch.nn.functional.cross_entropy(model(x), y)


def dense(model: Any, loss: Any) -> np.ndarray:
    """The Hessian, column by column by double backward."""
    params = list(model.parameters())
    grads = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), params, create_graph=True)])
    rows = [torch.autograd.grad(g, params, retain_graph=True, materialize_grads=True) for g in grads]
    return np.array([torch.cat([p.reshape(-1) for p in row]).numpy() for row in rows])


def test_curvature_is_that_of_the_dense_hessian() -> None:
    model, loss = small()
    values = np.linalg.eigvalsh(dense(model, loss))
    n = values.size
    found = Curvature(top=4, trace=3 * n, probes=60, steps=n, width=0.1).of(loss, model)
    np.testing.assert_allclose(found["eigenvalues"], values[::-1][:4], rtol=1e-3)
    assert found["eigenvalue"] == found["eigenvalues"][0]
    np.testing.assert_allclose(found["trace"], values.sum(), rtol=1e-5)
    np.testing.assert_allclose(found["least"], values[0], rtol=1e-3)
    # shares come from 60 random vectors: five standard errors
    share = np.mean(values < -found["floor"])
    error = 5 * np.sqrt(2 / (n + 2) * share * (1 - share) / 60)
    assert abs(found["negative"] - share) < error + 0.01
    resolved = np.nansum(np.array(found["density"], dtype=float)) * (GRID[1] - GRID[0])
    assert abs(resolved + np.mean(np.abs(values) < 10.0 ** GRID[0]) - 1) < 0.1
    assert Curvature().of(loss, model) == Curvature().of(loss, model)


def test_the_trace_comes_with_its_error() -> None:
    model, loss = small()
    exact = np.trace(dense(model, loss))
    found = [Curvature(trace=12, seed=seed).sharpness(loss, model) for seed in range(15)]
    scores = [(f["trace"] - exact) / f["trace_error"] for f in found]
    assert 0.3 < np.sqrt(np.median(np.square(scores))) < 2


# -- memory --------------------------------------------------------------------------------------------------


def test_bytes_of_a_state_are_those_of_its_arrays() -> None:
    x = torch.zeros(10, dtype=torch.float64)
    state = {
        "a": [x, 3, "text"],
        "b": {"c": (x, torch.zeros(4)), "d": np.zeros(2), "e": torch.zeros(9, dtype=torch.uint8)},
    }
    assert state_bytes(state) == 80 + 16 + 16
    model = torch.nn.Linear(7, 3)
    adam = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 7)).sum().backward()
    adam.step()
    assert state_bytes(adam.state_dict()) == 2 * 24 * 4 + 2 * 4  # both moments, and a counter for W and b
