"""Running the tasks of a sweep until all have ended, or a signal came."""

from __future__ import annotations

import queue
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..interrupts import noted, until_interrupted, whole
from .board import EVERY, Board, Stopped
from .pools import Call, Dask, Ended, Found, Loky, Lost, Messages, Pool, quiet
from .worker import TRIES, Raised, call, died, opened, packed, raised

GRACE = 5.0
"""Seconds that tasks get to reach their next checkpoint when asked to stop."""


class Task(NamedTuple):
    """A task of a sweep.

    Parameters
    ----------
    name : str
        Unique in the sweep.
    work : callable
        A function of a module, called as ``work(*arguments, board=handle)``; see `Handle`.
    arguments : tuple
        What can be pickled.
    length : float
        What it costs, in any unit; progress is counted in it.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    length: float = 1.0


class Failure(NamedTuple):
    """The result of a task that raised an exception, or whose process died whenever it ran."""

    name: str
    error: str
    trace: str = ""


class Results(NamedTuple):
    """Results by name, in the order of the tasks, and whether some are missing because of a signal."""

    found: dict[str, Any]
    interrupted: bool


def run(
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    show: Callable[[float, float], object] = lambda done, total: None,
    finished: Callable[[Task, Any], object] = lambda task, result: None,
    folder: Path | None = None,
) -> Results:
    """Return the results of all tasks, or of those that had ended when a signal came.

    Parameters
    ----------
    tasks : sequence of Task
        In the order in which they begin; the longest first end soonest in all.
    jobs : int
        Processes of one thread each; with 1 everything runs in this one.
    scheduler : str, optional
        The address of a Dask scheduler, whose workers run the tasks instead.
    show : callable
        Called in this thread, a few times a second, with how much is done, and how much there is in all.
    finished : callable
        Called in this thread with each task and its result as it ends; no signal interrupts it.
    folder : Path, optional
        Where tasks leave word: on a cluster, a folder that all its machines see, or progress counts only
        tasks that have ended. By default that of temporary files.

    Raises
    ------
    Unreachable
        If there is no usable Dask cluster at that address.
    """
    names = Counter(task.name for task in tasks)
    if len(names) < len(tasks):
        twice = next(name for name, count in names.items() if count > 1)
        raise ValueError(f"`tasks` must have names of their own, got {twice!r} twice; rename one")
    if jobs < 1:
        raise ValueError(f"`jobs` must be at least 1, got {jobs}; give the number of processes")
    sweep = _Sweep(tasks, show, finished)
    if scheduler is None and jobs == 1:
        interrupted = until_interrupted(sweep.in_turn)
    else:
        with (
            quiet(),
            tempfile.TemporaryDirectory(
                prefix="psgd-", dir=folder and folder.resolve(), ignore_cleanup_errors=True
            ) as place,
        ):
            pool = Loky(jobs, Path(place)) if scheduler is None else Dask(scheduler)
            interrupted = until_interrupted(lambda: sweep.side_by_side(pool, Board(Path(place))))
    found = sweep.found
    return Results({task.name: found[i] for i, task in enumerate(tasks) if i in found}, interrupted)


class _Sweep:
    """Tasks by number, what has become of them, and how it is told."""

    def __init__(
        self,
        tasks: Sequence[Task],
        show: Callable[[float, float], object],
        finished: Callable[[Task, Any], object],
    ) -> None:
        self._tasks, self._show, self._finished = tasks, show, finished
        self._total = sum(task.length for task in tasks)
        self._looked = 0.0
        self.within: Callable[[], float] = lambda: 0.0  # how much is done of tasks under way
        self._stopping = False
        self._lost: dict[int, BaseException | None] = {}  # why a pool gave them up
        self.found: dict[int, Any] = {}

    # -- in this process -------------------------------------------------------------------------------------

    def in_turn(self) -> None:
        """Run all in this process, in the order given."""
        for i, task in enumerate(self._tasks):
            try:
                result = task.work(*task.arguments, board=_Here(self, task.length))
            except (Exception, SystemExit) as error:
                if noted():  # extensions turn a KeyboardInterrupt into other exceptions
                    raise KeyboardInterrupt from error
                result = raised(error)
            self.within = lambda: 0.0
            self._end(i, result)

    # -- in others -------------------------------------------------------------------------------------------

    def side_by_side(self, pool: Pool, board: Board) -> None:
        """Run all in a pool, in the order given, and in a new one whatever was under way in one that broke.

        What was under way in two that broke runs alone: so a task that kills its process is found, and costs
        no other.
        """
        try:
            waiting = list(range(len(self._tasks)))
            deaths: Counter[int] = Counter()
            while waiting:
                batch = [i for i in waiting if deaths[i] < TRIES - 1] or waiting[:1]
                starts = {i: board.starts(i) for i in batch}
                handed, error = self._through(pool, board, batch)
                # whose fault is it?
                left = [i for i in handed if i not in self.found]
                guilty = [i for i in left if board.starts(i) > starts[i]] or left
                deaths.update(guilty)
                for i in guilty:
                    if deaths[i] == TRIES:
                        self._end(i, _broken(self._lost.get(i, error)))
                waiting = [i for i in waiting if i not in self.found]
        finally:
            pool.close()

    def _through(
        self, pool: Pool, board: Board, batch: Sequence[int]
    ) -> tuple[list[int], BaseException | None]:
        """Return which tasks of a batch a pool was given until it ended, and the error that broke it."""
        handed: list[int] = []
        messages: Messages = queue.SimpleQueue()

        def calls() -> Iterator[Call]:  # asked for by the pool's threads, one at a time
            for i in batch:
                if self._stopping:
                    return
                handed.append(i)
                try:
                    packet = packed(self._tasks[i].work, self._tasks[i].arguments)
                except Exception as error:
                    messages.put(Found(i, raised(error)))
                else:
                    yield call, (i, packet, board.handle(i))

        self.within = lambda: self._under_way(board, handed)
        pool.start(calls(), len(batch), messages)
        try:
            while (ended := self._hear(messages)) is None:
                if noted():
                    raise KeyboardInterrupt
                pool.check()
                self.look()
        except BaseException:
            # keep what ends in time
            self._stopping = True
            board.stop()
            limit = time.monotonic() + GRACE
            while time.monotonic() < limit and self._hear(messages) is None:
                pass
            raise
        return handed, ended.error

    def _under_way(self, board: Board, handed: Sequence[int]) -> float:
        left = [i for i in list(handed) if i not in self.found]
        return sum(min(board.done(i), self._tasks[i].length) for i in left)

    def _hear(self, messages: Messages) -> Ended | None:
        """Take one message, if it comes soon; return it if it is the last."""
        try:
            message = messages.get(timeout=EVERY / 2)
        except queue.Empty:
            return None
        if isinstance(message, Ended):
            return message
        if isinstance(message, Lost):
            self._lost[message.number] = message.error
        elif message.result is not Stopped:
            self._end(message.number, opened(message.result))
        return None

    def _end(self, number: int, result: Any) -> None:
        """Keep the result of a task, and tell of it."""
        task = self._tasks[number]
        if isinstance(result, Raised):
            result = Failure(task.name, *result)
        with whole():
            self.found[number] = result
            self._finished(task, result)
        self._tell()

    def look(self) -> None:
        """Tell how much is done, a few times a second."""
        now = time.monotonic()
        if now - self._looked >= EVERY:
            self._looked = now
            self._tell()

    def _tell(self) -> None:
        self._show(sum(self._tasks[i].length for i in self.found) + self.within(), self._total)


class _Here:
    """The handle of a task in this process."""

    def __init__(self, sweep: _Sweep, length: float) -> None:
        self._sweep, self._length = sweep, length

    def note(self, done: float) -> None:
        self._sweep.within = lambda: min(done, self._length)
        self._sweep.look()

    def stopping(self) -> bool:
        return noted()


def _broken(error: BaseException | None) -> Raised:
    """Return what became of a task that broke each pool it was in."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    if error is None or isinstance(error, TerminatedWorkerError):
        return Raised(died(TRIES), "")
    return raised(error)
