"""The criterion's minimiser over Kronecker products ``P = P_1 ⊗ P_2 ⊗ ...``, for any Hessian.

For P_i alone the criterion is ``tr(P_i A_i) + β_i tr(P_i^{-1})``, A_i the partial trace of
``M (P_1 ⊗ .. I .. ⊗ P_d)`` over all other dimensions and ``β_i`` the product of the others'
``tr(P_j^{-1})``, so its minimiser is ``(A_i / β_i)^{-1/2}``, or the same on the diagonal. Minimising over
one P_i after another converges to the minimiser over all of them, because the criterion is convex along
geodesics of all P_i together.
"""

from __future__ import annotations

import math
from typing import Literal

from ..arrays.arguments import described, require_choice, require_count
from ..arrays.library import Array, Namespace, eps
from ..arrays.matrices import eye, kron
from .derivatives import second_moment
from .minimizers import require_square, scalar_minimizer

Kind = Literal["dense", "diagonal"]
"""What P_i may be: any positive definite matrix, or a diagonal one."""

SWEEPS = 10_000
"""At most this many sweeps over the factors."""


def kronecker_minimizer(
    hessian: Array,
    shape: tuple[int, ...],
    kinds: tuple[Kind, ...] | None = None,
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
        M is formed, so the accuracy is about ``eps κ(M)``. Waits for values: it stops after a sweep over the
        factors that moves nothing by more than 16 eps.

    Raises
    ------
    ValueError, TypeError
        If the arguments do not match.
    """
    xp, n = require_square("hessian", hessian)
    for name, given in (("shape", shape), ("kinds", () if kinds is None else kinds)):
        if not isinstance(given, tuple | list):
            raise TypeError(f"`{name}` must be a tuple, an entry per dimension, got {described(given)}")
    shape = tuple(require_count(f"shape[{i}]", s, "it is a tensor's") for i, s in enumerate(shape))
    free: Kind = "dense"
    chosen = (free,) * len(shape) if kinds is None else tuple(kinds)
    if math.prod(shape) != n:
        raise ValueError(f"`shape` must have n = {n} elements, got {shape}, which has {math.prod(shape)}")
    if len(chosen) != len(shape):
        raise ValueError(
            f"`kinds` must be 'dense' or 'diagonal' for each of the {len(shape)} dimensions, got {chosen}"
        )
    for i, kind in enumerate(chosen):
        require_choice(f"kinds[{i}]", kind, ("dense", "diagonal"))
    # in units of the best multiple of I nothing is large or small
    unit = scalar_minimizer(hessian, noise)
    m = second_moment(hessian, noise) * unit * unit
    p = [eye(s, m) for s in shape]
    for _ in range(SWEEPS):
        moved = 0.0
        for i, kind in enumerate(chosen):
            new = _best(xp, m, p, shape, i, kind)
            moved = max(moved, float(xp.max(xp.abs(new - p[i])) / xp.max(xp.abs(new))))
            p[i] = new
        if moved <= 16 * eps(m):
            break
    return unit * kron(*p)


def _best(xp: Namespace, m: Array, p: list[Array], shape: tuple[int, ...], i: int, kind: Kind) -> Array:
    """Return the minimiser over P_i, given all others."""
    a, one = _partial(xp, m, p, shape, i), eye(shape[i], m)
    if kind == "diagonal":
        w, vectors = xp.linalg.diagonal(a), one
    else:
        w, vectors = xp.linalg.eigh(a)
    beta: Array | float = 1.0
    for q in p[:i] + p[i + 1 :]:
        beta = beta * xp.linalg.trace(xp.linalg.inv(q))
    half: Array = vectors * xp.sqrt(beta / w)[None, :]
    return half @ vectors.T


def _partial(xp: Namespace, m: Array, p: list[Array], shape: tuple[int, ...], i: int) -> Array:
    """Return the partial trace of ``M (P_1 ⊗ .. I .. ⊗ P_d)`` over all dimensions but i, symmetric."""
    before, s = math.prod(shape[:i]), shape[i]
    after = math.prod(shape) // before // s
    left, right = (kron(eye(1, m), *parts) for parts in (p[:i], p[i + 1 :]))
    t = xp.reshape(m, (before, s, after, before, s, after))
    t = xp.reshape(xp.permute_dims(t, (1, 4, 0, 3, 2, 5)), (s * s, before * before, after * after))
    t = xp.sum(t * xp.reshape(left, (1, -1, 1)) * xp.reshape(right, (1, 1, -1)), axis=(1, 2))
    a = xp.reshape(t, (s, s))
    return (a + a.T) / 2
