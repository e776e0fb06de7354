"""The results of a check, as a table to read and as data to process."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from psgd_core.convergence import Status, Trace

from .. import terminal
from ..documents import plain, versions
from .own import Own
from .run import Options, Outcome
from .settings import CONSTANT, SAMPLE, SETTINGS, TARGET_GAP

SCHEMA = 1
"""Version of the layout of `as_dict`."""

DIGITS = 7
"""Significant digits of floats in JSON."""

WORDS = {
    Status.CONVERGED.name: "to rounding",
    Status.FLOOR_FELL.name: "floor fell",
    Status.TRACKED.name: "kept up",
    Status.SLOW.name: "too slow",
    Status.UNFINISHED.name: "unfinished",
    Status.STALLED.name: "stalled",
    Status.FLOOR_STAYED.name: "floor stayed",
    Status.LOST.name: "lost it",
    Status.DIVERGED.name: "diverged",
    Status.TOO_SHORT.name: "too short",
    "ERROR": "error",
}
"""Verdicts in a word or two."""

PROBES = {"gaussian": "(Gaussian)", "rademacher": "(signs)"}
"""Kinds of probes in a word."""

RIVALS = ("BFGS", "closed form")

STYLE: dict[str, Any] = {"box": None, "pad_edge": False, "header_style": "bold", "padding": (0, 2, 0, 0)}
"""Of the tables."""


# -- data ------------------------------------------------------------------------------------------------


def as_dict(
    outcomes: Sequence[Outcome],
    options: Options,
    command: Sequence[str],
    seconds: float,
    interrupted: bool,
    own: Own | None = None,
) -> dict[str, Any]:
    """Return everything in types that JSON has: numbers that are not finite as None."""
    sizes, backend = options.sizes, options.backend
    data = {
        "schema": SCHEMA,
        "program": "psgd verify",
        "command": list(command),
        "versions": versions() | {backend.name: backend.version},
        "seed": sizes.seed,
        "settings": {
            "n": sizes.n,
            "kappa": sizes.kappa,
            "dtype": backend.dtype,
            "backend": backend.name,
            "steps": options.steps,
            "step": options.step,
        },
        "hessian": own and {"name": own.name, "n": len(own.hessian), "kappa": own.kappa},
        "seconds": round(seconds, 3),
        "interrupted": interrupted,
        "passed": sum(outcome.passed for outcome in outcomes),
        "total": len(outcomes),
        "cases": [_case(outcome) for outcome in outcomes],
    }
    return plain(data, DIGITS)


def _case(outcome: Outcome) -> dict[str, Any]:
    case = outcome.case
    return {
        "name": case.name,
        "preconditioner": case.preconditioner,
        "problem": case.problem,
        "setting": case.setting,
        "probe": case.probe,
        "replica": case.replica,
        "n": outcome.n,
        "step": outcome.step,
        "updates": outcome.updates,
        "measure": outcome.column,
        "final": outcome.final,
        "rate": {"predicted": outcome.predicted, "fitted": outcome.fitted},
        "verdict": {"passed": outcome.passed, "status": outcome.status, "reason": outcome.reason},
        "seconds": round(outcome.seconds, 3),
        "judged": outcome.judged,
        "traces": [_trace(trace) for trace in outcome.traces.values()],
    }


def _trace(trace: Trace) -> dict[str, Any]:
    """Return the trace with None for infinities, too, which `Trace.as_dict` has as texts."""
    data = trace.as_dict()
    columns = {
        key: [None if x in ("inf", "-inf") else x for x in data[key]] for key in data.keys() - {"name"}
    }
    return {key: columns.get(key, value) for key, value in data.items()}


# -- the table -------------------------------------------------------------------------------------------


def table(outcomes: Iterable[Outcome], unicode: bool = True) -> Table:
    """Return the table of cases."""
    heads = ("preconditioner", "Hessian", "setting", "updates", "error", "rate", "theory", "verdict")
    rows, before = [], None
    for outcome in outcomes:
        case = outcome.case
        kind = "gap " if outcome.column == "gap" else ""
        mark = ("✓" if unicode else "ok") if outcome.passed else ("✗" if unicode else "FAIL")
        rows.append(
            (
                "" if outcome.label == before else outcome.label,
                case.problem + (f" #{case.replica}" if case.replica else ""),
                setting_name(outcome),
                f"{outcome.updates:,}",
                kind + _number(outcome.final),
                _rate(outcome.fitted),
                _rate(outcome.predicted),
                Text(f"{mark} {word(outcome)}", style="green" if outcome.passed else "bold red"),
            )
        )
        before = outcome.label
    return terminal.table(heads, rows, words=(0, 1, 2, 7), **STYLE | {"padding": (0, 1, 0, 0)})


def setting_name(outcome: Outcome) -> str:
    """Return the setting, and the probe where that makes a difference."""
    case = outcome.case
    several = case.setting in SETTINGS and len(SETTINGS[case.setting].probes) > 1
    return f"{case.setting} {PROBES.get(case.probe or '', '')}" if several else case.setting


def word(outcome: Outcome) -> str:
    """Return the verdict in a word or two."""
    if outcome.status == Status.CONVERGED.name and outcome.final > 1e-4:
        return "as predicted"  # so few updates were asked for
    return WORDS.get(outcome.status, outcome.status.lower())


def floors(outcomes: Iterable[Outcome]) -> Table | None:
    """Return the table of annealed runs, or None, beside their floors with a constant step."""
    annealed = [outcome for outcome in outcomes if CONSTANT in outcome.traces]
    if not annealed:
        return None
    heads = ("criterion gap at the end", "constant step", "annealed", "annealed, sample's own normaliser")
    rows = []
    for outcome in annealed:
        own = outcome.traces.get(SAMPLE)
        biased = "" if own is None else _number(_level(own.gap))
        if own is not None and outcome.case.probe == "gaussian":
            biased += ", one step for all"
        name = f"{outcome.label}, {outcome.case.problem}, {PROBES.get(outcome.case.probe or '', '')}"
        rows.append((name, _number(_level(outcome.traces[CONSTANT].gap)), _number(outcome.final), biased))
    return terminal.table(heads, rows, words=range(4), **STYLE)


def contests(outcomes: Iterable[Outcome], eps: float) -> Table | None:
    """Return the table of PSGD beside BFGS and the running closed form, or None if nothing was compared."""
    rows = []
    for outcome in compared(outcomes):
        traces = (outcome.traces[outcome.judged], *(outcome.traces[name] for name in RIVALS))
        told = [
            f"{_number(trace.distance[-1])}  {fate(trace, outcome.case.setting, eps)}" for trace in traces
        ]
        rows.append((f"{outcome.label}, {outcome.case.problem}", f"{outcome.updates:,}", *told))
    heads = ("on the same pairs", "updates", "PSGD", "BFGS", "(mean of hh^T)^-1/2")
    return terminal.table(heads, rows, words=(0, 2, 3, 4), **STYLE) if rows else None


def compared(outcomes: Iterable[Outcome]) -> Iterable[Outcome]:
    """Return the outcomes with rivals: for each Hessian that of the largest group, as theirs is GL(n)."""
    found: dict[str, Outcome] = {}
    for outcome in outcomes:
        if all(name in outcome.traces for name in RIVALS):
            old = found.get(outcome.case.problem)
            if old is None or outcome.case.preconditioner == "dense":
                found[outcome.case.problem] = outcome
    return found.values()


def fate(trace: Trace, setting: str, eps: float) -> str:
    """Return the fate of a fit in a word."""
    d = trace.column("distance")
    known = d[np.isfinite(d)]
    if known.size == 0:
        return "none"  # no P yet: the mean is singular to rounding
    if not np.isfinite(d[-1]):
        return "diverges"
    if setting == "tracking":
        return "keeps up" if d[-1] < 0.1 else "falls behind"
    if d[-1] < max(1e-10, 200 * eps):  # even if it started there, and has gone up by rounding
        return "converges"
    if d[-1] > 2 * known[0]:
        return "diverges"
    return "falls" if _level(d) < 0.85 * _level(d[: d.size // 2]) else "stalls"


def summary(
    outcomes: Sequence[Outcome], planned: int, seconds: float, files: Sequence[str], more: int = 0
) -> str:
    """Return the last line; `more` checks were not planned."""
    passed = sum(outcome.passed for outcome in outcomes)
    line = f"{passed} of {len(outcomes)} checks passed in {seconds:.0f} s"
    if len(outcomes) < planned:
        line += f", interrupted with {planned - len(outcomes)} to go"
    added = f"--all adds {more} checks, which take minutes"
    return "; ".join([line, *([added] if more else []), *([", ".join(files)] if files else [])])


def legend(outcomes: Iterable[Outcome]) -> str:
    """Return the meaning of the columns, and n."""
    sizes: dict[int, dict[str, None]] = {}
    for outcome in outcomes:
        sizes.setdefault(outcome.n, {})[outcome.label] = None
    by_count = sorted(sizes.items(), key=lambda item: -len(item[1]))
    told = [f"{n} for {', '.join(labels)}" for n, labels in by_count[1:]]
    return (
        "error: affine-invariant distance to the exact target, or gap, (c(P) - c(P*)) / c(P*), to be below "
        f"{TARGET_GAP:.0e} outside the group; rates per update"
        + (f"; n = {'; '.join([str(by_count[0][0]), *told])}" if by_count else "")
    )


def _level(values: Any) -> float:
    from psgd_core.convergence import level

    known = [x for x in values if math.isfinite(x)]
    return level(known) if known else float("nan")


def _number(x: float) -> str:
    return f"{x:.0e}" if math.isfinite(x) else "-    "


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.2g}"
