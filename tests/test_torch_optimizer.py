"""The PyTorch optimiser: models it trains, and every step against the core on numbers worked out by hand."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from psgd_core.adapters.torch import PSGD, functions  # noqa: E402
from psgd_core.adapters.torch.engines import Engine  # noqa: E402
from psgd_core.adapters.torch.pairs import toss  # noqa: E402
from psgd_core.curvature import Central, Gaussian, Rademacher, Whitening  # noqa: E402
from psgd_core.descent import clips  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # such as PyTorch's on read-only memory

N = 6
ENGINES = ("torch", "numpy")
PRECONDITIONERS = [psgd.LowRank(rank=2), psgd.XMat(), psgd.Diagonal()]
by_name = {"ids": lambda p: type(p).__name__}


class LSTM(torch.nn.Module):
    """An LSTM that adds up what it is told to."""

    def __init__(self):
        super().__init__()
        self.lstm, self.out = torch.nn.LSTM(2, 8, batch_first=True), torch.nn.Linear(8, 1)

    def forward(self, x):
        return self.out(self.lstm(x)[0][:, -1])[:, 0]


def lenet():
    nn = torch.nn
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(4, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)),
    )


def task(name):
    """Return a model and its loss on synthetic data, a closure without backward."""
    torch.manual_seed(7)
    if name == "lenet":
        x = torch.randn(48, 1, 8, 8)
        y = (x.flatten(1) @ torch.randn(64, 4)).argmax(1)
        model = lenet()
        return model, lambda: torch.nn.functional.cross_entropy(model(x), y)
    x = torch.rand(64, 8, 2)
    x[:, :, 1] = (x[:, :, 1] < 0.3).float()
    model = LSTM()
    return model, lambda: torch.nn.functional.mse_loss(model(x), (x[:, :, 0] * x[:, :, 1]).sum(1))


def quadratic(rng, n=N, dtype=torch.float64):
    """Return a symmetric indefinite H, and a parameter."""
    h = rng.standard_normal((n, n))
    return torch.tensor(h + h.T, dtype=dtype), torch.nn.Parameter(
        torch.tensor(rng.standard_normal(n), dtype=dtype)
    )


def vector(params):
    return torch.cat([p.detach().reshape(-1) for p in params]).to(torch.float64).numpy()


# -- models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lenet", "lstm"])
@pytest.mark.parametrize("p", [psgd.LowRank(rank=10), psgd.XMat(), psgd.Diagonal()], **by_name)
def test_models_train(p, name):
    model, loss = task(name)
    optimizer = PSGD(model.parameters(), p, lr=0.2)
    start = loss().item()
    for _ in range(60):
        returned = optimizer.step(loss)
    assert loss().item() < start / 2
    assert not returned.requires_grad
    assert all(torch.isfinite(q).all() and q.grad is None for q in model.parameters())


@pytest.mark.parametrize(
    ("p", "curvature"), [(None, "hvp"), (psgd.XMat(), "whitening")], ids=["hvp", "white"]
)
def test_models_train_with_the_default_settings(p, curvature):
    model, loss = task("lenet")
    optimizer, start = PSGD(model.parameters(), p, curvature=curvature), loss().item()
    for _ in range(100):
        optimizer.step(loss)
    assert loss().item() < start / 2


@pytest.mark.parametrize(
    "curvature", ["finite_difference", Central(), "whitening", Whitening(of_momentum=True)]
)
def test_models_train_without_second_derivatives(curvature):
    model, loss = task("lenet")
    optimizer = PSGD(
        model.parameters(),
        lr=0.03 if "hiten" in str(curvature) else 0.2,
        curvature=curvature,
        probes=Gaussian(2),
    )
    start = loss().item()
    for _ in range(60):
        optimizer.step(loss)
    assert loss().item() < start / 2


@pytest.mark.parametrize("curvature", ["hvp", "whitening"])
def test_bfloat16_models_train(curvature):
    model, loss = task("lenet")
    start, model = loss().item(), model.to(torch.bfloat16)
    optimizer = PSGD(model.parameters(), lr=0.2 if curvature == "hvp" else 0.03, curvature=curvature)
    data = dict(zip(loss.__code__.co_freevars, (c.cell_contents for c in loss.__closure__), strict=True))

    def half():
        return torch.nn.functional.cross_entropy(model(data["x"].to(torch.bfloat16)).float(), data["y"])

    for _ in range(60):
        optimizer.step(half)
    assert half().item() < start / 2
    held = optimizer.group_state().preconditioner
    assert held.d.dtype == np.float32
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())


# -- one step against numbers worked out by hand ---------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("p", PRECONDITIONERS, **by_name)
def test_a_step_is_the_cores_with_exact_products(p, engine, rng):
    h, x = quadratic(rng)
    v, start = rng.standard_normal((N, 2)), x.detach().numpy().copy()
    optimizer = PSGD([x], p, lr=0.1, step=0.3, momentum=0, clip=None, engine=engine)
    loss = optimizer.step(lambda: 0.5 * x @ h @ x, v=v)
    fitted = p.update(p.init(N, like=start), v, h.numpy() @ v, 0.3)
    expected = start - 0.1 * p.precondition(fitted, h.numpy() @ start)
    np.testing.assert_allclose(vector([x]), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(loss.item(), 0.5 * start @ h.numpy() @ start, rtol=1e-12)


@pytest.mark.parametrize("p", PRECONDITIONERS, **by_name)
def test_engines_follow_the_same_trajectory(p, rng):
    """Rosenbrock with noise in the gradient, 200 steps, on probes and noise drawn once with NumPy."""
    probes, noise = rng.standard_normal((200, N)), 1e-3 * rng.standard_normal((200, N))

    def run(engine):
        x = torch.nn.Parameter(torch.tensor([-1.0, 1.0] * (N // 2), dtype=torch.float64))
        optimizer = PSGD([x], p, lr=0.1, momentum=0.5, engine=engine)
        path = []
        for v, e in zip(probes, torch.from_numpy(noise), strict=True):
            optimizer.step(
                lambda e=e: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum() + e @ x, v=v
            )
            path.append(vector([x]))
        return np.stack(path)

    x, state = np.array([-1.0, 1.0] * (N // 2)), None
    from scipy.optimize import rosen_der, rosen_hess_prod

    loop = psgd.PSGD(preconditioner=p, lr=0.1, step_size=0.1, momentum=0.5, clip=clips.AdaptiveNorm())
    state, path = loop.init(x), []
    for v, e in zip(probes, noise, strict=True):
        x, state = loop.update(state, x, rosen_der(x) + e, pair=(v, rosen_hess_prod(x, v)))
        path.append(x)
    assert np.abs(path[-1] - path[0]).max() > 0.1
    for engine in ENGINES:
        np.testing.assert_allclose(run(engine), np.stack(path), rtol=0, atol=1e-6)


@pytest.mark.parametrize("curvature", ["finite_difference", Central()], ids=str)
def test_differences_give_the_pairs_that_products_do(curvature, rng):
    """With dropout: all evaluations of one step must drop the same, and put everything back."""
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    )
    model.to(torch.float64)
    x, initial = torch.from_numpy(rng.standard_normal((20, 4))), vector(model.parameters())
    ends, random = [], []
    for source in ("hvp", curvature):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(initial.copy()), model.parameters())
        torch.manual_seed(3)
        optimizer = PSGD(model.parameters(), psgd.XMat(), curvature=source, lr=0.1)
        for _ in range(5):
            optimizer.step(lambda: (model(x) ** 2).mean() + sum((p**4).sum() for p in model.parameters()))
        ends.append(vector(model.parameters()))
        random.append(torch.get_rng_state())
    assert np.abs(ends[0] - initial).max() > 1e-2
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-5)
    assert torch.equal(*random)


def test_differences_put_the_parameters_back_when_the_closure_fails():
    x, calls = torch.nn.Parameter(torch.randn(N)), []

    def fails():
        calls.append(0)
        if len(calls) == 2:
            raise KeyError("no such sample")
        return (x**4).sum()

    before = x.detach().clone()
    with pytest.raises(KeyError, match="no such sample"):
        PSGD([x], psgd.Diagonal(), curvature="finite_difference").step(fails)
    assert torch.equal(x, before)


@pytest.mark.parametrize("curvature", ["whitening", "finite_difference"])
def test_closures_may_call_backward(curvature):
    ends = []
    for backward in (False, True):
        model, loss = task("lenet")
        optimizer = PSGD(model.parameters(), psgd.XMat(), curvature=curvature)

        def closure(optimizer=optimizer, loss=loss, backward=backward):
            optimizer.zero_grad()
            value = loss()
            if backward:
                value.backward()
            return value

        for _ in range(3):
            optimizer.step(closure)
        ends.append(vector(model.parameters()))
    np.testing.assert_array_equal(*ends)


def test_the_ordinary_flow_and_pairs_handed_in():
    """loss.backward() and step() whitens; gradients and products taken by hand do what the closure does."""
    ends = []
    for way in ("closure", "backward", "hvp closure", "hvp by hand"):
        model, loss = task("lenet")
        params = list(model.parameters())
        optimizer = PSGD(params, psgd.XMat(), curvature="hvp" if "hvp" in way else "whitening", lr=0.05)
        for _ in range(3):
            if "closure" in way:
                optimizer.step(loss)
            elif way == "backward":
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()
            else:
                grads = torch.autograd.grad(loss(), params, create_graph=True)
                v = optimizer.probe()
                h = torch.autograd.grad(grads, params, v)
                for p, g in zip(params, grads, strict=True):
                    p.grad = g.detach()
                optimizer.step(v=v, h=h)
        ends.append(vector(params))
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6)
    np.testing.assert_allclose(ends[3], ends[2], rtol=1e-6)
    assert np.abs(ends[2] - ends[0]).max() > 1e-3


def test_trust_radius_takes_back_steps_that_raise_the_loss(rng):
    """Twice Newton's steps in Rosenbrock's valley, which overshoot; the losses of steps kept never rise."""
    x = torch.nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    optimizer = PSGD([x], psgd.Dense(), lr=2.0, step=0.9, momentum=0, clip=clips.TrustRadius())
    best = np.inf
    for _ in range(200):
        optimizer.step(lambda: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2)
        value = float(optimizer.group_state().value)
        assert value <= best * (1 + 1e-12)
        best = value
    assert best < 1e-4
    assert int(optimizer.group_state().clip.rejected) > 0


# -- groups --------------------------------------------------------------------------------------------


def test_each_group_has_its_settings_and_sees_its_part_of_the_pair(rng):
    h, _ = quadratic(rng, 7)
    a, b = (torch.nn.Parameter(torch.tensor(rng.standard_normal(k))) for k in ((2, 2), 3))
    v, start = rng.standard_normal(7), vector([a, b])
    optimizer = PSGD(
        [{"params": [a], "lr": 0.5}, {"params": [b], "preconditioner": psgd.Diagonal(), "weight_decay": 0.1}],
        psgd.XMat(),
        **{"lr": 0.2, "momentum": 0, "clip": None, "step": 0.3},
    )

    def loss():
        x = torch.cat([a.reshape(-1), b])
        return 0.5 * x @ h @ x

    optimizer.step(loss, v=v)
    g, hv = h.numpy() @ start, h.numpy() @ v
    for p, part, lr, decay, x in (
        (psgd.XMat(), slice(0, 4), 0.5, 0, a),
        (psgd.Diagonal(), slice(4, 7), 0.2, 0.1, b),
    ):
        fitted = p.update(p.init(part.stop - part.start, like=start), v[part], hv[part], 0.3)
        expected = start[part] - lr * (p.precondition(fitted, g[part]) + decay * start[part])
        np.testing.assert_allclose(vector([x]), expected, rtol=1e-10)


def test_a_group_added_later_starts_fitting_at_once(rng):
    a, b = (torch.nn.Parameter(torch.randn(4)) for _ in range(2))
    optimizer = PSGD([a], psgd.Diagonal(), update_probability=1e-9)
    optimizer.step(lambda: torch.sum(a**2))
    assert not optimizer.due()
    optimizer.add_param_group({"params": [b]})
    assert optimizer.due()
    optimizer.step(lambda: (a**2).sum() + 100 * (b**2).sum())
    assert [int(optimizer.group_state(i).preconditioner.count) for i in range(2)] == [2, 1]
    assert not optimizer.due()


def test_parameters_without_gradient_stay_and_have_no_part_in_fitting(rng):
    drawn = rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), rng.uniform(0.5, 2.0, (3, 2))
    used, unused, frozen = (torch.nn.Parameter(torch.tensor(x, dtype=torch.float32)) for x in drawn)
    frozen.requires_grad_(False)
    before = [p.detach().clone() for p in (unused, frozen)]
    optimizer = PSGD([used, unused, frozen], psgd.Diagonal(), weight_decay=0.1)
    with pytest.warns(UserWarning, match=r"No gradient reaches 1 of 3 parameters: number 1 of group 0"):
        optimizer.step(lambda: torch.sum((used * frozen) ** 2))
    for _ in range(29):  # and says no more
        optimizer.step(lambda: torch.sum((used * frozen) ** 2))
    assert torch.equal(unused, before[0])
    assert torch.equal(frozen, before[1])
    q = optimizer.group_state().preconditioner.q.blocks[0][0, 0]
    assert np.all(q[6:] == q[6])  # the automatic scale, and nothing since
    assert len(np.unique(q[:6])) > 1
    assert (used**2).sum() < 0.1 * (before[0].numel())


def test_schedulers_set_the_length_of_a_step():
    """A constant gradient and a fixed P: steps are lr times one direction."""
    x = torch.nn.Parameter(torch.zeros(N, dtype=torch.float64))
    g = torch.arange(1.0, N + 1, dtype=torch.float64)
    optimizer = PSGD(
        [x], psgd.Diagonal(), lr=0.8, clip=None, momentum=0, curvature="whitening", update_probability=1e-9
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    moves = []
    for _ in range(4):
        before = x.detach().clone()
        optimizer.step(lambda: g @ x)
        scheduler.step()
        moves.append((before - x.detach()).numpy())
    for i in range(4):
        np.testing.assert_allclose(moves[i], moves[0] * 0.5**i, rtol=1e-12)
    assert np.all(moves[0] != 0)


def test_one_cycle_changes_the_momentum_too(rng):
    h, x = quadratic(rng)
    optimizer = PSGD([x], psgd.XMat(), momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=40)
    start = 0.5 * (h @ x).square().sum().item()
    for _ in range(40):
        optimizer.step(lambda: 0.5 * (h @ x).square().sum())
        scheduler.step()
    assert optimizer.param_groups[0]["momentum"] > 0.85
    assert 0.5 * (h @ x).square().sum().item() < 0.05 * start


def test_momentum_may_begin_and_end_in_mid_run(rng):
    h, x = quadratic(rng)
    optimizer = PSGD([x], psgd.XMat(), momentum=0)
    for momentum in (0, 0.5, 0, 0.5):
        optimizer.param_groups[0]["momentum"] = momentum
        optimizer.step(lambda: 0.5 * (h @ x).square().sum())
    assert torch.isfinite(x).all()


def test_schedules_set_the_step_of_the_fitting(rng):
    """The same as setting the group's number by hand."""
    schedule, ends = psgd.schedules.Exponential(0.9, 0.1, over=10), []
    h, x = quadratic(rng)
    start = x.detach().clone()
    for by_hand in (False, True):
        x.data.copy_(start)
        optimizer = PSGD([x], psgd.XMat(), step=0.5 if by_hand else schedule)
        for t in range(10):
            if by_hand:
                optimizer.param_groups[0]["step"] = float(schedule(t))
            optimizer.step(lambda: 0.5 * (h @ x).square().sum())
        ends.append(vector([x]))
    np.testing.assert_array_equal(*ends)


