"""One update of a Theorem 3.1 group on the CPU: every array is read once and written once.

All orbits of one size s, a tile of them at a time: what a tile needs stays in the nearest cache, and every
loop runs along the tile, so that the compiler turns it into vector instructions whatever s is. The
arithmetic is that of `preconditioners._orbit` under the left rule with one probe, operation by operation.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
TILE = 512
"""Orbits at a time: their buffers stay in the nearest cache for s = 2, in the next one for s = 4."""

CHUNK = 64 * TILE
"""Orbits that one thread takes at a time."""

DIRECT, SHIFTED, MIRRORED, GATHERED = range(4)
"""Where member i of orbit j is found: at j; at i c + j; at j and n - 1 - j; at order[start + i c + j]."""


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
def _multiply(x, y, z, add):
    """``x = y z``, or ``x += y z``."""
    if add:
        for t in range(x.shape[0]):
            x[t] += y[t] * z[t]
    else:
        for t in range(x.shape[0]):
            x[t] = y[t] * z[t]


@njit(**OPTIONS)
def _eliminate(x, y, z):
    """``x -= y z``."""
    for t in range(x.shape[0]):
        x[t] -= y[t] * z[t]


@njit(**OPTIONS)
def _scale(x, y):
    """``x *= y``."""
    for t in range(x.shape[0]):
        x[t] *= y[t]


@njit(**OPTIONS)
def _divide(x, y):
    """``x /= y``."""
    for t in range(x.shape[0]):
        x[t] /= y[t]


@njit(**OPTIONS)
def _raise_to(x, y):
    """``x = max(x, |y|)``."""
    for t in range(x.shape[0]):
        x[t] = np.fmax(x[t], abs(y[t]))


@njit(**OPTIONS)
def _copy(x, y):
    """``x = y``, as far as y goes."""
    for t in range(y.shape[0]):
        x[t] = y[t]


@njit(**OPTIONS)
def _compare(x, y, swap):
    """``swap = |x| > |y|``, as a mask of bits."""
    for t in range(x.shape[0]):
        swap[t] = -swap.dtype.type(abs(x[t]) > abs(y[t]))


@njit(**OPTIONS)
def _exchange(x, y, swap):
    """Exchange x and y where `swap` says so, bit by bit: that becomes vector instructions."""
    p, q = x.view(swap.dtype), y.view(swap.dtype)
    for t in range(x.shape[0]):
        difference = (p[t] ^ q[t]) & swap[t]
        p[t] ^= difference
        q[t] ^= difference


@njit(**OPTIONS)
def _solve_transposed(w, b, swap):
    """Overwrite b with ``Q^{-T} b`` for Q^T in w, by elimination with row pivoting by comparison."""
    s = w.shape[0]
    for j in range(s):
        for i in range(j + 1, s):
            _compare(w[i, j], w[j, j], swap)
            _exchange(b[i], b[j], swap)
            for m in range(j, s):
                _exchange(w[i, m], w[j, m], swap)
        for i in range(j + 1, s):
            _divide(w[i, j], w[j, j])
            _eliminate(b[i], w[i, j], b[j])
            for m in range(j + 1, s):
                _eliminate(w[i, m], w[i, j], w[j, m])
    for i in range(s - 1, -1, -1):
        for j in range(i + 1, s):
            _eliminate(b[i], w[i, j], b[j])
        _divide(b[i], w[i, i])


@njit(**OPTIONS)
def _steps(before, bound, after, unit, mu, step, root, decay):
    """Turn the samples' bounds into what is held next, and into ``mu = step (unit / N)^2``; -1: as it was."""
    zero, one, ten = before.dtype.type(0), before.dtype.type(1), before.dtype.type(10)
    big = before.dtype.type(np.inf)
    for t in range(before.shape[0]):
        base = before[t] if before[t] > zero else bound[t]
        scale = base if base > root * bound[t] else root * bound[t]
        scale = bound[t] if decay < zero else scale  # the sample's own bound
        ratio = unit[t] / (scale if scale > zero else one)
        ratio = ratio if scale > zero else zero
        mu[t] = step * ratio * ratio if bound[t] < big else -one
    for t in range(before.shape[0]):
        base = before[t] if before[t] > zero else bound[t]
        capped = bound[t] if bound[t] < ten * base else ten * base
        average = decay * base + (one - decay) * capped
        average = bound[t] if decay < zero else average
        after[t] = average if bound[t] < big else before[t]


