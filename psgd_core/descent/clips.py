"""How far one step may go: (1) rests on a quadratic model that holds near x only (section 4).

A clip limits ``P g``. `Norm` and `Elements` have fixed limits, which fit problems of one scale; `Running` and
`TrustRadius` find theirs, so that rescaling x or f changes nothing. A tuple of clips applies one after
another. Clips are frozen and hashable; what they learn is in a memory that goes in and out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..arrays.library import Array, device_of, eps, namespace
from ..arrays.numbers import real, shown
from ..arrays.trees import owned, where


class Point(NamedTuple):
    """Where a step starts."""

    x: Array  # (n,)
    g: Array  # (n,) gradient
    value: Array  # 0-d; NaN if not known


class Clip:
    """A limit on ``P g``; this one has none."""

    needs_value: ClassVar[bool] = False
    """Whether the function's values are asked for, and compared: then they must be of one function."""

    def init(self, x: Array) -> Any:
        """Return the memory to start with."""
        return ()

    def judge(self, memory: Any, here: Point, usable: Array) -> tuple[Point, Array, Any]:
        """Return (where to step from, whether it is usable, memory), given where the last step led.

        `usable` is a 0-d bool: value and gradient are finite.
        """
        return here, usable, memory

    def limit(self, memory: Any, move: Array) -> tuple[Array, Any]:
        """Return (the move within its limit, memory)."""
        return move, memory


@dataclass(frozen=True)
class _Fixed(Clip):
    """What the fixed limits share."""

    size: float

    def __post_init__(self) -> None:
        _keep(self, "size", "(0, inf]", "leave the clip out to have no limit")


@dataclass(frozen=True)
class Norm(_Fixed):
    """``|P g| <= size``, the direction kept: the paper's clip."""

    def limit(self, memory: Any, move: Array) -> tuple[Array, Any]:
        """Return (the move within its limit, memory)."""
        length = norm(move)
        return move * _shrink(length, 0 * length + self.size), memory


@dataclass(frozen=True)
class Elements(_Fixed):
    """``|(P g)_i| <= size`` for each element."""

    def limit(self, memory: Any, move: Array) -> tuple[Array, Any]:
        """Return (the move within its limit, memory)."""
        xp = namespace(move)
        bound = xp.full_like(move, self.size)
        return xp.minimum(xp.maximum(move, -bound), bound), memory


@dataclass(frozen=True)
class Chain(Clip):
    """Clips one after another; at most the first may be a `TrustRadius`."""

    clips: tuple[Clip, ...]

    @property
    def needs_value(self) -> bool:  # type: ignore[override]
        """Whether one of them asks for the function's values."""
        return any(clip.needs_value for clip in self.clips)

    def __post_init__(self) -> None:
        if not isinstance(self.clips, tuple):
            raise TypeError(f"`clips` must be a tuple of Clips, got {shown(self.clips)}; (clip,) holds one")
        for clip in self.clips:
            if not isinstance(clip, Clip):
                raise TypeError(f"`clip` must hold Clips alone, got {clip!r}; see psgd_core.descent.clips")

    def init(self, x: Array) -> Any:
        """Return the memory to start with."""
        return tuple(clip.init(x) for clip in self.clips)

    def judge(self, memory: Any, here: Point, usable: Array) -> tuple[Point, Array, Any]:
        """Return (where to step from, whether it is usable, memory)."""
        after = []
        for clip, held in zip(self.clips, memory, strict=True):
            here, usable, new = clip.judge(held, here, usable)
            after.append(new)
        return here, usable, tuple(after)

    def limit(self, memory: Any, move: Array) -> tuple[Array, Any]:
        """Return (the move within its limit, memory)."""
        after = []
        for clip, held in zip(self.clips, memory, strict=True):
            move, new = clip.limit(held, move)
            after.append(new)
        return move, tuple(after)


class RunningMemory(NamedTuple):
    """Memory of `Running`."""

    size: Array  # 0-d: mean of |P g| after clipping
    weight: Array  # 0-d: its weight, 1 - decay^t


