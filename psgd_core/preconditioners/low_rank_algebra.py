"""The small half of an update of ``Q = (I + U V^T) diag(d)``: what its one Gram matrix tells, section D.1.2.

With ``x = d h`` and ``y = v / d`` everything in the update is a combination of the rows ``R = [U; V; x; y]``
(U and V stored as rows), and every coefficient follows from ``R R^T``. Here they are found, matrices of size
r in the widest float; the passes over n that use them are `_low_rank_moves` and `psgd_core.kernels`.
"""

from __future__ import annotations

from typing import NamedTuple

from ..arrays.batched import library_solve, spectral_bound
from ..arrays.library import Array, device_of, eps, namespace


class Combinations(NamedTuple):
    """What the rows of R make, m = 2 r + 2 k of them for k probes; (m, k) are combinations of them."""

    g: Array  # (m, m): the Gram matrix of R
    c: Array  # (r, r): I + V^T U
    a: Array  # (m, k): a = Q h
    ga: Array  # (m, k): R a
    b: Array  # (m, k): b = Q^{-T} v
    gb: Array  # (m, k): R b
    y: Array  # (m, k): y alone
    t: Array  # (r, k): U^T b
    ph: Array  # (m, k): P h / d
    pv: Array  # (m, k): d P^{-1} v
    uu: Array  # (r, r): the Gram matrix of U
    vv: Array  # (r, r): the Gram matrix of V
    length_a: Array  # 0-d: |a|
    length_b: Array  # 0-d: |b|


class FactorMove(NamedTuple):
    """A factor, as rows, moves along ``left @ right^T @ R``."""

    left: Array  # (r, 2 k)
    right: Array  # (m, 2 k)
    size: Array  # 0-d: curvature bound, or norm of the gradient


def coefficients(g: Array, r: int) -> Combinations:
    """Return them from the Gram matrix of R, (m, m)."""
    xp, k = namespace(g), g.shape[0] // 2 - r
    wide = {"dtype": g.dtype, "device": device_of(g)}
    in_u, in_v, in_y = slice(0, r), slice(r, 2 * r), slice(2 * r + k, 2 * r + 2 * k)
    eye, none, zero = xp.eye(k, **wide), xp.zeros((k, k), **wide), xp.zeros((r, k), **wide)
    c = xp.eye(r, **wide) + g[in_v, in_u]
    a = xp.concat([g[in_v, 2 * r : 2 * r + k], zero, eye, none])
    ga = g @ a
    t = library_solve(c.T, g[in_u, in_y])
    b = xp.concat([zero, -t, none, eye])
    gb = g @ b
    return Combinations(
        g=g,
        c=c,
        a=a,
        ga=ga,
        b=b,
        gb=gb,
        y=xp.concat([zero, zero, none, eye]),
        t=t,
        ph=xp.concat([a[in_u, :], ga[in_u, :], eye, none]),
        pv=xp.concat([-library_solve(c, gb[in_v, :]), -t, none, eye]),
        uu=g[in_u, in_u],
        vv=g[in_v, in_v],
        length_a=_length(xp, a, ga),
        length_b=_length(xp, b, gb),
    )


def _length(xp, x: Array, gx: Array) -> Array:
    """Return the norm of combinations x of the rows, from ``R R^T x``."""
    square = xp.sum(x * gx)
    return xp.sqrt(xp.maximum(square, xp.zeros_like(square)))


def move_of_u(x: Combinations, measure: str) -> FactorMove:
    """Return D.1.2.2, ``(a (a^T V) - b (b^T V)) (I + V^T U)``, with V's columns made orthonormal."""
    in_v, w = slice(x.c.shape[0], 2 * x.c.shape[0]), inverse(x.vv)
    of_a, of_b = w @ x.ga[in_v, :], w @ x.gb[in_v, :]
    left = _side_by_side(x.c.T @ of_a, -(x.c.T @ of_b)) / x.a.shape[1]
    return FactorMove(left, _side_by_side(x.a, x.b), _size(x, of_a, of_b, x.vv, measure))


