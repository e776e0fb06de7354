"""What tasks in other processes tell and ask: a folder that all of them see.

Without locks, which a process that is killed would hold for ever: each file has one writer, and is replaced
or appended to in one piece.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Protocol

EVERY = 0.2
"""Seconds between two looks at the folder, or two notes in it, of a task."""

_STOP = "stop"


class Stopped(Exception):
    """A task ended early because it was asked to stop; it has no result."""


class Handle(Protocol):
    """How a running task tells its progress, and learns that it should stop."""

    def note(self, done: float) -> None:
        """Tell how much of the task is done, in the unit of its length; may be called at every step."""

    def stopping(self) -> bool:
        """Return whether to save a checkpoint and raise `Stopped`; may be asked at every step."""


class Shared:
    """The handle of a task in another process; without effect where the folder is not to be seen."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._noted = self._asked = 0.0
        self._stopping = False
        self._seen = True

    def begin(self) -> int:
        """Note a start, and return how many there have been without an end; 0 if that cannot be known."""
        self._noted = self._asked = time.monotonic()
        path = _starts(self._folder, self._number)
        try:
            with path.open("ab", buffering=0) as file:
                file.write(b".")
            starts = path.stat().st_size
        except OSError:
            self._seen = False
            return 0
        self._stopping = (self._folder / _STOP).exists()
        if starts > 1:
            self._write(0.0)
        return starts

    def end(self) -> None:
        """Note that the process survived the task: should it die now, that is not the fault of this one."""
        with contextlib.suppress(OSError):
            _starts(self._folder, self._number).unlink(missing_ok=True)

    def note(self, done: float) -> None:
        """See `Handle`."""
        now = time.monotonic()
        if now - self._noted >= EVERY:
            self._noted = now
            self._write(done)

    def stopping(self) -> bool:
        """See `Handle`; a folder that is gone means that nobody waits for the result."""
        now = time.monotonic()
        if self._seen and not self._stopping and now - self._asked >= EVERY:
            self._asked = now
            self._stopping = (self._folder / _STOP).exists() or not self._folder.exists()
        return self._stopping

    def _write(self, done: float) -> None:
        if self._seen:
            path = _done(self._folder, self._number)
            with contextlib.suppress(OSError):  # the sweep is over, or the disk full
                new = path.with_suffix(".new")
                new.write_text(repr(float(done)), encoding="ascii")
                new.replace(path)


class Board:
    """The folder, as the process sees it that waits for the results."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def handle(self, number: int) -> Shared:
        """Return the handle of a task."""
        return Shared(self._folder, number)

    def stop(self) -> None:
        """Ask all tasks to stop."""
        with contextlib.suppress(OSError):
            (self._folder / _STOP).touch()

    def starts(self, number: int) -> int:
        """Return how often a task was started and did not end."""
        try:
            return _starts(self._folder, number).stat().st_size
        except OSError:
            return 0

    def done(self, number: int) -> float:
        """Return what a task noted last."""
        try:
            return float(_done(self._folder, number).read_text(encoding="ascii"))
        except OSError:
            return 0.0


def _starts(folder: Path, number: int) -> Path:
    return folder / f"{number}.starts"


def _done(folder: Path, number: int) -> Path:
    return folder / f"{number}.done"
