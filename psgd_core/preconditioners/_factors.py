"""The groups that a factor of a Kronecker product may be on: what an element is, how it acts, how it moves.

A factor Q_i of ``Q = Q_1 ⊗ Q_2 ⊗ ...`` sees the rest of the product as part of the pair: for it alone the
criterion is that of GL(s) on the columns of the tensors ``a = Q h`` and ``b = Q^{-T} v``, unfolded along its
dimension, (s, columns). So the left generator is ``G = A A^T - B B^T``, and a subgroup of GL(s) takes its
orthogonal projection on the subgroup's Lie algebra.

Matrices whose entries vanish outside a fixed pattern are a group where the pattern is transitive (a path from
i to j has a direct edge) and has the diagonal: then products and inverses keep it. Three such patterns are
offered, with `Dense` and `Diagonal` at the ends:

- `Triangular`: i <= j. As general as GL(s), for every positive definite P is ``Q^T Q`` with such a Q; solves
  cost half as much as an LU factorisation.
- `Affine`: all but the last row, which has its diagonal entry alone. On [x; 1] such a Q is an affine map of
  the features x; [W b] is the matrix that it belongs to.
- `Normalization`: the diagonal and the last column, Corollary B.0.1: ``(x - μ) / σ``. O(s) numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import array_api_compat

from .. import _blocks
from .._array import Array
from ._generators import Generator, Pair
from .geometries import Geometry


class Factor(ABC):
    """A group of (s, s) matrices; elements are arrays, columns are (s, m)."""

    any_geometry: ClassVar[bool] = False
    """Whether it moves in every geometry, or in "EQ" alone."""

    @abstractmethod
    def start(self, s: int, like: Array) -> Array:
        """Return the identity."""

    @abstractmethod
    def steps(self, s: int) -> int:
        """Return how many parts take a step of their own."""

    @abstractmethod
    def apply(self, q: Array, x: Array) -> Array:
        """Return ``Q x``."""

    @abstractmethod
    def apply_transpose(self, q: Array, x: Array) -> Array:
        """Return ``Q^T x``, or ``Q^H x``."""

    @abstractmethod
    def solve(self, q: Array, x: Array) -> Array:
        """Return ``Q^{-1} x``."""

    @abstractmethod
    def solve_transpose(self, q: Array, x: Array) -> Array:
        """Return ``Q^{-T} x``, or ``Q^{-H} x``."""

    @abstractmethod
    def log_det(self, q: Array) -> Array:
        """Return ``log |det Q|``."""

    @abstractmethod
    def generator(self, geometry: Geometry, q: Array, a: Array, b: Array, k: int) -> Generator:
        """Return the generator of the factor's move, in blocks, for A and B of shape (s, columns)."""

    def size(self, e: Generator, measure: str) -> Array:
        """Return the bound of the generator, (steps,)."""
        return e.size(measure)

    @abstractmethod
    def moved(self, geometry: Geometry, q: Array, e: Generator, mu: Array) -> Array:
        """Return the element after the move; mu is (steps,)."""

    def retracted(self, geometry: Geometry, q: Array) -> Array:
        """Return the element that the moved one stands for."""
        return q

    def inverse_columns(self, q: Array, s: int) -> Array:
        """Return ``Q^{-T}``, or columns B whose ``B B^T`` is the same to the group and has the same trace."""
        xp = array_api_compat.array_namespace(q)
        return self.solve_transpose(q, xp.eye(s, dtype=q.dtype, device=array_api_compat.device(q)))


class Dense(Factor):
    """GL(s), in every geometry."""

    any_geometry: ClassVar[bool] = True

    def start(self, s: int, like: Array) -> Array:
        """Return the identity, (s, s)."""
        xp = array_api_compat.array_namespace(like)
        return xp.eye(s, dtype=like.dtype, device=array_api_compat.device(like))

    def steps(self, s: int) -> int:
        """Return 1."""
        return 1

    def apply(self, q: Array, x: Array) -> Array:
        """Return ``Q x``."""
        return q @ x

    def apply_transpose(self, q: Array, x: Array) -> Array:
        """Return ``Q^T x``."""
        return _adjoint(q) @ x

    def solve(self, q: Array, x: Array) -> Array:
        """Return ``Q^{-1} x``."""
        return _blocks.library_solve(q, x)

    def solve_transpose(self, q: Array, x: Array) -> Array:
        """Return ``Q^{-T} x``."""
        return _blocks.library_solve(_adjoint(q), x)

    def log_det(self, q: Array) -> Array:
        """Return ``log |det Q|``."""
        return array_api_compat.array_namespace(q).linalg.slogdet(q)[1]

    def generator(self, geometry: Geometry, q: Array, a: Array, b: Array, k: int) -> Generator:
        """Return the geometry's."""
        single = a.shape[1] == b.shape[1] == 1
        return geometry.generator(Pair(q[:, :, None], k, a=a[:, :, None], b=b[:, :, None], single=single))

    def moved(self, geometry: Geometry, q: Array, e: Generator, mu: Array) -> Array:
        """Return the element after the geometry's move."""
        return geometry.move(q[:, :, None], e, mu)[:, :, 0]

    def retracted(self, geometry: Geometry, q: Array) -> Array:
        """Return what the geometry takes it for."""
        return geometry.retract(q[:, :, None])[:, :, 0]


