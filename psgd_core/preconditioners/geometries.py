"""The geometries: how Q moves, each in one place, for blocks (s, s, c) of any group that has such blocks.

The criterion's gradient is ``∂c/∂Q = 2 (Q h h^T - Q^{-T} v v^T P^{-1})``. With R = (P h)(P h)^T - v v^T,
which vanishes in expectation at the minimiser and needs no inverse, it is ``2 Q^{-T} R P^{-1}``. Which
direction is steepest depends on the metric, and that is the geometry. Measuring moves ``dQ = X E Y`` by the
size of E gives ``E = -X^T ∂c/∂Q Y^T``, that is (μ stands for step / N):

====================  =====================================================  ==============================
geometry              move                                                   speed of mode (i, j), times μ
====================  =====================================================  ==============================
``EQ``                ``Q <- (I - μ (a a^T - b b^T)) Q``                     ``2 (x + y)``
``QE``                ``Q <- Q (I - μ ((P h) h^T - v (P^{-1} v)^T))``, (5)   ``(x + y) (x/y + y/x)``
``QE-symmetric``      the same, then ``Q <- (Q^T Q)^{1/2}``, (6)             the same
``QEQ``               ``Q <- Q (I - μ R)``                                   ``(x + y)^2 / (x y)``
``Q0.5EQ1.5``         ``Q <- (I - μ R) Q``, then turned symmetric            ``2 (x + y) / sqrt(x y)``
``QUAD``              ``Q <- (I - μ R/2) Q (I - μ R/2)``                     ``(√x + √y)^2 (x + y) / (2 x y)``
``QEP``               ``Q <- (I - μ Q R Q^T) Q``                             ``2 (x + y) / (x y)``
``QUAD4P``            ``P <- (I - μ R/2) P (I - μ R/2)``                     ``(x + y)^2 / (2 x y)``
``PRO4P``             ``P <- (I - μ R) P``, then turned symmetric            ``2``
``Lyapunov``          ``Q <- (I - μ E) Q``, see below                        ``4``
====================  =====================================================  ==============================

The speeds are those of the linearised fit on exact expectations: in the basis in which ``P*^{-1}`` is
diagonal, with x and y its eigenvalues, the error of P in (i, j) shrinks by ``1 - μ speed`` in each update.
They follow from ``dR = dP P^{-1} + P^{-1} dP`` at the minimiser. N is the bound of ``x x^T + y y^T`` for
the columns x, y that E is made of: at the minimiser ``2 h_max`` for ``EQ`` and the two QE, ``2 / h_min`` for
``QEP``, and 2 for all others (`psgd_core.convergence` has `predicted_rate` and `stable_step`). So

- ``EQ`` and ``QEP`` are stable for every step below 1, with rate ``2 step / κ``: the one slow where curvature
  is small, the other where it is large. ``EQ`` alone is equivariant (a change of coordinates in the group
  changes nothing but the coordinates), and is the default.
- ``QEQ``, ``QUAD``, ``Q0.5EQ1.5``, ``QUAD4P`` have the rate ``2 step`` (the last ``step``) whatever κ, but a
  largest stable step that falls with κ: as ``4/κ``, ``8/κ``, ``2/√κ``, ``8/κ``. Beyond it they do not
  diverge, they wander at a distance of 0.05 and more. They need no inverse and no solve.
- ``Lyapunov`` and ``PRO4P`` have neither: every mode contracts by ``1 - 2 step`` (``1 - step``), for every
  step below 1 and every κ.

**Lyapunov** is Newton's method on the group. With ``D = (Q Q^T)^{-1}`` (``= E[b b^T]``, known without having
to be estimated), the criterion's second derivative at its minimiser is ``E -> 2 (E D + D E)`` on symmetric E,
so E solves ``E D + D E = 2 (a a^T - b b^T)``. With ``Q = U S V^T`` this is ``E = U ((V^T R V) ∘ K) U^T``,
``K_ij = 2 s_i s_j / (s_i^2 + s_j^2)``: the generator of ``Q0.5EQ1.5``, those of its modes slowed down that
would be too fast. K is positive semidefinite with a unit diagonal, so N bounds E still; no inverse is
needed; and E takes Q as it is, so that nothing is turned. It costs a singular value decomposition, in closed
form up to s = 2: there ``E = sum ±((Q r)(Q r)^T + (cof(Q) r)(cof(Q) r)^T) / |Q|_F^2`` over r = P h, v.
"Turned symmetric" means the polar factor. ``PRO4P`` takes it from a singular value decomposition, for a P
that is only nearly symmetric loses its definiteness (measured: at κ = 100 and step 0.5); ``Q0.5EQ1.5`` is
content with a rotation towards it in each update, two products; up to s = 2 a rotation makes it exact.

A geometry gets a `Pair` and returns a `Generator`; `move` then applies it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..arrays import batched
from ..arrays.arguments import described
from ..arrays.library import Array, eps, namespace
from .generators import Generator, Pair, outer


class Geometry(ABC):
    """How Q (or P) moves."""

    side: ClassVar[Literal["left", "right", "both"]] = "left"
    """Where the generator stands."""
    fits_p: ClassVar[bool] = False
    """Whether the blocks are those of P, and Q is their symmetric root."""
    retracts: ClassVar[bool] = True
    """Whether `retract` may do anything."""
    degree: ClassVar[int] = 2
    """x of ``x x^T - y y^T`` goes with the power `degree` of Q's scale, and y with ``degree - 2``."""

    @abstractmethod
    def generator(self, pair: Pair) -> Generator:
        """Return E for a pair."""

    def move(self, q: Array, e: Generator, mu: Array) -> Array:
        """Return the block after the move, with mu of shape (c,) or ()."""
        if self.side == "left":
            return q - mu * e.on_left(q)
        if self.side == "right":
            return q - mu * e.on_right(q)
        half = q - mu / 2 * e.on_left(q)
        return symmetric_part(half - mu / 2 * e.on_right(half))

    def retract(self, q: Array) -> Array:
        """Return the block that the moved one stands for; it is finite."""
        return q


