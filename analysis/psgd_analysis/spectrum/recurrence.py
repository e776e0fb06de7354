"""The Lanczos recurrence, for k starting vectors at once, in array-API code.

From a unit vector q_1 it makes orthonormal q_1, ..., q_m with ``A Q = Q T + β_m q_{m+1} e_m^T``, T
tridiagonal with diagonal α and off-diagonal β. T is to A as an m-point Gauss rule is to the spectral
measure of q_1: with eigenvalues θ_j and first components τ_j of the eigenvectors of T,

    q_1^T f(A) q_1  =  sum_j τ_j^2 f(θ_j)    for every polynomial f of degree up to 2m - 1.

Rounding costs the q their orthogonality as soon as some θ_j has converged. With full reorthogonalisation
(twice, classical Gram-Schmidt) they keep it, at the price of holding all of them: m n numbers for each
starting vector. Without it only three vectors are held; T then has copies of converged θ_j, which share the
weight of the one they stand for, so that sums of the kind above stay right to rounding (Greenbaum 1989;
Knizhnerman 1996) but fewer of the m nodes are new. Use it where n is too large for the other.
"""

from __future__ import annotations

from typing import NamedTuple

import array_api_compat
import numpy as np

from ..arrays import Array, rounding, to_host
from ..checks import require_count
from .operators import HessianOperator, as_operator

_BLOCK = 16  # vectors of the basis per product
_TERMS = 256  # terms of a sum where float32 is the widest float


class Tridiagonal(NamedTuple):
    """The tridiagonal matrices of the recurrence, one row per starting vector."""

    alpha: Array  # (k, m): the diagonal of T
    beta: Array  # (k, m): β_1 .. β_{m-1} off the diagonal, and β_m, what is left over


def lanczos(
    operator: HessianOperator | Array, start: Array, steps: int, *, reorthogonalize: bool = True
) -> Tridiagonal:
    """Run `steps` of the Lanczos recurrence from each column of `start`.

    Parameters
    ----------
    operator : HessianOperator or array, shape (n, n)
    start : array, shape (n,) or (n, k)
        Not zero; need not be normalised.
    steps : int
        m, between 1 and n.
    reorthogonalize : bool
        Hold all vectors, m n k numbers, and keep them orthogonal; or hold three.

    Returns
    -------
    Tridiagonal
        On the library and device of the operator; m products with k columns each, and O(m^2 n k) operations
        for the reorthogonalisation. Where an invariant subspace is exhausted, β is 0 from there on.

    Raises
    ------
    ValueError, TypeError
        If `steps` is not between 1 and n, or `start` does not go with the operator.
    """
    op = as_operator(operator)
    require_count("steps", steps, 1, op.n)
    op.require("start", start, "pass one vector, or one per column")
    xp = array_api_compat.array_namespace(start)
    q = start.T if start.ndim == 2 else start[None, :]  # as rows (k, n): sums run along memory
    q = q / xp.sqrt(_dot(xp, q, q))[:, None]
    basis = _Basis() if reorthogonalize else None
    before, beta, scale = xp.zeros_like(q), xp.zeros_like(q[:, 0]), xp.zeros_like(q[:, 0])
    alphas, betas = [], []
    for _ in range(steps):
        # the three-term recurrence
        w = op.hvp(q.T).T - beta[:, None] * before
        alpha = _dot(xp, w, q)
        w = w - alpha[:, None] * q
        # twice is enough for orthogonality to rounding
        if basis is not None:
            basis.append(q)
            w = basis.remove(xp, basis.remove(xp, w))
        beta = xp.sqrt(_dot(xp, w, w))
        scale = xp.maximum(scale, xp.maximum(xp.abs(alpha), beta))
        # an exhausted subspace goes on with zeros, as no branch may depend on numbers
        live = beta > rounding(w) * scale
        beta = xp.where(live, beta, xp.zeros_like(beta))
        before, q = q, w * xp.where(live, 1 / xp.where(live, beta, xp.ones_like(beta)), beta)[:, None]
        alphas.append(alpha)
        betas.append(beta)
    return Tridiagonal(xp.stack(alphas, axis=1), xp.stack(betas, axis=1))


class _Basis:
    """All the vectors so far, by blocks (k, b, n) so that a projection is a few products of matrices."""

    def __init__(self) -> None:
        self.blocks: list[Array] = []
        self.recent: list[Array] = []

    def append(self, q: Array) -> None:
        self.recent.append(q)
        if len(self.recent) == _BLOCK:
            self.blocks.append(array_api_compat.array_namespace(q).stack(self.recent, axis=1))
            self.recent = []

    def remove(self, xp, w: Array) -> Array:
        """Return w, (k, n), less its components along all vectors."""
        blocks = self.blocks
        if self.recent:  # filled up with zeros: one shape only, so that JAX compiles once
            blank = [xp.zeros_like(w)] * (_BLOCK - len(self.recent))
            blocks = [*blocks, xp.stack([*self.recent, *blank], axis=1)]
        parts = [block @ w[:, :, None] for block in blocks]
        for block, part in zip(blocks, parts, strict=True):
            w = w - (xp.matrix_transpose(part) @ block)[:, 0, :]
        return w


def _dot(xp, x: Array, y: Array) -> Array:
    """Return the inner products of the rows of x and y, (k,), summed in the widest float there is."""
    products, n = x * y, x.shape[1]
    wide = xp.zeros(0).dtype if array_api_compat.is_jax_namespace(xp) else xp.float64
    if wide != xp.float32 or n <= _TERMS:
        return xp.astype(xp.sum(products, axis=1, dtype=wide), x.dtype, copy=False)
    whole = n // _TERMS * _TERMS
    blocks = xp.sum(xp.reshape(products[:, :whole], (x.shape[0], n // _TERMS, _TERMS)), axis=2)
    return xp.sum(blocks, axis=1) + xp.sum(products[:, whole:], axis=1)


class Rule(NamedTuple):
    """Quadrature rules, one per starting vector, on the host."""

    nodes: np.ndarray  # (k, m)
    weights: np.ndarray  # (k, m), each row sums to 1


def gauss_rules(t: Tridiagonal, exhausted: bool = False) -> tuple[Rule, Rule]:
    """Return the Gauss rule of m - 1 points and the anti-Gauss rule of m points.

    The anti-Gauss rule (Laurie 1996) is that of T with its last β times ``sqrt(2)``. For polynomials of
    degree up to 2m - 1 its error is the negative of the Gauss rule's: half the difference of the two
    estimates the error of either, from products that were made anyway.

    Parameters
    ----------
    t : Tridiagonal
    exhausted : bool
        The Krylov space is all of R^n, so that the Gauss rule of m points is exact: it is returned twice.
    """
    alpha, beta = to_host(t.alpha).astype(np.float64), to_host(t.beta).astype(np.float64)
    if exhausted or alpha.shape[1] == 1:
        rule = _rule(alpha, beta[:, :-1])
        return rule, rule
    anti = beta[:, :-1].copy()
    anti[:, -1] *= np.sqrt(2.0)
    return _rule(alpha[:, :-1], beta[:, :-2]), _rule(alpha, anti)


def _rule(alpha: np.ndarray, beta: np.ndarray) -> Rule:
    matrix = alpha[:, :, None] * np.eye(alpha.shape[1])
    index = np.arange(beta.shape[1])
    matrix[:, index, index + 1] = matrix[:, index + 1, index] = beta
    nodes, vectors = np.linalg.eigh(matrix)
    return Rule(nodes, vectors[:, 0, :] ** 2)
