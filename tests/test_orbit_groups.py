"""The groups of Theorem 3.1 seen through orbits, against T(x) = sum_i a_i * sigma_i(x) taken literally."""

from __future__ import annotations

from dataclasses import dataclass

import array_api_compat
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import GROUPS, all_groups, compiled_jax_only, dense_mask

from psgd_core import PermutationSubgroup
from psgd_core.groups import (
    ButterflyGroup,
    DiagonalGroup,
    GeneralLinear,
    OrbitBlocks,
    OrbitGroup,
    OrbitLayout,
    SparseGroup,
    XMatGroup,
)
from psgd_core.groups.layouts import join, split


@dataclass(frozen=True)
class ThirdsGroup(OrbitGroup):
    """Parameters i, i + n/3 and i + 2 n/3 couple: all that a new orbit group has to say."""

    def subgroup(self, n):
        return PermutationSubgroup.cyclic(n, 3)

    def layout(self, n):
        return (OrbitLayout(3, n // 3, "shifted", 0),)


LAYOUTS = {
    "Diagonal": (DiagonalGroup(), PermutationSubgroup.trivial, (1, 5, 6)),
    "XMat": (XMatGroup(), PermutationSubgroup.flip, (1, 2, 5, 6)),
    "Butterfly": (ButterflyGroup(), PermutationSubgroup.half_shift, (2, 6)),
    "GeneralLinear": (GeneralLinear(), PermutationSubgroup.all_shifts, (1, 2, 5)),
    "of one's own": (ThirdsGroup(), lambda n: PermutationSubgroup.cyclic(n, 3), (3, 6)),
}
ALL = [(SparseGroup(k), k.n) for k in GROUPS.values()] + [
    (group, n) for group, _, sizes in LAYOUTS.values() for n in sizes
]
layouts = pytest.mark.parametrize(
    ("group", "subgroup"),
    [pytest.param(g, k(n), id=f"{name}-{n}") for name, (g, k, sizes) in LAYOUTS.items() for n in sizes],
)
properties = settings(deadline=None, derandomize=True, max_examples=60)
any_group, seeds = st.sampled_from(ALL), st.integers(0, 10**6)


def literal(subgroup, a, x):
    """Theorem 3.1 as it stands: sum_i a_i * sigma_i(x), sigma(x) = x[sigma]."""
    return sum(a_i * x[sigma] for a_i, sigma in zip(a, subgroup.elements(), strict=True))


def literal_matrix(subgroup, a):
    return np.stack([literal(subgroup, a, e) for e in np.eye(subgroup.n)], axis=1)


def draw(subgroup, seed, count=1):
    """Coefficients, (count, m, n), of well-conditioned elements of the group: singular values in [0.5, 2]."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        t = np.zeros((subgroup.n, subgroup.n))
        for orbit in np.unique(subgroup.orbits):
            members = np.flatnonzero(subgroup.orbits == orbit)
            left, right = (np.linalg.qr(rng.standard_normal((len(members),) * 2))[0] for _ in range(2))
            t[np.ix_(members, members)] = left * rng.uniform(0.5, 2.0, len(members)) @ right
        out.append(split_entries(subgroup, t, rng))
    return np.stack(out)


def split_entries(subgroup, t, rng):
    """Coefficients of a matrix; where several sigma_i reach an entry, shared out at random between them."""
    n, elements = subgroup.n, subgroup.elements()
    shares = rng.uniform(0.5, 1.5, (len(elements), n))
    total = np.zeros((n, n))
    for share, sigma in zip(shares, elements, strict=True):
        total[np.arange(n), sigma] += share
    return np.stack(
        [
            t[np.arange(n), sigma] * share / total[np.arange(n), sigma]
            for share, sigma in zip(shares, elements, strict=True)
        ]
    )


def close(actual, expected, eps=2.0**-52, scale=1.0):
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(np.asarray(actual, dtype=float), expected, rtol=0, atol=200 * eps * scale)


# -- Theorem 3.1 itself --------------------------------------------------------------------------------------


@all_groups
def test_the_matrices_are_those_of_the_theorem(subgroup, rng):
    group, (a,) = SparseGroup(subgroup), draw(subgroup, 1)
    t = group.from_coefficients(a)
    close(group.matrix(t), literal_matrix(subgroup, a))
    x = rng.standard_normal(subgroup.n)
    close(group.apply(t, x), literal(subgroup, a, x))
    assert np.all(dense_mask(subgroup)[group.matrix(t) != 0])


@all_groups
def test_coefficients_come_back(subgroup, rng):
    """Exactly where K acts freely; elsewhere as the canonical form, which gives the same matrix."""
    group, (a,) = SparseGroup(subgroup), draw(subgroup, 2)
    back = group.coefficients(group.from_coefficients(a))
    close(literal_matrix(subgroup, back), literal_matrix(subgroup, a))
    if subgroup.is_free:
        np.testing.assert_array_equal(back, a)
    # canonical: the form of a form is itself, and depends on the matrix alone
    np.testing.assert_array_equal(group.coefficients(group.from_coefficients(back)), back)
    other = split_entries(subgroup, literal_matrix(subgroup, a), rng)
    close(group.coefficients(group.from_coefficients(other)), back)
    # each entry of T is given to the first sigma_i that reaches it
    reached = np.zeros((subgroup.n, subgroup.n), dtype=bool)
    for row, sigma in zip(back, subgroup.elements(), strict=True):
        assert not np.any(row[reached[np.arange(subgroup.n), sigma]])
        reached[np.arange(subgroup.n), sigma] = True


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_x_matrices_compose_and_invert_as_in_example_2(n, rng):
    """(a, b)(u, v) = (a u + b flip(v), a v + b flip(u)), and the inverse by 2 x 2 determinants."""
    group = XMatGroup()
    order = len(PermutationSubgroup.flip(n).elements())
    a, b, u, v = rng.standard_normal((4, n))
    if order == 1:  # n = 1: the flip is the identity
        b, v = np.zeros((2, n))

    def element(diagonal, anti):
        return group.from_coefficients(np.stack([diagonal, anti][:order]))

    product = group.compose(element(a, b), element(u, v))
    close(group.matrix(product), group.matrix(element(a * u + b * v[::-1], a * v + b * u[::-1])), scale=100)
    if n % 2 == 0:
        determinant = a * a[::-1] - b * b[::-1]
        inverse = element(a[::-1] / determinant, -b / determinant)
        close(group.matrix(group.inverse(element(a, b))), group.matrix(inverse), scale=1000)


# -- axioms --------------------------------------------------------------------------------------------------


def elements(group, n, seed, count):
    subgroup = group.subgroup(n)
    return [group.from_coefficients(a) for a in draw(subgroup, seed, count)]


@given(any_group, seeds)
@properties
def test_axioms_and_the_homomorphism_to_matrices(chosen, seed):
    group, n = chosen
    a, b, c = elements(group, n, seed, 3)
    e, m = group.identity(n, np.zeros(1)), group.matrix
    np.testing.assert_array_equal(m(e), np.eye(n))
    close(m(group.compose(a, b)), m(a) @ m(b), scale=10)
    close(m(group.compose(a, group.compose(b, c))), m(group.compose(group.compose(a, b), c)), scale=30)
    close(m(group.compose(a, e)), m(a))
    close(m(group.compose(e, a)), m(a))
    close(m(group.inverse(a)), np.linalg.inv(m(a)), scale=10)
    close(m(group.compose(a, group.inverse(a))), np.eye(n), scale=10)
    close(m(group.compose(group.inverse(a), a)), np.eye(n), scale=10)
    close(group.log_det(a), np.linalg.slogdet(m(a))[1], scale=10)
    close(group.log_det(group.compose(a, b)), group.log_det(a) + group.log_det(b), scale=20)
    assert group.size(a) == n


@given(any_group, seeds, st.sampled_from([None, 0, 1, 3]))
@properties
def test_actions_are_those_of_the_matrix(chosen, seed, k):
    group, n = chosen
    (a,) = elements(group, n, seed, 1)
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, n) if k is None else (2, n, k))
    t = group.matrix(a)
    close(group.apply(a, x), t @ x, scale=10)
    close(group.apply_transpose(a, x), t.T @ x, scale=10)
    close(group.solve(a, x), np.linalg.solve(t, x), scale=30)
    close(group.solve_transpose(a, x), np.linalg.solve(t.T, x), scale=30)
    close(np.sum(y * group.apply(a, x)), np.sum(group.apply_transpose(a, y) * x), scale=100)
    close(np.sum(y * group.solve(a, x)), np.sum(group.solve_transpose(a, y) * x), scale=300)


@given(any_group, seeds)
@properties
def test_project_is_the_orthogonal_projection_on_the_algebra(chosen, seed):
    group, n = chosen
    rng = np.random.default_rng(seed)
    g, f = rng.standard_normal((2, n, n))

    def project(x):
        return group.matrix(group.project(x))

    mask = dense_mask(group.subgroup(n))
    np.testing.assert_array_equal(project(g), np.where(mask, g, 0.0))
    np.testing.assert_array_equal(project(project(g)), project(g))
    close(project(2 * g - 3 * f), 2 * project(g) - 3 * project(f), scale=10)
    close(np.sum(project(g) * f), np.sum(g * project(f)), scale=100)
    (a,) = elements(group, n, seed, 1)
    np.testing.assert_array_equal(project(group.matrix(a)), group.matrix(a))
    # the algebra is closed under products with the group: E Q is on it for E on it
    close(project(project(g) @ group.matrix(a)), project(g) @ group.matrix(a), scale=10)


@layouts
def test_fast_layouts_are_the_sparse_group_of_their_subgroup(group, subgroup, rng):
    sparse, n = SparseGroup(subgroup), subgroup.n
    a, b = draw(subgroup, 4, 2)
    fast, slow = group.from_coefficients(a), sparse.from_coefficients(a)
    assert fast.gather == ()
    for x, y in zip(fast.blocks, slow.blocks, strict=True):
        np.testing.assert_array_equal(x, y)
    x = rng.standard_normal((n, 2))
    for verb in ("apply", "apply_transpose", "solve", "solve_transpose"):
        np.testing.assert_array_equal(getattr(group, verb)(fast, x), getattr(sparse, verb)(slow, x))
    np.testing.assert_array_equal(group.matrix(fast), sparse.matrix(slow))
    np.testing.assert_array_equal(group.coefficients(fast), sparse.coefficients(slow))
    np.testing.assert_array_equal(
        group.matrix(group.compose(fast, group.from_coefficients(b))),
        sparse.matrix(sparse.compose(slow, sparse.from_coefficients(b))),
    )
    g = rng.standard_normal((n, n))
    for x, y in zip(group.project(g).blocks, sparse.project(g).blocks, strict=True):
        np.testing.assert_array_equal(x, y)
    assert [entry[:2] for entry in group.layout(n)] == [entry[:2] for entry in sparse.layout(n)]
    assert group.subgroup(n).same_orbits(subgroup)


def members_of(entry, n, order):
    """What the docstring of `OrbitLayout` says, member by member."""
    index = np.empty(entry[:2], dtype=int)
    for i in range(entry.size):
        for j in range(entry.orbits):
            place = entry.start + i * entry.orbits + j
            mirrored = j if i == 0 else n - 1 - j
            index[i, j] = {"mirrored": mirrored, "gathered": order[place % n]}.get(entry.how, place)
    return index


@pytest.mark.parametrize(("group", "n"), ALL)
def test_layouts_say_where_the_members_are(group, n):
    layout, gather = group.layout(n), group.make_index(n, np.zeros(1))
    assert len(gather) == (2 if layout[0].how == "gathered" else 0)
    order, x = gather[0] if gather else np.arange(n), np.arange(2.0 * n).reshape(n, 2)
    parts = split(layout, x, gather)
    for entry, members, part in zip(layout, group.subgroup(n).orbit_index, parts, strict=True):
        np.testing.assert_array_equal(members_of(entry, n, order), members)
        np.testing.assert_array_equal(part, x[members].transpose(0, 2, 1))
    np.testing.assert_array_equal(join(layout, parts, gather), x)


def test_only_the_orbits_matter():
    """All shifts and the dihedral group have one orbit each, so their groups are both GL(5)."""
    rng = np.random.default_rng(0)
    t = rng.standard_normal((5, 5))
    for k in (PermutationSubgroup.all_shifts(5), PermutationSubgroup.dihedral(5)):
        group = SparseGroup(k)
        np.testing.assert_array_equal(group.matrix(group.project(t)), t)


def test_conjugation_relabels():
    """The group over π^{-1} K π holds the matrices of the group over K with rows and columns relabelled."""
    perm = np.array([4, 0, 5, 2, 1, 3])
    k, rng = PermutationSubgroup.flip(6), np.random.default_rng(0)
    t = np.where(dense_mask(k), rng.standard_normal((6, 6)), 0)
    relabelled = np.zeros((6, 6))
    relabelled[np.ix_(perm, perm)] = t
    group = SparseGroup(k.conjugate(perm))
    np.testing.assert_array_equal(group.matrix(group.project(relabelled)), relabelled)


# -- every library -------------------------------------------------------------------------------------------

SOME = ["n = 1", "odd flip, not free", "dihedral, not free", "all shifts, n prime", "three orbit sizes"]


@pytest.mark.parametrize("name", SOME)
@compiled_jax_only
def test_all_verbs_on_every_library(backend, name):
    subgroup = GROUPS[name]
    group, n = SparseGroup(subgroup), subgroup.n
    a, b = np.asarray(backend.numpy(backend.asarray(draw(subgroup, 5, 2))), dtype=float)
    rng = np.random.default_rng(6)
    x, g = rng.standard_normal((n, 2)), rng.standard_normal((n, n))
    t, s = literal_matrix(subgroup, a), literal_matrix(subgroup, b)

    def verbs(a, b, x, g):
        t, s = group.from_coefficients(a), group.from_coefficients(b)
        return (
            *(group.matrix(y) for y in (t, group.compose(t, s), group.inverse(t), group.project(g))),
            *(f(t, x) for f in (group.apply, group.apply_transpose, group.solve, group.solve_transpose)),
            group.apply(t, x[:, 0]),
            group.log_det(t),
            group.coefficients(t),
            group.matrix(group.identity(n, x)),
        )

    given = [backend.asarray(z) for z in (a, b, x, g)]
    actual = backend.jit(verbs)(*given)
    expected = (
        *(t, t @ s, np.linalg.inv(t), np.where(dense_mask(subgroup), g, 0)),
        *(t @ x, t.T @ x, np.linalg.solve(t, x), np.linalg.solve(t.T, x)),
        t @ x[:, 0],
        np.linalg.slogdet(t)[1],
        group.coefficients(group.from_coefficients(a)),
        np.eye(n),
    )
    for y, z in zip(actual, expected, strict=True):
        assert y.dtype == backend.dtype
        assert array_api_compat.array_namespace(y) is array_api_compat.array_namespace(given[0])
        close(backend.numpy(y), z, backend.eps, scale=10)


@pytest.mark.parametrize("name", LAYOUTS)
def test_fast_layouts_on_every_library(backend, name, rng):
    """Run op by op in JAX too."""
    group, make, sizes = LAYOUTS[name]
    n = sizes[-1]
    t = np.where(dense_mask(make(n)), rng.standard_normal((n, n)), 0)
    x = rng.standard_normal((n, 2))
    element = group.project(backend.asarray(t))
    close(backend.numpy(group.apply(element, backend.asarray(x))), t @ x, backend.eps)
    close(backend.numpy(group.apply_transpose(element, backend.asarray(x))), t.T @ x, backend.eps)


@all_groups
def test_elements_are_light_values(subgroup):
    """A group is configuration: hashable, equal to its copy, and elements say their layout themselves."""
    group = SparseGroup(subgroup)
    assert hash(group) == hash(SparseGroup(subgroup))
    assert group == SparseGroup(subgroup)
    element = group.identity(subgroup.n, np.zeros(1, dtype="float32"))
    assert isinstance(element, OrbitBlocks)
    assert all(block.dtype == np.float32 for block in element.blocks)
    order, inverse = element.gather
    np.testing.assert_array_equal(np.sort(order), np.arange(subgroup.n))
    np.testing.assert_array_equal(order[inverse], np.arange(subgroup.n))
    assert sum(b.size for b in element.blocks) == int(np.sum(subgroup.orbit_sizes**2))


def test_verbs_neither_write_to_their_input_nor_need_it_contiguous(rng):
    subgroup = GROUPS["dihedral, not free"]
    group, (a,) = SparseGroup(subgroup), draw(subgroup, 7)
    element = group.from_coefficients(a)
    wide = rng.standard_normal((4, subgroup.n))
    wide.flags.writeable = False
    x, before = wide.T[:, ::2], wide.copy()  # Fortran order, every other column, read-only
    saved = to_numpy_copy(element)
    for verb in ("apply", "apply_transpose", "solve", "solve_transpose"):
        np.testing.assert_array_equal(
            getattr(group, verb)(element, x), getattr(group, verb)(element, np.ascontiguousarray(x))
        )
    np.testing.assert_array_equal(wide, before)
    for y, z in zip(element.blocks, saved, strict=True):
        np.testing.assert_array_equal(y, z)


def to_numpy_copy(element):
    return [block.copy() for block in element.blocks]


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["apply", "apply_transpose", "solve", "solve_transpose"])
@pytest.mark.parametrize("shape", [(4,), (1, 5), (5, 1, 1), (), (6, 5)])
def test_wrong_shapes_are_named(verb, shape):
    group = DiagonalGroup()
    element = group.identity(5, np.zeros(1))
    with pytest.raises(ValueError, match=r"`x` must have shape \(5,\) or \(5, k\), got \(.*\); one vector"):
        getattr(group, verb)(element, np.zeros(shape))


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match="`n` must be the subgroup's, 5, got 6; build the subgroup for this"):
        SparseGroup(GROUPS["trivial"]).identity(6, np.zeros(1))
    with pytest.raises(ValueError, match="`n` must be even for a butterfly, got 5; use XMat, or pad"):
        ButterflyGroup().identity(5, np.zeros(1))
    with pytest.raises(TypeError, match="`like` must be float32 or float64, got int64"):
        XMatGroup().identity(5, np.zeros(1, dtype=int))
    with pytest.raises(TypeError, match=r"`like` must be an array .*got list"):
        XMatGroup().identity(5, [0.0])
    for shape in [(3,), (2, 3), (2, 2, 2), ()]:
        with pytest.raises(ValueError, match="`generator` must be a square matrix, got shape"):
            DiagonalGroup().project(np.zeros(shape))
    with pytest.raises(ValueError, match="`coefficients` must have one row per element of K, 2, got 3"):
        XMatGroup().from_coefficients(np.zeros((3, 6)))
    for shape in [(6,), (2, 6, 1)]:
        with pytest.raises(ValueError, match=r"`coefficients` must have shape \(m, n\)"):
            XMatGroup().from_coefficients(np.zeros(shape))
    with pytest.raises(TypeError, match=r"`x` must be an array .*got list"):
        DiagonalGroup().apply(DiagonalGroup().identity(1, np.zeros(1)), [1.0])


def test_elements_of_different_sizes_do_not_compose():
    """Blocks of one orbit would broadcast against those of three."""
    group = XMatGroup()
    with pytest.raises(ValueError, match=r"`b` must have the orbits of `a`"):
        group.compose(group.identity(6, np.zeros(1)), group.identity(2, np.zeros(1)))
    with pytest.raises(ValueError, match=r"`b` must have the orbits of `a`"):
        group.compose(group.identity(6, np.zeros(1)), group.identity(7, np.zeros(1)))
