"""The rules that move Q, for blocks (s, s, c) of a product of GL(s); each in one place for all groups.

With k probes, averaged, the generators of eq. (11) are

- ``left``, dQ = E Q: ``G = mean(a a^T - b b^T)``, ``Q <- (I - step G / N) Q``. Everybody's practice. In the
  modes of H it contracts at least by ``1 - 2 step / kappa(H)`` for every step below 1.
- ``right``, dQ = Q E, eq. (5): ``G = mean((P h) h^T - v (P^{-1} v)^T)``, ``Q <- Q (I - step G / N)``. The
  mode (i, j) contracts by ``1 - step (h_i + h_j)(h_i^2 + h_j^2) / (h_i h_j N)``, so the step must stay below
  ``4 kappa^2 / ((kappa + 1)(kappa^2 + 1))``, about ``4 / kappa``.
- ``symmetric``, eq. (6): the same move, then ``Q <- (Q^T Q)^{1/2}``, which removes the rotation ambiguity:
  Q converges as a point. P takes exactly the values that it takes under ``right``.

A rule gets q; h, v; a, b, as blocks of columns, and k (h and a may hold further columns: the damping as
probes of their own), and returns (size, move): the *unsquared* gradient's or curvature's size per orbit, and
the matrix to subtract from Q after multiplying with ``step / N``.
"""

from __future__ import annotations

from collections.abc import Callable

import array_api_compat

from .. import _blocks
from .._array import Array


def left(q: Array, h: Array, v: Array, a: Array, b: Array, k: int, measure: str) -> tuple[Array, Array]:
    """Return size and move of dQ = E Q; O(s^2 (columns)) per orbit, because ``b^T Q = v^T``."""
    ph = _blocks.matmul(_blocks.transpose(q), a)
    move = (_outer(a, ph) - _outer(b, v)) / k
    if measure == "gradient":
        return _difference_norm(a, b, k), move
    xp = array_api_compat.array_namespace(a)
    if k == 1:
        return xp.sum(a * a, axis=(0, 1)) + xp.sum(b * b, axis=(0, 1)), move
    columns = xp.concat([a, b], axis=1)
    rows = _blocks.transpose(columns)
    small = _outer(columns, columns) if columns.shape[0] <= columns.shape[1] else _outer(rows, rows)
    return _blocks.spectral_bound(small) / k, move


def right(q: Array, h: Array, v: Array, a: Array, b: Array, k: int, measure: str) -> tuple[Array, Array]:
    """Return size and move of dQ = Q E, eq. (5); O(s^3) per orbit."""
    ph, inverse_v = _blocks.matmul(_blocks.transpose(q), a), _blocks.solve(q, b)
    generator = (_outer(ph, h) - _outer(v, inverse_v)) / k
    move = _blocks.matmul(q, generator)
    if measure == "gradient":
        return _norm(generator), move
    return (_product_norm(ph, h) + _product_norm(v, inverse_v)) / k, move


def symmetric_root(q: Array) -> Array:
    """Return ``(Q^T Q)^{1/2}`` of each block, eq. (6), from singular values: nothing is squared."""
    xp = array_api_compat.array_namespace(q)
    _, s, vt = xp.linalg.svd(xp.permute_dims(q, (2, 0, 1)), full_matrices=False)
    root = xp.matrix_transpose(vt) @ (s[:, :, None] * vt)
    return xp.permute_dims(root, (1, 2, 0))


RULES: dict[str, tuple[Callable, Callable | None]] = {
    "left": (left, None),
    "right": (right, None),
    "symmetric": (right, symmetric_root),
}
"""Name of a rule: (its size and move, what Q goes through after the move)."""


def _outer(x: Array, y: Array) -> Array:
    """Return ``x y^T`` per orbit: (s, t, c) and (u, t, c) to (s, u, c)."""
    return _blocks.matmul(x, _blocks.transpose(y))


def _norm(x: Array) -> Array:
    """Return an upper bound of the spectral norm of each (s, s, c) matrix."""
    xp = array_api_compat.array_namespace(x)
    return xp.sqrt(_blocks.spectral_bound(_outer(x, x)))


def _product_norm(x: Array, y: Array) -> Array:
    """Return (a bound of) the spectral norm of ``x y^T``; exact for one column."""
    if x.shape[1] > 1:
        return _norm(_outer(x, y))
    xp = array_api_compat.array_namespace(x)
    return xp.sqrt(xp.sum(x * x, axis=(0, 1)) * xp.sum(y * y, axis=(0, 1)))


def _difference_norm(a: Array, b: Array, k: int) -> Array:
    """Return the spectral norm of ``(a a^T - b b^T) / k``; in closed form for one column each.

    ``a a^T - b b^T`` has the eigenvalues ``((p - q) +- sqrt((p + q)^2 - 4 r^2)) / 2`` with p = |a|^2,
    q = |b|^2, r = a.b.
    """
    if a.shape[1] + b.shape[1] > 2:
        return _norm(_outer(a, a) - _outer(b, b)) / k
    xp = array_api_compat.array_namespace(a)
    p, q, r = (xp.sum(x * y, axis=(0, 1)) for x, y in ((a, a), (b, b), (a, b)))
    root = (p + q - 2 * r) * (p + q + 2 * r)
    return (xp.abs(p - q) + xp.sqrt(xp.maximum(root, xp.zeros_like(root)))) / 2
