"""One update of a Theorem 3.1 group on the CPU: every array is read once and written once.

All orbits of one size s, a tile of them at a time: what a tile needs stays in the nearest caches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .compile import njit
from .loops import OPTIONS, Compiled, copy, for_one_and_all, multiply, scale
from .members import fetch, put
from .orbit_tiles import Buffers, add_squares, directions, images, move, solve_transposed, steps, update_small

TILE = 512
"""Orbits at a time: for s = 2 and float32 their buffers take 50 kB."""

CHUNK = 32 * TILE
"""Orbits that one thread takes at a time."""

READY, CHECK, TRIAL = range(3)
"""Update a pair known to be one; look for NaN, Inf and zero probes first; or count what would be left."""


@njit(**OPTIONS)
def _largest(x: np.ndarray, bits: np.ndarray) -> Any:
    """Return the largest magnitude, as an integer: in that order NaN is above Inf, and Inf above the rest."""
    found, kind, mask, words = bits.dtype.type(0), bits.dtype.type, bits[0], x.view(bits.dtype)
    for t in range(x.shape[0]):
        word = kind(words[t] & mask)  # integers would grow to 64 bits
        found = word if word > found else found
    return found


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
        most_v = max(most_v, _largest(v[k * CHUNK : (k + 1) * CHUNK], bits))
        most_h = max(most_h, _largest(h[k * CHUNK : (k + 1) * CHUNK], bits))
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
    numbers : array, shape (7,)
        Damping; step; ``step^{1/4}``; decay of `Running`, or -1 for `Sample`; what a unit is at least; how
        large the damping must be in it to be heard; the scale that Q is multiplied by beforehand.
    bits : array, shape (2,)
        See `usable`.
    mode : int
        READY, CHECK or TRIAL.
    squares : float64 array, shape (chunks, 2), or (1, 2) for one thread
        ``|a|^2`` and ``|b|^2`` are added to its rows, unless it is a TRIAL.
    """
    if mode == CHECK and usable(v, h, bits) == 0:
        return -1
    damping, step, root, decay = numbers[0], numbers[1], numbers[2], numbers[3]
    smallest, audible, factor = numbers[4], numbers[5], numbers[6]
    rescaled = factor != q.dtype.type(1)
    s, count = q.shape[0], q.shape[2]
    left = 0
    for k in prange(chunks(count)):
        width = min(TILE, count)
        rows, blocks = np.empty((5, s, width), q.dtype), np.empty((2, s, s, width), q.dtype)
        one = np.empty((4, width), q.dtype)
        own = Buffers(
            rows[0], rows[1], rows[2], rows[3], rows[4], blocks[0], blocks[1],
            np.empty((s, s, width if rescaled else 0), q.dtype),
            np.empty((s * s + 3, width if s <= 2 else 0), q.dtype),
            one[0], one[1], one[2], one[3], np.empty(width, bits.dtype),
        )  # fmt: skip
        for low in range(k * CHUNK, min(count, (k + 1) * CHUNK), TILE):
            high = min(count, low + TILE)
            fetch(h, layout, order, start, count, low, high, own.h)
            fetch(v, layout, order, start, count, low, high, own.v)
            if s <= 2 and mode != TRIAL and not rescaled:
                stay = update_small(
                    q, held, new_q, new_held, low, high, numbers, own, squares[k % squares.shape[0]]
                )
                if stay >= 0:
                    left += stay
                    continue
            now, first = q, low
            if rescaled:
                now, first = own.q, 0
                for i in range(s):
                    for j in range(s):
                        copy(own.q[i, j], q[i, j, low:high])
                        scale(own.q[i, j], factor)
            last = first + high - low
            heard = images(now, first, last, damping, smallest, audible, own)
            directions(now, first, last, heard, own)
            steps(held[low:high], own.size, own.inverse, own.unit, own.mu, step, root, decay)
            if mode == TRIAL:
                for t in range(high - low):
                    left += 1 if own.mu[t] < 0 else 0
            else:
                add_squares(high - low, heard, own, squares[k % squares.shape[0]])
                copy(new_held[low:high], own.inverse[: high - low])
                left += move(now, first, last, new_q, low, heard, own)
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


def _precondition(
    g: np.ndarray, order: np.ndarray, start: int, layout: int, q: np.ndarray, out: np.ndarray
) -> None:
    """Write ``Q^T Q g`` to `out`, for all orbits of one size."""
    s, count = q.shape[0], q.shape[2]
    for k in prange(-(-count // CHUNK)):
        width = min(TILE, count)
        x, y = np.empty((s, width), q.dtype), np.empty((s, width), q.dtype)
        for low in range(k * CHUNK, min(count, (k + 1) * CHUNK), TILE):
            high = min(count, low + TILE)
            fetch(g, layout, order, start, count, low, high, x)
            for i in range(s):
                for j in range(s):
                    multiply(y[i, : high - low], q[i, j, low:high], x[j], j > 0)
            for j in range(s):
                for i in range(s):
                    multiply(x[j, : high - low], q[i, j, low:high], y[i], i > 0)
            put(out, layout, order, start, count, low, high, x)


update: Compiled
update_parallel: Compiled
update, update_parallel = for_one_and_all(_update)
precondition: Compiled
precondition_parallel: Compiled
precondition, precondition_parallel = for_one_and_all(_precondition)
