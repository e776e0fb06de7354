"""Eigenvalues of H, of ``P H`` and of P: all of them from dense matrices, the ends from products alone.

``P H`` has the eigenvalues of the symmetric ``Q H Q^T``, so ``eigenvalues(preconditioned(H, p, state))``
are those of ``P H``. Their error is that of forming ``Q H Q^T``, about ``eps |Q|^2 |H|``: near a
well-fitted P, where they are near ±1, that is about ``eps κ(P)`` in each, and eps of the largest elsewhere.

A fitted P needs no eigenvalue routine of size n where it has structure: see `Preconditioner.eigenvalues`.
They are squared singular values of Q, which resolves small eigenvalues of P down to ``eps^2`` times the
largest.
"""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

import psgd_core as psgd

from ..arrays import Array, rounding, to_host
from ..checks import require_count, require_rng
from ..problems import probes as draw_probes
from .operators import (
    HessianOperator,
    as_operator,
    from_matrix,
    linear_operator,
    require_finite,
)
from .preconditioned import preconditioner_operator
from .results import Eigenvalues, Extremes

DENSE_LIMIT = 2048
"""Largest n of a matrix in memory whose ends come from all of its eigenvectors."""


def eigenvalues(operator: HessianOperator | Array) -> Array:
    """Return all eigenvalues, ascending, (n,), on the operator's library, dtype and device; O(n^3).

    Raises
    ------
    ValueError, TypeError
        If it is not symmetric, not finite, or too large to be made dense.
    """
    matrix = as_operator(operator).dense()
    return array_api_compat.array_namespace(matrix).linalg.eigvalsh(matrix)


def damped(hessian: HessianOperator | Array, damping: float) -> HessianOperator:
    """Return H with its eigenvalues λ replaced by ``±sqrt(λ^2 + damping^2)``, signs kept; O(n^3).

    Zeros, to rounding, become +damping. The square is ``M = H^2 + damping^2 I``, the criterion's M for a
    preconditioner fitted with that damping. A study of it shows what that preconditioner does, also
    where H is singular and ``|H|^{-1}`` does not exist.
    """
    op = as_operator(hessian)
    if not 0 <= damping < float("inf"):
        raise ValueError(f"`damping` must be a finite number >= 0, got {damping}; it is an absolute λ")
    matrix = op.dense()
    xp = array_api_compat.array_namespace(matrix)
    w, vectors = xp.linalg.eigh(matrix)
    zero = op.n * rounding(w) * xp.max(xp.abs(w))
    signs = xp.where(w < -zero, -xp.ones_like(w), xp.ones_like(w))
    moved = (vectors * (signs * xp.hypot(w, damping * xp.ones_like(w)))[None, :]) @ vectors.T
    return from_matrix((moved + moved.T) / 2, f"{op.name}, damped by {damping:g}")


def condition_number(values: Array) -> float:
    """Return ``max |λ| / min |λ|``, Inf where one is 0."""
    magnitudes = np.abs(to_host(values).astype(np.float64))
    low, high = float(np.min(magnitudes)), float(np.max(magnitudes))
    return high / low if low > 0 else float("inf")


def spread(values: Array) -> float:
    """Return the standard deviation of ``log10 |λ|``, in decades; Inf where an eigenvalue is 0.

    Unlike the condition number it counts all eigenvalues, not the two outermost. It is 0 where all ``|λ|``
    are equal, and does not depend on their scale.
    """
    magnitudes = np.abs(to_host(values).astype(np.float64))
    return float(np.std(np.log10(magnitudes))) if np.all(magnitudes > 0) else float("inf")


