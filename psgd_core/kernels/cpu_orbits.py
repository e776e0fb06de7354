"""One update of a Theorem 3.1 group on the CPU: every array is read once and written once.

All orbits of one size s, a tile of them at a time: what a tile needs stays in the nearest caches, and every
loop runs along the tile, so that the compiler turns it into vector instructions whatever s is. For that, a
loop writes to one array, and to none that it also reads under another name. The arithmetic is that of
`preconditioners._orbit` under the left generator with one probe, operation by operation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from .cpu_loops import (
    OPTIONS,
    copy,
    divide,
    eliminate,
    exchange_where,
    for_one_and_all,
    larger,
    multiply,
    multiply_by,
    raise_to,
    scale,
)
from .cpu_small_orbits import double, single

TILE = 512
"""Orbits at a time: for s = 2 and float32 their buffers take 50 kB."""

CHUNK = 32 * TILE
"""Orbits that one thread takes at a time."""

DIRECT, SHIFTED, MIRRORED, GATHERED = range(4)
"""Where member i of orbit j is found: start + j; start + i c + j; j or n - 1 - j; order[start + i c + j]."""

READY, CHECK, TRIAL = range(3)
"""Update a pair known to be one; look for NaN, Inf and zero probes first; or count what would be left."""


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
    new: Any  # (s^2 + 1,): the next Q and what is held, of small orbits
    unit: Any
    inverse: Any
    size: Any
    mu: Any
    swap: Any  # a mask of bits


@njit(**OPTIONS)
def _fetch(x, layout, order, start, count, low, high, out):
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
def _put(x, layout, order, start, count, low, high, out):
    """Copy the rows of `out` to where `_fetch` takes them from."""
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
def _solve_transposed(w, b, swap):
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
def _images(q, low, high, damping, smallest, audible, own):
    """Set a, b, and the unit they are in; return whether the damping is heard in it, and if so set its part.

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
    _solve_transposed(own.w, own.b, own.swap)
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
def _directions(q, low, high, heard, own):
    """Set ``P h`` and what belongs to the damping, and the bounds of the curvature."""
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
def _steps(before, bound, after, unit, mu, step, root, decay):
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
def _move(q, low, high, new_q, start, heard, own):
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


@njit(**OPTIONS)
def _update_small(q, held, new_q, new_held, low, high, numbers, own):
    """Update a tile of orbits of one or two; return how many stay as they are, -1 if damping is heard."""
    s = q.shape[0]
    if s == 1:
        heard, stay = single(q[0, 0, low:high], held[low:high], own.v[0], own.h[0], numbers, own.new)
    else:
        heard, stay = double(q, low, held[low:high], own.v, own.h, numbers, own.new)
    if heard:
        return -1
    for i in range(s):
        for j in range(s):
            copy(new_q[i, j, low:high], own.new[s * i + j, : high - low])
    copy(new_held[low:high], own.new[s * s, : high - low])
    return stay


@njit(**OPTIONS)
def _largest(x, bits):
    """Return the largest magnitude, as an integer: in that order NaN is above Inf, and Inf above the rest."""
    found, kind, mask, words = bits.dtype.type(0), bits.dtype.type, bits[0], x.view(bits.dtype)
    for t in range(x.shape[0]):
        word = kind(words[t] & mask)  # integers would grow to 64 bits
        found = word if word > found else found
    return found


def _usable(v, h, bits):
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


usable, usable_parallel = for_one_and_all(_usable)


