"""Figures of convergence and of paths: one function each, which draws on matplotlib `Axes` and returns them.

They take traces and numbers from any source, label lines in place, and say in titles what is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from psgd_core.convergence import Trace

from . import look
from .look import finish, styles

COLORS = look.COLORS
"""The palette of all figures, by name."""

THEORY = {"color": "0.25", "linewidth": 1.0, "linestyle": (0, (4, 2)), "zorder": 1}


class Curve(NamedTuple):
    """A trace with its look: matplotlib's `color`, `linestyle` and so on, and the label at the curve."""

    trace: Trace
    label: str
    style: Mapping[str, Any] = {}
    rate: float | None = None  # theory's, drawn beside
    at: float | None = None  # where the label stands, as a share of the updates; None: in the legend


class RatePoint(NamedTuple):
    """A predicted and a fitted rate, with its look."""

    predicted: float
    fitted: float
    style: Mapping[str, Any] = {}


def convergence(
    ax: Any, curves: Sequence[Curve], title: str, *, column: str = "distance", ylabel: str | None = None
) -> Any:
    """Draw errors against updates, with theory's slope dashed beside each curve that has a rate.

    A cross ends the curves that do not stay finite.
    """
    for curve in curves:
        t, y = _finite(curve.trace, column)
        if t.size == 0:
            continue
        style = {"linewidth": 1.6} | dict(curve.style)
        ax.semilogy(t, y, label=curve.label if curve.at is None else None, **style)
        if curve.rate:
            _slope(ax, t, y, curve.rate)
        if not np.all(np.isfinite(curve.trace.column(column)[-1:])):
            ax.plot(t[-1], y[-1], marker="x", color=style.get("color"), clip_on=False)
            text = f"{curve.label}: no longer finite"
            _say(ax, t[-1], y[-1], text, style.get("color", "black"), below=True)
        elif curve.label and curve.at is not None:
            _label(ax, curve, t, y)
    if any(curve.label and curve.at is None for curve in curves):
        ax.legend(fontsize=8, frameon=False, loc="best")
    return finish(ax, title, "updates", ylabel or "distance to the exact target")


def rates(ax: Any, points: Iterable[RatePoint], tolerance: float, title: str) -> Any:
    """Draw fitted rates against predicted ones, with the line where they agree and the tolerance."""
    points = [p for p in points if p.predicted > 0 and p.fitted > 0]
    ax.set_xscale("log")
    ax.set_yscale("log")
    if points:
        ends = [min(p.predicted for p in points) / 2, max(p.predicted for p in points) * 2]
        low = [(1 - tolerance) * x for x in ends]
        band = ax.fill_between(ends, low, ends, color="0.88", linewidth=0, zorder=0)
        band.set_label(f"up to {tolerance:.0%} slower".replace("%", " %"))
        ax.plot(ends, ends, label="as predicted", **THEORY)
    for p in points:
        ax.plot([p.predicted], [p.fitted], **({"marker": "o", "linestyle": "none"} | dict(p.style)))
    finish(ax, title, "predicted rate per update", "fitted rate per update")
    for axis in (ax.xaxis, ax.yaxis):
        _log_ticks(axis)
    return ax


