"""The groups of Theorem 3.3 against dense algebra, and spectra against dense eigenvalues."""

from __future__ import annotations

import array_api_compat
import numpy as np
import pytest
import scipy.linalg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psgd_core.arrays.sums import BLOCK
from psgd_core.groups.low_rank import LowRankElement, LowRankFixedU, LowRankFixedV

GROUPS = [LowRankFixedV(), LowRankFixedU()]
both_groups = pytest.mark.parametrize("group", GROUPS, ids=["A_V", "A_U"])
properties = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    derandomize=True,
    max_examples=4,
)
shapes = st.sampled_from([(1, 1), (2, 3), (7, 2), (8, 0)])
seeds = st.integers(0, 99)
COMPILED = {}


def jit(backend, group, verb):
    """The group's verb, compiled where the backend compiles, once for all tests."""
    key = backend, group, verb
    if key not in COMPILED:
        COMPILED[key] = backend.jit(getattr(group, verb))
    return COMPILED[key]


def draw(n, r, seed, count=1):
    """`count` well-conditioned elements as NumPy triples, all with the same U and all with the same V."""
    rng = np.random.default_rng(seed)
    rho = rng.choice([-1.0, 1.0], count) * rng.uniform(0.5, 2.0, count)
    u, v = rng.standard_normal((2, count, n, r)) * 0.4 / np.sqrt(max(n, r))
    return rho, u, v


def elements(group, backend, n, r, seed, count=1):
    """The same elements on the backend, sharing the factor that `group` fixes, and their dense matrices."""
    rho, u, v = draw(n, r, seed, count)
    if isinstance(group, LowRankFixedV):
        v = np.broadcast_to(v[0], v.shape)
    else:
        u = np.broadcast_to(u[0], u.shape)
    made = [
        LowRankElement(backend.asarray(p), backend.asarray(q), backend.asarray(s))
        for p, q, s in zip(rho, u, v, strict=True)
    ]
    return made, [dense(backend, a) for a in made]


def dense(backend, a):
    """ρ (I + U V^T) in NumPy float64, from the rounded arrays."""
    rho, u, v = (np.asarray(backend.numpy(x), dtype=np.float64) for x in a)
    return rho * (np.eye(len(u)) + u @ v.T)


def close(backend, actual, expected, scale=1.0):
    assert actual.dtype == backend.dtype
    actual = np.asarray(backend.numpy(actual), dtype=np.float64)
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=50 * backend.eps * scale)


def same(backend, a, expected):
    for x in a:
        assert array_api_compat.array_namespace(x) is array_api_compat.array_namespace(backend.asarray(0.0))
        assert x.dtype == backend.dtype
    np.testing.assert_allclose(
        dense(backend, a), expected, rtol=0, atol=50 * backend.eps * abs(expected).max()
    )


@both_groups
@given(shape=shapes, seed=seeds)
@properties
def test_group_axioms(group, backend, shape, seed):
    n, r = shape
    (a, b, c), (x, y, z) = elements(group, backend, n, r, seed, 3)
    compose, inverse = jit(backend, group, "compose"), jit(backend, group, "inverse")
    same(backend, compose(a, b), x @ y)
    same(backend, compose(compose(a, b), c), x @ y @ z)
    same(backend, compose(a, compose(b, c)), x @ y @ z)
    identity = group.identity(a.v if isinstance(group, LowRankFixedV) else a.u)
    same(backend, identity, np.eye(n))
    same(backend, compose(identity, a), x)
    same(backend, compose(a, identity), x)
    same(backend, inverse(a), np.linalg.inv(x))
    same(backend, compose(a, inverse(a)), np.eye(n))
    same(backend, compose(inverse(a), a), np.eye(n))


@both_groups
@given(shape=shapes, seed=seeds)
@properties
def test_actions_are_those_of_the_matrix(group, backend, shape, seed):
    n, r = shape
    (a,), (q,) = elements(group, backend, n, r, seed)
    close(backend, jit(backend, group, "matrix")(a), q, abs(q).max())
    close(backend, jit(backend, group, "log_det")(a), np.linalg.slogdet(q)[1], n)
    rng = np.random.default_rng(seed + 1)
    inverse = np.linalg.inv(q)
    for columns in [(), (3,)]:
        x = backend.asarray(rng.standard_normal((n, *columns)))
        x64 = np.asarray(backend.numpy(x), dtype=np.float64)
        scale = np.linalg.norm(q) * np.linalg.norm(x64) + np.linalg.norm(inverse) * np.linalg.norm(x64)
        close(backend, jit(backend, group, "apply")(a, x), q @ x64, scale)
        close(backend, jit(backend, group, "apply_transpose")(a, x), q.T @ x64, scale)
        close(backend, jit(backend, group, "solve")(a, x), inverse @ x64, scale)
        close(backend, jit(backend, group, "solve_transpose")(a, x), inverse.T @ x64, scale)


