"""Where tasks run: processes of this machine (loky), or a Dask cluster; both through joblib.

joblib runs in a thread of its own, so that signals never interrupt it halfway: they reach the main thread
alone, which waits for messages.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Protocol

from ..installing import requirement
from ..interrupts import held_back
from .worker import enter

WAIT = 10
"""Seconds that a cluster gets to answer."""


class Unreachable(ValueError):
    """A Dask cluster that cannot be used, and why."""


class Found(NamedTuple):
    """A task has ended: what `worker.call` returned."""

    number: int
    result: Any


class Ended(NamedTuple):
    """Nothing more comes from a pool: all is done, or an error broke it."""

    error: BaseException | None


Messages = queue.SimpleQueue[Found | Ended]
"""What a pool tells."""


class Pool(Protocol):
    """A place where tasks run."""

    def start(self, calls: Iterator[Any], count: int, messages: Messages) -> None:
        """Start joblib's calls, and tell what becomes of them."""

    def lost(self) -> list[BaseException]:
        """Return the errors of tasks that no message will come for."""

    def close(self) -> None:
        """End it, whatever it does."""


class Loky:
    """Processes of this machine; when one dies, all do, and the next `start` makes new ones."""

    def __init__(self, jobs: int, folder: Path) -> None:
        self._jobs, self._folder = jobs, folder

    def start(self, calls: Iterator[Any], count: int, messages: Messages) -> None:
        """See `Pool`."""
        from joblib import parallel_config

        config = {
            "backend": "loky",
            "n_jobs": max(2, min(self._jobs, count)),  # with 1, joblib would run the tasks in this process
            "inner_max_num_threads": 1,
            "max_nbytes": None,  # no files of shared memory
            "initializer": enter,
            "initargs": (os.getpid(), self._folder),
        }
        _start(lambda: parallel_config(**config), calls, self._jobs, messages)

    def lost(self) -> list[BaseException]:
        """See `Pool`; a dead process ends the whole pool."""
        return []

    def close(self) -> None:
        """See `Pool`."""
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


class Dask:
    """A cluster, which starts the tasks of a dead worker elsewhere by itself."""

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise Unreachable(
                f"a Dask cluster needs distributed, which is not installed: {requirement('cluster')}"
            ) from error
        self._log = logging.getLogger("distributed.client")
        self._level = self._log.level
        self._log.setLevel(logging.CRITICAL)  # it tells of each worker that dies
        try:
            self._client = Client(address, timeout=WAIT, set_as_default=False)
        except Exception as error:
            self._log.setLevel(self._level)
            raise Unreachable(
                f"no Dask scheduler answers at {address!r} within {WAIT} s ({type(error).__name__}); "
                "give the address that it printed at its start, such as tcp://192.0.2.1:8786"
            ) from error
        self._given_up: set[Any] = set()  # tasks of earlier calls
        try:
            self._require_workers(address)
        except BaseException:
            self.close()
            raise

    def _require_workers(self, address: str) -> None:
        limit = time.monotonic() + WAIT
        while (cores := sum(self._client.ncores().values())) < 2 and time.monotonic() < limit:
            time.sleep(0.1)  # they may be starting, or starting again
        if cores < 2:  # with 1, joblib would run the tasks in this process
            raise Unreachable(
                f"the Dask cluster at {address!r} must have two cores or more, got {cores}; start workers"
            )

    def start(self, calls: Iterator[Any], count: int, messages: Messages) -> None:
        """See `Pool`."""
        from joblib import parallel_config

        self._given_up |= {key for key, _ in self._in_error()}
        _start(lambda: parallel_config("dask", client=self._client), calls, "all", messages)

    def lost(self) -> list[BaseException]:
        """See `Pool`: joblib waits for ever for tasks that Dask gave up."""
        if self._client.status in ("closing", "closed"):
            raise Unreachable("the Dask scheduler is gone; what had ended is kept")
        return [error for key, error in self._in_error() if key not in self._given_up]

    def _in_error(self) -> Iterator[tuple[Any, BaseException]]:
        for key, state in list(self._client.futures.items()):
            if state.status in ("error", "cancelled"):
                yield key, state.exception or RuntimeError("cancelled by the Dask cluster")

    def close(self) -> None:
        """See `Pool`."""
        self._client.close()
        self._log.setLevel(self._level)


def _start(configured: Any, calls: Iterator[Any], pre_dispatch: int | str, messages: Messages) -> None:
    def drive() -> None:
        from joblib import Parallel

        try:
            with held_back(), configured():
                parallel = Parallel(batch_size=1, pre_dispatch=pre_dispatch, return_as="generator_unordered")
                for number, result in parallel(calls):
                    messages.put(Found(number, result))
            messages.put(Ended(None))
        except BaseException as error:
            messages.put(Ended(error))

    Thread(target=drive, daemon=True).start()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep loky from warning that it replaced a process that had grown, or cleaned up after a killed one."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A worker stopped while", category=UserWarning)
            yield
    finally:
        if before is None:
            os.environ.pop("PYTHONWARNINGS", None)
        else:
            os.environ["PYTHONWARNINGS"] = before
