"""Intervals of 95 %, and exact tests at the level that belongs to one end of them.

Means get Student's t interval. The bootstrap (BCa) is left alone on purpose: of 3 to 10 normal numbers its
interval lies on the wrong side of their mean two to six times as often as it says, and with rare outliers
still at 50.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
LEVEL = (1 - CONFIDENCE) / 2
"""Of a test to one side: as often as an interval lies wholly on the wrong side."""

FEWEST = 3
"""Seeds below which nothing is decided."""


class Interval(NamedTuple):
    """An estimate and the ends of its interval of 95 %."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return "0.142 [0.081, 0.203]", with as many decimals as the width calls for."""
        x, low, high = spoken(self, (self.high - self.low) / 2)
        return f"{x} [{low}, {high}]"


def mean(values: Sequence[float]) -> Interval:
    """Return the mean of at least two numbers with Student's t interval."""
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    unit = float(np.max(np.abs(x))) or 1.0  # losses that have run away have squares that overflow
    x = x / unit
    half = stats.t.ppf(1 - LEVEL, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size)
    return Interval(*(float(unit * bound) for bound in (x.mean(), x.mean() - half, x.mean() + half)))


def spread(values: Sequence[float], made_of: Sequence[float]) -> bool:
    """Return whether numbers differ by more than the rounding of those that they were computed from."""
    return max(values) - min(values) > 1e-9 * max(map(abs, made_of))


def share(successes: int, count: int) -> Interval:
    """Return the share of successes with Clopper and Pearson's exact interval."""
    from scipy import stats

    found = stats.binomtest(successes, count).proportion_ci(CONFIDENCE, method="exact")
    return Interval(successes / count, float(found.low), float(found.high))


def odds(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """Return the exact conditional interval of the odds ratio of two shares, each (successes, count).

    It excludes 1 where Fisher's exact test decides; its ends may be 0 and infinity.
    """
    from scipy import stats

    table = [[k, n - k] for k, n in (first, second)]
    found = stats.contingency.odds_ratio(table).confidence_interval(CONFIDENCE)
    return float(found.low), float(found.high)


def rises(rows: Sequence[Sequence[float]]) -> float:
    """Return the p-value of Page's test that the columns rise, of three or more; each row is a seed.

    Only the order within a row counts. With ties the normal approximation is used, without their correction,
    which errs on the safe side.
    """
    from scipy import stats

    x = np.asarray(rows, dtype=np.float64)
    tied = any(np.unique(row).size < row.size for row in x)
    return float(stats.page_trend_test(x, method="asymptotic" if tied else "auto").pvalue)


def spoken(values: Sequence[float], width: float) -> list[str]:
    """Return numbers with two digits of a width between them: the same decimals for all."""
    size = max(abs(x) for x in values)
    if not 0 < width < math.inf:
        return [f"{x:.4g}" for x in values]
    decimals = 1 - math.floor(math.log10(width))
    if size < 1e-3 or size >= 1e6:
        digits = max(0, math.floor(math.log10(size)) + decimals) if size else 0
        return [f"{x:.{min(digits, 9)}e}" for x in values]
    decimals = max(0, decimals)
    return [f"{round(x, decimals) + 0.0:.{decimals}f}" for x in values]  # never minus zero
