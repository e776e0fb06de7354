"""The passes of `low_rank_passes` without a compiler: NumPy and BLAS on blocks of columns that stay in cache.

Arguments and results are those of the functions of the same names there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 16_384
"""Columns at a time: for r = 10 and float32 their rows take 1.4 MB; with fewer, calls cost too much."""


def parts(n: int) -> int:
    """Return in how many parts sums are kept."""
    return 1


def _rows(
    u: np.ndarray, v: np.ndarray, d: np.ndarray, h: np.ndarray, p: np.ndarray, damping: np.floating,
    seed: np.uint32, scales: np.ndarray,
) -> Iterator[tuple[slice, np.ndarray]]:  # fmt: skip
    """Yield blocks of columns, and the rows of R in them."""
    r, n = u.shape
    rows = np.empty((2 * r + 2, min(BLOCK, n)), d.dtype)
    for start in range(0, n, BLOCK):
        block = slice(start, min(start + BLOCK, n))
        own = rows[:, : block.stop - start]
        own[:r], own[r:-2] = u[:, block], v[:, block]
        own[-2] = h[block]
        if damping > 0:
            own[-2] += damping * _signs(start, block.stop, seed).astype(d.dtype)
        np.multiply(own[-2], d[block] * scales[0], out=own[-2])
        np.divide(p[block] * scales[1], d[block], out=own[-1])
        yield block, own


def _signs(start: int, stop: int, seed: np.uint32) -> np.ndarray:
    """Return those of `arrays.signs` for columns from `start` to `stop`, as int32."""
    word = (np.arange(start, stop).astype(np.uint32) ^ seed) * np.uint32(0x2C1B3C6D)
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x297A2D39)
    word = word ^ (word >> np.uint32(15))
    return 1 - 2 * ((word >> np.uint32(7)) & np.uint32(1)).astype(np.int32)


def gram(
    u: np.ndarray, v: np.ndarray, d: np.ndarray, h: np.ndarray, p: np.ndarray, damping: np.floating,
    seed: np.uint32, scales: np.ndarray, like: np.ndarray, products: np.ndarray, largest: np.ndarray,
) -> None:  # fmt: skip
    """Add the inner products of the rows of R to products[0], in float64; find the largest |x| and |y|."""
    m = 2 * u.shape[0] + 2
    for _, rows in _rows(u, v, d, h, p, damping, seed, scales):
        wide = rows.astype(np.float64)
        products[0, :m, :m] += wide @ wide.T
        np.maximum(largest[0], np.max(np.abs(rows[-2:]), axis=1), out=largest[0])


def numerator(
    u: np.ndarray, v: np.ndarray, d: np.ndarray, h: np.ndarray, p: np.ndarray, damping: np.floating,
    seed: np.uint32, scales: np.ndarray, ph: np.ndarray, pv: np.ndarray, numerator: np.ndarray,
    largest: np.ndarray,
) -> None:  # fmt: skip
    """Write ``x P h / d - y d P^{-1} v``, and find the largest of either term and of both together."""
    for block, rows in _rows(u, v, d, h, p, damping, seed, scales):
        out = np.stack([ph, pv]) @ rows
        out *= rows[-2:]
        np.subtract(out[0], out[1], out=numerator[block])
        tops = [np.max(np.abs(x)) for x in (*out, numerator[block])]
        np.maximum(largest[0], tops, out=largest[0])


def write(
    u: np.ndarray, v: np.ndarray, d: np.ndarray, h: np.ndarray, p: np.ndarray, damping: np.floating,
    seed: np.uint32, scales: np.ndarray, right: np.ndarray, left: np.ndarray, mu: np.ndarray,
    numerator: np.ndarray, turn_u: bool, gauge: np.ndarray, back: np.ndarray, inplace: bool,
    out_u: np.ndarray, out_v: np.ndarray, out_d: np.ndarray,
) -> None:  # fmt: skip
    """Move d and one factor, and change both to a better gauge where one is given."""
    r = u.shape[0]
    for block, rows in _rows(u, v, d, h, p, damping, seed, scales):
        rows[slice(0, r) if turn_u else slice(r, 2 * r)] -= left @ (right @ rows)
        for out, c, new in ((out_u, gauge, rows[:r]), (out_v, back, rows[r : 2 * r])):
            if out.shape[0]:
                out[:, block] = c @ new if c.shape[0] else new
        out_d[block] = mu[1] * (d[block] - mu[0] * (numerator[block] * d[block]))