@njit(**OPTIONS)
def _tile(q, held, new_q, new_held, low, high, damping, step, root, decay, h, v, a, b, ph, w, noise, rows, swap, small):
    """Update the orbits low ... high - 1, and return how many of them were left as they are."""
    s, width = q.shape[0], high - low
    unit, inverse, size, mu = rows[0], rows[1], rows[2], rows[3]
    zero, one = q.dtype.type(0), q.dtype.type(1)
    size[:] = zero
    for i in range(s):
        _copy(b[i], v[i])
        for j in range(s):
            now = q[i, j, low:high]
            _multiply(a[i, :width], now, h[j], j > 0)
            _copy(w[j, i], now)
            _raise_to(size[:width], now)
    _solve_transposed(w, b, swap)
    # in units of the largest entry: no square overflows or vanishes
    unit[:] = small[0]
    for i in range(s):
        _raise_to(unit, a[i])
        _raise_to(unit, b[i])
    heard = 0
    for t in range(width):
        heard += 1 if damping * size[t] > small[1] * unit[t] else 0
    if heard:  # else its squares vanish in rounding
        for t in range(width):
            unit[t] = np.fmax(unit[t], damping * size[t])
    for t in range(width):
        inverse[t] = one / unit[t]
    size[:] = zero
    for i in range(s):
        _scale(a[i], inverse)
        _scale(b[i], inverse)
        _scale(v[i], inverse)
        _multiply(size, a[i], a[i], True)
        _multiply(size, b[i], b[i], True)
    if heard:
        for t in range(width):
            inverse[t] *= damping
        for i in range(s):
            for j in range(s):
                _multiply(noise[i, j, :width], q[i, j, low:high], inverse, False)
                _multiply(size, noise[i, j], noise[i, j], True)
    for j in range(s):
        for i in range(s):
            now = q[i, j, low:high]
            _multiply(ph[j, :width], now, a[i], i > 0)
            if heard:
                for c in range(s):  # w is free again: the products of the damping's probes
                    _multiply(w[j, c, :width], now, noise[i, c], i > 0)
    for t in range(width):
        size[t] = unit[t] * np.sqrt(size[t])
    _steps(held[low:high], size, inverse, unit, mu, step, root, decay)
    _copy(new_held[low:high], inverse[:width])
    for i in range(s):
        for j in range(s):
            _multiply(unit, a[i], ph[j], False)
            _eliminate(unit, b[i], v[j])
            if heard:
                for c in range(s):
                    _multiply(unit, noise[i, c], w[j, c], True)
            now = q[i, j, low:high]
            for t in range(width):
                unit[t] = now[t] - mu[t] * unit[t] if mu[t] >= zero else now[t]
            _copy(new_q[i, j, low:high], unit[:width])
    left = 0
    for t in range(width):
        left += 1 if mu[t] < zero else 0
    return left


def _update(v, h, order, start, layout, q, held, new_q, new_held, damping, step, root, decay, small, bits):
    """Update all orbits of one size, and return how many of them were left as they are."""
    s, count = q.shape[0], q.shape[2]
    chunks, left = -(-count // CHUNK), 0
    for k in prange(chunks):
        width = min(TILE, count)
        hs, vs = np.empty((s, width), q.dtype), np.empty((s, width), q.dtype)
        a, b, ph = np.empty((s, width), q.dtype), np.empty((s, width), q.dtype), np.empty((s, width), q.dtype)
        w, noise = np.empty((s, s, width), q.dtype), np.empty((s, s, width), q.dtype)
        rows, swap = np.empty((4, width), q.dtype), np.empty(width, bits.dtype)
        for low in range(k * CHUNK, min(count, (k + 1) * CHUNK), TILE):
            high = min(count, low + TILE)
            _fetch(h, layout, order, start, count, low, high, hs)
            _fetch(v, layout, order, start, count, low, high, vs)
            left += _tile(
                q, held, new_q, new_held, low, high, damping, step, root, decay, hs, vs, a, b, ph, w, noise, rows, swap, small
            )  # fmt: skip
    return left


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
                    _multiply(y[i, : high - low], q[i, j, low:high], x[j], j > 0)
            for j in range(s):
                for i in range(s):
                    _multiply(x[j, : high - low], q[i, j, low:high], y[i], i > 0)
            _put(out, layout, order, start, count, low, high, x)


def _largest(x, bits):
    """Return the largest |x| as its bits: 0 where all are zero, no less than Inf's where one is not finite."""
    most, words = 0, x.view(bits.dtype)
    for k in prange(-(-x.shape[0] // CHUNK)):
        own = bits.dtype.type(0)
        for word in words[k * CHUNK : (k + 1) * CHUNK]:
            own = max(own, word & ~bits[0])
        most = max(most, own)
    return most


update, update_parallel = njit(**OPTIONS)(_update), njit(parallel=True, **OPTIONS)(_update)
precondition, precondition_parallel = (
    njit(**OPTIONS)(_precondition),
    njit(parallel=True, **OPTIONS)(_precondition),
)
largest, largest_parallel = njit(**OPTIONS)(_largest), njit(parallel=True, **OPTIONS)(_largest)
