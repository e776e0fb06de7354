"""Test functions: derivatives by finite differences, published values, known minima, every array library."""

from __future__ import annotations

import builtins
import gzip
import inspect
import struct

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from psgd_analysis import problems
from psgd_analysis.problems import Blocks, LeastSquares, Residual, Windows

# Every problem of the registry at a size that is cheap to difference, and the combinations worth a row.
CASES = {
    "quadratic": ("quadratic", {"n": 7, "kappa": 50.0}),
    "quadratic-reflections": (
        "quadratic",
        {"n": 7, "kappa": 50.0, "mixing": "reflections", "kind": "random"},
    ),
    "quadratic-noisy": ("quadratic", {"n": 7, "kappa": 50.0, "gradient_noise": 0.5, "hessian_noise": 0.3}),
    "hilbert": ("hilbert", {"n": 5}),
    "rosenbrock": ("rosenbrock", {}),
    "rosenbrock-5": ("rosenbrock", {"n": 5}),
    "rosenbrock_pairs": ("rosenbrock_pairs", {"n": 6}),
    "freudenstein_roth": ("freudenstein_roth", {}),
    "powell_badly_scaled": ("powell_badly_scaled", {}),
    "brown_badly_scaled": ("brown_badly_scaled", {}),
    "beale": ("beale", {"n": 4}),
    "helical_valley": ("helical_valley", {}),
    "box_3d": ("box_3d", {}),
    "powell_singular": ("powell_singular", {"n": 8}),
    "wood": ("wood", {}),
    "brown_dennis": ("brown_dennis", {}),
    "biggs_exp6": ("biggs_exp6", {}),
    "penalty_1": ("penalty_1", {"n": 4}),
    "variably_dimensioned": ("variably_dimensioned", {"n": 4}),
    "trigonometric": ("trigonometric", {"n": 5}),
    "broyden_tridiagonal": ("broyden_tridiagonal", {"n": 5}),
    "tensor_rank": ("tensor_rank", {"shape": (2, 3, 4), "rank": 2}),
}


# JAX compiles each operation on its own outside jit, seconds per case: there one case per piece of code.
WITHOUT_JIT = {
    "quadratic-noisy",
    "rosenbrock-5",
    "helical_valley",
    "penalty_1",
    "variably_dimensioned",
    "trigonometric",
}


def make(case: str, like=None):
    name, options = CASES[case]
    return problems.get(name, like=like, **options)


def point(problem, rng):
    """A generic point near the start, away from its symmetries."""
    start = np.asarray(problem.start, dtype=float)
    return start + 0.1 * (1.0 + np.abs(start)) * rng.uniform(-1.0, 1.0, problem.n)


def central(function, x, v):
    """The derivative along v, by Richardson extrapolation of central differences: error O(t^4)."""
    t = 1e-3

    def slope(t):
        return (function(x + t * v) - function(x - t * v)) / (2.0 * t)

    return (4.0 * slope(t / 2) - slope(t)) / 3.0


def test_every_problem_is_tested_here():
    named = {name for name, _ in CASES.values()}
    assert named | {"digits", "mnist"} == set(problems.names())  # these two have data, and tests of their own


# -- derivatives, on the host in float64 ---------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_gradient_and_product_are_the_derivatives(case, rng):
    problem = make(case)
    sample = problem.draw(rng)
    x = point(problem, rng)
    for _ in range(3):
        v = rng.standard_normal(problem.n) * (0.1 + 0.1 * np.abs(x))
        slope = central(lambda y: problem.value(y, sample), x, v)
        gradient = problem.gradient(x, sample)
        scale = np.linalg.norm(gradient) * np.linalg.norm(v) + abs(problem.value(x, sample))
        assert abs(slope - gradient @ v) <= 1e-8 * scale
        bend = central(lambda y: problem.gradient(y, sample), x, v)
        product = problem.hvp(x, v, sample)
        scale = np.linalg.norm(product) + np.linalg.norm(gradient)
        assert np.linalg.norm(bend - product) <= 1e-8 * scale