@both_groups
@given(shape=shapes, seed=seeds)
@properties
def test_adjointness(group, backend, shape, seed):
    n, r = shape
    (a,), (q,) = elements(group, backend, n, r, seed)
    x, y = (backend.asarray(z) for z in np.random.default_rng(seed).standard_normal((2, n)))
    scale = float(np.linalg.norm(q) + np.linalg.norm(np.linalg.inv(q))) * n
    for forward, adjoint in [(group.apply, group.apply_transpose), (group.solve, group.solve_transpose)]:
        left = backend.numpy(forward(a, x)) @ backend.numpy(y)
        right = backend.numpy(x) @ backend.numpy(adjoint(a, y))
        assert abs(left - right) <= 50 * backend.eps * scale


@both_groups
@given(shape=shapes, seed=seeds)
@properties
def test_algebra(group, backend, shape, seed):
    """Generators, bracket and pull-back of D.1.1, D.1.2 against dense matrices."""
    n, r = shape
    (a, b), (x, y) = elements(group, backend, n, r, seed, 2)
    s, t = (float(backend.numpy(e.rho)) for e in (a, b))
    e, f = x / s - np.eye(n) + s * np.eye(n), y / t - np.eye(n) + t * np.eye(n)  # s I + U V^T
    close(backend, group.generator(a), e, 4)
    close(backend, group.generator(jit(backend, group, "bracket")(a, b)), e @ f - f @ e, 4)

    gradient = backend.asarray(np.random.default_rng(seed).standard_normal((n, n)))
    g = np.asarray(backend.numpy(gradient), dtype=np.float64)
    direction = jit(backend, group, "project")(a, gradient)
    # <G, generator(d)> = <project(G), d> for every direction d: what makes it the gradient
    d = np.random.default_rng(seed + 1).standard_normal((n, r))
    if isinstance(group, LowRankFixedV):
        along, moving = d @ np.asarray(backend.numpy(a.v)).T, backend.numpy(direction.u)
    else:
        along, moving = np.asarray(backend.numpy(a.u)) @ d.T, backend.numpy(direction.v)
    scale = 50 * backend.eps * n * max(r, 1)
    assert abs(np.sum(g * along) - np.sum(moving * d)) <= scale
    assert abs(np.trace(g) - backend.numpy(direction.rho)) <= scale


@both_groups
@given(shape=shapes, seed=seeds)
@properties
def test_neighbour_move(group, backend, shape, seed):
    n, r = shape
    (a,), (q,) = elements(group, backend, n, r, seed)
    change = backend.asarray(np.random.default_rng(seed).standard_normal((n, r)))
    by = np.asarray(backend.numpy(change), dtype=np.float64)
    move = jit(backend, group, "neighbour_move")(a, change)
    rho, u, v = (np.asarray(backend.numpy(x), dtype=np.float64) for x in a)
    there = rho * (np.eye(n) + ((u + by) @ v.T if isinstance(group, LowRankFixedV) else u @ (v + by).T))
    np.testing.assert_allclose(dense(backend, move) @ q, there, rtol=0, atol=50 * backend.eps * (1 + n))


def test_a_step_by_composition_is_the_papers_update(backend):
    """D.1.2.2 and D.1.2.3: U <- U - μ ∇ (I + V^T U), V <- V - μ (I + V U^T) ∇."""
    n, r, step = 9, 2, 0.1
    grad = np.random.default_rng(5).standard_normal((n, r)) * 0.1
    for group in GROUPS:
        (a,), _ = elements(group, backend, n, r, seed=3)
        _, u, v = (np.asarray(backend.numpy(x), dtype=np.float64) for x in a)
        if isinstance(group, LowRankFixedV):
            moved = group.compose(group.element(backend.asarray(-step * grad), a.v), a)
            close(backend, moved.u, u - step * grad @ (np.eye(r) + v.T @ u))
        else:
            moved = group.compose(group.element(a.u, backend.asarray(-step * grad)), a)
            close(backend, moved.v, v - step * (np.eye(n) + v @ u.T) @ grad)


@pytest.mark.parametrize(("n", "r"), [(1, 1), (12, 5), (4, 0), (3, 4)])
def test_schur_form(backend, n, r):
    group = LowRankFixedV()
    (a,), (q,) = elements(group, backend, n, r, seed=n + r)
    form = group.schur_form(a)
    same(backend, form, q)
    _, u, v = (np.asarray(backend.numpy(x), dtype=np.float64) for x in a)
    _, p, w = (np.asarray(backend.numpy(x), dtype=np.float64) for x in form)
    tolerance = 50 * backend.eps * max(r, 1)
    gram = w.T @ p
    below = np.abs(np.diag(gram, -1)) > tolerance if r else np.zeros(0, dtype=bool)
    assert np.all(np.abs(np.tril(gram, -2)) <= tolerance)
    assert not np.any(below[1:] & below[:-1])  # blocks of 1 and 2
    # the same rotation on both: Grams keep their eigenvalues, U U^T stays
    np.testing.assert_allclose(p @ p.T, u @ u.T, atol=tolerance)
    np.testing.assert_allclose(w @ w.T, v @ v.T, atol=tolerance)


