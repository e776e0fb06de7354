"""The criterion, its expectation and its derivatives, all of c itself; see `psgd_core.criterion`."""

from __future__ import annotations

from typing import Literal

from ..arrays.arguments import require_choice, require_count
from ..arrays.batched import library_solve
from ..arrays.library import Array, device_of, require_alike, require_arrays, require_float
from ..arrays.matrices import eye, kron
from .minimizers import require_same, require_square, spectral

Side = Literal["right", "left"]
"""Which generator: "right" for ``dQ = Q E``, "left" for ``dQ = E Q``."""


def value(p: Array, v: Array, h: Array) -> Array:
    """Return ``h^T P h + v^T P^{-1} v``, averaged over the probes (eq. (3)).

    Parameters
    ----------
    p : array, shape (n, n)
        Symmetric positive definite.
    v, h : array, shape (n,) or (n, k)
        k pairs, one per column.

    Returns
    -------
    array, shape ()
        At the cost of one solve, O(n^3).

    Raises
    ------
    ValueError, TypeError
        If p is not a square float matrix, or v and h do not match it.
    """
    xp, n = require_square("p", p)
    require_arrays(p=p, v=v)
    if v.ndim not in (1, 2) or v.shape[0] != n:
        raise ValueError(f"`v` must have shape ({n},) or ({n}, k) to match `p`, got {tuple(v.shape)}")
    require_same("h", h, "v", v)
    require_alike("v", v, "p", p)
    v, h = xp.reshape(v, (n, -1)), xp.reshape(h, (n, -1))
    return (xp.sum(h * (p @ h)) + xp.sum(v * library_solve(p, v))) / v.shape[1]


def expected(p: Array, m: Array) -> Array:
    """Return ``tr(P M + P^{-1})``, the criterion's expectation (eq. (4)), a 0-d array.

    Parameters
    ----------
    p, m : array, shape (n, n)
        m is ``H_0^2 + E[ε ε^T]``, see `second_moment`.
    """
    xp, n = require_square("p", p)
    require_same("m", m, "p", p)
    trace: Array = xp.linalg.trace(library_solve(p, eye(n, p)))
    return xp.sum(p * m.T) + trace


def second_moment(hessian: Array, noise: Array | None = None) -> Array:
    """Return ``M = E[h h^T] = H_0^2 + E[ε ε^T]`` for probes with ``E[v v^T] = I``.

    The minimisers do not use it, because forming it squares the condition number.
    """
    require_square("hessian", hessian)
    product = hessian @ hessian.T
    if noise is None:
        return product
    require_same("noise", noise, "hessian", hessian)
    return product + noise


def gradient(q: Array, m: Array) -> Array:
    """Return ``∂c/∂Q = 2 (Q M - Q^{-T} P^{-1})`` with ``P = Q^T Q``; the paper, below (7), drops the 2."""
    xp, n = require_square("q", q)
    require_same("m", m, "q", q)
    inverse = library_solve(q, eye(n, q))
    transposed = xp.matrix_transpose(inverse)
    return 2 * (q @ m - transposed @ inverse @ transposed)


def lie_gradient(q: Array, m: Array, side: Side = "right") -> Array:
    """Return the gradient of c in E at 0, for moves ``dQ = Q E`` (right) or ``dQ = E Q`` (left).

    ``Q^T ∂c/∂Q = 2 (P M - P^{-1})`` on the right (the paper's ``∇_E``), and ``∂c/∂Q Q^T =
    2 (Q M Q^T - (Q Q^T)^{-1})``, the expectation of ``2 (a a^T - b b^T)``, on the left (eq. (11)).
    """
    xp, n = require_square("q", q)
    require_same("m", m, "q", q)
    inverse = library_solve(q, eye(n, q))
    transposed = xp.matrix_transpose(inverse)
    if _is_left(side):
        return 2 * (q @ m @ q.T - transposed @ inverse)
    return 2 * (q.T @ (q @ m) - inverse @ transposed)


def commutation_matrix(n: int, like: Array) -> Array:
    """Return J, (n^2, n^2), symmetric, with ``vec(X^T) = J vec(X)`` for X of shape (n, n)."""
    xp = require_arrays(like=like)
    require_float("like", like)
    n = require_count("n", n, "it is the size of X")
    order = xp.reshape(xp.reshape(xp.arange(n * n, device=device_of(like)), (n, n)).T, (-1,))
    return xp.take(eye(n * n, like), order, axis=0)


