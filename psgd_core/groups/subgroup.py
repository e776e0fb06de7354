"""Permutation subgroups K of S_n: the configuration of a group of Theorem 3.1.

A permutation σ of the n parameters is written as n integers and acts by

    σ(x) = x[σ],        so that        (σ ∘ τ)(x) = σ(τ(x)) = x[τ[σ]].

The group of Theorem 3.1, ``T(x) = sum_i a_i ⊙ σ_i(x)`` over all σ_i in K, depends on K only through its
orbits: row k of T has its entries at the orbit of k, and some σ_i joins any two members of an orbit. So T,
sorted by orbits, is one invertible matrix for each of them. The orbits are the connected components of the
generators' graph, O(n) for each generator, and fitting needs no more than that; all elements are listed only
on request, and within bounds.

`PermutationSubgroup` is configuration: frozen, hashable, comparable. Shifts, flips and permutations of
blocks are a few numbers, written out as index arrays only when they are needed, so a subgroup of S_n costs
nothing to make and to hash at n = 10^8. This module works with NumPy on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from ..arrays.arguments import described, require_count
from .closure import close, generators_of, orbits_of
from .layouts import Layout, OrbitLayout
from .permutation import Permutation, listed, validated

LIMIT = 5040
"""Most elements of a closure listed by default: 7!."""

_MOST_ENTRIES = 2**27  # integers in a listed closure: 1 GiB


@dataclass(frozen=True, repr=False)
class PermutationSubgroup:
    """A subgroup K of S_n, given by permutations that generate it.

    Parameters
    ----------
    n : int
        Number of indices (parameters), at least 1.
    generators : sequence of `Permutation` or of n integers each
        σ(x) = x[sigma]. The identity and repetitions are dropped, the order is kept.

    Subgroups are equal (``==``) if their generators are, a cheap test for the caches of compiled functions.
    ``a.is_subgroup_of(b) and b.is_subgroup_of(a)`` compares them as groups, ``a.same_orbits(b)`` as far as
    Theorem 3.1 can tell them apart.

    A generator that is not a bijection of range(n) raises a ValueError.
    """

    n: int
    generators: tuple[Permutation, ...] = ()

    def __post_init__(self) -> None:
        n = _size(self.n)
        kept: dict[Permutation, None] = {}
        for i, sigma in enumerate(listed("generators", self.generators)):
            permutation = Permutation.of(sigma, n, f"generators[{i}]")
            if not permutation.is_identity:
                kept[permutation] = None
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "generators", tuple(kept))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.n, self.generators))

    # -- constructors --------------------------------------------------------------------------------------

    @classmethod
    def trivial(cls, n: int) -> PermutationSubgroup:
        """Return {e}: n orbits of 1, the diagonal matrices."""
        return cls(n)

    @classmethod
    def flip(cls, n: int) -> PermutationSubgroup:
        """Return {e, flip}, flip(x)_i = x_{n-1-i}: the X-matrices (for odd n not free: a fixed middle)."""
        return cls.dihedral(n, 1)

    @classmethod
    def half_shift(cls, n: int) -> PermutationSubgroup:
        """Return {e, shift by n/2}, for even n: the butterfly matrices."""
        return cls.cyclic(_even(n), 2)

    @classmethod
    def cyclic(cls, n: int, order: int) -> PermutationSubgroup:
        """Return the `order` shifts by multiples of n/order, for an `order` that divides n."""
        return cls(n, (_shift(n, order),))

    @classmethod
    def klein(cls, n: int) -> PermutationSubgroup:
        """Return the Klein four-group {e, flip, shift by n/2, flip ∘ shift}, for even n."""
        return cls.dihedral(_even(n), 2)

    @classmethod
    def dihedral(cls, n: int, order: int | None = None) -> PermutationSubgroup:
        """Return the `order` shifts by multiples of n/order and their flips (by default all n shifts)."""
        n = _size(n)
        shift = _shift(n, n if order is None else order)
        # On one or two indices the flip is the identity or the shift by one.
        return cls(n, (shift, Permutation(n, "flip") if n > 2 else Permutation(n, "shift", n - 1)))

    @classmethod
    def all_shifts(cls, n: int) -> PermutationSubgroup:
        """Return the n cyclic shifts: one orbit, GL(n)."""
        return cls.cyclic(n, n)

    @classmethod
    def neighbour_swap(cls, n: int) -> PermutationSubgroup:
        """Return {e, swap of 2i and 2i + 1}, for even n: blocks of two neighbours."""
        n = _even(n)
        return cls(n, (Permutation(n, "swap") if n > 2 else Permutation(n, "shift", 1),))

    @classmethod
    def on_blocks(cls, n: int, block_permutations: Iterable[Any]) -> PermutationSubgroup:
        """Return the group generated by permuting b consecutive blocks of n/b parameters each; b divides n.

        With permutations of range(3), ``[(1, 0, 2), (1, 2, 0)]``, S_3 acts on three blocks: n/3 orbits of 3.
        """
        n = _size(n)
        generators = []
        for i, sigma in enumerate(listed("block_permutations", block_permutations)):
            blocks = Permutation.of(sigma, name=f"block_permutations[{i}]")
            if n % blocks.n:
                raise ValueError(
                    f"`block_permutations[{i}]` must permute a number of blocks that divides n = {n}, "
                    f"got {blocks.n} blocks; choose another b, or pad the parameters"
                )
            generators.append(blocks.of_blocks(n // blocks.n))
        return cls(n, tuple(generators))

    @classmethod
    def from_generators(cls, generators: Iterable[Any]) -> PermutationSubgroup:
        """Return the group generated by permutations, each a sequence of n integers, σ(x) = x[sigma]."""
        perms = listed("generators", generators)
        if not perms:
            raise ValueError("`generators` must hold at least one permutation, got none; use `trivial(n)`")
        return cls(Permutation.of(perms[0], name="generators[0]").n, perms)

    @classmethod
    def from_elements(cls, elements: Iterable[Any]) -> PermutationSubgroup:
        """Return the group that consists of exactly these permutations, after checking that they form one.

        Its generators are those elements that the ones before them do not generate.

        Raises
        ------
        ValueError
            If the identity is missing, or the product of two elements; the message names the two.
        """
        perms = listed("elements", elements)
        if not perms:
            raise ValueError("`elements` must hold at least the identity, got none; use `trivial(n)`")
        n = validated(perms[0], None, "elements[0]").size
        rows = [validated(p, n, f"elements[{i}]") for i, p in enumerate(perms)]
        return cls(n, tuple(Permutation.of(row) for row in generators_of(rows)))

    # -- orbits --------------------------------------------------------------------------------------------

    @cached_property
    def orbits(self) -> np.ndarray:
        """The orbit that each index belongs to, int64 of shape (n,), read-only; O(n) for each generator.

        Orbits are numbered from 0 in the order of their smallest members.
        """
        labels = orbits_of(self.n, [sigma.indices() for sigma in self.generators])
        labels.flags.writeable = False
        return labels

    @cached_property
    def orbit_sizes(self) -> np.ndarray:
        """The number of members of each orbit, int64 of shape (number of orbits,), read-only."""
        sizes = np.bincount(self.orbits)
        sizes.flags.writeable = False
        return sizes

    @cached_property
    def orbit_index(self) -> tuple[np.ndarray, ...]:
        """The members of the orbits, gathered by size: one array for each orbit size s, s ascending.

        Each is int64 of shape (s, number of orbits of that size), read-only. A column is an orbit, its
        members ascending; columns are ordered by their smallest members. Every index occurs exactly once.
        """
        members = np.argsort(self.orbits, kind="stable")
        starts = np.cumsum(self.orbit_sizes) - self.orbit_sizes
        tables = []
        for s in np.unique(self.orbit_sizes):
            table = members[np.arange(s)[:, None] + starts[self.orbit_sizes == s]]
            table.flags.writeable = False
            tables.append(table)
        return tuple(tables)

    @cached_property
    def layout(self) -> Layout:
        """Where the members of the orbits lie in a vector gathered in the order of `orbit_index`."""
        layout, start = [], 0
        for members in self.orbit_index:
            size, count = members.shape
            layout.append(OrbitLayout(size, count, "gathered", start))
            start += size * count
        return tuple(layout)

    def same_orbits(self, other: PermutationSubgroup) -> bool:
        """Tell whether the orbits are the same, and with them the groups of Theorem 3.1."""
        _require_subgroup(other)
        return self.n == other.n and np.array_equal(self.orbits, other.orbits)

    @property
    def is_transitive(self) -> bool:
        """Whether there is only one orbit."""
        return self.orbit_sizes.size == 1

    # -- elements ------------------------------------------------------------------------------------------

    def elements(self, limit: int = LIMIT) -> np.ndarray:
        """Return all elements, int64 of shape (order, n): the identity, then words by increasing length.

        Costs O(order · generators · n) in time, each row is a permutation with σ(x) = x[row].

        Raises
        ------
        ValueError
            If there are more than `limit`, or more than 2^27 integers to list.
        """
        limit = require_count("limit", limit, "it is the largest number of elements to list")
        most = min(limit, _MOST_ENTRIES // self.n)
        if (self._known_order or 1) <= most:
            rows = close(self.n, [sigma.indices() for sigma in self.generators], most)
            if rows is not None:
                return np.stack(rows)
        raise ValueError(
            f"`limit` must be at least the number of elements to list them, got {limit} for n = {self.n} "
            f"(and at most {_MOST_ENTRIES} integers in all); the orbits alone are enough for fitting"
        )

    @cached_property
    def order(self) -> int:
        """|K|, in closed form for shifts, flips and a single generator, else by listing the elements.

        Raises ValueError if they are too many to list, as `elements` does.
        """
        return self._known_order or len(self.elements())

    @property
    def _known_order(self) -> int | None:
        if all(sigma.kind in ("shift", "flip") for sigma in self.generators):
            shifts = [sigma.step for sigma in self.generators if sigma.kind == "shift"]
            return self.n // math.gcd(self.n, *shifts) * (2 if len(shifts) < len(self.generators) else 1)
        if len(self.generators) == 1:
            return math.lcm(*np.unique(self.orbit_sizes).tolist())  # its cycles
        return None

    @property
    def is_free(self) -> bool:
        """Whether only the identity has fixed points: all orbits have |K| members, the a_i are unique."""
        return bool(np.all(self.orbit_sizes == self.order))

    @property
    def is_abelian(self) -> bool:
        """Whether all elements commute, which the generators alone decide."""
        arrays = [sigma.indices() for sigma in self.generators]
        pairs = combinations(arrays, 2)
        return all(np.array_equal(a[b], b[a]) for a, b in pairs)  # a ∘ b = b[a]

    def __contains__(self, sigma: Any) -> bool:
        """Tell whether the permutation is an element; lists the elements unless the orbits rule it out.

        Raises
        ------
        TypeError, ValueError
            If it is not a permutation of range(n), or the elements are too many to list.
        """
        sigma = Permutation.of(sigma, self.n)
        if sigma.is_identity or sigma in self.generators:
            return True
        array = sigma.indices()
        if not np.array_equal(self.orbits[array], self.orbits):
            return False
        return bool(np.any(np.all(self.elements() == array, axis=1)))

    def is_subgroup_of(self, other: PermutationSubgroup) -> bool:
        """Tell whether every element of this group is one of `other`'s."""
        _require_subgroup(other)
        return self.n == other.n and all(sigma in other for sigma in self.generators)

    # -- new groups from old -------------------------------------------------------------------------------

    def conjugate(self, perm: Any) -> PermutationSubgroup:
        """Return π^{-1} K π for the permutation π = `perm`, π(x) = x[perm]: K after relabelling.

        Parameter ``perm[j]`` takes the place that j had, so the orbits become ``perm[orbit]``: any pairing
        of parameters is a conjugate of `flip`.
        """
        pi = validated(perm, self.n, "perm")
        back = np.argsort(pi)
        return PermutationSubgroup(self.n, tuple(pi[s.indices()[back]] for s in self.generators))

    def join(self, other: PermutationSubgroup) -> PermutationSubgroup:
        """Return the smallest subgroup that contains both."""
        _require_subgroup(other)
        if self.n != other.n:
            raise ValueError(f"`other` must permute range({self.n}), got a subgroup for n = {other.n}")
        return PermutationSubgroup(self.n, self.generators + other.generators)

    def __repr__(self) -> str:
        shown = [str(sigma) for sigma in self.generators[:4]] or ["e"]
        if len(self.generators) > 4:
            shown.append(f"{len(self.generators) - 4} more")
        return f"PermutationSubgroup(n={self.n}, generated by {', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cached index arrays out of copies and pickles."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _require_subgroup(other: Any) -> None:
    if not isinstance(other, PermutationSubgroup):
        raise TypeError(
            f"`other` must be a PermutationSubgroup, got {described(other)}; make one of generators"
        )


def _size(n: Any) -> int:
    return require_count("n", n, "it is the number of indices")


def _even(n: Any) -> int:
    size = _size(n)
    if size % 2:
        raise ValueError(f"`n` must be even, got {n}; pad the parameters by one, or choose another subgroup")
    return size


def _shift(n: Any, order: Any) -> Permutation:
    n, order = _size(n), require_count("order", order, "it is the number of shifts")
    if n % order:
        raise ValueError(f"`order` must divide n = {n}, got {order}; choose a divisor, or pad the parameters")
    return Permutation(n, "shift", n // order % n)
