"""What SciPy's users type without looking: limits, bounds of None, one variable, names, pickles."""

from __future__ import annotations

import functools
import pickle
import warnings

import numpy as np
import pytest
from scipy.optimize import Bounds, rosen, rosen_der, rosen_hess
from scipy.optimize import minimize as scipys
from scipy.sparse.linalg import LinearOperator, cg

import psgd_core as psgd
from psgd_core import curvature
from psgd_core.adapters.scipy import as_linear_operator, psgd_method

START = [-1.2, 1.0]
OURS = {"core": psgd.minimize, "method": functools.partial(scipys, method=psgd_method)}
both = pytest.mark.parametrize("minimize", OURS.values(), ids=OURS)


def well(x):
    """A function of any number of variables whose minimum, at 1 in all of them, is not 0."""
    return float(np.sum(np.cosh(x - 1)) + 0.1 * (np.sum(x) - len(x)) ** 2)


# -- gradients by differences ----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("jac", [None, False, "2-point"])
def test_a_function_alone_is_minimised(minimize, jac):
    calls = []

    def fun(x):
        calls.append(x.copy())
        return rosen(x)

    result = minimize(fun, START, jac=jac)
    assert result.success
    np.testing.assert_allclose(result.x, 1.0, rtol=0, atol=1e-4)
    assert result.nfev == len(calls) == 3 * result.njev  # value, and one beside it for each variable


@pytest.mark.parametrize(("jac", "atol"), [("2-point", 1e-6), ("3-point", 1e-8)])
@pytest.mark.parametrize("shape", [(6,), (2, 3), ()])
def test_gradients_are_differences_of_values_in_the_shape_of_x(shape, jac, atol):
    x0 = np.full(shape, 0.3)
    result = psgd.minimize(lambda x: well(x.reshape(-1)), x0, jac=jac, maxiter=0)
    exact = np.sinh(x0 - 1) + 0.2 * (x0.sum() - x0.size)
    assert result.jac.shape == shape
    np.testing.assert_allclose(result.jac, exact, rtol=0, atol=atol)
    assert result.nfev == 1 + x0.size * (1 if jac == "2-point" else 2)


def test_trees_samples_and_arguments_are_differenced_too():
    def fun(x, z, scale):
        return scale * (np.sum((x["a"] - z) ** 2) + (x["b"] - 1.0) ** 2)

    x0 = {"a": np.zeros(3), "b": np.zeros(())}
    settings = {"preset": "stochastic", "sample": lambda rng: rng.normal(2.0, 0.1), "maxiter": 300}
    result = psgd.minimize(fun, x0, (3.0,), **settings)
    np.testing.assert_allclose(result.x["a"], 2.0, atol=0.1)
    np.testing.assert_allclose(result.x["b"], 1.0, atol=0.1)


def test_the_function_may_write_to_what_it_gets():
    def writing(x):
        value = rosen(x)
        x[:] = np.nan
        return value

    plain, wrote = (psgd.minimize(f, START) for f in (rosen, writing))
    np.testing.assert_array_equal(plain.x, wrote.x)


def test_products_are_differences_that_know_of_the_noise():
    result = psgd.minimize(rosen, START, maxiter=1)
    assert result.optimizer.source.probes == curvature.Forward(noise=2.0**-26)
    kept = psgd.minimize(rosen, START, maxiter=1, source=curvature.Forward(noise=1e-3))
    assert kept.optimizer.source == curvature.Forward(noise=1e-3)
    exact = psgd.minimize(rosen, START, hess=rosen_hess, maxiter=1)
    assert exact.optimizer.source.probes == curvature.Exact()


def test_noise_sets_the_step_of_differences():
    """A gradient with an error of 1e-6: the products are as exact as theory says, and useless without."""
    rng, n, eta = np.random.default_rng(0), 50, 1e-6
    c = rng.uniform(0.5, 2, n)

    def noisy(x):
        return np.sinh(c * x) * (1 + eta * np.sin(1e12 * x))

    x, v = rng.standard_normal(n), rng.standard_normal(n)
    exact = c * np.cosh(c * x) * v
    functions = curvature.Functions(noisy)

    def error(source):
        probe, h = source.pairs(functions, x, noisy(x), v)
        return np.linalg.norm(h - exact * probe / v) / np.linalg.norm(exact)

    assert error(curvature.Forward(noise=eta)) < 0.02
    assert error(curvature.Central(noise=eta)) < 0.002
    assert error(curvature.Forward()) > 1
    with pytest.raises(ValueError, match=r"`noise` must lie in \(0, 1\), got 1.0"):
        curvature.Forward(noise=1)


def test_a_run_ends_where_differences_say_no_more():
    scales = np.logspace(0, 4, 20)  # the error of the gradient is above any tolerance of use
    result = psgd.minimize(lambda x: float(scales @ x**2) / 2 + 1, np.ones(20))
    assert result.fun - 1 < 1e-10
    assert result.nit < 500
    assert result.status in (0, 2)
    if result.status == 2:
        assert "no longer changes the function" in result.message or "no longer changes x" in result.message


