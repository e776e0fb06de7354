"""Natural steps for ``Q = A diag(d)``, ``A = I + U V^T``: U, V and d move together, by Newton's metric.

Moving U, V and d by turns, each along its own gradient (`low_rank_moves`), takes thousands of pairs where the
condition number is in the hundreds. At the minimiser the criterion's second derivative is known from Q alone:
to second order the criterion at ``(I + E) Q`` is

    2 <E, G> + tr(D S^2),   G = mean(a a^T - b b^T),  S = E + E^T,  D = (Q Q^T)^{-1},

since ``E[a a^T] = E[b b^T] = D`` there. Every move of the factors is such an E,

    E = dU V_^T + U M^T + A diag(l) A^{-1},   V_ = A^{-T} V,  M = A^{-T} dV,  l = dd / d,

and S and D are diagonal plus low rank, so that the Hessian times a move costs O(n r^2). Newton's equation is
solved by a few conjugate gradients with the Hessian's diagonal as preconditioner, in the coordinates
(dU, M, l), where the blocks of U and of V look alike.

**A trust region**, by Levenberg's and Marquardt's ridge: far from the minimiser the metric is too bold and E
is not small. A move that raises the criterion of the pairs at hand is taken back, and the ridge follows how
much of the predicted fall came true. The metric decides only how fast the fit is: where it ends, G vanishes.

**Noise.** k products know ``k n`` numbers and are fitted with ``(2 r + 1) n``: the move is
``step k / (k + 2 r + 1)`` of Newton's, nearly all of it for many pairs at once. Here k is how many of them
differ: a pair counts once however often it is repeated.

Vectors are rows here, (r, n), as in the state. Everything is in the pair's unit: see `low_rank_moves`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..arrays import shards
from ..arrays.batched import library_solve
from ..arrays.gram_algebra import balance
from ..arrays.library import Array, device_of, eps, namespace, wide_dtype
from ..arrays.sums import inner, sum_of_squares, unit_of

ITERATIONS = 10
"""Conjugate gradients per update: 5 do for condition numbers below 100, and 20 gain little above."""

FIRST, LEAST, MOST = 10.0, 1e-6, 1e6
"""The ridge to start with, and its limits, relative to the Hessian's diagonal."""

LONGEST = 2.0
"""The largest move of a logarithm of d, and of a column of U or V in Q's own terms, before it is tested."""

ALIKE = 16
"""Power of the cosine between two pairs by which they count as one: hardly ever if they are independent."""

SHORT = 0.1
"""Squared length that the ridge adds to columns of U and V: along a short column moves would be too bold."""


class Natural(NamedTuple):
    """What a natural step leaves."""

    u: Array  # (r, n)
    v: Array  # (r, n)
    d: Array  # (n,)
    ridge: Array  # 0-d
    finite: Array  # 0-d bool
    lengths: tuple[Array, Array]  # |a|, |b|


def natural_step(
    u: Array, v: Array, d: Array, h: Array, p: Array, ridge: Array, step: float | Array
) -> Natural:
    """Return the factors after one step on pairs as rows, (k, n); O(n (r (r + k) + k^2)).

    Parameters
    ----------
    u, v, d : array, shapes (r, n), (r, n), (n,)
    h, p : array, shape (k, n)
        Products and probes.
    ridge : array
        0-d; 0 where there is none yet.
    step : float or 0-d array
        In (0, 1).
    """
    xp, r = namespace(u), u.shape[0]
    ridge = xp.where(ridge > 0, ridge, FIRST * xp.ones_like(ridge))
    # a and b, the criterion and its gradient, in a unit in which no square overflows
    x, y = d * h, p / d
    unit = unit_of(x, y)
    x, y = x / unit, y / unit
    metric = Metric(u, v, d * unit)
    before = _sides(u, v, metric.u_in, x, y)
    gradient = _gradient(metric, before, x, y)
    # Newton's move, damped: the part of it that the pairs can tell from noise, and that is not too bold
    move = _solve(metric, ridge, gradient)
    told = _distinct(before)
    fraction = step * told / (told + 2 * r + 1)
    longest = fraction * metric.longest(move)
    fraction = fraction * LONGEST / xp.maximum(longest, LONGEST * xp.ones_like(longest))
    fall = fraction * (1 - fraction / 2) * _dot(gradient, move)
    move = fraction * move
    new_u = u - move[:r, :]
    new_v = v - move[r : 2 * r, :] - _times(inner(move[r : 2 * r, :], u), v)
    change = xp.exp(-move[2 * r, :])
    after = _sides(new_u, new_v, _times(_core_inverse(new_u, new_v).T, new_u), x * change, y / change)
    # take it back if it raises the criterion; trust the metric as much as it deserves
    slack = 64 * eps(d) * before.value
    better = after.value <= before.value + slack
    one = xp.ones_like(ridge)
    share = xp.where(fall > slack, before.value - after.value, one) / xp.where(fall > slack, fall, one)
    factor = xp.where(share > 0.5, one / 4, xp.where(share < 0.2, 2 * one, one))
    ridge = ridge * xp.where(better, factor, 5 * one)
    ridge = xp.minimum(xp.maximum(ridge, LEAST * one), MOST * one)
    u, v = xp.where(better, new_u, u), xp.where(better, new_v, v)
    d = xp.where(better, d * change, d)
    # renew the gauge of U and V: the preconditioner of the conjugate gradients likes them alike
    if r:
        forth, back = balance(inner(u, u), inner(v, v))
        u, v = _times(forth, u), _times(back, v)
    lengths = unit * xp.sqrt(before.a_square), unit * xp.sqrt(before.b_square)
    return Natural(u, v, d, ridge, xp.isfinite(before.value), lengths)


