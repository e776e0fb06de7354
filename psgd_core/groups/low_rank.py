"""The low-rank groups of Theorem 3.3, and the spectrum of what they precondition with (Theorem 3.2).

With U and V of shape (n, r) and a scalar ρ ≠ 0,

    A_V(ρ, U) = ρ (I + U V^T)    for a fixed V: `LowRankFixedV`, parametrised by ρ and U,
    A_U(ρ, V) = ρ (I + U V^T)    for a fixed U: `LowRankFixedU`, parametrised by ρ and V,

each a group, invertible where the r x r matrix ``M = I + V^T U`` is (``det A = ρ^n det M``):

    A_V(U_1) A_V(U_2) = A_V(U_1 + U_2 + U_1 V^T U_2)        A_V(U)^{-1} = A_V(-U M^{-1})
    A_U(V_1) A_U(V_2) = A_U(V_1 + V_2 + V_2 U^T V_1)        A_U(V)^{-1} = A_U(-V M^{-T})

The algebra of the first holds the generators ``s I + E V^T``, that of the second ``s I + U E^T``, with
s any number and E any (n, r) matrix (section D.1.1). A direction of the algebra is stored like an element, s
in place of ρ and E in place of the factor that moves. A small step μ of an element against a direction ∇ is
``compose((1 - μ s, -μ E), a)``, which is section D.1.2's ``U - μ E M``.

Products over the n rows (``V^T U``, ``V^T x``) are summed by `inner`, in the widest float; the r x r algebra
stays in that float, and results have the dtype of U. Only `matrix` and `generator` form n x n matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..arrays.batched import library_solve
from ..arrays.brief import brief
from ..arrays.library import (
    Array,
    device_of,
    eps,
    namespace,
    require_alike,
    require_arrays,
    require_float,
    to_host,
)
from ..arrays.matrices import eye, triangular_factor
from ..arrays.sums import inner
from .lie import LieGroup, require_element, require_vectors


@brief
class LowRankElement(NamedTuple):
    """``ρ (I + U V^T)``, or a direction ``s I + U V^T`` of one of the two Lie algebras (s stored as rho)."""

    rho: Array  # 0-d
    u: Array  # (n, r)
    v: Array  # (n, r)


class Spectrum(NamedTuple):
    """The n eigenvalues of ``P = Q^T Q``, ``Q = ρ (I + U V^T)``: a few values, and one for the rest."""

    values: Array  # (min(n, 2r),), ascending: those that U and V can move
    bulk: Array  # 0-d: ρ^2, the eigenvalue of the rest
    multiplicity: int  # n - min(n, 2r): how many times `bulk` comes on top of `values`


class _LowRank(LieGroup[LowRankElement]):
    """What both groups share: ``ρ (I + U V^T)`` acts in the same way whichever factor is fixed."""

    def element(self, u: Array, v: Array, rho: float | Array = 1.0) -> LowRankElement:
        """Return ``rho (I + u v^T)`` from two (n, r) arrays, r >= 0; `rho` a number or a 0-d array."""
        xp = require_arrays(u=u, v=v)
        if isinstance(rho, int | float):
            rho = xp.asarray(rho, dtype=u.dtype, device=device_of(u))
        return _checked(LowRankElement(rho, u, v))

    def check(self, a: LowRankElement) -> None:
        """Raise ValueError unless `a` is finite and invertible to working precision; looks at the values."""
        a, xp = _checked(a), namespace(a.u)
        for name, x in (("rho", a.rho), ("u", a.u), ("v", a.v)):
            if not bool(xp.all(xp.isfinite(x))):
                raise ValueError(
                    f"`{name}` must be finite, got NaN or Inf; start again from an earlier element"
                )
        if float(a.rho) == 0:
            raise ValueError("`rho` must not be 0, where the element is singular; got 0.0")
        if a.u.shape[1]:
            sigma = xp.linalg.svdvals(_core(a))
            if float(sigma[-1]) <= eps(a.u) * float(sigma[0]):
                raise ValueError(
                    "`I + v^T u` must be invertible, got a smallest over largest singular value of "
                    f"{float(sigma[-1]):.1e} / {float(sigma[0]):.1e}; scale u or v down"
                )

    def apply(self, a: LowRankElement, x: Array) -> Array:
        """Return ``Q x = ρ (x + U V^T x)`` for x of shape (n,) or (n, k); O(n r k)."""
        a, y = _checked_with(a, x)
        return _like(x, a.rho * (y + _thin(a.u, _dots(a.v, y))))

    def apply_transpose(self, a: LowRankElement, x: Array) -> Array:
        """Return ``Q^T x = ρ (x + V U^T x)`` for x of shape (n,) or (n, k); O(n r k)."""
        a, y = _checked_with(a, x)
        return _like(x, a.rho * (y + _thin(a.v, _dots(a.u, y))))

    def solve(self, a: LowRankElement, x: Array) -> Array:
        """Return ``Q^{-1} x = (x - U M^{-1} V^T x) / ρ`` (Woodbury); O(n r (r + k) + r^3).

        The result is not finite where M is exactly singular; `check` finds that out.
        """
        a, y = _checked_with(a, x)
        return _like(x, (y - _thin(a.u, library_solve(_core(a), _dots(a.v, y)))) / a.rho)

    def solve_transpose(self, a: LowRankElement, x: Array) -> Array:
        """Return ``Q^{-T} x = (x - V M^{-T} U^T x) / ρ``; O(n r (r + k) + r^3)."""
        a, y = _checked_with(a, x)
        return _like(x, (y - _thin(a.v, library_solve(_core(a).T, _dots(a.u, y)))) / a.rho)

    def matrix(self, a: LowRankElement) -> Array:
        """Return ``ρ (I + U V^T)`` as a dense (n, n) matrix."""
        a = _checked(a)
        return a.rho * (eye(a.u.shape[0], a.u) + a.u @ a.v.T)

    def log_det(self, a: LowRankElement) -> Array:
        """Return ``log |det Q| = n log |ρ| + log |det M|``, a 0-d array of the element's dtype."""
        a = _checked(a)
        xp, (n, r) = namespace(a.u), a.u.shape
        scaling = n * xp.log(xp.abs(a.rho))
        return scaling + xp.astype(xp.linalg.slogdet(_core(a))[1], a.u.dtype) if r else scaling

    def generator(self, direction: LowRankElement) -> Array:
        """Return the dense (n, n) generator ``s I + U V^T`` of a direction of the algebra (section D.1.1)."""
        direction = _checked(direction)
        return direction.rho * eye(direction.u.shape[0], direction.u) + direction.u @ direction.v.T

    def schur_form(self, a: LowRankElement) -> LowRankElement:
        """Return the same matrix with U and V rotated so that ``V^T U`` is quasi-triangular (section C.1.1).

        ``U V^T = U Z (V Z)^T`` for every orthogonal Z; taken here is the one of the real Schur form
        ``V^T U = Z T Z^T``, T block triangular with blocks of size 1 and 2. LAPACK determines the order
        of the blocks, so it is a normal form up to that order and to signs. The r x r problem is solved on
        the host (SciPy); the result is on the device of `a`.
        """
        import scipy.linalg

        a = _checked(a)
        xp, r = namespace(a.u), a.u.shape[1]
        if r == 0:
            return a
        _, z = scipy.linalg.schur(to_host(_dots(a.v, a.u)), output="real")
        rotation = xp.asarray(np.ascontiguousarray(z), dtype=a.u.dtype, device=device_of(a.u))
        return LowRankElement(a.rho, a.u @ rotation, a.v @ rotation)

    def spectrum(self, a: LowRankElement) -> Spectrum:
        """Return all n eigenvalues of ``P = Q^T Q`` in O(n r^2), from a problem of size 2r (Theorem 3.2).

        ``P/ρ^2 = I + [U V] [[0, I], [I, U^T U]] [U V]^T`` differs from I only on the span of [U V]. With the
        thin factorisation ``[U V] = Z [R_U R_V]``, Z orthonormal, Q/ρ maps that span to itself as
        ``I + R_U R_V^T``, and the squares of its singular values are the eigenvalues there. Taking singular
        values, not eigenvalues of P, resolves eigenvalues down to eps^2 times the largest, not just eps.
        Dependent columns, r = 0 and n < 2r need no special care.
        """
        a = _checked(a)
        xp, (n, r) = namespace(a.u), a.u.shape
        bulk = a.rho * a.rho
        if r == 0:
            return Spectrum(a.u[0, :], bulk, n)
        factor = triangular_factor(a.u, a.v)
        k = factor.shape[0]
        sigma = xp.linalg.svdvals(eye(k, factor) + factor[:, :r] @ factor[:, r:].T)
        scaled = a.rho * xp.astype(xp.flip(sigma), a.u.dtype)
        return Spectrum(scaled * scaled, bulk, n - k)


