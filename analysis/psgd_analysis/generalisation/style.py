"""The style shared by the figures of generalisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from .. import look

COLORS = (*look.LINES, look.COLORS["black"])
MARKERS = look.MARKERS
COUNTS_MAP = "cividis"
"""Colour map for numbers of examples: perceptually uniform, also to colour-blind readers."""

NEVER = "never\nlearned"

T = TypeVar("T")


def styled(results: Mapping[str, T]) -> Iterator[tuple[str, T, dict[str, Any]]]:
    """Yield name, result, and the colour and dashes it is drawn with."""
    if not isinstance(results, Mapping) or not results:
        raise ValueError(
            f"`results` must map names to at least one result, got {type(results).__name__}; "
            'give {"PSGD": result}, or call `.plot()` of a single one'
        )
    looks = look.styles(results)
    for name, result in results.items():
        yield name, result, {key: looks[name][key] for key in ("color", "linestyle")}


def finish(ax: Any, title: str, xlabel: str, ylabel: str, legend: bool = False) -> Any:
    """Set title and labels, remove needless lines, and return the axes."""
    ax.set_title(title, fontsize=10.5, loc="left")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    if legend:
        ax.legend(frameon=False, fontsize=9)
    return ax


def size_text(count: int) -> str:
    """Return a number of examples with its thousands separated."""
    return f"{count:,}".replace(",", "\u2009")


def signed(x: float, digits: int = 2) -> str:
    """Return a number with a typographic minus, but never minus zero."""
    return f"{round(float(x), digits) + 0.0:.{digits}f}".replace("-", "−")


def decade(x: float) -> str:
    """Return a power of ten as mathematical text."""
    return rf"$10^{{{round(math.log10(x))}}}$"


def note(ax: Any, x: float, text: str, **where: Any) -> None:
    """Mark x with a thin dotted line across the axes, and say at its top what it is."""
    ax.axvline(x, color="0.45", linewidth=0.8, linestyle=":", zorder=0)
    place = {"xytext": (3, -2), "ha": "left"} | where
    ax.annotate(
        text, (x, 1), xycoords=("data", "axes fraction"), textcoords="offset points", va="top", fontsize=8,
        color="0.35", **place,
    )  # fmt: skip


def event_ticks(ax: Any, most: int, never: int | None, axis: str = "x") -> None:
    """Put ticks at whole numbers of events up to `most`, and one at the place of those never learned."""
    step = max(1, -(-most // 8))
    ticks: list[int] = list(range(0, most + 1, step))
    names = [str(t) for t in ticks]
    if never is not None:
        ticks.append(never)
        names.append(NEVER)
    getattr(ax, f"set_{axis}ticks")(ticks, names)


def rows(ax: Any, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of a chart, first row on top, in letters that fit."""
    height = ax.get_window_extent().height * 72 / ax.figure.dpi
    ax.set_yticks(range(len(names)), names, fontsize=max(3.0, min(10.0, 0.8 * height / max(1, len(names)))))
    ax.set_ylim(len(names) - 0.5, -0.5)
