"""The results as tables on the terminal, as a JSON document, and as Markdown to commit beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..documents import plain
from ..tables import markdown_table
from .models import Overhead
from .run import Growth, Row
from .timing import Limits, Samples

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "psgd-bench/1"
YARDSTICK = "numpy.linalg.solve"
"""A contender whose memory traffic is not that of an update."""

HEADS = (
    "",
    "update or P g",
    "seconds",
    "quartiles",
    "GB/s",
    "of copy",
    "× floor",
    "÷ psgd-core",
    "extra",
    "",
)
OVERHEAD_HEADS = ("model, preconditioner", "", "pairs", "step", "gradient step", "added", "")
GROWTH_HEADS = ("", "preconditioner", "operation", "grows with", "slope", "from", "to", "sizes")

LEGEND = (
    "Medians over rounds in which everything is measured in turn. GB/s: the bytes the algorithm must move "
    "(psgd_analysis.bench.costs) over the median; of copy: that over the bandwidth of a large copy in the "
    "same rounds; × floor: its inverse (in brackets: with what an update in place must read again). Left out "
    "where less than 32 MiB are moved, which caches hold; to be ignored for Dense and Kronecker, bound by "
    "arithmetic. GFLOP/s: the least arithmetic of Kronecker over the median, which is less than most do. "
    "÷ psgd-core: seconds over psgd-core's in the same rounds; extra: the most that an update allocates "
    "besides its state (in brackets: the first update), in vectors of n numbers where these are large."
)


# -- the tables, as text -----------------------------------------------------------------------------------


def titles(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return the title of each setting, in order, with its rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        s = row.setting
        title = f"{s.label}, n = {size(s.n)}, {s.library.dtype}, {s.library.name} on {s.library.device}"
        groups.setdefault(title, []).append(row)
    return list(groups.items())


def cells(row: Row) -> list[str]:
    """Return a row of a setting's table; one that is too noisy shows the reason in place of numbers."""
    found = row.shown
    if found is None:
        why = f"{row.status}: {row.reason}" if row.status == "too noisy" else row.reason
        return [row.contender, row.operation, *["–"] * 7, why]
    low, high = found.quartiles
    rate = row.flops_per_second
    notes = (
        "" if rate is None else f"{rate / 1e9:.3g} GFLOP/s",
        row.note,
        f"noisy: {row.reason}" if row.reason else "",
    )
    marks = [text for text in notes if text]
    floor = ("–", "–", "–")
    if row.in_memory and row.contender != YARDSTICK:
        assert row.bandwidth is not None
        assert row.floor is not None
        in_place = "" if row.floor_in_place is None or not row.own else f" ({row.floor_in_place:.2f})"
        floor = (f"{row.bandwidth / 1e9:.3g}", f"{1 / row.floor:.0%}", f"{row.floor:.2f}{in_place}")
    return [
        row.contender,
        row.operation,
        seconds(found.median),
        f"{seconds(low)} … {seconds(high)}",
        *floor,
        "1" if row.ratio is None else f"{row.ratio:.2f}",
        extra(row),
        "; ".join(marks),
    ]


def extra(row: Row) -> str:
    """Return the extra memory in vectors of n numbers."""
    if row.operation != "update" or row.extra_bytes is None:
        return "–"
    vector = row.setting.n * row.setting.library.itemsize
    counts = [row.extra_bytes] + ([row.first_bytes] if row.own and row.first_bytes is not None else [])
    texts = [f"{c / vector:.2f} n" if vector >= 2**18 else f"{c / 1000:.3g} kB" for c in counts]
    return texts[0] + "".join(f" ({text})" for text in texts[1:])


def overhead_cells(found: Overhead) -> list[str]:
    """Return a row of the table of overheads."""
    head = [f"{found.model.about}, n = {found.model.start.shape[0]}, {found.setting.label}"]
    head += [found.contender, found.source]
    if found.status != "ok":
        return [*head, "–", "–", "–", f"{found.status}: {found.reason}"]
    mark = f"noisy: {found.reason}" if found.reason else ""
    return [
        *head, seconds(found.samples.median), seconds(found.gradient.median), f"{found.share:+.1%}", mark,
    ]  # fmt: skip


