"""The groups of Theorem 3.1, for any permutation subgroup K, seen through the orbits of K.

``T(x | a_1 .. a_m) = sum_i a_i * sigma_i(x)`` with ``K = {sigma_1 .. sigma_m}``. Row k of T has its entries
exactly at the orbit of k under K, and for any two indices of an orbit some sigma_i maps one to the other.
So, up to a permutation, **the group of Theorem 3.1 is the direct product of GL(|O|) over the orbits O of K**,
and every operation is the same operation on small dense blocks, O(n s^2) for orbits of size s.

An element holds its blocks, one (s, s, c) array for the c orbits of each size s (see `_blocks`). The
coefficients a_i are the other form; `from_coefficients` and `coefficients` convert. They are unique only
where K acts freely; elsewhere (the middle element of an X-matrix of odd size) the canonical form gives each
entry of T to the first sigma_i that reaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..arrays import batched
from ..arrays.arguments import MOST, described, require_count
from ..arrays.library import (
    Array,
    device_of,
    holds_integers,
    namespace,
    require_alike,
    require_arrays,
    require_float,
)
from .lie import LieGroup, eye, require_element, require_like, require_vectors

if TYPE_CHECKING:
    from .subgroup import PermutationSubgroup


class OrbitBlocks(NamedTuple):
    """An element of a Theorem 3.1 group."""

    blocks: tuple[Array, ...]  # per orbit size s, ascending: (s, s, c), entry (i, j) of the c blocks
    gather: tuple[Array, ...] = ()  # () or (order, inverse order), int (n,): gathers orbits together and back


class OrbitGroup(LieGroup):
    """What all groups of Theorem 3.1 share; a subclass says which K, and may lay orbits out faster.

    Subclasses are frozen dataclasses without arrays. Members of an orbit are in ascending order; orbits of
    one size are ordered by their smallest member.
    """

    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return K as a subgroup of S_n."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its subgroup K is")

    # -- the layout: from vectors to orbits and back ---------------------------------------------------

    def orbit_sizes(self, n: int) -> tuple[tuple[int, int], ...]:
        """Return (size s, number c) of the orbits, ascending in s."""
        return tuple((members.shape[0], members.shape[1]) for members in self.subgroup(n).orbit_index)

    def make_index(self, n: int, like: Array) -> tuple[Array, ...]:
        """Return the index arrays that `split` and `join` need, on the device of `like`."""
        xp, device = require_arrays(like=like), device_of(like)
        order = np.concatenate([members.reshape(-1) for members in self.subgroup(n).orbit_index])
        inverse = np.empty_like(order)
        inverse[order] = np.arange(n)
        return xp.asarray(order, device=device), xp.asarray(inverse, device=device)

    def split(self, a: OrbitBlocks, x: Array) -> tuple[Array, ...]:
        """Return columns (n, k) by orbits: per orbit size an (s, k, c) array."""
        xp = namespace(x)
        gathered, parts, start = xp.take(x, a.gather[0], axis=0), [], 0
        for block in a.blocks:
            s, _, c = block.shape
            part = xp.reshape(gathered[start : start + s * c, :], (s, c, x.shape[1]))
            parts.append(xp.permute_dims(part, (0, 2, 1)))
            start += s * c
        return tuple(parts)

    def join(self, a: OrbitBlocks, parts: tuple[Array, ...]) -> Array:
        """Return the columns (n, k) that `split` took apart."""
        xp = namespace(*parts)
        flat = [
            xp.reshape(xp.permute_dims(p, (0, 2, 1)), (p.shape[0] * p.shape[2], p.shape[1])) for p in parts
        ]
        return xp.take(xp.concat(flat, axis=0), a.gather[1], axis=0)

    def layout(self, a: OrbitBlocks) -> tuple[tuple[str, int], ...]:
        """Return per orbit size how, and from which index on, `split` finds the members, for kernels.

        Member i of orbit j of c is at index ``start + j`` ("direct", orbits of one), ``start + i c + j``
        ("shifted"), j or n - 1 - j ("mirrored"), or there in the order that `make_index` returns
        ("gathered"). Empty for a group that has a `split` of its own and does not say.
        """
        if type(self).split is not OrbitGroup.split:
            return ()
        starts = [0]
        for block in a.blocks[:-1]:
            starts.append(starts[-1] + block.shape[0] * block.shape[2])
        return tuple(("gathered", start) for start in starts)

    # -- the verbs -------------------------------------------------------------------------------------

    def identity(self, n: int, like: Array) -> OrbitBlocks:
        """Return the identity on R^n, with the namespace, dtype and device of `like`."""
        require_like(like)
        n = require_count("n", n, "it is the size of the matrices")
        entries = sum(s * s * c for s, c in self.orbit_sizes(n))
        if entries > MOST:
            raise ValueError(
                f"`n` must leave at most {MOST} entries in the blocks, got {n}, {entries} entries"
            )
        blocks = tuple(batched.identity(s, c, like) for s, c in self.orbit_sizes(n))
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

    def project(self, generator: Array) -> OrbitBlocks:
        """Return the orthogonal projection of a dense (n, n) matrix on the Lie algebra, as blocks.

        The algebra is the product of gl(|O|): projecting keeps the entries whose row and column share an
        orbit. A matrix of the group is its own projection, so this also makes an element from a matrix.
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
            rows, total = xp.asarray(members.reshape(-1).copy(), device=device), 0.0
            for i, sigma in enumerate(elements):
                # entry (p, q) of an orbit's block is at row members[p], column members[q] of T
                hits = sigma[members][:, None, :] == members[None, :, :]
                mask = xp.astype(xp.asarray(hits, device=device), coefficients.dtype)
                entry = xp.reshape(xp.take(coefficients[i, :], rows), (members.shape[0], 1, -1))
                total = total + entry * mask
            blocks.append(total)
        return OrbitBlocks(tuple(blocks), self.make_index(n, coefficients))

    def coefficients(self, a: OrbitBlocks) -> Array:
        """Return the coefficients a_i, shape (m, n), in canonical form where they are not unique."""
        self._require(a)
        xp, n = namespace(*a.blocks), self.size(a)
        device = device_of(a.blocks[0])
        elements, orbit_index = self.subgroup(n).elements(), self.subgroup(n).orbit_index
        # where index k sits: its row in its block, its column, and the offset and width of its size's blocks
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
            **{f"{name}.{f}.{i}": x for f, x in zip(a._fields, a, strict=True) for i, x in enumerate(x)}
        )
        require_float(f"{name}.blocks.0", a.blocks[0])
        for i, block in enumerate(a.blocks):
            require_alike(f"{name}.blocks.{i}", block, f"{name}.blocks.0", a.blocks[0])
        shapes = [tuple(block.shape) for block in a.blocks]
        n = sum(s[0] * s[-1] for s in shapes if s)
        if n < 1 or shapes != [(s, s, c) for s, c in self.orbit_sizes(n)]:
            raise ValueError(
                f"`{name}.blocks` must have shapes (s, s, c) for the orbits of this group, got {shapes}; "
                "make an element with `identity` or `project`"
            )
        gathered = [tuple(x.shape) if holds_integers(x) else x.dtype for x in a.gather]
        if gathered != ([(n,)] * 2 if type(self).split is OrbitGroup.split else gathered[:0]):
            raise ValueError(f"`{name}.gather` must be what `make_index` returns for n = {n}, got {gathered}")

    def _act(self, a: OrbitBlocks, x: Array, verb: Callable[[Array, Array], Array]) -> Array:
        require_vectors("x", x, self.size(a))
        require_alike("x", x, "a.blocks.0", a.blocks[0])
        columns = x if x.ndim == 2 else x[:, None]
        parts = self.split(a, columns)
        out = self.join(a, tuple(verb(q, p) for q, p in zip(a.blocks, parts, strict=True)))
        return out if x.ndim == 2 else out[:, 0]


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


