"""Tasks for the tests of sweeps, and a program that runs some until it is interrupted."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

from psgd_analysis.sweeps import Stopped, Task, run


def square(x, board):
    board.note(1.0)
    return x * x


def fails(board):
    raise ValueError("no luck\nat all")


def unpicklable(board):
    return lambda: None


def threads(board):
    kernels = importlib.import_module("numba").get_num_threads() if find_spec("numba") else 1
    return os.environ["OMP_NUM_THREADS"], kernels


def dies_once(marker: Path, board):
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def dies(board):
    os._exit(3)


def answers(number, packet, board):
    """In the place of `worker.call`."""
    return number, 10 * number


def given_up(number, packet, board):
    """Fail as tasks do that Dask gives up: 2 and 3 as where workers died, others as where data is lost."""
    if number < 4:
        last = SimpleNamespace(address="tcp://192.0.2.1:9")
        raise importlib.import_module("distributed").KilledWorker("task", last, 3)
    raise OSError("lost")


def gives_up(board):
    raise Stopped


def notes(seconds: float, board):
    """Note a half until somebody has seen it."""
    limit = time.monotonic() + 60
    while not board.stopping() and time.monotonic() < limit:
        board.note(0.5)
        time.sleep(0.02)
    raise Stopped


def waits(folder: Path, stops: bool, board):
    """Leave the number of the process, then wait for a stop, or for ever."""
    (folder / f"{os.getpid()}.pid").touch()
    limit = time.monotonic() + 300
    while time.monotonic() < limit:
        if stops and board.stopping():
            (folder / f"{os.getpid()}.stopped").touch()
            raise Stopped
        time.sleep(0.02)


def main(folder: Path, stops: bool) -> int:
    tasks = [Task(f"quick {i}", square, (i,), 2.0) for i in range(3)]
    tasks += [Task(f"waiting {i}", waits, (folder, stops)) for i in range(3)]
    found = run(tasks, jobs=2, finished=lambda task, result: (folder / task.name).touch())
    (folder / "found.json").write_text(json.dumps([found.found, found.interrupted]))
    return 0


def command():
    from psgd_analysis import interrupts

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest runs in the background
    interrupts.listen()
    code = main(Path(sys.argv[1]), sys.argv[2] == "stops")
    interrupts.leave()
    sys.exit(interrupts.code(code))