@pytest.mark.parametrize("case", CASES)
def test_hessian_is_symmetric_and_columns_are_products(case, rng):
    problem = make(case)
    x = point(problem, rng)
    h = problem.hessian(x)
    v = rng.standard_normal((problem.n, 3))
    eps = np.finfo(float).eps
    assert h.shape == (problem.n, problem.n)
    assert np.max(np.abs(h - h.T)) <= 50 * eps * np.max(np.abs(h))
    tolerance = 100 * eps * np.linalg.norm(h) * np.linalg.norm(v)
    assert np.max(np.abs(problem.hvp(x, v) - h @ v)) <= tolerance
    assert np.max(np.abs(problem.hvp(x, v[:, 0]) - h @ v[:, 0])) <= tolerance


@given(
    p=st.integers(1, 3),
    extra=st.integers(0, 4),
    pad=st.integers(0, 2),
    k=st.sampled_from([(), (1,), (3,)]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_layouts_are_adjoint(p, extra, pad, k, seed):
    rng = np.random.default_rng(seed)
    for layout, n in ((Blocks(p), p * (extra + 1)), (Windows(p, pad), p + extra)):
        x = rng.standard_normal((n, *k))
        parts = layout.split(x)
        others = [rng.standard_normal(part.shape) for part in parts]
        there = sum(np.sum(a * b) for a, b in zip(parts, others, strict=True))
        joined = layout.join(others)
        assert joined.shape == x.shape
        assert np.isclose(there, np.sum(joined * x), rtol=1e-12, atol=1e-12)


def test_least_squares_with_own_residuals():
    problem = LeastSquares(
        name="mine",
        start=np.array([2.0, 3.0]),
        residuals=lambda x, y: [Residual(x * y - 1.0, {0: y, 1: x}, {(0, 1): 1.0})],
        layout=Blocks(2),
    )
    assert problem.value(problem.start) == 25.0
    assert problem.gradient(problem.start).tolist() == [30.0, 20.0]
    assert problem.hessian(problem.start).tolist() == [[18.0, 22.0], [22.0, 8.0]]


# -- published values ----------------------------------------------------------------------------------------

# f at the standard start: from the definitions by hand where short, else as tabulated by users of the
# collection (J. Burkardt's test_opt); None for n means the standard one.
AT_START = [
    ("rosenbrock", None, 24.2),
    ("freudenstein_roth", None, 400.5),
    ("powell_badly_scaled", None, 1.0 + (np.exp(-1.0) - 0.0001) ** 2),
    ("brown_badly_scaled", None, 999999.0**2 + (1.0 - 2e-6) ** 2 + 1.0),
    ("beale", None, 14.203125),
    ("helical_valley", None, 2500.0),
    ("box_3d", None, 1031.154),
    ("powell_singular", None, 215.0),
    ("wood", None, 19192.0),
    ("brown_dennis", None, 7926693.336997),
    ("biggs_exp6", None, 0.779070),
    ("variably_dimensioned", 10, 3.85 + 38.5**2 + 38.5**4),
    ("penalty_1", 10, 1e-5 * 285.0 + (385.0 - 0.25) ** 2),
    ("trigonometric", 10, 0.00707575946),
    ("broyden_tridiagonal", 10, 21.0),
]


@pytest.mark.parametrize(("name", "n", "expected"), AT_START)
def test_value_at_the_standard_start(name, n, expected):
    problem = problems.get(name) if n is None else problems.get(name, n=n)
    assert np.isclose(problem.value(problem.start), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "n", "published"),
    [("penalty_1", 4, 2.24997e-5), ("penalty_1", 10, 7.08765e-5), ("brown_dennis", None, 85822.2)],
)
def test_published_minima(name, n, published):
    problem = problems.get(name) if n is None else problems.get(name, n=n)
    assert np.isclose(problem.minimum, published, rtol=1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if case != "broyden_tridiagonal"])
def test_known_minimum_is_attained_and_stationary(case):
    problem = make(case)
    x = problem.solution
    h = problem.hessian(x)
    eps = np.finfo(float).eps
    # The solution is rounded to float64: f may exceed its minimum by h dx^2, the gradient be h dx.
    rounding = 10 * eps * np.abs(x)
    assert (
        abs(problem.value(x) - problem.minimum)
        <= rounding @ np.abs(h) @ rounding + 10 * eps * problem.minimum
    )
    assert np.all(np.abs(problem.gradient(x)) <= np.abs(h) @ rounding + 100 * eps * problem.minimum)
    eigenvalues = np.linalg.eigvalsh(h)
    assert eigenvalues[0] >= -100 * eps * eigenvalues[-1]