def _log_ticks(axis: Any) -> None:
    """Label powers of ten, and 2 and 5 of them where there are few: not all that come close together."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 1000 * low else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def floors(ax: Any, curves: Sequence[Curve], bound: float | None, title: str) -> Any:
    """Draw criterion gaps against updates: which floors fall with the step, and which do not."""
    convergence(ax, curves, title, column="gap", ylabel="criterion gap  $(c(P) - c(P^*))\\,/\\,c(P^*)$")
    if bound is not None:
        line(ax, bound, f"must end below {bound:.0e}".replace("e-0", "e-"), left=True, below=True)
    return ax


def paths(
    ax: Any,
    fun: Callable[[np.ndarray], Any],
    runs: Mapping[str, Any],
    title: str,
    *,
    minimum: Sequence[float] | None = None,
    resolution: int = 120,
) -> Any:
    """Draw the paths of minimisers over the contours of a function of two variables.

    Parameters
    ----------
    ax : Axes
    fun : callable
        ``fun(x)`` returns a number for x of shape (2,); called at resolution^2 points.
    runs : mapping
        From a label to the points of a run, shape (steps + 1, 2), the start first.
    title : str
    minimum : two floats, optional
        Where the minimum is: the contours are levels of ``fun - fun(minimum)``, a factor of 10 apart.
    resolution : int
        Points of the grid along each axis.

    Raises
    ------
    ValueError
        If a run is not a sequence of finite points of the plane.
    """
    points = {label: np.asarray(run, dtype=np.float64) for label, run in runs.items()}
    for label, run in points.items():
        if run.ndim != 2 or run.shape[1] != 2 or not np.all(np.isfinite(run)):
            raise ValueError(
                f"`runs[{label!r}]` must hold finite points, shape (steps + 1, 2), got {run.shape}; "
                "take two variables, and leave out what is not finite"
            )
    # the contours, on a grid around all points
    everything = np.concatenate([*points.values(), *([[minimum]] if minimum is not None else [])])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = 0.12 * np.maximum(high - low, 1e-3 * np.maximum(np.abs(high), 1.0))
    x, y = (np.linspace(a, b, resolution) for a, b in zip(low - margin, high + margin, strict=True))
    z = np.array([[float(fun(np.array([p, q]))) for p in x] for q in y])
    z = z - (float(fun(np.asarray(minimum, dtype=np.float64))) if minimum is not None else np.nanmin(z))
    z = np.where(np.isfinite(z) & (z > 0), z, np.nan)
    # whole decades, from where the grid can still follow a level
    decades = np.arange(math.ceil(np.log10(np.nanquantile(z, 0.02))), math.ceil(np.log10(np.nanmax(z))))
    lines = ax.contour(x, y, z, levels=10.0**decades, colors="0.72", linewidths=0.7, zorder=1)
    ax.clabel(lines, fmt=lambda level: f"{level:g}", fontsize=7, colors="0.45")
    # the paths, their start, and the minimum
    looks = styles(points)
    for label, run in points.items():
        told = f"{label}: {len(run) - 1} steps"
        ax.plot(run[:, 0], run[:, 1], markersize=3.5, linewidth=1.4, zorder=3, label=told, **looks[label])
    start = next(iter(points.values()))[0]
    ax.plot(*start, marker="s", markersize=8, color="black", fillstyle="none", linestyle="none", zorder=4)
    ax.annotate(
        "start", start, xytext=(7, 5), textcoords="offset points", fontsize=8, path_effects=_halo(), zorder=4
    )
    if minimum is not None:
        ax.plot(*minimum, marker="*", markersize=12, color="black", linestyle="none", zorder=4)
    ax.legend(fontsize=8, frameon=True, framealpha=0.9, edgecolor="none", loc="best")
    finish(ax, title, "$x_1$", "$x_2$")
    ax.grid(False)
    return ax


def line(ax: Any, y: float, text: str, *, left: bool = False, below: bool = False, **style: Any) -> Any:
    """Draw a labelled level across the axes."""
    style = {"color": "0.35", "linewidth": 1.0, "linestyle": ":"} | style
    ax.axhline(y, zorder=0, **style)
    ax.annotate(
        text, (0.02 if left else 0.98, y), xycoords=("axes fraction", "data"), textcoords="offset points",
        xytext=(0, -3 if below else 3), fontsize=8, ha="left" if left else "right",
        va="top" if below else "bottom", color=style["color"], path_effects=_halo(),
    )  # fmt: skip
    return ax


def _halo() -> list[Any]:
    """Return the path effects that keep a label readable where lines cross it."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=2.5, foreground="white")]


def _finite(trace: Trace, column: str) -> tuple[np.ndarray, np.ndarray]:
    t, y = trace.column("updates"), trace.column(column)
    keep = np.isfinite(y) & (y > 0)
    return t[keep], y[keep]


def _slope(ax: Any, t: np.ndarray, y: np.ndarray, rate: float) -> None:
    """Draw ``exp(-rate t)`` through the curve's point at a tenth of its descent."""
    way = np.log(y[0] / y.min())
    start = int(np.argmax(np.log(y[0] / y) >= 0.1 * way))
    length = min(t[-1] - t[start], np.log(y[start] / y.min()) / rate)
    ax.plot([t[start], t[start] + length], [y[start], y[start] * np.exp(-rate * length)], **THEORY)


def _label(ax: Any, curve: Curve, t: np.ndarray, y: np.ndarray) -> None:
    i = int(np.argmin(np.abs(t - (curve.at or 0.0) * t[-1])))
    _say(ax, t[i], y[i], curve.label, curve.style.get("color", "black"))


def _say(ax: Any, x: float, y: float, text: str, color: str, below: bool = False) -> None:
    ax.annotate(
        text, (x, y), xytext=(6, -3) if below else (4, 3), textcoords="offset points", fontsize=8,
        color=color, ha="left", va="top" if below else "bottom", path_effects=_halo(),
    )  # fmt: skip
