"""How far something is: a bar on a terminal and in a notebook, elsewhere a line on stderr now and then."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from html import escape
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

FIRST, GROWTH = 10.0, 1.5
"""Seconds until the first line, and how many times longer each further one waits."""

OFTEN = 0.2
"""Seconds from one bar in a notebook to the next."""

Clock = Callable[[], float]


class Show(Protocol):
    """Shows what is done now, and how much of all there is to do, in any unit; None if that is not known."""

    def __call__(self, what: str, done: float = 0.0, total: float | None = None) -> None:
        """Show it."""


@contextlib.contextmanager
def progress(command: str, *, shown: bool = True, clock: Clock = time.monotonic) -> Iterator[Show]:
    """Yield what shows how far something is; it may be called often. The bar is gone at the end.

    The percentage and the time left are of the same part done, so that they agree.

    Parameters
    ----------
    command : str
        Such as ``verify``; lines begin with ``psgd`` and it.
    shown : bool
        False to show nothing.
    clock : callable
        Returns seconds.
    """
    stderr = Console(stderr=True)
    if not shown:
        yield lambda what, done=0.0, total=None: None
    elif stderr.is_jupyter:
        with _cell(clock) as bar_of_cell:
            yield bar_of_cell
    elif not stderr.is_terminal:
        yield _Lines(command, clock)
    else:
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), _Rest()
        with Progress(*columns, console=stderr, transient=True, redirect_stdout=False) as bar:
            task = bar.add_task(command, total=None)
            yield lambda what, done=0.0, total=None: bar.update(
                task, description=what, completed=done, total=total
            )


@contextlib.contextmanager
def iterations(
    maxiter: int | None = None, *, clock: Clock = time.monotonic
) -> Iterator[Callable[[Any], None]]:
    """Yield a `callback` that shows how far `psgd_core.minimize` is, or one of SciPy's minimisers.

    Use it as ``with iterations(1000) as callback: minimize(..., maxiter=1000, callback=callback)``.

    Parameters
    ----------
    maxiter : int, optional
        How many iterations there will be at most: what the bar's end stands for.
    clock : callable
        Returns seconds.
    """
    with progress("minimize", clock=clock) as show:
        calls = 0

        def callback(intermediate_result: Any) -> None:
            nonlocal calls
            calls += 1
            done = intermediate_result.get("nit", calls)
            show(f"iteration {done}, f = {intermediate_result.fun:.6g}", done, maxiter)

        yield callback


def rest(seconds: float, part: float | None) -> str:
    """Return the percentage that is done after some seconds, and how long the rest takes at the same pace."""
    if part is None:
        return f"{duration(seconds)} so far"
    if part < 0.01:  # too little to tell
        return "0 %"
    return f"{int(100 * min(part, 1)):d} %, {duration(seconds * max(1 / part - 1, 0))} left"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"


class _Rest(ProgressColumn):
    """The column of `rest`."""

    def render(self, task: Task) -> Text:
        part = task.completed / task.total if task.total else None
        return Text(rest(task.elapsed or 0.0, part))


class _Lines:
    """Lines on stderr, each after half as long again as all before took."""

    def __init__(self, command: str, clock: Clock) -> None:
        self._command, self._clock = command, clock
        self._start, self._next = clock(), FIRST

    def __call__(self, what: str, done: float = 0.0, total: float | None = None) -> None:
        seconds = self._clock() - self._start
        if seconds >= self._next:
            self._next = seconds * GROWTH
            part = done / total if total else None
            print(f"psgd {self._command}: {what}, {rest(seconds, part)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _cell(clock: Clock) -> Iterator[Show]:
    """Yield a bar below a notebook's cell, in HTML: it needs no widgets, which may not be installed."""
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    start, renewed = clock(), -math.inf

    def show(what: str, done: float = 0.0, total: float | None = None) -> None:
        nonlocal renewed
        now = clock()
        if now < renewed + OFTEN:
            return
        renewed, part = now, done / total if total else None
        value = "" if part is None else f' value="{min(part, 1):.4f}"'
        handle.update(HTML(f"<progress{value}></progress> {escape(what)}, {rest(now - start, part)}"))

    try:
        yield show
    finally:
        handle.update(HTML(""))
