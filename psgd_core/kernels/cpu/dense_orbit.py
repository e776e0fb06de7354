"""One update of GL(n) on the CPU for small n, where calls to a library cost more than the arithmetic.

The arithmetic is that of `preconditioners.orbit` for a single orbit under the left generator with one
probe, and the noise that of `arrays.signs`.
"""

from __future__ import annotations

import numpy as np

from .compile import njit
from .loops import OPTIONS, copy
from .orbit_passes import usable


@njit(**OPTIONS)
def _sign(index: int, count: int) -> np.int32:
    """Return the sign that `signs` has at this place for this count: its hash, in wrapping arithmetic."""
    word = (np.uint32(index) ^ (np.uint32(count) * np.uint32(0x1F35B1D9))) * np.uint32(0x2C1B3C6D)
    word = np.uint32(word)
    word = np.uint32((word ^ (word >> np.uint32(16))) * np.uint32(0x297A2D39))
    word = np.uint32(word ^ (word >> np.uint32(15)))
    return 1 - 2 * np.int32((word >> np.uint32(7)) & np.uint32(1))


@njit(**OPTIONS)
def _solve(w: np.ndarray, b: np.ndarray) -> None:
    """Overwrite b with ``w^{-1} b``, and w with its elimination; rows are exchanged for the largest pivot."""
    n = b.shape[0]
    for j in range(n):
        best = j
        for i in range(j + 1, n):
            if abs(w[i, j]) > abs(w[best, j]):
                best = i
        if best != j:
            x, y = w[j], w[best]
            for t in range(j, n):
                x[t], y[t] = y[t], x[t]
            b[j], b[best] = b[best], b[j]
        head = w[j, j + 1 :]
        for i in range(j + 1, n):
            factor = w[i, j] / w[j, j]
            row = w[i, j + 1 :]
            for t in range(n - j - 1):
                row[t] -= factor * head[t]
            b[i] -= factor * b[j]
    for i in range(n - 1, -1, -1):
        total = b[i]
        for t in range(i + 1, n):
            total -= w[i, t] * b[t]
        b[i] = total / w[i, i]


@njit(**OPTIONS)
def update(
    v: np.ndarray, h: np.ndarray, count: int, q: np.ndarray, held: np.ndarray, new_q: np.ndarray,
    new_held: np.ndarray, numbers: np.ndarray, bits: np.ndarray, squares: np.ndarray,
) -> int:  # fmt: skip
    """Update Q; return 1, or 0 if it was left as it is, or -1 if the pair is unusable.

    Parameters
    ----------
    v, h : array, shape (n,)
    count : int
        Updates before this one: it draws the noise.
    q, new_q : array, shape (n, n)
        Before and after; they may be the same.
    held, new_held : array, shape (1,)
    numbers : array, shape (8,)
        As `orbit_passes.update` has them; the last three are not for this one.
    bits : array, shape (2,)
        As `orbit_passes.update` has them.
    squares : float64 array, shape (2,)
        ``|a|^2`` and ``|b|^2`` are written to it, in one unit.
    """
    damping, step, root, decay, smallest = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    n, zero, one = v.shape[0], q.dtype.type(0), q.dtype.type(1)
    infinite = q.dtype.type(np.inf)
    if usable(v, h, bits) == 0:
        return -1
    a, b, ph = np.zeros(n, q.dtype), v.copy(), np.zeros(n, q.dtype)
    noisy, w = np.empty(n, q.dtype), np.empty((n, n), q.dtype)
    for t in range(n):
        noisy[t] = h[t] + damping * q.dtype.type(_sign(t, count)) if damping > zero else h[t]
    for i in range(n):
        total = zero
        for t in range(n):
            total += q[i, t] * noisy[t]
            w[t, i] = q[i, t]
        a[i] = total
    _solve(w, b)
    unit = smallest
    for t in range(n):
        unit = np.fmax(unit, np.fmax(abs(a[t]), abs(b[t])))
    square_a, square_b = zero, zero
    for t in range(n):
        a[t] /= unit
        b[t] /= unit
        square_a += a[t] * a[t]
        square_b += b[t] * b[t]
    squares[0], squares[1] = square_a, square_b
    bound = unit * np.sqrt(square_a + square_b)
    if not bound < infinite:
        for i in range(n):
            copy(new_q[i], q[i])
        copy(new_held, held)
        return 0
    base = held[0] if held[0] > zero else bound
    scale = max(base, root * bound) if decay >= zero else bound
    capped = min(bound, 10 * base)
    new_held[0] = decay * base + (one - decay) * capped if decay >= zero else bound
    ratio = unit / scale if scale > zero else zero
    mu = step * ratio * ratio
    for i in range(n):
        row = q[i]
        for t in range(n):
            ph[t] += row[t] * a[i]
    for i in range(n):
        row, out = q[i], new_q[i]
        x, y = mu * a[i], mu * b[i] / unit
        for t in range(n):
            out[t] = row[t] - (x * ph[t] - y * v[t])
    return 1
