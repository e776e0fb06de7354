"""The runs that count, out of a book of records: those of a scale, and a number of theirs by seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .experiment import Experiment, Scale
from .records import Record


def of_scale(experiment: Experiment, records: Iterable[Record], scale: Scale) -> list[Record]:
    """Return the runs of a scale's plan, cell by cell, seeds in order, all on the same data.

    A run belongs to every scale that has its cell with its settings. Where a book has runs on several data
    sets, those on the paper's data are taken, or else the most.
    """
    found: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in experiment.select(scale, records):
        found[tuple(f"{name} {digest}" for name, digest in sorted(record.data.items()))].append(record)

    def worth(data: tuple[str, ...]) -> tuple[bool, int, tuple[str, ...]]:
        return not stand_ins(experiment, found[data][:1]), len(found[data]), data

    return found[max(found, key=worth)] if found else []


PUBLISHED = {"mnist": "e9914cff2ade526da2ab1ac60c072f9173cc53e35b9411692de8207cb1b9009d"}
"""Hashes of the data sets that the paper names, where there is one edition; see `data.files`."""


def stand_ins(experiment: Experiment, records: Iterable[Record]) -> list[str]:
    """Return the data sets of runs that are not the paper's: of other names or contents, or JPEG files."""
    found: set[str] = set()
    for record in records:
        found.update(_other(experiment, name, digest) for name, digest in record.data.items())
        if experiment.data and not record.data:
            found.add("unknown data")
    return sorted(found - {""})


def _other(experiment: Experiment, name: str, digest: str) -> str:
    """Return what a data set is, if it is not the paper's, or ""."""
    if name not in experiment.data or name.endswith("-jpeg"):
        return name
    return "" if PUBLISHED.get(name, digest) == digest else f"other files in the form of {name}"


@dataclass(frozen=True)
class Sample:
    """A number of one cell's runs.

    Parameters
    ----------
    cell : str
    values : dict
        By seed, of the runs that ended and have it; 1 and 0 for true and false.
    failed : tuple of int
        Seeds that diverged or ended without the number.
    cut : tuple of int
        Seeds that were cut, which say nothing.
    truth : bool
        Whether the number is true or false; a run that failed is then false.
    """

    cell: str
    values: Mapping[int, float]
    failed: tuple[int, ...] = ()
    cut: tuple[int, ...] = ()
    truth: bool = False

    @property
    def seeds(self) -> list[int]:
        """Of the runs that count, failed ones included."""
        return sorted([*self.values, *self.failed])

    @property
    def finite(self) -> list[float]:
        """The values, in the order of the seeds."""
        return [self.values[seed] for seed in sorted(self.values)]

    @property
    def true(self) -> int:
        """How many are true."""
        return sum(value == 1 for value in self.values.values())

    @property
    def bounds(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The least and the most that may be true of how many, whatever would have become of runs cut."""
        count = len(self.seeds) + len(self.cut)
        return (self.true, count), (self.true + len(self.cut), count)


@dataclass
class _Drawer:
    values: dict[int, float] = field(default_factory=dict)
    failed: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)


def sample(records: Iterable[Record], cell: str, key: str) -> Sample:
    """Return a number of a cell's runs; see `Record.number`."""
    mine = sorted((r for r in records if r.cell == cell), key=lambda r: (r.seed, r.key))
    drawer = _Drawer()
    for record in mine:
        number = record.number(key)
        if record.status == "cut":
            drawer.cut.append(record.seed)
        elif record.status == "done" and math.isfinite(number):
            drawer.values[record.seed] = number
        else:
            drawer.failed.append(record.seed)
    ended = [r.final.get(key) for r in mine if r.status == "done"]
    truth = bool(ended) and all(isinstance(value, bool) for value in ended)
    return Sample(cell, drawer.values, tuple(drawer.failed), tuple(drawer.cut), truth)


def left_out(samples: Sequence[Sample]) -> str:
    """Return in words which runs failed and which were cut, after a semicolon; "" if none."""
    failed = [f"{len(s.failed)} of {s.cell}" for s in samples if s.failed]
    cut = [f"{len(s.cut)} of {s.cell}" for s in samples if s.cut]
    words = [f"diverged, counted as worst: {', '.join(failed)}"] if failed else []
    words += [f"cut, left out: {', '.join(cut)}"] if cut else []
    return "".join(f"; {text}" for text in words)


def levels(samples: Sequence[Sample]) -> str:
    """Return the rates, or means, of some cells in words."""
    if any(s.truth for s in samples):
        return "; ".join(f"{s.cell}: {s.true}/{len(s.seeds)}" for s in samples)
    return "; ".join(
        f"{s.cell}: {sum(s.finite) / len(s.finite):.4g}" if s.finite else f"{s.cell}: –" for s in samples
    )
