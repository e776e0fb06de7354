"""Figures from records: panels that experiments choose and `figure` puts side by side.

Every cell has one colour and line in all panels, and a method one colour in all figures. A panel is drawn
from the records of one scale::

    figures={"": figure(curves("loss", log=True), levels("accuracy", {"PSGD": {"rank 0": 0, "rank 1": 1}}))}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from ..look import COLORS, finish, styles
from . import statistics
from .records import Record
from .samples import Sample, sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Look = Mapping[str, Any]
Panel = Callable[[Any, Sequence[Record], Mapping[str, Look]], None]
"""Draws on axes, from records, with the look of each cell."""


def figure(
    *panels: Panel, columns: int = 2, named: Callable[[str], str] = str
) -> Callable[[Sequence[Record]], Figure]:
    """Return what makes a figure of some panels, with one legend for all of them.

    Parameters
    ----------
    columns : int
        Panels side by side, at most.
    named : callable
        The legend's name for a cell; cells of the same name look the same.
    """

    def make(records: Sequence[Record]) -> Figure:
        from matplotlib.figure import Figure

        across = min(columns, len(panels))
        down = -(-len(panels) // across)
        width = 6.4 if across == 1 else 4.6 * across
        made = Figure(figsize=(width, 3.7 * down + 0.6), layout="constrained")
        cells = dict.fromkeys(r.cell for r in records)
        by_name = styles(map(named, cells))
        looks = {cell: by_name[named(cell)] for cell in cells}
        grid = made.subplots(down, across, squeeze=False)
        for ax in grid.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, panel in zip(grid.flat, panels, strict=False):
            panel(ax, records, looks)
        _legend(made, grid.flat, looks, named, width)
        return made

    return make


def _legend(
    made: Any, every: Any, looks: Mapping[str, Look], named: Callable[[str], str], width: float
) -> None:
    """Put one legend below: cells with line and marker, whichever of these a panel draws."""
    from matplotlib.lines import Line2D

    handles: dict[str, Any] = {}
    for ax in every:
        handles.update(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if not handles:
        return
    cells = {named(c): Line2D([], [], **style) for c, style in looks.items() if c in handles}
    shown = cells | {label: handle for label, handle in handles.items() if label not in looks}
    most = max(1, min(5, int(width * 13 / (max(map(len, shown)) + 8))))
    made.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=most, fontsize=8, frameon=False,
        handlelength=3.2,
    )  # fmt: skip


# -- along a run ---------------------------------------------------------------------------------------------


def curves(
    y: str,
    x: str = "part",
    *,
    cells: Sequence[str] | None = None,
    log: bool = False,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> Panel:
    """Return the panel of a metric along the runs: for each cell the median over seeds, and its quartiles.

    Parameters
    ----------
    y : str
        In `Record.metrics`.
    x : str
        "part" (such as an epoch), or a metric: "seconds", "iterations", of which the median over the seeds
        is taken in each part. A run that ended early keeps its last value; where one diverged is a cross.
    cells : sequence of str, optional
        All by default.
    log : bool
        Whether y is drawn on a logarithmic scale.
    title, xlabel, ylabel : str
        Labels are the keys by default.
    """

    def panel(ax: Any, records: Sequence[Record], looks: Mapping[str, Look]) -> None:
        for cell, style in looks.items():
            runs = [r for r in records if r.cell == cell and r.status != "cut" and r.metrics]
            if (cells is not None and cell not in cells) or not runs:
                continue
            at, values = _along(runs, x, y)
            if not at.size:
                continue
            low, middle, high = np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)
            line = {key: style[key] for key in ("color", "linestyle")}
            ax.plot(at, middle, label=cell, linewidth=1.6, **line)
            if len(runs) > 1:
                ax.fill_between(at, low, high, color=style["color"], alpha=0.18, linewidth=0)
            for run, ys in zip(runs, values, strict=True):
                ends = np.flatnonzero(np.isfinite(ys))
                if run.status == "diverged" and ends.size:
                    ax.plot(at[ends[-1]], ys[ends[-1]], "x", color=style["color"], clip_on=False)
        if log:
            ax.set_yscale("log")
        if x == "part":
            ax.locator_params(axis="x", integer=True)
        labelled(ax, title, xlabel or x, ylabel or y)

    return panel


def _along(runs: Sequence[Record], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Return x by part, and y by run and part, NaN where there is none."""
    longest = max(len(r.metrics) for r in runs)
    xs, ys = np.full((2, len(runs), longest), np.nan)
    for i, run in enumerate(runs):
        for j, metrics in enumerate(run.metrics):
            xs[i, j] = _finite(j + 1 if x == "part" else metrics.get(x))
            ys[i, j] = _finite(metrics.get(y))
        there = np.flatnonzero(np.isfinite(ys[i]))
        if run.status == "done" and there.size:
            ys[i, there[-1] + 1 :] = ys[i, there[-1]]
    known = np.isfinite(xs).any(axis=0) & np.isfinite(ys).any(axis=0)
    # a middle of fewer and fewer runs may go back
    return np.maximum.accumulate(np.nanmedian(xs[:, known], axis=0)), ys[:, known]


