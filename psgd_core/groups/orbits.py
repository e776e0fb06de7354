"""The groups of Theorem 3.1 for any permutation subgroup K, in terms of the orbits of K.

``T(x | a_1 .. a_m) = sum_i a_i * sigma_i(x)`` with ``K = {sigma_1 .. sigma_m}``. Row k of T has its entries
exactly at the orbit of k under K, and for any two indices of an orbit some sigma_i maps one to the other.
So, up to a permutation, **the group of Theorem 3.1 is the direct product of GL(|O|) over the orbits O of K**,
and every operation is the same operation on small dense blocks, O(n s^2) for orbits of size s.

An element holds its blocks, one (s, s, c) array for the c orbits of each size s (see `batched`). Its other
form are the coefficients a_i; `from_coefficients` and `coefficients` convert. They are unique only if K acts
freely; otherwise (the middle element of an X-matrix of odd size) the canonical form assigns each entry of T
to the first sigma_i that reaches it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np

from ..arrays import batched
from ..arrays.arguments import MOST, described, require_count
from ..arrays.brief import brief
from ..arrays.library import (
    Array,
    device_of,
    holds_integers,
    namespace,
    require_alike,
    require_arrays,
    require_float,
)
from ..arrays.matrices import eye
from .layouts import Layout, OrbitLayout, is_gathered, join, split
from .lie import LieGroup, require_element, require_like, require_vectors
from .subgroup import PermutationSubgroup


@brief
class OrbitBlocks(NamedTuple):
    """An element of a Theorem 3.1 group."""

    blocks: tuple[Array, ...]  # per orbit size s, ascending: (s, s, c), entry (i, j) of the c blocks
    gather: tuple[Array, ...] = ()  # () or (order, inverse order), int (n,): gathers orbits together and back


class OrbitGroup(LieGroup[OrbitBlocks]):
    """What all groups of Theorem 3.1 share; a subclass declares K, and where the members of its orbits lie.

    A subclass is a frozen dataclass without arrays that defines two methods: `subgroup`, and `layout` unless
    its orbits are to be gathered by index. Members of an orbit are in ascending order; orbits of one size are
    ordered by their smallest member, as in `PermutationSubgroup.orbit_index`.

    Attributes
    ----------
    split, join : callable
        How vectors are taken apart and put together, given the layout: by default `layouts.split` and
        `layouts.join`. A subclass may compute the same results by other operations.
    """

    split: ClassVar[Callable[..., tuple[Array, ...]]] = staticmethod(split)
    join: ClassVar[Callable[..., Array]] = staticmethod(join)

    @abstractmethod
    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return K as a subgroup of S_n."""

    def layout(self, n: int) -> Layout:
        """Return where the orbits lie, an `OrbitLayout` for each size, ascending; called in every update."""
        return _gathered(self, n)

    def make_index(self, n: int, like: Array) -> tuple[Array, ...]:
        """Return the index arrays of elements, on the device of `like`: () unless the layout is gathered."""
        if not is_gathered(self.layout(n)):
            return ()
        xp, device = require_arrays(like=like), device_of(like)
        order = np.concatenate([members.reshape(-1) for members in self.subgroup(n).orbit_index])
        return xp.asarray(order, device=device), xp.asarray(np.argsort(order), device=device)

    # -- the verbs -------------------------------------------------------------------------------------

    def identity(self, n: int, like: Array) -> OrbitBlocks:
        """Return the identity on R^n, with the namespace, dtype and device of `like`."""
        require_like(like)
        n = require_count("n", n, "it is the size of the matrices")
        layout = self.layout(n)
        entries = sum(s * s * c for s, c, _, _ in layout)
        if entries > MOST:
            raise ValueError(
                f"`n` must leave at most {MOST} entries in the blocks, got {n}, {entries} entries"
            )
        blocks = tuple(batched.identity(s, c, like) for s, c, _, _ in layout)
        return OrbitBlocks(blocks, self.make_index(n, like))

    def compose(self, a: OrbitBlocks, b: OrbitBlocks) -> OrbitBlocks:
        """Return the product ``a b``, O(n s^2)."""
        self._require(a, "a")
        self._require(b, "b")
        require_alike("b.blocks.0", b.blocks[0], "a.blocks.0", a.blocks[0])
        here, there = (tuple(block.shape[1:] for block in x.blocks) for x in (a, b))
        if here != there:  # the blocks of one orbit would broadcast against those of many
            raise ValueError(
                f"`b` must have the orbits of `a`, (size, number) {here}, got {there}; "
                "compose elements for the same n and K"
            )
        return a._replace(blocks=tuple(batched.matmul(p, q) for p, q in zip(a.blocks, b.blocks, strict=True)))

    def inverse(self, a: OrbitBlocks) -> OrbitBlocks:
        """Return ``a^{-1}``, O(n s^2); not finite where a block is exactly singular."""
        self._require(a)
        return a._replace(
            blocks=tuple(batched.solve(q, batched.identity(q.shape[0], q.shape[2], q)) for q in a.blocks)
        )

    def apply(self, a: OrbitBlocks, x: Array) -> Array:
        """Return ``T x`` for x of shape (n,) or (n, k), O(n s k)."""
        return self._act(a, x, batched.matmul)

    def apply_transpose(self, a: OrbitBlocks, x: Array) -> Array:
        """Return ``T^T x`` for x of shape (n,) or (n, k), O(n s k)."""
        return self._act(a, x, lambda q, y: batched.matmul(batched.transpose(q), y))

    def solve(self, a: OrbitBlocks, x: Array) -> Array:
        """Return ``T^{-1} x`` for x of shape (n,) or (n, k), O(n s (s + k))."""
        return self._act(a, x, batched.solve)

    def solve_transpose(self, a: OrbitBlocks, x: Array) -> Array:
        """Return ``T^{-T} x`` for x of shape (n,) or (n, k), O(n s (s + k))."""
        return self._act(a, x, lambda q, y: batched.solve(batched.transpose(q), y))

    def matrix(self, a: OrbitBlocks) -> Array:
        """Return T as a dense (n, n) matrix."""
        self._require(a)
        return self.apply(a, eye(self.size(a), a.blocks[0]))

    def log_det(self, a: OrbitBlocks) -> Array:
        """Return ``log |det T|``, the sum over the blocks, a 0-d array."""
        self._require(a)
        xp = namespace(*a.blocks)
        total = xp.sum(batched.log_abs_det(a.blocks[0]))
        for block in a.blocks[1:]:
            total = total + xp.sum(batched.log_abs_det(block))
        return total

    def singular_values(self, a: OrbitBlocks) -> Array:
        """Return the singular values of T, (n,), in any order: those of its blocks, O(n s^2)."""
        self._require(a)
        return namespace(*a.blocks).concat([batched.singular_values(block) for block in a.blocks])

    def project(self, generator: Array) -> OrbitBlocks:
        """Return the orthogonal projection of a dense (n, n) matrix on the Lie algebra, as blocks.

        The algebra is the product of the gl(|O|), so this keeps the entries whose row and column share an
        orbit. A matrix of the group is its own projection, so this also turns a matrix into an element.
        """
        xp = require_arrays(generator=generator)
        require_float("generator", generator)
        if generator.ndim != 2 or generator.shape[0] != generator.shape[1] or not generator.shape[0]:
            raise ValueError(
                f"`generator` must be a square matrix, got shape {tuple(generator.shape)}; "
                "pass an (n, n) array"
            )
        n, flat = generator.shape[0], xp.reshape(generator, (-1,))
        device = device_of(generator)
        blocks = []
        for members in self.subgroup(n).orbit_index:
            s, c = members.shape
            entries = xp.asarray((members[:, None, :] * n + members[None, :, :]).reshape(-1), device=device)
            blocks.append(xp.reshape(xp.take(flat, entries), (s, s, c)))
        return OrbitBlocks(tuple(blocks), self.make_index(n, generator))

    # -- the coefficients of Theorem 3.1 ---------------------------------------------------------------

    def from_coefficients(self, coefficients: Array) -> OrbitBlocks:
        """Return the element ``T(x) = sum_i a_i * sigma_i(x)`` from its coefficients.

        Parameters
        ----------
        coefficients : array, shape (m, n)
            Row i is a_i; rows in the order of ``subgroup(n).elements()``.
        """
        xp = require_arrays(coefficients=coefficients)
        require_float("coefficients", coefficients)
        if coefficients.ndim != 2 or not coefficients.shape[1]:
            raise ValueError(
                f"`coefficients` must have shape (m, n), a row per element of K, got "
                f"{tuple(coefficients.shape)}; stack the a_i as rows"
            )
        m, n = coefficients.shape
        elements = self.subgroup(n).elements()
        if m != len(elements):
            raise ValueError(f"`coefficients` must have one row per element of K, {len(elements)}, got {m}")
        device, blocks = device_of(coefficients), []
        for members in self.subgroup(n).orbit_index:
            s, c = members.shape
            rows = xp.asarray(members.reshape(-1).copy(), device=device)
            total = xp.zeros((s, s, c), dtype=coefficients.dtype, device=device)
            for i, sigma in enumerate(elements):
                # entry (p, q) of an orbit's block is at row members[p], column members[q] of T
                hits = sigma[members][:, None, :] == members[None, :, :]
                mask = xp.astype(xp.asarray(hits, device=device), coefficients.dtype)
                entry = xp.reshape(xp.take(coefficients[i, :], rows), (s, 1, c))
                total = total + entry * mask
            blocks.append(total)
        return OrbitBlocks(tuple(blocks), self.make_index(n, coefficients))

    def coefficients(self, a: OrbitBlocks) -> Array:
        """Return the coefficients a_i, shape (m, n), in canonical form where they are not unique."""
        self._require(a)
        xp, n = namespace(*a.blocks), self.size(a)
        device = device_of(a.blocks[0])
        elements, orbit_index = self.subgroup(n).elements(), self.subgroup(n).orbit_index
        # for each index: its row in its block, its orbit, and where the blocks of that size start, s and c
        row, column, start, size, count = (np.zeros(n, dtype=np.int64) for _ in range(5))
        offset = 0
        for members in orbit_index:
            s, c = members.shape
            row[members], column[members] = np.arange(s)[:, None], np.arange(c)[None, :]
            start[members], size[members], count[members] = offset, s, c
            offset += s * s * c
        flat = xp.concat([xp.reshape(block, (-1,)) for block in a.blocks])
        rows = []
        for i, sigma in enumerate(elements):
            first = np.all(elements[:i] != sigma, axis=0)  # no earlier sigma_j reaches this entry
            entry = start + (row * size + row[sigma]) * count + column
            values = xp.take(flat, xp.asarray(entry, device=device))
            rows.append(values * xp.astype(xp.asarray(first, device=device), values.dtype))
        return xp.stack(rows)

    def size(self, a: OrbitBlocks) -> int:
        """Return n."""
        self._require(a)
        return sum(block.shape[0] * block.shape[2] for block in a.blocks)

    def _require(self, a: OrbitBlocks, name: str = "a") -> None:
        """Raise unless `a` is an element of the group for some n: its structure, shapes and dtypes."""
        require_element(name, a, OrbitBlocks)
        for field, parts in zip(a._fields, a, strict=True):
            if not isinstance(parts, tuple):
                raise TypeError(f"`{name}.{field}` must be a tuple of arrays, got {described(parts)}")
        if not a.blocks:
            raise ValueError(f"`{name}.blocks` must not be empty; make an element with `identity`")
        require_arrays(
            **{f"{name}.{field}.{i}": x for field in a._fields for i, x in enumerate(getattr(a, field))}
        )
        require_float(f"{name}.blocks.0", a.blocks[0])
        for i, block in enumerate(a.blocks):
            require_alike(f"{name}.blocks.{i}", block, f"{name}.blocks.0", a.blocks[0])
        shapes = [tuple(block.shape) for block in a.blocks]
        n = sum(s[0] * s[-1] for s in shapes if s)
        if n < 1 or shapes != [(s, s, c) for s, c, _, _ in self.layout(n)]:
            raise ValueError(
                f"`{name}.blocks` must have shapes (s, s, c) for the orbits of this group, got {shapes}; "
                "make an element with `identity` or `project`"
            )
        index = [tuple(x.shape) if holds_integers(x) else x.dtype for x in a.gather]
        if index != ([(n,)] * 2 if is_gathered(self.layout(n)) else []):
            raise ValueError(f"`{name}.gather` must be what `make_index` returns for n = {n}, got {index}")

    def _act(self, a: OrbitBlocks, x: Array, verb: Callable[[Array, Array], Array]) -> Array:
        require_vectors("x", x, self.size(a))
        require_alike("x", x, "a.blocks.0", a.blocks[0])
        layout = self.layout(x.shape[0])
        parts = self.split(layout, x if x.ndim == 2 else x[:, None], a.gather)
        out = self.join(layout, tuple(verb(q, p) for q, p in zip(a.blocks, parts, strict=True)), a.gather)
        return out if x.ndim == 2 else out[:, 0]


