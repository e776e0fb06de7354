"""How fast an update moves, in the user's unit: a step, or the number of pairs that P remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ..arrays.arguments import described, require_number, scalar_of
from ..arrays.library import Array, namespace

if TYPE_CHECKING:
    from .base import Preconditioner

Memory = float | Array | Literal["all"]
"""Pairs that P is an average over: about the last T, or all of them."""


def pace_of(
    p: Preconditioner[Any], step: float | Array | None, memory: Memory | None, h: Array
) -> float | Array:
    """Return the step, or the least gain that a memory allows, after checking that the right one is given.

    An average of weights that fall by ``1 - gain`` per update is as accurate as one over the last
    ``2 / gain - 1`` updates. So a memory of T pairs, k of them at once, is a gain of at least
    ``2 k / (T + k)``; all pairs, of at least 0.

    Parameters
    ----------
    p : Preconditioner
    step, memory
        As `Preconditioner.update` has them.
    h : array, shape (n,) or (n, k)

    Raises
    ------
    TypeError, ValueError
        If not exactly one of them is given, it is the wrong one, or out of range.
    """
    if (step is None) == (memory is None):
        both = "neither" if step is None else "both"
        raise TypeError(
            f"exactly one of `step` and `memory` must be given, got {both}; step=0.1 is a good start, and "
            "memory='all' for a preconditioner with normalizer=Kalman()"
        )
    name, takes_memory = type(p).__name__, p.takes_memory
    if not (p.takes_step if memory is None else takes_memory):
        wrong, right = ("step", "memory") if takes_memory else ("memory", "step")
        why = (
            "its normalizer Kalman finds the step by itself; memory='all' averages over all pairs"
            if takes_memory
            else "a memory needs geometry='Lyapunov' and normalizer=Kalman(), of Diagonal, XMat, Butterfly, "
            "Sparse or Dense"
        )
        raise ValueError(
            f"`{wrong}` must not be given to this {name}, got {described(step if takes_memory else memory)}; "
            f"give `{right}`: {why}"
        )
    if memory is None:
        assert step is not None
        rate = step if type(step) is float else scalar_of("step", step, h)
        if isinstance(rate, float) and not 0 < rate < 1:
            raise ValueError(f"`step` must lie in (0, 1), got {described(step)}; 0.1 is a good start")
        return rate
    if isinstance(memory, str):
        if memory == "all":
            return 0.0
        raise ValueError(f"`memory` must be 'all' or a number of pairs, at least 1, got {memory!r}")
    pairs, k = scalar_of("memory", memory, h), 1 if h.ndim == 1 else h.shape[1]
    if isinstance(pairs, float):
        if not pairs >= 1:
            raise ValueError(
                f"`memory` must be at least 1, a number of pairs, or 'all', got {described(memory)}"
            )
        return 2 / (1 + max(pairs / k, 1.0))
    xp = namespace(pairs)  # what is below 1, or NaN, gives what is not `in_range`
    return 2 / (1 + xp.where(pairs >= 1, xp.maximum(pairs / k, xp.ones_like(pairs)), pairs))


def require_memory(memory: Memory) -> Memory:
    """Return a setting `memory`, a number of at least 1 or "all", or raise ValueError or TypeError."""
    if isinstance(memory, str) and memory == "all":
        return memory
    return require_number("memory", memory, "[1, inf)", "it is a number of pairs, or 'all'")


def in_range(rate: Array, takes_memory: bool) -> Array:
    """Return whether a step, or the gain of a memory, that is an array is one that may be taken, 0-d bool."""
    return (rate >= 0) & (rate <= 1) if takes_memory else (rate > 0) & (rate < 1)
