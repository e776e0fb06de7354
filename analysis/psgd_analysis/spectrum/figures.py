"""One function for each figure: it takes a result and matplotlib Axes (or makes some), and returns the Axes.

Lines and markers differ in shape as well as in colour, so that a figure survives black-and-white print.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from psgd_core.display import axes

from ..look import COLORS, DASHES, METHODS, color_of, styles
from .broadening import smoothed
from .table import number

if TYPE_CHECKING:
    from .results import Comparison, Density, Eigenvalues, Extremes, GroupStudy, Ordering, RankStudy

BLACK, GREY, BLUE, VERMILION, SKY = (COLORS[name] for name in ("black", "grey", "blue", "vermilion", "sky"))
WINE = METHODS["LowRank"]


def comparison(result: Comparison, ax: Any = None) -> Any:
    """Draw the sorted ``|λ|`` of H and of each ``P H``, on a logarithmic axis; a flat line is a perfect P.

    Each is divided by its geometric mean: the scale of P belongs to the learning rate. c is the criterion
    over its minimum. Crosses mark negative eigenvalues.
    """
    ax = axes(ax)
    n = len(result.values[0])
    marked = False
    looks = styles(result.labels[1:])
    for i, (label, values, kappa) in enumerate(
        zip(result.labels, result.values, result.condition_numbers, strict=True)
    ):
        values = values[np.argsort(-np.abs(values))]  # noqa: PLW2901
        shown = np.where(values == 0, np.nan, np.abs(values))
        shown = shown / np.exp(np.nanmean(np.log(shown)))
        style = (GREY, "-", 2.4) if i == 0 else (looks[label]["color"], looks[label]["linestyle"], 1.8)
        x = np.arange(1, n + 1)
        ax.plot(
            x,
            shown,
            color=style[0],
            linestyle=style[1],
            linewidth=style[2],
            label=f"{label}: c = {result.criteria[i]:.3g}, κ = {number(kappa, 3)}",
        )
        negative = np.flatnonzero(values < 0)
        if negative.size and n <= 200:
            ax.plot(x[negative], shown[negative], "x", color=style[0], markersize=4, markeredgewidth=1)
            marked = True
    ax.set_yscale("log")
    ax.set_xlabel("index of the eigenvalue, by falling |λ|" + (" (x: negative)" if marked else ""))
    ax.set_ylabel("|λ| / geometric mean")
    ax.set_title(f"Eigenvalues before and after preconditioning: {result.name}")
    return _finished(ax)


def eigenvalues(result: Eigenvalues, ax: Any = None) -> Any:
    """Draw the eigenvalues of P in ascending order, on a logarithmic axis."""
    ax = axes(ax)
    if result.complete:
        ax.plot(np.arange(1, result.n + 1), result.values, ".-", color=BLUE, linewidth=1, markersize=4)
    else:
        half = len(result.values) // 2
        for part, start in ((result.values[:half], 1), (result.values[half:], result.n - half + 1)):
            ax.plot(start + np.arange(len(part)), part, "o", color=BLUE, markersize=4)
    ax.set_yscale("log")
    ax.set_xlabel("index of the eigenvalue")
    ax.set_ylabel("eigenvalue of P")
    ax.set_title(f"Spectrum of {result.name}, κ = {number(result.condition_number, 3)}")
    return _finished(ax, legend=False)


def extremes(result: Extremes, ax: Any = None) -> Any:
    """Draw the ends of a spectrum, outermost first, with error bars; λ is logarithmic away from 0."""
    ax, k = axes(ax), len(result.smallest)
    ends = (
        ("largest", result.largest[::-1], result.largest_error[::-1], BLUE, "^"),
        ("smallest", result.smallest, result.smallest_error, VERMILION, "v"),
    )
    for label, values, errors, color, marker in ends:
        ax.errorbar(np.arange(1, k + 1), values, yerr=errors, fmt=marker, color=color, capsize=3, label=label)
    magnitudes = np.abs(np.concatenate([result.smallest, result.largest]))
    if np.max(magnitudes) > 0:
        ax.set_yscale("symlog", linthresh=max(float(np.min(magnitudes)), 1e-6 * float(np.max(magnitudes))))
    ax.axhline(0, color=GREY, linewidth=1)
    ax.set_xticks(np.arange(1, k + 1))
    ax.set_xlabel("place from its end of the spectrum")
    ax.set_ylabel("eigenvalue λ")
    ax.set_title(f"Ends of the spectrum of {result.name}, n = {result.n}")
    return _finished(ax)


def density(result: Density, ax: Any = None, exact: np.ndarray | None = None) -> Any:
    """Draw a spectral density with its error band; with `exact`, the known eigenvalues' own beside it.

    A linear density counts eigenvalues, over a logarithmic vertical axis, so that a single outlier is seen
    beside the bulk: its peak is 1. Where outliers lie many bulks away, λ is logarithmic as well, beyond the
    bulk.
    """
    ax = axes(ax)
    log = result.scale == "log"
    unit = 1.0 if log else result.n * result.width * float(np.sqrt(2 * np.pi))
    t, phi, low, high = _with_gaps(result, unit)
    ax.fill_between(
        t, low, high, color=SKY, alpha=0.45, linewidth=0, label=f"{100 * result.confidence:g} % interval"
    )
    ax.plot(t, phi, color=BLUE, linewidth=1.6, label="stochastic Lanczos quadrature")
    if log and np.any(result.negative > 0):
        ax.plot(
            result.grid, result.negative, color=VERMILION, linestyle=":", linewidth=1.6, label="of it, λ < 0"
        )
    if exact is not None:
        truth = unit * smoothed(exact, t[~np.isnan(phi)], result.width, result.scale)
        known = np.full(t.size, np.nan)
        known[~np.isnan(phi)] = truth
        ax.plot(t, known, color=BLACK, linestyle="--", linewidth=1.1, label="exact, broadened alike")
    if log:
        ax.set_xlabel("log10 |λ|")
        ax.set_ylabel("fraction of eigenvalues per decade")
        ax.set_ylim(bottom=0)
    else:
        top = float(np.nanmax(high))
        ax.set_yscale("log")
        ax.set_ylim(max(0.02, 1e-6 * top), 3 * top)
        ax.set_ylabel("eigenvalues within σ√(2π) (a single one: 1)")
        ax.set_xlabel(
            "eigenvalue λ" + (" (logarithmic beyond the bulk)" if _far_outliers(ax, result) else "")
        )
    below = f", {result.below:.2g} of them below {result.floor:.2g}" if log and result.below > 0 else ""
    ax.set_title(f"Spectral density of {result.name}: n = {result.n}{below}, σ = {number(result.width, 2)}")
    return _finished(ax)


def _far_outliers(ax: Any, result: Density) -> bool:
    """Make the axis of λ logarithmic beyond the bulk if the spectrum is many times longer than that."""
    t = result.grid
    if t.size == 1:
        return False
    mass = np.cumsum(result.density * np.minimum(np.gradient(t), result.width))
    ends = t[np.searchsorted(mass, [0.05 * mass[-1], 0.95 * mass[-1]])]
    bulk = max(float(np.max(np.abs(ends))), 4 * result.width)
    if np.max(np.abs(t)) < 20 * bulk:
        return False
    ax.set_xscale("symlog", linthresh=bulk, linscale=2)
    ax.set_xlim(t[0], 1.2 * t[-1] if t[-1] > bulk else t[-1])
    return True


def rank_study(result: RankStudy, ax: Any = None) -> Any:
    """Draw the condition number that is left over the rank, for one tail, for both, and fitted."""
    ax = axes(ax)
    x = np.arange(len(result.ranks))
    curves: list[tuple[str, Any, str, Any, str]] = [
        ("ρI + UUᵀ: one tail", result.one_tail_condition, COLORS["olive"], DASHES[3], "s"),
        ("ρ(I + UVᵀ): both tails", result.best_condition, COLORS["indigo"], "-", "o"),
    ]
    if np.any(result.reachable_condition < 0.999 * result.best_condition):
        curves.append(("ρ(I + UVᵀ): least possible", result.reachable_condition, COLORS["teal"], ":", "v"))
    if result.products:
        curves += [
            ("(I + UVᵀ)diag(d): best", result.diagonal_condition, COLORS["brown"], "-", "D"),
            (f"LowRank(r), {result.products} products", result.fitted_condition, WINE, "--", "^"),
        ]
    for label, values, color, dash, marker in curves:
        if np.all(np.isnan(values)):
            continue
        ax.plot(
            x, values, color=color, linestyle=dash, marker=marker, markersize=6, linewidth=1.8, label=label
        )
    ax.axhline(result.condition_number, color=GREY, linewidth=1)
    ax.annotate(
        "H itself",
        (x[-1], result.condition_number),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color=GREY,
        fontsize="small",
    )
    ax.set_yscale("log")
    ax.set_xticks(x, [str(r) for r in result.ranks])
    ax.set_xlabel("rank r: columns of U and V")
    ax.set_ylabel("κ(P H) = max|λ| / min|λ|")
    ax.set_title(f"What rank r takes off the spectrum of {result.name}, n = {result.n}")
    return _finished(ax)


def group_study(result: GroupStudy, ax: Any = None) -> Any:
    """Draw the criterion of each group's best P (bars), and the condition number that it leaves."""
    names = [
        f"{name}  ({size})" if i and size else name
        for i, (name, size) in enumerate(zip(result.groups, result.largest_orbit, strict=True))
    ]
    ax = _bars(names, result.criteria, result.condition_numbers, axes(ax))
    ax.set_title(f"The best P of each group (orbits of size) on {result.name}, n = {result.n}")
    return _finished(ax, legend=False)


