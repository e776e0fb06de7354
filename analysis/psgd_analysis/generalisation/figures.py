"""Figures of uncertainty and forgetting: histograms of several optimisers in one picture, and scatters.

Every function draws on the matplotlib axes it is given, or on new ones, and returns them;
``ax.figure.savefig(...)`` writes the picture. Results are named in a mapping, ``{"PSGD": a, "SGD": b}``.
Figures of ranks, coefficients, gaps and distances are in `charts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from psgd_core.display import axes

from ..arrays import per_example
from .style import COLORS, COUNTS_MAP, decade, event_ticks, finish, note, signed, size_text, styled

if TYPE_CHECKING:
    from .forgetting import Forgetting
    from .statistics import Distribution, Uncertainty


def entropy_histogram(results: Mapping[str, Uncertainty], ax: Any = None) -> Any:
    """Draw the histograms of softmax entropies, in nats on a logarithmic axis.

    A bar left of the axis's break holds what lies below 1e-20 nats, zeros of saturated networks included.

    Parameters
    ----------
    results : mapping of str to Uncertainty
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    drawn = list(styled(results))
    _refuse_empty(results)
    first, last = _used_bins([u.entropy for _, u, _ in drawn], 1)
    bins = np.asarray(drawn[0][1].entropy.edges)
    edges = bins[first - 1 : last + 1]
    below = any(u.entropy.counts[0] for _, u, _ in drawn)
    if below:
        # two bins' width for what lies below, and a gap of one bin
        edges = np.concatenate([edges[0] * 10.0 ** np.array([-0.75, -0.25]), edges])
    for name, u, style in drawn:
        share = 100 * np.asarray(u.entropy.counts[first : last + 1]) / u.count
        if below:
            share = np.concatenate([[100 * u.entropy.counts[0] / u.count, 0.0], share])
        mean = f"mean {u.entropy.mean:.2g}"
        _stairs(ax, edges, share, f"{name}, {mean}" if name else mean, style)
        # a mean below the bins is marked in the middle of the bar for what lies below
        where = max(u.entropy.mean, math.sqrt(edges[0] * edges[1]))
        ax.plot([where], [0], marker="^", markersize=7, color=style["color"], clip_on=False, zorder=5)
    classes = sorted({u.classes for _, u, _ in drawn})
    for c in classes:
        note(ax, math.log(c), f"ln {c}")
    ax.set_xscale("log")
    ax.set_xlim(edges[0], max(edges[-1], 1.6 * math.log(classes[-1])))
    if below:
        _mark_below(ax, edges, float(bins[0]))
    ax.set_ylim(bottom=0)
    title = f"Softmax entropy of {_examples(u.count for _, u, _ in drawn)} (▲ mean)"
    return finish(ax, title, "entropy / nats", "examples per quarter decade / %", legend=True)