@dataclass(frozen=True)
class LowRankFixedV(_LowRank):
    """The group ``A_V(ρ, U) = ρ (I + U V^T)`` of Theorem 3.3: V is fixed, ρ and U move.

    Verbs of two elements take V from the first: they check the shapes, and rely on both having the same V.
    """

    def identity(self, v: Array) -> LowRankElement:
        """Return ``A_V(1, 0)`` for a fixed `v` of shape (n, r)."""
        return self.element(require_arrays(v=v).zeros_like(v), v)

    def compose(self, a: LowRankElement, b: LowRankElement) -> LowRankElement:
        """Return the product ``a b``; O(n r^2)."""
        a, b = _checked_pair(a, b)
        return LowRankElement(a.rho * b.rho, a.u + b.u + _thin(a.u, _dots(a.v, b.u)), a.v)

    def inverse(self, a: LowRankElement) -> LowRankElement:
        """Return ``a^{-1} = A_V(1/ρ, -U M^{-1})``; not finite where M is exactly singular; O(n r^2)."""
        a = _checked(a)
        return LowRankElement(1 / a.rho, -_thin(a.u, _inverse(_core(a))), a.v)

    def bracket(self, a: LowRankElement, b: LowRankElement) -> LowRankElement:
        """Return the Lie bracket of two directions, ``E = E_1 V^T E_2 - E_2 V^T E_1`` (section D.1.1)."""
        a, b = _checked_pair(a, b)
        turned = _thin(a.u, _dots(a.v, b.u)) - _thin(b.u, _dots(a.v, a.u))
        return LowRankElement(namespace(a.u).zeros_like(a.rho), turned, a.v)

    def neighbour_move(self, a: LowRankElement, change: Array) -> LowRankElement:
        """Return g with ``g A_V(ρ, U) = A_V(ρ, U + change)``, ``A_V(change M^{-1})`` (D.1.1)."""
        a, change = _checked_with(a, change, "change")
        return LowRankElement(namespace(a.u).ones_like(a.rho), _thin(change, _inverse(_core(a))), a.v)

    def project(self, a: LowRankElement, generator: Array) -> LowRankElement:
        """Pull back `generator`, a gradient in E where dA = E A, to the group's own coordinates.

        The pull-back of section D.1.2: E = s I + E' V^T makes it ``(trace G, G V)`` for G = `generator`.

        Parameters
        ----------
        a : LowRankElement
            Only its V is used.
        generator : array, shape (n, n)

        Returns
        -------
        LowRankElement
            The direction: rho holds ∂/∂s, u holds ∂/∂E'.
        """
        a, generator = _checked_generator(a, generator)
        return LowRankElement(namespace(generator).linalg.trace(generator), generator @ a.v, a.v)


