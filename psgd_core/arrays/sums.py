"""Sums over long vectors that stay accurate, and sizes that do not overflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import array_api_compat

from . import shards, short
from .library import Array, Namespace, at_hand, namespace, on_host, silent, wide_dtype

BLOCK = 16_384
"""Columns summed at a time by `inner` on the host: some tens of rows of them stay in cache."""

CHUNK = 256
"""Columns summed at a time where float32 is the widest float: equal terms, all rounded the same way, cost a
sum of 2048 of them 3e-5 (measured, JAX on CPU), and one of 256 only 2e-6."""


def inner(x: Array, y: Array) -> Array:
    """Return ``x @ y.T`` for long rows, summed block by block in the widest float.

    A plain float32 product loses digits in proportion to the number of terms (1.6e-2 at 10^7 of them, with
    NumPy and PyTorch); here the error stays near the rounding of the result.

    Parameters
    ----------
    x : array, shape (p, n)
    y : array, shape (q, n)
        p and q small, n as long as it gets.

    Returns
    -------
    array, shape (p, q), in `wide_dtype`
    """
    return shards.total(_inner([x], [y]))


def gram(*rows: Array) -> Array:
    """Return the Gram matrix ``r @ r.T`` of all rows of the arrays, stacked: `inner` in one pass.

    Parameters
    ----------
    *rows : array, shape (p_i, n)

    Returns
    -------
    array, shape (sum p_i, sum p_i), in `wide_dtype`
    """
    return shards.total(_inner(list(rows), None))


def _inner(x: list[Array], y: list[Array] | None) -> Array:
    """Return the products of the stacked rows of `x` with those of `y` (None: with themselves)."""
    xp = namespace(*x)
    wide, n = wide_dtype(xp), x[0].shape[1]
    if n > CHUNK and wide == xp.float32:
        # No wider float to sum in (JAX by default): two levels of sums.
        chopped = _chop(xp, _stack(xp, x))
        other = chopped if y is None else _chop(xp, _stack(xp, y))
        return xp.sum(chopped @ xp.matrix_transpose(other), axis=0)
    step = BLOCK if on_host(x[0]) else max(16 * BLOCK, -(-n // 64))  # elsewhere a block is a kernel launch
    if array_api_compat.is_jax_namespace(xp) and all(r.dtype == wide for r in x):
        step = max(n, 1)  # nothing to convert, and slices of sharded rows would move them
    total: Any = None
    for start in range(0, max(n, 1), step):
        stop = min(start + step, n)
        left = xp.astype(_stack(xp, [r[:, start:stop] for r in x]), wide, copy=False)
        right = left
        if y is not None:
            right = xp.astype(_stack(xp, [r[:, start:stop] for r in y]), wide, copy=False)
        product = left @ right.T
        total = product if total is None else total + product
    found: Array = total
    return found


def _stack(xp: Namespace, rows: list[Array]) -> Array:
    return rows[0] if len(rows) == 1 else xp.concat(rows, axis=0)


def _chop(xp: Namespace, x: Array) -> Array:
    """Return `x` of shape (p, n) as (n / CHUNK, p, CHUNK), filled up with zeros.

    Filled up at the end of each of as many equal parts as n allows, powers of two: where n is sharded over
    devices that is work within each, where one filling at the very end would shift everything (all-gathers).
    """
    p, n = x.shape
    parts = math.gcd(n, CHUNK)
    while parts > 1 and n // parts < CHUNK // 8:
        parts //= 2
    each = n // parts
    width = min(CHUNK, each)
    count = -(-each // width)
    split = xp.reshape(x, (p, parts, each))
    if count * width > each:
        split = xp.concat([split, xp.zeros_like(split[:, :, : count * width - each])], axis=2)
    return xp.permute_dims(xp.reshape(split, (p, parts * count, width)), (1, 0, 2))


def unit_of(*parts: Array) -> Array:
    """Return the largest absolute value, or 1 where all are 0: in units of it no square overflows."""
    xp = namespace(*parts)
    tops = [short.largest(x) if short.is_short(x) else xp.max(xp.abs(x)) for x in parts]
    top = tops[0]
    for other in tops[1:]:
        top = xp.maximum(top, other)
    top = shards.most(top)
    return xp.where(top > 0, top, xp.ones_like(top))


def norm(*parts: Array) -> Array:
    """Return the Euclidean norm of all elements of some real arrays, without overflow, a 0-d array."""
    if any(map(short.is_short, parts)):
        if len(parts) == 1:
            return short.norm(parts[0])
        return norm(namespace(*parts).stack([norm(x) for x in parts]))
    if all(map(at_hand, parts)):
        with silent():
            total = _squares(parts)
            if max(map(least_sum, parts)) < total < math.inf:  # nearly always: two passes fewer
                return namespace(total).sqrt(total)
            # the same bits as that would give, but for ties
            return _norm_in(_power_of_two(unit_of(*parts)), parts)
    return _norm_in(unit_of(*parts), parts)


def _norm_in(unit: Array, parts: Sequence[Array]) -> Array:
    """Return the norm of some arrays, computed in a unit."""
    return unit * namespace(unit).sqrt(_squares([x / unit for x in parts]))


def _power_of_two(unit: Array) -> Array:
    """Return the largest power of two that is not above a positive number at hand; NaN and Inf stay."""
    value = float(unit)
    return unit * 0 + 2.0 ** (math.frexp(value)[1] - 1) if math.isfinite(value) else unit


def _squares(parts: Sequence[Array]) -> Array:
    """Return the sum of the squares of all elements of some real arrays, in their dtype."""
    xp = namespace(*parts)
    total = xp.sum(parts[0] * parts[0])
    for x in parts[1:]:
        total = total + xp.sum(x * x)
    return shards.total(total)


def least_sum(x: Array) -> float:
    """Return a sum of squares to which those that underflow add less than rounding does."""
    limits = namespace(x).finfo(x.dtype)
    return float(limits.smallest_normal) / float(limits.eps) ** 2


def sum_of_squares(x: Array) -> Array:
    """Return the sum of the squares of all elements of `x`, a 0-d array in `wide_dtype`."""
    xp = namespace(x)
    row = xp.reshape(x, (1, -1))
    if xp.isdtype(x.dtype, "complex floating"):
        return sum_of_squares(xp.real(row)) + sum_of_squares(xp.imag(row))
    return inner(row, row)[0, 0]
