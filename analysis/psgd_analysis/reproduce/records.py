"""One JSON line per run: all that tables, figures and verdicts are made of."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ..documents import plain
from .experiment import Job, Scale, Settings

Status = Literal["done", "diverged", "cut"]
"""Ended as planned; ended because numbers were not finite; or given up: out of time, or it died."""


@dataclass(frozen=True)
class Record:
    """A run.

    Parameters
    ----------
    experiment, scale, cell, seed, settings, data
        As in `Job`; `data` has the hash of each data set.
    key : str
        `Job.key`.
    status : {"done", "diverged", "cut"}
    metrics : list of dicts
        One for each part, such as an epoch.
    final : dict
    skipped : int
        Pairs or steps that were refused because they were not finite.
    cpu_seconds, seconds : float
        Of the computation, without waiting in line.
    versions, revision, command, machine, threads
        Where it comes from.
    error : str
        Why it was cut, or begun anew; or "".
    """

    experiment: str
    scale: Scale
    cell: str
    seed: int
    settings: Settings
    data: Mapping[str, str]
    key: str
    status: Status
    metrics: Sequence[Mapping[str, Any]] = ()
    final: Mapping[str, Any] = field(default_factory=dict)
    skipped: int = 0
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    revision: str = ""
    command: str = ""
    machine: str = ""
    threads: int = 1
    error: str = ""

    @classmethod
    def of(cls, job: Job, status: Status, **more: Any) -> Record:
        """Return the record of a job."""
        named = {f.name: getattr(job, f.name) for f in dataclasses.fields(job) if f.name in FIELDS}
        return cls(**named, key=job.key, status=status, **more)

    def number(self, name: str) -> float:
        """Return a number of `final`, or "seconds", "cpu_seconds", "skipped"; NaN if there is none."""
        value = getattr(self, name) if name in ("seconds", "cpu_seconds", "skipped") else self.final.get(name)
        return float(value) if isinstance(value, int | float) else float("nan")

    def line(self) -> str:
        """Return the JSON, in one line."""
        return json.dumps(plain(dataclasses.asdict(self)), allow_nan=False, ensure_ascii=False)


FIELDS = {f.name for f in dataclasses.fields(Record)}

FORMS: Mapping[Any, tuple[str, ...]] = {
    str: ("experiment", "scale", "cell", "key", "status", "revision", "command", "machine", "error"),
    int: ("seed", "skipped", "threads"),
    int | float: ("cpu_seconds", "seconds"),
    dict: ("settings", "data", "final", "versions"),
    list: ("metrics",),
}
"""The fields by their types in a file, which anyone may have edited."""


def read(line: str) -> Record | None:
    """Return the record in a line; None if there is none, or it is not of the run that its key names."""
    try:
        held = json.loads(line, parse_constant=_refused)
        record = Record(**{"metrics": [], **{name: value for name, value in held.items() if name in FIELDS}})
        formed = all(isinstance(getattr(record, name), form) for form in FORMS for name in FORMS[form])
        formed = formed and all(isinstance(part, dict) for part in record.metrics)
        formed = formed and all(isinstance(digest, str) for digest in record.data.values())
        if not formed or record.status not in get_args(Status):
            return None
        run = (record.experiment, record.scale, record.cell, record.seed, record.settings, record.data)
        return record if Job(*run).key == record.key else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _refused(constant: str) -> float:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(constant)


class Book:
    """The file of an experiment's records, one JSON line each; later lines replace earlier ones of their key.

    Only the process that the user started writes it, a whole line at once; a line that was cut by a crash, or
    is no record, is passed over, and the next one begins on a new line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def records(self) -> list[Record]:
        """Return the latest record of each run, in the order of first appearance."""
        found: dict[str, Record] = {}
        for line in self._lines():
            record = read(line)
            if record is not None:
                found[record.key] = record
        return list(found.values())

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """Return the jobs that have no record, or one that was cut."""
        there = {record.key for record in self.records() if record.status != "cut"}
        return [job for job in jobs if job.key not in there]

    def add(self, record: Record) -> None:
        """Append a record, and see it onto the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            torn = file.tell() and not self.path.read_bytes().endswith(b"\n")
            file.write(b"\n" * bool(torn) + record.line().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[str]:
        try:
            return self.path.read_bytes().decode("utf-8-sig", errors="replace").split("\n")
        except FileNotFoundError:
            return []
