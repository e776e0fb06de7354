"""What the step of an update is divided by.

The move ``Q <- (I - step * grad / N) Q`` needs a scale N for the gradient ``a a^T - b b^T``. A normaliser
says what is measured on the sample, and how N follows from it. `Running`, `Sample` and `Gradient` keep
``step * |grad| / N`` below 1. `Kalman` needs no step: it finds its gain from what the pairs teach.

Measured on an indefinite H outside the group, the choice also decides *where* the fit ends:
`Running` ends at the minimiser of the criterion; `Sample` does not, because dividing every update by its own
size reweights the samples, and no annealing of the step brings that back; `Gradient` keeps moving by `step`
however close it is, so its error has a floor proportional to the step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays import batched
from ..arrays.arguments import described, require_number
from ..arrays.brief import Brief
from ..arrays.library import Array, clamped, eps, namespace
from .counters import DAMPING
from .first_contact import Met
from .generators import Generator, Measure, Side


class Normalizer(Brief, ABC):
    """Where the scale N of a step comes from.

    Sizes are *square roots* (the scale of a and b, not of ``a a^T``), so that no square of a pair's entries
    is ever formed at full scale: products of 1e30 do not overflow float32.
    """

    measure: ClassVar[Measure]
    """The sample's size: the curvature bound ``|a|^2 + |b|^2``, or the norm of ``a a^T - b b^T``."""

    def held_shape(self, s: int, count: int) -> tuple[int, ...]:
        """Return the shape of what is held for `count` orbits of size s."""
        return (count,)

    def known(self, held: Array, met: Met, pairs: int) -> Array:
        """Return what to hold for orbits that were started from so many pairs: nothing."""
        return held

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

    def move(
        self, e: Generator, q: Array, held: Array, size: Array, step: float | Array, side: Side
    ) -> tuple[Array, Array]:
        """Return the blocks q, (s, s, c), moved by E, and what to hold for the next update.

        Parameters
        ----------
        e : Generator
            In units, see `Generator.in_units`.
        q, held, size
            The blocks, what was held for them, and the sample's sizes, (c,).
        step : float or array
        side : str
            Where E stands.
        """
        mu, after = self.rate(held, size, e.unit, step)
        return e.move(q, mu, side), after


@dataclass(frozen=True, repr=False)
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


@dataclass(frozen=True, repr=False)
class Sample(Normalizer):
    """The sample's own curvature bound: fastest at first, and biased where H lies outside the group."""

    measure: ClassVar[Measure] = "curvature"

    def scale(self, held: Array, size: Array, step: float | Array) -> tuple[Array, Array]:
        """Return (the sample's size, the same)."""
        return size, size


@dataclass(frozen=True, repr=False)
class Gradient(Normalizer):
    """The norm of the sample's gradient: constant speed, hence an error floor proportional to the step."""

    measure: ClassVar[Measure] = "gradient"

    def scale(self, held: Array, size: Array, step: float | Array) -> tuple[Array, Array]:
        """Return (the sample's size, the same)."""
        return size, size


START = 64.0
"""The mean square of log P's errors at the start, per mode."""

BOLD = 1.5
"""Gains over those that average evenly: what came early is forgotten as ``t^-1.5``, for 6 % more variance."""

GUARD = 0.5
"""The most of Q that a single update may take away; of it the share ``sqrt(s gain)``, if that is below 1."""

CAP = 4.0
"""Size of a pair's move, over s, from which on it counts no further in what is learnt from it."""

NEWEST = 0.1
"""The largest weight of the newest pair in a running mean."""

SURPRISE = 2.0
"""A rise of r in a single update from which on p rises with it: the noise was that of a fit H has left."""

CERTAIN = 10.0
"""How far above the noise's the square of a mean must be to be taken for an error of P."""

LARGEST = 1e6
"""The largest entry that is squared, over those expected: the guard leaves no more of it anyway."""