@dataclass(frozen=True)
class EQ(Geometry):
    """``dQ = E Q``: the left generator of eq. (11), equivariant."""

    retracts: ClassVar[bool] = False
    degree: ClassVar[int] = 1

    def generator(self, pair: Pair) -> Generator:
        """Return ``a a^T - b b^T``; ``b^T Q = v^T``."""
        return Generator.square(pair, pair.a, pair.b, (pair.ph, pair.v) if pair.has_v else None)


@dataclass(frozen=True)
class QE(Geometry):
    """``dQ = Q E``: the right generator, eq. (5); with `symmetric`, eq. (6), where Q converges as a point."""

    symmetric: bool = False
    side: ClassVar[Literal["left", "right", "both"]] = "right"
    degree: ClassVar[int] = 1

    def generator(self, pair: Pair) -> Generator:
        """Return ``(P h) h^T - v (P^{-1} v)^T``."""
        x, u = _even(pair.ph, pair.h)
        y, w = _even(pair.v, batched.solve(pair.q, pair.b))
        return Generator(x, u, y, w, pair.k, pair.single)

    def retract(self, q: Array) -> Array:
        """Return ``(Q^T Q)^{1/2}`` under (6)."""
        return symmetric_root(q) if self.symmetric else q


@dataclass(frozen=True)
class Residual(Geometry):
    """``R = (P h)(P h)^T - v v^T`` on the left, on the right, or half on both sides; of Q or of P."""

    where: Literal["left", "right", "both"] = "left"
    of_p: bool = False

    @property
    def side(self) -> Literal["left", "right", "both"]:  # type: ignore[override]
        """Where R stands."""
        return self.where

    @property
    def fits_p(self) -> bool:  # type: ignore[override]
        """Whether the blocks are those of P."""
        return self.of_p

    def generator(self, pair: Pair) -> Generator:
        """Return R; what is called a for Q is ``P h`` where the block is P."""
        return Generator.square(pair, pair.a if self.of_p else pair.ph, pair.v)

    def retract(self, q: Array) -> Array:
        """Return the block turned symmetric, where R stood on the left alone."""
        if self.where != "left":
            return q
        return symmetric_root(q) if self.of_p else towards_symmetry(q)


@dataclass(frozen=True)
class QEP(Geometry):
    """``dQ = Q E P``: ``Q R Q^T`` on the left."""

    degree: ClassVar[int] = 3

    def generator(self, pair: Pair) -> Generator:
        """Return ``(Q P h)(Q P h)^T - (Q v)(Q v)^T``."""
        return Generator.square(pair, batched.matmul(pair.q, pair.ph), batched.matmul(pair.q, pair.v))


@dataclass(frozen=True)
class Lyapunov(Geometry):
    """Newton's method on the group: ``E D + D E = 2 (a a^T - b b^T)`` with ``D = (Q Q^T)^{-1}``."""

    def generator(self, pair: Pair) -> Generator:
        """Return E, by closed forms up to s = 2."""
        xp, q = namespace(pair.q), pair.q
        if q.shape[0] == 1:
            return Generator.square(pair, pair.ph, pair.v)
        if q.shape[0] == 2 and not batched.is_complex(q):
            largest = xp.max(xp.abs(q), axis=(0, 1))
            unit = q / xp.where(largest > 0, largest, xp.ones_like(largest))
            unit = unit / xp.sqrt(xp.sum(unit * unit, axis=(0, 1)))
            cof = xp.stack(
                [xp.stack([unit[1, 1, :], -unit[1, 0, :]]), xp.stack([-unit[0, 1, :], unit[0, 0, :]])]
            )
            x, y = (
                xp.concat([batched.matmul(unit, r), batched.matmul(cof, r)], axis=1)
                for r in (pair.ph, pair.v)
            )
            return Generator.square(pair, x, y)
        u, s, vt = _singular(q)
        e = Generator.square(pair, batched.matmul(vt, pair.ph), batched.matmul(vt, pair.v))
        s = xp.maximum(s, eps(s) ** 2 * xp.max(s, axis=0))  # a singular Q is no reason for 0 / 0
        ratio = s[:, None, :] / s[None, :, :]
        return e._replace(basis=(u, 2 / (ratio + 1 / ratio)))


