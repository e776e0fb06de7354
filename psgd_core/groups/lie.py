"""The verbs that every group shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from ..arrays.arguments import described
from ..arrays.library import Array, require_arrays, require_float

Element = TypeVar("Element")
"""The class of a group's elements: a NamedTuple of arrays."""


class LieGroup(ABC, Generic[Element]):
    """A matrix Lie group as a value: configuration only; elements go in and out of its verbs.

    Laws that hold for every group, and that its tests check:

    - ``compose(a, compose(b, c)) == compose(compose(a, b), c)``;
    - ``matrix`` is a homomorphism: ``matrix(compose(a, b)) == matrix(a) @ matrix(b)`` and
      ``matrix(inverse(a)) == inv(matrix(a))``;
    - ``apply(a, x) == matrix(a) @ x``; ``apply_transpose``, ``solve`` and ``solve_transpose`` do the same
      with the transpose, the inverse and the inverse transpose;
    - ``log_det(a) == log |det matrix(a)|``.

    Every group also makes its identity and projects a generator on its Lie algebra, by an ``identity`` and a
    ``project`` that take what the group needs for that; the projection is linear.

    The verbs check shapes, dtypes and devices, never values: they run without waiting for a device, and
    trace under ``jax.jit`` and ``torch.compile``.
    """

    @abstractmethod
    def compose(self, a: Element, b: Element) -> Element:
        """Return the product ``a b``."""

    @abstractmethod
    def inverse(self, a: Element) -> Element:
        """Return ``a^{-1}``."""

    @abstractmethod
    def apply(self, a: Element, x: Array) -> Array:
        """Return ``a x`` for x of shape (n,) or (n, k)."""

    @abstractmethod
    def apply_transpose(self, a: Element, x: Array) -> Array:
        """Return ``a^T x`` for x of shape (n,) or (n, k)."""

    @abstractmethod
    def solve(self, a: Element, x: Array) -> Array:
        """Return ``a^{-1} x`` for x of shape (n,) or (n, k)."""

    @abstractmethod
    def solve_transpose(self, a: Element, x: Array) -> Array:
        """Return ``a^{-T} x`` for x of shape (n,) or (n, k)."""

    @abstractmethod
    def matrix(self, a: Element) -> Array:
        """Return `a` as a dense (n, n) matrix: for tests and small problems."""

    @abstractmethod
    def log_det(self, a: Element) -> Array:
        """Return ``log |det a|``, a 0-d array."""


def require_element(name: str, a: Any, kind: type) -> None:
    """Raise unless `a` is an element as its group documents it."""
    if not isinstance(a, kind):
        raise TypeError(
            f"`{name}` must be a {kind.__name__}, got {described(a)}; make one with the group's verbs"
        )


def require_vectors(name: str, x: Array, n: int) -> None:
    """Raise unless `x` is a vector (n,) or k columns (n, k)."""
    require_arrays(**{name: x})
    if x.ndim not in (1, 2) or x.shape[0] != n:
        raise ValueError(
            f"`{name}` must have shape ({n},) or ({n}, k), got {tuple(x.shape)}; "
            "one vector is a 1-D array, several are the columns of a 2-D array"
        )


def require_like(like: Array) -> None:
    """Raise unless `like` can set the library, dtype and device of new arrays."""
    require_arrays(like=like)
    require_float("like", like)