def growth_cells(found: Growth) -> list[str]:
    """Return a row of the table of slopes."""
    s = found.slope
    error = "" if math.isnan(s.error) else f" ± {s.error:.3f}"
    return [
        found.contender, f"{found.label}, {found.dtype}", found.operation, found.variable,
        f"{s.slope:.3f}{error}", size(s.smallest), size(s.largest), str(s.points),
    ]  # fmt: skip


def size(n: float) -> str:
    """Return a number of parameters: 1e7 rather than 10000000."""
    if n < 1000 or len(f"{n:.0f}".rstrip("0")) > 3:
        return f"{n:.0f}"
    mantissa, _, exponent = f"{n:.2e}".partition("e+")
    return f"{float(mantissa):g}e{int(exponent)}"


def seconds(t: float) -> str:
    """Return a time with its unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if t >= scale:
            return f"{t / scale:.3g} {unit}"
    return f"{t / 1e-6:.3g} µs"


# -- the terminal ------------------------------------------------------------------------------------------


def tables(rows: Sequence[Row], found: Sequence[Growth], overheads: Sequence[Overhead]) -> list[Table]:
    """Return the tables for the terminal."""
    made = [_table(title, HEADS, map(cells, group)) for title, group in titles(rows)]
    if overheads:
        made.append(
            _table("What PSGD adds to a gradient step", OVERHEAD_HEADS, map(overhead_cells, overheads))
        )
    if found:
        made.append(_table("How cost grows", GROWTH_HEADS, map(growth_cells, found)))
    return made


def _table(title: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    from rich.text import Text

    from ..terminal import table

    return table(
        heads,
        lines,
        words=(0, 1, len(heads) - 1),
        title=Text(title),
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


# -- JSON --------------------------------------------------------------------------------------------------


def document(
    rows: Sequence[Row],
    found: Sequence[Growth],
    overheads: Sequence[Overhead],
    *,
    limits: Limits,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Return everything in JSON's types; numbers that are not finite or too noisy become null.

    Parameters
    ----------
    rows, found, overheads
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
            "legend": LEGEND,
            "rows": [_row(row) for row in rows],
            "growth": [{**asdict(one), "slope": one.slope._asdict()} for one in found],
            "overhead": [_overhead(one) for one in overheads],
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


def _overhead(one: Overhead) -> dict[str, Any]:
    shown = one.status == "ok"
    return {
        "model": one.model.name,
        "about": one.model.about,
        "n": one.setting.n,
        "label": one.setting.label,
        "contender": one.contender,
        "pairs": one.source,
        "status": one.status,
        "reason": one.reason,
        "added": one.share if shown else None,
        "step": _samples(one.samples if shown else None),
        "gradient_step": _samples(one.gradient if shown else None),
    }


def _samples(found: Samples | None) -> dict[str, Any]:
    if found is None:
        return {"seconds": None, "quartiles": None, "samples": None}
    return {"seconds": found.median, "quartiles": list(found.quartiles), "samples": list(found.values)}


def markdown(
    rows: Sequence[Row],
    found: Sequence[Growth],
    overheads: Sequence[Overhead],
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
    lines += ["", LEGEND, "", f"![Cost of an update and of P g]({figure})", ""]
    for title, group in titles(rows):
        lines += [f"## {title}", "", *markdown_table(HEADS, map(cells, group)), ""]
    if overheads:
        lines += ["## What PSGD adds to a gradient step", ""]
        lines += [*markdown_table(OVERHEAD_HEADS, map(overhead_cells, overheads)), ""]
    if found:
        lines += ["## How cost grows", "", *markdown_table(GROWTH_HEADS, map(growth_cells, found)), ""]
    return "\n".join(lines)