def margin_histogram(results: Mapping[str, Uncertainty], ax: Any = None) -> Any:
    """Draw the histograms of the margins between probabilities, shares on a logarithmic axis.

    Parameters
    ----------
    results : mapping of str to Uncertainty
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    drawn = list(styled(results))
    _refuse_empty(results)
    first, _ = _used_bins([u.margin for _, u, _ in drawn], 1)
    edges = np.asarray(drawn[0][1].margin.edges)[first - 1 :]
    least = min(1 / u.count for _, u, _ in drawn)
    for name, u, style in drawn:
        share = 100 * np.asarray(u.margin.counts[first:-1]) / u.count
        mean = f"mean {u.margin.mean:.3g}"
        _stairs(ax, edges, share, f"{name}, {mean}" if name else mean, style, baseline=50 * least)
    labelled = all(u.loss is not None for _, u, _ in drawn)
    if labelled and edges[0] < 0:
        note(ax, 0.0, "wrong ←  → right", xytext=(0, -2), ha="center")
    ax.set_yscale("log")
    ax.set_ylim(50 * least, 200)
    ax.set_xlim(edges[0] if labelled else 0, 1)
    which = "correct class − best other" if labelled else "largest − second largest"
    title = f"Margin of {_examples(u.count for _, u, _ in drawn)}"
    return finish(ax, title, f"margin, probability of {which}", "examples per bin of 0.025 / %", legend=True)


def forgetting_histogram(results: Mapping[str, Forgetting], ax: Any = None) -> Any:
    """Draw how many examples had how many forgetting events; those never learned stand apart.

    Parameters
    ----------
    results : mapping of str to Forgetting
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    drawn = list(styled(results))
    most = max((int(f.events.max()) for _, f, _ in drawn), default=0)
    never = any(f.never_learned.any() for _, f, _ in drawn)
    gap = 1 + most // 20
    place = most + 1 + gap
    width = 0.8 / len(drawn)
    wider = max(1, gap / 2)
    hatches = ("", "///", "...", "xx")
    for i, (name, f, style) in enumerate(drawn):
        counts = np.bincount(f.events[~f.never_learned], minlength=most + 1)
        where = np.arange(most + 1) + (i - (len(drawn) - 1) / 2) * width
        look = {
            "color": style["color"],
            "hatch": hatches[i % len(hatches)],
            "edgecolor": "white",
            "linewidth": 0,
        }
        share = f.unforgettable.mean()
        label = f"{name}, {share:.0%} unforgettable" if name else f"{share:.0%} unforgettable"
        ax.bar(where, counts, width, label=label, **look)
        if never:
            ax.bar(place + wider * where[0], f.never_learned.sum(), wider * width, **look)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7)
    event_ticks(ax, most, place if never else None)
    title = f"Forgetting events of {_examples(f.events.size for _, f, _ in drawn)}"
    return finish(ax, title, "forgetting events of an example", "examples", legend=True)


def forgettability_scatter(results: Mapping[str, Forgetting], ax: Any = None) -> Any:
    """Draw the forgetting events of every example under two optimisers, and Spearman's coefficient.

    Examples share few pairs of integers, so a dot stands for all those of a pair: its colour says how many.

    Parameters
    ----------
    results : mapping of str to Forgetting
        Two of the same examples.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If they are not two, or of different numbers of examples.
    """
    from matplotlib.colors import LogNorm
    from scipy import stats

    if len(results) != 2:
        raise ValueError(f"`results` must hold two optimisers to compare, got {len(results)}; choose two")
    (name_x, x), (name_y, y) = results.items()
    if x.events.size != y.events.size:
        raise ValueError(
            f"`results` must be of the same examples, got {x.events.size} and {y.events.size} of them; "
            "train both on the same data set"
        )
    ax = axes(ax, (5.6, 4.6))
    # examples never learned stand apart, beyond the largest number of events
    places, ticks = [], []
    for f in (x, y):
        most = int(f.events.max())
        place = most + 2 + most // 20
        places.append(np.where(f.never_learned, place, f.events))
        ticks.append((most, place if f.never_learned.any() else None))
    # a dot per pair of numbers, small enough not to overlap
    pairs, counts = np.unique(np.stack(places), axis=1, return_counts=True)
    order = np.argsort(counts)
    areas = 14 + 16 * np.log10(counts[order])
    cell = ax.get_window_extent().height * 72 / ax.figure.dpi / (pairs.max() + 2)
    dots = ax.scatter(
        *pairs[:, order], c=counts[order], s=areas * min(1.0, (0.9 * cell) ** 2 / areas.max()),
        cmap=COUNTS_MAP, norm=LogNorm(1, max(2, int(counts.max()))), edgecolors="0.4", linewidths=0.2,
    )  # fmt: skip
    ax.figure.colorbar(dots, ax=ax, label="examples", pad=0.02)
    end = min(ticks[0][0], ticks[1][0])
    ax.plot([0, end], [0, end], color=COLORS[1], linewidth=1, linestyle=(0, (5, 2)))
    ax.annotate("equal", (end, end), xytext=(2, 2), textcoords="offset points", color=COLORS[1], fontsize=9)
    event_ticks(ax, *ticks[0])
    event_ticks(ax, *ticks[1], axis="y")
    # the rank correlation
    scores = (x.finite_scores, y.finite_scores)
    constant = any(s.min() == s.max() for s in scores)
    rho = "undefined" if constant else signed(stats.spearmanr(*scores).statistic)
    title = f"Forgetting events of {size_text(x.events.size)} examples, Spearman {rho}"
    return finish(ax, title, f"forgetting events under {name_x}", f"forgetting events under {name_y}")


