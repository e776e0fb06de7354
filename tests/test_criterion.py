"""The criterion against finite differences of eq. (3), dense algebra in SciPy, and numerical minimisation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psgd_core import criterion

RELAXED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    derandomize=True,
    max_examples=5,
)


# -- plain NumPy, written from eqs. (3), (4) and nothing else --------------------------------------------


def plain_value(q, m):
    p = q.T @ q
    return np.trace(p @ m) + np.trace(np.linalg.inv(p))


def derivative(f, direction, t=1e-3):
    """Fourth-order central difference of f along `direction` at 0."""
    g = lambda s: f(s * direction)  # noqa: E731
    return (8 * (g(t) - g(-t)) - (g(2 * t) - g(-2 * t))) / (12 * t)


def second(f, direction, t=2e-3):
    """Fourth-order central second difference of f along `direction` at 0."""
    g = lambda s: f(s * direction)  # noqa: E731
    return (16 * (g(t) + g(-t)) - (g(2 * t) + g(-2 * t)) - 30 * g(0.0)) / (12 * t * t)


def symmetric(rng, values):
    basis = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return basis @ np.diag(values) @ basis.T


def general(rng, n):
    """Return a well-conditioned Q without any symmetry."""
    return symmetric(rng, np.linspace(0.7, 1.5, n)) @ np.linalg.qr(rng.standard_normal((n, n)))[0]


def indefinite(rng, n, kappa=10.0):
    return symmetric(rng, np.geomspace(1.0, kappa, n) * np.where(np.arange(n) % 2, -1.0, 1.0))


def covariance(rng, n, rank=None, scale=0.5):
    root = scale * rng.standard_normal((n, rank or n))
    return root @ root.T


def orbits_of(kind, n):
    """Return orbits written out by hand: (s, c) arrays, ascending in s."""
    if kind == "diagonal":
        return [np.arange(n)[None, :]]
    if kind == "flip":
        pairs = np.stack([np.arange(n // 2), n - 1 - np.arange(n // 2)])
        middle = [np.array([[n // 2]])] if n % 2 else []
        return [*middle, *([pairs] if n > 1 else [])]
    if kind == "mixed":  # sizes 1, 2 and 4, scattered
        rest = [i for i in range(n) if i not in (6, 0, 3, 5, 1, 2)]
        return [np.array([rest]), np.array([[6], [0]]), np.array([[3], [5], [1], [2]])]
    return [np.arange(n)[:, None]]


def members(orbits):
    return [column for array in orbits for column in np.asarray(array).T]


def plain_minimizer(m, orbits):
    p = np.zeros_like(m)
    for o in members(orbits):
        p[np.ix_(o, o)] = np.linalg.inv(scipy.linalg.sqrtm(m[np.ix_(o, o)]).real)
    return p


# -- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [None, 1, 5])
def test_value_is_equation_3(backend, rng, k):
    n = 6
    q, shape = rng.standard_normal((n, n)) + 3 * np.eye(n), (n,) if k is None else (n, k)
    p, v, h = q.T @ q, rng.standard_normal(shape), rng.standard_normal(shape)
    pairs = zip(v.reshape(n, -1).T, h.reshape(n, -1).T, strict=True)
    want = np.mean([b @ p @ b + a @ np.linalg.inv(p) @ a for a, b in pairs])
    got = backend.jit(criterion.value)(*map(backend.asarray, (p, v, h)))
    assert got.shape == ()
    assert got.dtype == backend.dtype
    assert backend.numpy(got) == pytest.approx(want, rel=200 * backend.eps)


def test_expected_is_equation_4_and_the_average_of_values(backend, rng):
    n = 5
    q, hessian, noise = general(rng, n), indefinite(rng, n), covariance(rng, n)
    m = backend.jit(criterion.second_moment)(backend.asarray(hessian), backend.asarray(noise))
    np.testing.assert_allclose(backend.numpy(m), hessian @ hessian + noise, rtol=0, atol=500 * backend.eps)
    p = backend.asarray(q.T @ q)
    got = float(backend.jit(criterion.expected)(p, m))
    assert got == pytest.approx(plain_value(q, hessian @ hessian + noise), rel=300 * backend.eps)
    # sqrt(n) times orthonormal probes average to the expectation exactly
    v = np.sqrt(n) * np.linalg.qr(rng.standard_normal((n, n)))[0]
    m0 = criterion.second_moment(backend.asarray(hessian))
    average = criterion.value(p, backend.asarray(v), backend.asarray(hessian @ v))
    assert float(average) == pytest.approx(float(criterion.expected(p, m0)), rel=500 * backend.eps)


# -- derivatives -----------------------------------------------------------------------------------------


def _symmetric_moment(rng, n=4):
    h = indefinite(rng, n, 4.0)
    return h @ h + covariance(rng, n)


def test_gradient_is_the_derivative_with_its_factor_2(backend, rng):
    n = 4
    q, m = general(rng, n), _symmetric_moment(rng)
    got = backend.numpy(backend.jit(criterion.gradient)(backend.asarray(q), backend.asarray(m)))
    basis = np.eye(n * n).reshape(n * n, n, n)
    want = np.array([derivative(lambda d: plain_value(q + d, m), e) for e in basis]).reshape(n, n)
    np.testing.assert_allclose(got, want, rtol=0, atol=np.abs(want).max() * max(300 * backend.eps, 1e-9))


@pytest.mark.parametrize("side", ["right", "left"])
def test_lie_gradient_is_the_derivative_along_the_group(backend, rng, side):
    n = 4
    q, m = general(rng, n), _symmetric_moment(rng)
    got = backend.numpy(criterion.lie_gradient(backend.asarray(q), backend.asarray(m), side=side))
    along = lambda e: plain_value(q @ (np.eye(n) + e) if side == "right" else (np.eye(n) + e) @ q, m)  # noqa: E731
    want = np.array([derivative(along, e) for e in np.eye(n * n).reshape(n * n, n, n)]).reshape(n, n)
    np.testing.assert_allclose(got, want, rtol=0, atol=np.abs(want).max() * max(500 * backend.eps, 1e-9))


def test_left_lie_gradient_is_the_expectation_of_the_sample_generator(backend, rng):
    """2 E[a a^T - b b^T] with a = Q h, b = Q^{-T} v, eq. (11), over n orthogonal probes."""
    n = 5
    q, hessian = general(rng, n), indefinite(rng, n)
    v = np.sqrt(n) * np.linalg.qr(rng.standard_normal((n, n)))[0]
    a, b = q @ hessian @ v, np.linalg.solve(q.T, v)
    want = 2 * (a @ a.T - b @ b.T) / n
    got = criterion.lie_gradient(backend.asarray(q), backend.asarray(hessian @ hessian), side="left")
    np.testing.assert_allclose(backend.numpy(got), want, rtol=0, atol=500 * backend.eps * np.abs(want).max())


def test_commutation_matrix_transposes_row_major_vectors(backend, rng):
    x = rng.standard_normal((3, 3))
    j = backend.numpy(criterion.commutation_matrix(3, like=backend.asarray(x)))
    np.testing.assert_array_equal(j @ x.reshape(-1), x.T.reshape(-1))
    np.testing.assert_array_equal(j @ j, np.eye(9))


def test_second_derivative_agrees_with_differences_in_every_direction(backend, rng):
    n = 3
    q, m = general(rng, n), _symmetric_moment(rng, n)
    got = backend.jit(criterion.second_derivative)(backend.asarray(q), backend.asarray(m))
    got = backend.numpy(got).astype(float)
    scale = np.abs(got).max()
    np.testing.assert_allclose(got, got.T, rtol=0, atol=500 * backend.eps * scale)
    eye = np.eye(n * n)
    for i in range(n * n):
        for j in range(i, n * n):
            d = eye[i] + eye[j]
            want = second(lambda d: plain_value(q + d.reshape(n, n), m), d)
            assert d @ got @ d == pytest.approx(want, abs=max(500 * backend.eps, 1e-7) * scale)


@pytest.mark.parametrize("side", ["right", "left"])
def test_lie_second_derivative_is_that_of_the_move_and_the_exponential_adds_a_term(backend64, rng, side):
    """Eq. (8) belongs to Q + QE; along Q exp(E) the quadratic form gains tr(grad^T E^2)."""
    n = 3
    q, m = general(rng, n), _symmetric_moment(rng, n)
    got = backend64.numpy(
        criterion.lie_second_derivative(backend64.asarray(q), backend64.asarray(m), side=side)
    )
    gradient = backend64.numpy(criterion.lie_gradient(backend64.asarray(q), backend64.asarray(m), side=side))
    scale = np.abs(got).max()
    place = (lambda t: plain_value(q @ t, m)) if side == "right" else (lambda t: plain_value(t @ q, m))
    for _ in range(8):
        e = rng.standard_normal((n, n))
        form = e.reshape(-1) @ got @ e.reshape(-1)
        straight = second(lambda d: place(np.eye(n) + d), e, 5e-4)
        curved = second(lambda d: place(scipy.linalg.expm(d)), e, 5e-4)
        term = np.sum(gradient * (e @ e))
        assert form == pytest.approx(straight, abs=1e-6 * scale)
        assert form + term == pytest.approx(curved, abs=1e-6 * scale)
        assert abs(term) > 1e-3 * abs(form)  # the distinction is a real one here


def test_stationary_forms_hold_on_symmetric_moves_only(backend64, rng):
    """(9) and (10) for an indefinite H, at both Q = |H|^{-1/2} and its negative."""
    n = 4
    hessian = indefinite(rng, n, 3.0)
    root = scipy.linalg.sqrtm(scipy.linalg.sqrtm(hessian @ hessian).real).real  # |H|^{1/2}
    nine = backend64.numpy(criterion.stationary_second_derivative(backend64.asarray(hessian)))
    ten = backend64.numpy(criterion.stationary_lie_second_derivative(backend64.asarray(hessian)))
    for sign in (1, -1):
        q = sign * np.linalg.inv(root)
        for _ in range(8):
            s = rng.standard_normal((n, n))
            s, e = s + s.T, np.linalg.solve(q, s + s.T)  # Q E = s is symmetric
            want = second(lambda d, q=q: plain_value(q + d, hessian @ hessian), s / np.linalg.norm(s))
            want *= np.sum(s * s)
            assert s.reshape(-1) @ nine @ s.reshape(-1) == pytest.approx(want, rel=1e-6)
            assert e.reshape(-1) @ ten @ e.reshape(-1) == pytest.approx(want, rel=1e-6)
    # elsewhere they differ: a rotation leaves the criterion alone, but (9) is positive there;
    # and a symmetric E is not what (10) asks for
    skew = rng.standard_normal((n, n))
    move = ((skew - skew.T) @ q).reshape(-1)
    assert second(lambda d: plain_value(q + d.reshape(n, n), hessian @ hessian), move, 1e-4) == pytest.approx(
        0, abs=1e-3
    )
    assert move @ nine @ move > 1
    full = second(lambda d: plain_value(q + q @ d, hessian @ hessian), s, 1e-4)
    assert abs(s.reshape(-1) @ ten @ s.reshape(-1) - full) > 1e-3 * full


def test_stationary_forms_are_positive_definite_but_the_full_one_is_flat_along_rotations(backend64, rng):
    n = 4
    hessian = indefinite(rng, n, 3.0)
    h = backend64.asarray(hessian)
    nine = backend64.numpy(criterion.stationary_second_derivative(h))
    ten = backend64.numpy(criterion.stationary_lie_second_derivative(h))
    assert np.linalg.eigvalsh((nine + nine.T) / 2).min() > 1
    assert np.linalg.eigvalsh((ten + ten.T) / 2).min() > 0.5
    q = np.linalg.inv(scipy.linalg.sqrtm(scipy.linalg.sqrtm(hessian @ hessian).real).real)
    full = backend64.numpy(
        criterion.second_derivative(backend64.asarray(q), backend64.asarray(hessian @ hessian))
    )
    w = np.linalg.eigvalsh(full)
    flat = n * (n - 1) // 2
    assert np.abs(w[:flat]).max() < 1e-10 * w[-1]
    assert w[flat] > 0.1
    for _ in range(3):
        skew = rng.standard_normal((n, n))
        assert np.abs(full @ ((skew - skew.T) @ q).reshape(-1)).max() < 1e-9 * w[-1]


# -- minimisers ------------------------------------------------------------------------------------------


@RELAXED
@given(st.sampled_from([1, 2, 7]), st.integers(0, 1000))
def test_absolute_inverse_and_minimizer_are_scipys(backend, n, seed):
    rng = np.random.default_rng(seed)
    hessian, noise = indefinite(rng, n, 20.0), covariance(rng, n, max(1, n // 2))
    m = hessian @ hessian
    got = backend.jit(criterion.absolute_inverse)(backend.asarray(hessian))
    want = np.linalg.inv(scipy.linalg.sqrtm(m).real)
    assert got.dtype == backend.dtype
    np.testing.assert_allclose(backend.numpy(got), want, rtol=0, atol=1000 * backend.eps)
    got = backend.jit(criterion.minimizer)(backend.asarray(hessian), backend.asarray(noise))
    want = np.linalg.inv(scipy.linalg.sqrtm(m + noise).real)
    np.testing.assert_allclose(backend.numpy(got), want, rtol=0, atol=1000 * backend.eps)
    # noise shrinks the minimiser: |H|^{-1} - P is positive semidefinite
    gap = np.linalg.inv(scipy.linalg.sqrtm(m).real) - backend.numpy(got)
    assert np.linalg.eigvalsh(gap).min() > -2000 * backend.eps


@pytest.mark.parametrize(
    ("kind", "n", "noisy"),
    [("diagonal", 7, False), ("flip", 7, True), ("flip", 1, False), ("mixed", 8, True), ("all", 7, False)],
)
def test_group_minimizer_is_the_block_formula(backend, rng, kind, n, noisy):
    hessian, noise = indefinite(rng, n, 10.0), covariance(rng, n) if noisy else None
    m = hessian @ hessian + (noise if noisy else 0)
    orbits = orbits_of(kind, n)
    args = (backend.asarray(hessian), backend.asarray(noise) if noisy else None)
    got = backend.jit(lambda h, e: criterion.group_minimizer(h, orbits, e))(*args)
    assert got.dtype == backend.dtype
    want = plain_minimizer(m, orbits)
    np.testing.assert_allclose(backend.numpy(got), want, rtol=0, atol=500 * backend.eps)
    assert np.all(backend.numpy(got)[want == 0] == 0)
    least = backend.jit(lambda h, e: criterion.minimum(h, orbits, e))(*args)
    assert float(least) == pytest.approx(
        np.trace(want @ m) + np.trace(np.linalg.inv(want)), rel=300 * backend.eps
    )


def test_plain_index_sequences_are_orbits_too(rng):
    hessian, orbits = indefinite(rng, 8), orbits_of("mixed", 8)
    listed = criterion.group_minimizer(hessian, [o.tolist() for o in members(orbits)])
    np.testing.assert_allclose(listed, plain_minimizer(hessian @ hessian, orbits), rtol=0, atol=1e-13)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(("kind", "n"), [("diagonal", 4), ("flip", 5), ("mixed", 7), ("all", 4)])
def test_no_numerical_minimisation_gets_below_the_group_minimum(rng, kind, n, noisy):
    hessian, noise = indefinite(rng, n, 4.0), covariance(rng, n) if noisy else None
    m = hessian @ hessian + (noise if noisy else 0)
    orbits = orbits_of(kind, n)
    mask = np.zeros((n, n))
    for o in members(orbits):
        mask[np.ix_(o, o)] = 1
    where = np.nonzero(mask)

    def fun(x):
        q = np.zeros((n, n))
        q[where] = x
        inverse = np.linalg.inv(q)
        grad = 2 * (q @ m - inverse.T @ inverse @ inverse.T)
        return np.sum((q @ m) * q) + np.sum(inverse * inverse), grad[where]

    start = (np.eye(n) + 0.1 * rng.standard_normal((n, n)) * mask)[where]
    found = scipy.optimize.minimize(fun, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    q = np.zeros((n, n))
    q[where] = found.x
    assert float(criterion.minimum(hessian, orbits, noise)) == pytest.approx(found.fun, rel=1e-12)
    np.testing.assert_allclose(criterion.group_minimizer(hessian, orbits, noise), q.T @ q, atol=1e-6)


def test_minimizers_do_not_square_the_condition_number(backend64, rng):
    """kappa = 1e10: through H^2 (1e20) nothing would be left in float64."""
    n = 8
    values = np.geomspace(1, 1e10, n)
    hessian = np.diag(values)  # columns of very different sizes, known exactly
    got = backend64.numpy(criterion.absolute_inverse(backend64.asarray(hessian)))
    np.testing.assert_allclose(np.diag(got), 1 / values, rtol=1e-12)
    got = backend64.numpy(criterion.group_minimizer(backend64.asarray(hessian), orbits_of("flip", n)))
    np.testing.assert_allclose(np.diag(got), 1 / values, rtol=1e-4)
    dense = symmetric(rng, values)
    got = backend64.numpy(criterion.group_minimizer(backend64.asarray(dense), [np.arange(n)[:, None]]))
    assert np.linalg.eigvalsh(got).max() == pytest.approx(1.0, rel=1e-4)
    tiny = backend64.asarray(1e-20 * np.eye(n))  # a noise far below the rounding of H^2 still counts
    hessian[0, 0] = 0.0
    got = backend64.numpy(criterion.minimizer(backend64.asarray(hessian), tiny))
    assert got[0, 0] == pytest.approx(1e10, rel=1e-12)


def test_extreme_scales_do_not_overflow(backend, rng):
    base, n = indefinite(rng, 4, 5.0), 4
    for scale in (1e-30, 1e30):
        hessian = backend.asarray(base * scale)
        got = backend.numpy(criterion.minimizer(hessian)) * scale
        np.testing.assert_allclose(
            got, np.linalg.inv(scipy.linalg.sqrtm(base @ base).real), atol=500 * backend.eps
        )
        got = float(criterion.scalar_minimizer(hessian)) * scale
        assert got == pytest.approx(np.sqrt(n / np.sum(base * base)), rel=50 * backend.eps)


def test_scalar_minimizer_against_a_line_search(backend, rng):
    n = 6
    hessian, noise = indefinite(rng, n), covariance(rng, n)
    m = hessian @ hessian + noise
    found = scipy.optimize.minimize_scalar(
        lambda t: np.exp(t) * np.trace(m) + n * np.exp(-t), bracket=(-3, 3), options={"xtol": 1e-10}
    )
    got = backend.jit(criterion.scalar_minimizer)(backend.asarray(hessian), backend.asarray(noise))
    assert float(got) == pytest.approx(np.exp(found.x), rel=max(1e-6, 50 * backend.eps))


def test_spectra_are_those_of_the_inverse_minimizer(backend, rng):
    n = 8
    hessian = indefinite(rng, n)
    orbits = orbits_of("mixed", n)
    got = criterion.spectra(backend.asarray(hessian), orbits)
    assert [x.shape for x in got] == [np.shape(o) for o in orbits]
    inverse = np.linalg.inv(plain_minimizer(hessian @ hessian, orbits))
    for values, index in zip(got, orbits, strict=True):
        for column, o in zip(backend.numpy(values).T, index.T, strict=True):
            want = np.linalg.eigvalsh(inverse[np.ix_(o, o)])
            np.testing.assert_allclose(np.sort(column), want, rtol=500 * backend.eps)
    plain = backend.numpy(criterion.spectra(backend.asarray(hessian))[0])
    np.testing.assert_allclose(
        np.sort(plain[:, 0]), np.sort(np.abs(np.linalg.eigvalsh(hessian))), rtol=200 * backend.eps
    )


def test_the_damping_identity_holds_at_the_minimiser_and_on_the_orbits_of_a_group(backend, rng):
    n = 7
    hessian, noise = indefinite(rng, n, 5.0), covariance(rng, n)
    m = hessian @ hessian + noise
    p = backend.asarray(np.linalg.inv(scipy.linalg.sqrtm(m).real))
    got = backend.numpy(backend.jit(criterion.damping_residual)(p, backend.asarray(m)))
    np.testing.assert_allclose(got, 0, atol=500 * backend.eps)
    orbits = orbits_of("flip", n)
    got = backend.numpy(
        criterion.damping_residual(backend.asarray(plain_minimizer(m, orbits)), backend.asarray(m))
    )
    on = np.zeros((n, n), dtype=bool)
    for o in members(orbits):
        on[np.ix_(o, o)] = True
    np.testing.assert_allclose(got[on], 0, atol=500 * backend.eps)
    assert np.abs(got[~on]).max() > 0.01
    # for E[vv^T] = C, the minimiser of tr(PM + P^{-1}C) is the geometric mean of M^{-1} and C
    c = covariance(rng, n) + np.eye(n)
    root = scipy.linalg.sqrtm(m).real
    mean = np.linalg.solve(root, scipy.linalg.sqrtm(root @ c @ root).real) @ np.linalg.inv(root)
    got = criterion.damping_residual(*map(backend.asarray, (mean, m, c)))
    np.testing.assert_allclose(backend.numpy(got), 0, atol=1000 * backend.eps * np.abs(c).max())


def test_diagonal_minimizer_is_esgds_with_its_square_root(backend, rng):
    """Section 2.2 writes E[v.v]/E[h.h] without the root; the criterion's minimiser has it."""
    hessian = indefinite(rng, 6)
    got = backend.numpy(criterion.group_minimizer(backend.asarray(hessian), orbits_of("diagonal", 6)))
    np.testing.assert_allclose(np.diag(got), 1 / np.sqrt(np.diag(hessian @ hessian)), rtol=100 * backend.eps)


