"""What stands between a loss and its second derivatives: hooks, and backwards that cut the graph."""

from __future__ import annotations

import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.autograd.function import once_differentiable  # noqa: E402

from psgd_core.adapters.torch import PSGD, functions  # noqa: E402

nn = torch.nn
START = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64)
V = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
C = torch.tensor([1.0, 3.0, 0.5, 2.0], dtype=torch.float64)


def quartic(w):
    return (C * w**4).sum() / 12 + w.prod()


def exact():
    """The gradient and H V, by PyTorch's own functions."""
    gradient = torch.autograd.functional.jacobian(quartic, START)
    return gradient, torch.autograd.functional.hvp(quartic, START, V)[1]


# -- hooks ---------------------------------------------------------------------------------------------

HOOKS = {
    "scaled": lambda g: 2 * g,
    "clipped": lambda g: g.clamp(-0.1, 0.1),
    "masked": lambda g: g * (C > 1),
    "in NumPy": lambda g: torch.from_numpy(g.numpy() / 3),
    "looked at": lambda g: None,
}


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_hooks_change_gradients_and_no_products(hook):
    w = nn.Parameter(START.clone())
    w.register_hook(hook)
    w.register_hook(lambda g: -g)  # after the first
    gradient, product = exact()
    f = functions(lambda: quartic(w), [w])
    changed = hook(gradient)
    expected = -(gradient if changed is None else changed)
    torch.testing.assert_close(f.gradient(START), expected)
    torch.testing.assert_close(f.hvp(START, V), product)
    torch.testing.assert_close(
        f.hvp(START, torch.stack([V, 2 * V], 1)), torch.stack([product, 2 * product], 1)
    )


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_a_step_moves_by_what_hooks_leave(hook):
    hooked, plain = nn.Parameter(START.clone()), nn.Parameter(START.clone())
    hooked.register_hook(hook)
    pair = [PSGD([p], psgd.Dense(), lr=0.1, momentum=0.0, clip=None) for p in (hooked, plain)]
    pair[0].step(lambda: quartic(hooked))
    pair[1].step(lambda: quartic(plain))
    held = pair[1].group_state()
    p = torch.from_numpy(pair[1].param_groups[0]["preconditioner"].matrix(held.preconditioner))
    gradient, _ = exact()
    changed = hook(gradient)
    torch.testing.assert_close(hooked.detach(), START - 0.1 * p @ (gradient if changed is None else changed))


def test_hooks_are_called_once_a_step_and_stay():
    w, seen = nn.Parameter(START.clone()), []
    handle = w.register_hook(lambda g: seen.append(g.clone()))
    optimizer = PSGD([w], psgd.Diagonal())
    optimizer.step(lambda: quartic(w))
    torch.testing.assert_close(seen[0], exact()[0])
    assert len(seen) == 1

    def failing():
        return Cut.apply(w).sum()

    with pytest.raises(RuntimeError, match="must be differentiable twice"):
        optimizer.step(failing)
    quartic(w).backward()
    assert len(seen) == 2
    handle.remove()
    quartic(w).backward()
    assert len(seen) == 2


# -- backwards that cut the graph ----------------------------------------------------------------------


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class Once(Cube):
    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class Cut(Cube):
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return (3 * x**2 * g).detach()


class InNumPy(Cube):
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * g.detach().numpy())


@pytest.mark.parametrize(
    "reduce", [torch.sum, torch.mean, lambda y: y.square().sum()], ids=["sum", "mean", "square"]
)
@pytest.mark.parametrize("function", [Once, Cut, InNumPy])
def test_curvature_that_is_not_there_is_said(function, reduce):
    w = nn.Parameter(START.clone())
    optimizer = PSGD([w], psgd.Diagonal())
    with pytest.raises(
        RuntimeError, match=r"must be differentiable twice .* use curvature='finite_difference'"
    ):
        optimizer.step(lambda: reduce(function.apply(w)))
    assert torch.equal(w, START)
    PSGD([w], psgd.Diagonal(), curvature="finite_difference").step(lambda: reduce(function.apply(w)))
    assert not torch.equal(w, START)


def test_functions_with_a_backward_of_ones_own_have_their_curvature():
    w = nn.Parameter(START.clone())
    f = functions(lambda: Cube.apply(w).sum(), [w])
    torch.testing.assert_close(f.hvp(START, V), 6 * START * V)


@pytest.mark.parametrize("flat", [torch.sign, torch.round, torch.floor])
def test_what_is_flat_has_no_curvature(flat):
    w = nn.Parameter(START.clone())
    f = functions(lambda: flat(w).sum(), [w])
    assert torch.equal(f.hvp(START, V), torch.zeros_like(V))


def test_a_straight_through_estimator_trains():
    w = nn.Parameter(START.clone())
    optimizer = PSGD([w], psgd.Diagonal())

    def loss():
        rounded = w + (w.round() - w).detach()
        return (rounded - 5).square().sum()

    first = float(loss().detach())
    for _ in range(40):
        optimizer.step(loss)
    assert float(loss().detach()) < first / 4


@pytest.mark.parametrize("wrong", [lambda w: (w * 1j).sum(), lambda w: torch.view_as_complex(w[:2])])
def test_complex_losses_are_refused(wrong):
    w = nn.Parameter(START.clone())
    with pytest.raises(TypeError, match=r"must return a real loss, got torch\.complex128"):
        PSGD([w]).step(lambda: wrong(w))
