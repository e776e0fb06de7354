"""Updates and products of orbits of one and of two: one pass in place, everything of an orbit in registers.

`orbit_tiles` works on orbits of any size, by loops that each do one thing and take every intermediate number
to the cache and back; with one or two members that costs more than the arithmetic, which is the same here.

Squares of the sizes that are met are far from the ends of what floats hold: those need no unit. An orbit
whose N is beyond `ordinary` stays as it is, marked by the sign of what is held for it, and a second loop,
which is there for such orbits only, moves it in units of the largest entry. What a loop chooses between is
read first: a choice between two places in memory would be a gather.
"""

from __future__ import annotations

import numpy as np

from .compile import njit
from .loops import OPTIONS, SUMS
from .members import GATHERED, MIRRORED, fetch, row

_Numbers = tuple[float, ...]


@njit(**SUMS)
def _plus(total: float, x: float) -> float:
    """Return the sum, in an order that the compiler may choose."""
    return total + x


@njit(inline="always", **OPTIONS)
def _larger(x: float, y: float) -> float:
    return x if x > y else y


@njit(inline="always", **OPTIONS)
def _scale(size: float, before: float, rule: _Numbers) -> tuple[float, float]:
    """Return N and what is held next, for a sample's bound; see `normalizers`."""
    _, root, decay, zero, one, ten = rule
    base = before if before > zero else size
    scale = _larger(base, root * size)
    most = ten * base
    capped = size if size < most else most
    average = decay * base + (one - decay) * capped
    return (size if decay < zero else scale), (size if decay < zero else average)


@njit(inline="always", **OPTIONS)
def _rule(numbers: np.ndarray) -> _Numbers:
    kind = numbers.dtype.type
    return numbers[1], numbers[2], numbers[3], kind(0), kind(1), kind(10)


@njit(inline="always", **OPTIONS)
def _single(
    now: float, before: float, a: float, b: float, noise: float, unit: float, inverse: float, rule: _Numbers
) -> tuple[float, ...]:
    """Return the next Q; what is held next, N and size; and in its unit squared ``|a|^2`` and ``|b|^2``."""
    step, zero, one = rule[0], rule[3], rule[4]
    a, b, noise = a * inverse, b * inverse, noise * inverse
    square_a, square_b = a * a + noise * noise, b * b
    size = unit * np.sqrt(square_a + square_b)
    scale, after = _scale(size, before, rule)
    ratio = unit / (scale if scale > zero else one)
    moved = now - now * (step * (ratio * ratio * (square_a - square_b)))
    return moved, after, scale, size, square_a, square_b


@njit(**OPTIONS)
def _ordinary_singles(
    q: np.ndarray, held: np.ndarray, v: np.ndarray, h: np.ndarray, numbers: np.ndarray, squares: np.ndarray
) -> np.int32:
    """Move what is ordinary; mark the others, and return how many they are."""
    damping, high, infinite = numbers[0], numbers[6], numbers.dtype.type(np.inf)
    rule, low = _rule(numbers), numbers.dtype.type(1) / high
    zero, one = rule[3], rule[4]
    odd, total_a, total_b = np.int32(0), zero, zero
    for t in range(q.shape[0]):
        now, before = q[t], held[t]
        moved, after, scale, size, square_a, square_b = _single(
            now, before, now * h[t], v[t] / now, damping * now, one, one, rule
        )
        good = (scale > low) & (scale < high) & (size < infinite)
        odd = np.int32(odd + np.int32(not good))
        total_a = _plus(total_a, square_a if good else zero)
        total_b = _plus(total_b, square_b if good else zero)
        q[t] = moved if good else now
        held[t] = after if good else -abs(before)
    squares[0] += total_a
    squares[1] += total_b
    return odd


