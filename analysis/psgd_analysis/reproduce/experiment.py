"""What an experiment of the paper is: its cells, its scales and its claims; nothing here computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from .claims import Claim
    from .contests import Contest
    from .records import Record

Scale = Literal["smoke", "reduced", "faithful"]
"""Seconds, to see that it runs; what a desk computer does in hours; what the paper did."""

SCALES: tuple[Scale, ...] = ("smoke", "reduced", "faithful")

Settings = Mapping[str, Any]
"""Everything a run depends on besides its seed and its data, in JSON's types."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Parameters
    ----------
    name : str
        As tables show it.
    settings : dict
        Of its runs.
    expected : float
        Rough CPU-seconds of a run, to order the work and to tell the time left.
    runs : int, optional
        How many of the seeds asked for, the first ones, where not all.
    """

    name: str
    settings: Settings
    expected: float = 1.0
    runs: int | None = None


@dataclass(frozen=True)
class Plan:
    """What is run at one scale.

    Parameters
    ----------
    cells : tuple of Cells
    seeds : int
        How many seeds by default.
    cost : str
        Of all of it on one core, such as "2 min", as measured or estimated.
    departs : tuple of str
        In what it departs from the paper, as every table says; empty at the faithful scale.
    """

    cells: tuple[Cell, ...]
    seeds: int
    cost: str
    departs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of the table: a number of each run's ``final``, and what the paper prints there.

    Parameters
    ----------
    title : str
        With its unit.
    key : str
        In `Record.final`, or "seconds" (wall clock) or "cpu_seconds".
    form : str
        Of the numbers, as for `format`: ".2f".
    paper : dict
        The paper's text by name of cell.
    spread : {"sd", "range", "rate", "median"}
        Mean and standard deviation, median with least and largest, the fraction that is true, or the median.
    source : str
        The table or figure that the paper's numbers are of, if it is not the experiment's first.
    """

    title: str
    key: str
    form: str = ".3g"
    paper: Mapping[str, str] = field(default_factory=dict)
    spread: Literal["sd", "range", "rate", "median"] = "sd"
    source: str = ""


@dataclass(frozen=True)
class Job:
    """One run: a cell of an experiment, a seed, and the data by name with its hash; see `Cell`."""

    experiment: str
    scale: Scale
    cell: str
    seed: int
    settings: Settings
    data: Mapping[str, str] = field(default_factory=dict)
    expected: float = 1.0

    @property
    def key(self) -> str:
        """What makes the run the same run: 16 hexadecimal digits. The scale is no part of it."""
        text = _text(self.experiment, self.cell, self.seed, self.settings, self.data)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def never() -> bool:
    """Return False: nothing asks for a pause."""
    return False


class Training(Protocol):
    """A run that goes on in parts, such as epochs, and may be left and taken up again."""

    parts: int
    """How many there are at most."""

    @property
    def status(self) -> Literal["going", "done", "diverged"]:
        """Whether more parts are needed."""

    @property
    def skipped(self) -> int:
        """How many pairs, or steps, were refused so far because they were not finite."""

    def advance(self, pause: Callable[[], bool] = never) -> dict[str, Any] | None:
        """Run the next part, or what is left of it, and return its metrics.

        Where parts are long, `pause` is asked on the way: None if it stopped there, to be saved or to go on.
        """

    def final(self) -> dict[str, Any]:
        """Return what tables, figures and claims need of the finished run, in JSON's types."""

    def save(self, file: IO[bytes]) -> None:
        """Write all that what comes depends on: parameters, optimiser, generators, sums over the part."""

    def load(self, file: IO[bytes]) -> None:
        """Take up what `save` wrote: from there on, equal bit for bit to a run that was not left."""


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper, or a question that it leaves open.

    Parameters
    ----------
    name : str
        As the command line has it.
    title : str
    sources : tuple of str
        Tables, figures and sections of the paper.
    claim : str
        What the paper says, in a sentence.
    needs : tuple of str
        Packages, by the name they are imported under; `extras` installs them.
    data : tuple of str
        Data sets by name; see `data`.
    plans : dict of Plans by scale
    start : callable
        ``start(job, folder)`` returns the Training; `folder` is where the user keeps the data, or None.
        Imports what it needs itself.
    columns : tuple of Columns
    claims : tuple of Claims
    figures : dict
        By the ending of the file's name ("" for the only one): what makes a figure from records.
    notes : tuple of str
        What is known to differ, and where the paper contradicts itself.
    contests : tuple of Contests
        What PSGD is held against: pages begin with where it does not win.
    extras : str
        Of psgd-core.
    """

    name: str
    title: str
    sources: tuple[str, ...]
    claim: str
    needs: tuple[str, ...]
    data: tuple[str, ...]
    plans: Mapping[Scale, Plan]
    start: Callable[[Job, Path | None], Training]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...]
    figures: Mapping[str, Callable[[Sequence[Record]], Figure]]
    notes: tuple[str, ...] = ()
    contests: tuple[Contest, ...] = ()
    extras: str = "reproduce"

    def jobs(self, scale: Scale, seeds: Sequence[int], data: Mapping[str, str]) -> list[Job]:
        """Return the runs of a scale, seed by seed, so that a sweep that is cut has whole seeds."""
        cells = self.plans[scale].cells
        return [
            Job(self.name, scale, c.name, seed, c.settings, data, c.expected)
            for i, seed in enumerate(seeds)
            for c in cells
            if c.runs is None or i < c.runs
        ]

    def select(self, scale: Scale, records: Iterable[Record]) -> list[Record]:
        """Return the records of a scale's cells as they are set now, cell by cell and seed by seed."""
        order = {_text(c.name, c.settings): i for i, c in enumerate(self.plans[scale].cells)}
        mine = [r for r in records if r.experiment == self.name]
        found = [(order.get(_text(r.cell, r.settings), -1), r.seed, i, r) for i, r in enumerate(mine)]
        return [record for place, *_, record in sorted(found, key=lambda f: f[:3]) if place >= 0]


def _text(*content: Any) -> str:
    """Return content in one form of JSON."""
    return json.dumps(content, sort_keys=True, allow_nan=False)