@dataclass(frozen=True)
class Running(Clip):
    """``|P g| <= factor`` times its own running mean: for stochastic functions.

    A single outlier, of the gradient or of a P not fitted yet, moves x no farther than `factor` usual steps.
    The mean is of sizes *after* clipping, so it grows by at most ``(1 - decay)(factor - 1)`` per step,
    whatever comes, and follows slowly what lasts.

    Parameters
    ----------
    factor : float
        Above 1.
    decay : float
        Weight of the past in the mean, in [0, 1).
    """

    factor: float = 2.0
    decay: float = 0.9

    def __post_init__(self) -> None:
        _keep(self, "factor", "(1, inf)", "2 allows twice the usual size")
        _keep(self, "decay", "[0, 1)", "0.9 averages ten steps")

    def init(self, x: Array) -> RunningMemory:
        """Return the memory to start with."""
        xp = namespace(x)
        return RunningMemory(xp.zeros_like(x[0]), xp.zeros_like(x[0]))

    def limit(self, memory: RunningMemory, move: Array) -> tuple[Array, RunningMemory]:
        """Return (the move within its limit, memory)."""
        xp = namespace(move)
        length, started = norm(move), memory.weight > 0
        mean = memory.size / xp.where(started, memory.weight, xp.ones_like(length))
        held = xp.minimum(length, xp.where(started & (mean > 0), self.factor * mean, length))
        after = RunningMemory(
            self.decay * memory.size + (1 - self.decay) * held,
            self.decay * memory.weight + (1 - self.decay),
        )
        return move * _shrink(length, held), after


class TrustMemory(NamedTuple):
    """Memory of `TrustRadius`."""

    best: Point  # the last point kept
    radius: Array  # 0-d: limit of |P g|; 0 before the first step
    length: Array  # 0-d: |P g| of the last step, after clipping
    bound: Array  # 0-d bool: the limit was reached
    rejected: Array  # 0-d int32: steps taken back


@dataclass(frozen=True)
class TrustRadius(Clip):
    """A radius that doubles after steps that reached it and lowered f, and halves below those that raised f.

    A step that raised f (or led to where it is not finite) is taken back: P is fitted once more where x was,
    and a shorter step follows. No constants of scale: the first radius is ``|P g|`` with P scaled by the
    first pair, a length in units of x. f may rise by ``slack`` rounding units, so that the last digits do not
    stall. The comparison needs values of one deterministic function.

    Parameters
    ----------
    shrink, grow : float
        Factors of the radius, in (0, 1) and at least 1.
    slack : float
        In units of ``eps |f|``.
    """

    shrink: float = 0.5
    grow: float = 2.0
    slack: float = 10.0
    needs_value: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _keep(self, "shrink", "(0, 1)", "0.5 halves the radius")
        _keep(self, "grow", "[1, inf)", "2 doubles the radius")
        _keep(self, "slack", "[0, inf)", "0 allows no rise at all")

    def init(self, x: Array) -> TrustMemory:
        """Return the memory to start with."""
        xp = namespace(x)
        zero = xp.zeros_like(x[0])
        return TrustMemory(
            best=Point(xp.asarray(x, copy=True), xp.zeros_like(x), xp.full_like(zero, float("inf"))),
            radius=zero,
            length=xp.zeros_like(zero),
            bound=zero > 0,
            rejected=xp.zeros((), dtype=xp.int32, device=device_of(x)),
        )

    def judge(self, memory: TrustMemory, here: Point, usable: Array) -> tuple[Point, Array, TrustMemory]:
        """Return (where to step from, whether it is usable, memory)."""
        xp = namespace(here.x)
        best = memory.best
        known = xp.isfinite(best.value)
        allowed = xp.abs(xp.where(known, best.value, xp.zeros_like(best.value)))
        keep = usable & ((here.value <= best.value + self.slack * eps(here.x) * allowed) | ~known)
        wider = xp.where(memory.bound, self.grow * memory.radius, memory.radius)
        best = where(keep, owned(here), best)
        after = memory._replace(
            best=best,
            radius=xp.where(keep, wider, self.shrink * memory.length),
            rejected=memory.rejected + xp.astype(~keep, xp.int32),
        )
        return best, keep | known, after

    def limit(self, memory: TrustMemory, move: Array) -> tuple[Array, TrustMemory]:
        """Return (the move within its limit, memory)."""
        xp = namespace(move)
        length = norm(move)
        radius = xp.where(memory.radius > 0, memory.radius, length)
        held = xp.minimum(length, radius)
        # `length` again unless clipped, so a step of the limit's own size counts as having reached it
        after = memory._replace(radius=radius, length=held, bound=length >= radius)
        return move * _shrink(length, held), after


def _keep(clip: Clip, name: str, within: str, hint: str) -> None:
    object.__setattr__(clip, name, real(name, getattr(clip, name), within, hint))


def norm(x: Array) -> Array:
    """Return |x| without overflow, a 0-d array of the dtype of x."""
    xp = namespace(x)
    largest = xp.max(xp.abs(x))
    unit = xp.where(largest > 0, largest, xp.ones_like(largest))
    return unit * xp.sqrt(xp.sum((x / unit) ** 2))


def _shrink(length: Array, limit: Array) -> Array:
    """Return the factor that brings `length` down to `limit`, 1 if it is below."""
    xp = namespace(length)
    over = length > limit
    one = xp.ones_like(length)
    return xp.where(over, limit / xp.where(over, length, one), one)
