"""Work in another thread, while the main one hears signals at once and shows how far it is."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

EVERY = 0.1
"""Seconds between two looks."""


class _Ended(NamedTuple):
    error: BaseException | None


def in_background(work: Callable[[], Iterable[T]]) -> Iterator[T | None]:
    """Yield what `work` yields, as it comes, and None several times a second while there is nothing.

    A signal's exception is raised between two looks, not when the library that computes comes back: it leaves
    the thread behind, which ends with the process. What `work` raises is raised here.
    """
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            for item in work():
                found.put(item)
        except BaseException as error:
            found.put(_Ended(error))
        else:
            found.put(_Ended(None))

    threading.Thread(target=run, daemon=True).start()
    while True:
        try:
            item = found.get(timeout=EVERY)
        except queue.Empty:
            yield None
            continue
        if not isinstance(item, _Ended):
            yield item
        elif item.error is not None:
            raise item.error
        else:
            return
