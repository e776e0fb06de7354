"""The look of all figures: colours that differ to colour-blind readers and in print, titles and grids."""

from __future__ import annotations

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
