"""An update of ``Q = (I + U V^T) diag(d)`` on a GPU: queued as a whole, and never waited for.

The passes over n are `psgd_core.kernels.gpu.low_rank_passes`; here is what goes on between them, on matrices
of size 2 r + 2 that stay on the device, so that nothing branches: the scale that may be due, whose turn it is
and whether the gauge is renewed are all decided by `where`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arrays.library import Array, device_of, namespace
from ..kernels.gpu import low_rank_passes as passes
from ..kernels.gpu.low_rank_passes import Rows
from .counters import Fitted
from .low_rank_algebra import coefficients, gauge, joint_bound, move_of_u, move_of_v
from .normalizers import Normalizer


class Queued(NamedTuple):
    """What an update leaves: the state before its counters, and what they count."""

    fit: Fitted
    usable: Array  # 0-d bool
    seen: Array  # 0-d bool: usable, and h is not zero
    due: Array  # 0-d bool: this pair sets the scale


def queued_update(
    rows: Rows, state: Any, step: Any, normalizer: Normalizer, regauge: int, inplace: bool
) -> Queued | None:
    """Return one update, None if it is not for the kernels.

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
    xp, r, dtype = namespace(state.d), rows.r, state.d.dtype
    step = passes.step_of(rows, step)
    if step is None:
        return None
    reading, usable, seen, due = passes.survey(rows)
    if not isinstance(step, float):
        taken = (step > 0) & (step < 1)
        usable, seen, due = usable & taken, seen & taken, due & taken
    g = passes.gram(rows, reading)
    one = xp.ones_like(g[:1, 0])  # (1,), as are all numbers in float64 below

    # the automatic scale: the minimiser over multiples of diag(d), c^4 = |y|^2 / |x|^2. The units of x and y
    # are those of c d already where c^2 is their ratio; what is missing is `scale`
    unit, spread = reading[0], xp.ones_like(reading[0])
    unit_x, unit_y = xp.sqrt(unit), xp.sqrt(reading[1])
    unit, spread = xp.where(due, unit_x * unit_y, unit), xp.where(due, unit_y / unit_x, spread)
    x, y = g[-2:-1, -2], g[-1:, -1]
    scale = xp.where(due, (y / xp.where(due & (x > 0), x, one)) ** 0.25, one)
    scales = xp.concat([xp.ones_like(g[: 2 * r, 0]), scale, 1 / scale])
    small = coefficients(g * scales * scales[:, None], r)
    total = xp.reshape(xp.astype(scale, dtype), ()) * spread

    turn_u = state.count % 2 == 0
    of_u, of_v = (move(small, normalizer.measure) for move in (move_of_u, move_of_v))
    ends = xp.concat([small.ph.T * scale, small.pv.T / scale]) * scales
    largest = xp.astype(passes.extremes(ends, rows, reading), g.dtype)
    size_d = largest[2] if normalizer.measure == "gradient" else largest[0] + largest[1]
    size_w = xp.where(turn_u, of_u.size, of_v.size)
    size = unit * xp.astype(xp.sqrt(joint_bound(size_d, size_w, step)), dtype)
    moved = xp.isfinite(size)
    before = xp.where(due, xp.zeros_like(state.held), state.held)
    scale_n, after = normalizer.scale(xp.where(turn_u, before[0], before[1]), size, step)
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
        change = own - xp.where(turn, rate, 0 * rate) * (move.left @ move.right.T)
        changes.append((xp.where(drifted, c, square) @ change - own) * scales)
    which = xp.astype(turn_u | drifted, xp.int32) + 2 * xp.astype(~turn_u | drifted, xp.int32)
    u, v, d = passes.rewrite(
        xp.concat([*changes, ends]), rows, reading, mu, total, usable & moved, which, inplace=inplace
    )
    renewed = xp.where(xp.stack([turn_u, ~turn_u]), after, before)
    held = xp.where(usable & moved, renewed, state.held)
    if inplace:
        state.held[...] = held
        held = state.held
    fit = Fitted(
        state._replace(u=u, v=v, d=d, held=held), moved, total * total, (small.length_a, small.length_b)
    )
    return Queued(fit, usable, seen, due)


def queued_product(rows: Rows) -> Array:
    """Return ``P g`` from rows with g for h and d for p: ``P g / d = x + U s + V U^T (x + U s)``."""
    xp, r = namespace(rows.d), rows.r
    one = xp.ones(1, dtype=xp.float64, device=device_of(rows.d))
    reading = rows.library.cast(xp.concat([one, one, 0 * one]), rows.dtype)  # no units, no noise
    g = passes.gram(rows, reading)
    s = g[r : 2 * r, 2 * r]  # V^T x
    w = g[:r, 2 * r] + g[:r, :r] @ s
    ends = xp.concat([s, w, xp.ones_like(g[:1, 0]), xp.zeros_like(g[:1, 0])])
    return rows.d * passes.combine(ends[None, :], rows, reading)[0, :]
