"""The end of every update: lambda, whether the scale is due, jumps of H, updates done and pairs skipped.

**Scale.** The first usable pair multiplies Q by the c that minimises the criterion at c Q,
``c^4 = |b|^2 / |a|^2``. Later, ``|a|`` far above ``|b|`` in `SHRINK` pairs in a row, or far below it in
`GROW`, tells that H has jumped: then the scale is due again, and what the normaliser holds is forgotten.
Rank-one moves alone would need some ``n log(c) / step`` updates. Growth waits longer, since products that are
small for a while are common, and too large a P does harm.

**Damping.** lambda is absolute where it is given. The default is relative to the scale that the first usable
pair sets, and then stays: fitting ``c H`` is fitting H, bit for bit where Q's scale, ``c^(-1/2)``, is a power
of two. A pair that sets the scale is not damped itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arrays.library import Array, all_known, device_of, namespace, none_known
from ..kernels import Jump

DAMPING = {"float32": 1e-9, "float64": 1e-16}
"""By dtype, relative to the scale that the first pair sets: P tends to at most 1e9, 1e16 times that."""

FAR = 10.0
"""``|a| / |b|`` beyond which a pair says that Q is off its scale: mean squares are equal at the minimiser."""

SHRINK, GROW = 8, 64
"""Such pairs in a row, with Q too large and too small, after which the scale is set anew."""

JUMP = Jump(FAR, SHRINK, GROW)
"""The three of them, for kernels."""


class Counters(NamedTuple):
    """The fields that end every state; 0-d arrays."""

    damping: Array  # lambda; minus its relative size while the first scale is still to be set
    pending: Array  # bool: the next usable pair sets the scale
    off_scale: Array  # int32: pairs in a row for which Q is too large; negative: too small
    count: Array  # type: ignore[assignment]  # int32: updates done
    skipped: Array  # int32: pairs left out (NaN, Inf, zero probe, a step outside (0, 1))


class Given(NamedTuple):
    """What one step of fitting is given: `Preconditioner._fit` takes it."""

    v: Array | None  # (n, k), finite; None: to be integrated out, the mean of ``v v^T`` is I
    h: Array  # (n, k), finite
    damping: Array  # 0-d: fit ``M + damping^2 I``; 0 for the pair that sets the scale
    due: Array | None  # 0-d bool: whether this pair sets the scale; None where it is known not to
    step: float | Array  # in (0, 1); the least gain, in [0, 1], of a memory


class Fitted(NamedTuple):
    """What one step of fitting leaves: `Preconditioner._fit` returns it."""

    state: Any  # with its own part, and what the normaliser holds after the move
    moved: Array  # 0-d bool: whether all of Q moved; otherwise some of it was singular, or overflowed
    growth: Array | float  # what P was multiplied by before the move, where the scale is due; else 1
    sizes: tuple[Array, Array]  # |a| and |b|, 0-d


def initial(like: Array, damping: float | None, scale: float | Array | None) -> Counters:
    """Return the counters to start with: the scale is due unless it is given."""
    xp, device = namespace(like), device_of(like)
    name = "float32" if xp.finfo(like.dtype).bits == 32 else "float64"
    start = -DAMPING[name] if damping is None else float(damping)
    if start > float(xp.finfo(like.dtype).max):
        raise ValueError(f"`damping` must be finite in {like.dtype}, got {start}; None takes a small one")
    size = xp.full((), start, dtype=like.dtype, device=device)
    if scale is not None:
        size = settled(size, xp.ones_like(size) * scale * scale, xp.asarray(True, device=device))
    return Counters(
        damping=size,
        pending=xp.full((), scale is None, dtype=xp.bool, device=device),
        off_scale=xp.zeros((), dtype=xp.int32, device=device),
        count=xp.zeros((), dtype=xp.int32, device=device),
        skipped=xp.zeros((), dtype=xp.int32, device=device),
    )


def counted(state: Any, found: Fitted, complete: Array, seen: Array, due: Array | None) -> dict[str, Array]:
    """Return the counters after an update; all of it may be of several states, (c,) in place of 0-d.

    Parameters
    ----------
    state : State
        Before it.
    found : Fitted
    complete, seen : array
        0-d bools: whether the pair was usable and all of Q moved; whether h was not zero.
    due : array, optional
        0-d bool: whether the scale was due; None where it is known not to have been.
    """
    (a, b), run = found.sizes, state.off_scale
    # how many pairs in a row say that Q is off its scale; those skipped, or with h = 0, do not count
    large, small = a > FAR * b, b > FAR * a
    if due is None and all_known(complete & (run == 0) & (large == small)):  # by far the most updates
        return {"count": state.count + 1}
    xp = namespace(run)
    zero = 0 * run
    one = zero + 1
    after = xp.where(large, xp.maximum(run, zero) + one, zero)
    after = xp.where(small, xp.minimum(run, zero) - one, after)
    after = xp.where(complete & (seen | xp.logical_not(large | small)), after, run)
    jumped = (after >= SHRINK) | (after <= -GROW)
    damping, pending = state.damping, state.pending
    if due is not None:
        set_now = due & complete
        damping, pending = settled(damping, found.growth, set_now), pending & xp.logical_not(set_now)
        after, jumped = xp.where(set_now, zero, after), jumped & xp.logical_not(due)
    passed = xp.astype(complete, xp.int32)
    return {
        "damping": damping,
        "pending": pending | jumped,
        "off_scale": xp.where(jumped, zero, after),
        "count": state.count + passed,
        "skipped": state.skipped + (1 - passed),
    }


def settled(damping: Array, growth: Array | float, set_now: Array) -> Array:
    """Return lambda after an update: the relative one gets its scale when P does, ``lambda P`` stays."""
    if none_known(set_now):
        return damping
    xp = namespace(damping)
    least = float(xp.finfo(damping.dtype).smallest_normal)
    found = xp.maximum(-damping / growth, xp.full_like(damping, least))
    return xp.where(set_now & (damping < 0), found, damping)
