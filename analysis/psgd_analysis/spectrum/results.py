"""What the studies return: frozen values that print as a table, plot themselves and turn into JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from . import figures
from .broadening import Scale
from .table import Result, Table, number


@dataclass(frozen=True, eq=False, repr=False)
class Eigenvalues(Result):
    """The eigenvalues of a fitted preconditioner P, as far as its structure gives them."""

    name: str
    values: np.ndarray  # (m,), ascending
    n: int
    error: float  # bound on the error of each value where they were found by iteration, else 0

    @property
    def complete(self) -> bool:
        """Whether all n are there; if not, these are the ends of the spectrum."""
        return self.values.size == self.n

    @property
    def condition_number(self) -> float:
        """The largest over the smallest."""
        return float(self.values[-1] / self.values[0])

    def table(self) -> Table:
        """Return smallest, median, largest and their ratio."""
        found = "all" if self.complete else f"{self.values.size} at the ends"
        rows = [("eigenvalues known", found), ("smallest", number(self.values[0]))]
        if self.complete:
            rows.append(("median", number(np.median(self.values))))
        rows += [("largest", number(self.values[-1])), ("condition number", number(self.condition_number))]
        return Table(f"Eigenvalues of {self.name}, n = {self.n}", ("", "value"), tuple(rows))

    def plot(self, ax: Any = None) -> Any:
        """Draw the eigenvalues over their index, on a logarithmic axis."""
        return figures.eigenvalues(self, ax)


@dataclass(frozen=True, eq=False, repr=False)
class Extremes(Result):
    """The ends of a spectrum, with their eigenvectors."""

    name: str
    smallest: np.ndarray  # (k,), ascending
    largest: np.ndarray  # (k,), ascending
    smallest_error: np.ndarray  # (k,) residuals |A x - θ x|, |x| = 1: there is an eigenvalue this close
    largest_error: np.ndarray  # (k,)
    n: int
    smallest_vectors: Array  # (n, k): column i belongs to smallest[i]; on the operator's library
    largest_vectors: Array  # (n, k)

    @property
    def condition_number(self) -> float:
        """The largest over the smallest if all are of one sign, else NaN: the middle decides then."""
        low, high = self.smallest[0], self.largest[-1]
        return float(max(high / low, low / high)) if low * high > 0 else math.nan

    def table(self) -> Table:
        """Return the eigenvalues with their residuals, which bound their errors."""
        ends = (
            ("smallest", self.smallest, self.smallest_error),
            ("largest", self.largest, self.largest_error),
        )
        rows = tuple(
            (
                f"{end} {i + 1}" if end == "smallest" else f"{end} {len(values) - i}",
                number(x, 10),
                number(e, 2),
            )
            for end, values, errors in ends
            for i, (x, e) in enumerate(zip(values, errors, strict=True))
        )
        return Table(
            f"Ends of the spectrum of {self.name}, n = {self.n}", ("", "eigenvalue", "residual"), rows
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the eigenvalues over their index, with their error bounds."""
        return figures.extremes(self, ax)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """What preconditioners leave of H: made by `compare`. Arrays and tuples: an entry for each, H first."""

    name: str
    criterion_floor: float  # the criterion's minimum over all P, 2 sum |λ|
    labels: tuple[str, ...]  # "H" first
    values: tuple[np.ndarray, ...]  # each (n,), ascending: eigenvalues of H, and of each P H
    criteria: np.ndarray  # tr(P H^2 + P^{-1}) over `criterion_floor`; for H that of the best multiple of I
    condition_numbers: np.ndarray  # max |λ| / min |λ|
    spreads: np.ndarray  # standard deviation of log10 |λ|, in decades
    upper_tails: np.ndarray  # max |λ| over the median |λ|
    lower_tails: np.ndarray  # median |λ| over min |λ|
    storage: np.ndarray  # int: numbers that Q holds, 0 where that is not known
    how: tuple[str, ...]  # "exact", "search", "given", or products that it was fitted to

    @property
    def best(self) -> str:
        """The label with the least criterion, H aside unless it is alone."""
        if len(self.labels) == 1:
            return self.labels[0]
        return self.labels[1 + int(np.argmin(self.criteria[1:]))]

    def table(self) -> Table:
        """Return criterion, condition number and tails of each."""
        rows = tuple(
            (
                label,
                f"{self.criteria[i]:.5g}",
                *(number(x[i]) for x in (self.condition_numbers, self.upper_tails, self.lower_tails)),
                f"{self.spreads[i]:.3g}",
                str(self.storage[i]) if self.storage[i] else "-",
                self.how[i],
            )
            for i, label in enumerate(self.labels)
        )
        header = ("", "criterion", "κ(PH)", "upper tail", "lower tail", "decades", "numbers", "P is")
        n, negative = len(self.values[0]), int(np.sum(self.values[0] < 0))
        title = f"Preconditioners of {self.name}, n = {n}, {negative} eigenvalues negative"
        return Table(title, header, rows)

    def plot(self, ax: Any = None) -> Any:
        """Draw the sorted ``|λ|`` of all, on a logarithmic axis."""
        return figures.comparison(self, ax)

    def plot_criteria(self, ax: Any = None) -> Any:
        """Draw the criterion of each, over its minimum, as bars."""
        return figures.criteria(self, ax)


