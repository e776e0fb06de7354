"""Figures of single results: ranks of entropies, correlation coefficients, gaps, distances.

As in `figures`, each function draws on the axes it is given, or on new ones, and returns them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from psgd_core.display import axes

from .style import COLORS, MARKERS, finish, rows, signed, size_text, styled

if TYPE_CHECKING:
    from .correlations import Correlations
    from .distances import Distance
    from .gaps import Gap
    from .subsets import Subsets


def entropy_ranks(subsets: Subsets, ax: Any = None) -> Any:
    """Draw all entropies in increasing order, in nats on a logarithmic axis, with both subsets marked.

    Parameters
    ----------
    subsets : Subsets
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    h = np.sort(subsets.entropies)
    n, size = h.size, subsets.size
    # more points than pixels would not show
    shown = np.unique(np.linspace(0, n - 1, min(n, 4000)).astype(int))
    ax.plot(shown + 1, np.where(h > 0, h, np.nan)[shown], color="0.2", linewidth=1.5)
    for start, stop, color, name, mean in (
        (1, size, COLORS[0], "low", subsets.low_mean),
        (n - size + 1, n, COLORS[1], "high", subsets.high_mean),
    ):
        ax.axvspan(start, stop, color=color, alpha=0.2, linewidth=0)
        ax.plot(
            [start, stop], [mean or math.nan] * 2, color=color, linewidth=2, label=f"{name}, mean {mean:.2g}"
        )
    if h[-1] > 0:
        ax.set_yscale("log")
    ax.set_xlim(1, max(n, 2))
    title = f"The {size_text(size)} lowest and highest entropies of {size_text(n)}"
    return finish(
        ax, title, "examples, from lowest to highest entropy", "softmax entropy / nats", legend=True
    )


def correlation_chart(results: Mapping[str, Correlations], ax: Any = None) -> Any:
    """Draw the four coefficients of one or several pairs of scores, as in table 10.

    Parameters
    ----------
    results : mapping of str to Correlations
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, (6.4, 3.2))
    drawn = list(styled(results))
    kinds = list(drawn[0][1].coefficients)
    for i, (name, c, style) in enumerate(drawn):
        values = [k.statistic for k in c.coefficients.values()]
        where = np.arange(len(kinds)) + (i - (len(drawn) - 1) / 2) * 0.22
        ax.hlines(where, 0, values, color=style["color"], linewidth=1.5)
        ax.plot(values, where, MARKERS[i % len(MARKERS)], color=style["color"], markersize=7, label=name)
        for x, y in zip(values, where, strict=True):
            ax.annotate(
                signed(x), (x, y), xytext=(7 if x >= 0 else -7, 0), textcoords="offset points", va="center",
                ha="left" if x >= 0 else "right", fontsize=8,
            )  # fmt: skip
    ax.axvline(0, color="0.45", linewidth=0.8)
    rows(ax, kinds)
    negative = any(k.statistic < 0 for _, c, _ in drawn for k in c.coefficients.values())
    ax.set_xlim(-1.1 if negative else 0, 1.1)
    pairs = {c.names for _, c, _ in drawn}
    title = "Correlation" + (" of {} and {}".format(*pairs.pop()) if len(pairs) == 1 else " of two scores")
    several = len(drawn) > 1
    finish(ax, title, "coefficient (dimensionless)", "", legend=False)
    if several:
        ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def gap_chart(results: Mapping[str, Gap], ax: Any = None) -> Any:
    """Draw accuracy, mean margin and mean entropy on training and test set, all as shares of their maxima.

    Parameters
    ----------
    results : mapping of str to Gap
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax, (6.4, 3.2))
    drawn = list(styled(results))
    names = ("accuracy", "mean margin", "mean entropy\nover ln C")
    for i, (name, g, style) in enumerate(drawn):
        where = np.arange(len(names)) + (i - (len(drawn) - 1) / 2) * 0.24
        train, test = (
            [u.accuracy, u.margin.mean, u.entropy.mean / math.log(u.classes)] for u in (g.train, g.test)
        )
        look = {
            "color": style["color"],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 7,
            "linestyle": "",
        }
        label = f"loss gap {signed(g.loss)} nats"
        ax.hlines(where, train, test, color=style["color"], linewidth=1.5)
        ax.plot(test, where, label=f"{name}\n{label}" if name else label, **look)
        ax.plot(train, where, markerfacecolor="white", **look)
    low = min(0.0, *(u.margin.mean for _, g, _ in drawn for u in (g.train, g.test)))
    ax.set_xlim(low - 0.03, 1.03)
    rows(ax, names)
    finish(ax, "Training set (open) and test set (filled)", "share of the largest possible value", "")
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def distance_bars(distance: Distance, ax: Any = None) -> Any:
    """Draw the distance from initialisation of every array of parameters.

    Parameters
    ----------
    distance : Distance
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    count = len(distance.leaves)
    ax = axes(ax, (6.4, 1.2 + 0.24 * min(count, 60)))
    ax.barh(np.arange(count), [x for _, x in distance.leaves], color=COLORS[0])
    rows(ax, [path or "parameters" for path, _ in distance.leaves])
    title = (
        f"Distance from initialisation, {distance.total:.3g} over all {size_text(distance.size)} parameters"
    )
    return finish(ax, title, "||θ − θ₀||, in the parameters' units", "")
