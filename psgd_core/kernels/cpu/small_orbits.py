"""The arithmetic of an update for orbits of one and of two, with everything of an orbit in registers.

`orbit_tiles` works on orbits of any size, by loops that each do one thing and take every intermediate number
to the cache and back; with one or two members that costs more than the arithmetic. The same operations in the
same order, except for the damping: a tile where it is above rounding is left to `orbit_tiles`.

What is chosen between is read first: a choice between two places in memory would be a gather.
"""

from __future__ import annotations

import numpy as np

from .compile import njit
from .loops import OPTIONS


@njit(inline="always", **OPTIONS)
def _larger(x: float, y: float) -> float:
    return x if x > y else y


@njit(inline="always", **OPTIONS)
def _step(size: float, unit: float, before: float, rule: tuple[float, ...]) -> tuple[float, float]:
    """Return ``mu = step (unit / N)^2`` and what is held next, for a sample's bound; see `normalizers`."""
    step, root, decay, zero, one, ten = rule
    base = before if before > zero else size
    scale = _larger(base, root * size)
    scale = size if decay < zero else scale
    ratio = unit / (scale if scale > zero else one)
    ratio = ratio if scale > zero else zero
    most = ten * base
    capped = size if size < most else most
    average = decay * base + (one - decay) * capped
    return step * ratio * ratio, size if decay < zero else average


@njit(**OPTIONS)
def single(
    q: np.ndarray, held: np.ndarray, v: np.ndarray, h: np.ndarray, numbers: np.ndarray, new: np.ndarray
) -> tuple[np.int32, np.int32]:
    """Write the next Q and what is held next to `new`; return how many feel the damping, and how many stay.

    Parameters
    ----------
    q, held, v, h : array, shape (t,)
    numbers
        Those of `orbit_passes.update`.
    new : array, shape (4, at least t)
        The next Q, what is held next, and the squares of a and b.
    """
    damping, smallest, audible, infinite = numbers[0], numbers[4], numbers[5], numbers.dtype.type(np.inf)
    zero, one, ten = numbers.dtype.type(0), numbers.dtype.type(1), numbers.dtype.type(10)
    rule = (numbers[1], numbers[2], numbers[3], zero, one, ten)
    heard, stay = np.int32(0), np.int32(0)
    new_q, new_held, square_a, square_b = new[0], new[1], new[2], new[3]
    for t in range(q.shape[0]):
        now, before = q[t], held[t]
        a, b = now * h[t], v[t] / now
        square_a[t] = a * a
        square_b[t] = b * b
        unit = _larger(_larger(abs(a), abs(b)), smallest)
        heard = np.int32(heard + np.int32(damping * abs(now) > audible * unit))
        inverse = one / unit
        a *= inverse
        b *= inverse
        size = unit * np.sqrt(a * a + b * b)
        mu, after = _step(size, unit, before, rule)
        moves = size < infinite
        stay = np.int32(stay + np.int32(not moves))
        moved = now - mu * (a * (now * a) - b * (v[t] * inverse))
        new_q[t] = moved if moves else now
        new_held[t] = after if moves else before
    return heard, stay


@njit(**OPTIONS)
def double(
    q: np.ndarray, low: int, held: np.ndarray, v: np.ndarray, h: np.ndarray, numbers: np.ndarray,
    new: np.ndarray,
) -> tuple[np.int32, np.int32]:  # fmt: skip
    """Do what `single` does for orbits of two.

    Parameters
    ----------
    q : array, shape (2, 2, c)
        Of which `low`, `low` + 1, ... are meant.
    held : array, shape (t,)
    v, h : array, shape (2, at least t)
    numbers
        Those of `orbit_passes.update`.
    new : array, shape (7, at least t)
        The blocks' entries in order, what is held, and the squares of a and b.
    """
    high = low + held.shape[0]
    q_a, q_b, q_c, q_d = q[0, 0, low:high], q[0, 1, low:high], q[1, 0, low:high], q[1, 1, low:high]
    h_1, h_2, v_1, v_2 = h[0], h[1], v[0], v[1]
    damping, smallest, audible, infinite = numbers[0], numbers[4], numbers[5], numbers.dtype.type(np.inf)
    zero, one, ten = numbers.dtype.type(0), numbers.dtype.type(1), numbers.dtype.type(10)
    rule = (numbers[1], numbers[2], numbers[3], zero, one, ten)
    heard, stay = np.int32(0), np.int32(0)
    new_a, new_b, new_c, new_d, new_held = new[0], new[1], new[2], new[3], new[4]
    square_a, square_b = new[5], new[6]
    for t in range(held.shape[0]):
        a, b, c, d, before = q_a[t], q_b[t], q_c[t], q_d[t], held[t]
        h1, h2, v1, v2 = h_1[t], h_2[t], v_1[t], v_2[t]
        a1, a2 = a * h1 + b * h2, c * h1 + d * h2
        # Q^T x = v by elimination, the row with the larger entry first
        swap = abs(b) > abs(a)
        first, beside, right = (b if swap else a), (d if swap else c), (v2 if swap else v1)
        below, last, under = (a if swap else b), (c if swap else d), (v1 if swap else v2)
        factor = below / first
        b2 = (under - factor * right) / (last - factor * beside)
        b1 = (right - beside * b2) / first
        square_a[t] = a1 * a1 + a2 * a2
        square_b[t] = b1 * b1 + b2 * b2
        largest = _larger(_larger(abs(a), abs(b)), _larger(abs(c), abs(d)))
        unit = _larger(_larger(abs(a1), abs(a2)), _larger(abs(b1), abs(b2)))
        unit = _larger(unit, smallest)
        heard = np.int32(heard + np.int32(damping * largest > audible * unit))
        inverse = one / unit
        a1 *= inverse
        a2 *= inverse
        b1 *= inverse
        b2 *= inverse
        size = unit * np.sqrt(a1 * a1 + a2 * a2 + b1 * b1 + b2 * b2)
        mu, after = _step(size, unit, before, rule)
        moves = size < infinite
        stay = np.int32(stay + np.int32(not moves))
        p1, p2 = a * a1 + c * a2, b * a1 + d * a2
        w1, w2 = v1 * inverse, v2 * inverse
        moved_a, moved_b = a - mu * (a1 * p1 - b1 * w1), b - mu * (a1 * p2 - b1 * w2)
        moved_c, moved_d = c - mu * (a2 * p1 - b2 * w1), d - mu * (a2 * p2 - b2 * w2)
        new_a[t] = moved_a if moves else a
        new_b[t] = moved_b if moves else b
        new_c[t] = moved_c if moves else c
        new_d[t] = moved_d if moves else d
        new_held[t] = after if moves else before
    return heard, stay
