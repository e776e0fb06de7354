"""Layers behind reentrant checkpointing, which `torch.autograd.grad` does not see.

A reentrant checkpoint is one node of the graph, with edges to its inputs only: gradients of the parameters
inside come from its own backward. As far as the graph tells, the loss does not use them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils import checkpoint

_lock = threading.Lock()
_held: list[Any] = []  # PyTorch's own function, once for each closure that runs


class _InSight:
    """In place of PyTorch's function for reentrant checkpoints: the same layers, non-reentrant."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        return checkpoint.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)


@contextlib.contextmanager
def layers_in_sight() -> Iterator[None]:
    """Make checkpoints non-reentrant whatever `use_reentrant` says, in all threads; they compute the same."""
    with _lock:
        _held.append(checkpoint.CheckpointFunction if not _held else _held[0])
        checkpoint.CheckpointFunction = _InSight  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        with _lock:
            original = _held.pop()
            if not _held:
                checkpoint.CheckpointFunction = original  # type: ignore[misc]


def nodes(outputs: Iterable[Tensor | None]) -> Iterator[Any]:
    """Yield the nodes of the graphs of tensors."""
    waiting, seen = [x.grad_fn for x in outputs if x is not None], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(edge for edge, _ in node.next_functions)


def require_in_sight(loss: Tensor) -> None:
    """Raise RuntimeError if the graph of a loss still has a reentrant checkpoint."""
    for node in nodes([loss]):
        if "CheckpointFunction" in node.name():
            raise RuntimeError(
                "the loss must not go through reentrant checkpointing, which hides the parameters of its "
                f"layers, got {node.name()}; use torch.utils.checkpoint with use_reentrant=False, or a "
                "closure that calls backward with curvature='finite_difference' or 'whitening'"
            )
