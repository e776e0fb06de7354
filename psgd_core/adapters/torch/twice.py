"""What to say where a loss cannot be differentiated twice: what is in the way, and the ways around it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from .checkpointing import nodes


class Cause(NamedTuple):
    """What PyTorch differentiates once only."""

    words: tuple[str, ...]  # in its message, or in the name of a node of the graph
    what: str
    way: str  # around it


CAUSES = (
    Cause(
        ("donated buffer", "aot_autograd", "compiledfunction"),
        "a compiled model",
        "evaluate the module as it was before torch.compile, which has the same parameters, or the closure "
        "within `with torch.compiler.set_stance('force_eager')`",
    ),
    Cause(
        ("attention", "flash"),
        "fused attention",
        "evaluate the closure within `with torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`",
    ),
    Cause(
        ("cudnn_rnn", "cudnnrnn"),
        "a fused recurrent layer",
        "evaluate the closure within `with torch.backends.cudnn.flags(enabled=False)`",
    ),
)

REFUSED = (
    *("not implemented", "not supported", "not currently support"),
    *("once_differentiable", "donated buffer"),
)
"""Words of PyTorch's messages where a second derivative is missing."""


def not_twice(outputs: Iterable[Tensor | None], message: str = "") -> RuntimeError:
    """Return what to raise for a loss, or gradients, with this graph, and PyTorch's own message."""
    cause = cause_of(message) or cause_of(" ".join({node.name() for node in nodes(outputs)}))
    what, way = (cause.what, cause.way) if cause else ("an operation", "take another one in its place")
    return RuntimeError(
        f"the loss must be differentiable twice for Hessian-vector products, but {what} is not; {way}, or "
        "use curvature='finite_difference' or 'whitening', which differentiate once (in psgd_core.minimize, "
        "leave hvp out)"
    )


def cause_of(text: str) -> Cause | None:
    """Return the cause that a message, or names of nodes, speak of."""
    found = (cause for cause in CAUSES if any(word in text.lower() for word in cause.words))
    return next(found, None)
