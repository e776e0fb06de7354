"""How far one step may go: (1) rests on a quadratic model that holds near x only (section 4).

A clip limits ``P g``. `Norm` and `Elements` have fixed limits, which fit problems of one scale;
`AdaptiveNorm` and `TrustRadius` find theirs, so that rescaling x or f changes nothing. A tuple of clips
applies one after another. Clips are frozen and hashable; what they learn is in a memory, passed in and
returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..arrays.arguments import as_float, described, keep, require_number
from ..arrays.brief import Brief
from ..arrays.library import Array, device_of, eps, known, namespace
from ..arrays.sums import norm
from ..arrays.trees import owned, where
from ..arrays.vectors import finite


class Point(NamedTuple):
    """Where a step starts."""

    x: Array  # (n,)
    g: Array  # (n,) gradient
    value: Array  # 0-d; NaN if not known

    @property
    def is_finite(self) -> Array:
        """Whether the gradient is finite, and the value not infinite: a 0-d bool."""
        xp = namespace(self.value)
        usable: Array = finite(self.g) & xp.logical_not(xp.isinf(self.value))
        return usable


class Clip(Brief):
    """A limit on ``P g``; this one has none."""

    needs_value: ClassVar[bool] = False
    """Whether it compares the function's values: these must then be of one deterministic function."""

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
        (move,), memory = self.limit_parts(memory, [move])
        return move, memory

    def limit_parts(self, memory: Any, parts: Sequence[Array]) -> tuple[list[Array], Any]:
        """Return (the parts of one move within its limit, memory), for a move kept as several vectors."""
        return list(parts), memory


class NormClip(Clip):
    """A limit on ``|P g|`` that keeps the direction; a subclass says how long the move may be."""

    def bound(self, memory: Any, length: Array) -> tuple[Array, Any]:
        """Return (the length that a move of this length, 0-d, is cut down to, memory)."""
        raise NotImplementedError

    def limit_parts(self, memory: Any, parts: Sequence[Array]) -> tuple[list[Array], Any]:
        """Return (the parts of one move within its limit, memory); the norm is that of all of them."""
        xp = namespace(*parts)
        length = xp.astype(norm(*parts), parts[0].dtype, copy=False)
        allowed, memory = self.bound(memory, length)
        over, one = length > allowed, xp.ones_like(length)
        if known(over) is False:
            return list(parts), memory
        ratio = xp.where(over, allowed / xp.where(over, length, one), one)
        return [part * xp.astype(ratio, part.dtype, copy=False) for part in parts], memory


@dataclass(frozen=True, repr=False)
class Norm(NormClip):
    """``|P g| <= size``, the direction kept: the paper's clip."""

    size: float

    def __post_init__(self) -> None:
        keep(self, size=_size(self.size))

    def bound(self, memory: Any, length: Array) -> tuple[Array, Any]:
        """Return (the length that a move of this length, 0-d, is cut down to, memory)."""
        return namespace(length).minimum(length, 0 * length + self.size), memory


@dataclass(frozen=True, repr=False)
class Elements(Clip):
    """``|(P g)_i| <= size`` for each element."""

    size: float

    def __post_init__(self) -> None:
        keep(self, size=_size(self.size))

    def limit_parts(self, memory: Any, parts: Sequence[Array]) -> tuple[list[Array], Any]:
        """Return (the parts of one move within its limit, memory)."""
        xp, size = namespace(*parts), self.size
        bounds = [xp.full_like(part, size) for part in parts]
        return [xp.minimum(xp.maximum(x, -b), b) for x, b in zip(parts, bounds, strict=True)], memory


@dataclass(frozen=True, repr=False)
class Chain(Clip):
    """Clips one after another; at most the first may be a `TrustRadius`."""

    clips: tuple[Clip, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.clips, tuple):
            raise TypeError(f"`clips` must be a tuple of Clips, got {described(self.clips)}")
        for clip in self.clips:
            if not isinstance(clip, Clip):
                raise TypeError(f"`clip` must hold Clips only, got {described(clip)}; a number is Norm(size)")

    @property
    def needs_value(self) -> bool:  # type: ignore[override]
        """Whether one of the clips compares the function's values."""
        return any(clip.needs_value for clip in self.clips)

    def init(self, x: Array) -> Any:
        """Return the memory to start with."""
        return tuple(clip.init(x) for clip in self.clips)

    def judge(self, memory: Any, here: Point, usable: Array) -> tuple[Point, Array, Any]:
        """Return (where to step from, whether it is usable, memory)."""
        return self._through("judge", memory, here, usable)

    def limit(self, memory: Any, move: Array) -> tuple[Array, Any]:
        """Return (the move within its limit, memory)."""
        return self._through("limit", memory, move)

    def limit_parts(self, memory: Any, parts: Sequence[Array]) -> tuple[list[Array], Any]:
        """Return (the parts of one move within its limit, memory)."""
        return self._through("limit_parts", memory, list(parts))

    def _through(self, verb: str, memory: Any, *values: Any) -> tuple[Any, ...]:
        """Return values after a verb of all clips, one after another, and the memory."""
        after = []
        for clip, held in zip(self.clips, memory, strict=True):
            *values, new = getattr(clip, verb)(held, *values)
            after.append(new)
        return *values, tuple(after)


