"""Running one job: part after part, left and taken up again bit for bit, also in the middle of a part."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..files import write_atomically, write_text
from ..sweeps import Stopped
from .experiment import Job, Training
from .records import Record, Status

BETWEEN = 600.0
"""Seconds after which a checkpoint is written in the middle of a part."""


class Checkpoint:
    """What is kept of a run on the way: the training's own file, and a page that tells which one it is.

    The page is replaced when the file is complete, so both belong together whenever the process ends.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.page = folder / f"{key}.json"

    def read(self, training: Training) -> dict[str, Any]:
        """Take the training to where it was left, and return what was noted; {} at the beginning."""
        if not self.page.exists():
            return {}
        held = json.loads(self.page.read_bytes())
        noted = {name: held[name] for name in ("metrics", "seconds", "cpu_seconds", "checkpoints")}
        content = self._file(noted).read_bytes()
        if _hash(content) != held["sha256"]:  # PyTorch does not check what it reads
            raise ValueError("it is damaged")
        training.load(io.BytesIO(content))
        return noted

    def write(self, training: Training, noted: dict[str, Any]) -> None:
        """Keep the training as it is, and forget the checkpoint before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        noted["checkpoints"] += 1
        file, held = self._file(noted), io.BytesIO()
        training.save(held)
        write_atomically(file, lambda new: new.write(held.getbuffer()))
        write_text(self.page, json.dumps({**noted, "sha256": _hash(held.getbuffer())}))
        for old in self.folder.glob(f"{self.key}.[0-9]*"):
            if old.name != file.name:
                old.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget the run; its record has been written."""
        self.page.unlink(missing_ok=True)
        for old in self.folder.glob(f"{self.key}.*"):
            old.unlink(missing_ok=True)

    def _file(self, noted: Mapping[str, Any]) -> Path:
        return self.folder / f"{self.key}.{noted['checkpoints']}"


def _hash(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


class _Leg:
    """A stretch of a run, up to its next checkpoint."""

    def __init__(self, limit: float, stopping: Callable[[], bool]) -> None:
        self._limit, self._stopping = limit, stopping
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        return time.perf_counter() - self._wall

    def cpu_seconds(self) -> float:
        return time.process_time() - self._cpu

    def over(self) -> bool:
        """Whether to stop in the middle of a part: asked to, late, or at the limit of CPU-seconds."""
        return self._stopping() or self.seconds() > BETWEEN or self.cpu_seconds() > self._limit


def run(
    job: Job,
    start: Callable[[Job], Training],
    checkpoint: Checkpoint,
    about: Mapping[str, Any],
    *,
    limit: float = math.inf,
    note: Callable[[float], None] = lambda done: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Record:
    """Run a job to its end, from its checkpoint if there is one, and return its record.

    With a checkpoint that is damaged, or that another version wrote in another form, the run begins anew.

    Parameters
    ----------
    start : callable
        Returns the training at its beginning.
    about : dict
        The fields of the record that say where it comes from.
    limit : float
        Seconds of CPU after which the run is cut; its checkpoint stays.
    note, stopping : callable
        Told how much is done after each part, of `Job.expected`, and asked whether to stop.

    Raises
    ------
    Stopped
        If `stopping` says so; the checkpoint has all that was run.
    """
    training, problem = start(job), ""
    try:
        noted = checkpoint.read(training)
    except Exception as error:
        if stopping():  # extensions turn a KeyboardInterrupt into other exceptions
            raise Stopped(job.cell) from error
        if isinstance(error, OSError | MemoryError) and not isinstance(error, FileNotFoundError):
            raise  # it may be readable next time
        training, noted = start(job), {}  # it may have been loaded by half
        problem = f"begun anew: the checkpoint cannot be used ({error!r})"
    noted = noted or {"metrics": [], "seconds": 0.0, "cpu_seconds": 0.0, "checkpoints": 0}
    while training.status == "going" and noted["cpu_seconds"] < limit:
        leg = _Leg(limit - noted["cpu_seconds"], stopping)
        metrics = training.advance(leg.over)
        noted["seconds"] += leg.seconds()
        noted["cpu_seconds"] += leg.cpu_seconds()
        if metrics is not None:
            noted["metrics"].append({**metrics, "seconds": noted["seconds"]})
        checkpoint.write(training, noted)
        note(job.expected * len(noted["metrics"]) / training.parts)
        if training.status == "going" and stopping():
            raise Stopped(job.cell)
    status: Status = "cut" if training.status == "going" else training.status
    why = f"cut after {noted['cpu_seconds']:.0f} CPU-seconds" if status == "cut" else problem
    more = {name: noted[name] for name in ("metrics", "seconds", "cpu_seconds")}
    final = training.final()
    return Record.of(job, status, final=final, skipped=training.skipped, error=why, **more, **about)
