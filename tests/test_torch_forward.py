"""Products by forward-over-reverse differentiation are those of the Hessian, or an error says why not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import psgd_core as psgd  # noqa: E402
from psgd_core.adapters.torch import PSGD  # noqa: E402
from psgd_core.adapters.torch.autograd import evaluate  # noqa: E402

checkpoint = torch.utils.checkpoint.checkpoint
F = torch.nn.functional
FORWARD = "forward_over_reverse"


def mlp() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def convolutional() -> Any:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.BatchNorm2d(2),
        torch.nn.GELU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(8, 2),
    )


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 3)
        self.cell = torch.nn.GRUCell(3, 3)
        self.scale = torch.nn.LayerNorm(3)

    def forward(self, x: Any) -> Any:
        state = x.new_zeros(x.shape[0], 3, dtype=torch.float64)
        for column in x.unbind(1):
            state = self.cell(self.embedding(column), state)
        return self.scale(state)


def tied() -> Any:
    first, last = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    last.weight = first.weight
    return torch.nn.Sequential(first, torch.nn.Sigmoid(), last)


MODELS = {
    "mlp": (mlp, lambda: torch.randn(7, 3)),
    "convolutional": (convolutional, lambda: torch.randn(4, 1, 6, 6)),
    "recurrent": (Recurrent, lambda: torch.randint(5, (6, 4))),
    "tied": (tied, lambda: torch.randn(5, 3)),
}


def made(name: str, dtype: Any = torch.float64) -> tuple[Any, Any]:
    """Return a model and its loss."""
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    model, x = build().to(dtype), inputs()
    x = x.to(dtype) if x.is_floating_point() else x
    target = torch.randn_like(model(x)).detach()
    return model, lambda: (model(x) - target).square().mean()


def quartic(p: Any) -> Any:
    """Return a loss of one parameter."""

    def loss() -> Any:
        return (p**4).sum()

    return loss


def probes(params: list[Any], seed: int = 1) -> list[Any]:
    torch.manual_seed(seed)
    return [torch.randn_like(p) for p in params]


@pytest.mark.parametrize("name", MODELS)
def test_the_product_is_the_difference_of_gradients(name: str) -> None:
    model, loss = made(name)
    params = list(model.parameters())
    v, looked = probes(params), set()

    def gradient(delta: float) -> list[Any]:
        with torch.no_grad():
            for p, t in zip(params, v, strict=True):
                p.add_(t, alpha=delta)
        torch.manual_seed(3)
        found = torch.autograd.grad(loss(), params)
        with torch.no_grad():
            for p, t in zip(params, v, strict=True):
                p.sub_(t, alpha=delta)
        return list(found)

    ahead, behind = gradient(1e-5), gradient(-1e-5)
    for _ in range(2):  # the first is compared with double backward, later ones are not
        torch.manual_seed(3)
        found = evaluate(loss, params, [v], once=True, forward=True, looked=looked)
        for h, a, b, g in zip(found.products[0], ahead, behind, found.grads, strict=True):
            torch.testing.assert_close(h, (a - b) / 2e-5, rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(g, (a + b) / 2, rtol=1e-6, atol=1e-8)
            assert not any(t.requires_grad for t in (g, h))


@pytest.mark.parametrize("name", MODELS)
def test_steps_are_those_of_double_backward(name: str) -> None:
    found = []
    for curvature in ("hvp", FORWARD):
        model, loss = made(name)
        optimizer = PSGD(model.parameters(), psgd.LowRank(2), curvature=curvature)
        torch.manual_seed(5)
        for _ in range(12):
            optimizer.step(loss)
        found.append([*model.parameters(), *model.buffers()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_closures_are_called_once_and_nothing_stays_behind() -> None:
    model, loss = made("mlp", torch.float32)
    calls = 0

    def closure() -> Any:
        nonlocal calls
        calls += 1
        return loss()

    optimizer = PSGD(model.parameters(), psgd.Diagonal(), curvature=FORWARD)
    for step in range(1, 4):
        optimizer.step(closure)
        assert calls == step
    with torch.autograd.forward_ad.dual_level():
        unpacked = torch.autograd.forward_ad.unpack_dual
        assert all(unpacked(p).tangent is None for p in model.parameters())
    assert all(p.grad is None and p.is_leaf and p.requires_grad for p in model.parameters())


def test_a_graph_made_before_the_step_has_no_tangents() -> None:
    model, loss = made("mlp")
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = PSGD(model.parameters(), psgd.Diagonal(), curvature=FORWARD)
    value = loss()
    with pytest.raises(RuntimeError, match=r"must be those of 'hvp'.*before the closure is called"):
        optimizer.step(lambda: value)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_targets_computed_without_gradients_are_noticed_before_anything_changes() -> None:
    model, _ = made("mlp")
    x = torch.randn(6, 3, dtype=torch.float64)
    optimizer = PSGD(model.parameters(), psgd.Diagonal(), curvature=FORWARD)
    before = [p.detach().clone() for p in model.parameters()]

    def bootstrapped() -> Any:
        with torch.no_grad():
            target = 0.9 * model(x + 1.0)
        return F.smooth_l1_loss(model(x), target)

    with pytest.raises(RuntimeError, match=r"must be those of 'hvp'.*no_grad"):
        optimizer.step(bootstrapped)
    with pytest.raises(RuntimeError, match=r"must be those of 'hvp'"):  # trying again changes nothing
        optimizer.step(bootstrapped)
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)
    assert optimizer.group_state() is None

    def detached() -> Any:  # stops tangents as well
        return F.smooth_l1_loss(model(x), (0.9 * model(x + 1.0)).detach())

    optimizer.step(detached)
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad * ctx.saved_tensors[0].cos()


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(x: Any) -> Any:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad * ctx.saved_tensors[0].cos()

    @staticmethod
    def jvp(ctx: Any, tangent: Any) -> Any:
        return 2.0 * tangent


def attention(x: Any) -> Any:
    return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Sine.apply, "forward derivatives.*an operation has none.*jvp.*'hvp'"),
        (Wrong.apply, "must be those of 'hvp'"),
        (lambda x: F.mse_loss(x, torch.zeros_like(x)), r"mse_loss has none.*square\(\)\.mean\(\)"),
        (F.silu, "an operation has none.*silu_backward"),
        (lambda x: torch.linalg.slogdet(x[..., :4, :])[1].sin(), "must be those of 'hvp'.*det and solve"),
        (lambda x: checkpoint(torch.sin, x, use_reentrant=False), "torch.utils.checkpoint has none"),
        (attention, r"fused attention has none.*SDPBackend\.MATH"),
    ],
)
def test_operations_without_the_right_forward_derivative_are_refused(operation: Any, message: str) -> None:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(1, 2, 5, 4))
    x, before = torch.randn(1, 2, 5, 4), p.detach().clone()
    optimizer = PSGD([p], psgd.Diagonal(), curvature=FORWARD)

    def loss() -> Any:
        return (operation(p * x) ** 2).sum()

    with pytest.raises(RuntimeError, match=message):
        optimizer.step(loss)
    assert torch.equal(p, before)
    assert not optimizer.state

    # nothing is left open: another loss goes through
    optimizer.step(quartic(p))
    assert not torch.equal(p, before)


def test_attention_is_differentiated_by_its_formula() -> None:
    torch.manual_seed(0)
    p, x = torch.nn.Parameter(torch.randn(1, 2, 5, 4)), torch.randn(1, 2, 5, 4)
    start, found = p.detach().clone(), []
    for curvature in ("hvp", FORWARD):
        p.data.copy_(start)
        optimizer = PSGD([p], psgd.Diagonal(), curvature=curvature)

        def loss() -> Any:
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                return attention(p * x).square().sum()

        for _ in range(3):
            optimizer.step(loss)
        found.append(p.detach().clone())
    torch.testing.assert_close(*found)


def test_errors_of_the_closure_come_out_as_they_are() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = PSGD([p], psgd.Diagonal(), curvature=FORWARD)

    class Unfinished(torch.nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="missing the required"):
        optimizer.step(lambda: Unfinished()(p).sum())
    with pytest.raises(KeyError, match="nothing here"):
        optimizer.step(lambda: {}["nothing here"])
    with torch.autograd.forward_ad.dual_level():  # a level left open would refuse another
        pass


def test_hooks_change_gradients_but_not_products() -> None:
    found = []
    for curvature in ("hvp", FORWARD):
        model, loss = made("mlp")
        for p in model.parameters():
            p.register_hook(lambda g: 0.5 * g)
        optimizer = PSGD(model.parameters(), psgd.XMat(), curvature=curvature)
        for _ in range(5):
            optimizer.step(loss)
        found.append(list(model.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_and_unused_parameters_and_linear_losses() -> None:
    torch.manual_seed(0)
    used, linear, frozen, unused = (torch.nn.Parameter(torch.randn(3)) for _ in range(4))
    frozen.requires_grad_(False)
    found = []
    for curvature in ("hvp", FORWARD):
        params = [copy.deepcopy(p) for p in (used, linear, frozen, unused)]
        a, b, c, _ = params
        optimizer = PSGD(params, psgd.Diagonal(), curvature=curvature)

        def loss(a: Any = a, b: Any = b, c: Any = c) -> Any:
            return (a**4 * c**2).sum() + b.sum()

        with pytest.warns(UserWarning, match="No gradient reaches 1 of 4"):
            optimizer.step(loss)
        for _ in range(3):
            optimizer.step(loss)
        found.append(params)
    for p, q in zip(*found, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(dtype: Any) -> None:
    def run(steps: list[int]) -> list[Any]:
        model, loss = made("mlp", dtype)
        torch.manual_seed(2)
        optimizer = PSGD(model.parameters(), psgd.LowRank(2), curvature=FORWARD)
        for count in steps:
            state = optimizer.state_dict()
            optimizer = PSGD(model.parameters(), psgd.LowRank(2), curvature=FORWARD)
            optimizer.load_state_dict(state)
            for _ in range(count):
                optimizer.step(loss)
        return list(model.parameters())

    for a, b in zip(run([8]), run([3, 4, 1]), strict=True):
        assert torch.equal(a, b)


def test_what_is_not_finite_is_not_taken_for_the_comparison() -> None:
    p, calls = torch.nn.Parameter(torch.ones(3)), 0

    def loss() -> Any:
        nonlocal calls
        calls += 1
        with torch.no_grad():
            target = p * 0.5
        return ((p - target) ** 4).sum() * (float("nan") if calls == 1 else 1.0)

    optimizer = PSGD([p], psgd.Diagonal(), curvature=FORWARD)
    optimizer.step(loss)  # skipped
    with pytest.raises(RuntimeError, match="must be those of 'hvp'"):
        optimizer.step(loss)
    assert torch.equal(p, torch.ones(3))


def test_another_forward_differentiation_around_the_step_is_refused() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = PSGD([p], psgd.Diagonal(), curvature=FORWARD)
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(RuntimeError, match=r"must be the only forward differentiation.*'hvp'"),
    ):
        optimizer.step(quartic(p))


def test_several_vectors_are_refused() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = PSGD([p], psgd.Diagonal(), curvature=FORWARD)
    with pytest.raises(ValueError, match=r"`v` must be one probe .* got 2"):
        optimizer.step(quartic(p), v=torch.ones(3, 2))
    optimizer.step(quartic(p), v=torch.ones(3, 1))


def test_several_probes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`probes` must have k = 1 .*Gaussian\(k=2\).*'hvp'"):
        PSGD([torch.nn.Parameter(torch.ones(2))], curvature=FORWARD, probes=psgd.curvature.Gaussian(2))
