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
    product that is finite and not zero is compared with that of "hvp", and an error says so if they differ.
    """


@contextlib.contextmanager
def tangents(params: Sequence[Tensor], probe: Sequence[Tensor]) -> Iterator[None]:
    """Give the parameters tangents within a ``with`` block; without a probe, none."""
    if not probe:
        yield
        return
    with refusals(), forward.dual_level():
        for p, v in zip(params, probe, strict=True):
            if p.requires_grad:
                # no graph made before should take this for a change of p
                with torch.no_grad(), same_version(p):
                    p.copy_(forward.make_dual(p.detach(), v.to(p.dtype)))
        yield


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Say what is in the way, and the way around it, where PyTorch refuses to differentiate forward."""
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        refused = _refused(str(error))
        if refused is None:
            raise
        raise refused from error


def tangents_of(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the tangents of gradients, None where there is none: within `tangents`."""
    found = (None if g is None else forward.unpack_dual(g).tangent for g in grads)
    return [None if t is None else t.detach() for t in found]


def agree(products: Sequence[Tensor | None], reference: Sequence[Tensor | None]) -> bool:
    """Return whether products are those of double backward, to rounding; False if nothing can be told.

    That is where these are not finite, or all zero.

    Raises
    ------
    RuntimeError
        If they are others.
    """
    gap = total = 0.0
    for h, r in zip(products, reference, strict=True):
        found: Any = r if h is None else h
        if found is not None:
            difference = found if h is None or r is None else h - r
            gap += float(difference.double().square().sum()) / math.sqrt(torch.finfo(found.dtype).eps)
            total += 0.0 if r is None else float(r.double().square().sum())
    if math.isfinite(total) and not gap <= total:
        raise RuntimeError(
            "the products of curvature='forward_over_reverse' must be those of 'hvp', got others: a part of "
            "the loss is computed from the parameters before the closure is called or within no_grad, or "
            "PyTorch has no right forward derivative of an operation (hooks on activations, an Embedding "
            "with padding_idx, det and solve, an autograd.Function whose jvp is another); evaluate the model "
            "in the closure, and targets before it, or use curvature='hvp'"
        )
    return math.isfinite(total) and total > 0


_MISSING = ("forward AD with ", "forward mode AD.")
_NESTED = "Nested forward mode"
CAUSES = (
    # https://github.com/pytorch/pytorch/issues/123996
    Cause(("ZeroTensors are immutable",), "mse_loss", "write its mean as (y - target).square().mean()"),
    Cause(
        ("different number of tensors was saved",),
        "torch.utils.checkpoint",
        "evaluate its layers without it",
    ),
)
"""What has no forward derivative, without saying so."""


def _refused(message: str) -> RuntimeError | None:
    """Return what to raise where PyTorch says this; None where it is about something else."""
    if _NESTED in message:
        return RuntimeError(
            "a step with curvature='forward_over_reverse' must be the only forward differentiation, got one "
            "within torch.func.jvp, a dual_level, another step or beside one in another thread; use "
            "curvature='hvp'"
        )
    cause = next((it for it in CAUSES if any(words in message for words in it.words)), None)
    if cause is None and not any(words in message for words in _MISSING):
        return None
    cause = cause or cause_of(message) or Cause((), "an operation", "take another one in its place")
    return RuntimeError(
        f"the loss must have forward derivatives for curvature='forward_over_reverse', but {cause.what} has "
        f"none in PyTorch ({message.splitlines()[0].rstrip('.')}); {cause.way}, or use curvature='hvp'"
    )
