"""Permutation subgroups: closures, orbits and laws against brute force over the elements."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psgd_core.groups.subgroup import Permutation, PermutationSubgroup

K = PermutationSubgroup


def brute_force_closure(generators, n):
    """All products of the generators, as a set of tuples (words are added until nothing is new)."""
    found = {tuple(range(n))}
    while True:
        new = {tuple(p[i] for i in q) for p in generators for q in found} - found
        if not new:
            return found
        found |= new


def brute_force_orbits(elements):
    """The orbits as a set of frozensets: where the elements send each index."""
    return {frozenset(int(row[i]) for row in elements) for i in range(len(elements[0]))}


def as_sets(labels):
    return {frozenset(np.flatnonzero(labels == k).tolist()) for k in range(labels.max() + 1)}


permutations = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.permutations(range(n)), min_size=1, max_size=3).map(lambda p: (n, p))
)


@given(permutations)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_elements_orbits_and_layout_agree_with_brute_force(drawn):
    n, generators = drawn
    k = K.from_generators(generators)
    expected = brute_force_closure(generators, n)
    elements = k.elements()
    assert elements.dtype == np.int64
    assert len(elements) == len(expected) == k.order
    assert {tuple(row) for row in elements.tolist()} == expected
    assert elements[0].tolist() == list(range(n))

    orbits = brute_force_orbits(sorted(expected))
    assert as_sets(k.orbits) == orbits
    first_seen = [k.orbits.tolist().index(label) for label in range(k.orbits.max() + 1)]
    assert first_seen == sorted(first_seen)  # numbered by smallest member
    assert k.orbit_sizes.tolist() == [np.sum(k.orbits == label) for label in range(len(orbits))]
    assert k.is_transitive == (len(orbits) == 1)

    layout = k.orbit_index
    assert [m.shape[0] for m in layout] == sorted({len(o) for o in orbits})
    for members in layout:
        assert members.dtype == np.int64
        assert {frozenset(column.tolist()) for column in members.T} == {
            o for o in orbits if len(o) == members.shape[0]
        }
        assert np.all(np.diff(members, axis=0) > 0)
        assert np.all(np.diff(members[0]) > 0)
    assert sorted(np.concatenate([m.reshape(-1) for m in layout])) == list(range(n))

    fixed = [sum(p[i] == i for i in range(n)) for p in expected]
    assert k.is_free == (sum(f > 0 for f in fixed) == 1)
    assert k.is_abelian == all(
        [p[i] for i in q] == [q[i] for i in p] for p, q in itertools.product(expected, repeat=2)
    )
    assert len(orbits) == sum(fixed) / len(expected)  # Burnside's lemma
    for p in itertools.islice(itertools.permutations(range(n)), 60):
        assert (p in k) == (p in expected)


@given(permutations, st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_from_elements_recovers_the_group_in_any_order_with_few_generators(drawn, random):
    n, generators = drawn
    elements = [list(e) for e in brute_force_closure(generators, n)]
    random.shuffle(elements)
    k = K.from_elements(elements)
    assert {tuple(row) for row in k.elements().tolist()} == {tuple(e) for e in elements}
    assert len(k.generators) <= math.log2(len(elements)) + 1e-9


@given(permutations, st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_conjugate_relabels_orbits_and_elements(drawn, random):
    n, generators = drawn
    pi = list(range(n))
    random.shuffle(pi)
    k = K.from_generators(generators)
    moved = k.conjugate(pi)
    assert as_sets(moved.orbits) == {frozenset(pi[i] for i in orbit) for orbit in as_sets(k.orbits)}
    # as operators on vectors: pi^{-1}(sigma(pi(x)))
    x, inverse = np.random.default_rng(n).standard_normal(n), np.argsort(pi)
    expected = {tuple(x[pi][list(s)][inverse]) for s in brute_force_closure(generators, n)}
    assert {tuple(x[s]) for s in moved.elements()} == expected
    assert moved.conjugate(inverse) == k


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 16])
def test_named_constructors_are_what_they_say(n):
    index = list(range(n))
    flip = index[::-1]

    def shift(k):
        return [(i + k) % n for i in index]

    def check(k, generators):
        assert {tuple(e) for e in k.elements().tolist()} == brute_force_closure(generators, n)
        assert k == K.from_generators(generators)
        assert hash(k) == hash(K.from_generators(generators))
        assert k.order == len(brute_force_closure(generators, n))

    check(K.trivial(n), [index])
    check(K.flip(n), [flip])
    check(K.all_shifts(n), [shift(1)])
    check(K.dihedral(n), [shift(1), flip])
    for order in [d for d in range(1, n + 1) if n % d == 0]:
        check(K.cyclic(n, order), [shift(n // order)])
        check(K.dihedral(n, order), [shift(n // order), flip])
        assert K.cyclic(n, order).order == order
        assert K.cyclic(n, order).is_free
    if n % 2 == 0:
        check(K.half_shift(n), [shift(n // 2)])
        check(K.klein(n), [shift(n // 2), flip])
        check(K.neighbour_swap(n), [[i + 1 - 2 * (i % 2) for i in index]])


def test_orders_and_orbit_counts_of_the_paper():
    assert K.flip(8).orbit_sizes.tolist() == [2] * 4
    assert K.half_shift(8).orbit_sizes.tolist() == [2] * 4
    assert K.klein(8).order == 4
    assert K.klein(8).orbit_sizes.tolist() == [4] * 2
    assert K.cyclic(8, 4).orbit_sizes.tolist() == [4] * 2
    assert K.dihedral(7).order == 14
    assert not K.dihedral(7).is_abelian
    assert K.dihedral(7).is_transitive
    assert not K.dihedral(7).is_free
    assert K.all_shifts(7).orbit_sizes.tolist() == [7]
    assert K.neighbour_swap(6).orbit_index[0].tolist() == [[0, 2, 4], [1, 3, 5]]
    # 4 does not divide 6: Klein's group is not free there
    assert K.klein(6).orbit_sizes.tolist() == [4, 2]
    assert not K.klein(6).is_free


def test_odd_flip_is_not_free():
    k = K.flip(5)
    assert [m.tolist() for m in k.orbit_index] == [[[2]], [[0, 1], [4, 3]]]
    assert k.order == 2
    assert not k.is_free


def test_symmetric_group_on_three_blocks():
    k = K.on_blocks(12, [(1, 0, 2), (1, 2, 0)])
    assert k.order == 6
    assert not k.is_abelian
    assert k.orbit_sizes.tolist() == [3] * 4
    assert [g.indices().tolist() for g in k.generators] == [
        [4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11],
        [4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3],
    ]
    assert not k.is_free  # a swap of two blocks fixes the third
    assert K.on_blocks(12, [(1, 2, 0)]) == K.cyclic(12, 3)
    assert K.on_blocks(3, [(1, 0, 2), (1, 2, 0)]).order == 6


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_descriptions_are_unique(count, size):
    """A block permutation and the same permutation written out are equal and hash alike."""
    rng = np.random.default_rng(count * size)
    n = count * size
    named = [np.arange(count)[::-1], np.roll(np.arange(count), 1), np.arange(count)]
    if count % 2 == 0:
        named.append(np.arange(count) ^ 1)
    for blocks in [*named, *(rng.permutation(count) for _ in range(8))]:
        written = (blocks[:, None] * size + np.arange(size)).reshape(-1)
        on_blocks, explicit = K.on_blocks(n, [blocks]), K.from_generators([written])
        assert on_blocks == explicit
        assert hash(on_blocks) == hash(explicit)
        assert Permutation.of(written).indices().tolist() == written.tolist()


def test_generators_are_canonical():
    swap, cycle, e = (1, 0, 2), (1, 2, 0), (0, 1, 2)
    k = K(3, (e, swap, cycle, swap))
    assert [g.indices().tolist() for g in k.generators] == [[1, 0, 2], [1, 2, 0]]
    assert k == K(3, (swap, cycle)) != K(3, (cycle, swap))
    assert k.is_subgroup_of(K(3, (cycle, swap)))
    assert K(3, (cycle, swap)).is_subgroup_of(k)
    assert K(3, (e,)) == K.trivial(3)
    assert K.from_generators(K.klein(8).generators) == K.klein(8)


def test_subgroups_join_and_theorem_31s_view():
    assert K.flip(8).is_subgroup_of(K.klein(8))
    assert not K.klein(8).is_subgroup_of(K.flip(8))
    assert not K.flip(8).is_subgroup_of(K.flip(6))
    assert K.flip(8).join(K.half_shift(8)).is_subgroup_of(K.klein(8))
    assert K.flip(8).join(K.half_shift(8)).order == 4
    assert K.all_shifts(5).same_orbits(K.dihedral(5))
    assert not K.flip(8).same_orbits(K.half_shift(8))
    assert K.flip(8).conjugate([7, 1, 5, 3, 4, 2, 6, 0]).same_orbits(K.flip(8))
    assert K.flip(6).conjugate([0, 2, 4, 5, 3, 1]).same_orbits(K.neighbour_swap(6))


@pytest.mark.parametrize("n", [10**8, 10**8 + 7])
def test_named_subgroups_cost_nothing_to_make_and_hash(n):
    """No index array is made: 10^8 indices would be 800 MB each."""
    for k in (K.flip(n), K.dihedral(n), K.all_shifts(n), K.trivial(n)):
        assert hash(k) == hash(copy.copy(k))
        assert len(repr(k)) < 100
    assert K.all_shifts(n).order == n
    assert K.dihedral(n).order == 2 * n


def test_orbits_of_generators_that_agree_somewhere():
    # both map 0, 1, 2 alike: edges that are there twice, on which SciPy before 1.15 does not end
    assert K.from_generators([[1, 2, 0, 4, 5, 3], [1, 2, 0, 3, 5, 4]]).orbits.tolist() == [0, 0, 0, 1, 1, 1]


def test_orbits_of_many_indices():
    n = 10**5
    for k in (K.flip(n), K.klein(n), K.cyclic(n, 1000), K.neighbour_swap(n), K.dihedral(n)):
        i = 12_345
        expected = {
            K.flip(n): [i, n - 1 - i],
            K.klein(n): [i, n - 1 - i, (i + n // 2) % n, (n - 1 - i + n // 2) % n],
            K.cyclic(n, 1000): range(i % 100, n, 100),
            K.neighbour_swap(n): [i - 1, i],
            K.dihedral(n): range(n),
        }[k]
        assert np.flatnonzero(k.orbits == k.orbits[i]).tolist() == sorted(expected)


def test_caches_are_read_only_and_stay_out_of_pickles():
    k = K.klein(1000)
    with pytest.raises(ValueError, match="read-only"):
        k.orbits[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        k.orbit_index[0][0, 0] = 1
    stored = pickle.dumps(k)
    assert len(stored) < 500
    again = pickle.loads(stored)
    assert again == k
    assert hash(again) == hash(k)
    assert np.array_equal(again.orbits, k.orbits)


def test_repr_is_short():
    assert repr(K.klein(8)) == "PermutationSubgroup(n=8, generated by shift 4, flip)"
    assert repr(K.trivial(3)) == "PermutationSubgroup(n=3, generated by e)"
    assert repr(K.neighbour_swap(4)) == "PermutationSubgroup(n=4, generated by neighbour swap)"
    rng = np.random.default_rng(0)
    many = K.from_generators([rng.permutation(1000) for _ in range(9)])
    assert repr(many) == "PermutationSubgroup(n=1000, generated by " + "a permutation, " * 4 + "5 more)"
    assert "3 blocks of 5" in repr(K.on_blocks(15, [(1, 0, 2)]))


BAD = [
    (lambda: K(3, ((0, 3, 1),)), ValueError, r"`generators\[0\]` .* range\(3\), got 3 at entry 1"),
    (lambda: K(3, ((0, 1, 2), (0, -1, 2))), ValueError, r"`generators\[1\]` .* got -1 at entry 1"),
    (lambda: K(3, ((0, 1, 1),)), ValueError, r"got 1 twice, at entries 1 and 2"),
    (lambda: K(3, ((0, 1),)), ValueError, r"sequence of 3 integers, got shape \(2,\)"),
    (lambda: K(4, (((0, 1), (1, 0)),)), ValueError, r"sequence of 4 integers, got shape \(2, 2\)"),
    (lambda: K(2, ((0.0, 1.0),)), TypeError, r"`generators\[0\]` must hold integers, got float64"),
    (lambda: K(2, ((True, False),)), TypeError, r"must hold integers, got bool"),
    (lambda: K(4, (Permutation.of([1, 0]),)), ValueError, r"must permute range\(4\), got one of range\(2\)"),
    (lambda: K.trivial(0), ValueError, r"`n` must be a positive int, got 0"),
    (lambda: K.trivial(2.0), ValueError, r"`n` must be a positive int, got 2.0"),
    (lambda: K.half_shift(5), ValueError, r"`n` must be even, got 5"),
    (lambda: K.klein(5), ValueError, r"`n` must be even, got 5"),
    (lambda: K.neighbour_swap(7), ValueError, r"`n` must be even, got 7"),
    (lambda: K.cyclic(8, 3), ValueError, r"`order` must divide n = 8, got 3"),
    (lambda: K.cyclic(8, 0), ValueError, r"`order` must be a positive int, got 0"),
    (lambda: K.dihedral(8, 3), ValueError, r"`order` must divide n = 8, got 3"),
    (lambda: K.on_blocks(8, [(1, 2, 0)]), ValueError, r"divides n = 8, got 3 blocks"),
    (lambda: K.on_blocks(8, [(1, 1)]), ValueError, r"`block_permutations\[0\]` .* got 1 twice"),
    (lambda: K.from_generators([]), ValueError, r"use `trivial\(n\)`"),
    (lambda: K.from_generators([[0, 1], [0, 1, 2]]), ValueError, r"`generators\[1\]` .* 2 integers"),
    (lambda: K.from_elements([]), ValueError, r"at least the identity"),
    (lambda: K.from_elements([[1, 0]]), ValueError, r"must contain the identity"),
    (
        lambda: K.from_elements([[0, 1, 2], [1, 2, 0]]),
        ValueError,
        r"elements\[1\] ∘ elements\[1\] is not among the 2 given",
    ),
    (
        lambda: K.from_elements([[0, 1, 2, 3], [1, 0, 2, 3], [0, 1, 3, 2]]),
        ValueError,
        r"elements\[1\] ∘ elements\[2\] is not among the 3 given",
    ),
    (lambda: K.dihedral(4).elements(limit=7), ValueError, r"`limit` .* got 7 .* orbits alone are enough"),
    (lambda: K.all_shifts(20_000).elements(), ValueError, r"got 5040 for n = 20000"),
    (lambda: K.flip(10**8).elements(), ValueError, r"got 5040 for n = 100000000"),
    (lambda: K.flip(3).conjugate([0, 0, 1]), ValueError, r"`perm` .* got 0 twice"),
    (lambda: K.flip(3).join(K.flip(4)), ValueError, r"`other` must permute range\(3\)"),
    (lambda: [0, 1] in K.flip(3), ValueError, r"`sigma` must be a sequence of 3 integers"),
    (lambda: Permutation.of([1, 0]) in K.flip(3), ValueError, r"`sigma` must permute range\(3\)"),
    (lambda: Permutation.of([]), ValueError, r"n >= 1 integers"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD)
def test_bad_input_says_what_is_wrong(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_exactly_the_limit_is_listed():
    assert K.dihedral(4).elements(limit=8).shape == (8, 4)
    symmetric = K.from_generators([(1, 0, 2, 3, 4), (1, 2, 3, 4, 0)])
    assert symmetric.order == math.factorial(5)