class AdaptiveNormMemory(NamedTuple):
    """Memory of `AdaptiveNorm`."""

    size: Array  # 0-d: mean of |P g| after clipping
    weight: Array  # 0-d: its weight, 1 - decay^t


@dataclass(frozen=True, repr=False)
class AdaptiveNorm(NormClip):
    """``|P g| <= factor`` times its own running mean: for stochastic functions.

    A single outlier, of the gradient or of a P that is not fitted yet, moves x no farther than `factor` usual
    steps. The mean is of lengths *after* clipping, so each step multiplies it by at most
    ``1 + (1 - decay)(factor - 1)``, and it follows lasting changes slowly.

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
        keep(
            self,
            factor=require_number("factor", self.factor, "(1, inf)", "2 allows twice the usual size"),
            decay=require_number("decay", self.decay, "[0, 1)", "0.9 averages ten steps"),
        )

    def init(self, x: Array) -> AdaptiveNormMemory:
        """Return the memory to start with."""
        xp = namespace(x)
        return AdaptiveNormMemory(xp.zeros_like(x[0]), xp.zeros_like(x[0]))

    def bound(self, memory: AdaptiveNormMemory, length: Array) -> tuple[Array, AdaptiveNormMemory]:
        """Return (the length that a move of this length, 0-d, is cut down to, memory)."""
        xp, started = namespace(length), memory.weight > 0
        mean = memory.size / xp.where(started, memory.weight, xp.ones_like(length))
        allowed = xp.minimum(length, xp.where(started & (mean > 0), self.factor * mean, length))
        return allowed, AdaptiveNormMemory(
            self.decay * memory.size + (1 - self.decay) * allowed,
            self.decay * memory.weight + (1 - self.decay),
        )


class TrustMemory(NamedTuple):
    """Memory of `TrustRadius`."""

    best: Point  # the last point kept
    radius: Array  # 0-d: limit of |P g|; 0 before the first step
    length: Array  # 0-d: |P g| of the last step, after clipping
    bound: Array  # 0-d bool: the last step reached the limit
    rejected: Array  # 0-d int32: steps taken back


@dataclass(frozen=True, repr=False)
class TrustRadius(NormClip):
    """A radius that doubles after steps that reached it and lowered f, and halves below those that raised f.

    A step that raised f, or led to a point where f is not finite, is taken back: P is fitted once more at the
    old x, and a shorter step follows. There are no constants of scale: the first radius is ``|P g|`` with P
    scaled by the first pair, a length in units of x. f may rise by ``slack`` rounding units, so that the last
    digits do not stall. The comparison needs values of one deterministic function.

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
        keep(
            self,
            shrink=require_number("shrink", self.shrink, "(0, 1)", "0.5 halves the radius"),
            grow=require_number("grow", self.grow, "[1, inf)", "2 doubles the radius"),
            slack=require_number("slack", self.slack, "[0, inf)", "0 allows no rise at all"),
        )

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
        valued = xp.isfinite(best.value)
        allowed = xp.abs(xp.where(valued, best.value, xp.zeros_like(best.value)))
        no_worse = here.value <= best.value + self.slack * eps(here.x) * allowed
        kept = usable & (no_worse | xp.logical_not(valued))
        wider = xp.where(memory.bound, self.grow * memory.radius, memory.radius)
        best = where(kept, owned(here), best)
        after = memory._replace(
            best=best,
            radius=xp.where(kept, wider, self.shrink * memory.length),
            rejected=memory.rejected + xp.astype(xp.logical_not(kept), xp.int32),
        )
        return best, kept | valued, after

    def bound(self, memory: TrustMemory, length: Array) -> tuple[Array, TrustMemory]:
        """Return (the length that a move of this length, 0-d, is cut down to, memory)."""
        xp = namespace(length)
        radius = xp.where(memory.radius > 0, memory.radius, length)
        allowed = xp.minimum(length, radius)
        # a step as long as the radius counts as having reached it
        return allowed, memory._replace(radius=radius, length=allowed, bound=length >= radius)


def as_clip(clip: Any, name: str = "clip") -> Clip:
    """Return a setting as one Clip: None has no limit, a number is a `Norm`, a tuple a `Chain`."""
    if clip is None:
        return Chain(())
    if isinstance(clip, tuple | list):
        return Chain(tuple(clip))
    if as_float(clip) is not None:
        return Norm(clip)
    if not isinstance(clip, Clip):
        ending = f"; call it: {clip.__name__}()" if isinstance(clip, type) else ""
        wanted = "a Clip, a tuple of Clips, a number or None"
        raise TypeError(f"`{name}` must be {wanted}, got {described(clip)}{ending}")
    return clip


def _size(size: float) -> float:
    return require_number("size", size, "(0, inf]", "leave the clip out to have no limit")