@dataclass(frozen=True)
class LowRankFixedU(_LowRank):
    """The group ``A_U(ρ, V) = ρ (I + U V^T)`` of Theorem 3.3: U is fixed, ρ and V move.

    Verbs of two elements take U from the first: they check the shapes, and rely on both having the same U.
    """

    def identity(self, u: Array) -> LowRankElement:
        """Return ``A_U(1, 0)`` for a fixed `u` of shape (n, r)."""
        return self.element(u, require_arrays(u=u).zeros_like(u))

    def compose(self, a: LowRankElement, b: LowRankElement) -> LowRankElement:
        """Return the product ``a b``; O(n r^2)."""
        a, b = _checked_pair(a, b)
        return LowRankElement(a.rho * b.rho, a.u, a.v + b.v + _thin(b.v, _dots(a.u, a.v)))

    def inverse(self, a: LowRankElement) -> LowRankElement:
        """Return ``a^{-1} = A_U(1/ρ, -V M^{-T})``; not finite where M is exactly singular; O(n r^2)."""
        a = _checked(a)
        return LowRankElement(1 / a.rho, a.u, -_thin(a.v, _inverse(_core(a).T)))

    def bracket(self, a: LowRankElement, b: LowRankElement) -> LowRankElement:
        """Return the Lie bracket of two directions, ``E = E_2 U^T E_1 - E_1 U^T E_2`` (section D.1.1)."""
        a, b = _checked_pair(a, b)
        turned = _thin(b.v, _dots(a.u, a.v)) - _thin(a.v, _dots(a.u, b.v))
        return LowRankElement(namespace(a.u).zeros_like(a.rho), a.u, turned)

    def neighbour_move(self, a: LowRankElement, change: Array) -> LowRankElement:
        """Return g with ``g A_U(ρ, V) = A_U(ρ, V + change)``, ``A_U((I + V U^T)^{-1} change)``."""
        a, change = _checked_with(a, change, "change")
        moved = change - _thin(a.v, library_solve(_core(a).T, _dots(a.u, change)))
        return LowRankElement(namespace(a.u).ones_like(a.rho), a.u, moved)

    def project(self, a: LowRankElement, generator: Array) -> LowRankElement:
        """Pull back `generator`, a gradient in E where dA = E A, to the group's own coordinates.

        The pull-back of section D.1.2: E = s I + U E'^T makes it ``(trace G, G^T U)`` for G = `generator`.

        Parameters
        ----------
        a : LowRankElement
            Only its U is used.
        generator : array, shape (n, n)

        Returns
        -------
        LowRankElement
            The direction: rho holds ∂/∂s, v holds ∂/∂E'.
        """
        a, generator = _checked_generator(a, generator)
        return LowRankElement(namespace(generator).linalg.trace(generator), a.u, generator.T @ a.u)


