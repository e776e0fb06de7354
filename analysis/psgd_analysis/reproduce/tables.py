"""Tables of results: a row for each cell, ours beside the paper's, and above them what the runs are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..tables import markdown_table
from .experiment import Cell, Column, Experiment, Scale
from .records import Record
from .samples import Sample, sample, stand_ins

if TYPE_CHECKING:
    from rich.table import Table as RichTable

DASH = "–"

WIDEST = 20
"""Columns up to which each cell has a row; beyond that each has a column, where cells are fewer."""


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns.

    Parameters
    ----------
    heads : tuple of str
    rows : tuple of tuples of str
    words : set of int
        Columns flush left; the others have numbers.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset({0})

    def markdown(self) -> list[str]:
        """Return the lines in Markdown."""
        right = set(range(len(self.heads))) - self.words
        return markdown_table(self.heads, self.rows, right)

    def transposed(self) -> Table:
        """Return the table with rows and columns exchanged, for one that is too wide."""
        across = zip(*self.rows, strict=True)
        heads, *rows = ((head, *texts) for head, texts in zip(self.heads, across, strict=True))
        return Table(heads, tuple(rows))

    @property
    def width(self) -> int:
        """How many characters the terminal must have across for the table to show every text in one line."""
        columns = zip(self.heads, *self.rows, strict=True)
        return sum(max(map(len, column)) + 3 for column in columns) + 1

    def rich(self, title: str = "") -> RichTable:
        """Return the table for the terminal: where it is narrow, texts are folded, never cut."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
        for i, head in enumerate(self.heads):
            drawn.add_column(Text(head), justify="left" if i in self.words else "right", overflow="fold")
        for row in self.rows:
            drawn.add_row(*map(Text, row))
        return drawn


def results(experiment: Experiment, records: Sequence[Record], scale: Scale) -> Table:
    """Return the table of a scale's runs, as `of_scale` gives them; cells without a run are left out."""
    cells = [c for c in experiment.plans[scale].cells if any(r.cell == c.name for r in records)]
    heads, columns = [""], [[c.name for c in cells]]
    for column in experiment.columns:
        heads.append(column.title)
        columns.append(texts(column, [sample(records, c.name, column.key) for c in cells]))
        if any(c.name in column.paper for c in cells):
            heads.append("paper")
            columns.append([column.paper.get(c.name, DASH) for c in cells])
    for head, statuses in (("runs", None), ("diverged", "diverged"), ("cut", "cut")):
        counts = [sum(r.cell == c.name and statuses in (None, r.status) for r in records) for c in cells]
        if statuses is None or any(counts):
            heads.append(head)
            columns.append([str(count) for count in counts])
    if len(heads) > max(WIDEST, len(cells)):
        turned = [(head, *column) for head, column in zip(heads, columns, strict=True)]
        return Table(turned[0], tuple(turned[1:]))
    return Table(tuple(heads), tuple(zip(*columns, strict=True)))


def texts(column: Column, samples: Sequence[Sample]) -> list[str]:
    """Return a column's text for each sample; the numbers have the same decimals, to be compared."""
    if column.spread == "rate":
        return [f"{s.true}/{len(s.seeds)}" if s.seeds else DASH for s in samples]
    middle = statistics.fmean if column.spread == "sd" else statistics.median
    spreads = [statistics.stdev(s.finite) for s in samples if len(s.finite) > 1 and column.spread == "sd"]
    form = fixed(column.form, [middle(s.finite) for s in samples if s.finite], spreads)
    return [_text(column.spread, middle(s.finite), s.finite, form) if s.finite else DASH for s in samples]


def _text(spread: str, middle: float, values: Sequence[float], form: str) -> str:
    if len(values) == 1 or spread == "median":
        return format(middle, form)
    if spread == "sd":
        return f"{middle:{form}} ± {statistics.stdev(values):{form}}"
    return f"{middle:{form}} ({min(values):{form}} to {max(values):{form}})"


def fixed(form: str, values: Iterable[float], spreads: Sequence[float] = ()) -> str:
    """Return a form with fixed decimals in place of significant digits, unless numbers differ too much.

    They are enough for a digit of a typical spread.
    """
    sizes = [abs(x) for x in values if x and math.isfinite(x)]
    digits = form[1:-1]
    if not (form[:1] == "." and form[-1:] == "g" and digits.isdigit() and sizes):
        return form
    if max(sizes) >= 1e4 * min(sizes) or min(sizes) < 1e-4 or max(sizes) >= 1e6:
        return form
    decimals = int(digits) - 1 - math.floor(math.log10(min(sizes)))
    spread = statistics.median(spreads) if spreads else 0.0
    if spread > 1e-6:
        decimals = max(decimals, -math.floor(math.log10(spread)))
    return f".{max(0, decimals)}f"


# -- what the runs are ---------------------------------------------------------------------------------------


def about(experiment: Experiment, records: Sequence[Record], scale: Scale) -> list[str]:
    """Return in sentences what a scale's runs are: what departs, the data, what was cut, where they ran."""
    plan = experiment.plans[scale]
    hours = sum(r.cpu_seconds for r in records)
    seeds = spans(sorted({r.seed for r in records}))
    lines = [f"{scale.capitalize()} scale: {len(records)} runs, seeds {seeds}, {duration(hours)} of CPU."]
    if plan.departs:
        lines.append(f"Departs from the paper: {'; '.join(plan.departs)}.")
    lines += _data(experiment, records)
    lines += _incomplete(plan.cells, records)
    where = [_several(r.machine for r in records), f"threads: {_several(str(r.threads) for r in records)}"]
    where += [_several(", ".join(f"{k} {v}" for k, v in r.versions.items()) for r in records)]
    where += [f"revision {_several(r.revision for r in records)}"]
    lines.append(f"{'; '.join(text for text in where if text)}.")
    return lines


def _data(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    found = {f"{name} ({digest[:12]})" for r in records for name, digest in r.data.items()}
    others = stand_ins(experiment, records)
    lines = [f"Data, with the beginning of its hash: {', '.join(sorted(found))}."] if found else []
    if others:
        missing = [name for name in experiment.data if name not in others] or list(experiment.data)
        lines.append(
            f"**Not the paper's data: {', '.join(others)} in place of {', '.join(missing)}**; "
            "nothing here is held against the paper's numbers."
        )
    return lines


def _incomplete(cells: Iterable[Cell], records: Sequence[Record]) -> list[str]:
    """Return what is missing and what was cut."""
    runs = {c.name: [r for r in records if r.cell == c.name] for c in cells}
    absent = [name for name, mine in runs.items() if not mine]
    cut = {name: [r.error for r in mine if r.status == "cut"] for name, mine in runs.items()}
    said = [f"{name} ({len(why)} of {len(runs[name])}: {_several(why)})" for name, why in cut.items() if why]
    lines = [f"Not run: {'; '.join(absent)}."] if absent else []
    return lines + ([f"Cut, and left out of all numbers: {'; '.join(said)}."] if said else [])


def _several(texts: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(text for text in texts if text))


def spans(numbers: Sequence[int]) -> str:
    """Return increasing numbers as the command takes them: "0-9,12"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