@dataclass(frozen=True, eq=False, repr=False)
class Density(Result):
    """A broadened spectral density with its error band; made by `density`."""

    name: str
    grid: np.ndarray  # (points,): λ, or log10 |λ|
    density: np.ndarray  # (points,): fraction of the eigenvalues per unit of the grid
    lower: np.ndarray  # (points,) ends of the interval for the exact broadened density, both errors included
    upper: np.ndarray  # (points,)
    truncation: np.ndarray  # (points,) the part of the interval that is due to stopping at `steps`
    displaced: float  # `truncation` integrated: the fraction of eigenvalues that may be displaced by it
    negative: np.ndarray  # (points,) the part of the density that belongs to negative eigenvalues
    width: float  # σ of the Gaussian, in units of the grid
    scale: Scale
    confidence: float  # of the interval, at each single point
    below: float  # fraction of eigenvalues with |λ| <= floor
    floor: (
        float  # rounding; on a logarithmic scale also what m steps do not resolve: the density starts there
    )
    n: int
    probes: int
    steps: int
    reorthogonalized: bool
    extremes: tuple[float, float]  # smallest and largest node: inside the spectrum, and soon at its ends

    @property
    def products(self) -> int:
        """Hessian-vector products used."""
        return self.probes * self.steps

    def table(self) -> Table:
        """Return how the density was found, and how well."""
        unit = "decades of |λ|" if self.scale == "log" else "in λ"
        rows = (
            ("smallest, largest node", f"{number(self.extremes[0])}, {number(self.extremes[1])}"),
            ("Gaussian width", f"{number(self.width)} ({unit})"),
            ("products with H", f"{self.products} = {self.probes} probes x {self.steps} steps"),
            ("displaced by truncation", f"{self.displaced:.2g}"),
            (f"|λ| below {self.floor:.2g}", f"{self.below:.3g}"),
        )
        return Table(f"Spectral density of {self.name}, n = {self.n}", ("", "value"), rows)

    def plot(self, ax: Any = None, exact: np.ndarray | None = None) -> Any:
        """Draw the density with its band, and the exact one of known eigenvalues `exact` beside it."""
        return figures.density(self, ax, exact)


