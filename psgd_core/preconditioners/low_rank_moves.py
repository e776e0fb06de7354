"""The moves of ``Q = (I + U V^T) diag(d)`` and ``Q = diag(d) (I + U V^T)``: section D.1.2, appendix E.1.

U and V are stored as rows, (r, n), so that a block of columns is contiguous; A stands for ``I + U V^T``, and
a pair comes as rows (k, n). U and V move in turn and d with both, from the same a and b; factors that move
together share one bound, ``larger + step * smaller`` (`_low_rank_algebra.joint_bound`).

D.1.2 takes the gradient in the coordinates of U: ``grad_U = G V``, with the step along ``G V V^T``. Where
the columns of V differ in length or are nearly parallel, so do the speeds of its modes. Here the generator is
projected on the algebra, ``G V (V^T V)^{-1} V^T``, which is D.1.2 after V's columns have been made
orthonormal (a change of U and V that leaves P alone); the Gram matrix for it is at hand.
"""

from __future__ import annotations

from typing import NamedTuple

from ..arrays.batched import library_solve
from ..arrays.library import Array, device_of, known, namespace
from ..arrays.sums import gram, inner
from .low_rank_algebra import coefficients, gauge, inverse, move_of_u, move_of_v, product_norm


class Move(NamedTuple):
    """What is subtracted from each factor, times ``step / N``, and the sizes N is made of."""

    u: Array  # (r, n), zero when it is V's turn; (0, n) where that is known on the host
    v: Array  # (r, n), zero when it is U's turn; (0, n) where that is known on the host
    d: Array  # (n,), relative: d <- d (1 - step / N * this)
    size_d: Array  # 0-d: curvature bound, or norm of the gradient, of d
    size_w: Array  # 0-d: the same of the factor, U or V, that moves
    uu: Array  # (r, r): the Gram matrix of U before the move
    vv: Array  # (r, r): the Gram matrix of V before the move
    length_a: Array  # 0-d: |a| and |b|, in the unit
    length_b: Array


def diagonal_right(
    u: Array, v: Array, d: Array, h: Array, p: Array, turn_u: Array, measure: str
) -> tuple[Move, Array]:
    """Return the move of ``Q = A diag(d)`` on the pair (p, h), and the unit it is expressed in.

    With ``x = d h`` and ``y = p / d`` everything is a combination of the rows ``R = [U; V; x; y]``, and all
    the coefficients follow from the one Gram matrix ``R R^T``: that pass over U and V, and the one that
    forms the new factor, are all the reading there is.
    """
    xp, (r, _), k = namespace(u), u.shape, h.shape[0]
    x, y = d * h, p / d
    unit = _unit(xp, x, y)
    rows = (u, v, x / unit, y / unit)
    small = coefficients(gram(*rows), r)
    of_u, of_v = move_of_u(small, measure), move_of_v(small, measure)
    moved_u, moved_v = _in_turn(turn_u, of_u.left @ of_u.right.T, of_v.left @ of_v.right.T)
    # one more pass over the rows gives P h / d, d P^{-1} v, and the direction of the factor whose turn it is
    out = _combine(xp.concat([small.ph.T, small.pv.T, moved_u, moved_v]), rows)
    plus = xp.sum(rows[2] * out[:k, :], axis=0) / k
    minus = xp.sum(rows[3] * out[k : 2 * k, :], axis=0) / k
    end_u = 2 * k + moved_u.shape[0]
    move = Move(
        u=out[2 * k : end_u, :],
        v=out[end_u:, :],
        d=plus - minus,
        size_d=_diagonal_size(xp, plus, minus, measure),
        size_w=xp.astype(turn_u * of_u.size + (1 - turn_u) * of_v.size, u.dtype),
        uu=small.uu,
        vv=small.vv,
        length_a=small.length_a,
        length_b=small.length_b,
    )
    return move, unit


