"""Losses differentiated once or twice, with no graph left behind and no ``.grad`` touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._backward import Backward
from ._checkpointing import layers_in_sight, require_in_sight

Grads = list[Tensor | None]
"""One per parameter, None where the loss does not depend on it."""

ONCE = (
    "`closure` must return the loss without calling backward for curvature='hvp', which differentiates it "
    "twice, got one that was differentiated already; leave backward out of the closure"
)


class Found(NamedTuple):
    """What an evaluation of the loss gave; nothing in it has a graph."""

    loss: Any
    grads: Grads
    products: list[Grads]  # one list per probe
    own: bool  # the gradient was taken here, not by the closure's backward


def given(params: Sequence[Tensor]) -> Grads:
    """Return what backward left in ``.grad``; None for parameters that are frozen beside others that are not.

    Raises
    ------
    TypeError
        If a gradient is sparse.
    """
    by_hand = not any(p.requires_grad for p in params)  # gradients that autograd has no part in
    return [_dense(p.grad) if p.requires_grad or by_hand else None for p in params]


def evaluate(
    closure: Callable[[], Any],
    params: Sequence[Tensor],
    probes: Sequence[Sequence[Tensor]] = (),
    *,
    once: bool = False,
    looked: set[tuple[bool, ...]],
) -> Found:
    """Evaluate the loss and its gradient, and the Hessian's products with probes.

    Parameters
    ----------
    closure : callable
        Returns the loss, a scalar tensor.
    params : sequence of tensors
    probes : sequence of sequences of tensors
        For each probe, tensors in the shapes and dtypes of `params`.
    once : bool
        Refuse a closure that calls backward; otherwise what it leaves in ``.grad`` is the gradient.
    looked : set
        Which parameters had gradients when the graph was last looked through for layers out of sight, which
        takes as long as some operations: it is done, and noted here, for each such pattern once.
    """
    with torch.enable_grad(), layers_in_sight():
        with Backward(params) as backward:
            loss = closure()
        if backward.called():
            if once:
                raise ValueError(ONCE)
            return Found(loss.detach() if isinstance(loss, Tensor) else loss, given(params), [], False)
        _require_loss(loss)
        grads = _differentiate([loss], params, None, create_graph=bool(probes), retain_graph=bool(probes))
        pattern = tuple(g is not None for g in grads)
        if pattern not in looked:
            require_in_sight(loss)
            looked.add(pattern)
        products = []
        for i, probe in enumerate(probes):
            products.append(_product(grads, params, probe, keep=i + 1 < len(probes)))
    return Found(loss.detach(), [g if g is None else g.detach() for g in grads], products, True)


def _product(grads: Grads, params: Sequence[Tensor], probe: Sequence[Tensor], *, keep: bool) -> Grads:
    """Return the Hessian times a probe, from gradients with a graph; None where it is zero."""
    outputs, directions = [], []
    for g, v in zip(grads, probe, strict=True):
        if g is not None and g.requires_grad:  # not of a parameter that the loss is linear in
            outputs.append(g)
            directions.append(v.to(g.dtype))
    if not outputs:
        return [None] * len(params)
    return _differentiate(outputs, params, directions, create_graph=False, retain_graph=keep)


def _differentiate(
    outputs: list[Tensor],
    params: Sequence[Tensor],
    directions: list[Tensor] | None,
    *,
    create_graph: bool,
    retain_graph: bool,
) -> Grads:
    """Return the gradients of `outputs`, None for parameters that are frozen or not used."""
    wanted = [p for p in params if p.requires_grad]
    if not wanted:
        raise ValueError(
            "`params` must hold tensors that require a gradient, got frozen ones only; set requires_grad"
        )
    try:
        found = torch.autograd.grad(
            outputs,
            wanted,
            directions,
            create_graph=create_graph,
            retain_graph=retain_graph,
            allow_unused=True,
        )
    except RuntimeError as error:
        if "second time" in str(error):
            raise ValueError(ONCE) from error
        if "not implemented" in str(error) or "not supported" in str(error):
            raise RuntimeError(
                "the loss must be differentiable twice for curvature='hvp', but an operation is not; switch "
                "the fused kernel off (torch.backends.cudnn.flags(enabled=False) for RNNs, "
                "torch.nn.attention.sdpa_kernel(SDPBackend.MATH) for attention), or use "
                "curvature='finite_difference'"
            ) from error
        raise
    rest = iter(found)
    return [_dense(next(rest)) if p.requires_grad else None for p in params]


def _dense(grad: Tensor | None) -> Tensor | None:
    if grad is not None and grad.layout != torch.strided:
        raise TypeError(
            f"`params` must have dense gradients, got layout {grad.layout}; use sparse=False in the embedding"
        )
    return grad


def _require_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor):
        raise TypeError(f"`closure` must return the loss, a tensor, got {type(loss).__name__}; return it")
    if loss.numel() != 1:
        raise ValueError(
            f"`closure` must return a scalar, got shape {tuple(loss.shape)}; take the mean or the sum"
        )
    if not loss.requires_grad:
        raise ValueError(
            "`closure` must return a loss with a graph, got one that requires no gradient; evaluate the "
            "model inside the closure, without detach, item, no_grad or inference_mode"
        )