# -- r x r algebra in the widest float, tall products in the element's own ----------------------------------


def _dots(x: Array, y: Array) -> Array:
    """Return ``x^T y`` for tall x, y, in the widest float."""
    return inner(x.T, y.T)


def _thin(tall: Array, small: Array) -> Array:
    """Return ``tall @ small`` in the dtype of `tall`."""
    return tall @ namespace(tall).astype(small, tall.dtype, copy=False)


def _core(a: LowRankElement) -> Array:
    """Return ``M = I + V^T U``, (r, r), in the widest float."""
    small = _dots(a.v, a.u)
    return eye(small.shape[0], small) + small


def _inverse(m: Array) -> Array:
    return library_solve(m, eye(m.shape[0], m))


def _like(x: Array, y: Array) -> Array:
    """Return the columns `y` in the shape of the argument `x`."""
    return y[:, 0] if x.ndim == 1 else y


# -- what the verbs check: shapes, dtypes, devices, never values --------------------------------------------


def _checked(a: LowRankElement, name: str = "a") -> LowRankElement:
    require_element(name, a, LowRankElement)
    rho, u, v = a
    require_arrays(**{f"{name}.rho": rho, f"{name}.u": u, f"{name}.v": v})
    require_float(f"{name}.u", u)
    require_alike(f"{name}.v", v, f"{name}.u", u)
    require_alike(f"{name}.rho", rho, f"{name}.u", u)
    if u.ndim != 2 or u.shape[0] < 1 or u.shape != v.shape:
        raise ValueError(
            f"`{name}.u` and `{name}.v` must both have shape (n, r), n >= 1, "
            f"got {tuple(u.shape)} and {tuple(v.shape)}; r vectors are the columns of a 2-D array"
        )
    if rho.ndim:
        raise ValueError(f"`{name}.rho` must be a 0-d array, got shape {tuple(rho.shape)}; use `element`")
    return LowRankElement(rho, u, v)


def _checked_pair(a: LowRankElement, b: LowRankElement) -> tuple[LowRankElement, LowRankElement]:
    a, b = _checked(a, "a"), _checked(b, "b")
    require_alike("b.u", b.u, "a.u", a.u)
    if a.u.shape != b.u.shape:
        raise ValueError(
            f"`b` must have the shape of `a`, {tuple(a.u.shape)}, got {tuple(b.u.shape)}; "
            "elements of one group share their fixed factor"
        )
    return a, b


def _checked_with(a: LowRankElement, x: Array, name: str = "x") -> tuple[LowRankElement, Array]:
    """Check `x` against `a`, and return it as columns."""
    a = _checked(a)
    require_vectors(name, x, a.u.shape[0])
    require_alike(name, x, "a.u", a.u)
    if name == "change" and x.shape != a.u.shape:
        raise ValueError(f"`change` must have the shape of `a.u`, {tuple(a.u.shape)}, got {tuple(x.shape)}")
    return a, x[:, None] if x.ndim == 1 else x


def _checked_generator(a: LowRankElement, generator: Array) -> tuple[LowRankElement, Array]:
    a, n = _checked(a), a.u.shape[0]
    require_alike("generator", generator, "a.u", a.u)
    if generator.shape != (n, n):
        raise ValueError(f"`generator` must have shape ({n}, {n}), got {tuple(generator.shape)}")
    return a, generator
