"""Where tasks run: processes of this machine (joblib's loky), or a Dask cluster.

The library that waits for them does so in a thread of its own, so that signals never interrupt it halfway:
they reach the main thread alone, which waits for messages.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Protocol

from ..installing import requirement
from ..interrupts import held_back
from .worker import enter

WAIT = 10
"""Seconds that a cluster gets to answer."""

PATIENCE = 300
"""Seconds that a cluster may be without workers, which may be starting again."""


class Unreachable(ValueError):
    """A Dask cluster that cannot be used, and why."""


class Found(NamedTuple):
    """A task has ended: what `worker.call` returned."""

    number: int
    result: Any


class Lost(NamedTuple):
    """A task that the pool has given up, and the error that says why; None if its process died too often."""

    number: int
    error: BaseException | None


class Ended(NamedTuple):
    """Nothing more comes from a pool: all is done, or an error broke it."""

    error: BaseException | None


Call = tuple[Callable[..., Any], tuple[int, Any, Any]]
"""A function, and its arguments, the first of which is the number of a task."""

Messages = queue.SimpleQueue[Found | Lost | Ended]
"""What a pool tells."""


class Pool(Protocol):
    """A place where tasks run."""

    def start(self, calls: Iterator[Call], count: int, messages: Messages) -> None:
        """Start calls, and tell what becomes of each."""

    def check(self) -> None:
        """Raise an exception if nothing more will come."""

    def close(self) -> None:
        """End it, whatever it does."""


class Loky:
    """Processes of this machine; when one dies, all do, and the next `start` makes new ones."""

    def __init__(self, jobs: int, folder: Path) -> None:
        self._jobs, self._folder = jobs, folder

    def start(self, calls: Iterator[Call], count: int, messages: Messages) -> None:
        """See `Pool`."""
        from joblib import Parallel, delayed, parallel_config

        config = {
            "backend": "loky",
            "n_jobs": max(2, min(self._jobs, count)),  # with 1, joblib would run the tasks in this process
            "inner_max_num_threads": 1,
            "max_nbytes": None,  # no files of shared memory
            "initializer": enter,
            "initargs": (os.getpid(), self._folder),
        }

        def drive() -> None:
            with held_back(), parallel_config(**config):
                parallel = Parallel(batch_size=1, pre_dispatch=self._jobs, return_as="generator_unordered")
                for number, result in parallel(delayed(work)(*arguments) for work, arguments in calls):
                    messages.put(Found(number, result))

        _start(drive, messages)

    def check(self) -> None:
        """See `Pool`; a dead process ends the whole pool, and joblib says so."""

    def close(self) -> None:
        """See `Pool`."""
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


class Dask:
    """A cluster, which starts the tasks of a dead worker elsewhere by itself.

    Not through joblib's backend for it, which waits for ever for a task that Dask gave up.
    """

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
        self._seen = time.monotonic()  # when there were workers
        self._asked = self._seen
        try:
            self._require_workers(address)
        except BaseException:
            self.close()
            raise

    def _require_workers(self, address: str) -> None:
        limit = time.monotonic() + WAIT
        while not self._client.ncores():
            if time.monotonic() > limit:
                raise Unreachable(
                    f"the Dask cluster at {address!r} must have a worker, got none; start workers"
                )
            time.sleep(0.1)  # they may be starting, or starting again

    def start(self, calls: Iterator[Call], count: int, messages: Messages) -> None:
        """See `Pool`."""
        from distributed import CancelledError, KilledWorker, as_completed

        def drive() -> None:
            submit = self._client.submit
            futures = {submit(work, *arguments, pure=False): arguments[0] for work, arguments in calls}
            for future in as_completed(list(futures), loop=self._client.loop):
                number = futures.pop(future)
                try:
                    found = Found(*future.result())
                except KilledWorker:
                    messages.put(Lost(number, None))
                except (Exception, CancelledError) as error:
                    messages.put(Lost(number, error))
                else:
                    messages.put(found)

        _start(drive, messages)

    def check(self) -> None:
        """See `Pool`."""
        if self._client.status in ("closing", "closed"):
            raise Unreachable("the Dask scheduler is gone; what had ended is kept")
        now = time.monotonic()
        if now - self._asked < WAIT:
            return
        self._asked = now
        if self._client.ncores():
            self._seen = now
        elif now - self._seen > PATIENCE:
            raise Unreachable(
                f"the Dask cluster has had no worker for {PATIENCE} s; what had ended is kept: start "
                "workers, and run it again"
            )

    def close(self) -> None:
        """See `Pool`."""
        self._client.close()
        self._log.setLevel(self._level)


def _start(drive: Callable[[], None], messages: Messages) -> None:
    def run() -> None:
        try:
            drive()
        except BaseException as error:
            messages.put(Ended(error))
        else:
            messages.put(Ended(None))

    Thread(target=run, daemon=True).start()


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
