"""Hessian-vector products by forward-over-reverse differentiation: tangents go along with loss and gradient.

The probe is the tangent of the parameters while the loss is evaluated and its gradient taken, so the
gradient's tangent is the product: nothing is differentiated twice in reverse, and no graph of the gradient is
kept. Unlike reverse differentiation it does not stop at ``torch.no_grad()``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter as same_version

from ...curvature import Exact
from .twice import Cause, cause_of

forward: Any = torch.autograd.forward_ad  # without types


@dataclass(frozen=True, repr=False)
class ForwardOverReverse(Exact):
    """Exact products by forward-over-reverse differentiation; one probe at a time.

    From three quarters to one and a half times the time of "hvp", by model. All operations need a forward
    derivative. What the closure computes from the parameters within ``torch.no_grad()``, such as
    targets, must be evaluated before the step, outside of it: it would be differentiated too. The first
    product is compared with that of "hvp", and an error says so if they differ.
    """


@contextlib.contextmanager
def tangents(params: Sequence[Tensor], probe: Sequence[Tensor]) -> Iterator[None]:
    """Give the parameters tangents within a ``with`` block; without a probe, none."""
    if not probe:
        yield
        return
    try:
        with forward.dual_level():
            for p, v in zip(params, probe, strict=True):
                if p.requires_grad:
                    # no graph made before should take this for a change of p
                    with torch.no_grad(), same_version(p):
                        p.copy_(forward.make_dual(p.detach(), v.to(p.dtype)))
            yield
    except RuntimeError as error:  # NotImplementedError is one
        if any(words in str(error) for words in _REFUSED):
            raise _not_forward(str(error)) from error
        raise


def tangents_of(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the tangents of gradients, None where there is none: within `tangents`."""
    found = (None if g is None else forward.unpack_dual(g).tangent for g in grads)
    return [None if t is None else t.detach() for t in found]


def require_equal(products: Sequence[Tensor | None], reference: Sequence[Tensor | None]) -> None:
    """Raise RuntimeError where a product differs from that of double backward by more than rounding can."""
    gap = total = 0.0
    for h, r in zip(products, reference, strict=True):
        if h is not None or r is not None:
            eps = torch.finfo((r if h is None else h).dtype).eps  # type: ignore[union-attr]
            difference: Any = r if h is None else h if r is None else h - r
            gap += float(difference.double().square().sum()) / math.sqrt(eps)
            total += 0.0 if r is None else float(r.double().square().sum())
    if gap > total:
        raise RuntimeError(
            "the products of curvature='forward_over_reverse' must be those of 'hvp', got others in the "
            "first step: a part of the loss is computed from the parameters before the closure is called, "
            "within torch.no_grad(), or by an autograd.Function whose jvp is not its derivative; evaluate "
            "the model in the closure, and targets before it, or use curvature='hvp'"
        )


_ZERO = "ZeroTensors are immutable"
_REFUSED = ("forward AD", "forward mode AD", _ZERO)
"""Words of PyTorch's messages where a forward derivative is missing."""

_MSE = Cause(  # https://github.com/pytorch/pytorch/issues/123996
    (_ZERO,), "mse_loss with reduction='mean'", "write it as (y - target).square().mean()"
)


def _not_forward(message: str) -> RuntimeError:
    cause = _MSE if _ZERO in message else cause_of(message)
    what, way = (cause.what, cause.way) if cause else ("an operation", "take another one in its place")
    return RuntimeError(
        f"the loss must have forward derivatives for curvature='forward_over_reverse', but {what} has none "
        f"in PyTorch ({message.splitlines()[0].rstrip('.')}); {way}, or use curvature='hvp'"
    )
