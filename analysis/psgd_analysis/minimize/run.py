"""Running all contenders on one problem, with their evaluations counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..interrupts import until_interrupted
from ..problems import Problem
from .contenders import Contender, Limits, default_stop
from .counting import Counter, reached

Tick = Callable[[Contender, int], None]
"""Called once per iteration, with the contender and its seed."""


@dataclass
class Outcome:
    """One run of one contender."""

    seed: int
    counter: Counter
    nit: int = 0
    status: str = "interrupted"
    message: str = ""
    seconds: float = 0.0
    values: list[float] = field(default_factory=list)


@dataclass
class Line:
    """A contender and its runs: one line of the table."""

    contender: Contender
    outcomes: list[Outcome] = field(default_factory=list)


class Spread(NamedTuple):
    """Median and range over the runs that have the number, and how many do."""

    median: float
    low: float
    high: float
    runs: int


@dataclass
class Study:
    """The results of all contenders on a problem.

    Attributes
    ----------
    problem : Problem
    tol : float
        A run is done when ``f - f* <= tol``.
    maxiter : int
    lines : list of Line
    default_loss, default_gradients : float, int
        Where L-BFGS-B stops by SciPy's own tolerances, and the gradients it takes; NaN and 0 on stochastic
        problems.
    interrupted : bool
    """

    problem: Problem
    tol: float
    maxiter: int
    lines: list[Line] = field(default_factory=list)
    default_loss: float = math.nan
    default_gradients: int = 0
    interrupted: bool = False

    @property
    def reference(self) -> float:
        """f*: the known minimum, or else the lowest value that any run found."""
        if self.problem.minimum is not None:
            return float(self.problem.minimum)
        found = [o.counter.best for line in self.lines for o in line.outcomes]
        return min(found, default=math.nan)

    def to_level(self, line: Line, level: float) -> Spread:
        """Return the gradient-equivalents that the runs of a line took to reach a value."""
        spent = [reached(o.counter.trace, level) for o in line.outcomes]
        return spread([s for s in spent if s is not None])

    def gap(self, line: Line) -> Spread:
        """Return the lowest f - f* of the runs of a line."""
        return spread([o.counter.best - self.reference for o in line.outcomes])


def spread(numbers: Sequence[float]) -> Spread:
    """Return the spread of some numbers; NaN for none."""
    kept = [float(x) for x in numbers if math.isfinite(x)]
    if not kept:
        return Spread(math.nan, math.nan, math.nan, 0)
    return Spread(float(np.median(kept)), min(kept), max(kept), len(kept))


def usual_tol(problem: Problem) -> float:
    """Return the gap to reach: 1e-20 where the minimum is exactly 0, else sqrt(eps) of the way there is.

    In float32 1e-10. Where the minimum is not known the way is from the start to 0.
    """
    f0 = abs(float(problem.value(problem.start)))
    eps = float(np.finfo(problem.start.dtype).eps)
    if problem.minimum == 0.0 and not problem.stochastic:
        return 1e-20 if eps < 1e-10 else 1e-10
    return max(eps, abs(f0 - (problem.minimum or 0.0)) * eps**0.5)


def run_study(
    problem: Problem,
    contenders: Sequence[Contender],
    *,
    seeds: Sequence[int],
    tol: float,
    maxiter: int,
    tick: Tick = lambda contender, seed: None,
) -> Study:
    """Return all runs; after a KeyboardInterrupt those so far, the last one cut short.

    A contender without randomness runs once on a deterministic problem, with the first seed.
    """
    study = Study(problem, tol, maxiter)
    level = -math.inf if problem.minimum is None else float(problem.minimum) + tol

    def work() -> None:
        if not problem.stochastic:
            study.default_loss, study.default_gradients = default_stop(problem)
        for contender in contenders:
            line = Line(contender)
            study.lines.append(line)
            for seed in runs_of(contender, problem, seeds):
                _run(contender, line, problem, seed, Limits(level, maxiter), tick)

    study.interrupted = until_interrupted(work)
    return study


def runs_of(contender: Contender, problem: Problem, seeds: Sequence[int]) -> list[int]:
    """Return the seeds that a contender runs with."""
    return list(seeds) if contender.seeded or problem.stochastic else list(seeds[:1])


def _run(contender: Contender, line: Line, problem: Problem, seed: int, limits: Limits, tick: Tick) -> None:
    """Add one run to a line, complete or interrupted."""
    outcome = Outcome(seed, Counter(problem, np.random.default_rng([seed, 2])))

    def count() -> None:
        outcome.nit += 1
        tick(contender, seed)

    line.outcomes.append(outcome)
    try:
        end = contender.run(outcome.counter, limits._replace(tick=count), seed)
        outcome.nit, outcome.status, outcome.message, outcome.values = end
    finally:
        outcome.seconds = outcome.counter.seconds