def test_no_warnings_where_the_function_ends():
    def fun(x):
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.sum(x - np.log(x)))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = psgd.minimize(fun, [0.01, 30.0])
    assert result.success
    np.testing.assert_allclose(result.x, 1.0, atol=1e-4)


def test_what_has_no_differences_is_said(backend):
    if backend.name.startswith("numpy"):
        pytest.skip("NumPy has them")
    with pytest.raises(ValueError, match="differences of values are for NumPy arrays only"):
        psgd.minimize(lambda x: (x**2).sum(), backend.asarray(np.ones(3)))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"jac": "4-point"}, ValueError, "`jac` must be one of '2-point', '3-point', got '4-point'"),
        ({"jac": 3}, TypeError, "`jac` must be callable, True if"),
        ({"jac": "2-point", "grad": rosen_der}, ValueError, "`grad` and `jac` must not both be given"),
        ({"jac": 3, "grad": rosen_der}, ValueError, "`grad` and `jac` must not both be given"),
    ],
)
def test_wrong_gradients(given, error, message):
    with pytest.raises(error, match=message):
        psgd.minimize(rosen, START, **given)
    with pytest.raises(ValueError, match="`fun` or `grad` must be given, got None for both"):
        psgd.minimize(None, START)


# -- limits, reports, bounds -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["maxfun", "maxfev"])
@pytest.mark.parametrize("jac", [rosen_der, None])
def test_evaluations_are_limited(name, jac):
    result = scipys(rosen, START, jac=jac, method=psgd_method, options={name: 10})
    assert (result.status, result.success) == (1, False)
    assert result.message == "Maximum number of function evaluations has been exceeded."
    assert 10 <= result.nfev < 10 + 6  # an iteration's own are done first
    core = psgd.minimize(rosen, START, jac=jac, maxfun=10)
    np.testing.assert_array_equal(core.x, result.x)
    assert psgd.minimize(None, START, grad=rosen_der, maxfun=10, preset="stochastic").njev >= 10


def test_iterations_are_still_what_ends_a_run():
    result = psgd.minimize(rosen, START, jac=rosen_der, maxiter=5, maxfun=1000)
    assert result.message == "Maximum number of iterations has been exceeded."


def test_both_report_alike(capsys):
    printed = []
    for minimize, given in ((psgd.minimize, {"disp": True}), (OURS["method"], {"options": {"disp": True}})):
        result = minimize(rosen, START, jac=rosen_der, **given)
        printed.append(capsys.readouterr().out)
        assert printed[-1].startswith(result.message)
    assert printed[0] == printed[1]
    psgd.minimize(rosen, START, jac=rosen_der)
    assert capsys.readouterr().out == ""


INFINITE = [
    [(None, None)] * 2,
    [(-np.inf, np.inf), (None, None)],
    [[None, np.inf]] * 2,
    np.array([[-np.inf, np.inf]] * 2),
    Bounds(),
    Bounds([-np.inf] * 2, [np.inf] * 2),
]


@both
@pytest.mark.parametrize("bounds", INFINITE, ids=range(len(INFINITE)))
def test_bounds_that_bound_nothing_are_accepted(minimize, bounds):
    free = minimize(rosen, START, jac=rosen_der)
    np.testing.assert_array_equal(minimize(rosen, START, jac=rosen_der, bounds=bounds).x, free.x)


@both
@pytest.mark.parametrize(
    "bounds",
    [[(0, None)] * 2, [(None, None), (None, 5.0)], Bounds([-np.inf, 0], np.inf), [(np.nan, None)] * 2],
)
def test_bounds_are_refused_with_a_way_out(minimize, bounds):
    with pytest.raises(ValueError, match=r"`bounds` must be None or infinite, got .*transform x.*L-BFGS-B"):
        minimize(rosen, START, jac=rosen_der, bounds=bounds)


# -- one variable, and numbers of every kind -------------------------------------------------------------

SCALARS = {
    "float": float,
    "NumPy's": np.float64,
    "0-d": np.asarray,
    "(1,)": lambda g: np.asarray([g]),
    "(1, 1)": lambda g: np.asarray([[g]]),
    "list": lambda g: [g],
}


@both
@pytest.mark.parametrize("make", SCALARS.values(), ids=SCALARS)
@pytest.mark.parametrize("x0", [0.5, [0.5], np.float64(0.5), np.array([0.5]), np.int64(0)], ids=repr)
def test_derivatives_of_one_variable_may_be_numbers(minimize, x0, make):
    def at(function):
        return lambda x, *v: make(float(np.ravel(function(np.ravel(x)[0], *map(np.ravel, v)))[0]))

    given = {"jac": at(lambda x: np.sinh(x - 1))}
    hessians = ({}, {"hess": at(lambda x: np.cosh(x - 1))})
    for more in hessians:
        result = minimize(lambda x: float(np.cosh(np.ravel(x)[0] - 1)), x0, **given, **more)
        assert result.success
        assert abs(float(np.ravel(result.x)[0]) - 1) < 1e-7