def extreme_eigenvalues(
    operator: HessianOperator | Array,
    rng: np.random.Generator,
    k: int = 3,
    *,
    tol: float = 0.0,
    maxiter: int = 1000,
) -> Extremes:
    """Return the k smallest and the k largest eigenvalues (by value, not magnitude) with their eigenvectors.

    By implicitly restarted Lanczos, `scipy.sparse.linalg.eigsh` or CuPy's, from products alone; small
    problems (n <= 256, or up to 2048 where the matrix is known) are solved densely. Isolated ends come fast.
    Where the spectrum is dense at an end they may take very long: the outermost nodes of `density` come
    within a few hundred products to a small part of its width, all the same.

    Parameters
    ----------
    operator : HessianOperator or array, shape (n, n)
    rng : numpy.random.Generator
        Draws the starting vector.
    k : int
        How many at either end.
    tol : float
        Residual, relative to the eigenvalue, at which to stop; 0 is working precision. The eigenvalue's own
        error is of the order of its square.
    maxiter : int
        Most restarts, of up to 100 products each (20 where n is above 10^6): so many vectors are held.

    Returns
    -------
    Extremes
        In `eigsh`'s conventions: eigenvalues ascending, column i of the vectors, of unit length, belonging
        to eigenvalue i; the entry of largest magnitude is positive. Vectors stay on the operator's library,
        dtype and device. With residuals ``|A x - θ x|``, which bound the error of each eigenvalue.

    Raises
    ------
    RuntimeError
        If the iteration has not converged.
    """
    op = as_operator(operator)
    require_rng(rng)
    require_count("k", k, 1, op.n)
    xp = array_api_compat.array_namespace(op.like)
    # small problems densely, large ones by Lanczos
    known = op.matrix is not None and op.n <= DENSE_LIMIT
    if known or op.n <= max(256, 8 * k):
        w, vectors = xp.linalg.eigh(op.dense())
        low, high = (w[:k], vectors[:, :k]), (w[op.n - k :], vectors[:, op.n - k :])
    else:
        low, high = (_ends(op, rng, k, which, tol, maxiter) for which in ("SA", "LA"))
    # residuals bound the error of each eigenvalue
    ends = []
    for w, found in (low, high):
        vectors = _signed(xp, found)
        residual = op.hvp(vectors) - vectors * w[None, :]
        norms = xp.linalg.vector_norm(residual, axis=0)
        ends.append((to_host(w).astype(np.float64), to_host(norms).astype(np.float64), vectors))
    (small, small_error, below), (large, large_error, above) = ends
    return Extremes(op.name, small, large, small_error, large_error, op.n, below, above)


def _signed(xp, vectors: Array) -> Array:
    """Return the columns at unit length, signed so that the entry of largest magnitude is positive."""
    place = xp.argmax(xp.abs(vectors), axis=0)
    largest = xp.stack([vectors[int(i), j] for j, i in enumerate(to_host(place))])
    size = xp.linalg.vector_norm(vectors, axis=0)
    return vectors * (xp.sign(largest) / size)[None, :]


def _ends(op: HessianOperator, rng, k: int, which: str, tol: float, maxiter: int) -> tuple[Array, Array]:
    """Return k eigenvalues, ascending, and their vectors, on the operator's library."""
    v0 = draw_probes(op.n, rng, like=op.like)
    xp, device = array_api_compat.array_namespace(op.like), array_api_compat.device(op.like)
    first = op.hvp(v0)
    require_finite(op.name, first)
    if not bool(xp.any(first != 0)):  # H = 0, on which ARPACK fails
        zeros = xp.zeros(k, dtype=op.like.dtype, device=device)
        return zeros, xp.eye(op.n, k, dtype=op.like.dtype, device=device)
    matrix = linear_operator(op)
    options: dict[str, Any] = {"k": k, "which": which, "tol": tol, "maxiter": maxiter}
    options["ncv"] = min(op.n - 1, max(4 * k + 1, 100 if op.n <= 10**6 else 20))
    if array_api_compat.is_cupy_array(op.like):
        from cupyx.scipy.sparse.linalg import eigsh

        w, vectors = eigsh(matrix, v0=v0, **options)
    else:
        from scipy.sparse.linalg import ArpackNoConvergence, eigsh

        try:
            w, vectors = eigsh(matrix, v0=to_host(v0), **options)
        except ArpackNoConvergence as error:
            raise RuntimeError(
                f"{len(error.eigenvalues)} of {k} eigenvalues of {op.name} converged; "
                "raise `maxiter`, `k` or `tol`, or look at `density`"
            ) from None
        w, vectors = (xp.asarray(x, dtype=op.like.dtype, device=device) for x in (w, vectors))
    order = xp.argsort(w)
    return xp.take(w, order), xp.take(vectors, order, axis=1)


def preconditioner_eigenvalues(
    preconditioner: psgd.Preconditioner, state: Any, rng: np.random.Generator | None = None, k: int = 10
) -> Eigenvalues:
    """Return the eigenvalues of a fitted P, all of them where its structure gives them.

    See `psgd_core.Preconditioner.eigenvalues`. A large P without structure, such as a fitted `LowRank` of
    n > 2048, gets the k smallest and largest by Lanczos, for which `rng` is needed.
    """
    op = preconditioner_operator(preconditioner, state)
    name = f"P, {type(preconditioner).__name__}"
    try:
        found = preconditioner.eigenvalues(state)
    except NotImplementedError:  # too large for what is left without structure
        ends = extreme_eigenvalues(op, require_rng(rng), k)
        values = np.concatenate([ends.smallest, ends.largest])
        error = float(max(np.max(ends.smallest_error), np.max(ends.largest_error)))
        return Eigenvalues(name, values, op.n, error)
    return Eigenvalues(name, to_host(found).astype(np.float64), op.n, 0.0)