def test_broyden_tridiagonal_has_a_root():
    problem = problems.get("broyden_tridiagonal", n=9)

    def equations(x):
        y = np.concatenate([[0.0], x, [0.0]])
        return (3.0 - 2.0 * x) * x - y[:-2] - 2.0 * y[2:] + 1.0

    root = scipy.optimize.fsolve(equations, problem.start, xtol=1e-14)
    assert problem.value(root) < 1e-25
    assert problem.minimum == 0.0
    assert problem.solution is None


@pytest.mark.parametrize("n", [2, 3, 10])
def test_rosenbrock_is_scipys(n, rng):
    problem = problems.rosenbrock(n)
    x, v = rng.standard_normal(n), rng.standard_normal(n)
    assert np.isclose(problem.value(x), scipy.optimize.rosen(x), rtol=1e-13)
    assert np.allclose(problem.gradient(x), scipy.optimize.rosen_der(x), rtol=1e-12, atol=1e-11)
    assert np.allclose(problem.hessian(x), scipy.optimize.rosen_hess(x), rtol=1e-12, atol=1e-11)
    assert np.allclose(problem.hvp(x, v), scipy.optimize.rosen_hess_prod(x, v), rtol=1e-12, atol=1e-11)


def test_rosenbrock_pairs_is_a_sum_of_planes(rng):
    x = rng.standard_normal(6)
    problem = problems.rosenbrock_pairs(6)
    assert np.isclose(
        problem.value(x), sum(scipy.optimize.rosen(x[i : i + 2]) for i in (0, 2, 4)), rtol=1e-13
    )
    coupled = np.kron(np.eye(3), np.ones((2, 2)))
    assert np.all(problem.hessian(x)[coupled == 0] == 0)


def test_where_rosenbrock_is_indefinite():
    problem = problems.rosenbrock()
    above, below = np.array([0.5, 0.256]), np.array([0.5, 0.254])
    assert np.linalg.eigvalsh(problem.hessian(above))[0] < 0 < np.linalg.eigvalsh(problem.hessian(below))[0]
    assert round(np.linalg.cond(problem.hessian(problem.solution))) == 2508


def test_helical_valley_follows_the_papers_branch():
    value = problems.get("helical_valley").value
    # θ = 1/2 + arctan(x2/x1) / 2π for x1 < 0 on both sides of the negative axis: no jump there.
    assert np.isclose(value(np.array([-1.0, -1e-9, 0.0])), value(np.array([-1.0, 1e-9, 0.0])), rtol=1e-6)
    assert np.isclose(value(np.array([-1.0, -1.0, 0.0])), 62.5**2 / 25.0 * 25.0 + 100 * (np.sqrt(2) - 1) ** 2)


def test_copies_are_independent(rng):
    one, three = problems.get("wood"), problems.get("wood", n=12)
    x = rng.standard_normal((3, 4))
    assert np.isclose(three.value(x.ravel()), sum(one.value(row) for row in x), rtol=1e-13)
    assert np.allclose(
        three.gradient(x.ravel()), np.concatenate([one.gradient(row) for row in x]), rtol=1e-12
    )
    assert problems.get("brown_dennis", n=8).minimum == 2 * problems.get("brown_dennis").minimum


