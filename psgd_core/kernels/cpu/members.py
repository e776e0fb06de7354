"""From the members of orbits in a vector to rows as wide as a tile, and back."""

from __future__ import annotations

import numpy as np

from .compile import njit
from .loops import OPTIONS

DIRECT, SHIFTED, MIRRORED, GATHERED = range(4)
"""Member i of orbit j of c is at start + j; start + i c + j; j or n - 1 - j; order[start + i c + j]."""


@njit(**OPTIONS)
def fetch(
    x: np.ndarray, layout: int, order: np.ndarray, start: int, count: int, low: int, high: int,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Copy the members of the orbits low ... high - 1 to the rows of `out`."""
    n = x.shape[0]
    for i in range(out.shape[0]):
        if layout == GATHERED:
            for t in range(high - low):
                out[i, t] = x[np.uintp(order[start + i * count + low + t])]
        elif layout == MIRRORED and i == 1:
            for t in range(high - low):
                out[i, t] = x[np.uintp(n - 1 - low - t)]
        else:
            for t in range(high - low):
                out[i, t] = x[np.uintp(start + i * count + low + t)]


@njit(**OPTIONS)
def put(
    x: np.ndarray, layout: int, order: np.ndarray, start: int, count: int, low: int, high: int,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Copy the rows of `out` to where `fetch` takes them from."""
    n = x.shape[0]
    for i in range(out.shape[0]):
        if layout == GATHERED:
            for t in range(high - low):
                x[np.uintp(order[start + i * count + low + t])] = out[i, t]
        elif layout == MIRRORED and i == 1:
            for t in range(high - low):
                x[np.uintp(n - 1 - low - t)] = out[i, t]
        else:
            for t in range(high - low):
                x[np.uintp(start + i * count + low + t)] = out[i, t]


@njit(**OPTIONS)
def row(
    x: np.ndarray, layout: int, order: np.ndarray, start: int, count: int, low: int, high: int, i: int,
    spare: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return member i of the orbits low ... high - 1: a part of x, backwards if mirrored, or `spare`."""
    if layout == GATHERED:
        for t in range(high - low):
            spare[t] = x[np.uintp(order[start + i * count + low + t])]
        return spare
    if layout == MIRRORED and i == 1:
        return x[x.shape[0] - high : x.shape[0] - low]
    first = start + i * count
    return x[first + low : first + high]
