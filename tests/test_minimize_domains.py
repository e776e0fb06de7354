"""Functions that are not finite everywhere, and those with nothing to find: answers, and the right ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

import psgd_core as psgd
from psgd_core import curvature as cv
from psgd_core.adapters.scipy import psgd_method
from psgd_core.descent import clips

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class LogBarrier:
    """``sum x - log x``, least at 1."""

    start, solution = np.array([5.0, 8.0, 20.0]), 1.0

    @staticmethod
    def value(x):
        return np.sum(x - np.log(x))

    @staticmethod
    def gradient(x):
        return 1 - 1 / x  # finite, and wrong, where x < 0

    @staticmethod
    def hvp(x, v):
        return v / x**2


class Circle:
    """``-sqrt(1 - |x|^2)``, least at 0, NaN outside the unit circle, with no slope to follow at its edge."""

    start, solution = np.array([0.6, 0.7999]), 0.0

    @staticmethod
    def value(x):
        return -np.sqrt(1 - x @ x)

    @staticmethod
    def gradient(x):
        return x / np.sqrt(1 - x @ x)

    @staticmethod
    def hvp(x, v):
        s = np.sqrt(1 - x @ x)
        return v / s + x * (x @ v) / s**3


class Entropy:
    """``sum x log x + (1 - x) log(1 - x) - x log 3``: two edges, least at 3/4; started next to both."""

    start, solution = np.array([1e-4, 0.5, 1 - 1e-4]), 0.75

    @staticmethod
    def value(x):
        return np.sum(x * np.log(x) + (1 - x) * np.log(1 - x) - x * np.log(3))

    @staticmethod
    def gradient(x):
        return np.log(x) - np.log(1 - x) - np.log(3)

    @staticmethod
    def hvp(x, v):
        return v / (x * (1 - x))


PROBLEMS = [LogBarrier, Circle, Entropy]


def outside(value, what):
    """Return the function with another value, in place of NaN, where it is not finite."""

    def f(x):
        found = value(x)
        return found if math.isfinite(found) else what

    return f


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("what", [math.inf, math.nan, -math.inf])
@pytest.mark.parametrize("clip", [{}, {"clip": None}, {"clip": clips.AdaptiveNorm()}], ids=str)
@pytest.mark.parametrize("source", [cv.Exact(), cv.Forward(), cv.Central()], ids=lambda s: type(s).__name__)
def test_steps_out_of_the_domain_are_shortened(problem, what, clip, source):
    value = outside(problem.value, what)
    result = psgd.minimize(
        value, problem.start, grad=problem.gradient, hvp=problem.hvp, source=source, **clip
    )
    assert result.success, result.message
    np.testing.assert_allclose(result.x, problem.solution, atol=1e-6)
    assert math.isfinite(result.fun)
    assert np.all(np.isfinite(result.history["fun"]))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_through_scipy_as_bfgs(problem):
    value = outside(problem.value, math.inf)
    for method in (psgd_method, "BFGS"):
        result = scipy_minimize(value, problem.start, jac=problem.gradient, method=method, tol=1e-7)
        np.testing.assert_allclose(result.x, problem.solution, atol=1e-5)


def test_some_points_were_outside():
    """The tests above would pass of themselves if no step ever left the domain."""
    for clip in ({}, {"clip": None}, {"clip": clips.AdaptiveNorm()}):
        result = psgd.minimize(LogBarrier.value, LogBarrier.start, grad=LogBarrier.gradient, **clip)
        assert int(result.progress.state.skipped) > 3


@pytest.mark.parametrize("where", ["value", "gradient", "both"])
@pytest.mark.parametrize("clip", [{}, {"clip": None}], ids=str)
def test_half_the_way_back_and_no_farther(where, clip):
    """With lr = 1 and P = I a step leads from 3 to -9, and the domain ends at 0: -3 and 0 are outside too."""
    seen = []

    def fun(x):
        seen.append(float(x[0]))
        return math.nan if x[0] <= 0 and where != "gradient" else float(x[0])

    def grad(x):
        return np.array([math.nan if x[0] <= 0 and where != "value" else 12.0])

    p = psgd.Diagonal(damping=0.0)
    psgd.minimize(fun, [3.0], grad=grad, hvp=lambda x, v: v, preconditioner=p, maxiter=4, **clip)
    np.testing.assert_allclose(seen, [3.0, -9.0, -3.0, 0.0, 1.5], atol=1e-12)


def test_on_every_library(backend):
    xp = backend.xp
    start = backend.asarray(LogBarrier.start)
    result = psgd.minimize(
        lambda x: xp.sum(x - xp.log(x)),
        start,
        grad=lambda x: 1 - 1 / x,
        hvp=lambda x, v: v / x**2,
        clip=None,
        tol=1e-4,
    )
    assert result.success, result.message
    assert result.x.dtype == start.dtype
    np.testing.assert_allclose(backend.numpy(result.x), 1.0, atol=1e-3)
    assert int(result.progress.state.skipped) > 0


@pytest.mark.parametrize("settings", [{}, {"clip": None}, {"nonfinite": "stop"}], ids=str)
def test_a_start_outside_is_said(settings):
    result = psgd.minimize(LogBarrier.value, [-1.0, 2.0], grad=LogBarrier.gradient, **settings)
    assert (result.status, result.success, result.nit) == (3, False, 0)
    assert result.message == (
        "`fun` returned nan at iteration 0; start where the function and its gradient are finite."
    )
    np.testing.assert_array_equal(result.x, [-1.0, 2.0])
    np.testing.assert_array_equal(result.jac, [2.0, 0.5])
    assert math.isnan(result.fun)


@pytest.mark.parametrize("settings", [{}, {"clip": None}], ids=str)
def test_a_function_that_is_finite_nowhere_else_ends_the_run(settings):
    def fun(x):
        return x @ x if np.all(x == 2) else math.inf

    result = psgd.minimize(fun, [2.0, 2.0], grad=lambda x: 2 * x, **settings)
    assert result.status == 3
    assert result.message.startswith("`fun` returned inf at iteration ")
    assert result.message.endswith("x is the last point where both were finite.")
    np.testing.assert_array_equal(result.x, 2.0)
    assert result.nit < 100


def test_samples_that_are_not_finite_are_left_out():
    """One sample in six spoils the gradient: the run goes on with the others, also from the first on."""

    def gradient(x, z):
        return 2 * (x - 1) + 0.1 * z if z[0] > -1 else x * math.nan

    run = {"grad": gradient, "preset": "stochastic", "sample": lambda rng: rng.standard_normal(3)}
    seeds = range(12)
    first = [np.random.default_rng([seed, 0]).standard_normal(3)[0] <= -1 for seed in seeds]
    assert any(first)
    for seed in seeds:
        result = psgd.minimize(None, np.full(3, 5.0), rng=seed, maxiter=400, **run)
        assert result.status == 4
        np.testing.assert_allclose(result.x, 1.0, atol=0.2)
        assert int(result.progress.state.skipped) > 20
        assert int(result.progress.state.count) == 400


def test_no_good_sample_is_no_success():
    result = psgd.minimize(
        None,
        np.ones(2),
        grad=lambda x, z: x * math.nan,
        sample=lambda rng: 0,
        preset="stochastic",
        maxiter=5,
    )
    assert (result.status, result.success) == (3, False)
    np.testing.assert_array_equal(result.x, 1.0)


@pytest.mark.parametrize("settings", [{}, {"clip": None}, {"clip": clips.AdaptiveNorm()}], ids=str)
@pytest.mark.parametrize("cut", range(1, 9))
def test_a_resumed_run_repeats_a_whole_one_also_outside(settings, cut):
    run = {"grad": LogBarrier.gradient, "hvp": LogBarrier.hvp, "tol": 0.0, **settings}
    half = psgd.minimize(LogBarrier.value, LogBarrier.start, maxiter=cut, **run)
    on = psgd.minimize(LogBarrier.value, LogBarrier.start, maxiter=15, resume=half.progress, **run)
    whole = psgd.minimize(LogBarrier.value, LogBarrier.start, maxiter=15, **run)
    np.testing.assert_array_equal(on.x, whole.x)
    assert int(on.progress.state.skipped) == int(whole.progress.state.skipped) > 0


# -- nothing to find -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [{}, {"hvp": lambda x, v: 0 * v}, {"hess": np.zeros((2, 2))}], ids=["none", "hvp", "hess"]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "p", [psgd.Dense(), psgd.LowRank(1), psgd.Diagonal()], ids=lambda p: type(p).__name__
)
def test_a_linear_loss_runs_down_to_the_end(given, dtype, p):
    """It has no minimum: the run goes on as long as it may, downhill and finite."""
    slope = np.array([1.0, -2.0], dtype)
    result = psgd.minimize(
        lambda x: slope @ x, np.ones(2, dtype), grad=lambda x: slope, preconditioner=p, maxiter=300, **given
    )
    assert not result.success
    assert result.status in (1, 2, 3)
    assert result.x.dtype == dtype
    assert np.all(np.isfinite(result.x))
    assert result.fun < -10
    result.optimizer.preconditioner.check(result.state)


def test_a_constant_function_is_at_its_minimum():
    result = psgd.minimize(lambda x: 3.0, [1.0, 2.0], grad=lambda x: 0 * x)
    assert (result.success, result.nit, result.fun) == (True, 0, 3.0)
    np.testing.assert_array_equal(result.x, [1.0, 2.0])


def test_a_zero_hessian_at_the_start_is_left_behind():
    """x^4 from far below: H is 0 at the start to all digits, and P has no scale until it is not."""

    def gradient(x):
        return 4 * (x - 1) ** 3 * (x > 0) - (x <= 0)

    result = psgd.minimize(
        lambda x: np.sum(np.where(x > 0, (x - 1) ** 4, 1 - x)),
        np.array([-3.0, -2.0]),
        grad=gradient,
        hvp=lambda x, v: 12 * (x - 1) ** 2 * (x > 0) * v,
    )
    assert result.success, result.message
    np.testing.assert_allclose(result.x, 1.0, atol=5e-3)
