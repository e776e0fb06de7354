"""The end of every update: lambda, whether the scale is due, jumps of H, updates done and pairs skipped.

**Scale.** The first usable pair multiplies Q by the c that minimises the criterion at c Q,
``c^4 = |b|^2 / |a|^2``. Later, ``|a|`` far above ``|b|`` in `SHRINK` pairs in a row, or far below it in
`GROW`, tells that H has jumped: then the scale is due again, and what the normaliser holds is forgotten.
Rank-one moves alone would need some ``n log(c) / step`` updates. Growth waits longer, since products that are
small for a while are nothing rare, and too large a P does harm.

**Damping.** lambda is absolute where it is given. The default is relative to the scale that the first usable
pair sets, and then stays: fitting ``c H`` is fitting H, bit for bit where Q's scale, ``c^(-1/2)``, is a power
of two. A pair that sets the scale is not damped itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arrays.library import Array, known, namespace
from ..kernels import Jump

DAMPING = {"float32": 1e-9, "float64": 1e-16}
"""By dtype, relative to the scale that the first pair sets: P tends to at most 1e9, 1e16 times that."""

FAR = 10.0
"""``|a| / |b|`` beyond which a pair says that Q is off its scale: mean squares are equal at the minimiser."""

SHRINK, GROW = 8, 64
"""Such pairs in a row, with Q too large and too small, after which the scale is set anew."""

JUMP = Jump(FAR, SHRINK, GROW)
"""The three of them, for kernels."""

State = Any
"""A NamedTuple of arrays, as the preconditioner documents; `Counters` are among its fields."""


class Counters(NamedTuple):
    """The fields that end every state; 0-d arrays."""

    damping: Array  # lambda; minus its relative size while the first scale is still to be set
    pending: Array  # bool: the next usable pair sets the scale
    off_scale: Array  # int32: pairs in a row for which Q is too large; negative: too small
    count: Array  # int32: updates done
    skipped: Array  # int32: pairs left out (NaN, Inf, zero probe, a step outside (0, 1))


class Fitted(NamedTuple):
    """What `Preconditioner._fit` returns."""

    state: State  # with its own part and what the normaliser holds after the move
    moved: Array  # 0-d bool: whether all of Q moved; where not, some of it was singular, or overflowed
    growth: Array | float  # what P was multiplied by before the move, where the scale is due; else 1
    sizes: tuple[Array, Array]  # |a| and |b|, 0-d


def default_damping(x: Array) -> float:
    """Return the relative damping for the dtype of `x`."""
    return DAMPING["float32" if namespace(x).finfo(x.dtype).bits == 32 else "float64"]


def counted(state: State, found: Fitted, complete: Array, seen: Array, due: Array) -> dict[str, Array]:
    """Return the counters after an update.

    Parameters
    ----------
    state : State
        Before it.
    found : Fitted
    complete, seen, due : array
        0-d bools: whether the pair was usable and all of Q moved; whether h was not zero; whether the scale
        was due.
    """
    (a, b), run = found.sizes, state.off_scale
    xp = namespace(run)
    zero, one = xp.zeros_like(run), xp.ones_like(run)
    # how many pairs in a row say that Q is off its scale; those that are skipped, or nothing, do not count
    large, small = a > FAR * b, b > FAR * a
    after = xp.where(large, xp.maximum(run, zero) + one, zero)
    after = xp.where(small, xp.minimum(run, zero) - one, after)
    after = xp.where(complete & (seen | ~(large | small)), after, run)
    jumped = ~due & ((after >= SHRINK) | (after <= -GROW))
    passed, set_now = xp.astype(complete, xp.int32), due & complete
    return {
        "damping": settled(state.damping, found.growth, set_now),
        "pending": (state.pending & ~set_now) | jumped,
        "off_scale": xp.where(set_now | jumped, zero, after),
        "count": state.count + passed,
        "skipped": state.skipped + (1 - passed),
    }


def settled(damping: Array, growth: Array | float, set_now: Array) -> Array:
    """Return lambda after an update: the relative one gets its scale when P does, ``lambda P`` stays."""
    if known(set_now) is False:
        return damping
    xp = namespace(damping)
    least = float(xp.finfo(damping.dtype).smallest_normal)
    found = xp.maximum(-damping / growth, xp.full_like(damping, least))
    return xp.where(set_now & (damping < 0), found, damping)
