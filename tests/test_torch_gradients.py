"""Gradients that are not what they seem: stale, hidden, missing, zeroed, frozen, accumulated."""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.utils import checkpoint  # noqa: E402

from psgd_core.adapters.torch import PSGD, functions  # noqa: E402
from psgd_core.curvature import Central  # noqa: E402

nn = torch.nn
CURVATURES = ["hvp", "finite_difference", Central(), "whitening"]
curvatures = pytest.mark.parametrize("curvature", CURVATURES, ids=str)
DIFFERENCES = pytest.mark.parametrize("curvature", CURVATURES[1:3], ids=str)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()


X = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 3)))


def error(y):
    return (y[:, 0] - X.prod(1)).square().mean()


def end(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


# -- checkpointing -------------------------------------------------------------------------------------


def whole(model, x, reentrant):
    return checkpoint.checkpoint(model, x, use_reentrant=reentrant)


def middle(model, x, reentrant):
    return model[3:](checkpoint.checkpoint(model[2], model[:2](x), use_reentrant=reentrant))


def in_segments(model, x, reentrant):
    return checkpoint.checkpoint_sequential(model, 2, x, use_reentrant=reentrant)


def nested(model, x, reentrant):
    def inner(x):
        return checkpoint.checkpoint(model[2:4], x, use_reentrant=reentrant)

    return model[4](checkpoint.checkpoint(lambda x: inner(model[:2](x)), x, use_reentrant=reentrant))


def tied(model, x, reentrant):
    """The parameters of one layer inside and outside: a part of their gradient would be missed, not all."""
    inside = checkpoint.checkpoint(model[:4], x, use_reentrant=reentrant)
    return model[4](inside + model[2](inside))


@curvatures
@pytest.mark.parametrize("forward", [whole, middle, in_segments, nested, tied])
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_checkpointed_layers_train_as_without_checkpoints(forward, curvature):
    ends = []
    for reentrant in (True, False):
        model, x = network(), X.clone().requires_grad_()
        optimizer = PSGD(model.parameters(), psgd.XMat(), curvature=curvature, lr=0.05)
        for _ in range(3):
            optimizer.step(lambda m=model, x=x, r=reentrant: error(forward(m, x, r)))
        ends.append(end(model))
    moved = (ends[0] - end(network())).abs()
    assert torch.all(moved > 0)
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)
    assert checkpoint.CheckpointFunction.__name__ == "CheckpointFunction"  # as if nobody had been there


class CheckpointFunction(torch.autograd.Function):
    """A reentrant checkpoint of somebody else's."""

    @staticmethod
    def forward(ctx, run, x):
        ctx.run, ctx.x = run, x.detach().requires_grad_()
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx, g):
        with torch.enable_grad():
            y = ctx.run(ctx.x)
        torch.autograd.backward(y, g)
        return None, ctx.x.grad


def test_other_checkpoints_that_hide_layers_are_refused_and_backward_sees_them():
    model, x = network(), X.clone().requires_grad_()

    def loss():
        return error(model[4](CheckpointFunction.apply(model[:4], x)))

    before = end(model)
    for curvature in CURVATURES:
        with pytest.raises(
            RuntimeError, match=r"must not go through reentrant checkpointing.*CheckpointFunc"
        ):
            PSGD(model.parameters(), psgd.XMat(), curvature=curvature).step(loss)
    with pytest.raises(RuntimeError, match="must not go through reentrant checkpointing"):
        functions(loss, model).gradient(before.clone())
    assert torch.equal(end(model), before)

    def backward():
        model.zero_grad()
        value = loss()
        value.backward()
        return value

    PSGD(model.parameters(), psgd.XMat(), curvature="finite_difference").step(backward)
    assert torch.all(end(model) != before)


# -- what is in .grad ----------------------------------------------------------------------------------


CURVES = torch.linspace(1.0, 4.0, 6, dtype=torch.float64)


def fitted(optimizer):
    return np.diag(np.asarray(psgd.Diagonal().matrix(optimizer.group_state().preconditioner)))


@DIFFERENCES
@pytest.mark.parametrize("zeroing", ["never", "outside", "inside", "inside, kept", "by hand", "no backward"])
def test_differences_do_not_see_what_was_in_grad(curvature, zeroing):
    """A quadratic: P tends to the inverse of its curvatures, whatever is left where."""
    w = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    w.grad = torch.full_like(w, 50.0)
    optimizer = PSGD([w], psgd.Diagonal(), curvature=curvature, lr=1e-3, momentum=0.0, step=0.3)

    def closure():
        if "inside" in zeroing:
            optimizer.zero_grad(set_to_none="kept" not in zeroing)
        if zeroing == "by hand":
            w.grad.mul_(0)
        loss = 0.5 * (CURVES * (w - 1) ** 2).sum()
        if zeroing != "no backward":
            loss.backward()
        return loss

    for _ in range(150):
        if zeroing == "outside":
            optimizer.zero_grad()
        optimizer.step(closure)
    np.testing.assert_allclose(fitted(optimizer), 1 / CURVES, rtol=1e-4)


