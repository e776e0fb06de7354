"""The results as a JSON document, and as Markdown to commit beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..documents import plain
from ..tables import markdown_table
from . import report
from .rows import Growth, Row
from .steps import StepRow
from .timing import Limits, Samples

SCHEMA = "psgd-bench/2"


def document(
    rows: Sequence[Row],
    found: Sequence[Growth],
    steps: Sequence[StepRow],
    *,
    limits: Limits,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Return everything in JSON's types; numbers that are not finite or too noisy become null.

    Parameters
    ----------
    rows, found, steps
        The results.
    limits : Limits
    about : dict
        Command, versions, seed, machine and the like.
    """
    return plain(
        {
            "schema": SCHEMA,
            **about,
            "limits": asdict(limits),
            "legend": " ".join(report.legends(rows, steps)),
            "rows": [_row(row) for row in rows],
            "growth": [{**asdict(one), "slope": one.slope._asdict()} for one in found],
            "steps": [_step(row) for row in steps],
        }
    )


def _row(row: Row) -> dict[str, Any]:
    s = row.setting
    shown = row.shown is not None
    return {
        "preconditioner": s.kind,
        "label": s.label,
        "n": s.n,
        "rank": s.rank,
        "shape": list(s.shape),
        "dtype": s.library.dtype,
        "library": s.library.name,
        "device": s.library.device,
        "contender": row.contender,
        "operation": row.operation,
        "status": row.status,
        "reason": row.reason,
        "note": row.note,
        "bytes": row.bytes,
        **_samples(row.shown),
        "bytes_per_second": row.bandwidth,
        "flops_per_second": row.flops_per_second,
        "times_floor": row.floor if shown else None,
        "times_floor_in_place": row.floor_in_place if shown else None,
        "over_psgd_core": row.ratio if shown else None,
        "copy": None if row.copies is None else {"drift": row.copies.drift, **_samples(row.copies)},
        "state_bytes": row.state_bytes,
        "extra_bytes": row.extra_bytes,
        "extra_bytes_first": row.first_bytes,
    }


def _step(row: StepRow) -> dict[str, Any]:
    shown = row.status == "ok"
    library = row.model.library
    return {
        "model": row.model.about,
        "n": row.model.n,
        "dtype": library.dtype,
        "library": library.name,
        "device": library.device,
        "contender": row.contender,
        "besides_a_gradient": row.what,
        "status": row.status,
        "reason": row.reason,
        "ratios_of": "processor" if row.by_cpu else "clock",
        "over_sgd": row.over_sgd if shown else None,
        "own_part": row.own_part if shown else None,
        **_samples(row.samples if shown else None),
        "processor": _samples(row.cpu if shown else None),
    }


def _samples(found: Samples | None) -> dict[str, Any]:
    if found is None:
        return {"seconds": None, "quartiles": None, "samples": None}
    return {"seconds": found.median, "quartiles": list(found.quartiles), "samples": list(found.values)}


def markdown(
    rows: Sequence[Row],
    found: Sequence[Growth],
    steps: Sequence[StepRow],
    about: dict[str, Any],
    figure: str,
) -> str:
    """Return the results as a page: the machine and the command first, then every table."""
    machine = about["machine"]
    memory = machine.get("memory_bytes")
    lines = [f"# {about['title']}", "", "```sh", about["command"], "```", ""]
    where = [f"{machine['processor']}, {machine['cores_available']} of {machine['cores']} cores"]
    where += [f"{memory / 2**30:.0f} GiB"] if memory else []
    where += [str(machine["gpu"])] if machine.get("gpu") else []
    threads = ", ".join(f"{key} {value}" for key, value in about["threads"].items())
    versions = ", ".join(f"{key} {value}" for key, value in about["versions"].items())
    lines += [f"- Machine: {', '.join(where)}; {machine['system']}, {machine['architecture']}"]
    lines += [f"- Threads: {threads}", f"- Versions: {versions}", f"- Kernels: {about['kernels']}"]
    lines += [f"- Seed: {about['seed']}"]
    copy = about.get("copy")
    if copy:
        lines += [
            f"- Copy of {copy['bytes'] / 2**20:.0f} MiB: {copy['bytes_per_second'] / 1e9:.3g} GB/s, "
            "read and written, the median of all rounds"
        ]
    if about.get("interrupted"):
        lines += ["- Interrupted: these are the results so far"]
    for legend in report.legends(rows, steps):
        lines += ["", legend]
    drawn = [*["of an update and of P g"] * bool(rows), *["of whole steps"] * bool(steps)]
    lines += ["", f"![Cost {' and '.join(drawn)}]({figure})", ""]
    for name, group in report.titles(rows):
        lines += [f"## {name}", "", *markdown_table(report.HEADS, map(report.cells, group)), ""]
    for name, taken in report.step_titles(steps):
        lines += [f"## {name}", "", *markdown_table(report.STEP_HEADS, map(report.step_cells, taken)), ""]
    if found:
        lines += [
            "## How cost grows",
            "",
            *markdown_table(report.GROWTH_HEADS, map(report.growth_cells, found)),
            "",
        ]
    return "\n".join(lines)
