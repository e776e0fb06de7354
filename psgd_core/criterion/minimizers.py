"""The exact minimisers of the criterion, over GL(n) and over every group of Theorem 3.1.

Over all positive definite P, the criterion ``c(P) = tr(P M + P^{-1})``, ``M = H_0^2 + E[ε ε^T]``, has the
unique minimiser ``P* = M^{-1/2}``, ``|H_0|^{-1}`` without noise. A group of Theorem 3.1 is the product of
GL(|O|) over the orbits O of its subgroup, so P has one block per orbit, only these blocks of M matter, and
the minimiser is ``P*_O = (M_OO)^{-1/2}`` on each orbit, whether H is definite or not, and whether or not it
has the orbits' pattern.

M is never formed, because that would square the condition number: with ``A = [H_0; R]``, ``R^T R`` the
noise's covariance, ``M_OO = A_O^T A_O`` for the columns A_O. So the right singular vectors of A_O are the
eigenvectors of M_OO, and its singular values the square roots of the eigenvalues. Where M_OO is singular
there is no minimiser: exact zeros give Inf and NaN there, rounded ones values of the order of 1/(eps |H|).
Call `check_hessian` to find out beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays.arguments import described
from ..arrays.library import (
    Array,
    Namespace,
    device_of,
    eps,
    namespace,
    require_alike,
    require_arrays,
    require_float,
)
from ..arrays.sums import unit_of

Orbits = Sequence[np.ndarray]
"""The orbits of a permutation subgroup: per orbit size s one integer array (s, c), an orbit per column (the
`orbit_index` of a `PermutationSubgroup`); a plain sequence of indices, shape (s,), counts as one orbit."""


@dataclass(frozen=True)
class Spectral:
    """``P*^{-1}`` by its eigenvalues and eigenvectors, orbit by orbit."""

    index: tuple[np.ndarray, ...]  # per orbit size: (s, c) members, on the host
    values: tuple[Array, ...]  # per orbit size: (c, s) eigenvalues of P*_O^{-1} = (M_OO)^{1/2}
    vectors: tuple[Array, ...]  # per orbit size: (c, s, s), an eigenvector per column

    def power(self, exponent: float) -> Array:
        """Return ``P*^{-exponent}`` as a dense (n, n) matrix."""
        xp = namespace(*self.values)
        blocks = []
        for w, vectors in zip(self.values, self.vectors, strict=True):
            half = vectors * (w ** (exponent / 2))[:, None, :]
            blocks.append(half @ xp.matrix_transpose(half))
        return _scatter(xp, self.index, blocks)


def spectral(hessian: Array, orbits: Orbits | None = None, noise: Array | None = None) -> Spectral:
    """Return the eigenvalues and eigenvectors of ``P*^{-1}`` over the group with the given orbits."""
    xp, n = require_square("hessian", hessian)
    if orbits is None and noise is None:
        w, vectors = xp.linalg.eigh(hessian)  # a symmetric H needs no singular value decomposition
        return Spectral((np.arange(n)[:, None],), (xp.abs(w)[None, :],), (vectors[None, :, :],))
    index = (np.arange(n)[:, None],) if orbits is None else _host_orbits(orbits, n)
    values, vectors = [], []
    for stack in _columns(xp, hessian, noise, index):
        _, w, right = xp.linalg.svd(stack, full_matrices=False)
        values.append(w)
        vectors.append(xp.matrix_transpose(right))
    return Spectral(index, tuple(values), tuple(vectors))


def absolute_inverse(hessian: Array) -> Array:
    """Return ``|H|^{-1}``, the limit of P over GL(n) without noise, for any invertible H (Theorem A.1).

    Parameters
    ----------
    hessian : array, shape (n, n)
        Symmetric (not checked: only one triangle is read) and invertible.

    Returns
    -------
    array, shape (n, n)
        Through the eigenvalues of H itself, O(n^3).
    """
    return spectral(hessian).power(-1)


def minimizer(hessian: Array, noise: Array | None = None) -> Array:
    """Return ``P* = (H^2 + E[ε ε^T])^{-1/2}``, the minimiser over GL(n) (Theorem A.1).

    This is the limit of P; the limit of Q is its square root ``|H|^{-1/2}``, up to a rotation from the left.

    Parameters
    ----------
    hessian : array, shape (n, n)
        Symmetric.
    noise : array, shape (n, n), optional
        ``E[ε ε^T]``, the covariance of the noise of the Hessian-vector products: symmetric and positive
        semidefinite (negative eigenvalues count as 0). A damping λ is the covariance ``λ^2 I``.

    Returns
    -------
    array, shape (n, n)
        At an O(n^3) cost, without squaring the condition number.

    Raises
    ------
    ValueError, TypeError
        If an argument is not a square float matrix, or the two do not match.
    """
    return spectral(hessian, None, noise).power(-1)


def group_minimizer(hessian: Array, orbits: Orbits, noise: Array | None = None) -> Array:
    """Return the criterion's minimiser over the group of Theorem 3.1 with the given orbits.

    ``P*_O = ((H^2 + E[ε ε^T])_OO)^{-1/2}`` on every orbit O, 0 elsewhere. With n orbits of one member this is
    the diagonal of ESGD and AdaHessian, ``1/sqrt((H^2)_ii)``.

    Parameters
    ----------
    hessian : array, shape (n, n)
        Symmetric; it need not have the orbits' pattern.
    orbits : sequence of integer arrays, shape (s, c)
        One array for each orbit size s, an orbit per column (`PermutationSubgroup.orbit_index`); or plain
        sequences of indices, an orbit each. Together they hold every index once. Host arrays.
    noise : array, shape (n, n), optional
        ``E[ε ε^T]``, as for `minimizer`.

    Returns
    -------
    array, shape (n, n)
        Dense; O(n^2 s) operations for orbits of size s.

    Raises
    ------
    ValueError, TypeError
        If the orbits are not a partition of the indices, or the matrices do not match.
    """
    return spectral(hessian, orbits, noise).power(-1)


def scalar_minimizer(hessian: Array, noise: Array | None = None) -> Array:
    """Return the best scale ρ^2 of ``P = ρ^2 I``: ``ρ^2 = sqrt(n / tr M)``, a 0-d array."""
    xp, n = require_square("hessian", hessian)
    unit = unit_of(hessian)
    trace: Array = xp.sum((hessian / unit) ** 2)
    if noise is not None:
        require_same("noise", noise, "hessian", hessian)
        trace = trace + xp.linalg.trace(noise) / unit / unit
    return xp.sqrt(n / trace) / unit


def spectra(hessian: Array, orbits: Orbits | None = None, noise: Array | None = None) -> tuple[Array, ...]:
    """Return the eigenvalues of ``P*_O^{-1} = (M_OO)^{1/2}`` for every orbit, which determine the rates.

    Parameters
    ----------
    hessian, orbits, noise
        As for `group_minimizer`; without orbits the group is GL(n), with neither the values are ``|λ_i(H)|``.

    Returns
    -------
    tuple of arrays, shape (s, c)
        One array per orbit size, an orbit's eigenvalues per column, in no particular order.
    """
    xp = require_arrays(hessian=hessian)
    return tuple(xp.matrix_transpose(w) for w in spectral(hessian, orbits, noise).values)


def minimum(hessian: Array, orbits: Orbits | None = None, noise: Array | None = None) -> Array:
    """Return the least value of the criterion over the group, ``c(P*) = 2 tr(P*^{-1})``, a 0-d array.

    On every orbit ``P*_O M_OO = P*_O^{-1}``, so both terms of ``tr(P M) + tr(P^{-1})`` are equal there. It is
    twice the sum of `spectra`, and exists for a singular M as well, as an infimum.
    """
    xp = require_arrays(hessian=hessian)
    total = xp.zeros((), dtype=hessian.dtype, device=device_of(hessian))
    for values in spectra(hessian, orbits, noise):
        total = total + 2 * xp.sum(values)
    return total


def check_hessian(hessian: Array, orbits: Orbits | None = None, noise: Array | None = None) -> None:
    """Raise ValueError unless the minimiser exists; waits for the values, so it is meant for user input.

    Raises
    ------
    ValueError
        If a matrix is not finite or not symmetric, the noise's covariance has negative eigenvalues, or M is
        singular on an orbit, each by more than rounding explains.
    """
    xp, n = require_square("hessian", hessian)
    matrices = {"hessian": hessian} if noise is None else {"hessian": hessian, "noise": noise}
    for name, x in matrices.items():
        require_square(name, x)
        if not bool(xp.all(xp.isfinite(x))):
            raise ValueError(f"`{name}` must be finite, got NaN or Inf among its entries; remove them")
        size, skew = float(xp.max(xp.abs(x))), float(xp.max(xp.abs(x - x.T)))
        if skew > 64 * eps(x) * size:
            raise ValueError(
                f"`{name}` must be symmetric, got entries that differ from their mirror image by up to "
                f"{skew:.2g} of {size:.2g}; symmetrise it, (x + x.T) / 2, if that is what you mean"
            )
    if noise is not None:
        require_same("noise", noise, "hessian", hessian)
        w = xp.linalg.eigvalsh(noise)
        least = float(xp.min(w))
        if least < -8 * n * eps(noise) * float(xp.max(xp.abs(w))):
            raise ValueError(
                f"`noise` must be a covariance, positive semidefinite, got an eigenvalue of {least:.3g}; "
                "give E[ε ε^T], not its root"
            )
    for values in spectra(hessian, orbits, noise):
        low, high = xp.min(values, axis=0), xp.max(values, axis=0)
        if not bool(xp.all(low > n * eps(hessian) * high)):
            raise ValueError(
                f"`hessian` must be invertible (its columns independent on every orbit), got singular values "
                f"down to {float(xp.min(low)):.3g}; add `noise`, such as a damping λ^2 I"
            )


# -- shared checks and gathers -------------------------------------------------------------------------


def require_square(name: str, x: Array) -> tuple[Namespace, int]:
    """Return (namespace, n) of a square float matrix `x`, or raise."""
    xp = require_arrays(**{name: x})
    require_float(name, x)
    if x.ndim != 2 or x.shape[0] != x.shape[1] or x.shape[0] == 0:
        raise ValueError(f"`{name}` must be a square matrix of shape (n, n), got shape {tuple(x.shape)}")
    return xp, x.shape[0]


def require_same(name: str, x: Array, other_name: str, other: Array) -> None:
    """Raise unless `x` is like the array `other` and has its shape."""
    require_alike(name, x, other_name, other)
    if x.shape != other.shape:
        raise ValueError(
            f"`{name}` must have the shape of `{other_name}`, {tuple(other.shape)}, got {tuple(x.shape)}"
        )


def _host_orbits(orbits: Orbits, n: int) -> tuple[np.ndarray, ...]:
    """Return the orbits as (s, c) integer arrays, after checking that they are a partition of range(n)."""
    try:
        found = [np.array(members) for members in orbits]  # copies: torch warns of read-only arrays
    except Exception:  # not a sequence, rows of several lengths, an array of a device
        raise TypeError(
            f"`orbits` must be a sequence of integer arrays on the host, got {described(orbits)}; "
            "give `PermutationSubgroup.orbit_index`"
        ) from None
    arrays = tuple(a[:, None] if a.ndim == 1 else a for a in found)
    for a in arrays:
        if a.ndim != 2 or a.dtype.kind not in "iu" or a.shape[0] == 0:
            raise ValueError(
                "`orbits` must hold integer arrays of shape (s, c), an orbit per column, got one of shape "
                f"{a.shape} and dtype {a.dtype}; give `PermutationSubgroup.orbit_index`"
            )
    members = np.concatenate([a.reshape(-1) for a in arrays]) if arrays else np.zeros(0, dtype=int)
    if not np.array_equal(np.sort(members), np.arange(n)):
        raise ValueError(
            f"`orbits` must hold every index of range({n}) exactly once, got {members.size} indices, "
            f"{np.unique(members).size} of them distinct; they must fit the (n, n) matrices"
        )
    return arrays


def _columns(
    xp: Namespace, hessian: Array, noise: Array | None, index: tuple[np.ndarray, ...]
) -> list[Array]:
    """Return per orbit size the columns of ``[H; R]`` that belong to each orbit, (c, m, s)."""
    stacked, device = hessian, device_of(hessian)
    if noise is not None:
        require_same("noise", noise, "hessian", hessian)
        w, vectors = xp.linalg.eigh(noise)
        root = xp.sqrt(xp.where(w > 0, w, xp.zeros_like(w)))
        stacked = xp.concat([hessian, root[:, None] * vectors.T], axis=0)
    parts = []
    for members in index:
        s, c = members.shape
        picked = xp.take(stacked, xp.asarray(members.reshape(-1), device=device), axis=1)
        parts.append(xp.permute_dims(xp.reshape(picked, (-1, s, c)), (2, 0, 1)))
    return parts


def _scatter(xp: Namespace, index: tuple[np.ndarray, ...], blocks: list[Array]) -> Array:
    """Return the dense (n, n) matrix with the (c, s, s) blocks on the orbits, as one gather."""
    n, like = sum(members.size for members in index), blocks[0]
    device = device_of(like)
    zero = xp.zeros(1, dtype=like.dtype, device=device)
    entries = xp.concat([zero, *(xp.reshape(block, (-1,)) for block in blocks)])
    place, start = np.zeros((n, n), dtype=np.int64), 1  # of each entry; 0 is that of the zero
    for members in index:
        s, c = members.shape
        own = start + np.arange(c * s * s).reshape(c, s, s)
        place[members[:, None, :], members[None, :, :]] = own.transpose(1, 2, 0)
        start += own.size
    return xp.reshape(xp.take(entries, xp.asarray(place.reshape(-1), device=device)), (n, n))