@both
@pytest.mark.parametrize("make", [list, tuple, np.asarray], ids=["list", "tuple", "array"])
def test_rows_of_numpys_numbers(minimize, make):
    result = minimize(
        rosen,
        [np.float64(-1.2), np.float32(1.0)],
        jac=lambda x: make(list(rosen_der(x))),
        hess=lambda x: make([make(list(row)) for row in rosen_hess(x)]),
    )
    assert result.success
    np.testing.assert_allclose(result.x, 1.0, atol=1e-6)
    with pytest.raises(TypeError, match="`hessian` must hold numbers in rows"):
        minimize(rosen, START, jac=rosen_der, hess=lambda x: [[1.0, 2.0], [1.0]])


# -- names and classes of preconditioners ----------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("dense", psgd.Dense),
        ("Dense", psgd.Dense),
        (psgd.Dense, psgd.Dense),
        (psgd.LowRank, psgd.LowRank),
        ("low_rank", psgd.LowRank),
        ("low-rank", psgd.LowRank),
        ("x-mat", psgd.XMat),
        (psgd.Kronecker, psgd.Kronecker),
        ("blocks", psgd.Blocks),
    ],
)
def test_a_name_or_a_class_stands_for_an_instance(minimize, given, expected):
    name = {"preconditioner": given}
    settings = name if minimize is psgd.minimize else {"options": name}
    result = minimize(well, np.zeros(4), **settings)
    assert type(result.optimizer.preconditioner) is expected
    np.testing.assert_allclose(result.x, 1.0, atol=1e-4)


def test_kronecker_gets_the_shapes_of_x0():
    run = functools.partial(psgd.minimize, preconditioner="kronecker", maxiter=1)
    assert run(lambda x: well(x.reshape(-1)), np.zeros((2, 3))).optimizer.preconditioner.shape == (2, 3)
    blocks = run(lambda x: well(x[0].reshape(-1)) + well(x[1]), [np.zeros((2, 3)), np.zeros(2)])
    kinds = [type(p) for _, p in blocks.optimizer.preconditioner.parts]
    assert kinds == [psgd.Kronecker, psgd.Diagonal]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("newton", ValueError, "`preconditioner` must be one of 'dense', .* got 'newton'"),
        (psgd.Sparse, TypeError, r"got Sparse without subgroup; make one: Sparse\(subgroup\)"),
        (np.eye(2), TypeError, r"must be a Preconditioner, got ndarray .*psgd_core.Dense\(\)"),
        (dict, TypeError, "must be a Preconditioner, got <class 'dict'>"),
    ],
)
def test_names_that_are_none(given, error, message):
    for make in (lambda: psgd.minimize(rosen, START, preconditioner=given), lambda: psgd.PSGD(given)):
        with pytest.raises(error, match=message):
            make()


@pytest.mark.parametrize("name", ["source", "probes", "replay", "clip"])
def test_other_classes_are_to_be_called(name):
    kinds = {"source": curvature.Forward, "probes": curvature.Gaussian, "replay": psgd.Replay}
    kind = kinds.get(name, psgd.descent.TrustRadius)
    with pytest.raises(TypeError, match=rf"call it: {kind.__name__}\(\)"):
        psgd.PSGD(**{name: kind})


# -- pickles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["numpy", "torch", "jax.numpy"])
@pytest.mark.parametrize("which", ["P", "P_inverse", "Q", "Q_inverse"])
def test_operators_can_be_pickled(which, library, rng):
    like = pytest.importorskip(library).zeros(1)
    p = psgd.LowRank(2)
    operator = as_linear_operator(p, p.init(6, like=like, scale=2.0), which, via_host=True)
    x = rng.standard_normal(6)
    for one in (operator, operator.T, operator.H):
        copy = pickle.loads(pickle.dumps(one))
        assert isinstance(copy, LinearOperator)
        np.testing.assert_array_equal(copy @ x, one @ x)
        np.testing.assert_array_equal(copy.rmatvec(x), one.rmatvec(x))
        assert repr(copy) == repr(one)
    assert f"6x6 {which} of LowRank(rank=2)" in repr(operator)


def test_results_can_be_pickled_and_gone_on_from():
    run = functools.partial(scipys, rosen, START, jac=rosen_der, method=psgd_method)
    result = run(options={"maxiter": 10})
    copy = pickle.loads(pickle.dumps(result))
    assert copy.keys() == result.keys()
    np.testing.assert_array_equal(copy.hess_inv @ np.eye(2), result.hess_inv @ np.eye(2))
    rest = run(options={"resume": copy.progress})
    np.testing.assert_array_equal(rest.x, run().x)


def test_a_pickled_operator_serves_a_solver(rng):
    a = np.diag(np.logspace(0, 3, 30))
    p = psgd.Diagonal()
    state = p.init(30, like=np.zeros(1))
    for _ in range(100):
        v = rng.standard_normal(30)
        state = p.update(state, v, a @ v, step=0.5)
    m = pickle.loads(pickle.dumps(as_linear_operator(p, state)))
    count = []
    _, info = cg(a, np.ones(30), M=m, rtol=1e-8, callback=count.append)
    assert info == 0
    assert len(count) < 15