def full_spectrum(backend, spectrum):
    values = np.asarray(backend.numpy(spectrum.values), dtype=np.float64)
    bulk = np.full(int(spectrum.multiplicity), float(backend.numpy(spectrum.bulk)))
    assert np.all(np.diff(values) >= 0)
    return np.sort(np.concatenate([values, bulk]))


@pytest.mark.parametrize(("n", "r"), [(1, 1), (3, 1), (3, 2), (4, 2), (5, 7), (12, 0), (40, 3)])
def test_spectrum_against_dense_eigenvalues(backend, n, r):
    group = LowRankFixedV()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        a = group.element(*(backend.asarray(x) for x in rng.standard_normal((2, n, r))), rho=-0.7)
        q = dense(backend, a)
        spectrum = jit(backend, group, "spectrum")(a)
        assert spectrum.values.dtype == backend.dtype
        assert spectrum.values.shape == (min(n, 2 * r),)
        assert int(spectrum.multiplicity) == n - min(n, 2 * r)
        expected = np.linalg.svd(q, compute_uv=False)[::-1]  # eigenvalues of P are their squares
        np.testing.assert_allclose(
            np.sqrt(full_spectrum(backend, spectrum)), expected, rtol=0, atol=50 * backend.eps * expected[-1]
        )


def test_spectrum_with_dependent_columns(backend):
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal((2, 9, 3))
    cases = [
        (u[:, [0, 0, 1]], v),
        (u[:, [0, 0, 0]], v[:, [1, 1, 1]]),
        (u, u),
        (u, -u / np.linalg.norm(u, 2) ** 2 / 2),
        (0 * u, v),
        (u, 0 * v),
        (0 * u, 0 * v),
    ]
    for left, right in cases:
        a = LowRankFixedU().element(backend.asarray(left), backend.asarray(right), rho=2.0)
        q = dense(backend, a)
        expected = scipy.linalg.eigvalsh(q.T @ q)
        np.testing.assert_allclose(
            full_spectrum(backend, LowRankFixedU().spectrum(a)),
            expected,
            rtol=0,
            atol=100 * backend.eps * expected[-1],
        )


def test_rank_one_closed_forms_of_theorem_32(backend):
    group = LowRankFixedV()
    rng = np.random.default_rng(2)
    for scale in (0.1, 1.0, 5.0):
        u, v = (backend.asarray(x) for x in rng.standard_normal((2, 11, 1)) * scale)
        low, high = (float(x) for x in backend.numpy(group.spectrum(group.element(u, v)).values))
        u, v = (np.asarray(backend.numpy(x), dtype=np.float64)[:, 0] for x in (u, v))
        total = 2 + 2 * u @ v + u @ u * (v @ v)
        assert abs(low + high - total) <= 50 * backend.eps * total
        # the smaller is known to eps times the condition number of Q
        assert abs(np.sqrt(low * high) - abs(1 + u @ v)) <= 50 * backend.eps * high


def test_theorem_32_one_eigenvalue_far_above_and_one_far_below(backend):
    """u^T v = 0, |u| = |v| = t: λ1 λ2 = 1 and λ1 + λ2 = 2 + t^4, to full accuracy for a large t."""
    group = LowRankFixedU()
    rho, t = 3.0, 8.0 if backend.dtype_name == "float32" else 300.0
    u, v = np.zeros((2, 6, 1))
    u[0], v[1] = t, t
    a = group.element(backend.asarray(u), backend.asarray(v), rho=rho)
    spectrum = jit(backend, group, "spectrum")(a)
    low, high = (float(x) for x in backend.numpy(spectrum.values))
    top = 1 + t**4 / 2 + t**2 * np.sqrt(1 + t**4 / 4)
    assert abs(high / (rho**2 * top) - 1) <= 50 * backend.eps
    assert abs(low / (rho**2 / top) - 1) <= 50 * backend.eps * top  # singular values see sqrt(top * top)
    assert low < 1e-3 * rho**2 < 1e3 * rho**2 < high
    assert float(backend.numpy(spectrum.bulk)) == rho**2
    assert int(spectrum.multiplicity) == 4


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_unbalanced_factors_have_the_same_spectrum(backend, scale):
    """U -> cU, V -> V/c leaves Q alone."""
    group = LowRankFixedV()
    u, v = np.random.default_rng(4).standard_normal((2, 20, 2))
    a = group.element(backend.asarray(u * scale), backend.asarray(v / scale))
    expected = scipy.linalg.svdvals(np.eye(20) + u @ v.T)
    found = np.sqrt(full_spectrum(backend, group.spectrum(a)))[::-1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=50 * backend.eps * expected[0])


