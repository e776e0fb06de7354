"""SciPy's idiom: operators against dense algebra, solvers that need fewer iterations, `minimize` as typed."""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import (
    BFGS,
    Bounds,
    LinearConstraint,
    OptimizeResult,
    OptimizeWarning,
    basinhopping,
    minimize,
    rosen,
    rosen_der,
    rosen_hess,
    rosen_hess_prod,
)
from scipy.sparse.linalg import LinearOperator, aslinearoperator, cg, lobpcg, minres

import psgd_core as psgd
from psgd_core.adapters.scipy import as_linear_operator, psgd_method
from psgd_core.curvature import Exact

N = 8
START = [-1.2, 1.0]
PRECONDITIONERS = [psgd.Diagonal(), psgd.XMat(), psgd.Dense(), psgd.LowRank(rank=2)]


def fitted(p, matrix, updates, *, step=0.5, dtype=np.float64, seed=1):
    """Return a state fitted online to products with `matrix`."""
    rng, n = np.random.default_rng(seed), matrix.shape[0]
    state = p.init(n, like=np.zeros(1, dtype=dtype))
    for _ in range(updates):
        v = rng.standard_normal(n)
        state = p.update(state, v.astype(dtype), (matrix @ v).astype(dtype), step=step)
    return state


def small():
    """Return a symmetric positive definite (N, N) matrix."""
    b = np.random.default_rng(7).standard_normal((N, N))
    return b @ b.T + np.eye(N)


# -- the operator --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", PRECONDITIONERS, ids=lambda p: type(p).__name__)
def test_each_operator_is_the_dense_matrix(p, dtype, rng):
    state = fitted(p, small(), 30, dtype=dtype)
    q = np.asarray(p.apply(state, np.eye(N, dtype=dtype)), dtype=np.float64)
    dense = {"P": q.T @ q, "P_inverse": np.linalg.inv(q.T @ q), "Q": q, "Q_inverse": np.linalg.inv(q)}
    x, columns = rng.standard_normal(N), rng.standard_normal((N, 3))
    for which, expected in dense.items():
        operator = as_linear_operator(p, state, which)
        assert isinstance(operator, LinearOperator)
        assert operator.shape == (N, N)
        assert operator.dtype == dtype
        bound = 10 * N * np.finfo(dtype).eps * np.linalg.cond(q) ** 2
        for got, want in [
            (operator @ x, expected @ x),
            (operator @ x[:, None], expected @ x[:, None]),
            (operator @ columns, expected @ columns),
            (operator @ np.arange(N), expected @ np.arange(N)),
            (operator @ (x + 2j * columns[:, 0]), expected @ (x + 2j * columns[:, 0])),
            (operator.rmatvec(x), expected.T @ x),
            (operator.rmatmat(columns), expected.T @ columns),
            (operator.T @ x, expected.T @ x),
            (operator.H @ columns, expected.T @ columns),
        ]:
            assert got.shape == want.shape
            assert np.linalg.norm(got - want) <= bound * np.linalg.norm(want)


def test_operators_compose_as_scipys_do(rng):
    p, a = psgd.Dense(), small()
    state = fitted(p, a, 400)
    x = rng.standard_normal(N)
    q, operator = as_linear_operator(p, state, "Q"), aslinearoperator(a)
    whitened = (q @ operator @ q.T) @ np.eye(N)  # Q A Q^T is I where P = A^{-1}
    assert np.allclose(whitened, np.eye(N), atol=0.05)
    both = as_linear_operator(p, state, "P_inverse") @ (as_linear_operator(p, state) @ x)
    assert np.allclose(both, x, rtol=1e-10, atol=1e-10)


def test_vectors_are_not_written_to_and_may_be_read_only(rng):
    p = psgd.XMat()
    operator = as_linear_operator(p, fitted(p, small(), 3))
    x = rng.standard_normal((N, 4))[:, ::2]
    before = x.copy()
    x.flags.writeable = False
    operator @ x
    assert np.array_equal(x, before)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("library", ["numpy", "torch", "jax.numpy"])
