"""Running many cases: a sweep whose tasks are cases, and whose results are outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import sweeps
from ..sweeps import Failure, Handle, Stopped, Task
from .cases import Case
from .run import Options, Outcome, failed, planned, run_case

Show = Callable[[float, int], object]
"""Called often with the number of updates done, and of cases that have ended."""


class Results(NamedTuple):
    """The outcomes, in the order of the cases, and whether some are missing because of a signal."""

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
    show: Show = lambda done, ended: None,
    lengths: dict[Case, int] | None = None,
    scheduler: str | None = None,
    folder: Path | None = None,
) -> Results:
    """Return the outcomes of all cases, or of those so far if there is a signal.

    A case that raises an exception, or whose process dies, has failed.

    Parameters
    ----------
    jobs : int
        Processes; with 1 everything runs in this one.
    lengths : dict, optional
        `length` of each case, if known already.
    scheduler, folder : optional
        See `psgd_analysis.sweeps.run`.
    """
    ended = 0

    def count(task: Task, result: Any) -> None:
        nonlocal ended
        ended += 1

    lengths = lengths or {case: length(case, options) for case in cases}
    order = list(cases) if jobs == 1 else sorted(cases, key=lambda case: -lengths[case])  # no long one last
    found = sweeps.run(
        [Task(case.name, outcome, (case, options), lengths[case]) for case in order],
        jobs=max(1, min(jobs, len(cases))),
        scheduler=scheduler,
        folder=folder,
        show=lambda done, total: show(done, ended),
        finished=count,
    )
    results = [(case, found.found[case.name]) for case in cases if case.name in found.found]
    return Results([_outcome(case, result) for case, result in results], found.interrupted)


def outcome(case: Case, options: Options, board: Handle) -> Outcome:
    """Return the outcome of a case, as a task of a sweep."""
    made = 0

    def tick(count: int) -> None:
        nonlocal made
        made += count
        board.note(made)
        if board.stopping():
            raise Stopped

    return run_case(case, options, tick)


def _outcome(case: Case, result: Any) -> Outcome:
    return failed(case, result.error) if isinstance(result, Failure) else result
