"""What the step of an update is divided by.

The move ``Q <- (I - step * grad / N) Q`` needs a scale N for the gradient ``a a^T - b b^T``. A normaliser
says what is measured on the sample, and how N follows from it. All three keep ``step * |grad| / N`` below 1.

Measured on an indefinite H outside the group, the choice also decides *where* the fit ends:
`Running` ends at the minimiser of the criterion; `Sample` does not, because dividing every update by its own
size reweights the samples, and no annealing of the step brings that back; `Gradient` keeps moving by `step`
however close it is, so its error has a floor proportional to the step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays.arguments import described, require_number
from ..arrays.library import Array, namespace
from .counters import DAMPING
from .generators import Measure


class Normalizer(ABC):
    """Where the scale N of a step comes from.

    Sizes are *square roots* (the scale of a and b, not of ``a a^T``), so that no square of a pair's entries
    is ever formed at full scale: products of 1e30 do not overflow float32.
    """

    measure: ClassVar[Measure]
    """The sample's size: the curvature bound ``|a|^2 + |b|^2``, or the norm of ``a a^T - b b^T``."""

    @abstractmethod
    def scale(self, held: Array, size: Array, step: float | Array) -> tuple[Array, Array]:
        """Return (N, what to hold for the next update), given what was held and the sample's size."""

    def rate(self, held: Array, size: Array, unit: Array | float, step: float | Array) -> tuple[Array, Array]:
        """Return (``step / N``, what to hold for the next update) for a generator in units of ``unit^2``.

        The rate is 0 where N is.
        """
        xp = namespace(size)
        n, after = self.scale(held, size, step)
        some = n > 0
        ratio = xp.where(some, unit, 0 * unit) / xp.where(some, n, xp.ones_like(n))
        return step * ratio * ratio, after


@dataclass(frozen=True)
class Running(Normalizer):
    """A running average of the curvature bound, held in the state: the default.

    A sample is divided by the average of the samples before it, which does not depend on it and so leaves
    the fixed point where it is. N is at least ``sqrt(step)`` times the sample's own bound, so that no
    single sample moves Q by more than ``sqrt(step)``; as the step is annealed that guard is reached ever
    more rarely, and the fit is unbiased in the limit. A sample enters the average with at most ten times its
    value, so that one outlier does not slow down the thousand updates after it.

    A decaying running maximum (the newest peer's choice) is as unbiased and, at the same step, three to ten
    times slower: it follows the tail of the samples' sizes instead of their bulk.

    Parameters
    ----------
    decay : float
        Weight of the past in the average, in [0, 1): 0.99 forgets within about 100 updates.
    """

    decay: float = 0.99
    measure: ClassVar[Measure] = "curvature"

    def __post_init__(self) -> None:
        given = self.decay
        object.__setattr__(self, "decay", require_number("decay", given))
        if not 0 <= self.decay < 1:
            raise ValueError(
                f"`decay` must lie in [0, 1), got {described(given)}; 0.99 forgets within about 100 updates"
            )

    def scale(self, held: Array, size: Array, step: float | Array) -> tuple[Array, Array]:
        """Return (N, the new average); nothing held yet means the sample's own size."""
        xp = namespace(held, size)
        before = xp.where(held > 0, held, size)
        after = self.decay * before + (1 - self.decay) * xp.minimum(size, 10 * before)
        return xp.maximum(before, step**0.25 * size), after


@dataclass(frozen=True)
class Sample(Normalizer):
    """The sample's own curvature bound: fastest at first, and biased where H lies outside the group."""

    measure: ClassVar[Measure] = "curvature"

    def scale(self, held: Array, size: Array, step: float | Array) -> tuple[Array, Array]:
        """Return (the sample's size, the same)."""
        return size, size


@dataclass(frozen=True)
class Gradient(Normalizer):
    """The norm of the sample's gradient: constant speed, hence an error floor proportional to the step."""

    measure: ClassVar[Measure] = "gradient"

    def scale(self, held: Array, size: Array, step: float | Array) -> tuple[Array, Array]:
        """Return (the sample's size, the same)."""
        return size, size


def settle_options(p: Any) -> None:
    """Raise unless a preconditioner's damping and normaliser are valid; the damping becomes a float."""
    if not isinstance(p.normalizer, Normalizer):
        raise TypeError(
            f"`normalizer` must be a Normalizer, got {described(p.normalizer)}; "
            "use one of psgd_core.normalizers: Running(), Sample(), Gradient()"
        )
    settle_damping(p)


def settle_damping(p: Any) -> None:
    """Raise unless a preconditioner's damping is valid; it becomes a float."""
    if p.damping is None:
        return
    damping, given = require_number("damping", p.damping), p.damping
    object.__setattr__(p, "damping", damping)
    if not 0 <= damping < float("inf"):
        raise ValueError(
            f"`damping` must be None or a finite number >= 0, got {described(given)}; None takes "
            f"{DAMPING['float32']} in float32 and {DAMPING['float64']} in float64 of the first "
            "pair's scale, 0 none"
        )
