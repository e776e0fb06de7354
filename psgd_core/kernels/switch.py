"""Whether kernels are installed, switched on, and worth compiling.

Compiling takes seconds, once on a machine, and the plain code gives the same results to rounding. So nothing
is compiled before the plain code has worked on a state for a few seconds. The updates that the state counts
say so, and not a clock: runs repeat, and go on from a checkpoint, bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

FEW = 10_000
"""Parameters that take the plain code as long as its calls from Python take it for one."""

ENOUGH = 50_000_000
"""Updates times (n + `FEW`) from which compiling is worth its while: a few seconds of plain code."""

_AFTER: dict[str, float] = {"off": float("inf"), "auto": ENOUGH, "on": 0}


def _named(mode: str) -> float:
    """Return from which work on there are kernels, for a value of ``PSGD_KERNELS``."""
    if mode not in _AFTER:
        raise ValueError(
            f"the environment variable `PSGD_KERNELS` must be auto, on or off, got {mode!r}; set it to one "
            "of these, or not at all"
        )
    return _AFTER[mode]


_of_the_environment = _named(os.environ.get("PSGD_KERNELS") or "auto")
_after: ContextVar[float] = ContextVar("psgd_core.kernels", default=_of_the_environment)


def switched_on() -> bool:
    """Return whether kernels are switched on here."""
    return _after.get() != _AFTER["off"]


@cache
def compiled() -> bool:
    """Return whether numba is installed."""
    return find_spec("numba") is not None


def available() -> bool:
    """Return whether the CPU's kernels are installed and switched on."""
    return switched_on() and compiled()


def worthwhile(n: int, count: int) -> bool:
    """Return whether vectors of length n have compiled kernels after so many updates."""
    return (count + 1) * (n + FEW) >= _after.get() and compiled()


@contextmanager
def off() -> Iterator[None]:
    """Leave all kernels out within a ``with`` block, in this thread."""
    with _from(_AFTER["off"]):
        yield


@contextmanager
def on() -> Iterator[None]:
    """Use kernels from the first update on within a ``with`` block, in this thread."""
    with _from(_AFTER["on"]):
        yield


@contextmanager
def _from(work: float) -> Iterator[None]:
    token = _after.set(work)
    try:
        yield
    finally:
        _after.reset(token)