@pytest.mark.parametrize("p", [*PRECONDITIONERS, psgd.LowRank(rank=0)], ids=repr)
def test_products_are_the_callers_own(library, p, rng):
    """Solvers write into what they get, and go on writing into what they gave."""
    like = pytest.importorskip(library).zeros(1)
    state = p.init(N, like=like, scale=1.0)
    for which in ("P", "P_inverse", "Q", "Q_inverse"):
        operator = as_linear_operator(p, state, which, via_host=True)
        x = rng.standard_normal(N).astype(operator.dtype)
        x.flags.writeable = False
        first = operator.matvec(x)
        kept = first.copy()
        second = operator.matvec(2 * x)
        assert not np.shares_memory(first, x)
        np.testing.assert_array_equal(first, kept)
        first[:] = second[:] = 99  # no buffer of anybody else's
        np.testing.assert_array_equal(operator.matvec(x), kept)
        x.flags.writeable = True
        x[:] = 0
        np.testing.assert_array_equal(operator.matvec(x), 0)


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">f8", "g", "i4", ">i2", "?"])
def test_vectors_of_other_dtypes_are_converted(dtype):
    p = psgd.XMat()
    operator = as_linear_operator(p, fitted(p, small(), 3))
    x = np.arange(N).astype(dtype)
    np.testing.assert_array_equal(operator @ x, operator @ x.astype(float))
    assert (operator @ x).dtype == np.float64


@pytest.mark.parametrize(
    "x", [np.ma.array(np.ones(N)), np.array(["1"] * N), np.ones(N, dtype=object), np.zeros(N, dtype="m8[s]")]
)
def test_vectors_that_are_no_numbers_are_refused(x):
    p = psgd.XMat()
    with pytest.raises(TypeError, match="`x` must be an array of numbers, got "):
        as_linear_operator(p, p.init(N, like=np.zeros(1))).matvec(x)


def test_states_of_other_libraries_need_asking(backend, rng):
    p = psgd.LowRank(rank=2)
    x = rng.standard_normal(N)
    state = p.init(N, like=backend.asarray(np.zeros(1)), scale=2.0)
    if not backend.name.startswith("numpy"):
        with pytest.raises(TypeError, match=r"`state` must hold NumPy arrays, got .*via_host=True"):
            as_linear_operator(p, state)
    operator = as_linear_operator(p, state, via_host=True)
    on_numpy = p.init(N, like=np.zeros(1), scale=2.0)
    y = operator @ x
    assert isinstance(y, np.ndarray)
    assert y.dtype == operator.dtype == np.dtype(backend.dtype_name)
    assert np.allclose(y, p.matrix(on_numpy) @ x, rtol=50 * backend.eps, atol=50 * backend.eps)


def test_wrong_arguments_of_the_operator():
    p = psgd.XMat()
    state = p.init(N, like=np.zeros(1))
    with pytest.raises(ValueError, match=r"`which` must be one of 'P', .*got 'H'"):
        as_linear_operator(p, state, "H")
    with pytest.raises(TypeError, match=r"`preconditioner` must be.*got <class .*pass the instance"):
        as_linear_operator(psgd.XMat, state)
    with pytest.raises(ValueError, match=r"[Dd]imension mismatch"):  # capital since SciPy 1.18
        as_linear_operator(p, state) @ np.zeros(N + 1)


# -- fewer iterations ------------------------------------------------------------------------------------


