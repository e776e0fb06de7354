"""Losses differentiated once or twice, with no graph left behind and no ``.grad`` touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    """Return what backward left in ``.grad``.

    Raises
    ------
    TypeError
        If a gradient is sparse.
    """
    return [_dense(p.grad) for p in params]


def evaluate(
    closure: Callable[[], Any],
    params: Sequence[Tensor],
    probes: Sequence[Sequence[Tensor]] = (),
    *,
    once: bool = False,
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
    """
    before = [(p.grad, None if p.grad is None else p.grad._version) for p in params]
    with torch.enable_grad():
        loss = closure()
        if any(
            p.grad is not None and (p.grad is not old or p.grad._version != version)
            for p, (old, version) in zip(params, before, strict=True)
        ):
            if once:
                raise ValueError(ONCE)
            return Found(loss.detach() if isinstance(loss, Tensor) else loss, given(params), [], False)
        _require_loss(loss)
        grads = _differentiate([loss], params, None, create_graph=bool(probes), retain_graph=bool(probes))
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


class Replay:
    """The state of PyTorch's own generators, so that dropout is the same in each evaluation of a closure."""

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.host = torch.get_rng_state()
        self.cuda = {d: torch.cuda.get_rng_state(d) for d in set(devices) if d.type == "cuda"}

    def rewind(self) -> None:
        """Go back to where the generators were."""
        torch.set_rng_state(self.host)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)