@njit(**OPTIONS)
def _odd_singles(
    q: np.ndarray, held: np.ndarray, v: np.ndarray, h: np.ndarray, numbers: np.ndarray, squares: np.ndarray
) -> np.int32:
    """Move what is marked, and return how many of them stay."""
    damping, smallest, infinite = numbers[0], numbers[4], numbers.dtype.type(np.inf)
    rule = _rule(numbers)
    zero, one = rule[3], rule[4]
    stay, total_a, total_b = np.int32(0), 0.0, 0.0
    for t in range(q.shape[0]):
        now, mark = q[t], held[t]
        before, marked = abs(mark), np.copysign(one, mark) < zero
        a, b, noise = now * h[t], v[t] / now, damping * now
        unit = _larger(_larger(_larger(abs(a), abs(b)), abs(noise)), smallest)
        moved, after, _, size, square_a, square_b = _single(now, before, a, b, noise, unit, one / unit, rule)
        moves = marked & (size < infinite)
        stay = np.int32(stay + np.int32(marked & (not moves)))
        square = np.float64(unit) * np.float64(unit)
        total_a = _plus(total_a, square * square_a if moves else 0.0)
        total_b = _plus(total_b, square * square_b if moves else 0.0)
        q[t] = moved if moves else now
        held[t] = after if moves else before
    squares[0] += total_a
    squares[1] += total_b
    return stay


@njit(inline="always", **OPTIONS)
def _images(
    a: float, b: float, c: float, d: float, h1: float, h2: float, v1: float, v2: float
) -> tuple[float, float, float, float]:
    """Return ``Q h`` and ``Q^{-T} v``, by elimination, the row of Q^T with the larger entry first."""
    swap = abs(b) > abs(a)
    first, beside, right = (b if swap else a), (d if swap else c), (v2 if swap else v1)
    below, last, under = (a if swap else b), (c if swap else d), (v1 if swap else v2)
    factor = below / first
    b2 = (under - factor * right) / (last - factor * beside)
    return a * h1 + b * h2, c * h1 + d * h2, (right - beside * b2) / first, b2


@njit(inline="always", **OPTIONS)
def _double(
    a: float, b: float, c: float, d: float, before: float, images: tuple[float, float, float, float],
    v1: float, v2: float, damping: float, unit: float, inverse: float, rule: _Numbers,
) -> tuple[float, ...]:  # fmt: skip
    """Do what `_single` does, for Q = [[a, b], [c, d]]: its next entries come first."""
    step, zero, one = rule[0], rule[3], rule[4]
    a1, a2, b1, b2 = images
    a1, a2, b1, b2, noise = a1 * inverse, a2 * inverse, b1 * inverse, b2 * inverse, damping * inverse
    na, nb, nc, nd = noise * a, noise * b, noise * c, noise * d
    n11, n12, n22 = na * na + nb * nb, na * nc + nb * nd, nc * nc + nd * nd
    square_a, square_b = a1 * a1 + a2 * a2 + (n11 + n22), b1 * b1 + b2 * b2
    size = unit * np.sqrt(square_a + square_b)
    scale, after = _scale(size, before, rule)
    ratio = unit / (scale if scale > zero else one)
    mu = step * ratio * ratio
    p1, p2, w1, w2 = a * a1 + c * a2, b * a1 + d * a2, inverse * v1, inverse * v2
    return (
        a - mu * (a1 * p1 - b1 * w1 + (n11 * a + n12 * c)),
        b - mu * (a1 * p2 - b1 * w2 + (n11 * b + n12 * d)),
        c - mu * (a2 * p1 - b2 * w1 + (n12 * a + n22 * c)),
        d - mu * (a2 * p2 - b2 * w2 + (n12 * b + n22 * d)),
        after, scale, size, square_a, square_b,
    )  # fmt: skip


