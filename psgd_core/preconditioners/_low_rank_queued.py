"""An update of ``Q = (I + U V^T) diag(d)`` on a GPU: queued as a whole, and never waited for.

The passes over n are `psgd_core.kernels.gpu_low_rank`; here is what goes on between them, on matrices of size
2 r + 2 that stay on the device, so that nothing branches: the scale that may be due, whose turn it is and
whether the gauge is renewed are all decided by `where`.
"""

from __future__ import annotations

from typing import Any

import array_api_compat

from .._array import Array, device_of
from ..kernels import gpu_low_rank as passes
from ..kernels.gpu_low_rank import Rows
from ._low_rank_algebra import coefficients, gauge, joint_bound, move_of_u, move_of_v
from .normalizers import Normalizer


def queued_update(
    rows: Rows, state: Any, step: Any, normalizer: Normalizer, regauge: int, inplace: bool
) -> tuple[Array, Array, Array, Array, Array, Array, Array] | None:
    """Return (u, v, d, held, pending, count, skipped) after one update; None if it is not for the kernels.

    Parameters
    ----------
    rows : Rows
        What `gpu_low_rank.take` made of the state and the pair.
    state : LowRankState
    step : float or 0-d array
    normalizer : Normalizer
    regauge : int
        Updates from one change of gauge to the next.
    inplace : bool
    """
    xp, r, dtype = array_api_compat.array_namespace(state.d), rows.r, state.d.dtype
    if isinstance(step, int | float):
        if not 0 < step < 1:
            return None
    elif array_api_compat.is_array_api_obj(step) and step.ndim == 0:
        step = xp.astype(step, dtype)
    else:
        return None
    unit, usable, seen = passes.survey(rows)
    g = passes.gram(rows, unit)
    one = xp.ones_like(g[:1, 0])  # (1,), as are all numbers in float64 below

    # the automatic scale: the minimiser over multiples of diag(d), c^4 = |y|^2 / |x|^2
    due = state.pending & usable & seen
    scale = xp.where(due, (g[-1:, -1] / xp.where(due, g[-2:-1, -2], one)) ** 0.25, one)
    scales = xp.concat([xp.ones_like(g[: 2 * r, 0]), scale, 1 / scale])
    small = coefficients(g * scales * scales[:, None], r)

    turn_u = state.count % 2 == 0
    of_u, of_v = (move(small, normalizer.measure) for move in (move_of_u, move_of_v))
    ends = xp.concat([small.ph.T * scale, small.pv.T / scale]) * scales
    largest = xp.astype(passes.extremes(ends, rows, unit), g.dtype)
    size_d = largest[2] if normalizer.measure == "gradient" else largest[0] + largest[1]
    size_w = xp.where(turn_u, of_u.size, of_v.size)
    size = unit * xp.astype(xp.sqrt(joint_bound(size_d, size_w, step)), dtype)
    usable = usable & xp.isfinite(size)
    scale_n, after = normalizer.scale(xp.where(turn_u, state.held[0], state.held[1]), size, step)
    some = scale_n > 0
    ratio = xp.where(some, unit, 0 * unit) / xp.where(some, scale_n, xp.ones_like(scale_n))
    mu = xp.astype(step * ratio * ratio, dtype)

    # by how much the factors change, as rows over R
    drifted = state.count % regauge == regauge - 1
    rate = xp.astype(mu, g.dtype)
    eye = xp.eye(2 * r, 2 * r + 2, dtype=g.dtype, device=device_of(g))
    square = eye[:r, :r]
    changes = []
    gauges = gauge(small.uu, small.vv) if r else (square, square)
    for move, turn, own, c in zip(
        (of_u, of_v), (turn_u, ~turn_u), (eye[:r, :], eye[r:, :]), gauges, strict=True
    ):
        moved = own - xp.where(turn, rate, 0 * rate) * (move.left @ move.right.T)
        changes.append((xp.where(drifted, c, square) @ moved - own) * scales)
    which = xp.astype(turn_u | drifted, xp.int32) + 2 * xp.astype(~turn_u | drifted, xp.int32)
    flags = xp.reshape(xp.astype(scale, dtype), ()), usable, which
    u, v, d = passes.rewrite(xp.concat([*changes, ends]), rows, unit, mu, *flags, inplace=inplace)

    held = xp.where(usable & xp.stack([turn_u, ~turn_u]), after, state.held)
    if inplace:
        state.held[...] = held
        held = state.held
    passed = xp.astype(usable, xp.int32)
    return u, v, d, held, state.pending & ~(due & usable), state.count + passed, state.skipped + (1 - passed)


def queued_product(rows: Rows) -> Array:
    """Return ``P g`` from rows with g for h and d for p: ``P g / d = x + U s + V U^T (x + U s)``."""
    xp, r = array_api_compat.array_namespace(rows.d), rows.r
    one = xp.ones((), dtype=rows.d.dtype, device=device_of(rows.d))
    g = passes.gram(rows, one)
    s = g[r : 2 * r, 2 * r]  # V^T x
    w = g[:r, 2 * r] + g[:r, :r] @ s
    ends = xp.concat([s, w, xp.ones_like(g[:1, 0]), xp.zeros_like(g[:1, 0])])
    return rows.d * passes.combine(ends[None, :], rows, one)[0, :]
