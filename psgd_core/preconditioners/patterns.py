"""The groups that a factor of a Kronecker product may be on: what an element is, how it acts, how it moves.

A factor Q_i of ``Q = Q_1 ⊗ Q_2 ⊗ ...`` sees the rest of the product as part of the pair: for it alone the
criterion is that of GL(s) on the columns of the tensors ``a = Q h`` and ``b = Q^{-T} v``, unfolded along its
dimension, (s, columns). So the left generator is ``G = A A^T - B B^T``, and a subgroup of GL(s) takes its
orthogonal projection on the subgroup's Lie algebra.

Matrices whose entries vanish outside a fixed pattern are a group where the pattern is transitive (a path from
i to j has a direct edge) and has the diagonal: then products and inverses keep it. Three such patterns are
offered, with `DenseFactor` and `DiagonalFactor` at the ends:

- `TriangularFactor`: i <= j. As general as GL(s), for every positive definite P is ``Q^T Q`` with such a Q;
  solves cost half as much as an LU factorisation.
- `AffineFactor`: all but the last row, which has its diagonal entry alone. Such a Q is an affine map
  of features x, on [x; 1]; [W b] is the matrix that it belongs to.
- `NormalizationFactor`: the diagonal and the last column, Corollary B.0.1: ``(x - μ) / σ``. O(s) numbers.
"""

from __future__ import annotations

from typing import ClassVar

from ..arrays import batched, shards, triangular
from ..arrays.batched import real, square
from ..arrays.library import Array, Namespace, device_of, namespace
from ..arrays.matrices import adjoint, conj
from .factor import Factor, turned
from .generators import Generator, Grams, Measure, Pair, Squares
from .geometries import EQ, Geometry
from .sides import Place, Sides


