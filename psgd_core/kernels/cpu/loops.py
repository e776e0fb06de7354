"""Loops over rows that stay in cache, each compiled to vector instructions.

A loop writes to one array. Where two arguments may be one array, the compiler's check for overlap would send
the loop down its scalar path; so a loop that updates in place takes that array once.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import numpy as np

from .compile import njit
from .threads import shared_where_possible

T = TypeVar("T")

OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz"},
}
"""Of all kernels: cached on disk, without the interpreter's lock, NumPy's division, fused multiply-add."""

SUMS: dict[str, Any] = {**OPTIONS, "fastmath": {"contract", "nsz", "reassoc"}}
"""Of sums, which the compiler may reorder into vector instructions: the order is always the same."""


Compiled = Callable[..., Any]
"""What numba makes of a function."""


def for_one_and_all(function: Callable[..., T]) -> tuple[Callable[..., T], Callable[..., T]]:
    """Return the function compiled for one thread, and for all of them.

    The cache on disk goes by the function's name, so the second one gets a name of its own.
    """
    shared = FunctionType(function.__code__, function.__globals__, f"{function.__name__}_parallel")
    shared.__qualname__ = shared.__name__
    one = njit(**OPTIONS)(function)
    return one, shared_where_possible(one, njit(parallel=True, **OPTIONS)(shared))


@njit(**OPTIONS)
def copy(x: np.ndarray, y: np.ndarray) -> None:
    """``x = y``, as far as y goes."""
    for t in range(y.shape[0]):
        x[t] = y[t]


@njit(**OPTIONS)
def multiply(x: np.ndarray, y: np.ndarray, z: np.ndarray, add: bool) -> None:
    """``x = y z``, or ``x += y z``."""
    if add:
        for t in range(x.shape[0]):
            x[t] += y[t] * z[t]
    else:
        for t in range(x.shape[0]):
            x[t] = y[t] * z[t]


@njit(**OPTIONS)
def multiply_by(x: np.ndarray, y: np.ndarray) -> None:
    """``x *= y``."""
    for t in range(x.shape[0]):
        x[t] *= y[t]


@njit(**OPTIONS)
def scale(x: np.ndarray, number: float) -> None:
    """``x *= number``."""
    for t in range(x.shape[0]):
        x[t] *= number


@njit(**OPTIONS)
def eliminate(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    """``x -= y z``."""
    for t in range(x.shape[0]):
        x[t] -= y[t] * z[t]


@njit(**OPTIONS)
def divide(x: np.ndarray, y: np.ndarray) -> None:
    """``x /= y``."""
    for t in range(x.shape[0]):
        x[t] /= y[t]


@njit(**OPTIONS)
def raise_to(x: np.ndarray, y: np.ndarray) -> None:
    """``x = max(x, |y|)``; NaN in y is ignored."""
    for t in range(x.shape[0]):
        x[t] = np.fmax(x[t], abs(y[t]))


@njit(**OPTIONS)
def larger(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> None:
    """Set the bits of `mask` where ``|x| > |y|``."""
    for t in range(x.shape[0]):
        mask[t] = -mask.dtype.type(abs(x[t]) > abs(y[t]))


@njit(**OPTIONS)
def exchange_where(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> None:
    """Exchange x and y where the mask is set, bit by bit."""
    p, q = x.view(mask.dtype), y.view(mask.dtype)
    for t in range(x.shape[0]):
        difference = (p[t] ^ q[t]) & mask[t]
        p[t] ^= difference
        q[t] ^= difference
