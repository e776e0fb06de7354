"""The results as tables, and what their columns mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from .rows import Growth, Row
from .steps import StepRow

if TYPE_CHECKING:
    from rich.table import Table

R = TypeVar("R", Row, StepRow)

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
STEP_HEADS = ("", "besides a gradient", "step", "processor", "quartiles", "÷ SGD", "own part", "")
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

STEPS_LEGEND = (
    "Steps: medians over rounds in which all steps are taken in turn. Processor: seconds of all threads "
    "together. ÷ SGD: over a step of SGD in the same rounds. Own part: what a step takes besides the "
    "evaluations that it needs, over these alone: a gradient, and where P is fitted to an exact pair a "
    "Hessian-vector product by double backward. With --threads 1, quartiles and ratios are of the "
    "processor's seconds, which other processes disturb less; otherwise of those on the clock. All "
    "optimisers have the settings that they start with, but a learning rate at which the model hardly moves."
)


# -- the tables, as text -----------------------------------------------------------------------------------


def title(row: Row) -> str:
    """Return the title of a setting's table."""
    s = row.setting
    return f"{s.label}, n = {size(s.n)}, {s.library.dtype}, {s.library.name} on {s.library.device}"


def step_title(row: StepRow) -> str:
    """Return the title of a model's table."""
    library = row.model.library
    return f"{row.model.about}, n = {row.model.n}, {library.dtype}, {library.name} on {library.device}"


def titles(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return the title of each setting, in order, with its rows."""
    return _grouped(rows, title)


def step_titles(rows: Sequence[StepRow]) -> list[tuple[str, list[StepRow]]]:
    """Return the title of each model, in order, with its rows."""
    return _grouped(rows, step_title)


def _grouped(rows: Sequence[R], name: Callable[[R], str]) -> list[tuple[str, list[R]]]:
    groups: dict[str, list[R]] = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return list(groups.items())


def cells(row: Row) -> list[str]:
    """Return a row of a setting's table; one that is too noisy shows the reason in place of numbers."""
    found = row.shown
    if found is None:
        return [row.contender, row.operation, *["–"] * 7, _why(row)]
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


def step_cells(row: StepRow) -> list[str]:
    """Return a row of a model's table; one that is too noisy shows the reason in place of numbers."""
    if row.judged is None or row.samples is None:
        return [row.contender, row.what, *["–"] * 5, _why(row)]
    low, high = row.judged.quartiles
    return [
        row.contender,
        row.what,
        seconds(row.samples.median),
        "–" if row.cpu is None else seconds(row.cpu.median),
        f"{seconds(low)} … {seconds(high)}",
        "–" if row.over_sgd is None else f"{row.over_sgd:.2f}",
        "–" if row.own_part is None else f"{row.own_part:+.1%}",
        f"noisy: {row.reason}" if row.reason else "",
    ]


def _why(row: Row | StepRow) -> str:
    """Return why there are no numbers."""
    return f"{row.status}: {row.reason}" if row.status == "too noisy" else row.reason


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


def table(rows: Sequence[Row]) -> Table:
    """Return the table of a setting."""
    return _table(title(rows[0]), HEADS, map(cells, rows))


def step_table(rows: Sequence[StepRow]) -> Table:
    """Return the table of a model."""
    return _table(step_title(rows[0]), STEP_HEADS, map(step_cells, rows))


def growth_table(found: Sequence[Growth]) -> Table:
    """Return the table of slopes."""
    return _table("How cost grows", GROWTH_HEADS, map(growth_cells, found))


def legends(rows: Sequence[Row], steps: Sequence[StepRow]) -> list[str]:
    """Return the legends of the tables that there are."""
    return [LEGEND] * bool(rows) + [STEPS_LEGEND] * bool(steps)


def _table(title: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    from rich.text import Text

    from .. import terminal

    return terminal.table(
        heads,
        lines,
        words=(0, 1, len(heads) - 1),
        title=Text(title),
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
