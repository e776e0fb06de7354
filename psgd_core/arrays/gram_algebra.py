"""What one Gram matrix tells about an update of ``Q = (I + U V^T) diag(d)``, section D.1.2.

With ``x = d h`` and ``y = v / d`` everything in the update is a combination of the rows ``R = [U; V; x; y]``
(U and V stored as rows), and every coefficient follows from ``R R^T``. They are found here, in matrices of
size r in the widest float, for the plain code and for all kernels alike; the passes over n that use them are
in `preconditioners.low_rank_moves` and `psgd_core.kernels`.

Where h and v are k columns, x and y are k rows each, and R has ``m = 2 r + 2 k``.
"""

from __future__ import annotations

from typing import NamedTuple

from .batched import library_solve, spectral_bound
from .library import Array, device_of, namespace


class Combinations(NamedTuple):
    """Combinations of the rows of R, as columns, and their inner products."""

    c: Array  # (r, r): I + V^T U
    uu: Array  # (r, r): the Gram matrix of U
    vv: Array  # (r, r): the Gram matrix of V
    ab: Array  # (m, 2 k): a = Q h and b = Q^{-T} v as combinations
    ends: Array  # (m, 2 k): P h / d and d P^{-1} v as combinations
    u_ab: Array  # (r, 2 k): U^T a, U^T b
    v_ab: Array  # (r, 2 k): V^T a, V^T b
    gram_ab: Array  # (2 k, 2 k): the Gram matrix of a and b
    squares: Array  # (2,): |a|^2, |b|^2
    one: Array  # (r, r): the identity


class FactorMove(NamedTuple):
    """The factor whose turn it is moves, as rows, along ``left @ right^T @ R``."""

    left: Array  # (r, 2 k)
    right: Array  # (m, 2 k)
    size: Array  # 0-d: curvature bound, or norm of the gradient


def combinations(g: Array, r: int) -> Combinations:
    """Return the combinations for the Gram matrix of R, (m, m)."""
    xp, k = namespace(g), g.shape[0] // 2 - r
    eye = xp.eye(g.shape[0], dtype=g.dtype, device=device_of(g))
    one, none, ones = eye[:r, :r], eye[:r, 2 * r : 2 * r + k], eye[2 * r :, 2 * r :]
    c, v_x = one + g[r : 2 * r, :r], g[r : 2 * r, 2 * r : 2 * r + k]
    # a = x + U V^T x, b = y - V t with t = C^{-T} U^T y, which is U^T b
    t = library_solve(c.T, g[:r, 2 * r + k :])
    ab = xp.concat([xp.concat([v_x, none], axis=1), xp.concat([none, -t], axis=1), ones])
    r_ab = g @ ab
    u_a, v_ab = r_ab[:r, :k], r_ab[r : 2 * r, :]
    # P h / d = a + V U^T a, d P^{-1} v = b - U C^{-1} V^T b
    s = library_solve(c, v_ab[:, k:])
    ends = xp.concat([xp.concat([v_x, -s], axis=1), xp.concat([u_a, -t], axis=1), ones])
    return Combinations(
        c=c,
        uu=g[:r, :r],
        vv=g[r : 2 * r, r : 2 * r],
        ab=ab,
        ends=ends,
        u_ab=xp.concat([u_a, t], axis=1),
        v_ab=v_ab,
        gram_ab=ab.T @ r_ab,
        squares=xp.abs(xp.sum(xp.reshape(ab * r_ab, (-1, 2, k)), axis=(0, 2))),
        one=one,
    )


def factor_move(x: Combinations, turn_u: bool | Array, measure: str) -> FactorMove:
    """Return the move of U where it is U's turn, else that of V.

    D.1.2.2, ``(a (a^T V) - b (b^T V)) (I + V^T U)``, with V's columns made orthonormal; and D.1.2.3,
    ``(I + V U^T) (a (a^T U) - b (b^T U))``, with U's columns made orthonormal, where
    ``(I + V U^T) a = P h / d`` and ``(I + V U^T) b = y``.

    Parameters
    ----------
    x : Combinations
    turn_u : bool or 0-d bool array
        A Python bool where it is known: then nothing is chosen by `where`.
    measure : {"curvature", "gradient"}
    """
    xp, k = namespace(x.ab), x.ab.shape[1] // 2
    # the factor that stays, its products with a and b, and the combinations that the other one moves along
    stays, products, right = x.vv, x.v_ab, x.ab
    if turn_u is not True:
        y = xp.eye(right.shape[0], k, k=k - right.shape[0], dtype=right.dtype, device=device_of(right))
        of_v = x.uu, x.u_ab, xp.concat([x.ends[:, :k], y], axis=1)
        if turn_u is False:
            stays, products, right = of_v
        else:
            both = zip((stays, products, right), of_v, strict=True)
            stays, products, right = (xp.where(turn_u, p, q) for p, q in both)
    # the generator is F W^T for W the factor that stays and F = a s_a^T - b s_b^T, with s = (W^T W)^{-1} W^T
    s = solve_gram(stays, products, x.one)
    s_a, s_b, g = s[:, :k], s[:, k:], x.gram_ab
    left = xp.concat([s_a, -s_b], axis=1) / k
    if measure == "gradient":
        size = product_norm(left @ g @ left.T, stays)
    else:
        size = product_norm(s_a @ g[:k, :k] @ s_a.T, stays) + product_norm(s_b @ g[k:, k:] @ s_b.T, stays)
        size = size / k
    if turn_u is not False:
        through = x.c.T @ left
        left = through if turn_u is True else xp.where(turn_u, through, left)
    return FactorMove(left, right, size)


def solve_gram(g: Array, b: Array, one: Array) -> Array:
    """Return ``g^{-1} b`` for a Gram matrix, finite also where columns are parallel; `one` is I."""
    xp = namespace(g)
    floor = 64 * float(xp.finfo(g.dtype).eps) * xp.sum(g * one)
    return library_solve(g + floor * one, b)


def product_norm(ff: Array, ww: Array) -> Array:
    """Return the Frobenius norm of ``F W^T`` from ``F^T F`` and ``W^T W``: a tight bound at rank 1 or 2."""
    xp = namespace(ff)
    return xp.sqrt(xp.abs(xp.sum(ff * ww)))  # rounding may take it below 0


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
    ratio = xp.where(some, size_v, one) / xp.where(some, size_u, one)
    power = (one + one) ** xp.round(xp.log2(ratio) / 4)
    return c * power, back / power


def balance(uu: Array, vv: Array) -> tuple[Array, Array]:
    """Return C and ``C^{-T}``, as in `gauge`, by which the Gram matrices of U and V approach each other.

    Equal ones are those of least ``|U|^2 + |V|^2``: U and V share the singular values of ``U V^T``. One step,
    ``C = I + (V^T V - U^T U) / (2 s)`` with s the largest eigenvalue of their sum, brings them closer by
    ``(U^T U + V^T V) / s``; C has eigenvalues between 1/2 and 3/2.
    """
    xp, r = namespace(uu), uu.shape[0]
    eye = xp.eye(r, dtype=uu.dtype, device=device_of(uu))
    top = spectral_bound((uu + vv)[:, :, None])
    c = eye + (vv - uu) / (2 * xp.where(top > 0, top, xp.ones_like(top)))
    return c, library_solve(c, eye)
