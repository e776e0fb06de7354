"""A study as a table and as strictly valid JSON, written whole or not at all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..documents import plain, versions
from .counting import reached, thinned
from .ratios import Newton, last_ratios
from .run import Line, Spread, Study

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "psgd-minimize/1"

UNIT = (
    "gradient-equivalents = njev + nhev: a Hessian-vector product counts as one gradient; values (nfev) are "
    "not counted in"
)


def table(study: Study) -> Table:
    """Return the table: median [range] over seeds."""
    from rich.text import Text

    from ..terminal import table as drawn

    heads = ["contender", f"evaluations to f − f* ≤ {study.tol:.2g}"]
    if math.isfinite(study.default_loss):
        heads.append("to L-BFGS-B's default stop")
    heads += ["runs", "final f − f*", "nfev/njev/nhev", "seconds", "status"]
    rows = [(line.contender.label, *_cells(study, line)) for line in study.lines if line.outcomes]
    return drawn(
        heads,
        rows,
        words=(0, len(heads) - 1),
        title=Text(headline(study)),
        caption=Text(caption(study)),
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


def headline(study: Study) -> str:
    """Return the problem in words."""
    problem = study.problem
    kind = "stochastic" if problem.stochastic else "deterministic"
    return f"{problem.name}, n = {problem.n}, {kind}, {problem.start.dtype}"


def caption(study: Study) -> str:
    """Return what the numbers mean."""
    known = study.problem.minimum is not None
    text = f"Median [range] over seeds. {UNIT}. "
    text += f"f* = {study.reference:.10g}, " + ("known." if known else "the lowest value found here.")
    if math.isfinite(study.default_loss):
        text += (
            f" L-BFGS-B with SciPy's default tolerances stops at f = {study.default_loss:.10g} after "
            f"{study.default_gradients} gradients."
        )
    return text


def _cells(study: Study, line: Line) -> list[str]:
    runs = len(line.outcomes)
    cells = [_spread(study.to_level(line, study.reference + study.tol), runs)]
    if math.isfinite(study.default_loss):
        cells.append(_spread(study.to_level(line, study.default_loss), runs))
    counters = [o.counter for o in line.outcomes]
    gap = study.gap(line)
    middle = sorted(counters, key=lambda c: c.equivalents)[len(counters) // 2]
    seconds = sorted(o.seconds for o in line.outcomes)[len(counters) // 2]
    kinds: dict[str, int] = {}
    for o in line.outcomes:
        kinds[o.status] = kinds.get(o.status, 0) + 1
    status = ", ".join(kind if len(kinds) == 1 else f"{count} {kind}" for kind, count in kinds.items())
    final = f"{gap.median:.1e}"
    if gap.runs > 1 and f"{gap.low:.0e}" != f"{gap.high:.0e}":
        final += f" [{gap.low:.0e}, {gap.high:.0e}]"
    evaluations = f"{middle.nfev}/{middle.njev}/{middle.nhev}"
    return [*cells, str(runs), final, evaluations, f"{seconds:.2f}", status]


def _spread(found: Spread, runs: int) -> str:
    """Return median [low, high], and how many of the runs reached it if not all did."""
    if found.runs == 0:
        return "–"
    text = f"{found.median:g}"
    if found.low < found.high:
        text += f" [{found.low:g}, {found.high:g}]"
    return text if found.runs == runs else f"{text} ({found.runs} of {runs})"


def ratio_lines(study: Study, newton: Newton | str | None) -> list[str]:
    """Return lines of text: the last ratios of each PSGD contender, and of steps with P fitted."""
    minimum = study.reference
    lines = ["Ratios (f_{k+1} − f*) / (f_k − f*) of the last steps, first seed:"]
    for line in study.lines:
        if line.outcomes and line.outcomes[0].values:
            found = last_ratios(line.outcomes[0].values, minimum)
            lines.append(f"  {line.contender.label:<22} " + "  ".join(f"{r:.1e}" for r in found))
    lines.append(
        "P is still being fitted: order 1, f falls by factors, which get small as P gets good. "
        "With P fitted to convergence at each x near x*:"
    )
    if isinstance(newton, Newton):
        lines.append(f"  {'|x_k − x*|':<30}" + "  ".join(f"{e:.1e}" for e in newton.errors))
        lines.append(f"  {'|x_{k+1} − x*| / |x_k − x*|²':<30}" + "  ".join(f"{r:.1e}" for r in newton.ratios))
        lines.append("The second row stays bounded: order 2, errors square, as Newton's.")
    else:
        lines.append(f"  not shown: {newton}")
    return lines


# -- JSON ------------------------------------------------------------------------------------------------


def document(
    study: Study,
    *,
    command: list[str],
    seeds: list[int],
    options: dict[str, Any],
    newton: Newton | str | None,
) -> dict[str, Any]:
    """Return everything about a study in JSON's types; numbers that are not finite become null."""
    problem = study.problem
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "command": command,
        "versions": versions(),
        "problem": {
            "name": problem.name,
            "n": problem.n,
            "options": {key: repr(value) for key, value in options.items()},
            "stochastic": problem.stochastic,
            "dtype": str(problem.start.dtype),
        },
        "seeds": seeds,
        "tol": study.tol,
        "maxiter": study.maxiter,
        "unit": UNIT,
        "reference": {
            "value": study.reference,
            "kind": "known minimum" if problem.minimum is not None else "lowest value found",
        },
        "lbfgsb_default_stop": {"fun": study.default_loss, "njev": study.default_gradients},
        "interrupted": study.interrupted,
        "contenders": [_contender(study, line) for line in study.lines],
    }
    if newton is not None:
        content["fitted_newton"] = newton._asdict() if isinstance(newton, Newton) else newton
    return plain(content)


def _contender(study: Study, line: Line) -> dict[str, Any]:
    return {
        "name": line.contender.name,
        "label": line.contender.label,
        "settings": line.contender.about,
        "to_tol": study.to_level(line, study.reference + study.tol)._asdict(),
        "to_lbfgsb_default_stop": study.to_level(line, study.default_loss)._asdict(),
        "gap": study.gap(line)._asdict(),
        "runs": [
            {
                "seed": o.seed,
                "nit": o.nit,
                "nfev": o.counter.nfev,
                "njev": o.counter.njev,
                "nhev": o.counter.nhev,
                "gradient_equivalents": o.counter.equivalents,
                "seconds": o.seconds,
                "fun": o.counter.final,
                "best": o.counter.best,
                "to_tol": reached(o.counter.trace, study.reference + study.tol),
                "to_lbfgsb_default_stop": reached(o.counter.trace, study.default_loss),
                "status": o.status,
                "message": o.message,
                "last_ratios": last_ratios(o.values, study.reference),
                "trace": thinned(o.counter.trace),
            }
            for o in line.outcomes
        ],
    }
