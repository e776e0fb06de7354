"""The optimisers of `psgd reproduce`: they descend, equal their libraries, and resume bit for bit."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from psgd_analysis.reproduce.optimizers import NAMES, Missing, Steps, about, make  # noqa: E402

MODULES = {
    "torch": "torch",
    "pytorch_optimizer": "pytorch_optimizer",
    "psgd-core": "psgd_core",
    "asdfghjkl": "asdl",
}

RATES: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1},
    "momentum": {"lr": 0.03},
    "adam": {"lr": 0.01},
    "adamw": {"lr": 0.01},
    "lbfgs": {"lr": 0.1, "max_iter": 4},
    "adabelief": {"lr": 0.01},
    "adan": {"lr": 0.01},
    "adahessian": {"lr": 0.05},
    "shampoo": {"lr": 0.05},
    "scalable_shampoo": {  # by itself it leaves layers of less than 512 parameters unpreconditioned
        "lr": 0.03,
        "start_preconditioning_step": 5,
        "preconditioning_compute_steps": 5,
        "shape_interpretation": False,
        "block_size": 8,
    },
    "soap": {"lr": 0.02},
    "muon": {"lr": 0.03, "adamw_lr": 0.02},
    "adabound": {"lr": 0.01},
    "radam": {"lr": 0.05},
    "yogi": {"lr": 0.02},
    "padam": {"lr": 0.1},
    "apollo": {"lr": 0.01, "warmup_steps": 5},
    "kfac": {"lr": 0.1, "damping": 0.1, "clip": 1.0},
}
"""Settings in which 30 steps show something, where those of the library are for longer runs."""
WHITENING = [f"{name}_whitening" for name in NAMES if name.startswith("psgd_")]


def need(name: str) -> None:
    """Skip the test if the optimiser's library is not installed."""
    package = about(name).package
    if find_spec(MODULES[package]) is None:
        pytest.skip(f"{package} is not installed")


def settings_of(name: str) -> dict[str, Any]:
    own = {"lr": 0.01} if name.endswith("_whitening") else {"clip": 1.0} if name.startswith("psgd_") else {}
    return own | RATES.get(name, {})


def mlp() -> Any:
    layers = torch.nn.Linear(4, 12), torch.nn.Tanh(), torch.nn.Linear(12, 8), torch.nn.Tanh()
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, 3))