class _Sides(NamedTuple):
    """a and b of pairs, and their criterion."""

    a: Array  # (k, n)
    b: Array  # (k, n)
    a_square: Array  # 0-d: the sum of |a|^2
    b_square: Array  # 0-d
    value: Array  # 0-d: the criterion


def _sides(u: Array, v: Array, u_in: Array, x: Array, y: Array) -> _Sides:
    """Return ``a = A x`` and ``b = A^{-T} y`` and their criterion, for ``x = d h``, ``y = v / d``.

    `u_in` is ``A^{-1} U``.
    """
    xp = namespace(x)
    a = x + _times(inner(x, v), u)
    b = y - _times(inner(y, u_in), v)
    a_square, b_square = (xp.astype(sum_of_squares(side), x.dtype) for side in (a, b))
    return _Sides(a, b, a_square, b_square, (a_square + b_square) / x.shape[0])


def _distinct(at: _Sides) -> Array:
    """Return how many of the pairs differ, 0-d, at least 1: those almost parallel count as one."""
    xp, k = namespace(at.a), at.a.shape[0]
    if k == 1:
        return xp.ones_like(at.value)
    # squares of lengths of 1 on average: nothing overflows
    unit = xp.sqrt(xp.where(at.value > 0, at.value, xp.ones_like(at.value)))
    a, b = at.a / unit, at.b / unit
    products = inner(a, a) + inner(b, b)
    squares = xp.sum(products * xp.eye(k, dtype=products.dtype, device=device_of(products)), axis=1)
    some = squares > 0
    lengths = xp.sqrt(xp.where(some, squares, xp.ones_like(squares)))
    alike = xp.sum((products / lengths / lengths[:, None]) ** ALIKE, axis=1)
    each = xp.where(some, 1 / xp.where(some, alike, xp.ones_like(alike)), xp.zeros_like(alike))
    return xp.astype(xp.maximum(xp.sum(each), xp.ones_like(each[0])), at.value.dtype)


def _gradient(metric: Metric, at: _Sides, x: Array, y: Array) -> Array:
    """Return the criterion's gradient by (dU, M, l), (2 r + 1, n).

    ``<E, 2 G>`` by dU is ``2 G V_``, by M ``2 G U``, and by l the diagonal of ``2 A^{-1} G A``.
    """
    xp, k = namespace(x), x.shape[0]
    along = xp.concat([metric.v_in, metric.u])
    factors = _times(inner(along, at.a), at.a) - _times(inner(along, at.b), at.b)
    ends_a = at.a + _times(inner(at.a, metric.u), metric.v)  # A^T a
    ends_b = at.b - _times(inner(at.b, metric.v), metric.u_in)  # A^{-1} b
    diagonal = xp.sum(x * ends_a - y * ends_b, axis=0)
    return 2 / k * xp.concat([factors, diagonal[None, :]])