GEOMETRIES: dict[str, Geometry] = {
    "EQ": EQ(),
    "QE": QE(),
    "QE-symmetric": QE(symmetric=True),
    "QEQ": Residual("right"),
    "Q0.5EQ1.5": Residual("left"),
    "QUAD": Residual("both"),
    "QEP": QEP(),
    "QUAD4P": Residual("both", of_p=True),
    "PRO4P": Residual("left", of_p=True),
    "Lyapunov": Lyapunov(),
}
"""By name."""


def require_geometry(geometry: str) -> None:
    """Raise unless `geometry` is the name of one."""
    if not isinstance(geometry, str) or geometry not in GEOMETRIES:
        names = ", ".join(map(repr, GEOMETRIES))
        raise ValueError(f"`geometry` must be one of {names}, got {described(geometry)}")


# -- symmetric blocks ------------------------------------------------------------------------------------


def symmetric_part(q: Array) -> Array:
    """Return ``(Q + Q^T) / 2`` of each block."""
    return (q + batched.adjoint(q)) / 2


def symmetric_root(q: Array) -> Array:
    """Return ``(Q^T Q)^{1/2}`` of each block, eq. (6), from singular values: nothing is squared."""
    _, s, vt = _singular(q)
    return outer(batched.adjoint(vt) * s[None, :, :], batched.adjoint(vt))


def root_of(p: Array) -> Array:
    """Return ``P^{1/2}`` of each positive definite block, NaN where it is not."""
    xp = namespace(p)
    if p.shape[0] == 1:
        return xp.sqrt(p)
    w, v = xp.linalg.eigh(xp.permute_dims(p, (2, 0, 1)))
    v = xp.permute_dims(v, (1, 2, 0))
    return outer(v * xp.sqrt(xp.matrix_transpose(w))[None, :, :], v)


def towards_symmetry(q: Array) -> Array:
    """Return ``U Q``, U a rotation that makes each block symmetric; or nearly so, and more so every time.

    Of all rotations the polar factor's maximises ``tr(U Q)`` (Procrustes). Up to size 2 it is known in closed
    form. Above, U follows ``exp(t K)``, ``K = Q^T - Q``, to second order, with the t that is best
    to second order, but ``|t K| <= 1/4``; so U is orthogonal up to ``|t K|^4 / 4``, and exactly in the limit.
    """
    xp, s = namespace(q), q.shape[0]
    if s == 1:
        return xp.abs(q)
    skew = batched.adjoint(q) - q
    largest = xp.max(xp.abs(skew), axis=(0, 1))
    one = xp.ones_like(largest)
    if s == 2 and not batched.is_complex(q):
        c, t = q[0, 0, :] + q[1, 1, :], q[0, 1, :] - q[1, 0, :]
        unit = xp.maximum(xp.abs(c), xp.abs(t))
        unit = xp.where(unit > 0, unit, one)
        length = xp.sqrt((c / unit) ** 2 + (t / unit) ** 2) * unit
        c, t = (z / xp.where(length > 0, length, one) for z in (xp.where(length > 0, c, one), t))
        turn = xp.stack([xp.stack([c, -t]), xp.stack([t, c])])
        return batched.matmul(turn, q)
    skew = skew / xp.where(largest > 0, largest, one)
    kq = batched.matmul(skew, q)
    kkq = batched.matmul(skew, kq)
    first, second = xp.abs(batched.trace(kq)), -batched.trace(kkq)
    length = xp.sqrt(xp.sum(batched.square(skew), axis=(0, 1)))
    most = 0.25 / xp.where(length > 0, length, one)
    t = xp.where(second > 0, xp.minimum(first / xp.where(second > 0, second, one), most), most)
    return q + t * (kq + t / 2 * kkq)


def _singular(q: Array) -> tuple[Array, Array, Array]:
    """Return U (s, s, c), the singular values (s, c) and V^T (s, s, c) of each block."""
    xp = namespace(q)
    u, s, vt = xp.linalg.svd(xp.permute_dims(q, (2, 0, 1)), full_matrices=False)
    return xp.permute_dims(u, (1, 2, 0)), xp.matrix_transpose(s), xp.permute_dims(vt, (1, 2, 0))


def _even(x: Array, u: Array) -> tuple[Array, Array]:
    """Return x and u scaled to equal size, ``x u^T`` the same: so that no unit suits only one of them."""
    xp = namespace(x)
    big, small = xp.max(xp.abs(x), axis=(0, 1)), xp.max(xp.abs(u), axis=(0, 1))
    some = (big > 0) & (small > 0)
    one = xp.ones_like(big)
    c = xp.sqrt(xp.where(some, small, one)) / xp.sqrt(xp.where(some, big, one))
    return x * c, u / c
