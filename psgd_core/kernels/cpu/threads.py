"""Whether a kernel's work may be shared by threads: that is not safe everywhere.

numba's threads do not survive a fork: a child that calls them hangs or is aborted, depending on the threading
layer. And its simplest layer, `workqueue`, aborts the process when two threads call a shared kernel at once.
In both cases one thread does the work, with the same results.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")

_entered = threading.Lock()
"""Held while a kernel is shared by threads."""

_forked = threading.Event()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked.set)


def shared_where_possible(one: Callable[..., T], every: Callable[..., T]) -> Callable[..., T]:
    """Return a function that calls `every`, which threads share, or `one` where that is not safe.

    It is not safe in a forked child, nor while another thread is in a shared kernel (and has all cores).
    """

    @wraps(every)
    def call(*arguments: Any) -> T:
        if _forked.is_set() or not _entered.acquire(blocking=False):
            return one(*arguments)
        try:
            return every(*arguments)
        except ValueError:  # numba has no threads here; kernels themselves raise nothing
            return one(*arguments)
        finally:
            _entered.release()

    return call
