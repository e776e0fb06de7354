"""Exact targets, and how far a preconditioner is from them; see `psgd_core.convergence`."""

from __future__ import annotations

from typing import NamedTuple

from ..arrays.arguments import described
from ..arrays.library import Array, require_arrays
from ..arrays.matrices import eye, transpose
from ..criterion.minimizers import Orbits, require_same, require_square, spectral


class Target(NamedTuple):
    """What a preconditioner should converge to; made by `target`."""

    minimizer: Array  # P*, (n, n)
    inverse: Array  # P*^{-1}, (n, n): |H| over GL(n) without noise
    root: Array  # P*^{-1/2}, (n, n)
    spectra: tuple[Array, ...]  # eigenvalues of P*^{-1}: per orbit size an (s, c) array
    minimum: Array  # c(P*) = 2 tr(P*^{-1}), ()


class Errors(NamedTuple):
    """How far P is from the target: three 0-d arrays, 0 at the target."""

    distance: Array
    residual: Array
    gap: Array


def target(hessian: Array, orbits: Orbits | None = None, noise: Array | None = None) -> Target:
    """Return the exact target for a Hessian: over GL(n), or over the group of Theorem 3.1 with given orbits.

    Parameters
    ----------
    hessian : array, shape (n, n)
        Symmetric; definite or not.
    orbits : sequence of integer arrays, shape (s, c), optional
        As for `criterion.group_minimizer`; GL(n) by default.
    noise : array, shape (n, n), optional
        ``E[ε ε^T]``.

    Returns
    -------
    Target
        On the library, dtype and device of `hessian`; O(n^3), once.

    Raises
    ------
    ValueError, TypeError
        If the arguments do not match.
    """
    solution = spectral(hessian, orbits, noise)
    inverse, xp = solution.power(1), require_arrays(hessian=hessian)
    return Target(
        solution.power(-1),
        inverse,
        solution.power(0.5),
        tuple(xp.matrix_transpose(values) for values in solution.values),
        2 * xp.linalg.trace(inverse),
    )


def target_at(minimizer: Array) -> Target:
    """Return the target for a known minimiser P*, such as that of `criterion.kronecker_minimizer`.

    Parameters
    ----------
    minimizer : array, shape (n, n)
        Symmetric positive definite.

    Returns
    -------
    Target
        Its distances and residuals are exact. Its gap is that of ``M = P*^{-2}``, which is the criterion's
        own only if all entries of P* are free.
    """
    xp, _ = require_square("minimizer", minimizer)
    w, vectors = xp.linalg.eigh(minimizer)
    inverse, root = ((vectors * w[None, :] ** power) @ vectors.T for power in (-1, -0.5))
    return Target(minimizer, inverse, root, ((1 / w)[:, None],), 2 * xp.linalg.trace(inverse))


def measure(q: Array, target: Target) -> Errors:
    """Return distance, residual and criterion gap of ``P = Q^T Q``, from one singular value decomposition.

    Parameters
    ----------
    q : array, shape (n, n)
        Q, or any other factor of P: ``U Q`` with U orthogonal has the same errors; `factor` makes one from P.
    target : Target

    Returns
    -------
    Errors
        NaN if q holds NaN or Inf (the SVD never sees those), Inf if q is singular.
    """
    if not isinstance(target, Target):
        raise TypeError(f"`target` must be a Target, got {described(target)}; make one with `target`")
    xp, n = require_square("q", q)
    require_same("q", q, "target.root", target.root)
    usable_q = xp.all(xp.isfinite(q))
    q = xp.where(usable_q, q, xp.zeros_like(q))
    relative = q @ target.root
    finite = usable_q & xp.all(xp.isfinite(relative))  # huge entries may overflow only here
    _, s, right = xp.linalg.svd(xp.where(finite, relative, xp.zeros_like(relative)))
    one, infinite = xp.ones_like(s), xp.full_like(s, xp.inf)
    usable = s > 0
    inside = xp.where(usable, s, one)
    logs = xp.where(usable, 2 * xp.log(inside), infinite)
    excess = xp.where(usable, (inside - 1) * (inside + 1) / inside, infinite)
    weight = xp.linalg.vector_norm(right @ target.root, axis=1)
    product = q.T @ (q @ target.inverse)
    errors = (
        xp.linalg.vector_norm(logs) / n**0.5,
        xp.linalg.matrix_norm(product - eye(n, q)) / n**0.5,
        xp.sum((excess * weight) ** 2) / target.minimum,
    )
    return Errors(*(xp.where(finite, error, xp.full_like(error, xp.nan)) for error in errors))


def distance(q: Array, target: Target) -> Array:
    """Return ``||log(P*^{-1/2} P P*^{-1/2})||_F / sqrt(n)``, affine-invariant; see `measure`."""
    return measure(q, target).distance


def residual(q: Array, target: Target) -> Array:
    """Return ``||P P*^{-1} - I||_F / sqrt(n)``, with an error of about ``eps κ(P)``; see `measure`."""
    return measure(q, target).residual


def criterion_gap(q: Array, target: Target) -> Array:
    """Return ``(c(P) - c(P*)) / c(P*)``, accurate far below eps; see `measure`.

    P must lie in the target's group; against a target over GL(n) any P does.
    """
    return measure(q, target).gap


def factor(p: Array) -> Array:
    """Return some Q with ``Q^T Q = P``, NaN where P is not positive definite.

    A dense P determines its small eigenvalues only to ``eps κ(P)``: measure Q itself where you have it.
    """
    xp, _ = require_square("p", p)
    finite = xp.all(xp.isfinite(p))
    w, vectors = xp.linalg.eigh(xp.where(finite, p, xp.zeros_like(p)))
    root = xp.where(w > 0, xp.sqrt(xp.where(w > 0, w, xp.ones_like(w))), xp.full_like(w, xp.nan))
    return root[:, None] * transpose(vectors)