def second_derivative(q: Array, m: Array) -> Array:
    """Return ``∂²c/∂vec(Q)²`` without constraint (above eq. (8)), (n^2, n^2), for row-major vec.

    ``2 I ⊗ M + 2 J^T [Q^{-1} ⊗ (QP)^{-T}] + 2 [Q^{-T} ⊗ (QP)^{-1}] J + 2 (Q Q^T)^{-1} ⊗ P^{-1}``, O(n^4).
    """
    xp, n = require_square("q", q)
    require_same("m", m, "q", q)
    one = eye(n, q)
    inverse = library_solve(q, one)
    transposed = xp.matrix_transpose(inverse)
    p_inverse = inverse @ transposed
    mixed = commutation_matrix(n, q).T @ kron(inverse, xp.matrix_transpose(p_inverse @ inverse))
    return 2 * (kron(one, m) + mixed + xp.matrix_transpose(mixed) + kron(transposed @ inverse, p_inverse))


def lie_second_derivative(q: Array, m: Array, side: Side = "right") -> Array:
    """Return the second derivative of c in vec(E) at 0, (n^2, n^2): eq. (8) for ``Q + Q E`` (right).

    ``(Q^T ⊗ I) ∂²c/∂vec(Q)² (Q ⊗ I)`` on the right; ``(I ⊗ Q) ∂²c/∂vec(Q)² (I ⊗ Q^T)`` on the left, for the
    move ``Q + E Q`` made in practice. Along ``Q exp(E)`` (or ``exp(E) Q``) add ``tr(∇_E^T E²)`` to the
    quadratic form; at a stationary point that is 0.
    """
    xp, n = require_square("q", q)
    full, one = second_derivative(q, m), eye(n, q)
    move = kron(one, q.T) if _is_left(side) else kron(q, one)
    return xp.matrix_transpose(move) @ full @ move


def stationary_second_derivative(hessian: Array) -> Array:
    """Return eq. (9), ``2 I ⊗ H^2 + 4 |H|^{1/2} ⊗ |H|^{3/2} + 2 |H| ⊗ |H|``, (n^2, n^2).

    As a quadratic form on *symmetric* dQ it is the second derivative of c in Q at ``Q = ±|H|^{-1/2}``; on
    other dQ it is not (the second derivative is 0 along rotations, and this is positive definite).
    """
    solution = spectral(hessian)
    h, one = solution.power(1), eye(hessian.shape[0], hessian)
    roots = kron(solution.power(0.5), solution.power(1.5))
    return 2 * kron(one, solution.power(2)) + 4 * roots + 2 * kron(h, h)


def stationary_lie_second_derivative(hessian: Array) -> Array:
    """Return eq. (10), ``2 |H|^{-1} ⊗ H^2 + 4 |H|^{-1/2} ⊗ |H|^{3/2} + 2 I ⊗ |H|``, (n^2, n^2).

    As a quadratic form on those E for which ``dQ = Q E`` is symmetric, that is ``E = Q^{-1} S`` with S
    symmetric and ``Q = ±|H|^{-1/2}``, it is eq. (8) at the stationary point. On symmetric E it is not.
    """
    solution = spectral(hessian)
    first = kron(solution.power(-1), solution.power(2))
    second = kron(solution.power(-0.5), solution.power(1.5))
    return 2 * first + 4 * second + 2 * kron(eye(hessian.shape[0], hessian), solution.power(1))


def damping_residual(p: Array, m: Array, c: Array | None = None) -> Array:
    """Return ``P E[h h^T] P - E[v v^T]``, which is 0 at the minimiser over GL(n) (appendix A, after Li 2015).

    Over a group of Theorem 3.1 it is 0 on the blocks of the orbits, and in general not elsewhere.

    Parameters
    ----------
    p, m : array, shape (n, n)
        m is ``E[h h^T]``.
    c : array, shape (n, n), optional
        ``E[v v^T]``; I by default.
    """
    _, n = require_square("p", p)
    c = eye(n, p) if c is None else c
    for name, x in (("m", m), ("c", c)):
        require_same(name, x, "p", p)
    return p @ m @ p - c


def _is_left(side: Side) -> bool:
    require_choice("side", side, ("right", "left"), "dQ = Q E, or dQ = E Q")
    return side == "left"
