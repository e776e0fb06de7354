"""Results of `psgd efficiency` as tables, as JSON and as a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..documents import plain
from ..look import finish, styles
from ..tables import markdown_table
from .run import Result
from .tasks import TaskKind

DIGITS = 4
LINES: dict[str, Any] = {"psgd-core": "-", "limit": (0, (5, 1.5)), "peer": (0, (1, 1.2))}
"""Of each side in the figure."""

SAID = {
    "distance": "distance to the minimiser",
    "criterion": "criterion over its least",
    "kappa": "condition number of P H",
}


def tables(
    results: Sequence[Result], kinds: dict[str, TaskKind]
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Return (title, heads, rows) of a table for each task and measure: medians over the seeds."""
    for name, kind in kinds.items():
        mine = [r for r in results if r.task == name]
        for measure in kind.measures if mine else ():
            marks = mine[0].pairs
            seeds = len({r.seed for r in mine})
            title = f"{name}: {SAID[measure]} after so many products ({kind.about}; {_seeds(seeds)})"
            rows = []
            for contender in dict.fromkeys(r.contender for r in mine):
                found = [r for r in mine if r.contender == contender]
                medians = [median([r.at(measure, mark) for r in found]) for mark in marks]
                cost = float(np.median([r.seconds for r in found]))
                digits = 2 if measure == "distance" else 3
                rows.append([contender, *(_short(x, digits) for x in medians), _time(cost)])
            yield title, ["", *map(str, marks), "per update"], rows


def median(values: Sequence[float]) -> float:
    """Return the median, runs that are not finite counting as infinite."""
    return float(np.median([x if np.isfinite(x) else np.inf for x in values]))


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"medians of {count} seeds"


def _short(x: float, digits: int) -> str:
    return f"{x:.{digits}g}" if np.isfinite(x) else "–"


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.1f} ms"


def document(results: Sequence[Result], kinds: dict[str, TaskKind], about: dict[str, Any]) -> dict[str, Any]:
    """Return everything in JSON's types; numbers that are not finite become None."""
    data = {
        "schema": 1,
        "program": "psgd efficiency",
        **about,
        "tasks": {name: {"about": k.about, "family": k.family} for name, k in kinds.items()},
        "results": [vars(r) for r in results],
    }
    return plain(data, DIGITS)


def markdown(results: Sequence[Result], kinds: dict[str, TaskKind], about: dict[str, Any]) -> str:
    """Return the tables as Markdown, the command and the versions first."""
    versions = ", ".join(f"{key} {value}" for key, value in about["versions"].items())
    lines = ["```sh", about["command"], "```", ""]
    lines += [f"{about['processor']}; {versions}. Seeds 0 to {about['seeds'] - 1}.", ""]
    if about["interrupted"]:
        lines += ["Interrupted: these are the results so far.", ""]
    lines += ["![Accuracy by products](efficiency.png)", ""]
    for title, heads, rows in tables(results, kinds):
        lines += [f"**{title}**", "", *markdown_table(heads, rows), ""]
    return "\n".join(lines)


# -- the figure ----------------------------------------------------------------------------------------------


def figure(results: Sequence[Result], kinds: dict[str, TaskKind]) -> Any:
    """Return a matplotlib `Figure`: for each task its first measure against the number of products."""
    from matplotlib.figure import Figure

    names = [name for name in kinds if any(r.task == name for r in results)]
    contenders = list(dict.fromkeys(r.contender for r in results))
    sides = {r.contender: r.side for r in results}
    looks = {
        name: style | {"label": name, "linestyle": LINES[sides[name]], "markersize": 3.5}
        for name, style in styles(contenders).items()
    }
    across = min(3, len(names))
    down = -(-len(names) // across)
    made = Figure(figsize=(5.4 * across, 3.7 * down + 0.8), dpi=90, layout="constrained")
    grid = made.subplots(down, across, squeeze=False)
    for ax in grid.flat[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(grid.flat, names, strict=False):
        measure = kinds[name].measures[0]
        mine = [r for r in results if r.task == name]
        for contender in dict.fromkeys(r.contender for r in mine):
            found = [r for r in mine if r.contender == contender]
            y = np.array([median([r.at(measure, mark) for r in found]) for mark in found[0].pairs])
            y = np.where(np.isfinite(y), y, np.nan)
            ax.loglog(found[0].pairs, y, **looks[contender])
        finish(ax, name, "Hessian-vector products", SAID[measure])
    handles = {
        label: handle
        for ax in grid.flat
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    made.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(6, len(handles)),
        fontsize=8, frameon=False,
    )  # fmt: skip
    return made