# -- dtypes --------------------------------------------------------------------------------------------


def test_bfloat16_parameters_are_a_float32_run_rounded():
    """On a constant gradient, with steps far below the resolution of bfloat16."""
    g, ends = torch.tensor([1.0, -2.0, 0.5, 4.0]), {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.nn.Parameter(torch.ones(4, dtype=dtype))
        optimizer = PSGD([x], psgd.Diagonal(), lr=1e-4, curvature="whitening")
        for _ in range(150):
            optimizer.step(lambda x=x, dtype=dtype: torch.sum(g.to(dtype) * x))
        ends[dtype] = x.detach()
    assert torch.equal(ends[torch.bfloat16], ends[torch.float32].to(torch.bfloat16))
    assert torch.all(ends[torch.bfloat16] != 1)
    x.data.fill_(3.0)  # somebody else's change is taken over
    optimizer.step(lambda: torch.sum(g.to(torch.bfloat16) * x))
    assert torch.all((x - 3).abs() < 0.1)


def test_dtypes_may_be_mixed_and_the_widest_holds_the_state():
    a, b = (
        torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)),
        torch.nn.Parameter(torch.ones(2, 2).double()),
    )
    c = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    optimizer = PSGD([{"params": [a, b]}, {"params": [c]}], psgd.XMat(), lr=0.2)
    for _ in range(30):
        optimizer.step(lambda: (a.double() ** 2).sum() + (b**2).sum() + (c.double() ** 2).sum())
    assert [p.dtype for p in (a, b, c)] == [torch.bfloat16, torch.float64, torch.float16]
    assert [optimizer.group_state(i).momentum.dtype for i in range(2)] == [np.float64, np.float32]
    assert all(p.abs().max() < 0.5 for p in (a, b, c))


