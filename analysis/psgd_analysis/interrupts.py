"""Ctrl-C and SIGTERM: results so far are kept and written, and the exit code tells.

Both raise `KeyboardInterrupt` in the main thread; `until_interrupted` ends the computation with it and from
then on only notes signals, so that results are written in full. A second signal while they are being written
ends the command at once; files are written in full or not at all.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

CTRL_C, TERMINATED = 130, 143
"""Exit codes: 128 and the number of the signal."""

_noted: list[int] = []
_finishing: list[bool] = []
_whole: list[bool] = []


def listen() -> None:
    """Handle both signals from here on; where Ctrl-C is ignored, as under nohup, it stays so."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)
    sys.unraisablehook = _send_again


def _send_again(lost: sys.UnraisableHookArgs) -> None:
    """Repeat a signal whose exception Python discarded, as it does in finalisers."""
    if lost.exc_type is not KeyboardInterrupt or not _noted:
        sys.__unraisablehook__(lost)
    else:
        again = threading.Timer(0.02, _to_main, (_noted.pop(),))
        again.daemon = True
        again.start()


def _to_main(number: int) -> None:
    """Send a signal to the main thread, which interrupts system calls where possible."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _handle(number: int, frame: Any) -> None:
    _noted.append(number)
    if not (_finishing or _whole) or len(_noted) > 1:
        raise KeyboardInterrupt


def leave() -> None:
    """Let both signals end the process at once from here on, silently."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)


def noted() -> bool:
    """Return whether a signal has come."""
    return bool(_noted)


def code(usual: int) -> int:
    """Return the exit code: that of the first signal, or else the usual one."""
    if not _noted:
        return usual
    return TERMINATED if _noted[0] == signal.SIGTERM else CTRL_C


def until_interrupted(work: Callable[[], object]) -> bool:
    """Call `work` and return whether it was interrupted; from then on signals are only noted."""
    interrupted = False
    try:  # twice: a signal may also come between the end of the work and the next line
        try:
            if not _noted:  # or it came before, and was turned into another exception
                work()
        except KeyboardInterrupt:
            interrupted = True
        _finishing.append(True)
    except KeyboardInterrupt:
        interrupted = True
        _finishing.append(True)
    return interrupted or bool(_noted)


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Let a first signal wait for the end of a ``with`` block, where something is written in full."""
    before = len(_noted)
    _whole.append(True)
    try:
        yield
    finally:
        _whole.pop()
    if len(_noted) > before and not _finishing:
        raise KeyboardInterrupt


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold signals back until the end of a ``with`` block; processes started within never get Ctrl-C."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
