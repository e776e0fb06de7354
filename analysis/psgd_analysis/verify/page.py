"""The figure of a check: a panel per question that the run answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from textwrap import fill
from typing import Any

import numpy as np

from psgd_core.convergence import Trace

from .. import figures
from ..figures import Curve, RatePoint
from ..look import COLORS, METHODS, paler, styles
from .baselines import best_below
from .cases import Sizes, situation_of
from .comparison import LOOKS as GEOMETRIES
from .entries import BASES, ENTRIES, Entry
from .report import RIVALS, compared
from .run import Options, Outcome
from .settings import SAMPLE, TARGET_GAP
from .stops import cut


def _shades() -> dict[str, str]:
    """Return the colour of each kind by label: of its family, the later ones of a family paler."""
    made: Counter[str] = Counter()
    found = {}
    for entry in BASES.values():
        found[entry.kind.label] = paler(entry.kind.color, made[entry.kind.color])
        made[entry.kind.color] += 1
    return found


SHADES = _shades()

LOOKS: dict[str, dict[str, Any]] = {
    name: {"color": SHADES[entry.kind.label], "marker": entry.kind.marker if name in BASES else "<"}
    for name, entry in ENTRIES.items()
}
"""Colour and marker of each preconditioner."""

RIVAL_LOOKS: dict[str, dict[str, Any]] = {
    "BFGS": {"color": METHODS["BFGS"], "linestyle": (0, (5, 1.5))},
    "closed form": {"color": METHODS["closed form"], "linestyle": (0, (1, 1))},
}
"""Of what PSGD is compared with on the same pairs."""

MOST_CURVES = 10
"""In other geometries, that one panel holds."""

LETTERS = 12
"""Of the caption, that fit into an inch."""

Panel = Callable[[Any], Any]
"""Draws on the given axes."""


def page(outcomes: Sequence[Outcome], options: Options, caption: str) -> Any:
    """Return a matplotlib `Figure`, without choosing a backend or opening a window."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [panel for make in PANELS for panel in make(outcomes, options)]
    columns = min(3, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(5.4 * columns, 4.1 * rows + 0.4), dpi=130, layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for ax, panel in zip(grid, panels, strict=False):
        panel(ax)
    for ax in grid[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle(fill(caption, int(LETTERS * 5.4 * columns)), fontsize=11, x=0.01, ha="left")
    return figure


def _exact(outcomes: Sequence[Outcome], options: Options) -> Iterable[Panel]:
    """Exact expectations: a curve per group, slowest first, and the indefinite Hessians dotted on them.

    Other geometries are in a panel of their own, or in one for each group where they are many.
    """
    kinds = (
        (("definite", "kronecker"), ("indefinite",), "H in the group (dots: indefinite)"),
        (("own",), (), "your own matrix"),
    )
    for main, dotted, what in kinds:
        shown = [
            outcome
            for outcome in outcomes
            if outcome.case.setting == "exact"
            and outcome.case.problem in (*main, *dotted)
            and ENTRIES[outcome.case.preconditioner].checked.in_figure
            and outcome.traces
        ]
        groups = [outcome for outcome in shown if outcome.case.preconditioner in BASES]
        if groups:
            yield partial(_draw_exact, shown=groups, main=main, what=what)
        others = [o for o in shown if o.case.preconditioner not in BASES and o.case.problem in main]
        kinds_of = [ENTRIES[outcome.case.preconditioner].kind for outcome in others]
        apart = len(others) > MOST_CURVES
        for kind in dict.fromkeys(kinds_of if apart else ()):
            mine = [outcome for outcome, its in zip(others, kinds_of, strict=True) if its is kind]
            yield partial(_draw_geometries, shown=mine, kappa=options.sizes.kappa)
        if others and not apart:
            yield partial(_draw_geometries, shown=others, kappa=options.sizes.kappa)


def _draw_exact(ax: Any, *, shown: Sequence[Outcome], main: Sequence[str], what: str) -> Any:
    curves = []
    for outcome in sorted(shown, key=lambda outcome: -outcome.updates):
        solid = outcome.case.problem in main
        style: dict[str, Any] = {"color": LOOKS[outcome.case.preconditioner]["color"]}
        if not solid:
            style |= {"linestyle": (0, (0.1, 4)), "linewidth": 3, "dash_capstyle": "round"}
        trace, rate = _above(outcome.traces[outcome.judged]), outcome.predicted if solid else None
        curves.append(Curve(trace, outcome.label if solid else "", style, rate))
    figures.convergence(ax, curves, f"Exact expectation, {what}")
    ax.plot([], [], label="theory's rate", **figures.THEORY)
    ax.legend(fontsize=8, frameon=False, loc="upper right")
    ax.set_ylim(bottom=1e-14)
    return ax


def _draw_geometries(ax: Any, *, shown: Sequence[Outcome], kappa: float) -> Any:
    ordered = sorted(shown, key=lambda outcome: -outcome.updates)
    entries = [ENTRIES[outcome.case.preconditioner] for outcome in ordered]
    labels = [_told(entry, outcome, kappa) for entry, outcome in zip(entries, ordered, strict=True)]
    # on one group colours tell the geometries, on several the groups
    if len({entry.kind.label for entry in entries}) == 1:
        looks = {label: GEOMETRIES[entry.geometry] for label, entry in zip(labels, entries, strict=True)}
    else:
        looks = {
            label: {key: look[key] for key in ("color", "linestyle")}
            for label, look in styles(labels).items()
        }
    traces = [_above(outcome.traces[outcome.judged]) for outcome in ordered]
    curves = [Curve(trace, label, looks[label]) for trace, label in zip(traces, labels, strict=True)]
    figures.convergence(ax, curves, "Exact expectation, in other geometries")
    ax.legend(fontsize=8, frameon=False, loc="upper right")
    ax.set_ylim(bottom=1e-14)
    return ax


def _told(entry: Entry, outcome: Outcome, kappa: float) -> str:
    """Return a label, with the condition number where the geometry is checked on a smaller one."""
    smaller = outcome.case.problem != "own" and kappa > entry.kappa_limit
    return f"{outcome.label}, κ = {entry.kappa_limit:g}" if smaller else outcome.label


def _above(trace: Trace, floor: float = 1e-13) -> Trace:
    """Return the trace up to shortly after it reached rounding: what follows is a flat line."""
    d = np.asarray(trace.distance)
    below = np.nonzero(d < floor)[0]
    return cut(trace, int(below[0]) + 3 if below.size else d.size)


def _rates(outcomes: Sequence[Outcome], options: Options) -> Iterable[Panel]:
    shown = [outcome for outcome in outcomes if outcome.predicted and outcome.fitted]
    if len(shown) > 2:
        yield partial(_draw_rates, shown=shown)


def _draw_rates(ax: Any, *, shown: Sequence[Outcome]) -> Any:
    points = []
    for outcome in shown:
        look = LOOKS[outcome.case.preconditioner]
        online = outcome.case.setting == "online"
        points.append(
            RatePoint(
                outcome.predicted or 0.0,
                outcome.fitted or 0.0,
                look
                | {"markersize": 6, "markerfacecolor": "white" if online else look["color"], "alpha": 0.85},
            )
        )
    figures.rates(ax, points, 0.25, "Rates, fitted and predicted (open: from one probe a time)")
    seen = {
        outcome.label if outcome.case.preconditioner in BASES else "in other geometries": look
        for outcome in shown
        for look in (LOOKS[outcome.case.preconditioner],)
    }
    for label, look in seen.items():
        ax.plot([], [], linestyle="none", markersize=6, label=label, **look)
    ax.legend(fontsize=7.5, frameon=False, loc="upper left", handletextpad=0.4)
    return ax


def _low_rank(outcomes: Sequence[Outcome], options: Options) -> Iterable[Panel]:
    shown = [
        outcome
        for outcome in outcomes
        if outcome.case.preconditioner.startswith("lowrank") and outcome.traces and outcome.case.replica == 0
    ]
    if shown:
        yield partial(_draw_low_rank, shown=shown, sizes=options.sizes)


def _draw_low_rank(ax: Any, *, shown: Sequence[Outcome], sizes: Sizes) -> Any:
    curves = []
    for outcome in sorted(shown, key=lambda outcome: outcome.updates):
        style: dict[str, Any] = {"color": LOOKS[outcome.case.preconditioner]["color"]}
        if outcome.case.setting == "online":
            style["linestyle"] = (0, (5, 1.5))
        names = {"two-tails": "two tails", "low-rank": "low rank"}
        label = f"{outcome.label}, {names.get(outcome.case.problem)}, {outcome.case.setting}"
        curves.append(Curve(_above(outcome.traces[outcome.judged]), label, style))
    figures.convergence(ax, curves, "Low rank plus diagonal that can hold $|H|^{-1}$ exactly")
    ax.legend(fontsize=8, frameon=False, loc="lower left")
    tails = next((outcome for outcome in shown if outcome.case.problem == "two-tails"), None)
    if tails is not None:
        magnitudes = np.abs(np.linalg.eigvalsh(situation_of(tails.case, sizes).instance.hessian))
        bound = best_below(magnitudes, 2)
        text = "two tails: no $\\rho I + UU^T$ of rank 1 or 2 comes closer"
        figures.line(ax, bound, text, color=COLORS["grey"])
    ax.set_xscale("log")
    ax.set_ylim(bottom=1e-13)
    return ax


def _floors(outcomes: Sequence[Outcome], options: Options) -> Iterable[Panel]:
    """One panel per kind of probe, for the largest group that was run."""
    for probe in ("gaussian", "rademacher"):
        shown = [
            o for o in outcomes if SAMPLE in o.traces and o.case.probe == probe and o.traces[SAMPLE].updates
        ]
        if shown:
            yield partial(_draw_floors, outcome=shown[-1])


def _draw_floors(ax: Any, *, outcome: Outcome) -> Any:
    group = "one step" if outcome.case.probe == "gaussian" else "a step per orbit"
    own = LOOKS[outcome.case.preconditioner]["color"]
    looks = (
        ("constant step", {"color": paler(own, 2)}, "constant step"),
        (SAMPLE, {"color": own, "linestyle": (0, (5, 1.5))}, f"annealed, sample's own normaliser, {group}"),
        (outcome.judged, {"color": own}, "annealed, default normaliser"),
    )
    curves = [Curve(outcome.traces[name], label, style) for name, style, label in looks]
    title = (
        f"{outcome.label}, H outside the group, one {(outcome.case.probe or '').capitalize()} probe a time"
    )
    return figures.floors(ax, curves, TARGET_GAP, title)


def _contests(outcomes: Sequence[Outcome], options: Options) -> Iterable[Panel]:
    titles = {
        "definite": "definite, no noise",
        "indefinite": "indefinite (PSGD: annealed)",
        "noisy": "noise on the products (PSGD: annealed)",
        "drifting": "drifting, $H_{t+1} = H_t + uu^T$",
    }
    for outcome in compared(outcomes):
        if outcome.case.problem in titles:
            yield partial(_draw_contest, outcome=outcome, what=titles[outcome.case.problem])


def _draw_contest(ax: Any, *, outcome: Outcome, what: str) -> Any:
    curves = []
    for name in (outcome.judged, *RIVALS):
        label = {"PSGD": outcome.label, "closed form": "(mean of $hh^T$)$^{-1/2}$"}.get(name, name)
        ours = {"color": LOOKS[outcome.case.preconditioner]["color"], "linewidth": 2.0}
        curves.append(Curve(outcome.traces[name], label, RIVAL_LOOKS.get(name, ours), at=0.6))
    return figures.convergence(ax, curves, f"On the same pairs: {what}", ylabel="distance to what it aims at")


PANELS = (_exact, _rates, _low_rank, _floors, _contests)
"""The panels in reading order."""