@njit(inline="always", **OPTIONS)
def _ordinary_doubles(
    q: tuple[np.ndarray, ...], held: np.ndarray, v: tuple[np.ndarray, np.ndarray],
    h: tuple[np.ndarray, np.ndarray], numbers: np.ndarray, squares: np.ndarray, mirrored: bool,
) -> np.int32:  # fmt: skip
    """Do what `_ordinary_singles` does; where it is mirrored, the second members come backwards."""
    damping, high, infinite = numbers[0], numbers[6], numbers.dtype.type(np.inf)
    rule, low = _rule(numbers), numbers.dtype.type(1) / high
    zero, one = rule[3], rule[4]
    (q_a, q_b, q_c, q_d), (v_1, v_2), (h_1, h_2) = q, v, h
    count = held.shape[0]
    odd, total_a, total_b = np.int32(0), zero, zero
    for t in range(count):
        u = np.uintp(count - 1 - t) if mirrored else np.uintp(t)
        a, b, c, d, before = q_a[t], q_b[t], q_c[t], q_d[t], held[t]
        v1, v2 = v_1[t], v_2[u]
        images = _images(a, b, c, d, h_1[t], h_2[u], v1, v2)
        next_a, next_b, next_c, next_d, after, scale, size, square_a, square_b = _double(
            a, b, c, d, before, images, v1, v2, damping, one, one, rule
        )
        good = (scale > low) & (scale < high) & (size < infinite)
        odd = np.int32(odd + np.int32(not good))
        total_a = _plus(total_a, square_a if good else zero)
        total_b = _plus(total_b, square_b if good else zero)
        q_a[t] = next_a if good else a
        q_b[t] = next_b if good else b
        q_c[t] = next_c if good else c
        q_d[t] = next_d if good else d
        held[t] = after if good else -abs(before)
    squares[0] += total_a
    squares[1] += total_b
    return odd


@njit(**OPTIONS)
def _odd_doubles(
    q: tuple[np.ndarray, ...], held: np.ndarray, v: np.ndarray, h: np.ndarray, numbers: np.ndarray,
    squares: np.ndarray,
) -> np.int32:  # fmt: skip
    """Do what `_odd_singles` does; v and h are (2, t)."""
    damping, smallest, infinite = numbers[0], numbers[4], numbers.dtype.type(np.inf)
    rule = _rule(numbers)
    zero, one = rule[3], rule[4]
    (q_a, q_b, q_c, q_d), v_1, v_2, h_1, h_2 = q, v[0], v[1], h[0], h[1]
    stay, total_a, total_b = np.int32(0), 0.0, 0.0
    for t in range(held.shape[0]):
        a, b, c, d, mark = q_a[t], q_b[t], q_c[t], q_d[t], held[t]
        before, marked = abs(mark), np.copysign(one, mark) < zero
        v1, v2 = v_1[t], v_2[t]
        images = _images(a, b, c, d, h_1[t], h_2[t], v1, v2)
        largest = _larger(_larger(abs(a), abs(b)), _larger(abs(c), abs(d)))
        unit = _larger(_larger(abs(images[0]), abs(images[1])), _larger(abs(images[2]), abs(images[3])))
        unit = _larger(_larger(unit, damping * largest), smallest)
        next_a, next_b, next_c, next_d, after, _, size, square_a, square_b = _double(
            a, b, c, d, before, images, v1, v2, damping, unit, one / unit, rule
        )
        moves = marked & (size < infinite)
        stay = np.int32(stay + np.int32(marked & (not moves)))
        square = np.float64(unit) * np.float64(unit)
        total_a = _plus(total_a, square * square_a if moves else 0.0)
        total_b = _plus(total_b, square * square_b if moves else 0.0)
        q_a[t] = next_a if moves else a
        q_b[t] = next_b if moves else b
        q_c[t] = next_c if moves else c
        q_d[t] = next_d if moves else d
        held[t] = after if moves else before
    squares[0] += total_a
    squares[1] += total_b
    return stay


