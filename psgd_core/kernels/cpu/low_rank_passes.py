"""The passes of an update of ``Q = (I + U V^T) diag(d)`` over the CPU's memory: three, whatever the rank.

With ``x = d h`` and ``y = v / d`` everything is a combination of the rows of ``R = [U; V; x; y]``. `gram`
finds all their inner products; `numerator` forms what d moves along, and its largest entries; `write` moves
d and a factor. Between them lies algebra of size r alone, which is the caller's. x and y are made anew in
every pass, tile by tile, so that nothing of size n is stored but the numerator: (7 r + 12) n numbers pass.

Columns are divided into equal parts whatever the number of threads, and what they sum is added up in their
order: results do not depend on who did the work.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .compile import njit
from .loops import (
    OPTIONS,
    SUMS,
    Compiled,
    copy,
    divide,
    for_one_and_all,
    multiply,
    multiply_by,
    raise_to,
    scale,
)

TILE = 1024
"""Columns at a time: for r = 10 their rows take 90 kB in float32."""

PARTS = 64
"""Most parts that threads share out."""


@njit(**OPTIONS)
def part(k: int, n: int) -> tuple[int, int]:
    """Return the columns of part k, whole tiles; of `write`'s there may be none."""
    size = -(-n // (PARTS * TILE)) * TILE
    return min(n, k * size), min(n, (k + 1) * size)


def parts(n: int) -> int:
    """Return how many parts n columns have."""
    return -(-n // (-(-n // (PARTS * TILE)) * TILE))


@njit(**OPTIONS)
def _disturb(x: np.ndarray, start: int, damping: np.floating, seed: np.uint32) -> None:
    """``x += damping * signs``, those of `arrays.signs` from column `start` on."""
    one, two = x.dtype.type(1), x.dtype.type(2)
    for t in range(x.shape[0]):
        word = np.uint32(np.uint32(start + t) ^ seed)
        word = np.uint32(word * np.uint32(0x2C1B3C6D))
        word = np.uint32(np.uint32(word ^ (word >> np.uint32(16))) * np.uint32(0x297A2D39))
        word = np.uint32(word ^ (word >> np.uint32(15)))
        bit = x.dtype.type(np.int32(np.uint32(word >> np.uint32(7)) & np.uint32(1)))
        x[t] += damping * (one - two * bit)


@njit(**OPTIONS)
def _ends(
    d: np.ndarray, h: np.ndarray, p: np.ndarray, low: int, damping: np.floating, seed: np.uint32,
    scales: np.ndarray, x: np.ndarray, y: np.ndarray,
) -> None:  # fmt: skip
    """Write ``x = d h`` and ``y = p / d``, h with its noise and each times its scale."""
    copy(x, h)
    if damping > 0:
        _disturb(x, low, damping, seed)
    multiply_by(x, d)
    copy(y, p)
    divide(y, d)
    scale(x, scales[0])
    scale(y, scales[1])


@njit(**SUMS)
def _products(rows: np.ndarray, i: int, j: int, width: int, out: np.ndarray) -> None:
    """Add the products of rows i, i + 1 with rows j ... j + 3, which keep eight sums in registers.

    A tile is summed in the rows' dtype, and tiles in float64. In float32 a tile errs by some 1e-7 of the
    rows' norms, at random: of many tiles little is left.
    """
    a = b = c = d = e = f = g = h = rows.dtype.type(0)
    for t in range(width):
        p, q = rows[i, t], rows[i + 1, t]
        a += p * rows[j, t]
        b += p * rows[j + 1, t]
        c += p * rows[j + 2, t]
        d += p * rows[j + 3, t]
        e += q * rows[j, t]
        f += q * rows[j + 1, t]
        g += q * rows[j + 2, t]
        h += q * rows[j + 3, t]
    out[i, j] += a
    out[i, j + 1] += b
    out[i, j + 2] += c
    out[i, j + 3] += d
    out[i + 1, j] += e
    out[i + 1, j + 1] += f
    out[i + 1, j + 2] += g
    out[i + 1, j + 3] += h


def _gram(
    u: np.ndarray, v: np.ndarray, d: np.ndarray, h: np.ndarray, p: np.ndarray, damping: np.floating,
    seed: np.uint32, scales: np.ndarray, like: np.ndarray, products: np.ndarray, largest: np.ndarray,
) -> None:  # fmt: skip
    """Write the inner products of the rows of R, and the largest |x| and |y|, part by part.

    Parameters
    ----------
    u, v : array, shape (r, n)
    d, h, p : array, shape (n,)
        p is the probe.
    damping, seed, scales
        As in `_ends`.
    like : array
        Has the dtype in which a tile is summed.
    products : float64 array, shape (parts, m, m), zero
        m is 2 r + 2, rounded up to a multiple of four; only ``[i, j]`` for j up to i is meant.
    largest : array, shape (parts, 2), zero
        Passes over NaN, which the products show.
    """
    r, n = u.shape
    for k in prange(largest.shape[0]):
        low, high = part(k, n)
        rows, ends = np.zeros((products.shape[1], TILE), like.dtype), np.empty((2, TILE), d.dtype)
        tops = np.zeros((2, TILE), d.dtype)
        for start in range(low, high, TILE):
            stop = min(high, start + TILE)
            width = stop - start
            for i in range(r):
                copy(rows[i], u[i, start:stop])
                copy(rows[r + i], v[i, start:stop])
            x, y = ends[0, :width], ends[1, :width]
            _ends(d[start:stop], h[start:stop], p[start:stop], start, damping, seed, scales, x, y)
            for i in range(2):
                copy(rows[2 * r + i], ends[i, :width])
                raise_to(tops[i, :width], ends[i])
            for i in range(0, 2 * r + 2, 2):
                for j in range(0, i + 2, 4):
                    _products(rows, i, j, width, products[k])
        for i in range(2):
            for t in range(TILE):
                largest[k, i] = max(largest[k, i], tops[i, t])


@njit(**OPTIONS)
def add_rows(x: np.ndarray, coefficients: np.ndarray, rows: np.ndarray, start: int) -> None:
    """``x += coefficients @ rows``, from column `start` on; four rows at a time, if not all weigh nothing."""
    r, zero = rows.shape[0], x.dtype.type(0)
    for i in range(0, r - 3, 4):
        a, b, c, d = coefficients[i], coefficients[i + 1], coefficients[i + 2], coefficients[i + 3]
        if a == zero and b == zero and c == zero and d == zero:
            continue
        for t in range(x.shape[0]):
            column = np.uintp(start + t)
            x[t] += (a * rows[i, column] + b * rows[i + 1, column]) + (
                c * rows[i + 2, column] + d * rows[i + 3, column]
            )
    for i in range(r - r % 4, r):
        a = coefficients[i]
        if a != zero:
            for t in range(x.shape[0]):
                x[t] += a * rows[i, np.uintp(start + t)]


@njit(**OPTIONS)
def _combine(
    out: np.ndarray, coefficients: np.ndarray, u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray,
    start: int,
) -> None:  # fmt: skip
    """``out = coefficients @ R``, from column `start` on."""
    r = u.shape[0]
    a, b = coefficients[2 * r], coefficients[2 * r + 1]
    for t in range(out.shape[0]):
        out[t] = a * x[t] + b * y[t]
    add_rows(out, coefficients[:r], u, start)
    add_rows(out, coefficients[r : 2 * r], v, start)


def _numerator(
    u: np.ndarray, v: np.ndarray, d: np.ndarray, h: np.ndarray, p: np.ndarray, damping: np.floating,
    seed: np.uint32, scales: np.ndarray, ph: np.ndarray, pv: np.ndarray, numerator: np.ndarray,
    largest: np.ndarray,
) -> None:  # fmt: skip
    """Write ``x P h / d - y d P^{-1} v``, and part by part the largest of either term and of both together.

    Parameters
    ----------
    u, v, d, h, p, damping, seed, scales
        As in `_gram`.
    ph, pv : array, shape (2 r + 2,)
        ``P h / d`` and ``d P^{-1} v`` as combinations of the rows of R.
    numerator : array, shape (n,)
    largest : array, shape (parts, 3), zero
    """
    n = u.shape[1]
    for k in prange(largest.shape[0]):
        low, high = part(k, n)
        own, tops = np.empty((4, TILE), d.dtype), np.zeros((3, TILE), d.dtype)
        for start in range(low, high, TILE):
            stop = min(high, start + TILE)
            width = stop - start
            x, y, plus, minus = own[0, :width], own[1, :width], own[2, :width], own[3, :width]
            _ends(d[start:stop], h[start:stop], p[start:stop], start, damping, seed, scales, x, y)
            _combine(plus, ph, u, v, x, y, start)
            _combine(minus, pv, u, v, x, y, start)
            multiply_by(plus, x)
            multiply_by(minus, y)
            out = numerator[start:stop]
            for t in range(width):
                out[t] = plus[t] - minus[t]
            raise_to(tops[0, :width], plus)
            raise_to(tops[1, :width], minus)
            raise_to(tops[2, :width], out)
        for i in range(3):
            for t in range(TILE):
                largest[k, i] = max(largest[k, i], tops[i, t])


@njit(**OPTIONS)
def _subtract(x: np.ndarray, p: float, a: np.ndarray, q: float, b: np.ndarray) -> None:
    """``x -= p a + q b``."""
    for t in range(x.shape[0]):
        x[t] -= p * a[t] + q * b[t]


@njit(**OPTIONS)
def _write_factor(
    out: np.ndarray, old: np.ndarray, moves: bool, left: np.ndarray, a: np.ndarray, b: np.ndarray,
    gauge: np.ndarray, inplace: bool, rows: np.ndarray, start: int,
) -> None:  # fmt: skip
    """``out = gauge (old - left [a; b])``, from column `start` on, or what of it there is to do."""
    width = a.shape[0]
    turned = gauge.shape[0] > 0
    for i in range(out.shape[0]):
        x = rows[i, :width] if turned else out[i, start : start + width]
        if turned or not inplace:
            copy(x, old[i, start : start + width])
        if moves:
            _subtract(x, left[i, 0], a, left[i, 1], b)
    if turned:
        one = np.empty(width, out.dtype)
        for i in range(out.shape[0]):
            one[:] = 0
            add_rows(one, gauge[i], rows, 0)
            copy(out[i, start : start + width], one)


def _write(
    u: np.ndarray, v: np.ndarray, d: np.ndarray, h: np.ndarray, p: np.ndarray, damping: np.floating,
    seed: np.uint32, scales: np.ndarray, right: np.ndarray, left: np.ndarray, mu: np.ndarray,
    numerator: np.ndarray, turn_u: bool, gauge: np.ndarray, back: np.ndarray, inplace: bool,
    out_u: np.ndarray, out_v: np.ndarray, out_d: np.ndarray,
) -> None:  # fmt: skip
    """Move d and one factor, and change both to a better gauge where one is given.

    Parameters
    ----------
    u, v, d, h, p, damping, seed, scales
        As in `_gram`.
    right : array, shape (2, 2 r + 2)
        Two rows as combinations of those of R.
    left : array, shape (r, 2)
        What of them is subtracted from each row of the factor that moves.
    mu : array, shape (2,)
        d becomes ``mu[1] d (1 - mu[0] numerator)``.
    numerator : array, shape (n,)
        May be `out_d`.
    turn_u : bool
        Whether it is U that moves.
    gauge, back : array, shape (r, r), or (0, 0)
        What U and V are multiplied by at the end.
    inplace : bool
        Whether `out_u`, `out_v` and `out_d` are u, v and d.
    out_u, out_v, out_d : array
        Of shape (0, n) where nothing is to be written.
    """
    r, n = u.shape
    for k in prange(PARTS):
        low, high = part(k, n)
        if low == high:
            continue
        own, rows = np.empty((4, TILE), d.dtype), np.empty((r, TILE), d.dtype)
        for start in range(low, high, TILE):
            stop = min(high, start + TILE)
            width = stop - start
            x, y, a, b = own[0, :width], own[1, :width], own[2, :width], own[3, :width]
            _ends(d[start:stop], h[start:stop], p[start:stop], start, damping, seed, scales, x, y)
            _combine(a, right[0], u, v, x, y, start)
            _combine(b, right[1], u, v, x, y, start)
            _write_factor(out_u, u, turn_u, left, a, b, gauge, inplace, rows, start)
            _write_factor(out_v, v, not turn_u, left, a, b, back, inplace, rows, start)
            multiply(a, numerator[start:stop], d[start:stop], False)
            copy(b, d[start:stop])
            for t in range(width):
                b[t] = mu[1] * (b[t] - mu[0] * a[t])
            copy(out_d[start:stop], b)


gram: Compiled
gram_parallel: Compiled
gram, gram_parallel = for_one_and_all(_gram)
numerator: Compiled
numerator_parallel: Compiled
numerator, numerator_parallel = for_one_and_all(_numerator)
write: Compiled
write_parallel: Compiled
write, write_parallel = for_one_and_all(_write)