@dataclass(frozen=True, repr=False)
class Kalman(Normalizer):
    """The gain of a Kalman filter: P remembers the last pairs, or all of them, and takes no step.

    For the geometry "Lyapunov", whose moves are Newton's: a pair's move S (of log P) is the error of P plus
    noise, so averaging all moves with gains ``1 / t`` learns as much from t pairs as can be learnt to first
    order. Each orbit holds p, its error's mean square as far as known, and r, a running mean of ``|S|^2``.
    The gain is ``p / r``, a little more, and takes p to ``(1 - p / r) p``. With steady noise that is
    ``1 / t``, whatever the number of probes. Where H is positive definite and in the group, the noise falls
    with the error, the gain stays, and the fit converges exponentially.

    - **What is subtracted.** S comes from ``a a^T - c b b^T - (1 - c) D``, with ``D = (Q Q^T)^{-1}`` what
      ``b b^T`` is on average. The mean is the same for every c. 1 is exact for definite H in the group; 0,
      which learns what ``(mean h h^T)^{-1/2}`` knows, is better by half between eigenvalues of opposite
      signs. So c is the coefficient of regression of ``a a^T - D`` on ``b b^T - D``, from running means.
    - **Doubt.** A running mean of S, of its diagonal, that is larger than noise alone makes it
      says that the error is larger than p: then p is raised. So it is, with r, where r more than doubles at
      once. Far starts, and jumps of H, are met in this way, also where all pairs are remembered.
    - **Care.** A pair takes at most ``sqrt(s gain) / 2`` of Q away, and half: outliers do little harm.
    - **Forgetting.** With a memory of T pairs the gain is at least ``2 / (T + 1)``.

    Probes must have ``E[v v^T] = I``, as those of `psgd_core.curvature` have. It holds 4 + s numbers for
    every orbit of size s.
    """

    measure: ClassVar[Measure] = "curvature"

    def held_shape(self, s: int, count: int) -> tuple[int, ...]:
        """Return (4 + s, count): p, r, both means of the regression, and the mean of S's diagonal."""
        return 4 + s, count

    def known(self, held: Array, met: Met, pairs: int) -> Array:
        """Return what to hold for orbits that were started from so many pairs: these are in the average."""
        xp = namespace(held)
        least = xp.full_like(met.noise, eps(met.q) ** 2)
        r = xp.maximum(xp.minimum(met.noise, xp.full_like(least, (CAP * met.q.shape[0]) ** 2)), least)
        p = xp.maximum(r / (pairs - met.q.shape[0]), least)
        return xp.concat([xp.stack([p, r, met.ab, met.bb]), xp.zeros_like(held[4:, :])])

    def scale(self, held: Array, size: Array, step: float | Array) -> tuple[Array, Array]:
        """Raise TypeError: there is no scale for a step, moves are made by `move`."""
        raise TypeError("normalizer=Kalman() has no scale for a step; use Running() where steps are taken")

    def move(
        self, e: Generator, q: Array, held: Array, size: Array, step: float | Array, side: Side
    ) -> tuple[Array, Array]:
        """Return the blocks moved, and what to hold; `step` is the least gain, and E stands on the left."""
        xp, s = namespace(q), q.shape[0]
        least = eps(q) ** 2
        p, r, ab, bb, mean = held[0, :], held[1, :], held[2, :], held[3, :], held[4:, :]
        # the pair's moves by a and by b, without what they are on average
        unit = xp.minimum(e.unit, xp.full_like(e.unit, LARGEST))
        one = batched.identity(s, 1, q)
        plus, minus = (unit * unit / 2 * term - one / 2 for term in e.terms())
        of_ab, of_bb = xp.sum(plus * minus, axis=(0, 1)), batched.squares(minus)
        # subtract as much of b's as it explains, by the pairs before
        some = bb > 0
        c = xp.where(some, ab, xp.zeros_like(ab)) / xp.where(some, bb, xp.ones_like(bb))
        c = clamped(c, 0, 1)
        move = plus - c * minus
        square, move = batched.squares(move), e.turned(move)
        # the gain
        first = xp.logical_not(p > 0)
        most = xp.full_like(p, (CAP * s) ** 2)
        r = xp.where(first, xp.minimum(square, most), r)
        p = xp.where(first, xp.full_like(p, START * s * s), p)
        r = xp.maximum(r, xp.full_like(r, least))
        gain = xp.minimum(xp.maximum(BOLD * p / r, xp.zeros_like(p) + step), xp.ones_like(p))
        # move, as far as is safe
        bound = xp.maximum(unit * unit * e.bound_with(c) + 1 - c, xp.ones_like(c))
        mu = xp.minimum(gain / 4, GUARD * xp.minimum(xp.sqrt(s * gain), xp.ones_like(gain)) / bound)
        new = q - 2 * mu * batched.matmul(move, q)
        # learn: large moves count as those at the cap
        weight = xp.minimum(gain, xp.full_like(gain, NEWEST))
        capped = xp.sqrt(most / xp.maximum(square, most))
        diagonal = xp.sum(one * move, axis=1) * capped
        capped_a = xp.sqrt(most / xp.maximum(batched.squares(plus), most))
        kept = 1 - weight
        before, r = r, kept * r + weight * xp.minimum(square, most)
        ab, bb = kept * ab + weight * capped_a * of_ab, kept * bb + weight * capped_a * of_bb
        mean = kept * mean + weight * diagonal
        p = p * (1 - xp.minimum(4 * mu / BOLD, xp.full_like(mu, 0.5)))
        p = p * xp.maximum(r / before / SURPRISE, xp.ones_like(r))
        p = xp.maximum(p, xp.sum(mean * mean, axis=0) - CERTAIN * weight * r)
        p = xp.maximum(p, r * step / BOLD)
        p = xp.maximum(p, xp.full_like(p, least))
        return new, xp.concat([xp.stack([p, r, ab, bb]), mean])


def settle_options(p: Any) -> None:
    """Raise unless a preconditioner's damping and normaliser are valid; the damping becomes a float."""
    if not isinstance(p.normalizer, Normalizer):
        raise TypeError(
            f"`normalizer` must be a Normalizer, got {described(p.normalizer)}; "
            "use one of psgd_core.normalizers: Running(), Sample(), Gradient(), Kalman()"
        )
    if isinstance(p.normalizer, Kalman) and not p.takes_memory:
        raise ValueError(
            f"`normalizer` must not be Kalman() for {type(p).__name__}, whose modes have no common rate; use "
            "Running(), Sample() or Gradient()"
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