def test_a_singular_hessian_gives_no_finite_minimiser_but_its_infimum(backend64):
    hessian = backend64.asarray(np.diag([2.0, 0.0, -1.0]))
    with np.errstate(all="ignore"):
        p = backend64.numpy(criterion.absolute_inverse(hessian))
    assert not np.isfinite(p[1, 1])
    assert float(criterion.minimum(hessian)) == 6.0


# -- bad input -------------------------------------------------------------------------------------------


def test_shapes_and_dtypes_are_checked_with_a_message(backend):
    eye, wide = backend.asarray(np.eye(3)), backend.asarray(np.ones((3, 4)))
    v = backend.asarray(np.ones(3))
    with pytest.raises(ValueError, match=r"`hessian` must be a square matrix.*\(3, 4\)"):
        criterion.absolute_inverse(wide)
    with pytest.raises(ValueError, match=r"`q` must be a square matrix"):
        criterion.gradient(v, eye)
    with pytest.raises(ValueError, match=r"`m` must have the shape of `q`"):
        criterion.gradient(eye, backend.asarray(np.eye(2)))
    with pytest.raises(ValueError, match=r"`v` must have shape \(3,\) or \(3, k\)"):
        criterion.value(eye, backend.asarray(np.ones(4)), backend.asarray(np.ones(4)))
    with pytest.raises(ValueError, match="`h` must have the shape of `v`"):
        criterion.value(eye, v, backend.asarray(np.ones((3, 2))))
    with pytest.raises(TypeError, match="`p` must be float32 or float64"):
        criterion.expected(backend.asarray(np.eye(3, dtype=np.int64)), eye)
    with pytest.raises(TypeError, match="`v` must be an array"):
        criterion.value(eye, [1.0, 2.0, 3.0], v)
    with pytest.raises(ValueError, match="`noise` must have the shape of `hessian`"):
        criterion.minimizer(eye, backend.asarray(np.eye(4)))
    with pytest.raises(ValueError, match="`side` must be one of 'right', 'left', got"):
        criterion.lie_gradient(eye, eye, side="up")


