"""The end of an update on the host: what `Preconditioner._advance` does to the counters of a state."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..scale import FAR, GROW, SHRINK


def counted(
    state: Any, *, moved: bool, due: bool, growth: float, squares: tuple[float, float], h: np.ndarray
) -> tuple[Any, ...]:
    """Return the counters after an update, in the order of `Counters`.

    Parameters
    ----------
    state : NamedTuple
    moved, due : bool
        Whether all of Q moved, and whether the scale was due.
    growth : float
        What P was multiplied by, where it was.
    squares : (float, float)
        ``|a|^2`` and ``|b|^2``, in one unit.
    h : array
        The product; looked at only where the squares are far apart.
    """
    damping, pending, off_scale = state.damping, state.pending, state.off_scale
    if due and moved:
        pending = np.False_
        if damping < 0:
            limits = np.finfo(damping.dtype)
            damping = damping.dtype.type(max(-damping / growth, limits.smallest_normal))
    run, (a, b) = int(off_scale), squares
    after = 0
    if a > FAR**2 * b:
        after = max(run, 0) + 1
    elif b > FAR**2 * a:
        after = min(run, 0) - 1
    if not moved or (after and not h.any()):  # what is skipped, or is nothing, does not count
        after = run
    if not due and (after >= SHRINK or after <= -GROW):
        pending, after = np.True_, 0
    after = 0 if due and moved else after
    count, skipped = (state.count + 1, state.skipped) if moved else (state.count, state.skipped + 1)
    return damping, pending, off_scale if after == run else np.int32(after), count, skipped
