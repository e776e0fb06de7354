"""Running many cases, one after another or in several processes, until done or interrupted.

Cases finished before Ctrl-C are kept: processes are asked to stop, and do so at their next checkpoint.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from threading import Thread
from typing import Any, NamedTuple

from ..interrupts import held_back, noted, until_interrupted
from .cases import Case
from .run import Interrupted, Options, Outcome, failed, planned, run_case

Show = Callable[[int, str], None]
"""Called often with the number of updates done, and the name of a case just finished or ''."""


GRACE = 5.0
"""Seconds that processes get to reach their next checkpoint when asked to stop."""


class Results(NamedTuple):
    """The outcomes, in the order of the cases, and whether some are missing because of Ctrl-C."""

    outcomes: list[Outcome]
    interrupted: bool


def length(case: Case, options: Options) -> int:
    """Return how many updates a case takes at most, all its runs together."""
    plan = planned(case, options)
    return sum(min(run.updates, plan.judged.updates) for run in (plan.judged, *plan.beside))


def run_all(
    cases: Sequence[Case],
    options: Options,
    jobs: int = 1,
    show: Show = lambda done, finished: None,
    lengths: dict[Case, int] | None = None,
) -> Results:
    """Return the outcomes of all cases, or of those so far if there is a KeyboardInterrupt.

    A case that raises an exception, or whose process dies, has failed.

    Parameters
    ----------
    jobs : int
        Processes; with 1 everything runs in this one.
    lengths : dict, optional
        `length` of each case, if known already.
    """
    lengths = lengths or {case: length(case, options) for case in cases}
    run = _in_turn if jobs == 1 or len(cases) < 2 else _side_by_side
    found: dict[Case, Outcome] = {}
    interrupted = until_interrupted(lambda: run(cases, options, jobs, show, lengths, found))
    return Results([found[case] for case in cases if case in found], interrupted)


def _in_turn(
    cases: Sequence[Case],
    options: Options,
    jobs: int,
    show: Show,
    lengths: dict[Case, int],
    found: dict[Case, Outcome],
) -> None:
    done = within = 0

    def tick(count: int) -> None:
        nonlocal within
        within += count
        show(done + within, "")

    for case in cases:
        found[case] = _attempt(case, options, tick)
        done, within = done + lengths[case], 0
        show(done, case.name)


def _side_by_side(
    cases: Sequence[Case],
    options: Options,
    jobs: int,
    show: Show,
    lengths: dict[Case, int],
    found: dict[Case, Outcome],
) -> None:
    # what the processes share with this one
    context = multiprocessing.get_context("spawn")
    # without locks: a process that is killed while it holds one would leave all others waiting
    made, stop = context.RawArray("q", len(cases)), context.RawValue("b", 0)
    spare = 0  # updates that finished cases did not need
    others = multiprocessing.active_children()
    with _one_thread_each():
        pool = ProcessPoolExecutor(
            min(jobs, len(cases)), mp_context=context, initializer=_start, initargs=(made, stop)
        )
        futures: dict[Future[Outcome], Case] = {}
        try:
            # hand out all cases, and collect them as they finish
            with held_back():
                for i, case in sorted(enumerate(cases), key=lambda pair: -lengths[pair[1]]):
                    futures[pool.submit(_work, i, case, options)] = case  # the longest do not come last
            pending: set[Future[Outcome]] = set(futures)
            while pending:
                ready, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in ready:
                    case = futures[future]
                    found[case] = _result(case, future)
                    spare += lengths[case] - found[case].made
                    show(sum(made) + spare, case.name)
                show(sum(made) + spare, "")
        finally:
            # ask the processes to stop, end those that do not, and keep what they finished
            stop.value = 1
            if wait([future for future in futures if not future.cancel()], timeout=GRACE).not_done:
                for child in set(multiprocessing.active_children()) - set(others):
                    child.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
            for future, case in futures.items():
                if future.done() and not future.cancelled() and future.exception() is None:
                    found[case] = future.result()


def _result(case: Case, future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # a process that died
        return failed(case, error)


def _attempt(case: Case, options: Options, tick: Callable[[int], None]) -> Outcome:
    try:
        return run_case(case, options, tick)
    except Interrupted:
        raise
    except Exception as error:
        if noted():  # extensions turn a KeyboardInterrupt into other exceptions
            raise KeyboardInterrupt from error
        return failed(case, error)


# -- in the processes ------------------------------------------------------------------------------------

_shared: dict[str, Any] = {}


def _start(made: Any, stop: Any) -> None:
    """Ignore Ctrl-C, end with the parent, and keep what is shared with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    _shared.update(made=made, stop=stop)


def _end_with_parent() -> None:
    """End this process when its parent is gone, for whatever reason."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(i: int, case: Case, options: Options) -> Outcome:
    def tick(count: int) -> None:
        _shared["made"][i] += count
        if _shared["stop"].value:
            raise Interrupted

    return _attempt(case, options, tick)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let the processes' linear algebra use one thread: there is a process per core already."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