def _finite(number: Any) -> float:
    return float(number) if isinstance(number, int | float) and math.isfinite(number) else math.nan


# -- numbers of finished runs --------------------------------------------------------------------------------


def levels(
    key: str,
    lines: Mapping[str, Mapping[str, float]],
    *,
    paper: Mapping[str, Mapping[float, float]] | None = None,
    log: bool = False,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> Panel:
    """Return the panel of a number against a setting, with intervals of 95 % over the seeds.

    Parameters
    ----------
    key : str
        See `Record.number`. Of what is true or false, the share of runs with its exact interval; else the
        mean with Student's, and each run as a point.
    lines : dict of dicts of float
        By label: by cell, where it stands on the axis, such as its rank; equally spaced, in this order.
    paper : dict of dicts, optional
        By label: the paper's number, by place on the axis.
    log : bool
        Whether the number is drawn on a logarithmic scale.
    title, xlabel, ylabel : str
    """

    def panel(ax: Any, records: Sequence[Record], looks: Mapping[str, Look]) -> None:
        # the ticks are the settings themselves, as ranks 0, 1, 2, 5, 10 fit no scale
        ticks = sorted({place for line in lines.values() for place in line.values()})
        handles = {}
        by_label = styles(lines)
        for i, (label, places) in enumerate(lines.items()):
            style, shift = by_label[label], 0.09 * (i - (len(lines) - 1) / 2)
            found = [(ticks.index(x) + shift, sample(records, cell, key)) for cell, x in places.items()]
            drawn = [(at, s, _interval(s)) for at, s in found if s.values or (s.truth and s.seeds)]
            if not drawn:
                continue
            at, middle = [d[0] for d in drawn], [d[2].estimate for d in drawn]
            bars = np.abs([(d[2].estimate - d[2].low, d[2].high - d[2].estimate) for d in drawn]).T
            handles[label] = ax.errorbar(at, middle, bars, capsize=3, markersize=5, linewidth=1.4, **style)
            for x, s, _ in drawn:
                if not s.truth:
                    runs = {"color": style["color"], "alpha": 0.35, "markersize": 4}
                    ax.plot([x + 0.06] * len(s.finite), s.finite, ".", **runs)
            told = (paper or {}).get(label, {})
            if told:
                spots = [ticks.index(place) + shift + 0.12 for place in told]
                ax.plot(spots, [*told.values()], **_paper() | {"color": style["color"]})
        if len(handles) > 1:
            ax.legend(
                handles.values(), handles.keys(), fontsize=8, frameon=False, loc="upper center",
                bbox_to_anchor=(0.5, -0.16), ncols=2,
            )  # fmt: skip
        ax.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
        if log:
            ax.set_yscale("log")
        labelled(ax, title, xlabel, ylabel or key)

    return panel


def rows(
    key: str,
    *,
    cells: Sequence[str] | None = None,
    paper: Mapping[str, float] | None = None,
    log: bool = False,
    title: str = "",
    xlabel: str = "",
) -> Panel:
    """Return the panel of a number with a row for each cell: mean and interval, each run, and the paper's."""

    def panel(ax: Any, records: Sequence[Record], looks: Mapping[str, Look]) -> None:
        found = [sample(records, c, key) for c in looks if cells is None or c in cells]
        found = [s for s in found if s.values or s.truth]
        told = paper or {}
        for i, s in enumerate(found):
            interval, color = _interval(s), looks[s.cell]["color"]
            if not s.truth:
                ax.plot(s.finite, [i] * len(s.finite), ".", color=color, alpha=0.35, markersize=5)
            bar = np.abs([[interval.estimate - interval.low], [interval.high - interval.estimate]])
            marker = looks[s.cell]["marker"]
            ax.errorbar(interval.estimate, i, xerr=bar, color=color, marker=marker, markersize=6, capsize=3)
        spots = [(told[s.cell], i - 0.25) for i, s in enumerate(found) if s.cell in told]
        if spots:
            ax.plot(*zip(*spots, strict=True), **_paper())
        ax.set_yticks(range(len(found)), [s.cell for s in found])
        ax.set_ylim(max(len(found), 1) - 0.5, -0.5)
        if log:
            ax.set_xscale("log")
        labelled(ax, title, fill(xlabel or key, 26), "")  # long names leave little room

    return panel


def against(
    x: str,
    y: str,
    *,
    cells: Sequence[str] | None = None,
    log: tuple[bool, bool] = (False, False),
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> Panel:
    """Return the panel of two numbers of each cell: the medians over the seeds, and each run as a point."""

    def panel(ax: Any, records: Sequence[Record], looks: Mapping[str, Look]) -> None:
        for cell, style in looks.items():
            a, b = sample(records, cell, x), sample(records, cell, y)
            seeds = sorted(set(a.values) & set(b.values))
            if (cells is not None and cell not in cells) or not seeds:
                continue
            xs, ys = ([s.values[seed] for seed in seeds] for s in (a, b))
            ax.plot(xs, ys, ".", color=style["color"], alpha=0.35, markersize=5)
            spot = {"color": style["color"], "marker": style["marker"], "linestyle": "none", "markersize": 7}
            ax.plot([np.median(xs)], [np.median(ys)], label=cell, **spot)
        for name, wanted in zip("xy", log, strict=True):
            if wanted:
                getattr(ax, f"set_{name}scale")("log")
        labelled(ax, title, xlabel or x, ylabel or y)

    return panel


def labelled(ax: Any, title: str, xlabel: str, ylabel: str) -> None:
    """Set labels and grid; say so where nothing was drawn, and give short logarithmic axes more numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    finish(ax, title, xlabel, ylabel)
    if not ax.has_data():
        ax.text(0.5, 0.5, "no runs", transform=ax.transAxes, ha="center", fontsize=9, color="0.45")
        return
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if axis.get_scale() == "log" and high < 100 * low:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 4 * low else MaxNLocator(6))
            axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axis.set_minor_formatter(NullFormatter())


def _interval(s: Sample) -> statistics.Interval:
    """Return share or mean with its interval; a single run has none."""
    if s.truth:
        return statistics.share(s.true, len(s.seeds))
    values = s.finite
    return statistics.mean(values) if len(values) > 1 else statistics.Interval(*(values * 3))


def _paper() -> dict[str, Any]:
    return {
        "label": "paper", "color": COLORS["black"], "marker": "*", "markersize": 9, "linestyle": "none",
        "markerfacecolor": "white", "zorder": 4,
    }  # fmt: skip