def test_layouts_and_index_arrays_on_every_engine():
    """Transposed memory, 0-d and empty parameters; a group with index arrays; more probes than one."""
    ends = []
    for engine in ENGINES:
        torch.manual_seed(0)
        a, b = (
            torch.nn.Parameter(torch.randn(3, 2).T.double()),
            torch.nn.Parameter(torch.tensor(2.0).double()),
        )
        empty, c = torch.nn.Parameter(torch.zeros(0).double()), torch.nn.Parameter(torch.randn(5).double())
        assert not a.is_contiguous()
        p = psgd.Sparse(psgd.PermutationSubgroup.klein(12))
        optimizer = PSGD([a, b, empty, c], p, engine=engine, probes=Rademacher(2))
        for _ in range(5):
            optimizer.step(lambda a=a, b=b, c=c: (a**2).sum() + (b * c).pow(2).sum())
        ends.append(vector([a, b, c]))
    np.testing.assert_allclose(*ends, rtol=1e-9)


def test_the_numpy_engine_shares_memory():
    engine = Engine("numpy", torch.device("cpu"), None)
    t, x = torch.randn(5), np.arange(4.0)
    assert engine.inward(t).ctypes.data == t.data_ptr()
    assert engine.outward(x).data_ptr() == x.ctypes.data


