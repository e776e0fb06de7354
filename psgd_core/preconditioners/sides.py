"""Both sides of a pair, ``a = Q h`` and ``b = Q^{-T} v``, as a factor of a Kronecker product sees them.

A tensor's n numbers in C order, with k columns, are (before, s, after k) to the factor of a dimension of size
s, which sees (s, before after k): the tensor unfolded. What several factors ask for is made once: the largest
entry, the tensor over it, and the Gram matrices ``A_i A_i^H`` of neighbours, of which each one's own is a
partial trace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from ..arrays import shards, short, triangular
from ..arrays.batched import real, square
from ..arrays.library import Array, known, namespace, silent
from ..arrays.sums import least_sum
from ..arrays.vectors import largest

DOT = 4096
"""Columns up to which BLAS's inner product of float32 is accurate enough, to about 1e-6."""


class Place(NamedTuple):
    """Where a dimension lies: how many elements come before it, its own size, and how many come after it."""

    before: int
    s: int
    after: int

    def holds_rows(self, x: Array) -> bool:
        """Return whether x of shape (..., n, k) is (..., before, s) as it is."""
        return self.before > 1 and self.after * x.shape[-1] == 1

    def view(self, x: Array) -> tuple[Array, int]:
        """Return the entries of `columns`, and the axis along them: as a view, where there is one."""
        if not self.holds_rows(x):
            return self.columns(x), -1
        return namespace(x).reshape(x, (*x.shape[:-2], self.before, self.s)), -2

    def gram(self, x: Array) -> Array:
        """Return the Gram matrix of `columns`, (..., s, s)."""
        if not self.holds_rows(x):
            return triangular.gram(self.columns(x))
        return triangular.gram(namespace(x).reshape(x, (*x.shape[:-2], self.before, self.s)), rows=True)

    def columns(self, x: Array) -> Array:
        """Return columns (..., n, k) as (..., s, n k / s)."""
        xp, (*lead, _, k) = namespace(x), x.shape
        before, s, after = self
        if before == 1:
            return xp.reshape(x, (*lead, s, after * k))
        unfolded = swapped(xp.reshape(x, (*lead, before, s, after * k)))
        return xp.reshape(unfolded, (*lead, s, before * after * k))


def swapped(x: Array) -> Array:
    """Return x with its third and second axes from the end exchanged."""
    lead = x.ndim - 3
    return namespace(x).permute_dims(x, (*range(lead), lead + 1, lead, lead + 2))


class Sides:
    """a and b, as tensors (n, k) that all factors see; of several products at once, (c, n, k).

    Parameters
    ----------
    a : array, shape (..., n, k)
    b : array, shape (..., n, k)
        Or, `fixed`, columns (s, m) that stand for it to one factor alone.
    fixed : bool
    """

    def __init__(self, a: Array, b: Array, *, fixed: bool = False) -> None:
        self.a: Array = a
        self.b: Array = b
        self.fixed: bool = fixed
        self.largest: tuple[Array, Array] = largest_of(a), largest_of(b)
        least = namespace(a).finfo(self.largest[0].dtype).smallest_normal
        self._least = float(least)  # makes a divisor of 0
        self.scale: Array | None = None  # a factor of a and a divisor of b that is not in them yet
        self._norms: tuple[Array, Array] | None = None
        self._unit: Array | None = None
        self._over: tuple[Array, Array] | None = None
        self._grams: dict[Place, tuple[Array, Array]] = {}

    def balance(self, flag: Array) -> Array:
        """Return c, least in the criterion at c Q where `flag` is true, and 1 elsewhere; a and b take it."""
        xp = namespace(flag)
        self._norms = self._norm(self.a, self.largest[0]), self._norm(self.b, self.largest[1])
        norm_a, norm_b = (xp.where(flag, x, xp.ones_like(x)) for x in self._norms)
        self.scale = xp.sqrt(norm_b) / xp.sqrt(norm_a)  # c^4 = |b|^2 / |a|^2
        return self.scale

    def _norm(self, x: Array, most: Array) -> Array:
        """Return the norm of columns (..., n, k) whose largest entry is known, (...)."""
        if x.ndim == 2 and short.is_short(x):
            return short.norm(x)
        unit = most + self._least
        return unit * across(_length(x / unit[..., None, None]))

    def lengths(self) -> tuple[Array, Array]:
        """Return |a| and |b| over one unit, without the scale."""
        if self._norms is not None:
            return self._norms
        trace = namespace(self.a).linalg.trace
        if self.scale is None:
            for grams in self._grams.values():  # of the whole tensors, one as good as another
                x, y = (real(trace(gram)) ** 0.5 for gram in grams)
                return x, y
        unit = (self.largest[0] + self.largest[1] + self._least)[..., None, None]
        return across(_length(self.a / unit)), across(_length(self.b / unit))

    @property
    def unit(self) -> Array:
        """The largest entry of both, or next to nothing where that is 0; (..., 1)."""
        if self._unit is None:
            xp, (x, y) = namespace(self.a), self.largest
            most = xp.maximum(x, y) if self.scale is None else xp.maximum(x * self.scale, y / self.scale)
            self._unit = (most + self._least)[..., None]
        return self._unit

    def counts(self, place: Place) -> tuple[int, int]:
        """Return how many columns A and B have."""
        count = self.a.shape[-2] * self.a.shape[-1] // place.s
        return count, self.b.shape[-1] if self.fixed else count

    def columns(self, place: Place) -> tuple[Array, Array]:
        """Return A and B, (s, columns), of one product."""
        x, y = place.columns(self.a), self.b if self.fixed else place.columns(self.b)
        return (x, y) if self.scale is None else (x * self.scale, y / self.scale)

    def norms(self, place: Place, *, here: bool = False) -> tuple[Array, Array]:
        """Return the norms of A's and B's rows, (..., s), in their dtype; `here` if each is in one shard."""
        x, y = _norms(place.view(self.a), (self.b, -1) if self.fixed else place.view(self.b))
        if not here:
            x, y = across(x), across(y)
        return (x, y) if self.scale is None else (x * self.scale[..., None], y / self.scale[..., None])

    def grams(self, place: Place, around: Place) -> tuple[Array, Array]:
        """Return ``A A^H`` and ``B B^H`` over unit^2, (..., s, s): parts of the neighbours' `around`."""
        if self._over is None:
            unit, scale = self.unit[..., None], None if self.scale is None else self.scale[..., None, None]
            of_a, of_b = (unit, unit) if scale is None else (unit / scale, unit * scale)
            self._over = self.a / of_a, self.b / of_b
        x, y = self._over
        if self.fixed:
            return _part(around.gram(x), around, place), triangular.gram(y)
        if around not in self._grams:
            self._grams[around] = shards.total(around.gram(x)), shards.total(around.gram(y))
        both = self._grams[around]
        return _part(both[0], around, place), _part(both[1], around, place)


