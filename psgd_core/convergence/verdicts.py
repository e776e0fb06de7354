"""Whether a run did what theory predicts: a small set of expectations, and their verdicts on traces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from ..arrays.arguments import described
from .traces import Trace, exceeds, fit_rate, level


class Status(Enum):
    """How a run ended; the values are what to tell the reader."""

    CONVERGED = "converged linearly to rounding"
    FLOOR_FELL = "settled at a floor that falls with the step"
    TRACKED = "kept up with the moving target"
    SLOW = "converged, but slower than theory predicts"
    UNFINISHED = "was still falling when the run ended: give it more updates"
    STALLED = "stopped above the level it should reach"
    FLOOR_STAYED = "settled at a floor that does not fall with the step"
    LOST = "did not keep up with the moving target"
    DIVERGED = "diverged"
    TOO_SHORT = "has too few records to be judged"


class Verdict(NamedTuple):
    """A judgement: what happened, and one sentence of why."""

    status: Status
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the run did what was expected of it."""
        return self.status in (Status.CONVERGED, Status.FLOOR_FELL, Status.TRACKED)


@dataclass(frozen=True)
class LinearToRounding:
    """Expect linear convergence of the distance, down to rounding.

    Parameters
    ----------
    bound : float
        The last distance must not exceed it.
    rate : float, optional
        The rate that theory predicts (`predicted_rate`); without it only the last distance is judged.
    tolerance : float
        How much slower than `rate` the fit may be, as a share of it. A faster fit is no failure, since the
        start may lack the slowest mode.
    """

    bound: float
    rate: float | None = None
    tolerance: float = 0.25

    def judge(self, trace: Trace) -> Verdict:
        """Return the verdict on the trace's distance."""
        if early := _unusable(trace, "distance", self.bound):
            return early
        d = trace.column("distance")
        positive = int(np.sum(np.isfinite(d) & (d > 0)))
        fit = fit_rate(trace.updates, d) if positive >= 4 else None
        if exceeds(d[-1], self.bound):
            what = f"distance {d[-1]:.2g} after {trace.updates[-1]} updates, above {self.bound:.2g}"
            falling = fit is not None and fit.floor == 0 and exceeds(fit.rate * (fit.stop - fit.start), 1)
            return Verdict(Status.UNFINISHED if falling else Status.STALLED, what)
        what = f"distance {d[-1]:.2g}, at most {self.bound:.2g}"
        # Fewer than 3 checkpoints above the floor bound the rate from below only.
        if (
            self.rate is None
            or fit is None
            or fit.points < 3
            or not exceeds(np.max(d[np.isfinite(d)]), self.bound)
        ):
            return Verdict(Status.CONVERGED, what)
        what += f"; rate {fit.rate:.3g} per update for a predicted {self.rate:.3g}"
        slow = exceeds((1 - self.tolerance) * self.rate, fit.rate)
        return Verdict(Status.SLOW if slow else Status.CONVERGED, what)


@dataclass(frozen=True)
class FallingFloor:
    """Expect a level at the end that shrinks with the step.

    Parameters
    ----------
    reference : float
        The `level` that the same run has with the larger, constant step.
    bound : float
        The annealed run's level must not exceed it.
    ratio : float
        How many times below `reference` it must be.
    column : str
        The column to compare; by default the criterion's gap, which is proportional to the step.
    """

    reference: float
    bound: float
    ratio: float = 2.0
    column: str = "gap"

    def judge(self, trace: Trace) -> Verdict:
        """Return the verdict on the level of the trace's column."""
        if early := _unusable(trace, self.column, self.bound):
            return early
        end = level(trace.column(self.column))
        if exceeds(end, self.bound):
            return Verdict(Status.STALLED, f"{self.column} {end:.2g} at the end, above {self.bound:.2g}")
        what = f"{self.column} {end:.2g} at the end, {self.reference:.2g} with the larger step"
        fell = not exceeds(end * self.ratio, self.reference)
        return Verdict(Status.FLOOR_FELL if fell else Status.FLOOR_STAYED, what)


@dataclass(frozen=True)
class Tracks:
    """Expect the distance to a moving target to stay below a bound, from halfway on.

    Parameters
    ----------
    bound : float
        No distance of the second half may exceed it.
    """

    bound: float

    def judge(self, trace: Trace) -> Verdict:
        """Return the verdict on the trace's distance."""
        if early := _unusable(trace, "distance", self.bound):
            return early
        d = trace.column("distance")
        worst = float(np.max(d[d.size // 2 :]))
        what = f"distance at most {worst:.2g} in the second half, for a bound of {self.bound:.2g}"
        return Verdict(Status.LOST if exceeds(worst, self.bound) else Status.TRACKED, what)


Expectation = LinearToRounding | FallingFloor | Tracks
"""What theory predicts for a run."""


def judge(trace: Trace, expectation: Expectation) -> Verdict:
    """Return whether the trace is as expected, and why.

    A limit is met up to a relative 1e-6, so that no verdict depends on the last bit.
    """
    return expectation.judge(trace)


def _unusable(trace: Trace, column: str, bound: float) -> Verdict | None:
    """Return the verdict on a trace that is too short, or has grown tenfold beyond the bound."""
    if not isinstance(trace, Trace):
        raise TypeError(f"`trace` must be a Trace, got {described(trace)}")
    x = trace.column(column)
    if x.size < 4:
        return Verdict(Status.TOO_SHORT, f"{x.size} records, at least 4 are needed")
    known = x[np.isfinite(x)]
    first = float(known[0]) if known.size else math.nan
    if not np.all(np.isfinite(x[x.size // 2 :])) or exceeds(x[-1], max(10 * first, bound)):
        what = f"{column} {x[-1]:.2g} after {trace.updates[-1]} updates, from {first:.2g}"
        return Verdict(Status.DIVERGED, what)
    return None