# -- every array library -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_every_library_agrees_with_numpy(case, backend, rng):
    if backend.library == "jax.numpy" and not backend.jitted and case not in WITHOUT_JIT:
        pytest.skip("JAX runs this case under jit")
    reference = make(case)
    problem = make(case, like=backend.asarray(np.zeros(1)))
    x = backend.asarray(point(reference, rng))
    v = backend.asarray(rng.standard_normal((problem.n, 2)))
    seed = int(rng.integers(2**32))
    sample = problem.draw(np.random.default_rng(seed))
    host_sample = reference.draw(np.random.default_rng(seed))

    def all_three(x, v, sample):
        return problem.value(x, sample), problem.gradient(x, sample), problem.hvp(x, v, sample)

    got = backend.jit(all_three)(x, v, sample)
    host_x, host_v = (backend.numpy(y).astype(float) for y in (x, v))
    expected = (
        reference.value(host_x, host_sample),
        reference.gradient(host_x, host_sample),
        reference.hvp(host_x, host_v, host_sample),
    )
    # Rounding of the data and of every term; terms cancel most in f, least in H v, whose scale is |H| |v|.
    h = reference.hessian(host_x, host_sample)
    spread = np.linalg.norm(h) * (1.0 + np.linalg.norm(host_x - np.asarray(reference.start)))
    scales = (
        abs(expected[0]) + spread,
        np.linalg.norm(expected[1]) + spread,
        np.linalg.norm(h) * np.linalg.norm(host_v),
    )
    for one, other, scale in zip(got, expected, scales, strict=True):
        assert one.dtype == backend.dtype
        assert backend.numpy(one).shape == np.shape(other)
        assert np.max(np.abs(backend.numpy(one) - other)) <= 50 * backend.eps * scale
    assert problem.start.dtype == backend.dtype


def test_permuted(backend, rng):
    inner = problems.rosenbrock_pairs(6, like=backend.asarray(np.zeros(1)))
    problem = problems.permuted(inner, problems.pairs_to_flip(6))
    host = rng.standard_normal(6)
    x = backend.asarray(host)
    host = backend.numpy(x).astype(float)
    planes = [np.array([host[i], host[5 - i]]) for i in range(3)]
    tolerance = {"rtol": 20 * backend.eps, "atol": 20 * backend.eps}
    assert np.isclose(
        backend.numpy(backend.jit(problem.value)(x)), sum(map(scipy.optimize.rosen, planes)), **tolerance
    )
    expected, h = np.zeros(6), np.zeros((6, 6))
    for i, plane in enumerate(planes):
        expected[[i, 5 - i]] = scipy.optimize.rosen_der(plane)
        h[np.ix_([i, 5 - i], [i, 5 - i])] = scipy.optimize.rosen_hess(plane)
    scale = np.max(np.abs(h))
    got = backend.numpy(backend.jit(problem.gradient)(x))
    assert np.max(np.abs(got - expected)) <= 50 * backend.eps * (scale + np.max(np.abs(expected)))
    assert np.max(np.abs(backend.numpy(problem.hessian(x)) - h)) <= 50 * backend.eps * scale
    assert np.array_equal(backend.numpy(problem.start)[[0, 5]], backend.numpy(inner.start)[[0, 1]])


def test_permuting_at_random(rng):
    inner = problems.get("biggs_exp6")
    order = rng.permutation(6)
    problem = problems.permuted(inner, order)
    x, v = rng.standard_normal(6), rng.standard_normal((6, 2))
    assert problem.value(x) == inner.value(x[order])
    assert np.array_equal(problem.start[order], inner.start)
    assert problem.value(problem.solution) == problem.minimum
    assert np.allclose(problem.gradient(x) @ v, inner.gradient(x[order]) @ v[order], rtol=1e-12)
    assert np.allclose(problem.hvp(x, v)[order], inner.hvp(x[order], v[order]), rtol=1e-12)


def test_odd_pairs_to_flip():
    assert problems.pairs_to_flip(5).tolist() == [0, 4, 1, 3, 2]


@pytest.mark.parametrize(
    "name", ["rosenbrock", "rosenbrock_pairs", "powell_singular", "trigonometric", "quadratic"]
)
def test_no_quadratic_memory(name):
    # n^2 float64 numbers would be 7 TiB here: a dense intermediate cannot go unnoticed.
    n = 1_000_000
    extra = {"mixing": "reflections"} if name == "quadratic" else {}
    problem = problems.get(name, n=n, **extra)
    assert np.isfinite(problem.value(problem.start))
    v = problem.start + 1.0
    assert problem.gradient(problem.start).shape == problem.hvp(problem.start, v).shape == (n,)