def _part(gram: Array, around: Place, place: Place) -> Array:
    """Return the partial trace of a Gram matrix of neighbours over all of them but one."""
    if around.s == place.s:
        return gram
    xp, s = namespace(gram), place.s
    first = place.before // around.before
    last = around.s // (first * s)
    lead, at = gram.shape[:-2], gram.ndim - 2
    apart = xp.reshape(gram, (*lead, first, s, last, first, s, last))
    apart = xp.permute_dims(apart, (*range(at), *(at + i for i in (1, 4, 0, 2, 3, 5))))
    return xp.linalg.trace(xp.reshape(apart, (*lead, s, s, first * last, first * last)))


def largest_of(x: Array) -> Array:
    """Return the largest absolute value of columns (..., n, k), (...)."""
    xp = namespace(x)
    return largest(x) if x.ndim == 2 else xp.max(xp.abs(x), axis=(-2, -1))


def _length(x: Array) -> Array:
    """Return the norm of columns (..., n, k), (...)."""
    xp = namespace(x)
    return xp.linalg.vector_norm(x) if x.ndim == 2 else xp.sqrt(xp.sum(square(x), axis=(-2, -1)))


def across(norms: Array) -> Array:
    """Return norms over all shards, given those over the elements here."""
    if shards.active() is None:
        return norms
    xp = namespace(norms)
    most = shards.most(norms)
    unit = xp.where(most > 0, most, xp.ones_like(most))
    return unit * xp.sqrt(shards.total((norms / unit) ** 2))


def _norms(a: tuple[Array, int], b: tuple[Array, int]) -> tuple[Array, Array]:
    """Return the norms of two arrays along an axis of each, without overflow, in their dtype."""
    xp = namespace(a[0])
    if array_api_compat.is_numpy_namespace(xp):
        with silent():  # what overflows is done again below, in a unit
            totals = xp.stack([_sums_of_squares(*x) for x in (a, b)])
        if known((xp.min(totals) > least_sum(totals)) & (xp.max(totals) < xp.inf)):
            x, y = xp.astype(xp.sqrt(totals), a[0].dtype, copy=False)
            return x, y
    return _norms_in_units(*a), _norms_in_units(*b)


def _sums_of_squares(a: Array, axis: int) -> Array:
    """Return the sums of squares along an axis, real, where they do not overflow."""
    xp = namespace(a)
    if axis == -1 and a.shape[-1] <= DOT and array_api_compat.is_numpy_namespace(xp):
        return real(xp.vecdot(a, a))
    total: Array = xp.sum(square(a), axis=axis)
    return total


def _norms_in_units(a: Array, axis: int) -> Array:
    """Return the norms along an axis, each in units of about its largest entry."""
    xp = namespace(a)
    most = xp.max(xp.abs(a), axis=axis, keepdims=True)
    unit = xp.where(most > 0, most, xp.ones_like(most))
    if array_api_compat.is_numpy_namespace(xp):  # by powers of two, for the bits of what needs no unit
        one: Any = xp.ones_like(unit)
        unit = np.ldexp(one, np.frexp(one * unit)[1] - 1)
    norms = xp.sqrt(_sums_of_squares(a / unit, axis))
    return xp.astype(norms * xp.reshape(unit, norms.shape), a.dtype)