def test_dtypes_and_libraries_are_not_mixed(rng):
    eye = np.eye(3)
    with pytest.raises(TypeError, match="`m` must have the dtype of `p`"):
        criterion.expected(eye, eye.astype(np.float32))
    with pytest.raises(TypeError, match="`v` must have the dtype of `p`"):
        criterion.value(eye, np.ones(3, np.float32), np.ones(3, np.float32))
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="one library"):
        criterion.expected(eye, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    "orbits",
    [
        [[0, 1]],
        [[0, 1], [1, 2]],
        [[0, 1, 2, 3]],
        [],
        [np.array([[0.0], [1.0], [2.0]])],
        [np.zeros((1, 1, 3), int)],
    ],
)
def test_orbits_must_be_a_partition(orbits):
    with pytest.raises(ValueError, match="`orbits` must hold"):
        criterion.group_minimizer(np.eye(3), orbits)


@pytest.mark.parametrize("n", [2, 8, 32])
@pytest.mark.parametrize("sign", [1, -1])
def test_check_hessian_draws_the_line_at_n_rounding_units(backend, n, sign):
    """Relative to the largest eigenvalue, whatever the scale; below it the smallest is rounding."""
    for scale in (1.0, 1e-20, 1e12):
        values = np.linspace(0.5, 1.0, n)
        values[n // 2] = 2 * n * backend.eps * sign
        criterion.check_hessian(backend.asarray(scale * np.diag(values)))
        values[n // 2] = n * backend.eps / 2 * sign
        with pytest.raises(ValueError, match="`hessian` must be invertible"):
            criterion.check_hessian(backend.asarray(scale * np.diag(values)))


def test_check_hessian_compares_within_each_orbit(backend):
    """Orbits of very different scales are no near singularity; a singular one is, beside large others."""
    orbits = orbits_of("flip", 4)  # {0, 3} and {1, 2}

    def on_orbits(outer, inner):
        h = np.zeros((4, 4))
        h[np.ix_([0, 3], [0, 3])], h[np.ix_([1, 2], [1, 2])] = outer, inner
        return backend.asarray(h)

    regular, tilt = np.array([[2.0, 1.0], [1.0, 2.0]]), 2 * backend.eps
    flat = np.array([[1.0, 1.0], [1.0, 1.0]])
    criterion.check_hessian(on_orbits(regular, 1e-12 * regular), orbits)
    criterion.check_hessian(on_orbits(flat + 64 * np.diag([tilt, 0]), regular), orbits)
    for outer, inner in ((flat, regular), (1e6 * regular, flat), (flat, flat)):
        with pytest.raises(ValueError, match="`hessian` must be invertible"):
            criterion.check_hessian(on_orbits(outer, inner), orbits)


def test_check_hessian_refuses_low_rank_in_any_basis(backend, rng):
    """Rank n - 1 up to the rounding of its entries, and the same with its last eigenvalue well above that."""
    basis = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    for least, refused in ((0.0, True), (1e4 * backend.eps, False)):
        h = (basis * np.array([least, *np.linspace(-1, 1, 7) ** 3 * 0.9 + 0.05])) @ basis.T
        h = backend.asarray((h + h.T) / 2)
        if refused:
            with pytest.raises(ValueError, match="`hessian` must be invertible"):
                criterion.check_hessian(h)
        else:
            criterion.check_hessian(h)


def test_check_hessian_names_what_is_wrong(backend, rng):
    good = indefinite(rng, 4)
    asarray = backend.asarray
    criterion.check_hessian(asarray(good))
    criterion.check_hessian(asarray(good), orbits_of("flip", 4), asarray(covariance(rng, 4, rank=1)))
    bad = good.copy()
    bad[0, 1] = np.nan
    with pytest.raises(ValueError, match="`hessian` must be finite"):
        criterion.check_hessian(asarray(bad))
    bad[0, 1] = good[0, 1] + 0.1
    with pytest.raises(ValueError, match="`hessian` must be symmetric"):
        criterion.check_hessian(asarray(bad))
    with pytest.raises(ValueError, match="`noise` must be a covariance"):
        criterion.check_hessian(asarray(good), noise=asarray(-np.eye(4)))
    with pytest.raises(ValueError, match="`noise` must have the shape of `hessian`"):
        criterion.check_hessian(asarray(good), noise=asarray(np.eye(3)))
    singular = np.diag([1.0, 0.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="`hessian` must be invertible"):
        criterion.check_hessian(asarray(singular))
    criterion.check_hessian(asarray(singular), noise=asarray(0.01 * np.eye(4)))
