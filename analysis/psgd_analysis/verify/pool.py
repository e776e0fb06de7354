"""Running many cases, one after another or in several processes, until done or interrupted.

Whatever was finished when Ctrl-C came is kept: processes are asked to stop, and do at their next checkpoint.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, NamedTuple

from .cases import Case
from .run import Interrupted, Options, Outcome, failed, planned, run_case

Show = Callable[[int, str], None]
"""Called often with the number of updates that are done, and with the name of a case just finished or ''."""


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
    """Return the outcomes of all cases; a case that raises an exception is one that failed.

    Parameters
    ----------
    jobs : int
        Processes; with 1 everything runs in this one.
    lengths : dict, optional
        `length` of each case, where it is known already.
    """
    lengths = lengths or {case: length(case, options) for case in cases}
    run = _in_turn if jobs == 1 or len(cases) < 2 else _side_by_side
    found, interrupted = run(cases, options, jobs, show, lengths)
    return Results([found[case] for case in cases if case in found], interrupted)


def _in_turn(
    cases: Sequence[Case], options: Options, jobs: int, show: Show, lengths: dict[Case, int]
) -> tuple[dict[Case, Outcome], bool]:
    found: dict[Case, Outcome] = {}
    done = within = 0

    def tick(count: int) -> None:
        nonlocal within
        within += count
        show(done + within, "")

    try:
        for case in cases:
            found[case] = _attempt(case, options, tick)
            done, within = done + lengths[case], 0
            show(done, case.name)
    except KeyboardInterrupt:
        return found, True
    return found, False


def _side_by_side(
    cases: Sequence[Case], options: Options, jobs: int, show: Show, lengths: dict[Case, int]
) -> tuple[dict[Case, Outcome], bool]:
    context = multiprocessing.get_context("spawn")
    made, stop = context.Value("q", 0), context.Event()
    found: dict[Case, Outcome] = {}
    spare = 0  # updates that finished cases did not need
    with _one_thread_each():
        pool = ProcessPoolExecutor(
            min(jobs, len(cases)), mp_context=context, initializer=_start, initargs=(made, stop)
        )
        futures: dict[Future[Outcome], Case] = {}
        try:
            for case in sorted(cases, key=lambda case: -lengths[case]):  # the longest do not come last
                futures[pool.submit(_work, case, options)] = case
            pending: set[Future[Outcome]] = set(futures)
            while pending:
                ready, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in ready:
                    case = futures[future]
                    found[case] = _result(case, future)
                    spare += lengths[case] - found[case].made
                    show(made.value + spare, case.name)
                show(made.value + spare, "")
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for future, case in futures.items():
                if future.done() and not future.cancelled() and future.exception() is None:
                    found[case] = future.result()
            return found, True
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return found, False


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
        return failed(case, error)


# -- in the processes ------------------------------------------------------------------------------------

_shared: dict[str, Any] = {}


def _start(made: Any, stop: Any) -> None:
    """Leave Ctrl-C to the parent; keep what is shared with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared.update(made=made, stop=stop)


def _tick(count: int) -> None:
    with _shared["made"].get_lock():
        _shared["made"].value += count
    if _shared["stop"].is_set():
        raise Interrupted


def _work(case: Case, options: Options) -> Outcome:
    return _attempt(case, options, _tick)


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