# -- quadratics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", ["haar", "reflections"])
def test_quadratic_has_its_spectrum(mixing, rng):
    problem = problems.quadratic(12, 1e4, kind="power", mixing=mixing, rng=rng)
    eigenvalues = np.linalg.eigvalsh(problem.hessian(problem.start))
    assert np.isclose(eigenvalues[-1] / eigenvalues[0], 1e4, rtol=1e-9)
    assert np.allclose(
        np.diff(np.log(eigenvalues[::-1])[:2]) / np.log(2), -np.log(1e4) / np.log(12), rtol=1e-9
    )
    assert not np.allclose(problem.hessian(problem.start), np.diag(np.diag(problem.hessian(problem.start))))


def test_noise_has_mean_zero_and_its_deviation(rng):
    problem = problems.quadratic(4, 10.0, gradient_noise=2.0, hessian_noise=3.0, rng=rng)
    x, v = rng.standard_normal(4), rng.standard_normal((4, 2))
    sample = problem.draw(rng)
    mirrored = type(sample)(-sample.slope, -sample.signs)
    assert np.isclose(problem.value(x, sample) + problem.value(x, mirrored), 2 * problem.value(x))
    assert np.allclose(problem.gradient(x, sample) + problem.gradient(x, mirrored), 2 * problem.gradient(x))
    assert np.allclose(problem.hvp(x, v, sample) - problem.hvp(x, v), 3.0 * sample.signs[:, None] * v)
    slopes = np.stack([problem.draw(rng).slope for _ in range(4000)])
    assert np.allclose(slopes.T @ slopes / 4000, 4.0 * np.eye(4), atol=5 * 4.0 * np.sqrt(2 / 4000))


def test_difference_on_one_sample_is_the_product(rng):
    problem = problems.quadratic(6, 10.0, gradient_noise=5.0, hessian_noise=1.0, rng=rng)
    x, v, sample = rng.standard_normal(6), rng.standard_normal(6), problem.draw(rng)
    difference = problem.gradient(x + v, sample) - problem.gradient(x, sample)
    assert np.allclose(difference, problem.hvp(x, v, sample), rtol=1e-12, atol=1e-12)


def test_quadratic_of_a_matrix(backend):
    h = backend.asarray(np.array([[2.0, 1.0], [1.0, 3.0]]))
    problem = problems.quadratic_of(h)
    assert np.array_equal(backend.numpy(problem.hessian(problem.start)), backend.numpy(h))
    assert not problem.stochastic
    with pytest.raises(ValueError, match=r"`hessian` must have shape \(n, n\), got \(2, 1\)"):
        problems.quadratic_of(h[:, :1])


def test_hilbert_is_scipys():
    problem = problems.hilbert(6)
    hessian = problem.hessian(problem.start)
    np.testing.assert_allclose(hessian, scipy.linalg.hilbert(6), rtol=4 * 2.0**-52)


def test_same_seed_same_problem():
    one, two = problems.quadratic(5, rng=3), problems.quadratic(5, rng=np.random.default_rng(3))
    assert np.array_equal(one.solution, two.solution)
    assert not np.array_equal(one.solution, problems.quadratic(5, rng=4).solution)


# -- logistic regression -------------------------------------------------------------------------------------


def tiny_data(rng, n=9):
    return rng.standard_normal((n, 3)), np.arange(n) % 4


@pytest.mark.parametrize("batch", [None, 5])
def test_softmax_derivatives(batch, rng):
    problem = problems.softmax_regression(*tiny_data(rng), l2=0.1, batch=batch)
    assert problem.n == (3 + 1) * 4
    assert problem.stochastic == (batch is not None)
    x, v, sample = rng.standard_normal(16), rng.standard_normal(16), problem.draw(rng)
    slope = central(lambda y: problem.value(y, sample), x, v)
    assert np.isclose(slope, problem.gradient(x, sample) @ v, rtol=1e-8)
    bend = central(lambda y: problem.gradient(y, sample), x, v)
    assert np.allclose(bend, problem.hvp(x, v, sample), rtol=1e-8, atol=1e-9)
    h = problem.hessian(x, sample)
    assert np.allclose(h, h.T, atol=1e-14)
    assert np.linalg.eigvalsh(h)[0] >= 0.1 - 1e-12


