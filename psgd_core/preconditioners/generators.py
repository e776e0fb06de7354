"""What geometries are made of: a block's pair, the generators made from it, and how they are applied.

Everything acts on blocks (s, s, c), c of them at once; columns are (s, k, c).
"""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import batched
from ..arrays.library import Array, namespace


class Pair:
    """A pair (v, h) as a block Q sees it; what is not at hand is made when it is asked for.

    Parameters
    ----------
    q : array, shape (s, s, c)
        The block, Q or P as the geometry has it.
    k : int
        Probes that are averaged.
    h, v : array, shape (s, columns, c), optional
        The pair; h may hold further columns (the damping as probes of their own).
    a, b : array, shape (s, columns, c), optional
        ``Q h`` and ``Q^{-T} v``, where these are at hand instead.
    single : bool
        Whether it is one column each (and damping): its curvature bound is then ``|x|^2 + |y|^2``.
    """

    def __init__(
        self,
        q: Array,
        k: int,
        *,
        h: Array | None = None,
        v: Array | None = None,
        a: Array | None = None,
        b: Array | None = None,
        single: bool = False,
    ) -> None:
        self.q, self.k, self.single = q, k, single
        self._h, self._v, self._a, self._b, self._ph = h, v, a, b, None
        self.has_v = v is not None

    # Kept by hand: functools.cached_property holds a lock in Python 3.11, which torch.compile cannot trace.

    @property
    def a(self) -> Array:
        """``Q h``."""
        if self._a is None:
            self._a = batched.matmul(self.q, self.h)
        return self._a

    @property
    def b(self) -> Array:
        """``Q^{-T} v``."""
        if self._b is None:
            self._b = batched.solve(batched.adjoint(self.q), self.v)
        return self._b

    @property
    def h(self) -> Array:
        """The product."""
        if self._h is None:
            self._h = batched.solve(self.q, self.a)
        return self._h

    @property
    def v(self) -> Array:
        """The probe."""
        if self._v is None:
            self._v = batched.matmul(batched.adjoint(self.q), self.b)
        return self._v

    @property
    def ph(self) -> Array:
        """``P h = Q^T Q h``."""
        if self._ph is None:
            self._ph = batched.matmul(batched.adjoint(self.q), self.a)
        return self._ph


class Generator(NamedTuple):
    """``E = (x u^T - y w^T) / k`` for each block, or ``U (that ∘ K) U^T``."""

    x: Array  # (s, columns, c)
    u: Array
    y: Array
    w: Array
    k: int
    single: bool
    qu: Array | None = None  # q^T u and q^T w, where they are at hand
    qw: Array | None = None
    grams: tuple[Array, Array] | None = None  # ``x u^T`` and ``y w^T``, where both size and move need them
    basis: tuple[Array, Array] | None = None  # U and K of ``U (E ∘ K) U^T``, with K no larger than 1

    @classmethod
    def square(cls, pair: Pair, x: Array, y: Array, known: tuple[Array, Array] | None = None) -> Generator:
        """Return ``E = (x x^T - y y^T) / k``; `known` are ``q^T x`` and ``q^T y``."""
        return cls(x, x, y, y, pair.k, pair.single, *(known or ()))

    @property
    def symmetric(self) -> bool:
        """Whether E is ``x x^T - y y^T``."""
        return self.u is self.x and self.w is self.y

    def unit(self) -> Array:
        """Return the largest entry of each block's columns, 1 where all are zero, (c,)."""
        xp = namespace(self.x)
        parts = (self.x, self.y) if self.symmetric else (self.x, self.u, self.y, self.w)
        largest = xp.max(xp.abs(parts[0]), axis=(0, 1))
        for part in parts[1:]:
            largest = xp.maximum(largest, xp.max(xp.abs(part), axis=(0, 1)))
        return xp.where(largest > 0, largest, xp.ones_like(largest))

    def in_units(self, unit: Array) -> Generator:
        """Return E over unit^2."""
        x, y = self.x / unit, self.y / unit
        scaled = self._replace(
            x=x,
            u=x if self.u is self.x else self.u / unit,
            y=y,
            w=y if self.w is self.y else self.w / unit,
            qu=None if self.qu is None else self.qu / unit,
            qw=None if self.qw is None else self.qw / unit,
        )
        if self._thin:
            return scaled
        return scaled._replace(grams=(outer(scaled.x, scaled.u), outer(scaled.y, scaled.w)))

    def rescaled(self, c: Array, up: int, down: int) -> Generator:
        """Return what the block times c would have made, if x goes with c^up, and y with c^down."""
        x, y = _times(self.x, c, up), _times(self.y, c, down)
        return self._replace(
            x=x,
            u=x if self.u is self.x else _times(self.u, c, up),
            y=y,
            w=y if self.w is self.y else _times(self.w, c, down),
            qu=None if self.qu is None else _times(self.qu, c, up + 1),
            qw=None if self.qw is None else _times(self.qw, c, down + 1),
        )

    def lengths(self) -> tuple[Array, Array]:
        """Return the sizes of both terms, per block, (c,), as lengths: |x| and |y| of a symmetric one."""
        xp = namespace(self.x)
        if self.symmetric:
            return xp.sqrt(_square(self.x)), xp.sqrt(_square(self.y))
        plus, minus = _square(self.x) * _square(self.u), _square(self.y) * _square(self.w)
        return plus**0.25, minus**0.25

    def matrix(self) -> Array:
        """Return E, (s, s, c)."""
        plus, minus = self.grams or (outer(self.x, self.u), outer(self.y, self.w))
        e = (plus - minus) / self.k
        if self.basis is None:
            return e
        u, k = self.basis
        return outer(batched.matmul(u, e * k), u)

    def on_left(self, q: Array) -> Array:
        """Return ``E q``, by columns where there are fewer of them than rows."""
        if self._thin:
            qt = batched.adjoint(q)
            qu = batched.matmul(qt, self.u) if self.qu is None else self.qu
            qw = batched.matmul(qt, self.w) if self.qw is None else self.qw
            return (outer(self.x, qu) - outer(self.y, qw)) / self.k
        return batched.matmul(self.matrix(), q)

    def on_right(self, q: Array) -> Array:
        """Return ``q E``."""
        if self._thin:
            return (
                outer(batched.matmul(q, self.x), self.u) - outer(batched.matmul(q, self.y), self.w)
            ) / self.k
        return batched.matmul(q, self.matrix())

    def size(self, measure: str) -> Array:
        """Return the curvature bound N or the norm of E, unsquared, per block, (c,).

        N is the largest eigenvalue of ``(x x^T + y y^T) / k``; for one column each ``|x|^2 + |y|^2``.
        """
        xp, k = namespace(self.x), self.k
        if measure == "gradient":
            plain = self.symmetric and self.basis is None
            return _difference_norm(self.x, self.y, k) if plain else norm(self.matrix())
        if not self.symmetric:
            return (_product_norm(self.x, self.u) + _product_norm(self.y, self.w)) / k
        if self.grams is not None and not self.single:
            return batched.spectral_bound(self.grams[0] + self.grams[1]) / k
        if self.single:
            return (_square(self.x) + _square(self.y)) / k
        columns = xp.concat([self.x, self.y], axis=1)
        rows = batched.adjoint(columns)
        small = outer(columns, columns) if columns.shape[0] <= columns.shape[1] else outer(rows, rows)
        return batched.spectral_bound(small) / k

    @property
    def _thin(self) -> bool:
        return self.basis is None and self.x.shape[1] + self.y.shape[1] <= self.x.shape[0]


