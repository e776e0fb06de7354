"""One update of a Theorem 3.1 group on the CPU: every array is read once and written once.

All orbits of one size s: those of one and of two in a single loop (`small_orbits`), larger ones a tile at a
time, so that what a tile needs stays in the nearest caches (`orbit_tiles`). Before anything is written v and
h are read once more, in search of what is not finite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .compile import njit
from .loops import OPTIONS, Compiled, copy, for_one_and_all, multiply, scale
from .members import GATHERED, fetch, put
from .orbit_tiles import Buffers, add_squares, directions, images, move, solve_transposed, steps
from .small_orbits import product_small, update_small

TILE = 512
"""Orbits at a time: for s = 4 and float32 their buffers take 130 kB."""

SMALL = 2
"""Orbits of up to so many members have everything in registers."""

CHUNK = 32 * TILE
"""Orbits that one thread takes at a time."""

READY, CHECK, TRIAL = range(3)
"""Update a pair known to be one; look for NaN, Inf and zero probes first; or count what would be left."""


@njit(**OPTIONS)
def _largest(x: np.ndarray, y: np.ndarray, bits: np.ndarray) -> tuple[Any, Any]:
    """Return the largest magnitudes, as integers: in that order NaN is above Inf, and Inf above the rest."""
    kind, mask, words, others = bits.dtype.type, bits[0], x.view(bits.dtype), y.view(bits.dtype)
    found, other = kind(0), kind(0)
    for t in range(x.shape[0]):
        word, second = kind(words[t] & mask), kind(others[t] & mask)  # integers would grow to 64 bits
        found = word if word > found else found
        other = second if second > other else other
    return found, other


def _usable(v: np.ndarray, h: np.ndarray, bits: np.ndarray) -> int:
    """Return 0 if v or h is not finite or v is zero, 1 if only h is zero, 2 otherwise.

    Parameters
    ----------
    v, h : array, shape (n,)
    bits : array, shape (2,)
        Of the integers that floats are viewed as: all but the sign's bit, and those of Inf.
    """
    most_v, most_h = bits.dtype.type(0), bits.dtype.type(0)
    for k in prange(-(-v.shape[0] // CHUNK)):
        low, high = k * CHUNK, (k + 1) * CHUNK
        of_v, of_h = _largest(v[low:high], h[low:high], bits)
        most_v, most_h = max(most_v, of_v), max(most_h, of_h)
    if most_v >= bits[1] or most_h >= bits[1] or most_v == 0:
        return 0
    return 2 if most_h > 0 else 1


usable: Compiled
usable_parallel: Compiled
usable, usable_parallel = for_one_and_all(_usable)


@njit(**OPTIONS)
def chunks(count: int) -> int:
    """Return in how many chunks so many orbits are taken."""
    return -(-count // CHUNK)


@njit(**OPTIONS)
def _tiles(
    v: np.ndarray, h: np.ndarray, order: np.ndarray, start: int, layout: int, q: np.ndarray,
    held: np.ndarray, new_q: np.ndarray, new_held: np.ndarray, low: int, high: int, numbers: np.ndarray,
    bits: np.ndarray, mode: int, squares: np.ndarray,
) -> int:  # fmt: skip
    """Do what `_update` does for the orbits low ... high - 1 of any size, a tile at a time."""
    damping, step, root, decay = numbers[0], numbers[1], numbers[2], numbers[3]
    smallest, audible, factor = numbers[4], numbers[5], numbers[7]
    rescaled = factor != q.dtype.type(1)
    s, count, left = q.shape[0], q.shape[2], 0
    width = min(TILE, count)
    rows, blocks = np.empty((5, s, width), q.dtype), np.empty((2, s, s, width), q.dtype)
    one = np.empty((4, width), q.dtype)
    own = Buffers(
        rows[0], rows[1], rows[2], rows[3], rows[4], blocks[0], blocks[1],
        np.empty((s, s, width if rescaled else 0), q.dtype),
        one[0], one[1], one[2], one[3], np.empty(width, bits.dtype),
    )  # fmt: skip
    for first in range(low, high, TILE):
        last = min(high, first + TILE)
        fetch(h, layout, order, start, count, first, last, own.h)
        fetch(v, layout, order, start, count, first, last, own.v)
        now, place = q, first
        if rescaled:
            now, place = own.q, 0
            for i in range(s):
                for j in range(s):
                    copy(own.q[i, j], q[i, j, first:last])
                    scale(own.q[i, j], factor)
        end = place + last - first
        heard = images(now, place, end, damping, smallest, audible, own)
        directions(now, place, end, heard, own)
        steps(held[first:last], own.size, own.inverse, own.unit, own.mu, step, root, decay)
        if mode == TRIAL:
            for t in range(last - first):
                left += 1 if own.mu[t] < 0 else 0
        else:
            add_squares(last - first, heard, own, squares)
            copy(new_held[first:last], own.inverse[: last - first])
            left += move(now, place, end, new_q, first, heard, own)
    return left


def _update(
    v: np.ndarray, h: np.ndarray, order: np.ndarray, start: int, layout: int, q: np.ndarray,
    held: np.ndarray, new_q: np.ndarray, new_held: np.ndarray, numbers: np.ndarray, bits: np.ndarray,
    mode: int, squares: np.ndarray,
) -> int:  # fmt: skip
    """Update all orbits of one size, and return how many stayed as they are; -1 if the pair is unusable.

    Parameters
    ----------
    v, h : array, shape (n,)
    order, start, layout
        Where the members are: see `members`.
    q, new_q : array, shape (s, s, c)
        Before and after; they may be the same.
    held, new_held : array, shape (c,)
    numbers : array, shape (8,)
        Damping; step; ``step^{1/4}``; decay of `Running`, or -1 for `Sample`; what a unit is at least; how
        large the damping must be in it to be heard; between which and its inverse N is ordinary; the scale
        that Q is multiplied by beforehand.
    bits : array, shape (2,)
        See `usable`.
    mode : int
        READY, CHECK or TRIAL.
    squares : float64 array, shape (chunks, 2), or (1, 2) for one thread
        ``|a|^2`` and ``|b|^2`` are added to its rows, unless it is a TRIAL.
    """
    if mode == CHECK and usable(v, h, bits) == 0:
        return -1
    s, count = q.shape[0], q.shape[2]
    small = s <= SMALL and mode != TRIAL and numbers[7] == q.dtype.type(1)
    inplace = q.ctypes.data == new_q.ctypes.data
    left = 0
    for k in prange(chunks(count)):
        low, high, own = k * CHUNK, min(count, (k + 1) * CHUNK), squares[k % squares.shape[0]]
        if small:
            if not inplace:
                copy(new_held[low:high], held[low:high])
                for i in range(s):
                    for j in range(s):
                        copy(new_q[i, j, low:high], q[i, j, low:high])
            stay = update_small(v, h, order, start, layout, new_q, new_held, low, high, numbers, own)
            left += int(stay)
        else:
            left += _tiles(
                v, h, order, start, layout, q, held, new_q, new_held, low, high, numbers, bits, mode, own
            )
    return left


@njit(**OPTIONS)
def _gather_squares(x: np.ndarray, sums: np.ndarray) -> None:
    """Add the squares of x to `sums`: (their largest root, the sum in units of its square)."""
    largest = sums[0]
    for t in range(x.shape[0]):
        largest = np.fmax(largest, abs(np.float64(x[t])))
    if largest > 0:
        total = sums[1] * (sums[0] / largest) ** 2
        for t in range(x.shape[0]):
            total += (np.float64(x[t]) / largest) ** 2
        sums[0], sums[1] = largest, total


@njit(**OPTIONS)
def norms(
    v: np.ndarray, h: np.ndarray, order: np.ndarray, start: int, layout: int, q: np.ndarray,
    bits: np.ndarray, x: np.ndarray, y: np.ndarray,
) -> None:  # fmt: skip
    """Add the squares of ``Q h`` to `x`, and those of ``Q^{-T} v`` to `y`, in float64."""
    s, count = q.shape[0], q.shape[2]
    width = min(TILE, count)
    rows, w = np.zeros((3, s, width), q.dtype), np.zeros((s, s, width), q.dtype)
    swap = np.zeros(width, bits.dtype)
    for low in range(0, count, TILE):
        high = min(count, low + TILE)
        fetch(h, layout, order, start, count, low, high, rows[0])
        fetch(v, layout, order, start, count, low, high, rows[1])
        for i in range(s):
            for j in range(s):
                now = q[i, j, low:high]
                multiply(rows[2, i, : high - low], now, rows[0, j], j > 0)
                copy(w[j, i], now)
        solve_transposed(w, rows[1], swap)
        for i in range(s):
            _gather_squares(rows[2, i, : high - low], x)
            _gather_squares(rows[1, i, : high - low], y)


@njit(**OPTIONS)
def _product_tiles(
    g: np.ndarray, order: np.ndarray, start: int, layout: int, q: np.ndarray, low: int, high: int,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Do what `_precondition` does for the orbits low ... high - 1 of any size, a tile at a time."""
    s, count = q.shape[0], q.shape[2]
    width = min(TILE, count)
    x, y = np.empty((s, width), q.dtype), np.empty((s, width), q.dtype)
    for first in range(low, high, TILE):
        last = min(high, first + TILE)
        fetch(g, layout, order, start, count, first, last, x)
        for i in range(s):
            for j in range(s):
                multiply(y[i, : last - first], q[i, j, first:last], x[j], j > 0)
        for j in range(s):
            for i in range(s):
                multiply(x[j, : last - first], q[i, j, first:last], y[i], i > 0)
        put(out, layout, order, start, count, first, last, x)


def _precondition(
    g: np.ndarray, order: np.ndarray, start: int, layout: int, q: np.ndarray, out: np.ndarray
) -> None:
    """Write ``Q^T Q g`` to `out`, for all orbits of one size."""
    s, count = q.shape[0], q.shape[2]
    for k in prange(-(-count // CHUNK)):
        low, high = k * CHUNK, min(count, (k + 1) * CHUNK)
        if s <= SMALL and layout != GATHERED:
            product_small(g, order, start, layout, q, low, high, out)
        else:
            _product_tiles(g, order, start, layout, q, low, high, out)


update: Compiled
update_parallel: Compiled
update, update_parallel = for_one_and_all(_update)
precondition: Compiled
precondition_parallel: Compiled
precondition, precondition_parallel = for_one_and_all(_precondition)
