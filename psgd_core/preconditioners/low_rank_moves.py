"""The moves of ``Q = (I + U V^T) diag(d)`` and ``Q = diag(d) (I + U V^T)``: section D.1.2, appendix E.1.

U and V are stored as rows, (r, n), so that a block of columns is contiguous; A stands for ``I + U V^T``, and
a pair comes as rows (k, n). U and V move in turn and d with both, from the same a and b; the two that move
together share one bound (`gram_algebra.joint_bound`).

D.1.2 takes the gradient in the coordinates of U: ``grad_U = G V``, with the step along ``G V V^T``. Where
the columns of V differ in length or are nearly parallel, so do the speeds of its modes. Here the generator is
projected on the algebra, ``G V (V^T V)^{-1} V^T``, which is D.1.2 after V's columns have been made
orthonormal (a change of U and V that leaves P alone); the Gram matrix for it is at hand. The same holds for U
where V moves. Between updates U and V are not orthonormal; `gram_algebra.gauge` brings U near it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import shards
from ..arrays.batched import library_solve
from ..arrays.gram_algebra import combinations, factor_move, product_norm, solve_gram
from ..arrays.library import Array, device_of, namespace
from ..arrays.sums import gram, inner, unit_of
from ..arrays.vectors import largest


class Move(NamedTuple):
    """What is subtracted from d and one factor, times ``step / N``, and the sizes that N is made of."""

    factor: Array  # (r, n): from U in its turn, else from V
    d: Array  # (n,), relative: d <- d (1 - step / N * this)
    unit: Array  # 0-d: all of this is for a and b divided by it
    size_d: Array  # 0-d: curvature bound, or norm of the gradient, of d
    size_w: Array  # 0-d: the same of the factor
    uu: Array  # (r, r): the Gram matrix of U before the move
    vv: Array  # (r, r): the Gram matrix of V before the move
    lengths: Array  # (2,): |a|, |b|


def diagonal_right(
    u: Array, v: Array, d: Array, h: Array, p: Array, turn_u: bool | Array, measure: str
) -> Move:
    """Return the move of ``Q = A diag(d)`` on the pair (p, h).

    With ``x = d h`` and ``y = p / d`` everything is a combination of the rows ``R = [U; V; x; y]``, and all
    the coefficients follow from the one Gram matrix ``R R^T``. This reads U and V twice: for that matrix, and
    for what d and the factor move along. (The move itself reads the factor once more.)
    """
    xp, r, k = namespace(u), u.shape[0], h.shape[0]
    x, y = d * h, p / d
    unit = unit_of(x, y)
    rows = (u, v, x / unit, y / unit)
    small = combinations(gram(*rows), r)
    factor = factor_move(small, turn_u, measure)
    # one pass gives P h / d, d P^{-1} v, and what the factor moves along
    out = _combine(xp.concat([small.ends.T, factor.left @ factor.right.T]), rows)
    plus = xp.sum(rows[2] * out[:k, :], axis=0) / k
    minus = xp.sum(rows[3] * out[k : 2 * k, :], axis=0) / k
    return Move(
        factor=out[2 * k :, :],
        d=plus - minus,
        unit=unit,
        size_d=_diagonal_size(plus, minus, measure),
        size_w=xp.astype(factor.size, u.dtype),
        uu=small.uu,
        vv=small.vv,
        lengths=xp.sqrt(small.squares),
    )


def diagonal_left(
    u: Array, v: Array, d: Array, h: Array, p: Array, turn_u: bool | Array, measure: str
) -> Move:
    """Return the move of ``Q = diag(d) A`` (appendix E.1) on the pair (p, h).

    d moves with the left generator and A, the right factor, with the right one: ``A <- A (I - step E)``,
    ``E = ((P h) h^T - v (P^{-1} v)^T) V (V^T V)^{-1} V^T``, or the same from the left with U. E itself does
    not bound what such a move does to ``Q h`` (the trouble of eq. (5), stable for steps below 4 / kappa
    only), so the size is that of ``Q E Q^{-1}``, the same move seen from the left.
    """
    xp, r, k = namespace(u), u.shape[0], h.shape[0]
    g = gram(u, v)
    one = xp.eye(r, dtype=g.dtype, device=device_of(g))
    c = one + g[r:, :r]  # I + V^T U

    def q(x: Array) -> Array:
        return d * (x + _combine(inner(v, x).T, (u,)))

    def q_inverse_transpose(x: Array) -> Array:
        return (x - _combine(library_solve(c.T, inner(u, x)).T, (v,))) / d

    # a and b, P h and P^{-1} v
    a, b = q(h), q_inverse_transpose(p)
    unit = unit_of(a, b)
    h, p, a, b = h / unit, p / unit, a / unit, b / unit
    ph, pv = d * a, b / d
    ph = ph + _combine(inner(u, ph).T, (v,))
    pv = pv - _combine(library_solve(c, inner(v, pv)).T, (u,))
    plus, minus = xp.sum(a * a, axis=0) / k, xp.sum(b * b, axis=0) / k
    # E is made of P h and v, and s^T V, in U's turn, and of U^T s, and h and P^{-1} v, in V's
    left, right = xp.concat([ph, p]), xp.concat([h, pv])
    stays, along = either(turn_u, v, u), either(turn_u, left, right)
    s = solve_gram(either(turn_u, g[r:, r:], g[:r, :r]), inner(stays, either(turn_u, right, left)), one)
    signed = xp.concat([s[:, :k], -s[:, k:]], axis=1) / k
    signed = either(turn_u, signed, c @ signed)
    factor = _combine(signed, (along,))
    factor = either(turn_u, factor + _combine(inner(factor, v), (u,)), factor)
    # its size, as Q E Q^{-1}
    frozen = _combine(s.T, (stays,))
    x, y = q(either(turn_u, along, frozen)), q_inverse_transpose(either(turn_u, frozen, along))
    return Move(
        factor=factor,
        d=plus - minus,
        unit=unit,
        size_d=_diagonal_size(plus, minus, measure),
        size_w=xp.astype(_pair_norm(x, y, measure) / k, u.dtype),
        uu=g[:r, :r],
        vv=g[r:, r:],
        lengths=xp.sqrt(shards.total(xp.stack([xp.sum(plus), xp.sum(minus)]))),
    )


MOVES = {"right": diagonal_right, "left": diagonal_left}
"""Where diag(d) stands in Q: the function that makes the move."""


def either(turn_u: bool | Array, of_u: Array, of_v: Array) -> Array:
    """Return `of_u` in U's turn, else `of_v`; without a pass where the turn is known."""
    if isinstance(turn_u, bool):
        return of_u if turn_u else of_v
    return namespace(of_u).where(turn_u, of_u, of_v)