@dataclass(frozen=True, eq=False, repr=False)
class RankStudy(Result):
    """What a correction of rank r makes of a spectrum; made by `rank_study`. Arrays: one entry per rank."""

    name: str
    n: int
    condition_number: float  # of H itself
    criterion_floor: float  # the criterion's minimum over all P, 2 sum |λ|
    ranks: np.ndarray
    best_condition: np.ndarray  # of the criterion's minimiser over Q = ρ (I + U V^T)
    best_spread: np.ndarray
    best_criterion: np.ndarray  # its value, over `criterion_floor`
    reachable_condition: np.ndarray  # the least that any Q = ρ (I + U V^T) has
    diagonal_condition: np.ndarray  # of the minimiser over (I + U V^T) diag(d); NaN where not looked for
    diagonal_criterion: np.ndarray
    one_tail_condition: np.ndarray  # of the criterion's minimiser over P = ρ I + U U^T
    one_tail_spread: np.ndarray
    one_tail_criterion: np.ndarray
    fitted_condition: np.ndarray  # of LowRank(r), fitted online; NaN where it was not
    fitted_spread: np.ndarray
    fitted_criterion: np.ndarray
    products: int

    def table(self) -> Table:
        """Return the remaining condition numbers, rank by rank."""
        header: tuple[str, ...] = ("rank r", "κ, ρI + UUᵀ", "κ, ρ(I + UVᵀ)", "least κ", "criterion")
        columns = [
            self.one_tail_condition,
            self.best_condition,
            self.reachable_condition,
            self.best_criterion,
        ]
        if not np.all(np.isnan(self.diagonal_condition)):
            header += ("κ, (I + UVᵀ)diag(d)", "criterion")
            columns += [self.diagonal_condition, self.diagonal_criterion]
        if self.products:
            header += ("κ fitted", "criterion fitted")
            columns += [self.fitted_condition, self.fitted_criterion]
        rows = tuple(
            (str(int(r)), *(number(column[i]) for column in columns)) for i, r in enumerate(self.ranks)
        )
        return Table(
            f"Rank study of {self.name}, n = {self.n}, κ = {number(self.condition_number)}", header, rows
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the remaining condition numbers over the rank."""
        return figures.rank_study(self, ax)


@dataclass(frozen=True, eq=False, repr=False)
class GroupStudy(Result):
    """What each group's best P leaves of a spectrum; made by `group_study`. Arrays: one entry per group."""

    name: str
    n: int
    condition_number: float  # of H itself
    criterion_floor: float  # the criterion's minimum over GL(n), 2 sum |λ|
    groups: tuple[str, ...]
    criteria: np.ndarray  # c(P*) over `criterion_floor`
    condition_numbers: np.ndarray  # of P* H
    spreads: np.ndarray  # standard deviation of log10 |λ(P* H)|, in decades
    upper_tails: np.ndarray  # max |λ| over the median |λ|
    lower_tails: np.ndarray  # median |λ| over min |λ|
    largest_orbit: np.ndarray  # int; 0 for what is no group of Theorem 3.1
    storage: np.ndarray  # int: numbers that Q holds
    how: tuple[str, ...]  # "exact", "search", or products that it was fitted to

    def table(self) -> Table:
        """Return what each group leaves, and what it costs."""
        header = (
            "group",
            "criterion",
            "κ(P*H)",
            "upper tail",
            "lower tail",
            "orbit",
            "numbers",
            "P* is",
        )
        rows = tuple(
            (
                label,
                f"{self.criteria[i]:.5g}",
                *(number(x[i]) for x in (self.condition_numbers, self.upper_tails, self.lower_tails)),
                str(self.largest_orbit[i]) if self.largest_orbit[i] else "-",
                str(self.storage[i]),
                self.how[i],
            )
            for i, label in enumerate(self.groups)
        )
        title = f"Group study of {self.name}, n = {self.n}, κ = {number(self.condition_number)}"
        return Table(title, header, rows)

    def plot(self, ax: Any = None) -> Any:
        """Draw the criterion of each group's best P as bars, with what is left of κ."""
        return figures.group_study(self, ax)


@dataclass(frozen=True, eq=False, repr=False)
class Ordering(Result):
    """An order of the parameters that suits a subgroup K; made by `best_order`."""

    name: str
    n: int
    order: np.ndarray  # (n,) int: place i of the new order holds parameter order[i]
    criterion_before: float  # minimum over the group of K, in the given order
    criterion_after: float  # in the new one
    criterion_floor: float  # over GL(n)
    condition_before: float  # of P* H
    condition_after: float

    def table(self) -> Table:
        """Return criterion and condition number, before and after."""
        floor = self.criterion_floor
        rows = (
            ("given order", number(self.condition_before), f"{self.criterion_before / floor:.5g}"),
            ("new order", number(self.condition_after), f"{self.criterion_after / floor:.5g}"),
        )
        return Table(
            f"Order of the parameters of {self.name}, n = {self.n}", ("", "κ(P*H)", "criterion"), rows
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw what the group leaves in the given and in the new order, as bars."""
        return figures.ordering(self, ax)
