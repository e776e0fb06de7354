"""An update of ``Q = (I + U V^T) diag(d)`` on a GPU, and ``P g``: queued as a whole, and never waited for.

The passes over n are `low_rank_launches`; here is what goes on between them, on matrices of size 2 r + 2 that
stay on the device, so nothing branches: the scale that may be due, whose turn it is and whether the gauge is
renewed are all decided by `where`.
"""

from __future__ import annotations

from typing import Any

from ...arrays.gram_algebra import combinations, factor_move, gauge, joint_bound
from ...arrays.library import Array, device_of, namespace
from ..rules import LowRankRule
from . import low_rank_launches as passes


def update(rule: LowRankRule, state: Any, v: Any, h: Any, step: Any, inplace: bool) -> Any:
    """Return the state after one update, or None if it is not for kernels: see `dispatch`."""
    if not rule.diagonal_first or rule.measure is None or v is None:
        return None
    rows = passes.take(state, h, v)
    rate = None if rows is None or rows.r != rule.rank else passes.step_of(rows, step)
    if rows is None or rate is None or not passes.counts(rows, state):
        return None
    xp, r, dtype = namespace(state.d), rows.r, state.d.dtype
    # is it a pair, and is the scale due?
    reading, usable, seen, due = passes.survey(rows)
    if not isinstance(rate, float):
        taken = (rate > 0) & (rate < 1)
        usable, seen, due = usable & taken, seen & taken, due & taken
    g = passes.gram(rows, reading)
    one = xp.ones_like(g[:1, 0])  # (1,), as are all numbers in float64 below
    # set the scale: the minimiser over multiples of diag(d), c^4 = |y|^2 / |x|^2. The units of x and y are
    # those of c d already where c^2 is their ratio; what is missing is `scale`
    unit, spread = reading[0], xp.ones_like(reading[0])
    unit_x, unit_y = xp.sqrt(unit), xp.sqrt(reading[1])
    unit, spread = xp.where(due, unit_x * unit_y, unit), xp.where(due, unit_y / unit_x, spread)
    x, y = g[-2:-1, -2], g[-1:, -1]
    scale = xp.where(due, (y / xp.where(due & (x > 0), x, one)) ** 0.25, one)
    scales = xp.concat([xp.ones_like(g[: 2 * r, 0]), scale, 1 / scale])
    total = xp.reshape(xp.astype(scale, dtype), ()) * spread
    # make the generators, and bound them together
    small, turn_u = combinations(g * scales * scales[:, None], r), state.count % 2 == 0
    move = factor_move(small, turn_u, rule.measure)
    ends = small.ends.T * scales * xp.concat([scale, 1 / scale])[:, None]
    largest = xp.astype(passes.extremes(ends, rows, reading), g.dtype)
    size_d = largest[2] if rule.measure == "gradient" else largest[0] + largest[1]
    size = unit * xp.astype(xp.sqrt(joint_bound(size_d, move.size, rate)), dtype)
    moved = xp.isfinite(size)
    # ask the normaliser
    before = xp.where(due, xp.zeros_like(state.held), state.held)
    scale_n, after = rule.scale(xp.where(turn_u, before[0], before[1]), size, rate)
    some = scale_n > 0
    ratio = xp.where(some, unit, 0 * unit) / xp.where(some, scale_n, xp.ones_like(scale_n))
    mu = xp.astype(rate * ratio * ratio, dtype)
    # move d and the factor whose turn it is, and renew the gauge of U and V: changes of rows of R
    drifted = state.count % rule.gauge_every == rule.gauge_every - 1
    own = xp.eye(2 * r, 2 * r + 2, dtype=g.dtype, device=device_of(g))
    moving, square = xp.astype(mu, g.dtype) * (move.left @ move.right.T), own[:r, :r]
    c, back = gauge(small.uu, small.vv) if r else (square, square)
    new_u = xp.where(drifted, c, square) @ (own[:r, :] - xp.where(turn_u, moving, 0 * moving))
    new_v = xp.where(drifted, back, square) @ (own[r:, :] - xp.where(turn_u, 0 * moving, moving))
    changes = (xp.concat([new_u, new_v]) - own) * scales
    which = xp.astype(turn_u | drifted, xp.int32) + 2 * xp.astype(~turn_u | drifted, xp.int32)
    u, v, d = passes.rewrite(
        xp.concat([changes, ends]), rows, reading, mu, total, usable & moved, which, inplace=inplace
    )
    held = xp.where(usable & moved, xp.where(xp.stack([turn_u, ~turn_u]), after, before), state.held)
    if inplace:
        state.held[...] = held
        held = state.held
    # count
    lengths = xp.sqrt(small.squares)
    counters = rule.counted(state, total * total, (lengths[0], lengths[1]), usable & moved, seen, due)
    return state._replace(u=u, v=v, d=d, held=held, **counters)


def precondition(rule: LowRankRule, state: Any, g: Any) -> Array | None:
    """Return ``P g``, or None if it is not for kernels: ``P g / d = x + U s + V U^T (x + U s)``, x = d g."""
    rows = passes.take(state, g, None) if rule.diagonal_first else None
    if rows is None or rows.r != rule.rank:
        return None
    xp, r = namespace(rows.d), rows.r
    one = xp.ones(1, dtype=xp.float64, device=device_of(rows.d))
    reading = rows.library.cast(xp.concat([one, one, 0 * one]), rows.dtype)  # no units, no noise
    gram = passes.gram(rows, reading)
    s = gram[r : 2 * r, 2 * r]  # V^T x
    w = gram[:r, 2 * r] + gram[:r, :r] @ s
    ends = xp.concat([s, w, xp.ones_like(gram[:1, 0]), xp.zeros_like(gram[:1, 0])])
    return rows.d * passes.combine(ends[None, :], rows, reading)[0, :]