def test_softmax_value_by_definition(backend, rng):
    features, labels = tiny_data(rng)
    problem = problems.softmax_regression(
        features, labels, l2=0.1, batch=4, like=backend.asarray(np.zeros(1))
    )
    x = backend.asarray(3.0 * rng.standard_normal(16))
    w = backend.numpy(x).astype(float).reshape(4, 4)
    sample = problem.draw(np.random.default_rng(1))
    rows = backend.numpy(sample)
    assert len(set(rows.tolist())) == 4
    loss = []
    for i in rows:
        z = np.append(features[i], 1.0) @ w
        loss.append(-np.log(np.exp(z[labels[i]]) / np.sum(np.exp(z))))
    expected = np.mean(loss) + 0.05 * np.sum(w * w)
    got = backend.jit(problem.value)(x, sample)
    assert got.dtype == backend.dtype
    assert np.isclose(backend.numpy(got), expected, rtol=20 * backend.eps)
    v = backend.asarray(rng.standard_normal((16, 2)))
    reference = problems.softmax_regression(features, labels, l2=0.1)
    product = backend.numpy(backend.jit(problem.hvp)(x, v))
    gradient = backend.numpy(backend.jit(problem.gradient)(x))
    host_x, host_v = w.ravel(), backend.numpy(v).astype(float)
    assert np.allclose(product, reference.hvp(host_x, host_v), rtol=50 * backend.eps, atol=50 * backend.eps)
    assert np.allclose(gradient, reference.gradient(host_x), rtol=50 * backend.eps, atol=50 * backend.eps)


def test_softmax_does_not_overflow():
    problem = problems.softmax_regression(np.array([[1.0], [-1.0]]), np.array([0, 1]), l2=1e-9)
    x = np.array([1e4, -1e4, 0.0, 0.0])
    assert np.isclose(problem.value(x), 0.5e-9 * 2e8)
    assert np.isclose(problem.value(-x), 2e4 + 0.5e-9 * 2e8)
    assert np.all(np.isfinite(problem.hvp(x, np.ones(4))))


def test_digits_against_scikit_learn(rng):
    sklearn_model = pytest.importorskip("sklearn.linear_model")
    from sklearn.datasets import load_digits

    problem = problems.digits(l2=1e-2, batch=32)
    assert problem.n == 65 * 10
    assert problem.draw(rng).shape == (32,)
    w = 0.1 * rng.standard_normal((65, 10))
    data = load_digits()
    model = sklearn_model.LogisticRegression()
    model.classes_, model.coef_, model.intercept_ = np.arange(10), w[:64].T, w[64]
    log_p = model.predict_log_proba(data.data / 16.0)
    expected = -np.mean(log_p[np.arange(1797), data.target]) + 0.005 * np.sum(w * w)
    assert np.isclose(problem.value(w.ravel()), expected, rtol=1e-12)


def test_digits_without_scikit_learn(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        problems.digits()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros(3)}, r"shapes \(N, D\) and \(N,\), got \(3,\) and \(2,\)"),
        ({"labels": np.zeros(3, int)}, r"got \(2, 3\) and \(3,\)"),
        ({"labels": np.zeros(2)}, "`labels` must be integers from 0, got float64"),
        ({"labels": np.array([0, -1])}, "`labels` must be integers from 0"),
        ({"l2": 0.0}, "`l2` must be finite and positive, got 0.0"),
        ({"batch": 3}, "`batch` must be at most the 2 rows of the data, got 3"),
        ({"batch": 0}, "`batch` must be an integer of at least 1, got 0"),
    ],
)
def test_softmax_refuses(change, message):
    arguments = {"features": np.zeros((2, 3)), "labels": np.array([0, 1]), "l2": 1e-3} | change
    with pytest.raises(ValueError, match=message):
        problems.softmax_regression(**arguments)


# -- IDX files -----------------------------------------------------------------------------------------------


