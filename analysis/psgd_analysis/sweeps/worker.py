"""What runs in the workers: tasks, on one thread each, that end with the process that waits for them."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from ..machine import set_threads
from .board import Shared, Stopped

TRIES = 3
"""How often a task may be started: then its process has died twice beside others, and once more."""


class Raised(NamedTuple):
    """A task raised an exception: its type and message in one line, and its traceback."""

    error: str
    trace: str


def raised(error: BaseException) -> Raised:
    """Describe an exception."""
    lines = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return Raised(line, "".join(traceback.format_exception(error)))


def packed(work: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """Return what `call` runs, pickled: so errors of pickling are those of a task, not of the sweep."""
    return pickle.dumps((work, arguments))


def call(number: int, packet: bytes, handle: Shared) -> tuple[int, Any]:
    """Return the number of a task, and its pickled result, a `Raised`, or `Stopped`."""
    if handle.begin() > TRIES:
        return number, Raised(died(TRIES), "")
    if handle.stopping():
        return number, Stopped
    set_threads(1)  # there is a process per core already
    try:
        work, arguments = pickle.loads(packet)
        return number, pickle.dumps(work(*arguments, board=handle))
    except (Exception, SystemExit) as error:
        return number, Stopped if isinstance(error, Stopped) and handle.stopping() else raised(error)
    finally:
        handle.end()


def opened(result: bytes | Raised) -> Any:
    """Return what `call` has packed."""
    try:
        return pickle.loads(result) if isinstance(result, bytes) else result
    except Exception as error:
        return raised(error)


def died(times: int) -> str:
    """Return what is known of a task whose process died."""
    often = {1: "when it ran alone", 2: "twice"}.get(times, f"{times} times")
    return f"its process died {often}: out of memory, a crash in a library, or ended from outside"


def enter(parent: int, folder: Path) -> None:
    """Prepare a process of this machine: no Ctrl-C, and no life without its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    Thread(target=_end_with, args=(parent, folder), daemon=True).start()


def _end_with(parent: int, folder: Path) -> None:
    """End this process when its parent is gone, for whatever reason, and remove what that left."""
    while os.getppid() == parent:
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