@lru_cache(maxsize=64)
def _gathered(group: OrbitGroup, n: int) -> Layout:
    """Return the layout of orbits gathered by index; it is kept, because making K can take long."""
    return group.subgroup(n).layout


@dataclass(frozen=True)
class SparseGroup(OrbitGroup):
    """The group of Theorem 3.1 over any permutation subgroup K."""

    permutations: PermutationSubgroup

    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return K."""
        if n != self.permutations.n:
            raise ValueError(
                f"`n` must be the subgroup's, {self.permutations.n}, got {n}; build the subgroup for this n"
            )
        return self.permutations


@dataclass(frozen=True)
class DiagonalGroup(OrbitGroup):
    """Invertible diagonal matrices: ``K = {e}``, n orbits of one (Theorem 3.1, example 1)."""

    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return the trivial subgroup."""
        return PermutationSubgroup.trivial(n)

    def layout(self, n: int) -> Layout:
        """Return n orbits of one, as they are."""
        return (OrbitLayout(1, n, "direct", 0),)


@dataclass(frozen=True)
class XMatGroup(OrbitGroup):
    """X-shaped matrices: ``K = {e, flip}``, pairs (i, n-1-i) and, for odd n, a middle (example 2)."""

    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return {e, flip}."""
        return PermutationSubgroup.flip(n)

    def layout(self, n: int) -> Layout:
        """Return the middle, if any, and the pairs, if any."""
        half = n // 2
        pairs = (OrbitLayout(2, half, "mirrored", 0),) if half else ()
        return (OrbitLayout(1, 1, "direct", half), *pairs) if n % 2 else pairs


@dataclass(frozen=True)
class ButterflyGroup(OrbitGroup):
    """Butterfly matrices: ``K = {e, shift by n/2}``, pairs (i, i + n/2), n even (example 3)."""

    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return {e, shift by n/2}."""
        return PermutationSubgroup.half_shift(n)

    def layout(self, n: int) -> Layout:
        """Return the pairs, from both halves."""
        if n % 2:
            raise ValueError(f"`n` must be even for a butterfly, got {n}; use XMat, or pad by one parameter")
        return (OrbitLayout(2, n // 2, "shifted", 0),)


@dataclass(frozen=True)
class GeneralLinear(OrbitGroup):
    """GL(n): all cyclic shifts, one orbit (example 4); started at the identity it stays in GL+(n).

    Every move multiplies with a matrix near the identity, so the determinant keeps its sign.
    """

    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return all cyclic shifts."""
        return PermutationSubgroup.all_shifts(n)

    def layout(self, n: int) -> Layout:
        """Return one orbit, the vector itself."""
        return (OrbitLayout(n, 1, "shifted", 0),)
