"""Where the members of orbits are in a vector: from it to rows of the width of a tile, and back."""

from __future__ import annotations

import numpy as np

from .compile import njit
from .loops import OPTIONS

DIRECT, SHIFTED, MIRRORED, GATHERED = range(4)
"""Where member i of orbit j is found: start + j; start + i c + j; j or n - 1 - j; order[start + i c + j]."""


@njit(**OPTIONS)
def fetch(
    x: np.ndarray,
    layout: int,
    order: np.ndarray,
    start: int,
    count: int,
    low: int,
    high: int,
    out: np.ndarray,
) -> None:
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
    x: np.ndarray,
    layout: int,
    order: np.ndarray,
    start: int,
    count: int,
    low: int,
    high: int,
    out: np.ndarray,
) -> None:
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