def test_long_vectors_stay_accurate(backend):
    """n above one block of the blocked sums, all terms of one sign: U = V = a constant column."""
    n, group = 200_001, LowRankFixedV()
    column = np.full((n, 1), 1.7 / np.sqrt(n))
    a = group.element(backend.asarray(column), backend.asarray(column))
    c = float(np.asarray(backend.numpy(a.u), dtype=np.float64)[0, 0])
    g = c * c * n  # u^T v
    low, high = (float(x) for x in backend.numpy(group.spectrum(a).values))
    # equal terms all round the same way: within a block, at most one rounding per term
    tolerance = 1e-5 if backend.dtype_name == "float32" else BLOCK * backend.eps
    assert abs(high - (1 + g) ** 2) <= tolerance * high
    assert abs(low - 1) <= tolerance
    assert abs(float(backend.numpy(group.log_det(a))) - np.log1p(g)) <= tolerance
    x = backend.asarray(np.ones(n))
    applied = np.asarray(backend.numpy(group.apply(a, x)), dtype=np.float64)
    np.testing.assert_allclose(applied, 1 + g, rtol=tolerance)
    solved = np.asarray(backend.numpy(group.solve(a, x)), dtype=np.float64)
    np.testing.assert_allclose(solved, 1 / (1 + g), rtol=tolerance)


def test_singular_elements_are_told_by_check_and_not_by_the_verbs(backend):
    group = LowRankFixedV()
    u, v = np.zeros((2, 4, 1))
    u[0], v[0] = 1.0, -1.0
    singular = group.element(backend.asarray(u), backend.asarray(v))
    assert not np.any(np.isfinite(backend.numpy(group.inverse(singular).u)[0]))
    with pytest.raises(ValueError, match=r"`I \+ v\^T u` must be invertible"):
        group.check(singular)
    with pytest.raises(ValueError, match="`rho` must not be 0"):
        group.check(group.element(backend.asarray(u), backend.asarray(u), rho=0.0))
    with pytest.raises(ValueError, match="`u` must be finite"):
        group.check(group.element(backend.asarray(u * np.nan), backend.asarray(u)))
    group.check(group.element(backend.asarray(u), backend.asarray(u)))
    group.check(group.element(backend.asarray(u[:, :0]), backend.asarray(u[:, :0])))


@both_groups
def test_bad_input_says_what_is_wrong(group, backend):
    u = backend.asarray(np.ones((4, 2)))
    a = group.element(u, u)
    with pytest.raises(ValueError, match=r"must both have shape \(n, r\).* got \(4, 2\) and \(4, 1\)"):
        group.element(u, backend.asarray(np.ones((4, 1))))
    with pytest.raises(ValueError, match=r"must both have shape"):
        group.element(backend.asarray(np.ones(4)), backend.asarray(np.ones(4)))
    with pytest.raises(ValueError, match=r"`a.rho` must be a 0-d array, got shape \(4, 2\)"):
        group.element(u, u, rho=u)
    integers = backend.asarray(np.ones((4, 2), dtype=np.int32))
    with pytest.raises(TypeError, match=r"`a.u` must be float32 or float64"):
        group.element(integers, integers)
    with pytest.raises(ValueError, match=r"`x` must have shape \(4,\) or \(4, k\), got \(3,\)"):
        group.apply(a, backend.asarray(np.ones(3)))
    other = backend.asarray(np.ones((5, 2)))
    b = group.element(other, other)
    with pytest.raises(ValueError, match=r"`b` must have the shape of `a`, \(4, 2\), got \(5, 2\)"):
        group.compose(a, b)
    with pytest.raises(ValueError, match=r"`change` must have the shape of `a.u`, \(4, 2\), got \(4, 1\)"):
        group.neighbour_move(a, backend.asarray(np.ones((4, 1))))
    with pytest.raises(ValueError, match=r"`generator` must have shape \(4, 4\), got \(4, 2\)"):
        group.project(a, u)
    if backend.library != "array_api_compat.numpy":
        with pytest.raises(TypeError, match="all arrays must come from one library"):
            group.apply(a, np.ones(4))
    elif backend.dtype_name == "float32":
        with pytest.raises(TypeError, match=r"`x` must have the dtype of `a\.u`"):
            group.apply(a, np.ones(4))


def test_groups_are_hashable_configuration():
    assert LowRankFixedV() == LowRankFixedV() != LowRankFixedU()
    assert len({LowRankFixedV(), LowRankFixedV(), LowRankFixedU()}) == 2