class DenseFactor(Factor):
    """GL(s), in every geometry."""

    any_geometry: ClassVar[bool] = True
    enough: ClassVar[int] = 1
    """Columns over rows from which P is formed."""

    def apply(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q x``."""
        return triangular.dense_product(q, x, rows=rows)

    def apply_transpose(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^T x``."""
        return triangular.dense_product(q, x, adjoint=True, rows=rows)

    def solve(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^{-1} x``."""
        return turned(batched.library_solve(q, turned(x, rows)), rows)

    def solve_transpose(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^{-T} x``."""
        return turned(batched.library_solve(adjoint(q), turned(x, rows)), rows)

    def precondition(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``P x``: by way of P, where that is less work than two products."""
        if x.shape[-2 if rows else -1] <= self.enough * q.shape[-1]:
            return super().precondition(q, x, rows=rows)
        p = self.apply_transpose(q, q)
        return x @ conj(p) if rows else p @ x  # P is Hermitian

    def log_det(self, q: Array) -> Array:
        """Return ``log |det Q|``."""
        found: Array = namespace(q).linalg.slogdet(q)[1]
        return found

    def singular_values(self, q: Array, s: int) -> Array:
        """Return the singular values of Q, (s,), in any order."""
        found: Array = namespace(q).linalg.svdvals(q)
        return found

    def generator(
        self, geometry: Geometry, q: Array, sides: Sides, place: Place, around: Place, k: int
    ) -> Generator | Grams:
        """Return the geometry's; of Gram matrices where it has no need of the columns, and they are many."""
        many = sum(sides.counts(place)) > place.s or shards.active() is not None
        if isinstance(geometry, EQ) and many:
            return Grams(*sides.grams(place, around), k, sides.unit)
        a, b = sides.columns(place)
        single = a.shape[1] == b.shape[1] == 1
        pair = Pair(q[:, :, None], k, {"a": a[:, :, None], "b": b[:, :, None]}, single=single)
        return geometry.generator(pair).in_units()

    def moved(self, geometry: Geometry, q: Array, e: Generator | Grams, mu: Array) -> Array:
        """Return the element after the geometry's move."""
        if isinstance(e, Grams):
            return q - (mu if e.k == 1 else mu / e.k)[..., None] * self.product(e.difference, q)
        return e.move(q[:, :, None], mu, geometry.side)[:, :, 0]

    def product(self, e: Array, q: Array) -> Array:
        """Return ``E Q``, with E projected on the Lie algebra."""
        return e @ q

    def retracted(self, geometry: Geometry, q: Array) -> Array:
        """Return what the geometry takes it for."""
        return geometry.retract(q[:, :, None])[:, :, 0]


class PatternFactor(DenseFactor):
    """Matrices with zeros outside a pattern, in the geometry "EQ"."""

    any_geometry: ClassVar[bool] = False

    def moved(self, geometry: Geometry, q: Array, e: Generator | Grams, mu: Array) -> Array:
        """Return ``Q - mu pattern(E) Q``."""
        if isinstance(e, Grams):
            return super().moved(geometry, q, e, mu)
        return q - mu * self.product(e.matrix()[:, :, 0], q)


class TriangularFactor(PatternFactor):
    """Upper triangular matrices."""

    enough: ClassVar[int] = 4

    def apply(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q x``."""
        return triangular.product(q, x, rows=rows)

    def apply_transpose(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^T x``."""
        return triangular.product(q, x, adjoint=True, rows=rows)

    def solve(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^{-1} x``."""
        return triangular.solve(q, x, rows=rows)

    def solve_transpose(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^{-T} x``."""
        return triangular.solve(q, x, adjoint=True, rows=rows)

    def log_det(self, q: Array) -> Array:
        """Return ``log |det Q|``."""
        xp = namespace(q)
        return xp.sum(xp.log(xp.abs(xp.linalg.diagonal(q))))

    def product(self, e: Array, q: Array) -> Array:
        """Return ``pattern(E) Q``."""
        return triangular.compose(namespace(e).triu(e), q)


class AffineFactor(PatternFactor):
    """Matrices whose last row has its diagonal entry alone: affine maps of [x; 1]."""

    def product(self, e: Array, q: Array) -> Array:
        """Return ``pattern(E) Q``: E without the last row's other entries."""
        xp = namespace(e)
        return xp.concat([e[..., :-1, :], xp.triu(e)[..., -1:, :]], axis=-2) @ q


class DiagonalFactor(Factor):
    """Diagonal matrices, (s,): s factors GL(1), each with a step of its own, in every geometry."""

    any_geometry: ClassVar[bool] = True
    is_shard: ClassVar[bool] = False
    """Whether the dimension is sharded, and these are the rows of one shard."""

    def start(self, s: int, like: Array) -> Array:
        """Return ones, (s,)."""
        xp = namespace(like)
        return xp.ones(s, dtype=like.dtype, device=device_of(like))

    def shape(self, s: int) -> tuple[int, ...]:
        """Return (s,)."""
        return (s,)

    def steps(self, s: int) -> int:
        """Return s."""
        return s

    def apply(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q x``."""
        return (q[..., None, :] if rows else q[..., :, None]) * x

    def apply_transpose(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^T x``."""
        return self.apply(conj(q), x, rows=rows)

    def solve(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^{-1} x``."""
        return x / (q[..., None, :] if rows else q[..., :, None])

    def solve_transpose(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^{-T} x``."""
        return self.solve(conj(q), x, rows=rows)

    def precondition(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``P x``."""
        return self.apply(conj(q) * q, x, rows=rows)

    def log_det(self, q: Array) -> Array:
        """Return ``log |det Q|``."""
        xp = namespace(q)
        return xp.sum(xp.log(xp.abs(q)))

    def singular_values(self, q: Array, s: int) -> Array:
        """Return the sizes of its entries, (s,)."""
        return namespace(q).abs(q)

    def generator(
        self, geometry: Geometry, q: Array, sides: Sides, place: Place, around: Place, k: int
    ) -> Generator | Grams:
        """Return the geometry's, of s blocks of one, which see no more of A and B than the norms of rows."""
        xp, (x, y) = namespace(q), sides.norms(place, here=self.is_shard)
        if isinstance(geometry, EQ):
            x, y = real(x), real(y)
            unit = xp.maximum(x, y)
            unit = xp.where(unit > 0, unit, xp.ones_like(unit))
            return Squares(square(x / unit), square(y / unit), k, unit)
        known = {"a": x[None, None, :], "b": y[None, None, :]}
        return geometry.generator(Pair(q[None, None, :], k, known, single=True)).in_units()

    def inverse_columns(self, q: Array, s: int) -> Array:
        """Return the one column ``1 / q``: the group sees the diagonal alone."""
        return (1 / conj(q))[:, None]

    def moved(self, geometry: Geometry, q: Array, e: Generator | Grams, mu: Array) -> Array:
        """Return the element after the geometry's move."""
        if isinstance(e, Grams):
            return q - (mu if e.k == 1 else mu / e.k) * e.difference * q
        return e.move(q[None, None, :], mu, geometry.side)[0, 0, :]

    def retracted(self, geometry: Geometry, q: Array) -> Array:
        """Return what the geometry takes it for."""
        return geometry.retract(q[None, None, :])[0, 0, :]


class ShardFactor(DiagonalFactor):
    """The part of a diagonal matrix that belongs to the rows here: see `psgd_core.arrays.shards`."""

    is_shard: ClassVar[bool] = True


class NormalizationFactor(Factor):
    """``[[diag(d), c], [0, e]]`` as (2, s): the diagonal [d, e] and the last column [c, 0]."""

    def start(self, s: int, like: Array) -> Array:
        """Return the identity, (2, s)."""
        xp = namespace(like)
        ones = xp.ones(s, dtype=like.dtype, device=device_of(like))
        return xp.stack([ones, xp.zeros_like(ones)])

    def shape(self, s: int) -> tuple[int, ...]:
        """Return (2, s)."""
        return (2, s)

    def apply(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q x``."""
        x = turned(x, rows)
        return turned(q[0, :, None] * x + q[1, :, None] * x[-1:, :], rows)

    def apply_transpose(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^T x``."""
        q, x = conj(q), turned(x, rows)
        xp = namespace(q)
        last = xp.sum(q[1, :, None] * x, axis=0, keepdims=True)
        return turned(_to_last(xp, q[0, :, None] * x, last), rows)

    def solve(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^{-1} x``."""
        x = turned(x, rows)
        return turned((x - q[1, :, None] * (x[-1:, :] / q[0, -1])) / q[0, :, None], rows)

    def solve_transpose(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^{-T} x``."""
        q, x = conj(q), turned(x, rows)
        xp = namespace(q)
        y = x / q[0, :, None]
        last = -xp.sum(q[1, :, None] * y, axis=0, keepdims=True) / q[0, -1]
        return turned(_to_last(xp, y, last), rows)

    def log_det(self, q: Array) -> Array:
        """Return ``log |det Q|``."""
        xp = namespace(q)
        return xp.sum(xp.log(xp.abs(q[0, :])))

    def generator(
        self, geometry: Geometry, q: Array, sides: Sides, place: Place, around: Place, k: int
    ) -> Generator | Grams:
        """Return the rows of A and B as blocks: products with the last one are formed in `moved`."""
        x, y = (_rows(columns) for columns in sides.columns(place))
        return Generator(x, x, y, y, k, single=False).in_units(one=True)

    def size(self, e: Generator | Grams, measure: Measure) -> Array:
        """Return the largest entry of the diagonal plus the norm of the last column, a bound, (1,)."""
        assert isinstance(e, Generator)
        xp = namespace(e.x)
        sign = 1 if measure == "curvature" else -1
        diagonal, last = _pattern(e, sign)
        return e.unit * xp.sqrt(xp.max(xp.abs(diagonal)) + xp.sqrt(xp.sum(square(last))))

    def moved(self, geometry: Geometry, q: Array, e: Generator | Grams, mu: Array) -> Array:
        """Return ``Q - mu E Q``, E the diagonal and the last column of ``A A^T - B B^T``."""
        assert isinstance(e, Generator)
        xp = namespace(q)
        diagonal, last = _pattern(e, -1)
        return q - mu[0] * xp.stack([diagonal * q[0, :], diagonal * q[1, :] + last * q[0, -1]])


def _pattern(e: Generator, sign: int) -> tuple[Array, Array]:
    """Return the diagonal and the last column (0 at the corner) of ``(A A^T ± B B^T) / k``, (s,) each."""
    xp = namespace(e.x)
    a, b = e.x[0, ...], e.y[0, ...]  # (columns, s)
    diagonal = xp.sum(square(a), axis=0) + sign * xp.sum(square(b), axis=0)
    last = xp.sum(a * conj(a[:, -1:]), axis=0) + sign * xp.sum(b * conj(b[:, -1:]), axis=0)
    return xp.astype(diagonal, last.dtype) / e.k, xp.concat([last[:-1], xp.zeros_like(last[-1:])]) / e.k


def _to_last(xp: Namespace, x: Array, row: Array) -> Array:
    """Return x with `row` added to its last row."""
    return xp.concat([x[:-1, :], x[-1:, :] + row], axis=0)


def _rows(a: Array) -> Array:
    """Return (s, columns) as s blocks of one row: (1, columns, s)."""
    return namespace(a).permute_dims(a, (1, 0))[None, :, :]


FACTORS: dict[str, Factor] = {
    "dense": DenseFactor(),
    "triangular": TriangularFactor(),
    "affine": AffineFactor(),
    "normalization": NormalizationFactor(),
    "diagonal": DiagonalFactor(),
    "shard": ShardFactor(),
}
"""By name."""
