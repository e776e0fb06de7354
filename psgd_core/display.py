"""How results look in notebooks: tables as HTML, and curves on matplotlib's axes.

matplotlib is imported where a figure is drawn, never with the package; its global settings are left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

SIZE = (6.4, 4.2)
"""Inches, of a figure made for one pair of axes."""

MOST_POINTS = 2000
"""The longest curve that is drawn point by point."""

ENDS = 50
"""How many points at either end of a longer curve are all drawn."""

DASHES: tuple[Any, ...] = ("-", "--", "-.", ":")
"""Curves drawn together differ in print too."""


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a small HTML table: first column left, all others right; everything escaped."""
    import html

    def line(tag: str, cells: Sequence[str]) -> str:
        aligned = (
            f'<{tag} style="text-align:{"right" if i else "left"}">{html.escape(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(aligned)}</tr>"

    head, body = line("th", header), "".join(line("td", row) for row in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"
    )


def axes(ax: Any = None, size: tuple[float, float] = SIZE) -> Any:
    """Return `ax`, or new axes: of pyplot in an interactive session (IPython, or pyplot already in use).

    Otherwise they belong to a separate figure, so that a script on a server neither chooses a backend nor
    collects open figures: ``ax.figure.savefig(...)`` writes it.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        if "matplotlib.pyplot" in sys.modules or "IPython" in sys.modules:
            from matplotlib import pyplot

            return pyplot.subplots(figsize=size, layout="constrained")[1]
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "figures are drawn by matplotlib, which is not installed; install it: pip install matplotlib"
        ) from None
    return Figure(figsize=size, layout="constrained").subplots()


def curves(
    ax: Any, lines: Mapping[str, tuple[Any, Any]], *, title: str = "", xlabel: str = "", ylabel: str = ""
) -> Any:
    """Draw curves over a logarithmic vertical axis, and return the axes.

    Parameters
    ----------
    ax : Axes or None
        None makes new ones, see `axes`.
    lines : mapping
        From a label, "" for none, to x and y, (m,) numbers each. There is a gap where y is not finite or not
        positive; a curve without any point is left out. Of long curves the ends and every k-th point between
        them are drawn.
    title, xlabel, ylabel : str
    """
    ax = axes(ax)
    drawn = 0
    for label, (x, y) in lines.items():
        x, y = (np.asarray(values, dtype=np.float64) for values in (x, y))  # noqa: PLW2901
        keep = _thinned(y.size)
        x, y = x[keep], np.where(np.isfinite(y) & (y > 0), y, np.nan)[keep]  # noqa: PLW2901
        if not np.all(np.isnan(y)):
            marker = "." if y.size < ENDS else None
            ax.plot(x, y, label=label or None, linestyle=DASHES[drawn % len(DASHES)], marker=marker)
            drawn += 1
    ax.set_yscale("log")
    ax.set_title(title, fontsize="medium")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    if any(lines) and drawn:
        ax.legend(frameon=False, fontsize="small")
    return ax


def _thinned(size: int) -> Any:
    """Return which of so many points to draw: all, or the ends and some between them."""
    if size <= MOST_POINTS:
        return slice(None)
    between = np.linspace(ENDS, size - 1 - ENDS, MOST_POINTS - 2 * ENDS).round().astype(int)
    return np.concatenate([np.arange(ENDS), between, np.arange(size - ENDS, size)])