def entropy_scatter(forgetting: Forgetting, entropies: Any, ax: Any = None) -> Any:
    """Draw the entropy of every example over its forgetting events, with medians and quartiles (figure 7).

    Parameters
    ----------
    forgetting : Forgetting
    entropies : array, shape (n,)
        In nats, of the same examples; zeros are drawn at the smallest positive one.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If the numbers of examples differ.
    """
    h = per_example("entropies", entropies)
    if h.size != forgetting.events.size:
        raise ValueError(
            f"`entropies` must hold one per example, {forgetting.events.size}, got {h.size}; "
            "take them of the same data set"
        )
    ax = axes(ax)
    least = float(h[h > 0].min()) if np.any(h > 0) else 1.0
    h = np.maximum(h, least)
    most = int(forgetting.events.max())
    never = forgetting.never_learned
    place = most + 2 + most // 20
    x = np.where(never, place, forgetting.events)
    # Spread within a column by the golden ratio: even, and the same every time.
    spread = (np.arange(h.size) * 0.6180339887498949) % 1 - 0.5
    ax.scatter(
        x + 0.6 * spread, h, s=4, color=COLORS[0], alpha=max(0.05, min(0.6, 500 / h.size)), linewidths=0,
        rasterized=True,
    )  # fmt: skip
    columns = np.unique(x)
    quartiles = np.array([np.quantile(h[x == c], (0.25, 0.5, 0.75)) for c in columns]).T
    ax.errorbar(
        columns, quartiles[1], [quartiles[1] - quartiles[0], quartiles[2] - quartiles[1]], fmt="o",
        color=COLORS[1], markersize=4, linewidth=1.2, label="median and quartiles",
    )  # fmt: skip
    ax.set_yscale("log")
    event_ticks(ax, most, place if never.any() else None)
    title = f"Entropy and forgetting of {size_text(h.size)} examples"
    return finish(ax, title, "forgetting events of an example", "softmax entropy / nats", legend=True)


def _refuse_empty(results: Mapping[str, Uncertainty]) -> None:
    for name, u in results.items():
        if not u.count:
            raise ValueError(f"`results` must have examples, got none for {name!r}; leave it out")


def _examples(counts: Iterable[int]) -> str:
    counts = set(counts)
    return f"{size_text(counts.pop())} examples" if len(counts) == 1 else "all examples of each set"


def _used_bins(distributions: list[Distribution], margin: int) -> tuple[int, int]:
    """Return the first and last bin (1-based, as `counts` has them) with values in any, and some around."""
    inside = np.sum([d.counts for d in distributions], axis=0)[1:-1]
    used = np.flatnonzero(inside)
    if used.size == 0:
        return 1, min(8, inside.size)
    return max(1, int(used[0]) + 1 - margin), min(inside.size, int(used[-1]) + 1 + margin)


def _stairs(
    ax: Any, edges: np.ndarray, share: np.ndarray, label: str, style: dict[str, Any], baseline: float = 0.0
) -> None:
    ax.stairs(share, edges, baseline=baseline, fill=True, color=style["color"], alpha=0.18)
    ax.stairs(share, edges, baseline=baseline, linewidth=1.5, label=label, **style)


def _mark_below(ax: Any, edges: np.ndarray, least: float) -> None:
    """Label the bar of what lies below the bins, which start at `least`, and cut the axis beside it."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    middle = math.sqrt(edges[0] * edges[1])
    low, high = math.log10(edges[2]), math.log10(ax.get_xlim()[1])
    step = max(1, math.ceil((high - low) / 6))
    decades = [10.0**k for k in range(math.ceil(low), math.floor(high) + 1, step)]
    decades = [d for d in decades if d > edges[2] * 10]
    ax.xaxis.set_major_locator(FixedLocator([middle, *decades]))
    below = f"below\n{decade(least)}"
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: below if x < edges[1] else decade(x)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.annotate(
        "//",
        (math.sqrt(edges[1] * edges[2]), 0),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="center",
    )
