"""``P g`` of a low-rank preconditioner on the CPU: V, U and V are read once each.

For ``Q = (I + U V^T) diag(d)`` it is ``d (a + V U^T a)``, ``a = x + U V^T x``, ``x = d g``; for
``Q = diag(d) (I + U V^T)`` it is ``b + V U^T b``, ``b = d^2 (g + U V^T g)``. The intermediate vector is kept
where the result goes. Sums are in float64, part by part, as in `low_rank_passes`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .compile import njit
from .loops import SUMS, Compiled, copy, for_one_and_all, multiply_by
from .low_rank_passes import PARTS, TILE, add_rows, part, parts

__all__ = ["finish", "finish_parallel", "middle", "middle_parallel", "parts", "project", "project_parallel"]


@njit(**SUMS)
def _add_sums(rows: np.ndarray, start: int, x: np.ndarray, width: int, out: np.ndarray) -> None:
    """``out += rows @ x``, from column `start` on, four rows at a time."""
    r = rows.shape[0]
    for i in range(0, r - 3, 4):
        a = b = c = d = 0.0
        for t in range(width):
            column = np.uintp(start + t)
            a += rows[i, column] * x[t]
            b += rows[i + 1, column] * x[t]
            c += rows[i + 2, column] * x[t]
            d += rows[i + 3, column] * x[t]
        out[i] += a
        out[i + 1] += b
        out[i + 2] += c
        out[i + 3] += d
    for i in range(r - r % 4, r):
        a = 0.0
        for t in range(width):
            a += rows[i, np.uintp(start + t)] * x[t]
        out[i] += a


def _project(v: np.ndarray, d: np.ndarray, g: np.ndarray, first: bool, sums: np.ndarray) -> None:
    """Write ``V^T x``, part by part, to the zeros in `sums`, (parts, r); `first`: x is d g, otherwise g."""
    n = v.shape[1]
    for k in prange(sums.shape[0]):
        low, high = part(k, n)
        x, wide = np.empty(TILE, g.dtype), np.empty(TILE)
        for start in range(low, high, TILE):
            stop = min(high, start + TILE)
            copy(x, g[start:stop])
            if first:
                multiply_by(x[: stop - start], d[start:stop])
            copy(wide, x[: stop - start])
            _add_sums(v, start, wide, stop - start, sums[k])


def _middle(
    u: np.ndarray, d: np.ndarray, g: np.ndarray, first: bool, s: np.ndarray, out: np.ndarray, sums: np.ndarray
) -> None:
    """Write ``a = x + U s``, times d^2 unless `first`, and ``U^T a`` as `_project` does ``V^T x``."""
    n = u.shape[1]
    for k in prange(sums.shape[0]):
        low, high = part(k, n)
        buffer, wide = np.empty(TILE, g.dtype), np.empty(TILE)
        for start in range(low, high, TILE):
            stop = min(high, start + TILE)
            x, here = buffer[: stop - start], d[start:stop]
            copy(x, g[start:stop])
            if first:
                multiply_by(x, here)
            add_rows(x, s, u, start)
            if not first:
                multiply_by(x, here)
                multiply_by(x, here)
            copy(wide, x)
            _add_sums(u, start, wide, stop - start, sums[k])
            copy(out[start:stop], x)


def _finish(v: np.ndarray, d: np.ndarray, first: bool, w: np.ndarray, out: np.ndarray) -> None:
    """``out += V w``, and all of it times d if `first`."""
    n = v.shape[1]
    for k in prange(PARTS):
        low, high = part(k, n)
        buffer = np.empty(TILE, out.dtype)
        for start in range(low, high, TILE):
            stop = min(high, start + TILE)
            x = buffer[: stop - start]
            copy(x, out[start:stop])
            add_rows(x, w, v, start)
            if first:
                multiply_by(x, d[start:stop])
            copy(out[start:stop], x)


project: Compiled
project_parallel: Compiled
project, project_parallel = for_one_and_all(_project)
middle: Compiled
middle_parallel: Compiled
middle, middle_parallel = for_one_and_all(_middle)
finish: Compiled
finish_parallel: Compiled
finish, finish_parallel = for_one_and_all(_finish)
