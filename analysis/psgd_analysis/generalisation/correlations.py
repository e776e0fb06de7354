"""Correlations between two scores of the same examples: Spearman, Pearson, Kendall, weighted tau (table 10).

All four come from `scipy.stats`. Ties, of which forgetting events have many, enter by average ranks
(Spearman) and by the tau-b correction (Kendall). The weighted tau is that of Vigna (2015): an exchange of two
examples weighs ``1/(1 + rank) + 1/(1 + rank')``, ranks counted from 0 at the *largest* score, averaged over
ranking by either score: what is most forgettable, or least certain, weighs most. Its distribution under
independence is not known, hence a p-value only by permutation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from psgd_core.display import html_table

from ..arrays import per_example
from ..checks import require_count
from ..tables import short
from . import charts


class Coefficient(NamedTuple):
    """A correlation coefficient in [-1, 1]."""

    statistic: float
    pvalue: float | None
    """Two-sided, against independence; None where it was not asked for (weighted tau)."""


@dataclass(frozen=True, repr=False)
class Correlations:
    """Four correlation coefficients of two scores. Made by `correlate`."""

    n: int
    """Number of examples."""
    spearman: Coefficient
    pearson: Coefficient
    kendall: Coefficient
    weighted_tau: Coefficient
    names: tuple[str, str] = ("x", "y")
    permutations: int = 0
    """Behind the weighted tau's p-value, which cannot be below ``1/(permutations + 1)``."""

    @property
    def coefficients(self) -> dict[str, Coefficient]:
        """The four, by the names they are shown with."""
        return {
            "Spearman": self.spearman,
            "Pearson": self.pearson,
            "Kendall": self.kendall,
            "weighted tau": self.weighted_tau,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the coefficients in types that JSON has."""
        named = {
            key: getattr(self, key)._asdict() for key in ("spearman", "pearson", "kendall", "weighted_tau")
        }
        return {"n": self.n, "names": list(self.names), "permutations": self.permutations, **named}

    def plot(self, ax: Any = None) -> Any:
        """Draw the four coefficients."""
        return charts.correlation_chart({" and ".join(self.names): self}, ax)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {c.statistic:.3g}" for name, c in self.coefficients.items())
        return f"Correlations({self.names[0]} and {self.names[1]}, {self.n} examples: {parts})"

    def _repr_html_(self) -> str:
        rows = [(name, short(c.statistic), _p(c.pvalue)) for name, c in self.coefficients.items()]
        caption = f"{self.names[0]} and {self.names[1]}, {self.n} examples"
        return html_table(caption, ("correlation", "coefficient", "p-value"), rows)


def _p(pvalue: float | None) -> str:
    """Return a p-value as text; an underflow is shown as a bound, not as zero."""
    return "< 1e-300" if pvalue is not None and pvalue < 1e-300 else short(pvalue, 2)


def correlate(
    x: Any,
    y: Any,
    *,
    names: tuple[str, str] = ("x", "y"),
    permutations: int = 0,
    rng: np.random.Generator | None = None,
) -> Correlations:
    """Return the rank and linear correlations of two scores.

    Parameters
    ----------
    x, y : array, shape (n,)
        Two scores of the same n >= 3 examples, finite, neither constant: `Forgetting.finite_scores` and
        entropies for table 10, the `finite_scores` of two optimisers for section 5.4.
    names : pair of str
        What they are, for tables and figures.
    permutations : int
        How many random permutations of y the p-value of the weighted tau is taken from, as
        ``(1 + #{|tau_permuted| >= |tau|}) / (1 + permutations)``; 0 for no p-value. Each costs O(n log n).
    rng : numpy.random.Generator, optional
        Draws the permutations; needed for them.

    Returns
    -------
    Correlations
        O(n log n) besides the permutations. Kendall's p-value is exact for few examples without ties, else
        that of the normal approximation, as Spearman's is that of the t distribution.

    Raises
    ------
    ValueError, TypeError
        If the scores do not fit the above, or `rng` is missing where it is needed.
    """
    from scipy import stats

    a, b = per_example("x", x), per_example("y", y)
    if a.size != b.size:
        raise ValueError(f"`y` must be as long as `x`, {a.size}, got {b.size}; score the same examples")
    if a.size < 3:
        raise ValueError(f"`x` must score at least 3 examples, got {a.size}; give more")
    for name, values in (("x", a), ("y", b)):
        if values.min() == values.max():
            raise ValueError(
                f"`{name}` must take more than one value, got {values[0]} for every example; "
                "there is nothing to correlate with a constant"
            )
    require_count("permutations", permutations, 0)
    tau = float(stats.weightedtau(a, b).statistic)
    pvalue = None
    if permutations:
        if not isinstance(rng, np.random.Generator):
            raise TypeError(
                f"`rng` must be a numpy.random.Generator where `permutations` are drawn, got "
                f"{type(rng).__name__}; give `numpy.random.default_rng(seed)`"
            )
        # Of equal value up to rounding counts as extreme: the sums are taken in another order.
        bar = abs(tau) * (1 - 1e-12)
        extreme = sum(
            abs(stats.weightedtau(a, rng.permutation(b)).statistic) >= bar for _ in range(permutations)
        )
        pvalue = (1 + int(extreme)) / (1 + permutations)
    spearman, pearson, kendall = (
        Coefficient(float(r.statistic), float(r.pvalue))
        for r in (stats.spearmanr(a, b), stats.pearsonr(a, b), stats.kendalltau(a, b))
    )
    return Correlations(a.size, spearman, pearson, kendall, Coefficient(tau, pvalue), names, permutations)