def diagonal_left(
    u: Array, v: Array, d: Array, h: Array, p: Array, turn_u: Array, measure: str
) -> tuple[Move, Array]:
    """Return the move of ``Q = diag(d) A`` (appendix E.1) on the pair (p, h), and the unit it is in.

    d moves with the left generator and A, the right factor, with the right one: ``A <- A (I - step E)``,
    ``E = ((P h) h^T - v (P^{-1} v)^T) V (V^T V)^{-1} V^T``, or the same from the left with U. E itself does
    not bound what such a move does to ``Q h`` (it is eq. (5)'s trouble, stable for steps below 4 / kappa
    only), so the size is that of ``Q E Q^{-1}``, the same move seen from the left.
    """
    xp, (r, _), k, dtype = namespace(u), u.shape, h.shape[0], u.dtype
    g = gram(u, v)
    w_u, w_v = inverse(g[:r, :r]), inverse(g[r:, r:])
    c = xp.eye(r, dtype=g.dtype, device=device_of(g)) + g[r:, :r]  # I + V^T U

    def q(x: Array) -> Array:
        return d * (x + _combine(inner(v, x).T, (u,)))

    def q_inverse_transpose(x: Array) -> Array:
        return (x - _combine(library_solve(c.T, inner(u, x)).T, (v,))) / d

    a, b = q(h), q_inverse_transpose(p)
    unit = _unit(xp, a, b)
    h, p, a, b = h / unit, p / unit, a / unit, b / unit
    ph, pv = d * a, b / d
    ph = ph + _combine(inner(u, ph).T, (v,))
    pv = pv - _combine(library_solve(c, inner(v, pv)).T, (u,))
    plus, minus = xp.sum(a * a, axis=0) / k, xp.sum(b * b, axis=0) / k

    # E V for U's turn is ph (h^T V) - v (pv^T V); E^T U for V's turn is h (ph^T U) - pv (v^T U).
    s, f = w_v @ inner(v, h), w_v @ inner(v, pv)
    e_u = _combine(xp.concat([s, -f], axis=1) / k, (ph, p))
    move_u = e_u + _combine(inner(e_u, v), (u,))  # (I + U V^T) E
    s_u, f_u = w_u @ inner(u, ph), w_u @ inner(u, p)
    move_v = _combine(c @ xp.concat([s_u, -f_u], axis=1) / k, (h, pv))  # E (I + V^T U)^T

    size_w = xp.zeros((), dtype=g.dtype, device=device_of(g))
    if r:
        frozen_v = [q_inverse_transpose(_combine(x.T, (v,))) for x in (s, f)]
        frozen_u = [q(_combine(x.T, (u,))) for x in (s_u, f_u)]
        of_u = _pair_norm(xp, (q(ph), q(p)), (frozen_v[0], frozen_v[1]), measure)
        free_u = q_inverse_transpose(h), q_inverse_transpose(pv)
        of_v = _pair_norm(xp, (frozen_u[0], frozen_u[1]), free_u, measure)
        size_w = (turn_u * of_u + (1 - turn_u) * of_v) / k
    moved_u, moved_v = _in_turn(turn_u, move_u, move_v)
    move = Move(
        u=moved_u,
        v=moved_v,
        d=plus - minus,
        size_d=_diagonal_size(xp, plus, minus, measure),
        size_w=xp.astype(size_w, dtype),
        uu=g[:r, :r],
        vv=g[r:, r:],
        length_a=xp.sqrt(xp.sum(plus)),
        length_b=xp.sqrt(xp.sum(minus)),
    )
    return move, unit


MOVES = {"right": diagonal_right, "left": diagonal_left}
"""Where diag(d) stands in Q: the function that moves the factors."""


def _in_turn(turn_u: Array, u: Array, v: Array) -> tuple[Array, Array]:
    """Return u and v with the one out of turn set to zero, or dropped where the turn is known."""
    turn = known(turn_u > 0)
    if turn is None:
        xp = namespace(u)
        turn_u = xp.astype(turn_u, u.dtype)
        return turn_u * u, (1 - turn_u) * v
    return (u, v[:0, :]) if turn else (u[:0, :], v)


def regauge(u: Array, v: Array, move: Move, due: Array) -> tuple[Array, Array]:
    """Return U and V, as rows, in a better gauge (`_low_rank_algebra.gauge`) where `due`: ``U V^T`` stays."""
    xp, r, uu = namespace(u), u.shape[0], move.uu
    eye = xp.eye(r, dtype=uu.dtype, device=device_of(uu))
    c, back = (xp.astype(xp.where(due, x, eye), u.dtype, copy=False) for x in gauge(uu, move.vv))
    return c @ u, back @ v


def _combine(coefficients: Array, rows: tuple[Array, ...]) -> Array:
    """Return ``coefficients @ R`` for R the rows stacked, (q, n), without stacking them."""
    xp, start, total = namespace(*rows), 0, None
    coefficients = xp.astype(coefficients, rows[0].dtype, copy=False)
    for row in rows:
        count = row.shape[0]
        if count or total is None:
            part = coefficients[:, start : start + count] @ row
            total = part if total is None else total + part
        start += count
    return total


def _unit(xp, x: Array, y: Array) -> Array:
    """Return the largest entry of both, or 1 where all are zero: in its units no square overflows."""
    largest = xp.maximum(xp.max(xp.abs(x)), xp.max(xp.abs(y)))
    return xp.where(largest > 0, largest, xp.ones_like(largest))


def _diagonal_size(xp, plus: Array, minus: Array, measure: str) -> Array:
    if measure == "gradient":
        return xp.max(xp.abs(plus - minus))
    return xp.max(xp.abs(plus)) + xp.max(xp.abs(minus))


def _pair_norm(xp, x: tuple[Array, Array], y: tuple[Array, Array], measure: str) -> Array:
    """Return the norm of ``x_1^T y_1 - x_2^T y_2`` (rows), or the sum of the norms of its two terms."""
    if measure == "gradient":
        return product_norm(gram(*x), gram(y[0], -y[1]))
    return product_norm(gram(x[0]), gram(y[0])) + product_norm(gram(x[1]), gram(y[1]))