def idx(array, code=0x08):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2)
LABELS = np.array([2, 0, 1], dtype=np.uint8)


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_from_files(tmp_path, zipped):
    pack = gzip.compress if zipped else bytes
    (tmp_path / "images").write_bytes(pack(idx(IMAGES)))
    (tmp_path / "labels").write_bytes(pack(idx(LABELS)))
    problem = problems.get("mnist", images=tmp_path / "images", labels=str(tmp_path / "labels"))
    assert problem.n == (4 + 1) * 3
    assert np.allclose(problem.features[:, :4], IMAGES.reshape(3, 4) / 255.0)
    assert np.all(problem.features[:, 4] == 1)
    assert np.array_equal(problem.targets, np.eye(3)[LABELS])
    assert np.isclose(problem.value(problem.start), np.log(3.0))


def test_idx_types(tmp_path):
    for code, dtype in ((0x0B, ">i2"), (0x0D, ">f4"), (0x0E, ">f8")):
        array = np.array([[1, -2, 3]], dtype=dtype)
        (tmp_path / "file").write_bytes(idx(array, code))
        got = problems.read_idx(tmp_path / "file")
        assert np.array_equal(got, array)
        assert got.dtype.isnative


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"file: is not an IDX file \(it begins with nothing\)"),
        (b"\x89PNG\r\n", "is not an IDX file .it begins with 89 50 4e 47"),
        (bytes([0, 0, 0x07, 1, 0, 0, 0, 0]), "is not an IDX file"),
        (idx(IMAGES)[:9], "is an IDX file cut off in its header, 9 of 16 bytes"),
        (idx(IMAGES)[:-1], r"must hold 28 bytes by its IDX header \(3, 2, 2\), got 27"),
        (idx(IMAGES) + b"x", "must hold 28 bytes"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-9], "file: cannot be read"),
        (gzip.compress(idx(IMAGES), mtime=0)[:12] + b"garbage" * 9, "file: cannot be read"),
    ],
)
def test_idx_refuses(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        problems.read_idx(tmp_path / "file")


def test_mnist_refuses_other_files(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx(IMAGES))
    labels.write_bytes(idx(LABELS[:2]))
    with pytest.raises(ValueError, match=r"absent: cannot be read \(No such file"):
        problems.mnist(tmp_path / "absent", labels)
    with pytest.raises(
        ValueError, match=r"labels: must hold images, unsigned bytes \(N, rows, columns\), got"
    ):
        problems.mnist(labels, images)
    with pytest.raises(ValueError, match=r"labels: must hold 3 labels, unsigned bytes, got uint8 \(2,\)"):
        problems.mnist(images, labels)


# -- tensor rank ---------------------------------------------------------------------------------------------


def test_tensor_rank_by_definition(rng):
    problem = problems.tensor_rank((2, 3, 4), 2, noise=0.1, rng=rng)
    x = rng.standard_normal(problem.n)
    a, b, c = x[:4].reshape(2, 2), x[4:10].reshape(3, 2), x[10:].reshape(4, 2)
    total = 0.0
    for i in range(2):
        for j in range(3):
            for k in range(4):
                total += 0.5 * (np.sum(a[i] * b[j] * c[k]) - problem.tensor[i, j, k]) ** 2
    assert np.isclose(problem.value(x), total, rtol=1e-13)
    assert problem.minimum is None
    assert problem.solution is None


def test_tensor_rank_hessian_has_its_null_space():
    problem = problems.tensor_rank((3, 4, 5), 2)
    eigenvalues = np.linalg.eigvalsh(problem.hessian(problem.solution))
    assert np.sum(np.abs(eigenvalues) < 1e-12 * eigenvalues[-1]) == 2 * 2


# -- names, options and bad input ----------------------------------------------------------------------------


def test_registry():
    assert set(problems.describe()) == set(problems.names())
    assert all("\n" not in line for line in problems.describe().values())
    assert problems.options("rosenbrock") == {"n": 2}
    assert problems.options("mnist")["images"] is inspect.Parameter.empty
    assert problems.options("wood") == {"n": None}
    assert repr(problems.get("beale")) == "LeastSquares('beale', n=2, minimum=0.0)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: problems.get("rosen"), r"`name` must be one of quadratic, .*tensor_rank, got 'rosen'"),
        (lambda: problems.options("rosen"), "`name` must be one of"),
        (lambda: problems.get("beale", kappa=2), "'beale' has no option `kappa`; it has n"),
        (lambda: problems.get("mnist", images="x"), "'mnist' needs the option labels"),
        (lambda: problems.get("mnist"), "'mnist' needs the options images, labels"),
        (lambda: problems.get("wood", n=6), "`n` must be a multiple of 4 for 'wood', got 6"),
        (lambda: problems.more_garbow_hillstrom("rosenbrock"), "`name` must be one of freudenstein_roth"),
        (lambda: problems.rosenbrock(1), "`n` must be an integer of at least 2, got 1"),
        (lambda: problems.rosenbrock(2.0), "`n` must be an integer of at least 2, got 2.0"),
        (lambda: problems.rosenbrock_pairs(3), "`n` must be even, got 3"),
        (lambda: problems.penalty_1(0), "`n` must be an integer of at least 1"),
        (lambda: problems.quadratic(mixing="fourier"), "`mixing` must be one of haar, reflections"),
        (lambda: problems.quadratic(gradient_noise=-1.0), "`gradient_noise` must be finite and at least 0"),
        (lambda: problems.quadratic(hessian_noise=np.nan), "`hessian_noise` must be finite"),
        (lambda: problems.tensor_rank((2, 3)), "`shape` must have three sizes, got 2"),
        (lambda: problems.tensor_rank((2, 3, 0)), "`shape` must be an integer of at least 1"),
        (lambda: problems.tensor_rank(rank=0), "`rank` must be an integer of at least 1"),
        (lambda: problems.tensor_rank(noise=-1.0), "`noise` must be finite and at least 0"),
        (
            lambda: problems.permuted(problems.rosenbrock(), [0, 0]),
            r"`order` must be a permutation of 0 ... 1",
        ),
        (lambda: problems.permuted(problems.rosenbrock(), [[0, 1]]), "`order` must be a permutation"),
    ],
)
def test_factories_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_methods_refuse(backend):
    problem = problems.rosenbrock(3, like=backend.asarray(np.zeros(1)))
    x = backend.asarray(np.zeros(3))
    with pytest.raises(ValueError, match=r"`x` must have shape \(3,\), got \(3, 1\); flatten the parameters"):
        problem.value(x[:, None])
    with pytest.raises(ValueError, match=r"`x` must have shape \(3,\), got \(2,\)"):
        problem.gradient(x[:2])
    with pytest.raises(ValueError, match=r"`v` must have shape \(3,\) or \(3, k\), got \(2,\)"):
        problem.hvp(x, x[:2])
    with pytest.raises(
        ValueError, match="`sample` must be None for 'rosenbrock', which is deterministic, got int"
    ):
        problem.value(x, 3)
    with pytest.raises(TypeError, match="`x` must be an array, got list"):
        problem.value([0.0, 0.0, 0.0])
    with pytest.raises(TypeError, match=r"`x` must be float32 or float64, got .*int"):
        problem.value(backend.asarray(np.zeros(3, dtype=np.int64)))
    assert problem.draw(np.random.default_rng(0)) is None


