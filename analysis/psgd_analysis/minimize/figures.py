"""The curves: how far above f* each contender still is, against what it has evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..look import styles
from .run import Line, Study

GREY = ("#000000", "#555555", "#7f7f7f", "#a0a0a0")
DASHES: tuple[Any, ...] = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
"""Dashes of the other minimisers."""


def draw(study: Study) -> Any:
    """Return a matplotlib Figure: PSGD in colour, the others in grey dashes; medians, bands over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.9), layout="constrained")
    ax = figure.subplots()
    floor = _floor(study)
    lines = [line for line in study.lines if any(o.counter.trace["fun"] for o in line.outcomes)]
    coloured = [line for line in lines if line.contender.label.startswith("PSGD")]
    looks = styles(line.contender.label for line in coloured)
    longest = 1.0
    for line in lines:
        if line in coloured:
            color = looks[line.contender.label]["color"]
            style: dict[str, Any] = {"color": color, "linewidth": 2.0, "zorder": 3}
        else:
            i = lines.index(line) - len(coloured)
            style = {"color": GREY[i % 4], "linestyle": DASHES[i % 4], "linewidth": 1.4, "zorder": 2}
        grid, curves = gaps(study, line, floor)
        ax.plot(grid, np.median(curves, axis=0), label=line.contender.label, **style)
        if len(curves) > 1:
            ax.fill_between(
                grid, curves.min(axis=0), curves.max(axis=0), color=style["color"], alpha=0.15, linewidth=0
            )
        longest = max(longest, float(grid[-1]))
    _finish(ax, study, floor, longest)
    return figure


def gaps(study: Study, line: Line, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid of gradient-equivalents and the lowest f - f* of each run there, (runs, points).

    A run that has ended keeps its last value; values below `floor` are drawn there.
    """
    traces = [o.counter.trace for o in line.outcomes if o.counter.trace["fun"]]
    last = max(trace["gradient_equivalents"][-1] for trace in traces)
    points: Sequence[float] = np.unique(
        np.concatenate([np.asarray(t["gradient_equivalents"], dtype=float) for t in traces])
    )  # type: ignore[assignment]
    if len(points) > 2000:
        points = np.unique(np.round(np.geomspace(1, last + 1, 2000)) - 1)  # type: ignore[assignment]
    grid = np.asarray(points)
    curves = []
    for trace in traces:
        at = np.searchsorted(trace["gradient_equivalents"], grid, side="right") - 1
        gap = np.asarray(trace["fun"])[np.maximum(at, 0)] - study.reference
        curves.append(np.maximum(np.where(np.isfinite(gap), gap, np.nan), floor))
    return grid, np.stack(curves)


def _floor(study: Study) -> float:
    """Return the smallest gap worth drawing: a hundredth of tol, or the rounding of f* if that is larger."""
    eps = float(np.finfo(study.problem.start.dtype).eps)
    return max(study.tol / 100, eps * abs(study.reference) / 4, 1e-30)


def _finish(ax: Any, study: Study, floor: float, longest: float) -> None:
    problem = study.problem
    ax.set_yscale("log")
    ax.set_xscale("symlog", linthresh=10, linscale=0.3)
    ax.set_xlim(0, longest)
    _mark(ax, study.tol, floor, f"f − f* = {study.tol:.2g}")
    _mark(ax, study.default_loss - study.reference, floor, "L-BFGS-B stops here by default")
    seeds = max((len(line.outcomes) for line in study.lines), default=0)
    spread = f"; median and range of {seeds} seeds" if seeds > 1 else ""
    cut = " (interrupted)" if study.interrupted else ""
    ax.set_title(
        f"{problem.name}, n = {problem.n}: lowest f − f* against evaluations{spread}{cut}",
        fontsize=10.5,
        loc="left",
    )
    ax.set_xlabel("gradient-equivalents: gradients + Hessian-vector products (linear below 10)")
    star = "known minimum" if problem.minimum is not None else "lowest value found by any"
    ax.set_ylabel(f"lowest f − f* so far  (f*: {star})")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _mark(ax: Any, gap: float, floor: float, text: str) -> None:
    """Mark a gap with a thin dotted line, and say what it is, unless it lies below the figure."""
    if not (math.isfinite(gap) and gap > floor):
        return
    ax.axhline(gap, color="0.45", linewidth=0.8, linestyle=":", zorder=0)
    ax.annotate(
        text, (0, gap), xycoords=("axes fraction", "data"), ha="left", va="bottom", xytext=(4, 1),
        textcoords="offset points", fontsize=8, color="0.35",
    )  # fmt: skip
