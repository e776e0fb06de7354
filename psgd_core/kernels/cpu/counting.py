"""The end of an update on the host: what becomes of the counters of a state."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..rules import Jump

KINDS = ((np.bool_, np.dtype(np.bool_)), *((np.int32, np.dtype(np.int32)),) * 3)
"""Scalar type and dtype of the counters after the damping."""


def counted(
    state: Any, jump: Jump, *, moved: bool, due: bool, growth: float, squares: np.ndarray, h: np.ndarray
) -> tuple[Any, ...]:
    """Return the counters after an update, in the order in which they end the state.

    Parameters
    ----------
    state : NamedTuple
    jump : Jump
    moved, due : bool
        Whether all of Q moved, and whether the scale was due.
    growth : float
        What P was multiplied by, where it was.
    squares : array, shape (2,)
        ``|a|^2`` and ``|b|^2``, in one unit.
    h : array
        The product; looked at only where the squares are far apart.
    """
    damping, pending, off_scale, count, skipped = state[-5:]
    # the relative damping gets its scale when P does
    if due and moved:
        pending = np.False_
        if damping < 0:
            limits = np.finfo(damping.dtype)
            damping = damping.dtype.type(max(-damping / growth, limits.smallest_normal))
    # how many pairs in a row say that Q is off its scale; those skipped, and products of zero, do not count
    before, (a, b), after = int(off_scale), squares.tolist(), 0
    if a > jump.far**2 * b:
        after = max(before, 0) + 1
    elif b > jump.far**2 * a:
        after = min(before, 0) - 1
    if not moved or (after and not h.any()):
        after = before
    if not due and (after >= jump.shrink or after <= -jump.grow):
        pending, after = np.True_, 0
    after = 0 if due and moved else after
    if moved:
        count = count + 1
    else:
        skipped = skipped + 1
    return damping, pending, off_scale if after == before else np.int32(after), count, skipped