@dataclass
class Metric:
    """The second derivative of ``tr(D S^2)`` by (dU, M, l), at U, V and d."""

    u: Array  # (r, n)
    v: Array  # (r, n)
    d: Array  # (n,)

    def __post_init__(self) -> None:
        u, v, xp = self.u, self.v, namespace(self.u)
        self.c_inverse = _core_inverse(u, v)
        self.v_in = _times(self.c_inverse, v)  # A^{-T} V = V C^{-T}, as rows
        self.u_in = _times(self.c_inverse.T, u)  # A^{-1} U = U C^{-1}
        # D = A^{-T} diag(delta) A^{-1} = diag(delta) + left^T right
        self.delta = 1 / (self.d * self.d)
        weighted = self.delta * u
        self.left = xp.concat([self.v_in, weighted])
        self.right = xp.concat([_times(inner(u, weighted), self.v_in) - weighted, -self.v_in])
        self.diagonal = self.delta + xp.sum(self.left * self.right, axis=0)
        self.ends = xp.concat([u, v])
        self.d_ends = self.applied(self.ends)

    def applied(self, x: Array) -> Array:
        """Return D x for rows x."""
        return x * self.delta + _times(inner(x, self.left), self.right)

    def __matmul__(self, move: Array) -> Array:
        """Return the second derivative times a move, (2 r + 1, n).

        With ``K = D S + S D`` these are ``2 K V_``, ``2 K U`` and the diagonal of ``2 A^{-1} K A``.
        """
        xp, u, v = namespace(move), self.u, self.v
        r = u.shape[0]
        du, m, l = move[:r, :], move[r : 2 * r, :], move[2 * r, :]
        # S = 2 diag(l) + left^T right, from E = diag(l) + U (M + A^{-T} l V)^T + (dU - l U) V_^T
        scaled = l * v
        m = m + scaled - _times(inner(scaled, u), self.v_in)
        du = du - l * u
        left, right = xp.concat([u, m, du, self.v_in]), xp.concat([m, u, self.v_in, du])
        # K U and K V
        s_ends = 2 * l * self.ends + _times(inner(self.ends, left), right)
        k_ends = self.applied(s_ends) + 2 * l * self.d_ends + _times(inner(self.d_ends, left), right)
        k_u, k_v = k_ends[:r, :], k_ends[r:, :]
        # the diagonals of K and of A^{-1} K A
        cross = _times(inner(right, self.right), self.left)
        diagonal = 2 * (self.diagonal * 2 * l + xp.sum((self.delta * right + cross) * left, axis=0))
        diagonal = diagonal + xp.sum(k_u * v - self.u_in * k_v, axis=0)
        diagonal = diagonal - xp.sum(_times(inner(k_u, v), self.u_in) * v, axis=0)
        return 2 * xp.concat([_times(self.c_inverse, k_v), k_u, diagonal[None, :]])

    def longest(self, move: Array) -> Array:
        """Return the largest ``|l|``, and ``|dU| |V_|`` and ``|M| |U|`` of a column, 0-d."""
        xp, r = namespace(move), self.u.shape[0]
        partners = xp.concat([self.v_in, self.u])
        sums = [xp.sum(move[: 2 * r, :] ** 2, axis=1), xp.sum(partners**2, axis=1)]
        squares = shards.total(xp.stack(sums))
        lengths = xp.sqrt(squares[0, :] * squares[1, :])
        return shards.most(xp.max(xp.concat([lengths, xp.abs(move[2 * r, :])])))

    def diagonals(self) -> tuple[Array, Array]:
        """Return the diagonal of the second derivative, nearly, and what a ridge of 1 adds, (2 r + 1, n)."""
        xp, r = namespace(self.u), self.u.shape[0]
        diagonal = xp.maximum(self.diagonal, eps(self.d) * self.delta)
        along, image = xp.concat([self.v_in, self.u]), xp.concat([self.d_ends[r:, :], self.d_ends[:r, :]])
        image = xp.concat([_times(self.c_inverse, image[:r, :]), image[r:, :]])
        sums = shards.total(xp.stack([xp.sum(along * along, axis=1), xp.sum(along * image, axis=1)]))
        lengths, heights = sums[0, :, None], sums[1, :, None]
        heights = xp.maximum(heights, 0 * heights)
        last = 8 * diagonal[None, :]
        found = xp.concat([2 * (diagonal * lengths + heights), last])
        return found, xp.concat([2 * (diagonal * (lengths + SHORT) + heights), last])


def _solve(metric: Metric, ridge: Array, gradient: Array) -> Array:
    """Return the move, by conjugate gradients from 0."""
    own, more = metric.diagonals()
    more = ridge * more
    scale = own + more
    move, rest = 0 * gradient, gradient
    towards = along = rest / scale
    size = _dot(rest, along)
    for _ in range(ITERATIONS):
        image = (metric @ towards) + more * towards
        length = _ratio(size, _dot(towards, image))
        move, rest = move + length * towards, rest - length * image
        along = rest / scale
        new = _dot(rest, along)
        towards, size = along + _ratio(new, size) * towards, new
    return move


def _core_inverse(u: Array, v: Array) -> Array:
    """Return ``(I + V^T U)^{-1}``, (r, r), in the widest float."""
    xp = namespace(u)
    one = xp.eye(u.shape[0], dtype=wide_dtype(xp), device=device_of(u))
    return library_solve(one + inner(v, u), one)


def _ratio(x: Array, y: Array) -> Array:
    """Return x / y, 0 unless y is positive."""
    xp = namespace(x)
    some = y > 0
    return xp.where(some, x, 0 * x) / xp.where(some, y, 1 + 0 * y)


def _dot(x: Array, y: Array) -> Array:
    """Return the inner product of all elements, 0-d."""
    xp = namespace(x)
    found = inner(xp.reshape(x, (1, -1)), xp.reshape(y, (1, -1)))[0, 0]
    return xp.astype(found, x.dtype)


def _times(coefficients: Array, rows: Array) -> Array:
    """Return ``coefficients @ rows`` in the dtype of the rows."""
    return namespace(rows).astype(coefficients, rows.dtype, copy=False) @ rows
