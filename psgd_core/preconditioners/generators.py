"""What geometries are made of: a block's pair, the generators made from it, and how they are applied.

Everything acts on blocks (s, s, c), c of them at once; columns are (s, k, c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..arrays import batched
from ..arrays.batched import adjoint, matmul, outer, squares
from ..arrays.library import Array, namespace
from ..arrays.matrices import adjoint as adjoint_of
from ..arrays.symmetric import symmetric_part

Measure = Literal["curvature", "gradient"]
"""The size of a generator: the bound ``|a|^2 + |b|^2`` of the curvature, or the norm of the generator."""


@dataclass
class Pair:
    """A pair (v, h) as a block Q sees it; what is not known is made when it is asked for.

    Parameters
    ----------
    q : array, shape (s, s, c)
        The block, Q or P as the geometry has it.
    k : int
        Probes that are averaged.
    known : dict of arrays, shape (s, columns, c)
        "h" and "v", or "a" and "b"; what is made is kept here.
    noise : array, optional
        0-d: the size of noise on h that is taken in expectation, by s more columns ``noise I`` of h.
    single : bool
        Whether it is one column each (and noise): its curvature bound is then ``|x|^2 + |y|^2``.
    """

    q: Array
    k: int
    known: dict[str, Array]
    noise: Array | None = None
    single: bool = False

    # Kept by hand: functools.cached_property holds a lock in Python 3.11, which torch.compile cannot trace.

    @property
    def a(self) -> Array:
        """``Q h``."""
        if "a" not in self.known:
            a = matmul(self.q, self.known["h"])
            if self.noise is not None:
                a = namespace(a).concat([a, self.noise * self.q], axis=1)
            self.known["a"] = a
        return self.known["a"]

    @property
    def sides(self) -> tuple[Array, Array]:
        """``Q h`` and ``Q^{-T} v``."""
        a = self.a
        if "b" not in self.known:
            self.known["b"] = batched.solve(adjoint(self.q), self.known["v"])
        return a, self.known["b"]

    @property
    def h(self) -> Array:
        """The product."""
        if "h" not in self.known:
            return batched.solve(self.q, self.a)
        if self.noise is None:
            return self.known["h"]
        more = self.noise * batched.identity(self.q.shape[0], self.q.shape[2], self.q)
        return namespace(more).concat([self.known["h"], more], axis=1)

    @property
    def v(self) -> Array:
        """The probe."""
        if "v" not in self.known:
            self.known["v"] = matmul(adjoint(self.q), self.known["b"])
        return self.known["v"]

    @property
    def ph(self) -> Array:
        """``P h = Q^T Q h``."""
        if "ph" not in self.known:
            self.known["ph"] = matmul(adjoint(self.q), self.a)
        return self.known["ph"]


Side = Literal["left", "right", "both"]
"""Where a generator stands."""


class Generator(NamedTuple):
    """``E = (x u^T - y w^T) unit^2 / k`` for each block, or ``U (that ∘ K) U^T``."""

    x: Array  # (s, columns, c)
    u: Array  # x itself where E is symmetric
    y: Array
    w: Array  # y itself where E is symmetric
    k: int
    single: bool
    qu: Array | None = None  # Q^T u and Q^T w, where they are at hand
    qw: Array | None = None
    basis: tuple[Array, Array] | None = None  # U and K of ``U (E ∘ K) U^T``, with K no larger than 1
    unit: Array | float = 1.0  # (c,); these three are set by `in_units`
    grams: tuple[Array, Array] | None = None  # ``x u^T`` and ``y w^T``, where both size and move need them
    squares: tuple[Array, Array] | None = None  # |x| |u| and |y| |w| of each block, (c,)

    @property
    def thin(self) -> bool:
        """Whether there are fewer columns than rows, so that products go by way of them."""
        return self.basis is None and self.x.shape[1] + self.y.shape[1] <= self.x.shape[0]

    @property
    def is_symmetric(self) -> bool:
        """Whether u is x, and w is y."""
        return self.u is self.x and self.w is self.y

    def rescaled(self, up: Array, down: Array) -> Generator:
        """Return E for the pair (up h, v / down); with both c, that of the block c Q but for the unit."""
        x, y = self.x * up, self.y / down
        return self._replace(
            x=x,
            u=x if self.u is self.x else self.u * up,
            y=y,
            w=y if self.w is self.y else self.w / down,
            qu=None if self.qu is None else self.qu * up * down,
        )

    def in_units(self, *, one: bool = False) -> Generator:
        """Return E in units of each block's largest entry, or, `one`, of all blocks': no square overflows."""
        xp, symmetric = namespace(self.x), self.is_symmetric
        unit = xp.maximum(xp.max(xp.abs(self.x), axis=(0, 1)), xp.max(xp.abs(self.y), axis=(0, 1)))
        if not symmetric:
            unit = xp.maximum(unit, xp.max(xp.abs(self.u), axis=(0, 1)))
            unit = xp.maximum(unit, xp.max(xp.abs(self.w), axis=(0, 1)))
        if one:
            unit = xp.max(unit, keepdims=True)
        unit = xp.where(unit > 0, unit, xp.ones_like(unit))
        x, y = self.x / unit, self.y / unit
        u, w = (x, y) if symmetric else (self.u / unit, self.w / unit)
        p, q = squares(x), squares(y)
        if not symmetric:
            p, q = xp.sqrt(p * squares(u)), xp.sqrt(q * squares(w))
        return self._replace(
            x=x,
            u=u,
            y=y,
            w=w,
            qu=None if self.qu is None else self.qu / unit,
            qw=None if self.qw is None else self.qw / unit,
            unit=unit,
            grams=None if self.thin else (outer(x, u), outer(y, w)),
            squares=(p, q),
        )

    # -- of a generator in units -----------------------------------------------------------------------

    def lengths(self) -> tuple[Array, Array]:
        """Return the sizes of both terms, per block, (c,), as lengths: |x| and |y| of a symmetric one."""
        assert self.squares is not None
        sqrt = namespace(self.x).sqrt
        return self.unit * sqrt(self.squares[0]), self.unit * sqrt(self.squares[1])

    def size(self, measure: Measure) -> Array:
        """Return the square root of the curvature bound N, or of the norm of E, per block, (c,).

        N is the largest eigenvalue of ``(x x^T + y y^T) / k``; for one column each ``|x|^2 + |y|^2``.
        """
        return self.unit * namespace(self.x).sqrt(self._square_size(measure) / self.k)

    def _square_size(self, measure: Measure) -> Array:
        assert self.squares is not None
        xp, (p, q) = namespace(self.x), self.squares
        symmetric = self.is_symmetric
        if measure == "gradient":
            if symmetric and self.basis is None and self.x.shape[1] + self.y.shape[1] <= 2:
                # x x^T - y y^T has the eigenvalues ((p - q) +- sqrt((p + q)^2 - 4 r^2)) / 2, r = x.y
                r = xp.abs(matmul(adjoint(self.x), self.y)[0, 0, :])
                root = (p + q - 2 * r) * (p + q + 2 * r)
                return (xp.abs(p - q) + xp.sqrt(xp.maximum(root, xp.zeros_like(root)))) / 2
            return norm(self.matrix()) * self.k
        if not symmetric:  # p and q are the norms of one column each, and bounds of more
            plus = norm(outer(self.x, self.u)) if self.x.shape[1] > 1 else p
            minus = norm(outer(self.y, self.w)) if self.y.shape[1] > 1 else q
            return plus + minus
        if self.single:
            return p + q
        if self.grams is not None:
            return batched.spectral_bound(self.grams[0] + self.grams[1])
        columns = xp.concat([self.x, self.y], axis=1)
        rows = adjoint(columns)
        return batched.spectral_bound(
            outer(columns, columns) if columns.shape[0] <= columns.shape[1] else outer(rows, rows)
        )

    def terms(self) -> tuple[Array, Array]:
        """Return both terms of E over unit^2, (s, s, c), in the basis U where there is one."""
        plus, minus = self.grams or (outer(self.x, self.u), outer(self.y, self.w))
        k = self.k if self.basis is None else self.k / self.basis[1]
        return plus / k, minus / k

    def turned(self, e: Array) -> Array:
        """Return what was made of `terms` out of the basis U."""
        return e if self.basis is None else outer(matmul(self.basis[0], e), self.basis[0])

    def bound_with(self, c: Array) -> Array:
        """Return the bound of ``(x x^T + c y y^T) / k`` over unit^2, per block, (c,)."""
        assert self.squares is not None
        if self.single or self.grams is None:
            return (self.squares[0] + c * self.squares[1]) / self.k
        return batched.spectral_bound(self.grams[0] + c * self.grams[1]) / self.k

    def matrix(self) -> Array:
        """Return E over unit^2, (s, s, c)."""
        plus, minus = self.grams or (outer(self.x, self.u), outer(self.y, self.w))
        e = (plus - minus) / self.k
        if self.basis is None:
            return e
        u, k = self.basis
        return outer(matmul(u, e * k), u)

    def move(self, q: Array, mu: Array, side: Side) -> Array:
        """Return ``(I - mu E) q``, ``q (I - mu E)``, or, "both", half of E on either side; mu over unit^2."""
        if side == "left":
            return q - mu * self._on_left(q)
        if side == "right":
            return q - mu * self._on_right(q)
        half = q - mu / 2 * self._on_left(q)
        return symmetric_part(half - mu / 2 * self._on_right(half))

    def _on_left(self, q: Array) -> Array:
        """Return ``E q``, by columns where there are fewer of them than rows."""
        if not self.thin:
            return matmul(self.matrix(), q)
        qu = matmul(adjoint(q), self.u) if self.qu is None else self.qu
        qw = matmul(adjoint(q), self.w) if self.qw is None else self.qw
        return (outer(self.x, qu) - outer(self.y, qw)) / self.k

    def _on_right(self, q: Array) -> Array:
        """Return ``q E``."""
        if not self.thin:
            return matmul(q, self.matrix())
        return (outer(matmul(q, self.x), self.u) - outer(matmul(q, self.y), self.w)) / self.k


def symmetric(pair: Pair, x: Array, y: Array) -> Generator:
    """Return ``E = (x x^T - y y^T) / k``."""
    return Generator(x, x, y, y, pair.k, pair.single)


class Grams(NamedTuple):
    """``E = (A A^T - B B^T) / k`` for one block, from the Gram matrices of more columns than rows.

    Or for several, (c, s, s), and one unit for each.
    """

    plus: Array  # (..., s, s), in the unit
    minus: Array
    k: int
    unit: Array  # (..., 1)

    def size(self, measure: Measure) -> Array:
        """Return the square root of the curvature bound N, or of the norm of E, (..., 1)."""
        if measure == "gradient":
            e = self.difference
            bound = batched.largest_eigenvalue(e @ adjoint_of(e)) ** 0.5
        else:
            bound = batched.largest_eigenvalue(self.plus + self.minus)
        return self.unit * namespace(self.plus).sqrt(bound if self.k == 1 else bound / self.k)

    @property
    def difference(self) -> Array:
        """Return k E over unit^2, (..., s, s)."""
        return self.plus - self.minus


class Squares(Grams):
    """The same for s blocks of one, entry by entry: all of it is (..., s)."""

    def size(self, measure: Measure) -> Array:
        """Return the square root of each one's bound N, or of the norm of E, (..., s)."""
        xp = namespace(self.plus)
        bound = xp.abs(self.difference) if measure == "gradient" else self.plus + self.minus
        return self.unit * xp.sqrt(bound if self.k == 1 else bound / self.k)


def norm(x: Array) -> Array:
    """Return an upper bound of the spectral norm of each (s, s, c) matrix."""
    return namespace(x).sqrt(batched.spectral_bound(outer(x, x)))
