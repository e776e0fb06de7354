"""The criterion's minimiser over Kronecker products ``P = P_1 ⊗ P_2 ⊗ ...``, for any Hessian.

For P_i alone the criterion is ``tr(P_i A_i) + β_i tr(P_i^{-1})``, A_i the partial trace of
``M (P_1 ⊗ .. I .. ⊗ P_d)`` over all other dimensions and ``β_i`` the product of the others'
``tr(P_j^{-1})``, so its minimiser is ``(A_i / β_i)^{-1/2}``, or the same on the diagonal. One after another
converges to the one minimiser of all, because the criterion is convex along geodesics of all P_i together.
"""

from __future__ import annotations

import math

from ..arrays.library import Array, device_of, eps
from .minimizers import require_same, scalar_minimizer, square

SWEEPS = 10_000


def kronecker_minimizer(
    hessian: Array,
    shape: tuple[int, ...],
    kinds: tuple[str, ...] | None = None,
    noise: Array | None = None,
) -> Array:
    """Return the criterion's minimiser over ``P_1 ⊗ P_2 ⊗ ...``, dense (n, n).

    Parameters
    ----------
    hessian : array, shape (n, n)
        Symmetric; n is the product of `shape`.
    shape : tuple of int
        The tensor's.
    kinds : tuple of str, optional
        For each dimension what P_i may be: "dense" (default) or "diagonal". A "triangular" or "affine" Q_i
        reaches every dense P_i.
    noise : array, shape (n, n), optional
        ``E[ε ε^T]``.

    Returns
    -------
    array, shape (n, n)
        M is formed, so its accuracy is about ``eps κ(M)``. Waits for values: it stops when a sweep over the
        factors moves nothing by more than 16 eps.

    Raises
    ------
    ValueError, TypeError
        If the arguments do not go together.
    """
    xp, n = square("hessian", hessian)
    kinds = ("dense",) * len(shape) if kinds is None else tuple(kinds)
    if math.prod(shape) != n:
        raise ValueError(f"`shape` must have n = {n} elements, got {shape}, which has {math.prod(shape)}")
    if len(kinds) != len(shape) or any(kind not in ("dense", "diagonal") for kind in kinds):
        raise ValueError(
            f"`kinds` must be 'dense' or 'diagonal' for each of the {len(shape)} dimensions, got {kinds}"
        )
    m = hessian @ hessian.T
    if noise is not None:
        require_same("noise", noise, "hessian", hessian)
        m = m + noise
    unit = scalar_minimizer(hessian, noise)  # the best multiple of I, so that nothing is large or small
    m = m * unit * unit
    p = [xp.eye(s, dtype=m.dtype, device=device_of(m)) for s in shape]
    for _ in range(SWEEPS):
        moved = 0.0
        for i, kind in enumerate(kinds):
            new = _best(xp, m, p, shape, i, kind)
            moved = max(moved, float(xp.max(xp.abs(new - p[i])) / xp.max(xp.abs(new))))
            p[i] = new
        if moved <= 16 * eps(m):
            break
    return unit * _product(xp, p, m)


def _best(xp, m: Array, p: list[Array], shape: tuple[int, ...], i: int, kind: str) -> Array:
    """Return the minimiser over P_i, given all others."""
    a, beta = _partial(xp, m, p, shape, i), 1.0
    for j, q in enumerate(p):
        beta = beta * xp.linalg.trace(xp.linalg.inv(q)) if j != i else beta
    if kind == "diagonal":
        return xp.sqrt(beta / xp.linalg.diagonal(a))[:, None] * _eye_like(xp, a)
    w, vectors = xp.linalg.eigh(a)
    return (vectors * xp.sqrt(beta / w)[None, :]) @ vectors.T


def _eye_like(xp, a: Array) -> Array:
    return xp.eye(a.shape[0], dtype=a.dtype, device=device_of(a))


def _partial(xp, m: Array, p: list[Array], shape: tuple[int, ...], i: int) -> Array:
    """Return the partial trace of ``M (P_1 ⊗ .. I .. ⊗ P_d)`` over all dimensions but i, symmetric."""
    before, s = math.prod(shape[:i]), shape[i]
    after = math.prod(shape) // before // s
    left, right = (_product(xp, parts, m) for parts in (p[:i], p[i + 1 :]))
    t = xp.reshape(m, (before, s, after, before, s, after))
    t = xp.reshape(xp.permute_dims(t, (1, 4, 0, 3, 2, 5)), (s * s, before * before, after * after))
    t = xp.sum(t * xp.reshape(left, (1, -1, 1)) * xp.reshape(right, (1, 1, -1)), axis=(1, 2))
    a = xp.reshape(t, (s, s))
    return (a + a.T) / 2


def _product(xp, parts: list[Array], like: Array) -> Array:
    """Return the Kronecker product of some factors."""
    total = xp.ones((1, 1), dtype=like.dtype, device=device_of(like))
    for q in parts:
        t, s = total.shape[0], q.shape[0]
        total = xp.reshape(total[:, None, :, None] * q[None, :, None, :], (t * s, t * s))
    return total