class Triangular(Dense):
    """Upper triangular matrices."""

    any_geometry: ClassVar[bool] = False

    def solve(self, q: Array, x: Array) -> Array:
        """Return ``Q^{-1} x``."""
        return _blocks.triangular_solve(q, x)

    def solve_transpose(self, q: Array, x: Array) -> Array:
        """Return ``Q^{-T} x``."""
        return _blocks.triangular_solve(q, x, transpose=True)

    def log_det(self, q: Array) -> Array:
        """Return ``log |det Q|``."""
        xp = array_api_compat.array_namespace(q)
        return xp.sum(xp.log(xp.abs(xp.linalg.diagonal(q))))

    def moved(self, geometry: Geometry, q: Array, e: Generator, mu: Array) -> Array:
        """Return ``Q - mu pattern(E) Q``."""
        return q - mu[0] * (self.pattern(e.matrix()[:, :, 0]) @ q)

    def pattern(self, e: Array) -> Array:
        """Return the projection of E on the Lie algebra."""
        return array_api_compat.array_namespace(e).triu(e)


class Affine(Triangular):
    """Matrices whose last row has its diagonal entry alone: affine maps of [x; 1]."""

    solve, solve_transpose, log_det = Dense.solve, Dense.solve_transpose, Dense.log_det

    def pattern(self, e: Array) -> Array:
        """Return E without the last row's other entries."""
        xp = array_api_compat.array_namespace(e)
        return xp.concat([e[:-1, :], xp.triu(e)[-1:, :]], axis=0)


class Diagonal(Factor):
    """Diagonal matrices, (s,): s factors GL(1), each with a step of its own, in every geometry."""

    any_geometry: ClassVar[bool] = True

    def start(self, s: int, like: Array) -> Array:
        """Return ones, (s,)."""
        xp = array_api_compat.array_namespace(like)
        return xp.ones(s, dtype=like.dtype, device=array_api_compat.device(like))

    def steps(self, s: int) -> int:
        """Return s."""
        return s

    def apply(self, q: Array, x: Array) -> Array:
        """Return ``Q x``."""
        return q[:, None] * x

    def apply_transpose(self, q: Array, x: Array) -> Array:
        """Return ``Q^T x``."""
        return (array_api_compat.array_namespace(q).conj(q) if _blocks.is_complex(q) else q)[:, None] * x

    def solve(self, q: Array, x: Array) -> Array:
        """Return ``Q^{-1} x``."""
        return x / q[:, None]

    def solve_transpose(self, q: Array, x: Array) -> Array:
        """Return ``Q^{-T} x``."""
        return x / (array_api_compat.array_namespace(q).conj(q) if _blocks.is_complex(q) else q)[:, None]

    def log_det(self, q: Array) -> Array:
        """Return ``log |det Q|``."""
        xp = array_api_compat.array_namespace(q)
        return xp.sum(xp.log(xp.abs(q)))

    def generator(self, geometry: Geometry, q: Array, a: Array, b: Array, k: int) -> Generator:
        """Return the geometry's, of s blocks of one, which see no more of A and B than the norms of rows."""
        x, y = (_norms(x)[None, None, :] for x in (a, b))
        return geometry.generator(Pair(q[None, None, :], k, a=x, b=y, single=True))

    def inverse_columns(self, q: Array, s: int) -> Array:
        """Return the one column ``1 / q``: the group sees the diagonal alone."""
        return (1 / _conj(q))[:, None]

    def moved(self, geometry: Geometry, q: Array, e: Generator, mu: Array) -> Array:
        """Return the element after the geometry's move."""
        return geometry.move(q[None, None, :], e, mu)[0, 0, :]

    def retracted(self, geometry: Geometry, q: Array) -> Array:
        """Return what the geometry takes it for."""
        return geometry.retract(q[None, None, :])[0, 0, :]


