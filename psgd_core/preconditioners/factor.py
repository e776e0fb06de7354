"""What a group of factors of a Kronecker product has to offer; the groups are in `patterns`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from ..arrays.library import Array, namespace
from ..arrays.matrices import eye
from .generators import Generator, Grams, Measure
from .geometries import Geometry
from .sides import Place, Sides
from .singular_values import dense


class Factor(ABC):
    """A group of (s, s) matrices; elements are arrays, columns are (s, m)."""

    any_geometry: ClassVar[bool] = False
    """Whether it moves in every geometry, or in "EQ" alone."""

    def start(self, s: int, like: Array) -> Array:
        """Return the identity."""
        return eye(s, like)

    def shape(self, s: int) -> tuple[int, ...]:
        """Return the shape of an element."""
        return (s, s)

    def steps(self, s: int) -> int:
        """Return how many parts take a step of their own."""
        return 1

    @abstractmethod
    def apply(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q x``; with `rows`, x is (m, s), and so is what is returned: ``x Q^T``."""

    @abstractmethod
    def apply_transpose(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^T x``, or ``Q^H x``."""

    @abstractmethod
    def solve(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^{-1} x``."""

    @abstractmethod
    def solve_transpose(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``Q^{-T} x``, or ``Q^{-H} x``."""

    def precondition(self, q: Array, x: Array, *, rows: bool = False) -> Array:
        """Return ``P x = Q^T Q x``."""
        return self.apply_transpose(q, self.apply(q, x, rows=rows), rows=rows)

    @abstractmethod
    def log_det(self, q: Array) -> Array:
        """Return ``log |det Q|``."""

    def singular_values(self, q: Array, s: int) -> Array:
        """Return the singular values of Q, (s,), in any order."""
        return dense(lambda x: self.apply(q, x), s, q)

    @abstractmethod
    def generator(
        self, geometry: Geometry, q: Array, sides: Sides, place: Place, around: Place, k: int
    ) -> Generator | Grams:
        """Return the generator of the factor's move, in units of (steps,)."""

    def size(self, e: Generator | Grams, measure: Measure) -> Array:
        """Return the square root of the generator's bound, (steps,)."""
        return e.size(measure)

    @abstractmethod
    def moved(self, geometry: Geometry, q: Array, e: Generator | Grams, mu: Array) -> Array:
        """Return the element after the move; mu is (steps,)."""

    def retracted(self, geometry: Geometry, q: Array) -> Array:
        """Return the element that the moved one stands for."""
        return q

    def inverse_columns(self, q: Array, s: int) -> Array:
        """Return ``Q^{-T}``, or columns B whose ``B B^T`` is the same to the group and has the same trace."""
        return self.solve_transpose(q, eye(s, q))


def turned(x: Array, rows: bool) -> Array:
    """Return rows as columns, and columns as rows; x itself unless it holds rows, or is to."""
    return namespace(x).matrix_transpose(x) if rows else x
