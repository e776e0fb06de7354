"""One counter for all contenders: what they evaluate, and the lowest value they reach.

The unit is the *gradient-equivalent*: a gradient is one, a Hessian-vector product is one (by reverse over
reverse, or as a difference of gradients, it costs about as much), values are counted on their own and cost
none, as every contender gets one beside each gradient.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..problems import Problem

COLUMNS = ("gradient_equivalents", "nfev", "njev", "nhev", "seconds", "fun")
"""Columns of a trace: `fun` is the lowest value so far."""

PATIENCE = 50
"""Number of values without progress beyond rounding after which a run has settled."""


@dataclass
class Counter:
    """A problem's functions on host vectors, counting.

    A point of the trace is a value asked for. On a stochastic problem a contender sees samples alone, one per
    point x (drawn anew when x changes, so that value, gradient and products at x agree); the trace then holds
    the expectation, looked up at each gradient and not counted.

    Parameters
    ----------
    problem : Problem
    rng : numpy.random.Generator, optional
        Draws the samples of a stochastic problem.
    """

    problem: Problem
    rng: np.random.Generator | None = None
    nfev: int = 0
    njev: int = 0
    nhev: int = 0
    final: float = math.nan
    trace: dict[str, list] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    def __post_init__(self) -> None:
        self._started = time.perf_counter()
        self._here: Any = None
        self._sample: Any = None

    @property
    def equivalents(self) -> int:
        """Gradients and Hessian-vector products so far."""
        return self.njev + self.nhev

    @property
    def best(self) -> float:
        """The lowest value so far, Inf before the first."""
        return self.trace["fun"][-1] if self.trace["fun"] else math.inf

    @property
    def settled(self) -> bool:
        """Whether recent progress is rounding only, on problems whose minimum is not known.

        Never on a stochastic problem.
        """
        f = self.trace["fun"]
        if self.problem.minimum is not None or self.problem.stochastic or len(f) <= PATIENCE:
            return False
        eps = float(np.finfo(self.problem.start.dtype).eps)
        return f[-1 - PATIENCE] - f[-1] <= 4 * eps * abs(f[-1])

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._started

    def restart_clock(self) -> None:
        """Count seconds from here."""
        self._started = time.perf_counter()

    def value(self, x: Any, sample: Any = None) -> float:
        """Return the function at x."""
        x = self._cast(x)
        f = float(self.problem.value(x, self._at(x, sample)))
        self.nfev += 1
        if not self.problem.stochastic:
            self._note(f)
        return f

    def gradient(self, x: Any, sample: Any = None) -> np.ndarray:
        """Return the gradient at x."""
        x = self._cast(x)
        if self.problem.stochastic:
            self._note(float(self.problem.value(x)))
        g = self.problem.gradient(x, self._at(x, sample))
        self.njev += 1
        return g

    def hvp(self, x: Any, v: Any, sample: Any = None) -> np.ndarray:
        """Return the Hessian at x times v, (n,) or (n, k) for k products."""
        x, v = self._cast(x), self._cast(v)
        product = self.problem.hvp(x, v, self._at(x, sample))
        self.nhev += 1 if v.ndim == 1 else v.shape[1]
        return product

    def _cast(self, x: Any) -> np.ndarray:
        """Return x in the problem's dtype: SciPy's minimisers work in float64."""
        return np.asarray(x, dtype=self.problem.start.dtype)

    def _at(self, x: np.ndarray, sample: Any) -> Any:
        """Return the sample given, or that of the point x."""
        if sample is not None or not self.problem.stochastic:
            return sample
        assert self.rng is not None
        if self._here is None or not np.array_equal(self._here, x):
            self._here, self._sample = x.copy(), self.problem.draw(self.rng)
        return self._sample

    def _note(self, f: float) -> None:
        """Add a point to the trace, or replace the last one if nothing was evaluated since."""
        self.final = f
        row = (
            self.equivalents, self.nfev, self.njev, self.nhev, self.seconds, min(f, self.best)
            if math.isfinite(f) else self.best,
        )  # fmt: skip
        for name, number in zip(COLUMNS, row, strict=True):
            self.trace[name].append(number)


def reached(trace: dict[str, list], level: float) -> int | None:
    """Return the gradient-equivalents a trace took to reach `level`, None if it did not."""
    for spent, f in zip(trace["gradient_equivalents"], trace["fun"], strict=True):
        if f <= level:
            return int(spent)
    return None


def thinned(trace: dict[str, list], most: int = 400) -> dict[str, list]:
    """Return a trace with at most about `most` points: those that got lower, the first, and the last."""
    f = np.asarray(trace["fun"])
    if f.size == 0:
        return {name: [] for name in trace}
    lower = np.concatenate([[True], f[1:] < f[:-1]])
    lower[-1] = True
    kept = np.flatnonzero(lower)
    if kept.size > most:
        kept = kept[np.unique(np.linspace(0, kept.size - 1, most).round().astype(int))]
    return {name: [values[i] for i in kept] for name, values in trace.items()}