def test_what_is_not_finite_moves_nothing():
    x = torch.nn.Parameter(torch.ones(4))
    optimizer = PSGD([x], psgd.Diagonal(), weight_decay=0.1)
    optimizer.step(lambda: torch.sum(x * x * float("nan")))
    assert torch.all(x == 1)
    state = optimizer.group_state()
    assert (int(state.skipped), int(state.preconditioner.skipped)) == (1, 1)
    optimizer.step(lambda: torch.sum(x**2))
    assert torch.all(x < 1)


# -- randomness, memory, functions ---------------------------------------------------------------------------


def test_seeds_and_generators_decide_the_probes():
    def run(rng):
        torch.manual_seed(0)
        x = torch.nn.Parameter(torch.randn(8))
        optimizer = PSGD([x], psgd.XMat(), rng=rng, update_probability=0.5)
        due = []
        for _ in range(12):
            due.append(optimizer.due())
            assert optimizer.due() == due[-1]  # asking changes nothing
            optimizer.step(lambda: torch.sum(x**4))
        return [*vector([x]), *due]

    assert run(1) == run(1) == run(torch.Generator().manual_seed(1))
    assert run(1) != run(2)
    assert 1 < sum(run(1)[-12:]) < 12


def test_no_graph_outlives_a_step():
    """Whatever a graph saved is gone when a step returns, without the help of the garbage collector."""
    saved = weakref.WeakSet()

    class Box:
        def __init__(self, tensor):
            self.tensor = tensor.detach()  # or the hook itself would make a circle of node and output
            saved.add(self)

    model, x = LSTM(), torch.rand(4, 3, 2)
    optimizer, counts = PSGD(model.parameters(), psgd.XMat()), []

    def loss():
        return torch.nn.functional.mse_loss(model(x), x.sum((1, 2)))

    gc.collect()
    gc.disable()
    try:
        with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.tensor):
            for step in range(300):
                if step < 3:
                    seen = []
                    optimizer.step(lambda seen=seen: (loss(), seen.append(len(saved)))[0])
                    assert seen[0] > 10
                else:
                    optimizer.step(loss)
                assert len(saved) == 0
                if step in (99, 299):
                    gc.enable()
                    gc.collect()
                    counts.append(sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects()))
                    gc.disable()
    finally:
        gc.enable()
    assert len(set(counts)) == 1
    assert all(p.grad is None for p in model.parameters())