@njit(**OPTIONS)
def update_small(
    v: np.ndarray, h: np.ndarray, order: np.ndarray, start: int, layout: int, q: np.ndarray, held: np.ndarray,
    low: int, high: int, numbers: np.ndarray, squares: np.ndarray,
) -> np.int32:  # fmt: skip
    """Update the orbits low ... high - 1 of one or of two in place, and return how many stay.

    Parameters
    ----------
    v, h, order, start, layout, q, held, numbers
        Those of `orbit_passes.update`.
    squares : float64 array, shape (2,)
        ``|a|^2`` and ``|b|^2`` are added to it.
    """
    s, count, own = q.shape[0], q.shape[2], held[low:high]
    spare = np.empty((4, high - low if layout == GATHERED else 0), q.dtype)
    v_1 = row(v, layout, order, start, count, low, high, 0, spare[0])
    h_1 = row(h, layout, order, start, count, low, high, 0, spare[1])
    if s == 1:
        now = q[0, 0, low:high]
        odd = _ordinary_singles(now, own, v_1, h_1, numbers, squares)
        return _odd_singles(now, own, v_1, h_1, numbers, squares) if odd > 0 else odd
    vs = v_1, row(v, layout, order, start, count, low, high, 1, spare[2])
    hs = h_1, row(h, layout, order, start, count, low, high, 1, spare[3])
    qs = q[0, 0, low:high], q[0, 1, low:high], q[1, 0, low:high], q[1, 1, low:high]
    if layout == MIRRORED:
        odd = _ordinary_doubles(qs, own, vs, hs, numbers, squares, True)
    else:
        odd = _ordinary_doubles(qs, own, vs, hs, numbers, squares, False)
    if odd == 0:
        return odd
    members = np.empty((2, s, high - low), q.dtype)
    fetch(v, layout, order, start, count, low, high, members[0])
    fetch(h, layout, order, start, count, low, high, members[1])
    return _odd_doubles(qs, own, members[0], members[1], numbers, squares)


@njit(**OPTIONS)
def _single_products(g: np.ndarray, q: np.ndarray, out: np.ndarray) -> None:
    for t in range(q.shape[0]):
        out[t] = q[t] * (q[t] * g[t])


@njit(inline="always", **OPTIONS)
def _double_products(
    g: tuple[np.ndarray, np.ndarray], q: tuple[np.ndarray, ...], out: tuple[np.ndarray, np.ndarray],
    mirrored: bool,
) -> None:  # fmt: skip
    """Where it is mirrored, the second members are backwards."""
    (g_1, g_2), (q_a, q_b, q_c, q_d), (out_1, out_2) = g, q, out
    count = q_a.shape[0]
    for t in range(count):
        u = np.uintp(count - 1 - t) if mirrored else np.uintp(t)
        a, b, c, d, x, y = q_a[t], q_b[t], q_c[t], q_d[t], g_1[t], g_2[u]
        z, w = a * x + b * y, c * x + d * y
        out_1[t] = a * z + c * w
        out_2[u] = b * z + d * w


@njit(**OPTIONS)
def product_small(
    g: np.ndarray, order: np.ndarray, start: int, layout: int, q: np.ndarray, low: int, high: int,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Write ``Q^T Q g`` to `out` for the orbits low ... high - 1 of one or of two, which are not gathered.

    Parameters
    ----------
    g, order, start, layout, q, out
        Those of `orbit_passes.precondition`.
    """
    s, count = q.shape[0], q.shape[2]
    g_1 = row(g, layout, order, start, count, low, high, 0, out)
    out_1 = row(out, layout, order, start, count, low, high, 0, out)
    if s == 1:
        _single_products(g_1, q[0, 0, low:high], out_1)
        return
    gs = g_1, row(g, layout, order, start, count, low, high, 1, out)
    outs = out_1, row(out, layout, order, start, count, low, high, 1, out)
    qs = q[0, 0, low:high], q[0, 1, low:high], q[1, 0, low:high], q[1, 1, low:high]
    if layout == MIRRORED:
        _double_products(gs, qs, outs, True)
    else:
        _double_products(gs, qs, outs, False)
