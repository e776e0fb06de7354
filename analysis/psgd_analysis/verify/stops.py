"""When a run may end early, and which part of its curve is the descent."""

from __future__ import annotations

from dataclasses import dataclass

from psgd_core.convergence import LinearToRounding, Trace, Verdict, level


@dataclass(frozen=True)
class Settled:
    """The distance is below a bound, and has not halved over the last records."""

    bound: float
    records: int = 12

    def __call__(self, trace: Trace) -> bool:
        """Return whether the run may end."""
        d = trace.distance
        if len(d) < 2 * self.records or not d[-1] <= self.bound:
            return False
        return min(d[-self.records :]) >= 0.5 * min(d[: -self.records])  # also where both are 0


@dataclass(frozen=True)
class Below:
    """The distance is below a bound, after enough records to be judged by."""

    bound: float
    records: int = 4

    def __call__(self, trace: Trace) -> bool:
        """Return whether the run may end."""
        return len(trace.distance) >= self.records and trace.distance[-1] <= self.bound


@dataclass(frozen=True)
class GapBelow:
    """The criterion's gap is below a bound: its level over the last fifth, not a lucky moment."""

    bound: float
    records: int = 50

    def __call__(self, trace: Trace) -> bool:
        """Return whether the run may end."""
        return len(trace.gap) >= self.records and level(trace.gap) <= self.bound


def descent(trace: Trace) -> Trace:
    """Return the curve down to ten times the level it ends at: what follows is rounding, and has no rate.

    A curve that has not come far, a hundred times that, or that is there in fewer than four records, is
    returned whole.
    """
    d, threshold = trace.distance, 10 * level(trace.distance, 0.1)
    reached = next((i for i, x in enumerate(d) if x <= threshold), None)
    if reached is None or reached < 3 or not d[0] > 100 * threshold:
        return trace
    return cut(trace, reached + 1)


def cut(trace: Trace, records: int) -> Trace:
    """Return the first records of a trace, without residuals and steps."""
    beginning = Trace(trace.name)
    for updates, distance, gap in zip(trace.updates[:records], trace.distance, trace.gap, strict=False):
        beginning.record(updates, distance=distance, gap=gap)
    return beginning


@dataclass(frozen=True)
class LinearDescent:
    """Expect the distance to end below a bound, and to get there at a rate (None: at any).

    The same as `LinearToRounding`, but for the rate's being fitted to the way down alone.
    """

    bound: float
    rate: float | None = None
    tolerance: float = 0.25

    def judge(self, trace: Trace) -> Verdict:
        """Return the verdict on the trace's distance."""
        end = LinearToRounding(self.bound).judge(trace)
        if self.rate is None or not end.passed:
            return end
        return LinearToRounding(self.bound, self.rate, self.tolerance).judge(descent(trace))