def conv() -> Any:
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 6, 6)),
        torch.nn.Conv2d(1, 3, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(3, 4, 2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    )


NETS = {"mlp": (mlp, 4), "conv": (conv, 36)}


class Work:
    """A net, with batches of 32 out of 96 examples in three classes; the seed decides on all of it."""

    def __init__(self, net: str, seed: int = 0) -> None:
        made, inputs = NETS[net]
        rng = np.random.default_rng(seed)
        self.labels = torch.tensor(rng.integers(0, 3, 96))
        means = rng.standard_normal((3, inputs))
        x = means[self.labels.numpy()] + rng.standard_normal((96, inputs))
        self.inputs = torch.tensor(x, dtype=torch.float32)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = made()

    def loss(self, batch: int) -> Callable[[], tuple[Any, Any]]:
        rows = slice(32 * (batch % 3), 32 * (batch % 3) + 32)

        def evaluated() -> tuple[Any, Any]:
            z = self.model(self.inputs[rows])
            right = (z.argmax(dim=1) == self.labels[rows]).sum()
            return torch.nn.functional.cross_entropy(z, self.labels[rows]), {"right": right, "outputs": z}

        return evaluated

    def weights(self) -> Any:
        return torch.nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()

    def run(self, steps: Steps, begin: int, end: int) -> list[Any]:
        return [steps.step(self.loss(t))[0] for t in range(begin, end)]


CASES = [(name, net) for name in NAMES for net in NETS] + [(name, "mlp") for name in WHITENING]


@pytest.mark.parametrize(("name", "net"), CASES)
def test_lowers_the_loss(name: str, net: str) -> None:
    need(name)
    ends = []
    for seed in range(3):
        work = Work(net, seed)
        steps = make(name, work.model, settings_of(name), seed)
        # L-BFGS mixes gradients of different batches in its pairs, and need not descend then
        values = [steps.step(work.loss(0 if name == "lbfgs" else t))[0] for t in range(33)]
        ends.append(float(sum(values[-3:]) / sum(values[:3])))
    assert max(ends) < 1, ends
    assert np.median(ends) < 0.9, ends


DIFFERENCES = {"source": "finite_difference", "momentum": 0.9, "update_probability": 0.5, "weight_decay": 0.1}
OTHERWISE = [
    ("psgd_lowrank", "mlp", DIFFERENCES),
    ("psgd_affine", "conv", {"every": 3, "factors": ["dense", "affine"], "scale": 1.0}),
    ("kfac", "conv", {"fisher": "empirical", "every": 5, "momentum": 0.9}),
]


@pytest.mark.parametrize(("name", "net", "more"), [(*case, {}) for case in CASES] + OTHERWISE)
def test_resumes_bit_for_bit(name: str, net: str, more: dict[str, Any]) -> None:
    need(name)
    settings = settings_of(name) | more
    whole, first, second = Work(net), Work(net), Work(net, seed=1)
    steps = make(name, whole.model, settings, 7)
    values = whole.run(steps, 0, 12)
    left = make(name, first.model, settings, 7)
    seen = first.run(left, 0, 7)
    file = io.BytesIO()
    torch.save({"steps": left.state_dict(), "model": first.model.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second.inputs, second.labels = first.inputs, first.labels
    second.model.load_state_dict(saved["model"])
    again = make(name, second.model, settings, 8)
    again.load_state_dict(saved["steps"])
    torch.rand(5)  # what others draw from the common generator changes nothing
    seen += second.run(again, 7, 12)
    assert torch.equal(second.weights(), whole.weights())
    assert torch.equal(torch.stack(seen), torch.stack(values))
    assert (again.gradients, again.products, again.skipped) == (
        steps.gradients,
        steps.products,
        steps.skipped,
    )


@pytest.mark.parametrize("name", [name for name in NAMES if about(name).kind])
def test_equals_the_library_by_hand(name: str) -> None:
    need(name)
    work, twin = Work("conv"), Work("conv")
    settings = settings_of(name)
    steps = make(name, work.model, settings, 7)
    library = torch.optim if about(name).package == "torch" else __import__(about(name).package)
    params: Any = list(twin.model.parameters())
    if name == "muon":  # kernels; and vectors and the head
        hidden = [twin.model[1].weight, twin.model[4].weight]
        rest = [p for p in params if all(p is not h for h in hidden)]
        params = [{"params": hidden, "use_muon": True}, {"params": rest, "use_muon": False}]
    optimizer = getattr(library, about(name).kind)(params, **{**about(name).settings, **settings})
    begun = [group["lr"] for group in optimizer.param_groups]
    torch.manual_seed(7)
    for t in range(12):
        factor = 0.9**t
        steps.rates(begun[0] * factor)
        for group, lr in zip(optimizer.param_groups, begun, strict=True):
            group["lr"] = lr * (begun[0] * factor / begun[0])
        optimizer.param_groups[0]["lr"] = begun[0] * factor

        def closure(t: int = t) -> Any:
            optimizer.zero_grad()
            value = twin.loss(t)()[0]
            value.backward(create_graph=name == "adahessian")
            return value

        if name == "lbfgs":
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        state = torch.get_rng_state()
        steps.step(work.loss(t))
        assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers were drawn
        assert torch.equal(work.weights(), twin.weights())


def test_lowrank_equals_the_adapter_by_hand() -> None:
    import psgd_core
    from psgd_core.adapters.torch import PSGD

    work, twin = Work("mlp"), Work("mlp")
    settings = {"rank": 3, "clip": 0.5, "lr": 0.2, "step": 0.05, "update_probability": 0.5}
    steps = make("psgd_lowrank", work.model, settings, 7)
    optimizer = PSGD(
        twin.model.parameters(),
        psgd_core.LowRank(3),
        lr=0.2,
        step=0.05,
        clip=0.5,
        momentum=0.0,
        update_probability=0.5,
        rng=7,
    )
    for t in range(12):
        steps.rates(0.2 * 0.9**t, 0.05 * 0.9**t)
        optimizer.param_groups[0].update(lr=0.2 * 0.9**t, step=0.05 * 0.9**t)
        optimizer.step(lambda t=t: twin.loss(t)()[0])
        steps.step(work.loss(t))
        assert torch.equal(work.weights(), twin.weights())
    assert 1 <= steps.products < 12


def test_affine_equals_the_adapter_by_hand() -> None:
    import psgd_core
    from psgd_core.adapters.torch import PSGD, Affine

    work, twin = Work("conv"), Work("conv")
    settings = {"factors": ["dense", "affine"], "scale": 2.0, "every": 2, "normalizer": "sample"}
    steps = make("psgd_affine", work.model, {"lr": 0.1, "clip": 1.0, **settings}, 7)
    shapes = [tuple(p.shape) for p in twin.model.parameters() if p.ndim > 1]
    matrices = [(s[0], int(np.prod(s[1:])) + 1) for s in shapes]
    sample = psgd_core.preconditioners.normalizers.Sample()
    parts = [(m * n, Affine((m, n), ("dense", "affine"), normalizer=sample)) for m, n in matrices]
    optimizer = PSGD(
        twin.model.parameters(),
        psgd_core.Blocks(tuple(parts)),
        lr=0.1,
        clip=1.0,
        momentum=0.0,
        scale=2.0,
        every=2,
        rng=7,
    )
    for t in range(12):
        steps.step(work.loss(t))
        optimizer.step(lambda t=t: twin.loss(t)()[0])
        assert torch.equal(work.weights(), twin.weights())
    assert steps.products == 6


def test_settings_of_preconditioners() -> None:
    with pytest.raises(ValueError, match=r"`normalizer` must be one of .*, got 'none'"):
        make("psgd_xmat", mlp(), {"normalizer": "none"}, 0)
    with pytest.raises(ValueError, match=r"at most 5000 parameters for 'psgd_dense', got 5010"):
        make("psgd_dense", torch.nn.Linear(500, 10), {}, 0)
    work = Work("mlp")
    steps = make("psgd_lowrank", work.model, {"rank": 3, "geometry": "natural", "clip": 1.0}, 0)
    values = work.run(steps, 0, 30)
    assert sum(values[-3:]) < sum(values[:3])


@pytest.mark.parametrize("fisher", ["empirical", "mc"])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_kfac_against_a_dense_kronecker_product(kind: str, fisher: str) -> None:
    need("kfac")
    rng = torch.Generator().manual_seed(0)
    convolution = kind == "convolution"
    layer: Any = torch.nn.Conv2d(2, 3, 2, padding=1) if convolution else torch.nn.Linear(5, 3)
    layer = layer.double()
    model = torch.nn.Sequential(layer, torch.nn.Flatten(2)) if convolution else torch.nn.Sequential(layer)
    shape = (8, 2, 3, 3) if convolution else (8, 5)
    inputs = torch.randn(*shape, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, 3, (8,), generator=rng)
    readout = torch.nn.Sequential(model, Mean()) if convolution else model
    steps = make("kfac", readout, {"lr": 0.3, "damping": 0.02, "fisher": fisher}, 7)
    drawing = torch.Generator().manual_seed(7)
    a_mean = b_mean = None
    for k in range(1, 4):
        out = layer(inputs)
        z = out.flatten(2).mean(dim=2) if convolution else out
        drawn = torch.multinomial(z.softmax(1), 1, generator=drawing)[:, 0] if fisher == "mc" else labels
        losses = torch.nn.functional.cross_entropy(z, drawn, reduction="sum")
        (g,) = torch.autograd.grad(losses, out, retain_graph=True)
        value = torch.nn.functional.cross_entropy(z, labels)
        slope, slope_of_bias = torch.autograd.grad(value, [layer.weight, layer.bias])
        if convolution:
            rows = torch.nn.functional.unfold(inputs, 2, padding=1).transpose(1, 2)
            a = torch.einsum("npi,npj->ij", rows, rows) / (8 * rows.shape[1])
            b = torch.einsum("ncxy,ndxy->cd", g, g) / 8
        else:
            a, b = inputs.T @ inputs / 8, g.T @ g / 8
        weight = max(0.05, 1 / k)
        a_mean = a if a_mean is None else (1 - weight) * a_mean + weight * a
        b_mean = b if b_mean is None else (1 - weight) * b_mean + weight * b
        pi = ((a_mean.trace() / len(a)) / (b_mean.trace() / len(b))).sqrt()
        a_damped = a_mean + pi * 0.02**0.5 * torch.eye(len(a))
        b_damped = b_mean + 0.02**0.5 / pi * torch.eye(len(b))
        move = torch.linalg.solve(torch.kron(b_damped, a_damped), slope.flatten())
        before = layer.weight.detach().clone(), layer.bias.detach().clone()
        steps.step(lambda: (torch.nn.functional.cross_entropy(readout(inputs), labels), None))
        torch.testing.assert_close(layer.weight.detach(), before[0] - 0.3 * move.reshape(slope.shape))
        moved = before[1] - 0.3 * torch.linalg.solve(b_damped, slope_of_bias)
        torch.testing.assert_close(layer.bias.detach(), moved)


@pytest.mark.parametrize("name", ["kfac", "hessian_free", "adahessian", "psgd_affine"])
def test_a_convolution_of_inputs_counts_as_any_other(name: str) -> None:
    from psgd_analysis.reproduce.convolution import InputConv2d

    need(name)
    work, twin = Work("conv"), Work("conv")
    for one in (work, twin):
        one.model, one.inputs = one.model.double(), one.inputs.double()
    layer = InputConv2d(1, 3, 3).double()
    layer.load_state_dict(work.model[1].state_dict())
    work.model[1] = layer
    for one in (work, twin):
        one.run(make(name, one.model, settings_of(name), 7), 0, 4)
    torch.testing.assert_close(work.weights(), twin.weights(), rtol=1e-7, atol=1e-8)


class Mean(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x.mean(dim=2)


@pytest.mark.parametrize("fisher", ["empirical", "mc"])
def test_kfac_with_a_dead_layer(fisher: str) -> None:
    need("kfac")
    work = Work("conv")
    with torch.no_grad():
        work.model[4].bias.fill_(-1e3)  # its ReLU is 0 for all inputs
    before = work.weights()
    steps = make("kfac", work.model, {"damping": 0.1, "fisher": fisher}, 0)
    work.run(steps, 0, 3)
    assert torch.isfinite(work.weights()).all()
    assert not torch.equal(work.weights(), before)
    assert steps.skipped == 0


def test_kfac_keeps_its_inverses_where_new_ones_fail(monkeypatch: Any) -> None:
    need("kfac")
    work = Work("mlp")
    steps = make("kfac", work.model, {"damping": 0.1}, 0)
    work.run(steps, 0, 2)
    before, inverses = work.weights(), steps.state_dict()["own"]["factors"]

    def fail(x: Any) -> Any:
        raise torch.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr(torch.linalg, "cholesky", fail)
    work.run(steps, 2, 3)
    after = steps.state_dict()["own"]["factors"]
    for key, (a, b, *kept) in after.items():
        assert not torch.equal(a, inverses[key][0])
        assert not torch.equal(b, inverses[key][1])
        assert all(map(torch.equal, kept, inverses[key][2:]))
    assert steps.skipped == len(after) == 3
    assert not torch.equal(work.weights(), before)


def gauss_newton(work: Work, l2: float) -> tuple[Any, Any]:
    """Return (G, g) of the first batch, from the Jacobian of the outputs; with l2 |x|^2 / 2 in the loss."""
    named = dict(work.model.named_parameters())
    sizes = [p.numel() for p in named.values()]
    inputs, labels = work.inputs[:32], work.labels[:32]

    def outputs(x: Any) -> Any:
        parts = [part.reshape(p.shape) for part, p in zip(x.split(sizes), named.values(), strict=True)]
        return torch.func.functional_call(work.model, dict(zip(named, parts, strict=True)), inputs)

    x = work.weights()
    jacobian, chances = torch.func.jacrev(outputs)(x), outputs(x).softmax(1)
    inner = torch.diag_embed(chances) - chances[:, :, None] * chances[:, None, :]
    g = torch.einsum("nci,nc->i", jacobian, chances - torch.nn.functional.one_hot(labels, 3)) / 32
    matrix = torch.einsum("nci,ncd,ndj->ij", jacobian, inner, jacobian) / 32
    return matrix + l2 * torch.eye(len(x)), g + l2 * x


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_hessian_free_against_a_dense_solve(net: str, l2: float) -> None:
    work = Work(net)
    work.model, work.inputs = work.model.double(), work.inputs.double()

    def loss() -> tuple[Any, Any]:
        value, more = work.loss(0)()
        return value + l2 / 2 * sum((p**2).sum() for p in work.model.parameters()), more

    steps = make("hessian_free", work.model, {"damping": 2.0, "iterations": 500, "tolerance": 0.0}, 0)
    matrix, g = gauss_newton(work, l2)
    d = torch.linalg.solve(matrix + 2.0 * torch.eye(len(g)), -g)
    x, before = work.weights(), float(loss()[0])
    assert float(steps.step(loss)[0].detach()) == before
    torch.testing.assert_close(work.weights() - x, d, rtol=1e-7, atol=1e-9)
    # the damping follows the promise kept
    ratio = (float(loss()[0]) - before) / float(g @ d + d @ matrix @ d / 2)
    factor = 2 / 3 if ratio > 0.75 else 3 / 2 if ratio < 0.25 else 1.0
    assert steps.state_dict()["own"]["damping"] == pytest.approx(2.0 * factor)
    assert steps.gradients == 1
    assert steps.products >= 10


def test_hessian_free_leaves_what_it_cannot_lower() -> None:
    work = Work("mlp")
    steps = make("hessian_free", work.model, {}, 0)
    x, calls = work.weights(), []

    def loss() -> tuple[Any, Any]:
        calls.append(0)
        value, more = work.loss(0)()
        return value + len(calls), more  # worse each time it is asked

    steps.step(loss)
    assert torch.equal(work.weights(), x)
    assert steps.skipped == 1


COUNTS = [
    ("sgd", {}, (12, 0)),
    ("adahessian", {"update_period": 3, "num_samples": 2}, (12, 8)),
    ("kfac", {"every": 4, "fisher": "mc", "damping": 0.1}, (15, 0)),
    ("kfac", {"every": 4, "fisher": "empirical", "damping": 0.1}, (12, 0)),
    ("psgd_lowrank", {"clip": 1.0}, (12, 12)),
    ("psgd_xmat", {"clip": 1.0, "source": "finite_difference"}, (24, 0)),
    ("psgd_diagonal_whitening", {"lr": 0.01}, (12, 0)),
    ("psgd_affine", {"clip": 1.0}, (12, 12)),
    ("psgd_affine_whitening", {"lr": 0.01}, (12, 0)),
]


@pytest.mark.parametrize(("name", "settings", "expected"), COUNTS)
def test_counts(name: str, settings: dict[str, Any], expected: tuple[int, int]) -> None:
    need(name)
    work = Work("mlp")
    steps = make(name, work.model, settings, 0)
    work.run(steps, 0, 12)
    assert (steps.gradients, steps.products, steps.skipped) == (*expected, 0)


@pytest.mark.parametrize("name", ["sgd", "shampoo", "psgd_lowrank", "psgd_affine", "kfac", "hessian_free"])
def test_a_loss_that_is_not_finite_moves_nothing_and_is_counted(name: str) -> None:
    need(name)
    work = Work("mlp")
    steps = make(name, work.model, settings_of(name), 0)
    work.run(steps, 0, 2)
    x = work.weights()
    value, _ = steps.step(lambda: (work.loss(2)()[0] * float("nan"), None))
    assert not torch.isfinite(value)
    assert torch.equal(work.weights(), x)
    assert steps.skipped >= 1
    work.run(steps, 3, 5)
    assert not torch.equal(work.weights(), x)
    assert torch.isfinite(work.weights()).all()


@pytest.mark.parametrize("name", [*NAMES, *WHITENING])
def test_state_is_plain_and_more_has_no_graph(name: str) -> None:
    need(name)
    work = Work("mlp")
    steps = make(name, work.model, settings_of(name), 0)
    for t in range(6):
        value, more = steps.step(work.loss(t))
        assert not value.requires_grad
        assert not more["outputs"].requires_grad
    assert steps.version.split(" ")[0] == about(name).package

    def plain(x: Any) -> bool:
        if isinstance(x, dict):
            return all(isinstance(key, str | int) and plain(value) for key, value in x.items())
        if isinstance(x, list | tuple):
            return all(map(plain, x))
        return x is None or isinstance(x, bool | int | float | str) or type(x) is torch.Tensor

    assert plain(steps.state_dict())


def test_names_are_listed_without_torch() -> None:
    code = "import sys; import psgd_analysis.reproduce.optimizers; print(sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'torch'" not in found
    assert "'jax'" not in found


def test_names_and_settings_that_are_not_known() -> None:
    model = mlp()
    with pytest.raises(ValueError, match=r"`name` must be one of sgd, .*, got 'adm'"):
        make("adm", model, {}, 0)
    with pytest.raises(ValueError, match=r"`settings` of 'sgd' must be among lr, .*, got 'rate'"):
        make("sgd", model, {"rate": 1}, 0)
    with pytest.raises(ValueError, match=r"must be among .*, got 'rank'"):
        make("psgd_xmat", model, {"rank": 1}, 0)
    with pytest.raises(ValueError, match="fits no preconditioner"):
        make("sgd", model, {}, 0).rates(0.1, 0.1)
    adam = make("adam", model, {}, 0)
    with pytest.raises(ValueError, match=r"must be one of 'sgd', got one of 'adam'"):
        make("sgd", model, {}, 0).load_state_dict(adam.state_dict())


def test_a_missing_library_is_named(monkeypatch: Any) -> None:
    import importlib

    def gone(name: str) -> Any:
        if name == "torch":
            return torch
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(Missing, match=r"'adan' needs pytorch_optimizer, which is not installed; pip install"):
        make("adan", mlp(), {}, 0)
