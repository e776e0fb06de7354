"""The affine normalisation group of Corollary B.0.1 against dense homogeneous matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psgd_core.groups.affine import AffineElement, AffineNormalization

properties = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    derandomize=True,
    max_examples=5,
)
sizes = st.sampled_from([1, 7])
kinds = st.lists(st.sampled_from(["vector", "scalar", "mixed"]), min_size=3, max_size=3)
seeds = st.integers(0, 99)


def draw(backend, n, kind, rng):
    shapes = {"vector": ((n,), (n,)), "scalar": ((), ()), "mixed": ((n,), ())}[kind]
    mu = rng.standard_normal(shapes[0])
    sigma = rng.uniform(0.5, 2.0, shapes[1]) * rng.choice([-1.0, 1.0], shapes[1])
    return AffineElement(backend.asarray(mu), backend.asarray(sigma))


def numpy64(backend, x):
    return np.asarray(backend.numpy(x), dtype=np.float64)


def dense(backend, a, n):
    """[[diag(1/σ), -μ/σ], [0, 1]] in NumPy."""
    mu, sigma = (np.broadcast_to(numpy64(backend, x), (n,)) for x in a)
    matrix = np.diag(np.append(1 / sigma, 1.0))
    matrix[:n, n] = -mu / sigma
    return matrix


def close(backend, actual, expected):
    assert actual.dtype == backend.dtype
    assert tuple(actual.shape) == np.shape(expected)
    scale = 1 + np.abs(expected).max()
    np.testing.assert_allclose(
        numpy64(backend, actual), expected, rtol=0, atol=50 * backend.eps * scale * np.size(expected)
    )


@given(n=sizes, kind=kinds, seed=seeds)
@properties
def test_group_axioms(backend, n, kind, seed):
    group, rng = AffineNormalization(n), np.random.default_rng(seed)
    a, b, c = (draw(backend, n, k, rng) for k in kind)
    x, y, z = (dense(backend, e, n) for e in (a, b, c))
    compose, inverse = backend.jit(group.compose), backend.jit(group.inverse)
    identity = group.identity(a.mu)
    for made, expected in [
        (compose(a, b), x @ y),
        (compose(compose(a, b), c), x @ y @ z),
        (compose(a, compose(b, c)), x @ y @ z),
        (identity, np.eye(n + 1)),
        (compose(identity, a), x),
        (compose(a, identity), x),
        (inverse(a), np.linalg.inv(x)),
        (compose(a, inverse(a)), np.eye(n + 1)),
        (compose(inverse(a), a), np.eye(n + 1)),
    ]:
        close(backend, group.matrix(made), expected)


def test_scalars_stay_scalars(backend):
    group, rng = AffineNormalization(5), np.random.default_rng(0)
    scalar, other = (draw(backend, 5, "scalar", rng) for _ in range(2))
    assert all(x.shape == () for x in group.compose(scalar, other))
    assert all(x.shape == () for x in group.inverse(scalar))
    mixed = draw(backend, 5, "mixed", rng)
    assert group.compose(mixed, mixed).sigma.shape == ()


@given(n=sizes, kind=kinds, seed=seeds)
@properties
def test_actions_and_adjointness(backend, n, kind, seed):
    group, rng = AffineNormalization(n), np.random.default_rng(seed)
    a = draw(backend, n, kind[0], rng)
    t = dense(backend, a, n)
    close(backend, backend.jit(group.matrix)(a), t)
    close(backend, backend.jit(group.log_det)(a), np.linalg.slogdet(t)[1])
    for columns in [(), (3,)]:
        x = backend.asarray(rng.standard_normal((n, *columns)))
        lifted = np.concatenate([numpy64(backend, x), np.ones((1, *columns))])
        close(backend, backend.jit(group.apply)(a, x), (t @ lifted)[:n])
        close(backend, backend.jit(group.solve)(a, x), (np.linalg.inv(t) @ lifted)[:n])
        y, w = (backend.asarray(rng.standard_normal((n + 1, *columns))) for _ in range(2))
        y64, w64 = numpy64(backend, y), numpy64(backend, w)
        close(backend, group.apply(a, y), t @ y64)
        close(backend, group.solve(a, y), np.linalg.inv(t) @ y64)
        close(backend, backend.jit(group.apply_transpose)(a, w), t.T @ w64)
        close(backend, backend.jit(group.solve_transpose)(a, w), np.linalg.inv(t).T @ w64)
    # <T x, w> = <x, T^T w>
    left = np.sum(numpy64(backend, group.apply(a, y)) * w64)
    right = np.sum(y64 * numpy64(backend, group.apply_transpose(a, w)))
    assert abs(left - right) <= 50 * backend.eps * np.linalg.norm(t) * np.linalg.norm(y64) * np.linalg.norm(
        w64
    )


def test_it_normalises_features(backend):
    """With their mean and standard deviation, features get mean 0 and deviation 1."""
    features = np.random.default_rng(1).standard_normal((6, 50)) * 3 + 2
    a = AffineElement(backend.asarray(features.mean(axis=1)), backend.asarray(features.std(axis=1)))
    normal = numpy64(backend, AffineNormalization(6).apply(a, backend.asarray(features)))
    np.testing.assert_allclose(normal.mean(axis=1), 0, atol=50 * backend.eps)
    np.testing.assert_allclose(normal.std(axis=1), 1, atol=50 * backend.eps)


@given(n=sizes, seed=seeds)
@properties
def test_algebra(backend, n, seed):
    group, rng = AffineNormalization(n), np.random.default_rng(seed)
    a, b = (draw(backend, n, "vector", rng) for _ in range(2))

    def generator(direction):
        """d/dt of the dense matrix of (t dμ, 1 + t dσ) at t = 0, by central differences."""
        mu, sigma = (numpy64(backend, p) for p in direction)
        ends = []
        for t in (1e-5, -1e-5):
            matrix = np.diag(np.append(1 / (1 + t * sigma), 1.0))
            matrix[:n, n] = -t * mu / (1 + t * sigma)
            ends.append(matrix)
        return (ends[0] - ends[1]) / 2e-5

    e, f = generator(a), generator(b)
    np.testing.assert_allclose(
        numpy64(backend, group.generator(a)), e, rtol=0, atol=1e-8 + 50 * backend.eps * abs(e).max()
    )
    made = numpy64(backend, group.generator(backend.jit(group.bracket)(a, b)))
    np.testing.assert_allclose(made, e @ f - f @ e, rtol=0, atol=1e-8 + 200 * backend.eps)

    # the projection: leaves the algebra alone, and what it removes is orthogonal to the algebra
    close(backend, group.generator(group.project(group.generator(a))), numpy64(backend, group.generator(a)))
    g = backend.asarray(rng.standard_normal((n + 1, n + 1)))
    removed = numpy64(backend, g) - numpy64(backend, group.generator(backend.jit(group.project)(g)))
    assert abs(np.sum(removed * numpy64(backend, group.generator(b)))) <= 50 * backend.eps * (n + 1)


def test_long_sums_stay_accurate(backend):
    n = 200_001
    group = AffineNormalization(n)
    a = AffineElement(backend.asarray(np.full(n, 0.1)), backend.asarray(np.full(n, 1.1)))
    mu, sigma = (float(numpy64(backend, p)[0]) for p in a)
    tolerance = 1e-5 if backend.dtype_name == "float32" else 1e-12
    assert abs(float(backend.numpy(group.log_det(a))) / (-n * np.log(sigma)) - 1) <= tolerance
    pulled = numpy64(backend, group.solve_transpose(a, backend.asarray(np.ones(n + 1))))
    assert abs(pulled[-1] / (1 + n * mu) - 1) <= tolerance


def test_check_looks_at_the_values(backend):
    group = AffineNormalization(3)
    good = np.ones(3)
    group.check(AffineElement(backend.asarray(good), backend.asarray(good)))
    group.check(AffineElement(backend.asarray(good), backend.asarray(np.array(2.0))))
    with pytest.raises(ValueError, match="`sigma` must not be 0"):
        group.check(AffineElement(backend.asarray(good), backend.asarray(np.array([1.0, 0.0, 1.0]))))
    with pytest.raises(ValueError, match="`mu` must be finite"):
        group.check(AffineElement(backend.asarray(good * np.inf), backend.asarray(good)))


def test_bad_input_says_what_is_wrong(backend):
    group = AffineNormalization(3)
    ones = backend.asarray(np.ones(3))
    a = AffineElement(ones, ones)
    with pytest.raises(ValueError, match=r"`x` must have shape \(3,\) or \(3, k\), got \(5,\)"):
        group.apply(a, backend.asarray(np.ones(5)))
    with pytest.raises(ValueError, match=r"`x` must have shape \(4,\) or \(4, k\), got \(3,\)"):
        group.apply_transpose(a, ones)
    with pytest.raises(ValueError, match=r"`a.sigma` must be a 0-d array or have shape \(3,\), got \(2,\)"):
        group.inverse(AffineElement(ones, backend.asarray(np.ones(2))))
    with pytest.raises(ValueError, match=r"`b.mu` must be a 0-d array or have shape \(3,\), got \(4,\)"):
        group.compose(a, AffineElement(backend.asarray(np.ones(4)), ones))
    with pytest.raises(ValueError, match=r"`generator` must have shape \(4, 4\), got \(3, 3\)"):
        group.project(backend.asarray(np.eye(3)))
    integers = backend.asarray(np.ones(3, dtype=np.int32))
    with pytest.raises(TypeError, match=r"`a.mu` must be float32 or float64"):
        group.apply(AffineElement(integers, integers), integers)
    with pytest.raises(TypeError, match=r"`like` must be float32 or float64"):
        group.identity(integers)


@pytest.mark.parametrize("n", [0, -1, 2.0])
def test_sizes_are_positive_integers(n):
    with pytest.raises(ValueError, match="`n` must be a positive int"):
        AffineNormalization(n)


def test_groups_are_hashable_configuration():
    assert AffineNormalization(3) == AffineNormalization(3) != AffineNormalization(4)
    assert hash(AffineNormalization(3)) == hash(AffineNormalization(3))
