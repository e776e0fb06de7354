"""`minimize`: what it reaches and at what cost, its answers in SciPy's idiom, and what it refuses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import OptimizeResult, rosen, rosen_der, rosen_hess_prod
from scipy.optimize import minimize as scipy_minimize

import psgd_core as psgd
from psgd_analysis import problems
from psgd_analysis.problems import hessians
from psgd_core import Replay, curvature, schedules

PROBES = {"source": curvature.Exact(), "replay": None}
"""A probe in each step, fitted once: what the preset took before pairs were replayed."""

PLANE, PAIRS = problems.rosenbrock(2), problems.rosenbrock_pairs(100)
SEEDS = range(20)


def evaluations(result, level=1e-20):
    """Return the gradient evaluations until f < level, for `math.inf` if it was not reached."""
    below = result.history["fun"] < level
    return int(result.history["njev"][np.argmax(below)]) if below.any() else math.inf


def solve(problem, *, hvp=True, **settings):
    given = {"x0": problem.start, "tol": 1e-12, "maxiter": 300, **settings}
    x0 = given.pop("x0")
    product = problem.hvp if hvp else None
    return psgd.minimize(problem.value, x0, grad=problem.gradient, hvp=product, **given)


# -- what it reaches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [(-1.0, 1.0), (-1.2, 1.0)])
@pytest.mark.parametrize(("hvp", "budget"), [(True, 200), (False, 400)])
def test_rosenbrock_to_the_last_bit_for_every_seed(start, hvp, budget):
    """With the deterministic preset as it is, and Dense; by itself that is the default for n = 2."""
    counts = [evaluations(solve(PLANE, x0=np.array(start), hvp=hvp, rng=seed)) for seed in SEEDS]
    assert max(counts) <= budget, sorted(counts)


@pytest.mark.parametrize("structure", ["sparse", "xmat"])
def test_rosenbrock_in_pairs_is_no_harder_in_the_right_group(structure):
    """100 variables take at most twice the 2-D median, with a step per orbit (one for all takes 5 times)."""
    median = np.median([evaluations(solve(PLANE, rng=seed)) for seed in SEEDS])
    if structure == "sparse":
        problem, p = PAIRS, psgd.Sparse(psgd.PermutationSubgroup.neighbour_swap(100))
    else:
        problem, p = problems.permuted(PAIRS, problems.pairs_to_flip(100)), psgd.XMat()
    counts = [evaluations(solve(problem, preconditioner=p, rng=seed)) for seed in range(4)]
    assert max(counts) <= 2 * median, (counts, median)


def test_what_choosing_the_group_is_worth():
    """In as many steps as the right group needs, others are far away."""
    right = solve(PAIRS, preconditioner=psgd.Sparse(psgd.PermutationSubgroup.neighbour_swap(100)))
    for p in (psgd.Diagonal(), psgd.LowRank(10)):
        other = solve(PAIRS, preconditioner=p, maxiter=right.nit)
        assert other.fun > 1e10 * right.fun
        assert np.all(np.isfinite(other.x))


def ratios(result):
    f = result.history["fun"]
    f = f[f > 1e-26]  # above what rounding leaves
    return f[1:] / f[:-1]


def test_order_of_convergence():
    """Pairs of probes alone: f falls by a bounded factor per step, order 1. P fitted first: order 2.

    Pairs along the steps, replayed, are between the two, as BFGS is: the factors fall towards the end.
    """
    online = ratios(solve(PLANE, rng=0, **PROBES))
    tail = online[-20:]
    assert np.all(tail > 1e-4)  # a factor of a few, step after step, and never Newton's
    assert np.exp(np.mean(np.log(tail))) < 0.7
    for seed in range(3):
        along = ratios(solve(PLANE, rng=seed))
        assert np.exp(np.mean(np.log(along[-3:]))) < 1e-2 < np.exp(np.mean(np.log(along[-12:-3])))

    # near x* with P fitted to the Hessian where x is, in each step anew: Newton's method
    x = np.array([1.01, 1.021])
    opt = psgd.PSGD(psgd.Dense(normalizer=psgd.normalizers.Sample(), damping=0.0), lr=1.0, step_size=0.9)
    state, rng, f = opt.init(x), np.random.default_rng(0), [float(PLANE.value(x))]
    for _ in range(4):
        p = state.preconditioner
        for _ in range(1000):
            v = rng.standard_normal(2)
            p = opt.preconditioner.update(p, v, PLANE.hvp(x, v), step=0.9)
        x, state = opt.update(state._replace(preconditioner=p), x, PLANE.gradient(x))
        f.append(float(PLANE.value(x)))
    newton = np.array([1.01, 1.021])
    for value in f[:4]:
        assert value == pytest.approx(float(PLANE.value(newton)), rel=1e-2, abs=1e-20)
        newton = newton - np.linalg.solve(PLANE.hessian(newton), PLANE.gradient(newton))
    # quadratic: the ratios f_{k+1} / f_k fall themselves
    fall = [later / earlier for earlier, later in itertools.pairwise(f[:4])]
    assert f[4] < 1e-20
    assert fall[2] < fall[1] / 10 < fall[0] / 20


@pytest.mark.parametrize(
    "name", ["beale", "wood", "powell_singular", "helical_valley", "variably_dimensioned", "trigonometric"]
)
def test_classic_problems_with_default_settings(name):
    if name not in problems.names():
        pytest.skip(f"no problem of this name: {name}")
    problem = problems.get(name)
    result = solve(problem, tol=1e-8, maxiter=3000)
    assert result.success, result.message
    assert np.max(np.abs(problem.gradient(result.x))) <= 1e-8


@pytest.mark.parametrize(
    "settings",
    [
        {"source": curvature.Secant(reuse=True), "maxiter": 1000},
        {"source": curvature.Central()},
        {"probes": curvature.Orthogonal(2)},
        {"probes": curvature.Rademacher()},
        {"every": 2, "maxiter": 600},
        {"clip": 0.5, "maxiter": 1000},
    ],
    ids=str,
)
def test_rosenbrock_with_other_settings(settings):
    result = solve(PLANE, tol=1e-8, **settings)
    assert result.success, result.message
    np.testing.assert_allclose(result.x, 1.0, atol=1e-7)


@pytest.mark.parametrize("settings", [{}, {**PROBES, "step": 0.5}, {**PROBES, "step": 0.9}], ids=str)
def test_low_rank_stands_bold_steps(settings):
    """Its factors move together: at step 0.9 they once overflowed where the Hessian changes fast."""
    result = psgd.minimize(
        rosen,
        [-1.2, 1.0],
        grad=rosen_der,
        hvp=rosen_hess_prod,
        preconditioner=psgd.LowRank(1),
        rng=0,
        tol=1e-9,
        maxiter=4000,
        **settings,
    )
    assert result.success
    np.testing.assert_allclose(result.x, 1.0, atol=1e-7)


# -- stochastic functions ------------------------------------------------------------------------------


def noisy_quadratic(n=40, kappa=1e4):
    """A quadratic in the X-matrix group, with noise in gradients and products."""
    orbits = psgd.PermutationSubgroup.flip(n).orbit_index
    h = hessians.in_group(orbits, n, kappa, np.random.default_rng(0))
    return problems.quadratic_of(h, gradient_noise=1e-2, hessian_noise=1e-3)


def by_gradients(problem, seed, budget, rule):
    """Return the final error of ``x <- x - rule(t, g)`` after `budget` gradients, each of a new sample."""
    rng, x = np.random.default_rng(seed), problem.start
    for t in range(budget):
        x = x - rule(t, problem.gradient(x, problem.draw(rng)))
    return float(problem.value(x))


def sgd(lr, beta):
    m = 0.0

    def rule(t, g):
        nonlocal m
        m = beta * m + (1 - beta) * g
        return lr(t) * m

    return rule


def adam(lr):
    m, s = 0.0, 0.0

    def rule(t, g):
        nonlocal m, s
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g * g
        return lr(t) * m / (1 - 0.9 ** (t + 1)) / (np.sqrt(s / (1 - 0.999 ** (t + 1))) + 1e-8)

    return rule


def by_psgd(problem, seed, budget, **settings):
    """Return (final error, evaluations) with the stochastic preset; a product counts as a gradient."""
    result = psgd.minimize(
        None,
        problem.start,
        grad=problem.gradient,
        hvp=problem.hvp,
        sample=problem.draw,
        preset="stochastic",
        rng=seed,
        maxiter=round(budget / 1.16),  # P is fitted in 16 % of the iterations
        **settings,
    )
    assert result.success
    return float(problem.value(result.x)), result.njev + result.nhev


def by_lbfgs(problem, seed, budget):
    rng = np.random.default_rng(seed)

    limit = {"maxfun": budget, "maxiter": budget}

    def both(x):
        sample = problem.draw(rng)
        return float(problem.value(x, sample)), problem.gradient(x, sample)

    return float(
        problem.value(scipy_minimize(both, problem.start, jac=True, method="L-BFGS-B", options=limit).x)
    )


def test_a_stochastic_quadratic():
    """PSGD as it comes against rivals tuned on this very problem, on the same evaluations, over seeds."""
    problem, budget, seeds = noisy_quadratic(), 800, range(5)
    found = [by_psgd(problem, s, budget, preconditioner=psgd.XMat()) for s in seeds]
    assert all(count <= 1.05 * budget for _, count in found)
    ours = np.median([error for error, _ in found])

    def tuned(make):
        return min(np.median([by_gradients(problem, s, budget, m()) for s in seeds]) for m in make)

    plain = tuned([lambda lr=lr: sgd(schedules.Constant(lr), 0.0) for lr in (0.005, 0.01, 0.015, 0.019)])
    adams = tuned([lambda lr=lr: adam(schedules.Cosine(lr, over=budget)) for lr in (0.1, 0.2, 0.3, 0.5, 1.0)])
    heavy = tuned(
        [
            lambda lr=lr, beta=beta: sgd(schedules.Cosine(lr, over=budget), beta)
            for lr, beta in ((0.5, 0.95), (0.7, 0.95), (0.7, 0.97), (1.0, 0.97))
        ]
    )
    lbfgs = np.median([by_lbfgs(problem, s, budget) for s in seeds])
    assert ours < plain / 100
    assert ours < adams
    assert ours < lbfgs / 100
    # with momentum tuned for this spectrum, SGD reaches the floor that the noise sets, and so does PSGD
    floor = 1e-4 * np.trace(np.linalg.inv(problem.hessian(problem.start))) / 2 / budget
    assert ours < 5 * floor
    assert ours < 3 * heavy


def test_samples_are_shared_within_a_step():
    problem = problems.quadratic(5, 10.0, gradient_noise=1.0, hessian_noise=0.1)
    drawn, seen = [], []

    def sample(rng):
        drawn.append(problem.draw(rng))
        return drawn[-1]

    def gradient(x, z, extra):
        assert extra == "more"
        seen.append(z)
        return problem.gradient(x, z)

    result = psgd.minimize(
        None,
        problem.start,
        ("more",),
        grad=gradient,
        sample=sample,
        preset="stochastic",
        maxiter=5,
        probability=1,
    )
    assert len(drawn) == 6
    assert result.njev == len(seen) == 11  # two each for five forward differences, and the last point's
    assert all(seen[2 * t] is seen[2 * t + 1] is drawn[t] for t in range(5))
    assert math.isnan(result.fun)
    assert result.status == 4


# -- SciPy's idiom -------------------------------------------------------------------------------------


def test_scipys_functions_as_they_are():
    alone, exact = {"jac": rosen_der}, {"jac": rosen_der, "hvp": rosen_hess_prod}
    for given in (alone, exact, {"grad": rosen_der, "hvp": rosen_hess_prod}):
        result = psgd.minimize(rosen, [-1.2, 1, 1.5], **given, tol=1e-9)
        assert isinstance(result, OptimizeResult)
        assert result.success
        np.testing.assert_allclose(result.x, 1.0, atol=1e-8)


def test_jac_true_and_a_hessian_of_each_kind():
    from scipy.optimize import rosen_hess
    from scipy.sparse.linalg import aslinearoperator

    both_count = []

    def both(x, a):
        assert a == 2.0
        both_count.append(1)
        return a * rosen(x), a * rosen_der(x)

    for hess in (lambda x, a: a * rosen_hess(x), lambda x, a: aslinearoperator(a * rosen_hess(x))):
        both_count.clear()
        result = psgd.minimize(both, np.array([-1.2, 1.0]), 2.0, jac=True, hess=hess, tol=1e-9)
        assert result.success
        assert result.nfev == result.njev == len(both_count) == result.nit + 1
        assert result.nhev == -(-result.nit // 10)  # a probe in every tenth step, from the first on


def test_result_and_history():
    calls = {"f": 0, "g": 0, "h": 0}

    def counting(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    result = psgd.minimize(
        counting("f", PLANE.value),
        PLANE.start,
        grad=counting("g", PLANE.gradient),
        hvp=counting("h", PLANE.hvp),
        probes=curvature.Gaussian(2),
        replay=Replay(3, 4),
        tol=1e-6,
    )
    assert (result.nfev, result.njev, result.nhev) == (calls["f"], calls["g"], calls["h"])
    assert result.success
    assert result.status == 0
    assert "1e-06" in result.message
    assert result.fun == PLANE.value(result.x)
    np.testing.assert_array_equal(result.jac, PLANE.gradient(result.x))
    assert np.max(np.abs(result.jac)) <= 1e-6
    history = result.history
    assert set(history) == {"nit", "fun", "grad", "lr", "step", "nfev", "njev", "nhev"}
    assert all(len(column) == result.nit + 1 for column in history.values())
    assert history["fun"][0] == PLANE.value(PLANE.start)
    assert np.all(np.diff(history["fun"]) <= 0)  # steps that raise f are taken back
    result.optimizer.preconditioner.check(result.state)
    assert int(result.state.count) == 4 * result.nit  # updates, for each of which the ring had a pair


def test_every_library_gets_its_own_arrays_back(backend):
    problem = problems.rosenbrock(2, like=backend.asarray(np.zeros(1)))
    result = solve(problem, tol=None, maxiter=25)
    want = solve(PLANE, tol=0.0, maxiter=25).x
    assert result.x.dtype == problem.start.dtype
    assert result.jac.dtype == problem.start.dtype
    assert result.status == 1
    if backend.dtype_name == "float64":  # the same probes: the same run, rounding apart
        np.testing.assert_allclose(backend.numpy(result.x), want, atol=1e-6)
    assert float(problem.value(result.x)) < float(problem.value(problem.start))


@pytest.mark.parametrize(
    ("x0", "shape"),
    [(1.5, ()), ([3, -1], (2,)), ([[1.0, 2.0], [3.0, 4.0]], (2, 2)), (np.ones((2, 1, 3)), (2, 1, 3))],
)
def test_shapes_and_plain_numbers(x0, shape):
    result = psgd.minimize(lambda x: np.sum((x - 2.0) ** 2), x0, grad=lambda x: 2 * (x - 2.0))
    assert result.success
    assert result.x.shape == result.jac.shape == shape
    np.testing.assert_allclose(result.x, 2.0, atol=1e-7)


def test_trees():
    start = {"scale": np.array(2.0), "layers": [np.ones((2, 2)), (np.zeros(3),)]}

    def value(x):
        assert set(x) == {"scale", "layers"}
        return (
            (x["scale"] - 1) ** 2
            + np.sum((x["layers"][0] - 3) ** 2)
            + 5 * np.sum((x["layers"][1][0] + 1) ** 2)
        )

    def gradient(x):
        first, (second,) = x["layers"]
        return {"layers": [2 * (first - 3), (10 * (second + 1),)], "scale": 2 * (x["scale"] - 1)}

    def hvp(x, v):
        first, (second,) = v["layers"]
        return {"layers": [2 * first, (10 * second,)], "scale": 2 * v["scale"]}

    result = psgd.minimize(value, start, grad=gradient, hvp=hvp)
    assert result.success
    np.testing.assert_allclose(result.x["layers"][1][0], -1.0, atol=1e-7)
    assert result.x["layers"][0].shape == (2, 2)
    assert result.x["scale"] == pytest.approx(1.0)
    assert start["scale"] == 2.0


def test_callbacks():
    seen = []
    psgd.minimize(rosen, [-1.2, 1.0], jac=rosen_der, maxiter=5, callback=seen.append)
    assert len(seen) == 5

    def stop(intermediate_result):
        seen.append(intermediate_result)
        if intermediate_result.nit == 3:
            raise StopIteration

    result = psgd.minimize(rosen, [-1.2, 1.0], jac=rosen_der, callback=stop)
    assert (result.status, result.success, result.nit) == (99, False, 3)
    assert "StopIteration" in result.message
    assert seen[-1].fun == result.fun


def test_an_exception_in_the_callback_leaves_everything_as_it_was():
    kept = []

    def fail(intermediate_result):
        kept.append(intermediate_result.progress)
        if intermediate_result.nit == 4:
            raise RuntimeError("mine")

    x0 = np.array([-1.2, 1.0])
    with pytest.raises(RuntimeError, match="mine"):
        psgd.minimize(rosen, x0, jac=rosen_der, callback=fail)
    np.testing.assert_array_equal(x0, [-1.2, 1.0])
    on = psgd.minimize(rosen, x0, jac=rosen_der, resume=kept[-1], maxiter=10)
    whole = psgd.minimize(rosen, x0, jac=rosen_der, maxiter=10)
    np.testing.assert_array_equal(on.x, whole.x)


@pytest.mark.parametrize(
    ("source", "replay"),
    [
        (curvature.Exact(), None),
        (curvature.Secant(reuse=True), None),
        (curvature.Along(every=3, reuse=True), None),
        (curvature.Exact(), Replay(5, 4)),
        (curvature.Along(every=3, reuse=True), Replay(5, 4, order="age")),
    ],
)
def test_a_resumed_run_repeats_a_whole_one(source, replay):
    settings = {"source": source, "replay": replay, "tol": 0.0, "momentum": 0.1, "rng": 3}
    half = solve(PLANE, maxiter=20, **settings)
    on = solve(PLANE, maxiter=40, resume=half.progress, **settings)
    whole = solve(PLANE, maxiter=40, **settings)
    np.testing.assert_array_equal(on.x, whole.x)
    assert on.nit == whole.nit
    np.testing.assert_array_equal(on.history["fun"], whole.history["fun"][20:])


def test_seeds_and_generators():
    one, two = (solve(PLANE, rng=5, maxiter=10).x for _ in range(2))
    np.testing.assert_array_equal(one, two)
    three, four = (solve(PLANE, rng=np.random.default_rng(5), maxiter=10).x for _ in range(2))
    np.testing.assert_array_equal(three, four)
    assert np.any(solve(PLANE, rng=6, maxiter=10).x != one)


# -- what goes wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["fun", "grad"])
def test_nan_stops_with_what_and_where(where):
    def value(x, calls=[0]):  # noqa: B006
        calls[0] += 1
        return float("nan") if where == "fun" and calls[0] == 5 else rosen(x)

    def gradient(x, calls=[0]):  # noqa: B006
        calls[0] += 1
        g = rosen_der(x)
        return g * float("inf") if where == "grad" and calls[0] == 5 else g

    result = psgd.minimize(value, [-1.2, 1.0], grad=gradient, hvp=rosen_hess_prod, nonfinite="stop")
    assert result.status == 3
    assert not result.success
    assert result.message.startswith("`fun` returned nan" if where == "fun" else "The gradient had 2 of 2")
    assert "at iteration 4" in result.message
    assert result.fun == rosen(result.x)
    assert len(result.history["fun"]) == 4
    result.optimizer.preconditioner.check(result.state)


def test_nan_at_the_start():
    result = psgd.minimize(lambda x: np.nan, [1.0, 2.0], grad=lambda x: x)
    assert result.status == 3
    assert "at iteration 0" in result.message
    np.testing.assert_array_equal(result.x, [1.0, 2.0])


def test_nan_can_be_skipped_and_counted():
    """A barrier: log(x) is NaN beyond 0, and a step there is taken back and shortened."""

    def value(x):
        with np.errstate(invalid="ignore"):
            return np.sum(x - 1e-3 * np.log(x))

    result = psgd.minimize(
        value, [5.0, 4.0], grad=lambda x: 1 - 1e-3 / x, hvp=lambda x, v: 1e-3 * v / x**2, nonfinite="skip"
    )
    assert result.success, result.message
    np.testing.assert_allclose(result.x, 1e-3, rtol=1e-6)
    assert int(result.progress.state.skipped) > 0


def test_the_last_digit_ends_the_run():
    result = solve(PLANE, tol=0.0, maxiter=5000)
    assert result.status in (0, 2)
    assert result.fun < 1e-25


def test_users_may_reuse_their_buffer():
    buffer = np.empty(2)

    def gradient(x):
        buffer[:] = rosen_der(x)
        return buffer

    reused = psgd.minimize(rosen, [-1.2, 1.0], grad=gradient, hvp=rosen_hess_prod)
    np.testing.assert_array_equal(
        reused.x, psgd.minimize(rosen, [-1.2, 1.0], grad=rosen_der, hvp=rosen_hess_prod).x
    )


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"bounds": [(0, 1)]}, ValueError, "`bounds` must be None"),
        ({"fun": None, "grad": None}, ValueError, "`fun` or `grad` must be given"),
        ({"jac": rosen_der}, ValueError, "`grad` and `jac` must not both"),
        ({"hvp": rosen_hess_prod, "hess": np.eye(2)}, ValueError, "`hvp` and `hess` must not both"),
        ({"grad": 3}, TypeError, "`grad` must be callable"),
        ({"fun": None, "grad": None, "jac": True}, ValueError, "`fun` must be given with jac=True"),
        ({"fun": None}, ValueError, "`fun` must be given for a clip"),
        ({"sample": lambda rng: rng}, ValueError, "`sample` must be None for a clip"),
        ({"preset": "fast"}, ValueError, "`preset` must be one of"),
        ({"nonfinite": "ignore"}, ValueError, "`nonfinite` must be"),
        ({"x0": "here"}, TypeError, "`x0` must be an array"),
        ({"x0": np.array(["a"])}, TypeError, "`x0` must be float32 or float64"),
        ({"fun": lambda x: x}, ValueError, "`fun` must return a scalar"),
        ({"grad": lambda x: x[:1]}, ValueError, r"`grad` must have shape \(2,\), got \(1,\)"),
        ({"hvp": lambda x, v: v[:1]}, ValueError, r"`hvp` must have shape \(2,\)"),
        ({"step": 2.0}, ValueError, r"`step_size` must lie in \(0, 1\)"),
    ],
)
def test_bad_arguments(settings, error, match):
    given = {"fun": rosen, "x0": np.array([-1.2, 1.0]), "grad": rosen_der, **settings}
    with pytest.raises(error, match=match):
        psgd.minimize(given.pop("fun"), given.pop("x0"), **given)