class _SlicedGroup(OrbitGroup):
    """A group whose orbits are slices of the vector: no index arrays."""

    def make_index(self, n: int, like: Array) -> tuple[Array, ...]:
        """Return (): slices need no index arrays."""
        return ()


@dataclass(frozen=True)
class DiagonalGroup(_SlicedGroup):
    """Invertible diagonal matrices: ``K = {e}``, n orbits of one (Theorem 3.1, example 1)."""

    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return the trivial subgroup."""
        from .subgroup import PermutationSubgroup

        return PermutationSubgroup.trivial(n)

    def orbit_sizes(self, n: int) -> tuple[tuple[int, int], ...]:
        """Return ((1, n),)."""
        return ((1, n),)

    def layout(self, a: OrbitBlocks) -> tuple[tuple[str, int], ...]:
        """Return one by one."""
        return (("direct", 0),)

    def split(self, a: OrbitBlocks, x: Array) -> tuple[Array, ...]:
        """Return columns (n, k) as (1, k, n)."""
        return (namespace(x).permute_dims(x[None, :, :], (0, 2, 1)),)

    def join(self, a: OrbitBlocks, parts: tuple[Array, ...]) -> Array:
        """Return the columns that `split` took apart."""
        return namespace(*parts).permute_dims(parts[0], (0, 2, 1))[0, :, :]


@dataclass(frozen=True)
class XMatGroup(_SlicedGroup):
    """X-shaped matrices: ``K = {e, flip}``, pairs (i, n-1-i) and, for odd n, a middle (example 2)."""

    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return {e, flip}."""
        from .subgroup import PermutationSubgroup

        return PermutationSubgroup.flip(n)

    def orbit_sizes(self, n: int) -> tuple[tuple[int, int], ...]:
        """Return ((1, 1),) where n is odd, and (2, n // 2)."""
        return (((1, 1),) if n % 2 else ()) + (((2, n // 2),) if n > 1 else ())

    def layout(self, a: OrbitBlocks) -> tuple[tuple[str, int], ...]:
        """Return the middle, if any, and the pairs."""
        half = a.blocks[-1].shape[2] if a.blocks[-1].shape[0] == 2 else 0
        middle = (("direct", half),) if a.blocks[0].shape[0] == 1 else ()
        return middle + ((("mirrored", 0),) if half else ())

    def split(self, a: OrbitBlocks, x: Array) -> tuple[Array, ...]:
        """Return columns (n, k) as the middle (1, k, 1), if any, and the pairs (2, k, n // 2)."""
        xp, half = namespace(x), x.shape[0] // 2
        parts = []
        if x.shape[0] % 2:
            parts.append(xp.permute_dims(x[None, half : half + 1, :], (0, 2, 1)))
        if half:
            pairs = xp.stack([x[:half, :], xp.flip(x[x.shape[0] - half :, :], axis=0)])
            parts.append(xp.permute_dims(pairs, (0, 2, 1)))
        return tuple(parts)

    def join(self, a: OrbitBlocks, parts: tuple[Array, ...]) -> Array:
        """Return the columns that `split` took apart."""
        xp = namespace(*parts)
        pieces = [xp.permute_dims(part, (0, 2, 1)) for part in parts]
        if pieces[-1].shape[0] == 1:
            return pieces[0][0, :, :]
        middle = [pieces[0][0, :, :]] if len(pieces) == 2 else []
        return xp.concat([pieces[-1][0, :, :], *middle, xp.flip(pieces[-1][1, :, :], axis=0)], axis=0)


@dataclass(frozen=True)
class ButterflyGroup(_SlicedGroup):
    """Butterfly matrices: ``K = {e, shift by n/2}``, pairs (i, i + n/2), n even (example 3)."""

    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return {e, shift by n/2}."""
        from .subgroup import PermutationSubgroup

        return PermutationSubgroup.half_shift(n)

    def orbit_sizes(self, n: int) -> tuple[tuple[int, int], ...]:
        """Return ((2, n // 2),)."""
        if n % 2:
            raise ValueError(f"`n` must be even for a butterfly, got {n}; use XMat, or pad by one parameter")
        return ((2, n // 2),)

    def layout(self, a: OrbitBlocks) -> tuple[tuple[str, int], ...]:
        """Return both halves."""
        return (("shifted", 0),)

    def split(self, a: OrbitBlocks, x: Array) -> tuple[Array, ...]:
        """Return columns (n, k) as (2, k, n // 2)."""
        xp, (n, k) = namespace(x), x.shape
        return (xp.permute_dims(xp.reshape(x, (2, n // 2, k)), (0, 2, 1)),)

    def join(self, a: OrbitBlocks, parts: tuple[Array, ...]) -> Array:
        """Return the columns that `split` took apart."""
        xp, (_, k, half) = namespace(*parts), parts[0].shape
        return xp.reshape(xp.permute_dims(parts[0], (0, 2, 1)), (2 * half, k))


@dataclass(frozen=True)
class GeneralLinear(_SlicedGroup):
    """GL(n): all cyclic shifts, one orbit (example 4); started at the identity it stays in GL+(n).

    Every move multiplies with a matrix near the identity, so the determinant keeps its sign.
    """

    def subgroup(self, n: int) -> PermutationSubgroup:
        """Return all cyclic shifts."""
        from .subgroup import PermutationSubgroup

        return PermutationSubgroup.all_shifts(n)

    def orbit_sizes(self, n: int) -> tuple[tuple[int, int], ...]:
        """Return ((n, 1),)."""
        return ((n, 1),)

    def layout(self, a: OrbitBlocks) -> tuple[tuple[str, int], ...]:
        """Return the whole vector: member i at i."""
        return (("shifted", 0),)

    def split(self, a: OrbitBlocks, x: Array) -> tuple[Array, ...]:
        """Return columns (n, k) as (n, k, 1)."""
        return (x[:, :, None],)

    def join(self, a: OrbitBlocks, parts: tuple[Array, ...]) -> Array:
        """Return the columns that `split` took apart."""
        return parts[0][:, :, 0]
