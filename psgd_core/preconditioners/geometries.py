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

A geometry makes a `Generator` from a `Pair`, says where it stands, and knows its speeds and its bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..arrays.arguments import require_choice
from ..arrays.batched import is_complex, matmul, solve
from ..arrays.library import Array, eps, namespace
from ..arrays.symmetric import svd, symmetric_root, towards_symmetry
from .generators import Generator, Pair, Side, symmetric

Value = Any
"""A number, or an array of them."""


class Geometry(ABC):
    """How Q (or P) moves."""

    side: ClassVar[Side] = "left"
    """Where the generator stands."""
    fits_p: ClassVar[bool] = False
    """Whether the blocks are those of P, and Q is their symmetric root."""
    retracts: ClassVar[bool] = True
    """Whether `retract` may do anything."""
    degree: ClassVar[int] = 2
    """x of ``x x^T - y y^T`` goes with the power `degree` of Q's scale, and y with ``degree - 2``."""

    is_newton: ClassVar[bool] = False
    """Whether E is four times Newton's move, the same for all modes, and that of ``E[b b^T]`` is I."""

    @abstractmethod
    def generator(self, pair: Pair) -> Generator:
        """Return E for a pair."""

    @abstractmethod
    def speed(self, x: Value, y: Value, low: Value, top: Value) -> Value:
        """Return the speed of mode (i, j) over N, to first order in the step.

        Parameters
        ----------
        x, y : float or array
            The modes' eigenvalues of ``P*^{-1}``.
        low, top : float or array
            The smallest and the largest eigenvalue of the block.
        """

    def bound(self, low: Array, top: Array) -> Array:
        """Return N at the minimiser."""
        return 2 * namespace(top).ones_like(top)

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
        e = symmetric(pair, *pair.sides)
        return e._replace(qu=pair.ph, qw=pair.v) if e.thin and "v" in pair.known else e

    def speed(self, x: Value, y: Value, low: Value, top: Value) -> Value:
        """Return ``(x + y) / top``."""
        return x / top + y / top

    def bound(self, low: Array, top: Array) -> Array:
        """Return ``2 top``."""
        return 2 * top


@dataclass(frozen=True)
class QE(Geometry):
    """``dQ = Q E``: the right generator, eq. (5); with `symmetric`, eq. (6), where Q converges as a point."""

    symmetric: bool = False
    side: ClassVar[Side] = "right"
    degree: ClassVar[int] = 1

    def generator(self, pair: Pair) -> Generator:
        """Return ``(P h) h^T - v (P^{-1} v)^T``."""
        x, u = _even(pair.ph, pair.h)
        y, w = _even(pair.v, solve(pair.q, pair.sides[1]))
        return Generator(x, u, y, w, pair.k, pair.single)

    def speed(self, x: Value, y: Value, low: Value, top: Value) -> Value:
        """Return ``(x + y) / top (x/y + y/x) / 2``."""
        return (x / top + y / top) * (x / y + y / x) / 2

    def bound(self, low: Array, top: Array) -> Array:
        """Return ``2 top``."""
        return 2 * top

    def retract(self, q: Array) -> Array:
        """Return ``(Q^T Q)^{1/2}`` under (6)."""
        return symmetric_root(q) if self.symmetric else q


class Residual(Geometry):
    """What moves by ``R = (P h)(P h)^T - v v^T``, which needs no inverse."""

    def generator(self, pair: Pair) -> Generator:
        """Return R; what is called a for Q is ``P h`` where the block is P."""
        return symmetric(pair, pair.a if self.fits_p else pair.ph, pair.v)


@dataclass(frozen=True)
class QEQ(Residual):
    """``dQ = Q E Q``: R on the right."""

    side: ClassVar[Side] = "right"
    retracts: ClassVar[bool] = False

    def speed(self, x: Value, y: Value, low: Value, top: Value) -> Value:
        """Return ``(2 + x/y + y/x) / 2``."""
        return (2 + x / y + y / x) / 2


@dataclass(frozen=True)
class Q05EQ15(Residual):
    """``dQ = Q^0.5 E Q^1.5``: R on the left, and Q turned symmetric."""

    def speed(self, x: Value, y: Value, low: Value, top: Value) -> Value:
        """Return ``sqrt(x/y) + sqrt(y/x)``."""
        return _balance(x, y)

    def retract(self, q: Array) -> Array:
        """Return the block turned towards symmetry."""
        return towards_symmetry(q)


@dataclass(frozen=True)
class QUAD(Residual):
    """Half of R on the left, and half on the right."""

    side: ClassVar[Side] = "both"
    retracts: ClassVar[bool] = False

    def speed(self, x: Value, y: Value, low: Value, top: Value) -> Value:
        """Return ``(b + 2) b / 4`` with ``b = sqrt(x/y) + sqrt(y/x)``."""
        return (_balance(x, y) + 2) * _balance(x, y) / 4