@pytest.mark.parametrize("name", ["quadratic", "tensor_rank", "digits", "permuted"])
def test_data_and_point_must_be_alike(name):
    inner = problems.get("rosenbrock" if name == "permuted" else name)
    problem = problems.permuted(inner, [1, 0]) if name == "permuted" else inner
    x = problem.start.astype(np.float32)
    with pytest.raises(
        TypeError, match=r"`x` must be of the library and dtype of the data of .* numpy float64, got"
    ):
        problem.value(x)
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"got torch torch.float64; make the problem with `like=x`"):
        problem.gradient(torch.asarray(problem.start))


def test_formulas_take_any_library(backend):
    problem = problems.get("wood")  # made for NumPy in float64
    value = problem.value(backend.asarray(np.asarray(problem.start)))
    assert value.dtype == backend.dtype
    assert np.isclose(backend.numpy(value), 19192.0, rtol=10 * backend.eps)


def test_like_must_be_floats(backend):
    with pytest.raises(TypeError, match=r"`like` must be float32 or float64, got .*int"):
        problems.rosenbrock(like=backend.asarray(np.zeros(1, dtype=np.int64)))
    with pytest.raises(TypeError, match=r"`like` must be an array .* or None, got list"):
        problems.rosenbrock(like=[1.0])
