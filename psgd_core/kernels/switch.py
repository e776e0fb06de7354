"""Whether kernels are installed, and switched on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

_on: ContextVar[bool] = ContextVar(
    "psgd_core.kernels", default=os.environ.get("PSGD_KERNELS", "auto") != "off"
)

switched_on: Callable[[], bool] = _on.get
"""Return whether kernels are switched on here."""


@cache
def compiled() -> bool:
    """Return whether numba is installed."""
    return find_spec("numba") is not None


def available() -> bool:
    """Return whether the CPU's kernels are installed and switched on."""
    return switched_on() and compiled()


@contextmanager
def off() -> Iterator[None]:
    """Leave all kernels out within a ``with`` block, in this thread."""
    token = _on.set(False)
    try:
        yield
    finally:
        _on.reset(token)