def move_of_v(x: Combinations, measure: str) -> FactorMove:
    """Return D.1.2.3, ``(I + V U^T) (a (a^T U) - b (b^T U))``, with U's columns made orthonormal.

    Here ``(I + V U^T) a = P h / d`` and ``(I + V U^T) b = y``.
    """
    in_u, w = slice(0, x.c.shape[0]), inverse(x.uu)
    of_a, of_b = w @ x.ga[in_u, :], w @ x.t
    left = _side_by_side(of_a, -of_b) / x.a.shape[1]
    return FactorMove(left, _side_by_side(x.ph, x.y), _size(x, of_a, of_b, x.uu, measure))


def _side_by_side(x: Array, y: Array) -> Array:
    return namespace(x).concat([x, y], axis=1)


def _size(x: Combinations, of_a: Array, of_b: Array, other: Array, measure: str) -> Array:
    """Return the size of the generator ``F W^T``, W the factor that stays, ``F = a of_a^T - b of_b^T``."""
    f_a, f_b = of_a @ x.a.T / x.a.shape[1], of_b @ x.b.T / x.a.shape[1]  # as rows over R
    pieces = (f_a - f_b,) if measure == "gradient" else (f_a, f_b)
    return sum(product_norm(f @ x.g @ f.T, other) for f in pieces)


def joint_bound(x: Array, y: Array, step: float | Array) -> Array:
    """Return what bounds the moves of two factors together at this step, from the bounds of either.

    Moves add up, so the sum is safe for every step, and at small steps up to twice as slow as need be; with
    the larger of the two, a bold step ends in overflow where H changes (Rosenbrock's valley, step 0.9).
    """
    xp = namespace(x, y)
    return xp.maximum(x, y) + step * xp.minimum(x, y)


def gauge(uu: Array, vv: Array) -> tuple[Array, Array]:
    """Return C and ``C^{-T}``, for ``U^T -> C U^T`` and ``V^T -> C^{-T} V^T``: P stays, U gets orthonormal.

    P does not determine U and V: this move leaves it alone for every r x r matrix C, and a run drifts along
    that freedom. Left to itself, one factor overflows (C a number), or the columns of both become parallel:
    to 1e-4 after 10^4 updates at step 0.3 in float32, n = 64, r = 10, which spoiled the r x r systems, and
    with them P, until no update was finite any more.

    C is one step of the Newton-Schulz iteration for the polar factor, ``C = 3/2 - U^T U / (2 s^2)`` with s^2
    the largest eigenvalue of ``U^T U``: short directions of U grow by up to 3/2, the longest stay, so that U
    becomes s times orthonormal columns and V takes the singular values. C itself lies between 1 and 3/2, and
    loses nothing. A power of two then brings |U| and |V| closest.
    """
    xp, r = namespace(uu), uu.shape[0]
    eye = xp.eye(r, dtype=uu.dtype, device=device_of(uu))
    top = spectral_bound(uu[:, :, None])
    c = 1.5 * eye - 0.5 * uu / xp.where(top > 0, top, xp.ones_like(top))
    back = library_solve(c, eye)  # C is symmetric
    size_u, size_v = xp.sum((c @ uu) * c), xp.sum((back @ vv) * back)
    some = (size_u > 0) & (size_v > 0)
    one = xp.ones_like(size_u)
    power = 2.0 ** xp.round(xp.log2(xp.where(some, size_v, one) / xp.where(some, size_u, one)) / 4)
    return c * power, back / power


def inverse(gram_matrix: Array) -> Array:
    """Return the inverse of a Gram matrix, kept finite where columns are parallel to rounding."""
    xp, r = namespace(gram_matrix), gram_matrix.shape[0]
    one = xp.eye(r, dtype=gram_matrix.dtype, device=device_of(gram_matrix))
    floor = 64 * eps(gram_matrix) * xp.sum(gram_matrix * one)
    return library_solve(gram_matrix + floor * one, one)


def product_norm(ff: Array, ww: Array) -> Array:
    """Return the Frobenius norm of ``F W^T`` from ``F^T F`` and ``W^T W``: a tight bound at rank 1 or 2."""
    xp = namespace(ff)
    square = xp.sum(ff * ww)
    return xp.sqrt(xp.maximum(square, xp.zeros_like(square)))
