"""Panels of figures that only one experiment has; see `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..look import finish, styles
from . import figures, statistics
from .figures import Look, Panel
from .records import Record
from .samples import sample


def _arrays(records: Sequence[Record], cell: str, key: str) -> np.ndarray:
    """Return an array of `final` of all runs of a cell that have it, (runs, ...); None is NaN."""
    return np.array([r.final[key] for r in records if r.cell == cell and key in r.final], dtype=float)


def entropy_by_events(ax: Any, records: Sequence[Record], looks: Mapping[str, Look]) -> None:
    """Draw the quartiles of the entropy by number of forgetting events, as medians over seeds."""
    for i, (cell, look) in enumerate(looks.items()):
        rows = _arrays(records, cell, "by_events")
        if not rows.size:
            continue
        quartiles = rows[:, :, 1:]
        there = np.isfinite(quartiles).any(axis=(0, 2))
        low, middle, high = np.nanmedian(quartiles[:, there], axis=0).T
        at = np.flatnonzero(there) + 0.12 * (i - (len(looks) - 1) / 2)
        bars = np.maximum([middle - low, high - middle], 0)
        style = {"color": look["color"], "marker": look["marker"], "linestyle": "none", "markersize": 5}
        ax.errorbar(at, middle, bars, capsize=3, label=cell, **style)
    ax.set_yscale("log")
    ax.set_xticks(range(4), ["0", "1", "2", "more, or\nnever learned"])
    finish(ax, "Entropy and forgetting", "forgetting events", "entropy (nats), median and quartiles")


def densities(title: str, cells: Sequence[str]) -> Panel:
    """Return the panel of the Hessian's density at each cell's solutions, the mean over the seeds."""

    def panel(ax: Any, records: Sequence[Record], looks: Mapping[str, Look]) -> None:
        from .curvature import GRID

        for cell in cells:
            lines = _arrays(records, cell, "density")
            if not lines.size:
                continue
            there = np.isfinite(lines).any(axis=0)
            style = {key: looks[cell][key] for key in ("color", "linestyle")}
            mean = np.nanmean(lines[:, there], axis=0)
            ax.plot(GRID[there], np.where(mean > 1e-7, mean, np.nan), label=cell, linewidth=1.4, **style)
        ax.set_yscale("log")
        finish(ax, title, "log10 |λ|", "share of eigenvalues per decade")

    return panel


def responses(
    on: str, key: str, lines: Mapping[str, Sequence[str]], *, title: str = "", xlabel: str, ylabel: str
) -> Panel:
    """Return the panel of what follows a dose: for each line, the means of two numbers from cell to cell.

    Parameters
    ----------
    on, key : str
        Numbers of `Record.final`: across, on a logarithmic scale, and upwards.
    lines : dict of sequences of str
        By label, the cells of all doses in their order; bars are intervals of 95 % over the seeds.
    title, xlabel, ylabel : str
    """

    def panel(ax: Any, records: Sequence[Record], looks: Mapping[str, Look]) -> None:
        by_label = styles(lines)
        for label, cells in lines.items():
            both = [(sample(records, cell, on).finite, sample(records, cell, key).finite) for cell in cells]
            drawn = [(np.mean(x), statistics.mean(y)) for x, y in both if x and len(y) > 1]
            if drawn:
                middle = [y.estimate for _, y in drawn]
                bars = [[y.estimate - y.low for _, y in drawn], [y.high - y.estimate for _, y in drawn]]
                style = {"capsize": 2, "markersize": 4, "linewidth": 1.2} | by_label[label]
                ax.errorbar([x for x, _ in drawn], middle, bars, label=label, **style)
        ax.set_xscale("log")
        figures.labelled(ax, title, xlabel, ylabel)

    return panel