def layered_diffusion(m=16, across=0.1):
    """Return -div(c grad u) on an m x m grid of layers, strong along them, with a line's unknowns as orbits.

    Conductivities vary over two orders of magnitude from layer to layer and along them; kappa is 1e4.
    """
    rng = np.random.default_rng(0)

    def difference(c):
        return sp.diags([c[:-1] + c[1:], -c[1:-1], -c[1:-1]], [0, 1, -1])

    along = 10 ** rng.uniform(-1, 1, m + 1)
    layers = 10 ** rng.uniform(-1, 1, m)
    a = sp.kron(sp.diags(layers), difference(along)) + across * sp.kron(difference(np.ones(m + 1)), sp.eye(m))
    i = np.arange(m * m)
    return a.tocsr(), psgd.PermutationSubgroup.from_generators([i // m * m + (i + 1) % m])


def ridge_on_digits(penalty=0.01):
    """Return the normal equations of ridge regression on scikit-learn's digits; kappa is 2e6."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x = x / 16
    return x.T @ x + penalty * np.eye(64), x.T @ (y == 3)


def iterations(solver, a, b, m=None):
    """Return how many iterations `solver` takes to 1e-8, after checking that it got there."""
    count = []
    x, info = solver(a, b, M=m, rtol=1e-8, maxiter=5000, callback=count.append)
    assert info == 0
    if solver is cg:  # minres measures in the norm of M
        assert np.linalg.norm(a @ x - b) <= 1.1e-8 * np.linalg.norm(b)
    return len(count)


def test_fewer_iterations_on_layered_diffusion():
    a, lines = layered_diffusion()
    b = np.ones(a.shape[0])
    p = psgd.Sparse(lines)
    m = as_linear_operator(p, fitted(p, a, 300))
    # the exact minimiser over the group, ((A^2)_OO)^{-1/2} on each line, is where the fit is going
    square, blocks = (a @ a).toarray(), []
    for k in range(0, 256, 16):
        w, u = np.linalg.eigh(square[k : k + 16, k : k + 16])
        blocks.append((u / np.sqrt(w)) @ u.T)
    limit = iterations(cg, a, b, sp.block_diag(blocks))
    plain, jacobi = iterations(cg, a, b), iterations(cg, a, b, sp.diags(1 / a.diagonal()))
    ours = iterations(cg, a, b, m)
    assert limit < ours < 2 * limit
    assert 5 * ours < plain
    assert 2 * ours < jacobi
    assert 4 * iterations(minres, a, b, m) < iterations(minres, a, b)


def test_fewer_iterations_on_ridge_regression():
    a, b = ridge_on_digits()
    p = psgd.Dense()
    m = as_linear_operator(p, fitted(p, a, 1000, step=0.9))
    assert 2 * iterations(cg, a, b, m) < iterations(cg, a, b)


def test_a_single_precision_state_serves_a_double_precision_system():
    a, lines = layered_diffusion()
    p = psgd.Sparse(lines)
    m = as_linear_operator(p, fitted(p, a, 100, dtype=np.float32))
    assert m.dtype == np.float32
    b = np.ones(a.shape[0])
    assert 3 * iterations(cg, a, b, m) < iterations(cg, a, b)


@pytest.mark.filterwarnings("ignore:Exited")
def test_lobpcg_is_ahead_after_forty_iterations():
    a, lines = layered_diffusion()
    p = psgd.Sparse(lines)
    exact = np.linalg.eigvalsh(a.toarray())[:3]
    start = np.random.default_rng(3).standard_normal((a.shape[0], 3))

    def error(m):
        values, _ = lobpcg(a, start.copy(), M=m, largest=False, tol=1e-6, maxiter=40)
        return np.max(np.abs(np.sort(values) / exact - 1))

    ours = error(as_linear_operator(p, fitted(p, a, 300)))
    assert ours < 1e-4
    assert 1e3 * ours < min(error(None), error(sp.diags(1 / a.diagonal())))


# -- minimize(method=psgd_method) --------------------------------------------------------------------------


def solved(result, atol=1e-9):
    assert isinstance(result, OptimizeResult)
    assert result.success
    assert result.status == 0
    assert np.allclose(result.x, 1.0, rtol=0, atol=atol)
    return result


def test_as_a_scipy_user_types_it():
    result = solved(
        minimize(rosen, START, jac=rosen_der, hessp=rosen_hess_prod, method=psgd_method, tol=1e-11)
    )
    assert result.fun < 1e-20
    assert np.array_equal(result.jac, rosen_der(result.x))
    assert result.njev <= 200
    assert result.nhev <= result.njev


def value_and_gradient(x):
    return rosen(x), rosen_der(x)


@pytest.mark.parametrize(
    "given",
    [
        {"jac": rosen_der},
        {"jac": rosen_der, "hess": "2-point"},
        {"jac": rosen_der, "hess": "3-point"},
        {"jac": rosen_der, "hess": rosen_hess},
        {"jac": rosen_der, "hess": lambda x: aslinearoperator(rosen_hess(x))},
        {"jac": rosen_der, "hess": lambda x: sp.csr_matrix(rosen_hess(x))},
        {"jac": rosen_der, "hess": rosen_hess, "hessp": rosen_hess_prod},
        {"jac": True},
        {"jac": True, "hessp": rosen_hess_prod},
    ],
    ids=range(9),
)
def test_the_ways_to_give_derivatives(given):
    fun = value_and_gradient if given["jac"] is True else rosen
    result = solved(minimize(fun, START, method=psgd_method, tol=1e-9, **given), atol=1e-6)
    # differences that are asked for are taken in each step, those by default in every tenth
    each = {"2-point": 1, "3-point": 2}.get(given.get("hess"))
    gradients = 0 if "hess" in given or "hessp" in given else -(-result.nit // 10)
    if each is not None:
        gradients = each * result.nit
    assert abs(result.njev - result.nit - gradients) <= 2


def test_hess_goes_before_hessp_as_in_scipy():
    def never(x, v):
        raise AssertionError

    minimize(
        rosen, START, jac=rosen_der, hess=rosen_hess, hessp=never, method=psgd_method, options={"maxiter": 3}
    )


def test_constant_hessians_of_every_kind():
    a, b = small(), np.arange(N) / N
    expected = np.linalg.solve(a, b)
    for hess in (a, sp.csr_array(a), aslinearoperator(a)):
        result = minimize(
            lambda x: x @ a @ x / 2 - b @ x,
            np.zeros(N),
            jac=lambda x: a @ x - b,
            hess=hess,
            method=psgd_method,
            tol=1e-10,
        )
        assert result.success
        assert np.allclose(result.x, expected, rtol=0, atol=1e-8)


def test_args_reach_every_function():
    def fun(x, centre, scale):
        return scale * np.sum((x - centre) ** 2) / 2

    def jac(x, centre, scale):
        return scale * (x - centre)

    def hessp(x, v, centre, scale):
        return scale * v

    args = np.asarray([2.0, 3.0]), 5.0
    for given in ({"hessp": hessp}, {"hess": lambda x, centre, scale: scale * np.eye(2)}, {}):
        result = minimize(fun, [0.0, 0.0], args=args, jac=jac, method=psgd_method, **given)
        assert np.allclose(result.x, [2.0, 3.0], rtol=0, atol=1e-7)


def test_tol_gtol_and_maxiter():
    run = functools.partial(minimize, rosen, START, jac=rosen_der, hessp=rosen_hess_prod, method=psgd_method)
    for tol in (1e-3, 1e-10):
        for result in (run(tol=tol), run(options={"gtol": tol})):
            assert result.success
            assert np.max(np.abs(result.jac)) <= tol
    stopped = run(options={"maxiter": 5})
    assert (stopped.nit, stopped.success, stopped.status) == (5, False, 1)


def test_settings_by_options_or_by_partial():
    given = {"preconditioner": psgd.XMat(), "momentum": 0.1, "rng": 3}
    run = functools.partial(minimize, rosen, START, jac=rosen_der, hessp=rosen_hess_prod)
    one = run(method=psgd_method, options=given)
    other = run(method=functools.partial(psgd_method, **given))
    assert np.array_equal(one.x, other.x)
    assert isinstance(one.optimizer.preconditioner, psgd.XMat)
    assert one.optimizer.momentum == 0.1
    last = run(method=functools.partial(psgd_method, **given), options={"momentum": 0.2})
    assert last.optimizer.momentum == 0.2


def test_hess_inv_is_the_fitted_preconditioner():
    a = small()
    result = minimize(
        lambda x: x @ a @ x / 2,
        np.ones(N),
        jac=lambda x: a @ x,
        hess=a,
        method=psgd_method,
        tol=0.0,
        options={"maxiter": 600, "preconditioner": psgd.Dense(), "lr": 1e-3, "clip": None, "source": Exact()},
    )
    assert isinstance(result.hess_inv, LinearOperator)
    assert np.allclose(result.hess_inv @ np.eye(N), np.linalg.inv(a), rtol=0, atol=1e-6)


def test_both_forms_of_the_callback():
    points, results = [], []

    def modern(intermediate_result):
        results.append(intermediate_result)

    run = functools.partial(minimize, rosen, START, jac=rosen_der, method=psgd_method, options={"maxiter": 7})
    run(callback=points.append)
    run(callback=modern)
    assert len(points) == len(results) == 7
    for x, result in zip(points, results, strict=True):
        assert isinstance(x, np.ndarray)
        assert np.array_equal(x, result.x)
        assert result.fun == rosen(x)


def test_a_callback_may_stop_the_run():
    def stop(intermediate_result):
        if intermediate_result.nit == 4:
            raise StopIteration

    result = minimize(rosen, START, jac=rosen_der, callback=stop, method=psgd_method)
    assert (result.status, result.success, result.nit) == (99, False, 4)


def test_an_exception_in_a_callback_goes_through():
    def fail(xk):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        minimize(rosen, START, jac=rosen_der, callback=fail, method=psgd_method)


def test_disp_prints_a_summary(capsys):
    minimize(rosen, START, jac=rosen_der, method=psgd_method)
    assert capsys.readouterr().out == ""
    result = minimize(rosen, START, jac=rosen_der, method=psgd_method, options={"disp": True})
    out = capsys.readouterr().out
    assert result.message in out
    assert f"Gradient evaluations: {result.njev}" in out


def test_unknown_options_are_named():
    with pytest.warns(OptimizeWarning, match="Unknown solver options: maxcor, xrtol"):
        minimize(
            rosen, START, jac=rosen_der, method=psgd_method, options={"xrtol": 0, "maxcor": 3, "maxiter": 2}
        )


def test_not_finite_is_said():
    options = {"clip": None, "nonfinite": "stop"}
    with np.errstate(all="ignore"):
        result = minimize(
            lambda x: np.log(x).sum(), [1.0], jac=lambda x: 1 / x, method=psgd_method, options=options
        )
    assert result.status == 3
    assert not result.success
    assert "`fun` returned" in result.message
    assert np.isfinite(result.x).all()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"bounds": [(0, 2), (0, 2)]}, r"`bounds` must be None or infinite, got \[.*PSGD has no bounds"),
        ({"bounds": Bounds([0, 0], [2, 2])}, "`bounds` must be None or infinite, got Bounds"),
        ({"constraints": {"type": "eq", "fun": np.sum}}, "`constraints` must be empty: PSGD has none"),
        ({"constraints": [LinearConstraint(np.eye(2), 0, 1)]}, "`constraints` must be empty"),
        ({"constraints": LinearConstraint(np.eye(2), 0, 1)}, "`constraints` must be empty"),
        ({"hess": BFGS()}, "`hess` must be a callable, a matrix.*got BFGS"),
        ({"hess": "cs"}, "`hess` must be one of '2-point', '3-point', got 'cs'; or give a callable"),
    ],
)
def test_what_psgd_cannot_do(given, match):
    with pytest.raises(ValueError, match=match):
        minimize(rosen, START, method=psgd_method, **({"jac": rosen_der} | given))


def test_inside_basinhopping():
    def fun(x):
        return np.sum(x**2 / 10 + 1 - np.cos(3 * x)), x / 5 + 3 * np.sin(3 * x)

    # from basin to basin, and only lower ones are kept: no random numbers, whose seed SciPy 1.15 renamed
    result = basinhopping(
        fun,
        [2.3],
        niter=3,
        T=0.0,
        take_step=lambda x: x - 2.0,
        minimizer_kwargs={"method": psgd_method, "jac": True},
    )
    assert np.allclose(result.x, 0.0, rtol=0, atol=1e-7)


# -- imports -------------------------------------------------------------------------------------------------


def test_scipys_submodules_are_imported_when_asked_for():
    code = (
        "import sys, psgd_core, psgd_core.adapters\n"
        "assert not [m for m in ('scipy.sparse', 'scipy.optimize', 'scipy.linalg') if m in sys.modules]\n"
        "assert dir(psgd_core.adapters) and callable(psgd_core.adapters.scipy.psgd_method)\n"
        "try: psgd_core.adapters.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=".")
