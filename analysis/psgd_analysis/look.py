"""The look of all figures: colours that differ to colour-blind readers and in print, and axes.

Matplotlib is imported where a figure is drawn, never with the package; its global settings are left alone.
"""

from __future__ import annotations

import sys
from typing import Any

COLORS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "wine": "#882255",
    "grey": "#7F7F7F",
}
"""Okabe and Ito's palette without its yellow, too pale for lines; and two more."""

LINES = tuple(COLORS[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky"))
"""For curves that are drawn together, the strongest contrasts first."""

SIZE = (6.4, 4.2)
"""Inches, of a figure made for one pair of axes."""


def axes(ax: Any, size: tuple[float, float] = SIZE) -> Any:
    """Return `ax`, or new axes: of pyplot in an interactive session (IPython, or pyplot already in use).

    Otherwise they belong to a separate figure, so that a script on a server neither chooses a backend nor
    collects open figures.
    """
    if ax is not None:
        return ax
    if "matplotlib.pyplot" in sys.modules or "IPython" in sys.modules:
        from matplotlib import pyplot

        return pyplot.subplots(figsize=size, layout="constrained")[1]
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").subplots()


def finish(ax: Any, title: str, xlabel: str, ylabel: str) -> Any:
    """Set title and labels, draw a faint grid, and return the axes."""
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="0.93", linewidth=0.7)
    ax.set_axisbelow(True)
    return ax