class Grams(NamedTuple):
    """``E = (A A^T - B B^T) / k`` for one block, from the Gram matrices of more columns than rows."""

    plus: Array  # (s, s)
    minus: Array
    k: int

    def size(self, measure: str) -> Array:
        """Return the curvature bound N or the norm of E, unsquared, (1,)."""
        if measure == "gradient":
            return norm(self.difference[:, :, None]) / self.k
        bound = batched.largest_eigenvalue(self.plus + self.minus)
        return bound if self.k == 1 else bound / self.k

    @property
    def difference(self) -> Array:
        """Return k E, (s, s)."""
        return self.plus - self.minus


def outer(x: Array, y: Array) -> Array:
    """Return ``x y^T`` (conjugate where complex) per block: (s, t, c) and (u, t, c) to (s, u, c)."""
    return batched.matmul(x, batched.adjoint(y))


def norm(x: Array) -> Array:
    """Return an upper bound of the spectral norm of each (s, s, c) matrix."""
    xp = namespace(x)
    return xp.sqrt(batched.spectral_bound(outer(x, x)))


def _product_norm(x: Array, y: Array) -> Array:
    """Return (a bound of) the spectral norm of ``x y^T``; exact for one column."""
    if x.shape[1] > 1:
        return norm(outer(x, y))
    xp = namespace(x)
    return xp.sqrt(_square(x)) * xp.sqrt(_square(y))


def _difference_norm(x: Array, y: Array, k: int) -> Array:
    """Return the spectral norm of ``(x x^T - y y^T) / k``; in closed form for one column each.

    ``x x^T - y y^T`` has the eigenvalues ``((p - q) +- sqrt((p + q)^2 - 4 r^2)) / 2`` with p = |x|^2,
    q = |y|^2, r = x.y.
    """
    if x.shape[1] + y.shape[1] > 2:
        return norm(outer(x, x) - outer(y, y)) / k
    xp = namespace(x)
    p, q, r = _square(x), _square(y), xp.abs(batched.matmul(batched.adjoint(x), y)[0, 0, :])
    root = (p + q - 2 * r) * (p + q + 2 * r)
    return (xp.abs(p - q) + xp.sqrt(xp.maximum(root, xp.zeros_like(root)))) / 2


def _times(x: Array, c: Array, power: int) -> Array:
    """Return ``x c^power``, by one factor after another: c^3 alone may overflow."""
    for _ in range(abs(power)):
        x = x * c if power > 0 else x / c
    return x


def _square(x: Array) -> Array:
    """Return the sum of the squares of each block's entries, (c,)."""
    return namespace(x).sum(batched.square(x), axis=(0, 1))