class Normalization(Factor):
    """``[[diag(d), c], [0, e]]`` as (2, s): the diagonal [d, e] and the last column [c, 0]."""

    def start(self, s: int, like: Array) -> Array:
        """Return the identity, (2, s)."""
        xp = array_api_compat.array_namespace(like)
        ones = xp.ones(s, dtype=like.dtype, device=array_api_compat.device(like))
        return xp.stack([ones, xp.zeros_like(ones)])

    def steps(self, s: int) -> int:
        """Return 1."""
        return 1

    def apply(self, q: Array, x: Array) -> Array:
        """Return ``Q x``."""
        return q[0, :, None] * x + q[1, :, None] * x[-1:, :]

    def apply_transpose(self, q: Array, x: Array) -> Array:
        """Return ``Q^T x``."""
        q = _conj(q)
        xp = array_api_compat.array_namespace(q)
        last = xp.sum(q[1, :, None] * x, axis=0, keepdims=True)
        return _to_last(xp, q[0, :, None] * x, last)

    def solve(self, q: Array, x: Array) -> Array:
        """Return ``Q^{-1} x``."""
        return (x - q[1, :, None] * (x[-1:, :] / q[0, -1])) / q[0, :, None]

    def solve_transpose(self, q: Array, x: Array) -> Array:
        """Return ``Q^{-T} x``."""
        q = _conj(q)
        xp = array_api_compat.array_namespace(q)
        y = x / q[0, :, None]
        return _to_last(xp, y, -xp.sum(q[1, :, None] * y, axis=0, keepdims=True) / q[0, -1])

    def log_det(self, q: Array) -> Array:
        """Return ``log |det Q|``."""
        xp = array_api_compat.array_namespace(q)
        return xp.sum(xp.log(xp.abs(q[0, :])))

    def generator(self, geometry: Geometry, q: Array, a: Array, b: Array, k: int) -> Generator:
        """Return the rows of A and B as blocks: products with the last one are formed in `moved`."""
        x, y = _rows(a), _rows(b)
        return Generator(x, x, y, y, k, single=False)

    def size(self, e: Generator, measure: str) -> Array:
        """Return the largest entry of the diagonal plus the norm of the last column, a bound, (1,)."""
        xp = array_api_compat.array_namespace(e.x)
        sign = 1 if measure == "curvature" else -1
        diagonal, last = _pattern(e, sign)
        return (xp.max(xp.abs(diagonal)) + xp.sqrt(xp.sum(_blocks.square(last))))[None]

    def moved(self, geometry: Geometry, q: Array, e: Generator, mu: Array) -> Array:
        """Return ``Q - mu E Q``, E the diagonal and the last column of ``A A^T - B B^T``."""
        xp = array_api_compat.array_namespace(q)
        diagonal, last = _pattern(e, -1)
        return q - mu[0] * xp.stack([diagonal * q[0, :], diagonal * q[1, :] + last * q[0, -1]])


def _pattern(e: Generator, sign: int) -> tuple[Array, Array]:
    """Return the diagonal and the last column (0 at the corner) of ``(A A^T ± B B^T) / k``, (s,) each."""
    xp = array_api_compat.array_namespace(e.x)
    a, b = e.x[0, ...], e.y[0, ...]  # (columns, s)
    diagonal = xp.sum(_blocks.square(a), axis=0) + sign * xp.sum(_blocks.square(b), axis=0)
    last = xp.sum(a * _conj(a[:, -1:]), axis=0) + sign * xp.sum(b * _conj(b[:, -1:]), axis=0)
    return xp.astype(diagonal, last.dtype) / e.k, xp.concat([last[:-1], xp.zeros_like(last[-1:])]) / e.k


def _to_last(xp, x: Array, row: Array) -> Array:
    """Return x with `row` added to its last row."""
    return xp.concat([x[:-1, :], x[-1:, :] + row], axis=0)


def _norms(a: Array) -> Array:
    """Return the norm of each row, (s,), without overflow, in the dtype of a."""
    xp = array_api_compat.array_namespace(a)
    largest = xp.max(xp.abs(a), axis=1, keepdims=True)
    unit = xp.where(largest > 0, largest, xp.ones_like(largest))
    return xp.astype(xp.sqrt(xp.sum(_blocks.square(a / unit), axis=1)) * unit[:, 0], a.dtype)


def _rows(a: Array) -> Array:
    """Return (s, columns) as s blocks of one row: (1, columns, s)."""
    return array_api_compat.array_namespace(a).permute_dims(a, (1, 0))[None, :, :]


def _adjoint(q: Array) -> Array:
    return _conj(array_api_compat.array_namespace(q).matrix_transpose(q))


def _conj(q: Array) -> Array:
    return array_api_compat.array_namespace(q).conj(q) if _blocks.is_complex(q) else q


FACTORS: dict[str, Factor] = {
    "dense": Dense(),
    "triangular": Triangular(),
    "affine": Affine(),
    "normalization": Normalization(),
    "diagonal": Diagonal(),
}
"""By name."""