@DIFFERENCES
def test_after_a_difference_grad_is_the_gradient_at_the_parameters(curvature):
    """Not at the displaced ones, nor their sum."""
    w = nn.Parameter(torch.ones(6, dtype=torch.float64))
    optimizer = PSGD([w], psgd.Diagonal(), curvature=curvature, lr=0.0)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * (CURVES * w**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(w.grad, CURVES)


@curvatures
@pytest.mark.parametrize("zeroing", ["set to none", "kept", "assigned"])
def test_closures_that_zero_and_do_not_call_backward(curvature, zeroing):
    """They return the loss; zeros written to .grad are no gradient."""
    ends = []
    for stale in (False, True):
        model = network()
        optimizer = PSGD(model.parameters(), psgd.XMat(), curvature=curvature, lr=0.05)
        if stale:
            error(model(X)).backward()

        def closure(model=model, optimizer=optimizer, stale=stale):
            if stale and zeroing == "assigned":
                for p in model.parameters():
                    p.grad = torch.zeros_like(p)
            elif stale:
                optimizer.zero_grad(set_to_none=zeroing == "set to none")
            return error(model(X))

        for _ in range(3):
            optimizer.step(closure)
        ends.append(end(model))
    assert torch.equal(*ends)
    assert torch.all(ends[0] != end(network()))


def test_gradients_put_in_place_by_hand_are_taken():
    """Clipped, unscaled or computed otherwise: not by backward, but not zero either."""
    w = nn.Parameter(torch.ones(4))
    for assign in (True, False):
        w.data.fill_(1.0)
        w.grad = torch.zeros(4)
        optimizer = PSGD([w], psgd.Diagonal(), curvature="whitening", momentum=0.0)

        def closure(assign=assign):
            g = torch.autograd.grad(loss := (w**2).sum(), w)[0]
            if assign:
                w.grad = g
            else:
                w.grad.copy_(g)
            return loss

        optimizer.step(closure)
        assert torch.all(w < 1)


def test_backward_in_a_closure_is_told_where_a_gradient_is_zero():
    w = nn.Parameter(torch.zeros(4))
    optimizer = PSGD([w], psgd.Diagonal())

    def closure():
        loss = (w**2).sum()
        loss.backward(retain_graph=True)
        return loss

    for _ in range(2):
        with pytest.raises(ValueError, match="must return the undifferentiated loss"):
            optimizer.step(closure)


def lightning(optimizer, model):
    """The closure of a trainer: it zeroes, differentiates, and returns a loss without a graph."""

    def closure():
        loss = error(model(X))
        optimizer.zero_grad()
        loss.backward()
        return loss.detach()

    return closure


@curvatures
def test_a_trainers_closure_trains_as_its_loss_does_or_is_one_sentence(curvature):
    ends = []
    for plain in (True, False):
        model = network()
        optimizer = PSGD(model.parameters(), psgd.XMat(), curvature=curvature, lr=0.02)
        closure = (lambda m=model: error(m(X))) if plain else lightning(optimizer, model)
        if curvature == "hvp" and not plain:
            with pytest.raises(ValueError, match="must return the undifferentiated loss"):
                optimizer.step(closure)
            assert torch.equal(end(model), end(network()))
            return
        for _ in range(3):
            optimizer.step(closure)
        ends.append(end(model))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)
    assert torch.all(ends[0] != end(network()))


def test_accumulated_gradients_are_those_of_the_sum():
    ends = []
    for parts in (1, 4):
        model = network()
        optimizer = PSGD(model.parameters(), psgd.XMat(), curvature="whitening", lr=0.02)
        for _ in range(3):
            optimizer.zero_grad()
            for rows in X.chunk(parts):
                (model(rows).square().sum() / len(X)).backward()
            optimizer.step()
        ends.append(end(model))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("curvature", ["finite_difference", "whitening"])
def test_closures_that_accumulate(curvature):
    ends = []
    for parts in (1, 4):
        model = network()
        optimizer = PSGD(model.parameters(), psgd.XMat(), curvature=curvature, lr=0.02)

        def closure(model=model, optimizer=optimizer, parts=parts):
            optimizer.zero_grad()
            losses = [model(rows).square().sum() / len(X) for rows in X.chunk(parts)]
            for loss in losses:
                loss.backward()
            return sum(losses).detach()

        for _ in range(3):
            optimizer.step(closure)
        ends.append(end(model))
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-9)