def criteria(result: Comparison, ax: Any = None) -> Any:
    """Draw the criterion of each preconditioner (bars), and the condition number that it leaves."""
    names = ["none (P = ρ²I)", *result.labels[1:]]
    ax = _bars(names, result.criteria, result.condition_numbers, axes(ax))
    ax.set_title(f"Preconditioners of {result.name}, n = {len(result.values[0])}")
    return _finished(ax, legend=False)


def ordering(result: Ordering, ax: Any = None) -> Any:
    """Draw what a group's exact minimiser leaves in the given and in the new order of the parameters."""
    kappas = np.array([result.condition_before, result.condition_after])
    values = np.array([result.criterion_before, result.criterion_after]) / result.criterion_floor
    ax = _bars(["given order", "new order"], values, kappas, axes(ax))
    ax.set_title(f"What an order of the parameters is worth, {result.name}, n = {result.n}")
    return _finished(ax, legend=False)


def _bars(names: Sequence[str], criteria: np.ndarray, kappas: np.ndarray, ax: Any) -> Any:
    """Draw a bar for each criterion, from its minimum 1 on; the first is grey."""
    y = np.arange(len(names))
    far = float(np.max(criteria))
    colors = [color_of(name) or (BLUE if i else GREY) for i, name in enumerate(names)]
    ax.barh(y, criteria - 1, left=1, color=colors, height=0.7)
    for i, (kappa, criterion) in enumerate(zip(kappas, criteria, strict=True)):
        ax.annotate(
            f"{criterion:.4g}   [κ {number(kappa, 3)}]",
            (criterion, i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    if far > 20:
        ax.set_xscale("log")
        ax.set_xlim(1, far**1.45)
    else:
        ax.set_xlim(1, 1 + 1.45 * max(far - 1, 0.05))
    ax.set_yticks(y, names)
    ax.invert_yaxis()
    ax.set_xlabel("criterion over its minimum on GL(n)   [κ(P H) that is left]")
    return ax


def _with_gaps(result: Density, unit: float) -> tuple[np.ndarray, ...]:
    """Return grid, density and band in `unit`, broken by NaN where the grid leaves a gap out."""
    t = result.grid
    gaps = np.flatnonzero(np.diff(t) > 2 * result.width) + 1 if t.size > 1 else np.zeros(0, dtype=int)
    curves = (t, unit * result.density, unit * result.lower, unit * result.upper)
    return tuple(np.insert(curve, gaps, np.nan if i else t[gaps - 1]) for i, curve in enumerate(curves))


def _finished(ax: Any, legend: bool = True) -> Any:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="#D9D9D9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.title.set_fontsize("medium")
    if legend:
        ax.legend(fontsize="small", frameon=False)
    return ax