@dataclass(frozen=True)
class QUAD4P(QUAD):
    """The same move, of P."""

    fits_p: ClassVar[bool] = True

    def speed(self, x: Value, y: Value, low: Value, top: Value) -> Value:
        """Return ``(2 + x/y + y/x) / 4``."""
        return (2 + x / y + y / x) / 4


@dataclass(frozen=True)
class PRO4P(Residual):
    """R on the left, of P, and P turned symmetric: proximal steps."""

    fits_p: ClassVar[bool] = True

    def speed(self, x: Value, y: Value, low: Value, top: Value) -> Value:
        """Return 1."""
        return 1 + 0 * (x + y)

    def retract(self, q: Array) -> Array:
        """Return the polar factor."""
        return symmetric_root(q)


@dataclass(frozen=True)
class QEP(Geometry):
    """``dQ = Q E P``: ``Q R Q^T`` on the left."""

    retracts: ClassVar[bool] = False
    degree: ClassVar[int] = 3

    def generator(self, pair: Pair) -> Generator:
        """Return ``(Q P h)(Q P h)^T - (Q v)(Q v)^T``."""
        return symmetric(pair, matmul(pair.q, pair.ph), matmul(pair.q, pair.v))

    def speed(self, x: Value, y: Value, low: Value, top: Value) -> Value:
        """Return ``low (1/x + 1/y)``."""
        return low / x + low / y

    def bound(self, low: Array, top: Array) -> Array:
        """Return ``2 / low``."""
        return 2 / low


@dataclass(frozen=True)
class Lyapunov(Geometry):
    """Newton's method on the group: ``E D + D E = 2 (a a^T - b b^T)`` with ``D = (Q Q^T)^{-1}``."""

    retracts: ClassVar[bool] = False
    is_newton: ClassVar[bool] = True

    def speed(self, x: Value, y: Value, low: Value, top: Value) -> Value:
        """Return 2."""
        return 2 + 0 * (x + y)

    def generator(self, pair: Pair) -> Generator:
        """Return E, by closed forms up to s = 2."""
        xp, q = namespace(pair.q), pair.q
        if q.shape[0] == 1:
            return symmetric(pair, pair.ph, pair.v)
        if q.shape[0] == 2 and not is_complex(q):
            largest = xp.max(xp.abs(q), axis=(0, 1))
            unit = q / xp.where(largest > 0, largest, xp.ones_like(largest))
            unit = unit / xp.sqrt(xp.sum(unit * unit, axis=(0, 1)))
            cof = xp.stack(
                [xp.stack([unit[1, 1, :], -unit[1, 0, :]]), xp.stack([-unit[0, 1, :], unit[0, 0, :]])]
            )
            x, y = (xp.concat([matmul(unit, r), matmul(cof, r)], axis=1) for r in (pair.ph, pair.v))
            return symmetric(pair, x, y)
        u, s, vt = svd(q)
        e = symmetric(pair, matmul(vt, pair.ph), matmul(vt, pair.v))
        s = xp.maximum(s, eps(s) ** 2 * xp.max(s, axis=0))  # a singular Q is no reason for 0 / 0
        ratio = s[:, None, :] / s[None, :, :]
        return e._replace(basis=(u, 2 / (ratio + 1 / ratio)))


GeometryName = Literal[
    "EQ", "QE", "QE-symmetric", "QEQ", "Q0.5EQ1.5", "QUAD", "QEP", "QUAD4P", "PRO4P", "Lyapunov"
]

GEOMETRIES: dict[GeometryName, Geometry] = {
    "EQ": EQ(),
    "QE": QE(),
    "QE-symmetric": QE(symmetric=True),
    "QEQ": QEQ(),
    "Q0.5EQ1.5": Q05EQ15(),
    "QUAD": QUAD(),
    "QEP": QEP(),
    "QUAD4P": QUAD4P(),
    "PRO4P": PRO4P(),
    "Lyapunov": Lyapunov(),
}
"""By name."""


def geometry_of(name: GeometryName) -> Geometry:
    """Return the geometry of that name, or raise ValueError."""
    require_choice("geometry", name, GEOMETRIES)
    return GEOMETRIES[name]


def _balance(x: Value, y: Value) -> Value:
    """Return ``sqrt(x/y) + sqrt(y/x)``."""
    return (x / y) ** 0.5 + (y / x) ** 0.5


def _even(x: Array, u: Array) -> tuple[Array, Array]:
    """Return x and u scaled to equal size, ``x u^T`` the same: so that no unit suits only one of them."""
    xp = namespace(x)
    big, small = xp.max(xp.abs(x), axis=(0, 1)), xp.max(xp.abs(u), axis=(0, 1))
    some = (big > 0) & (small > 0)
    one = xp.ones_like(big)
    c = xp.sqrt(xp.where(some, small, one)) / xp.sqrt(xp.where(some, big, one))
    return x * c, u / c
