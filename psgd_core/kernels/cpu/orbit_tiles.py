"""What an update does to a tile of orbits of one size, whatever the size.

Every loop runs along the tile, so the compiler turns it into vector instructions; for that, a loop writes to
one array, and reads no array that it writes under another name. The arithmetic is that of
`preconditioners.orbit` under the left generator with one probe, operation by operation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compile import njit
from .loops import (
    OPTIONS,
    copy,
    divide,
    eliminate,
    exchange_where,
    larger,
    multiply,
    multiply_by,
    raise_to,
    scale,
)


class Buffers(NamedTuple):
    """Rows of the width of a tile."""

    h: Any  # (s,)
    v: Any  # (s,)
    a: Any  # (s,): Q h
    b: Any  # (s,): Q^{-T} v
    ph: Any  # (s,): Q^T a
    w: Any  # (s, s): what is eliminated; then Q^T noise
    noise: Any  # (s, s): the damping's probes, damping * Q
    q: Any  # (s, s): Q times its automatic scale, in the update that sets it
    unit: Any
    inverse: Any
    size: Any
    mu: Any
    swap: Any  # a mask of bits


@njit(**OPTIONS)
def solve_transposed(w: np.ndarray, b: np.ndarray, swap: np.ndarray) -> None:
    """Overwrite b with ``Q^{-T} b`` for Q^T in w, by elimination with row pivoting by comparison."""
    s = w.shape[0]
    for j in range(s):
        for i in range(j + 1, s):
            larger(w[i, j], w[j, j], swap)
            exchange_where(b[i], b[j], swap)
            for m in range(j, s):
                exchange_where(w[i, m], w[j, m], swap)
        for i in range(j + 1, s):
            divide(w[i, j], w[j, j])
            eliminate(b[i], w[i, j], b[j])
            for m in range(j + 1, s):
                eliminate(w[i, m], w[i, j], w[j, m])
    for i in range(s - 1, -1, -1):
        for j in range(i + 1, s):
            eliminate(b[i], w[i, j], b[j])
        divide(b[i], w[i, i])


@njit(**OPTIONS)
def images(
    q: np.ndarray, low: int, high: int, damping: float, smallest: float, audible: float, own: Buffers
) -> bool:
    """Set a, b and their unit; return whether the damping is above rounding there, and if so set its part.

    The unit is the largest entry, so that no square overflows or vanishes.
    """
    s, width = q.shape[0], high - low
    one = q.dtype.type(1)
    own.size[:] = 0
    for i in range(s):
        copy(own.b[i], own.v[i])
        for j in range(s):
            now = q[i, j, low:high]
            multiply(own.a[i, :width], now, own.h[j], j > 0)
            copy(own.w[j, i], now)
            raise_to(own.size[:width], now)
    solve_transposed(own.w, own.b, own.swap)
    unit, inverse, size = own.unit, own.inverse, own.size
    unit[:] = smallest
    for i in range(s):
        raise_to(unit, own.a[i])
        raise_to(unit, own.b[i])
    heard = 0
    for t in range(width):
        heard += 1 if damping * size[t] > audible * unit[t] else 0
    if heard:
        scale(size, damping)
        raise_to(unit, size)
    for t in range(width):
        inverse[t] = one / unit[t]
    for i in range(s):
        multiply_by(own.a[i], inverse)
        multiply_by(own.b[i], inverse)
        multiply_by(own.v[i], inverse)
        if heard:
            for j in range(s):
                noise = own.noise[i, j, :width]
                multiply(noise, q[i, j, low:high], inverse, False)
                scale(noise, damping)
    return heard > 0


@njit(**OPTIONS)
def directions(q: np.ndarray, low: int, high: int, heard: bool, own: Buffers) -> None:
    """Set ``P h``, the same of the damping's probes, and the bounds of the curvature."""
    s, width = q.shape[0], high - low
    unit, size = own.unit, own.size
    size[:] = 0
    for i in range(s):
        multiply(size, own.a[i], own.a[i], True)
        multiply(size, own.b[i], own.b[i], True)
        if heard:
            for j in range(s):
                multiply(size, own.noise[i, j], own.noise[i, j], True)
    for t in range(width):
        size[t] = unit[t] * np.sqrt(size[t])
    for j in range(s):
        for i in range(s):
            now = q[i, j, low:high]
            multiply(own.ph[j, :width], now, own.a[i], i > 0)
            if heard:
                for c in range(s):
                    multiply(own.w[j, c, :width], now, own.noise[i, c], i > 0)


@njit(**OPTIONS)
def add_squares(width: int, heard: bool, own: Buffers, squares: np.ndarray) -> None:
    """Add ``|a|^2``, with the damping's part, and ``|b|^2`` to `squares`, in float64."""
    for t in range(width):
        a, b, unit = 0.0, 0.0, np.float64(own.unit[t])
        for i in range(own.a.shape[0]):
            a += np.float64(own.a[i, t]) ** 2
            b += np.float64(own.b[i, t]) ** 2
            if heard:
                for j in range(own.a.shape[0]):
                    a += np.float64(own.noise[i, j, t]) ** 2
        squares[0] += unit * unit * a
        squares[1] += unit * unit * b


@njit(**OPTIONS)
def steps(
    before: np.ndarray, bound: np.ndarray, after: np.ndarray, unit: np.ndarray, mu: np.ndarray, step: float,
    root: float, decay: float,
) -> None:  # fmt: skip
    """Turn the samples' bounds into what is held next, and into ``mu = step (unit / N)^2``; -1: no move."""
    zero, one, ten = before.dtype.type(0), before.dtype.type(1), before.dtype.type(10)
    infinite = before.dtype.type(np.inf)
    for t in range(before.shape[0]):
        base = before[t] if before[t] > zero else bound[t]
        size = base if base > root * bound[t] else root * bound[t]
        size = bound[t] if decay < zero else size  # the sample's own bound
        ratio = unit[t] / (size if size > zero else one)
        ratio = ratio if size > zero else zero
        mu[t] = step * ratio * ratio if bound[t] < infinite else -one
    for t in range(before.shape[0]):
        base = before[t] if before[t] > zero else bound[t]
        capped = bound[t] if bound[t] < ten * base else ten * base
        average = decay * base + (one - decay) * capped
        average = bound[t] if decay < zero else average
        after[t] = average if bound[t] < infinite else before[t]


@njit(**OPTIONS)
def move(q: np.ndarray, low: int, high: int, new_q: np.ndarray, start: int, heard: bool, own: Buffers) -> int:
    """Move Q from low on to `new_q` from `start` on, and return how many blocks were left as they are."""
    s, width = q.shape[0], high - low
    mu, moved, zero = own.mu, own.unit, q.dtype.type(0)
    for i in range(s):
        for j in range(s):
            now = q[i, j, low:high]
            multiply(moved, own.a[i], own.ph[j], False)
            eliminate(moved, own.b[i], own.v[j])
            if heard:
                for c in range(s):
                    multiply(moved, own.noise[i, c], own.w[j, c], True)
            for t in range(width):
                moved[t] = now[t] - mu[t] * moved[t] if mu[t] >= zero else now[t]
            copy(new_q[i, j, start : start + width], moved[:width])
    left = 0
    for t in range(width):
        left += 1 if mu[t] < zero else 0
    return left