def _update(v, h, order, start, layout, q, held, new_q, new_held, numbers, bits, mode):
    """Update all orbits of one size, and return how many were left as they are; -1 if the pair is no pair.

    Parameters
    ----------
    v, h : array, shape (n,)
    order, start, layout
        Where the members are: see `GATHERED`.
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
    """
    if mode == CHECK and usable(v, h, bits) == 0:
        return -1
    damping, step, root, decay = numbers[0], numbers[1], numbers[2], numbers[3]
    smallest, audible, factor = numbers[4], numbers[5], numbers[6]
    rescaled = factor != q.dtype.type(1)
    s, count = q.shape[0], q.shape[2]
    chunks, left = -(-count // CHUNK), 0
    for k in prange(chunks):
        width = min(TILE, count)
        rows, blocks = np.empty((5, s, width), q.dtype), np.empty((2, s, s, width), q.dtype)
        one = np.empty((4, width), q.dtype)
        own = Buffers(
            rows[0], rows[1], rows[2], rows[3], rows[4], blocks[0], blocks[1],
            np.empty((s, s, width if rescaled else 0), q.dtype),
            np.empty((s * s + 1, width if s <= 2 else 0), q.dtype),
            one[0], one[1], one[2], one[3], np.empty(width, bits.dtype),
        )  # fmt: skip
        for low in range(k * CHUNK, min(count, (k + 1) * CHUNK), TILE):
            high = min(count, low + TILE)
            _fetch(h, layout, order, start, count, low, high, own.h)
            _fetch(v, layout, order, start, count, low, high, own.v)
            if s <= 2 and mode != TRIAL and not rescaled:
                stay = _update_small(q, held, new_q, new_held, low, high, numbers, own)
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
            heard = _images(now, first, last, damping, smallest, audible, own)
            _directions(now, first, last, heard, own)
            _steps(held[low:high], own.size, own.inverse, own.unit, own.mu, step, root, decay)
            if mode == TRIAL:
                for t in range(high - low):
                    left += 1 if own.mu[t] < 0 else 0
            else:
                copy(new_held[low:high], own.inverse[: high - low])
                left += _move(now, first, last, new_q, low, heard, own)
    return left


@njit(**OPTIONS)
def _gather_squares(x, factor, sums):
    """Add the squares of x times a factor to `sums`: (their largest root, the sum in units of its square)."""
    largest = sums[0]
    for t in range(x.shape[0]):
        largest = np.fmax(largest, factor * abs(np.float64(x[t])))
    if largest > 0:
        total = sums[1] * (sums[0] / largest) ** 2
        for t in range(x.shape[0]):
            total += (factor * np.float64(x[t]) / largest) ** 2
        sums[0], sums[1] = largest, total


@njit(**OPTIONS)
def norms(v, h, order, start, layout, q, damping, bits, x, y):
    """Add the squares of ``Q h`` and damping Q to `x`, and those of ``Q^{-T} v`` to `y`, in float64."""
    s, count = q.shape[0], q.shape[2]
    width = min(TILE, count)
    rows, w = np.zeros((3, s, width), q.dtype), np.zeros((s, s, width), q.dtype)
    swap = np.zeros(width, bits.dtype)
    for low in range(0, count, TILE):
        high = min(count, low + TILE)
        _fetch(h, layout, order, start, count, low, high, rows[0])
        _fetch(v, layout, order, start, count, low, high, rows[1])
        for i in range(s):
            for j in range(s):
                now = q[i, j, low:high]
                multiply(rows[2, i, : high - low], now, rows[0, j], j > 0)
                copy(w[j, i], now)
                _gather_squares(now, np.float64(damping), x)
        _solve_transposed(w, rows[1], swap)
        for i in range(s):
            _gather_squares(rows[2, i, : high - low], 1.0, x)
            _gather_squares(rows[1, i, : high - low], 1.0, y)


def _precondition(g, order, start, layout, q, out):
    """Write ``Q^T Q g`` to `out`, for all orbits of one size."""
    s, count = q.shape[0], q.shape[2]
    for k in prange(-(-count // CHUNK)):
        width = min(TILE, count)
        x, y = np.empty((s, width), q.dtype), np.empty((s, width), q.dtype)
        for low in range(k * CHUNK, min(count, (k + 1) * CHUNK), TILE):
            high = min(count, low + TILE)
            _fetch(g, layout, order, start, count, low, high, x)
            for i in range(s):
                for j in range(s):
                    multiply(y[i, : high - low], q[i, j, low:high], x[j], j > 0)
            for j in range(s):
                for i in range(s):
                    multiply(x[j, : high - low], q[i, j, low:high], y[i], i > 0)
            _put(out, layout, order, start, count, low, high, x)


update, update_parallel = for_one_and_all(_update)
precondition, precondition_parallel = for_one_and_all(_precondition)
