"""The figure: every contender's time beside the memory floor, how the cost grows with n, and whole steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..look import COLORS, LIBRARIES, color_of, styles
from . import report
from .report import YARDSTICK, seconds, size
from .rows import OPERATIONS, Row
from .steps import StepRow

NAMES = {"update": "update", "precondition": "P g"}


def draw(rows: Sequence[Row], steps: Sequence[StepRow] = ()) -> Any:
    """Return a matplotlib Figure.

    At the largest n of each preconditioner, every contender's time for an update and for P g, and the floor.
    Below: seconds against n, where a preconditioner has more than one; and the steps of each model.
    """
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.shown is not None and row.contender != YARDSTICK]
    taken = report.step_titles([row for row in steps if row.status == "ok"])
    groups = _largest(shown)
    several = len({_key(row) for row in shown}) > len(groups)
    lines = sum(len(names) for _, names in groups)
    # the heights of what there is to draw
    heights = {}
    if groups or not taken:
        heights["dots"] = max(1.6, 0.6 + 0.21 * lines + 0.16 * len(groups))
    if several:
        heights["growth"] = 3.1
    if taken:
        heights["steps"] = sum(0.9 + 0.19 * len(group) for _, group in taken)
    figure = Figure(figsize=(10.0, sum(heights.values()) + 0.5), layout="constrained")
    made = figure.subfigures(len(heights), 1, height_ratios=list(heights.values()), squeeze=False)[:, 0]
    parts = dict(zip(heights, made, strict=True))
    made[0].suptitle(_title(shown, steps), fontsize=11, x=0.01, ha="left")
    for name, draw_one in (("dots", _dots), ("growth", _growth)):
        if name in parts:
            axes = parts[name].subplots(1, 2, sharey=name == "dots")
            for ax, operation in zip(axes, OPERATIONS, strict=True):
                draw_one(ax, groups, shown, operation)
    if taken:
        sizes = [1 + len(group) for _, group in taken]
        axes = parts["steps"].subplots(len(taken), 1, height_ratios=sizes, squeeze=False)[:, 0]
        for ax, (title, group) in zip(axes, taken, strict=True):
            _steps(ax, title, group)
    return figure


def _largest(rows: Sequence[Row]) -> list[tuple[tuple[Any, ...], list[str]]]:
    """Return the setting of the largest n per preconditioner, dtype and library, with its contenders."""
    last: dict[tuple[Any, ...], int] = {}
    for row in rows:
        s = row.setting
        key = (s.label, s.library.dtype, s.library.name)
        last[key] = max(last.get(key, 0), s.n)
    found: dict[tuple[Any, ...], list[str]] = {(*key, n): [] for key, n in last.items()}
    for row in rows:
        names = found.get(_key(row))
        if names is not None and row.contender not in names:
            names.append(row.contender)
    return list(found.items())


def _color(label: str, contender: str) -> str:
    """Return the colour of a contender: psgd-core has that of the preconditioner."""
    return LIBRARIES.get(contender) or color_of(label) or COLORS["grey"]


def _face(label: str, contender: str) -> str:
    """Return what its dots and bars are filled with: plain code is hollow."""
    return "white" if contender.endswith("plain code") else _color(label, contender)


def _key(row: Row) -> tuple[Any, ...]:
    s = row.setting
    return s.label, s.library.dtype, s.library.name, s.n


def _title(rows: Sequence[Row], steps: Sequence[StepRow]) -> str:
    libraries = {row.setting.library for row in rows} | {row.model.library for row in steps}
    kinds = {(library.dtype, library.name) for library in libraries}
    where = ", ".join(" on ".join(kind) for kind in sorted(kinds))
    return f"psgd bench: medians in one run, {where}" if where else "psgd bench: nothing to show"


def _dots(ax: Any, groups: Sequence[Any], rows: Sequence[Row], operation: str) -> None:
    """Draw a dot for each contender of each group, and a line where its floor is."""
    at = {(_key(row), row.contender): row for row in rows if row.operation == operation}
    y, ticks, labels, times = 0.0, [], [], []
    libraries = len({library for (_, _, library, _), _ in groups})
    # a block of rows per setting
    for key, names in groups:
        label, _, library, n = key
        y += 0.75
        start, floor = y, 0.0
        ticks.append(y)
        labels.append(f"{label}, n = {size(n)}" + (f", {library}" if libraries > 1 else ""))
        for name in names:
            row = at.get((key, name))
            if row is not None and row.samples is not None:
                t, over = row.samples.median, ""
                if row.in_memory and row.floor is not None:
                    floor = floor or t / row.floor
                    over = f", {row.floor:.2g} × floor"
                times += [t, floor or t]
                ax.plot(t, y, "o", markersize=6, color=_color(label, name), mfc=_face(label, name))
                ax.annotate(
                    f"{name}: {seconds(t)}{over}", (t, y), xytext=(6, 0), textcoords="offset points",
                    va="center", fontsize=7.5,
                )  # fmt: skip
            y += 1
        if floor:
            ax.plot([floor, floor], [start - 0.5, y - 0.5], color="0.3", linewidth=1.2)
    # leave room for the words behind the last dot
    ax.set_xscale("log")
    if times:
        low, high = min(times), max(times)
        ax.set_xlim(low / 1.5, high * max((high / low) ** 0.9, 30.0))
    ax.set_yticks(ticks, labels, fontsize=8.5)
    ax.set_ylim(max(y, 1.0), 0)
    ax.tick_params(axis="y", length=0)
    ax.set_title(NAMES[operation], fontsize=10, loc="left")
    ax.set_xlabel("seconds (vertical line: the memory floor)", fontsize=8.5)
    ax.grid(axis="x", color="0.92", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _growth(ax: Any, groups: Sequence[Any], rows: Sequence[Row], operation: str) -> None:
    """Draw seconds against n: psgd-core with its floor, one colour per preconditioner."""
    curves: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.operation == operation and row.own:
            curves.setdefault((_key(row)[:3], row.contender), []).append(row)
    colors = {label: style["color"] for label, style in styles(key[0] for key, _ in curves).items()}
    for (key, name), points in curves.items():
        points.sort(key=lambda row: row.setting.n)
        color = colors[key[0]]
        first = key not in {k for (k, _), _ in list(curves.items())[: list(curves).index((key, name))]}
        n = [row.setting.n for row in points]
        t = [row.samples.median for row in points if row.samples]
        style = "--" if name.endswith("plain code") else "-"
        ax.plot(
            n, t, style, color=color, marker="o", markersize=3, linewidth=1.4, label=key[0] if first else None
        )
        if first:
            kept = [row for row in points if row.in_memory]
            floor = [row.samples.median / row.floor for row in kept if row.samples and row.floor]
            ax.plot([row.setting.n for row in kept], floor, ":", color=color, linewidth=1.0, marker=".")
    ax.set(xscale="log", yscale="log", xlabel="n", ylabel="seconds")
    ax.set_title(f"{NAMES[operation]} (dashed: plain code, dotted: floor)", fontsize=9, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    if curves:
        ax.legend(frameon=False, fontsize=7.5)


def _steps(ax: Any, title: str, rows: Sequence[StepRow]) -> None:
    """Draw the time of each step, and in words what it is over that of SGD, and its own part."""
    times = [row.judged.median for row in rows if row.judged]
    for i, (row, t) in enumerate(zip(rows, times, strict=True)):
        edge, face = (f(row.contender, row.contender) for f in (_color, _face))
        ax.barh(i, 1000 * t, height=0.72, facecolor=face, edgecolor=edge)
        words = [seconds(t)]
        words += [] if row.over_sgd is None else [f"{row.over_sgd:.2f} × SGD"]
        words += [] if row.own_part is None else [f"own part {row.own_part:+.1%}"]
        ax.annotate(
            ", ".join(words),
            (1000 * t, i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    names = [f"{row.contender}: {row.what}" if row.what else row.contender for row in rows]
    ax.set_yticks(range(len(rows)), names, fontsize=7.5)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, 1450 * max(times))
    ax.set_title(title, fontsize=9, loc="left")
    of = "of the processor " if rows[0].by_cpu else ""
    ax.set_xlabel(f"ms {of}a step (own part: over the evaluations that it needs)", fontsize=8.5)
    ax.tick_params(labelsize=7.5)
    ax.spines[["top", "right"]].set_visible(False)
