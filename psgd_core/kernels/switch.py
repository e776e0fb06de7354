"""Whether kernels are there, and wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

_on: ContextVar[bool] = ContextVar(
    "psgd_core.kernels", default=os.environ.get("PSGD_KERNELS", "auto") != "off"
)


@cache
def compiled() -> bool:
    """Return whether numba is installed."""
    return find_spec("numba") is not None


def wanted() -> bool:
    """Return whether kernels are not switched off."""
    return _on.get()


def available() -> bool:
    """Return whether the CPU's kernels are installed and not switched off."""
    return wanted() and compiled()


@contextmanager
def off() -> Iterator[None]:
    """Leave all kernels out within a ``with`` block, in this thread."""
    token = _on.set(False)
    try:
        yield
    finally:
        _on.reset(token)