def _combine(coefficients: Array, rows: tuple[Array, ...]) -> Array:
    """Return ``coefficients @ R`` for R the rows stacked, (q, n), without stacking them."""
    coefficients = namespace(*rows).astype(coefficients, rows[0].dtype, copy=False)
    total, start = coefficients[:, : rows[0].shape[0]] @ rows[0], rows[0].shape[0]
    for row in rows[1:]:
        stop = start + row.shape[0]
        total, start = total + coefficients[:, start:stop] @ row, stop
    return total


def _diagonal_size(plus: Array, minus: Array, measure: str) -> Array:
    """Return the size of d's move."""
    return largest(plus - minus) if measure == "gradient" else largest(plus) + largest(minus)


def _pair_norm(x: Array, y: Array, measure: str) -> Array:
    """Return the norm of ``x_1^T y_1 - x_2^T y_2`` for halves of rows, or the sum of those of its terms."""
    xp, k = namespace(x), x.shape[0] // 2
    xx, yy = gram(x), gram(y)
    if measure == "gradient":
        sign = xp.concat([xp.ones_like(yy[:k, 0]), -xp.ones_like(yy[:k, 0])])
        return product_norm(xx, sign[:, None] * yy * sign)
    return product_norm(xx[:k, :k], yy[:k, :k]) + product_norm(xx[k:, k:], yy[k:, k:])