def test_functions_of_a_vector():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()
    data = torch.randn(30, 2).double()
    f = functions(lambda: torch.nn.functional.mse_loss(model(data), data[:, :1] ** 2), model)
    names = [name for name, _ in model.named_parameters()]

    def direct(x):
        parts = torch.split(x, [p.numel() for p in model.parameters()])
        named = {k: a.reshape(p.shape) for k, a, p in zip(names, parts, model.parameters(), strict=True)}
        return ((torch.func.functional_call(model, named, (data,)) - data[:, :1] ** 2) ** 2).mean()

    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    x = torch.randn_like(before)
    v = torch.randn(len(x), 3).double()
    hessian = torch.autograd.functional.hessian(direct, x)
    torch.testing.assert_close(f.value(x), direct(x))
    torch.testing.assert_close(f.gradient(x), torch.autograd.functional.jacobian(direct, x))
    torch.testing.assert_close(f.hvp(x, v), hessian @ v)
    torch.testing.assert_close(f.hvp(x, v[:, 0]), hessian @ v[:, 0])
    assert torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()), before)
    result = psgd.minimize(f.both, before, jac=True, hvp=f.hvp, maxiter=300, tol=1e-4)
    assert result.fun < 0.1 * float(f.value(before))


def test_torch_is_imported_when_asked_for_and_its_absence_is_said():
    code = (
        "import sys, psgd_core; assert 'torch' not in sys.modules\n"
        "sys.modules['torch'] = None\n"
        "try:\n    import psgd_core.adapters.torch\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PyTorch is not installed; pip install torch"


def test_the_coin_is_fair_and_each_seed_tosses_its_own():
    tosses = np.array([[toss(seed, i) for i in range(2000)] for seed in (0, 1, 2**63 + 5)])
    assert np.all((tosses >= 0) & (tosses < 1))
    spread = np.sqrt(0.1 * 0.9 / tosses.size)
    assert abs(np.mean(tosses < 0.1) - 0.1) < 4 * spread
    together = np.corrcoef(np.concatenate([tosses, np.roll(tosses, 1, axis=1)]) < 0.1)
    assert np.max(np.abs(together - np.eye(6))) < 4 / np.sqrt(2000)
