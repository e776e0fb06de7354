"""Figures of entropies, Hessians and costs, from records alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..look import LINES, finish
from .records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _cells(records: Sequence[Record], key: str) -> dict[str, list[Record]]:
    """Return the runs that have a number, by cell in order."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.final.get(key) is not None:
            found.setdefault(record.cell, []).append(record)
    return found


def _figure(columns: int = 1, width: float = 4.8, height: float = 3.6) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _legend(ax: Any) -> None:
    """Name the curves in a legend, if there are any."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7, frameon=False, loc="best")


def entropy_by_events(records: Sequence[Record]) -> Figure:
    """Draw the median entropy, and its quartiles, by number of forgetting events: Figure 7 in numbers.

    Medians over seeds of what each run's examples have.
    """
    figure, (ax,) = _figure()
    for i, (cell, runs) in enumerate(_cells(records, "by_events").items()):
        rows = np.array([r.final["by_events"] for r in runs], dtype=float)[:, :, 1:]
        there = np.isfinite(rows).any(axis=(0, 2))
        low, middle, high = np.nanmedian(rows[:, there], axis=0).T
        at = np.flatnonzero(there) + 0.12 * (i - 1)
        bars = np.maximum([middle - low, high - middle], 0)
        color = LINES[i % len(LINES)]
        ax.errorbar(at, middle, bars, fmt="o", ms=4, capsize=2, color=color, label=cell, linewidth=1.2)
    ax.set_yscale("log")
    ax.set_xticks(range(4), ["0", "1", "2", "3 or more,\nor never learned"])
    _legend(ax)
    finish(ax, "Entropy and forgetting of the oracle", "forgetting events", "entropy, nats (quartiles)")
    return figure


def densities(groups: Mapping[str, Sequence[str]]) -> Callable[[Sequence[Record]], Figure]:
    """Return what draws the density of the Hessian at each optimiser's solution, one pair of axes a model.

    Parameters
    ----------
    groups : dict
        Names of cells by model.
    """

    def drawn(records: Sequence[Record]) -> Figure:
        from .curvature import GRID

        figure, axes = _figure(len(groups))
        for ax, (model, names) in zip(axes, groups.items(), strict=True):
            cells = _cells([r for r in records if r.cell in names], "density")
            for i, (cell, runs) in enumerate(cells.items()):
                lines = np.array([r.final["density"] for r in runs], dtype=float)
                there = np.isfinite(lines).any(axis=0)
                mean = np.nanmean(lines[:, there], axis=0)
                style = {"color": LINES[i % len(LINES)], "linestyle": "-" if i < len(LINES) else "--"}
                label = cell.removeprefix(f"{model}, ")
                ax.plot(GRID[there], np.maximum(mean, 1e-12), label=label, linewidth=1.4, **style)
            ax.set_yscale("log")
            ax.set_ylim(bottom=1e-6)
            _legend(ax)
            finish(ax, model, "log10 |λ|", "share of eigenvalues per decade")
        return figure

    return drawn


def points(
    about: str, x: tuple[str, str], y: tuple[str, str], groups: Mapping[str, Sequence[str]]
) -> Callable[[Sequence[Record]], Figure]:
    """Return what draws one number against another, a named point for each cell: medians with their range.

    Parameters
    ----------
    about : str
        The title.
    x, y : pair of str
        Key of `Record.final`, and what the axis says.
    groups : dict
        Names of cells by what the pair of axes is of.
    """

    def drawn(records: Sequence[Record]) -> Figure:
        figure, axes = _figure(len(groups))
        for ax, (group, names) in zip(axes, groups.items(), strict=True):
            cells = _cells([r for r in records if r.cell in names], x[0])
            for i, (cell, runs) in enumerate(cells.items()):
                both = np.array([(r.number(x[0]), r.number(y[0])) for r in runs])
                both = both[np.isfinite(both).all(axis=1)]
                if not len(both):
                    continue
                middle = np.median(both, axis=0)
                spread = np.abs(np.array([both.min(axis=0), both.max(axis=0)]) - middle)
                color = LINES[i % len(LINES)]
                ax.errorbar(*middle, yerr=spread[:, 1:], xerr=spread[:, :1], fmt="o", ms=4, color=color)
                label = cell.removeprefix(f"{group}, ")
                ax.annotate(label, middle, (4, 4), textcoords="offset points", fontsize=7, color=color)
            ax.set_xscale("log")
            ax.set_yscale("log")
            finish(ax, f"{about}: {group}" if group else about, x[1], y[1])
        return figure

    return drawn
