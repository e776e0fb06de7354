"""Measures against SciPy, rates against dense simulations of the rules, fits against synthetic curves."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from psgd_core import convergence
from psgd_core.convergence import (
    FallingFloor,
    LinearToRounding,
    Status,
    Trace,
    Tracks,
    fit_rate,
    judge,
    predicted_rate,
    stable_step,
)

FLIP = [np.array([[3]]), np.array([[0, 1, 2], [6, 5, 4]])]  # the X-matrix at n = 7


def hessian_of(rng, values):
    n = len(values)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return basis @ np.diag(values) @ basis.T


def indefinite(rng, n, kappa=10.0):
    return hessian_of(rng, np.geomspace(1.0, kappa, n) * np.where(np.arange(n) % 2, -1.0, 1.0))


def mask_of(orbits, n):
    mask = np.zeros((n, n))
    for array in orbits:
        for o in np.asarray(array).T:
            mask[np.ix_(o, o)] = 1
    return mask


def plain_minimizer(m, mask):
    """Return M^{-1/2} block by block: the mask of a partition makes M block diagonal."""
    return np.linalg.inv(scipy.linalg.sqrtm(m * mask).real)


def plain_criterion(p, m):
    return np.trace(p @ m) + np.trace(np.linalg.inv(p))


# -- measures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
def test_measures_are_their_definitions(backend, rng, grouped):
    n = 7
    hessian, root = indefinite(rng, n), 0.3 * rng.standard_normal((n, n))
    noise = root @ root.T
    orbits = FLIP if grouped else None
    mask = mask_of(FLIP, n) if grouped else np.ones((n, n))
    m = hessian @ hessian + noise
    best = plain_minimizer(m, mask)
    q = (np.eye(n) + 0.3 * rng.standard_normal((n, n)) * mask) @ scipy.linalg.sqrtm(best).real
    p = q.T @ q
    whiten = np.linalg.inv(scipy.linalg.sqrtm(best).real)
    least = plain_criterion(best, m)
    want = (
        np.linalg.norm(scipy.linalg.logm(whiten @ p @ whiten)) / np.sqrt(n),
        np.linalg.norm(p @ np.linalg.inv(best) - np.eye(n)) / np.sqrt(n),
        (plain_criterion(p, m) - least) / least,
    )

    @backend.jit
    def run(q, hessian, noise):
        target = convergence.target(hessian, orbits, noise)
        return target, convergence.measure(q, target)

    target, got = run(*map(backend.asarray, (q, hessian, noise)))
    assert [x.dtype for x in got] == [backend.dtype] * 3
    np.testing.assert_allclose([float(x) for x in got], want, rtol=2000 * backend.eps)
    for field, expected in (("minimizer", best), ("inverse", np.linalg.inv(best)), ("root", whiten)):
        actual = backend.numpy(getattr(target, field))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=500 * backend.eps * np.abs(expected).max())
    assert float(target.minimum) == pytest.approx(least, rel=500 * backend.eps)
    single = (convergence.distance, convergence.residual, convergence.criterion_gap)
    assert [float(f(backend.asarray(q), target)) for f in single] == pytest.approx(
        [float(x) for x in got], rel=100 * backend.eps
    )


def test_measures_see_p_only_and_are_affine_invariant(backend, rng):
    n = 5
    hessian, q = indefinite(rng, n), rng.standard_normal((n, n)) + 3 * np.eye(n)
    rotation = np.linalg.qr(rng.standard_normal((n, n)))[0]
    target = convergence.target(backend.asarray(hessian))
    one = convergence.measure(backend.asarray(q), target)
    two = convergence.measure(backend.asarray(rotation @ q), target)
    np.testing.assert_allclose([float(x) for x in two], [float(x) for x in one], rtol=200 * backend.eps)
    # from the dense P
    three = convergence.measure(convergence.factor(backend.asarray(q.T @ q)), target)
    np.testing.assert_allclose([float(x) for x in three], [float(x) for x in one], rtol=2000 * backend.eps)
    # P and 1/P are equally far; a P that is e^t too large everywhere is at distance t
    scaled = np.exp(0.7 / 2) * np.linalg.inv(
        scipy.linalg.sqrtm(scipy.linalg.sqrtm(hessian @ hessian).real).real
    )
    for sign in (1, -1):
        x = backend.asarray(scaled * np.exp(0.7 * (sign - 1) / 2))
        assert float(convergence.distance(x, target)) == pytest.approx(0.7, rel=500 * backend.eps)


def test_the_distance_loses_only_the_root_of_the_condition_number(backend, rng):
    """kappa = 1e6 in float32: eps sqrt(kappa) is 1e-4, eps kappa would be 0.1."""
    n, kappa = 8, 1e6
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    h = np.geomspace(1, kappa, n)
    power = lambda x: basis @ np.diag(h**x) @ basis.T  # noqa: E731
    q = power(-0.5)
    exact = convergence.Target(
        *map(backend.asarray, (power(-1.0), power(1.0), power(0.5))), (), backend.asarray(0.0)
    )
    got = float(
        convergence.distance(backend.asarray(q), exact._replace(minimum=backend.asarray(2 * h.sum())))
    )
    assert got < 10 * backend.eps * math.sqrt(kappa)


def test_the_gap_is_accurate_far_below_rounding(backend64, rng):
    """At distance t it is t^2 times a constant, from where differences still tell down to t = 1e-12."""
    n = 7
    hessian = indefinite(rng, n, 3.0)
    m, mask = hessian @ hessian, mask_of(FLIP, n)
    best = plain_minimizer(m, mask)
    e = rng.standard_normal((n, n)) * mask
    root = scipy.linalg.sqrtm(best).real
    target = convergence.target(backend64.asarray(hessian), FLIP)

    def gap(t):
        return float(convergence.criterion_gap(backend64.asarray((np.eye(n) + t * e) @ root), target))

    q = (np.eye(n) + 1e-3 * e) @ root
    direct = plain_criterion(q.T @ q, m) / plain_criterion(best, m) - 1
    assert gap(1e-3) == pytest.approx(direct, rel=1e-8)
    constant = (gap(1e-4) + gap(-1e-4)) / 2e-8
    for t in (1e-6, 1e-9, 1e-12):
        assert (gap(t) + gap(-t)) / (2 * t * t) == pytest.approx(constant, rel=max(1e-5, 1e-14 / t))


def test_what_is_no_preconditioner_is_told_and_never_raises(backend, rng):
    hessian = indefinite(rng, 3)
    target = convergence.target(backend.asarray(hessian))
    measure = backend.jit(convergence.measure)
    for bad in (np.nan, np.inf):
        got = measure(backend.asarray(np.diag([1.0, bad, 1.0])), target)
        assert all(math.isnan(float(x)) for x in got)
    largest = float(np.finfo(backend.dtype_name).max)
    with np.errstate(over="ignore", invalid="ignore"):
        got = measure(backend.asarray(np.full((3, 3), largest)), target)
    assert not any(math.isfinite(float(x)) for x in got)
    got = measure(backend.asarray(np.zeros((3, 3))), target)
    assert float(got.distance) == float(got.gap) == math.inf
    assert float(got.residual) == pytest.approx(1.0, rel=10 * backend.eps)
    for p in (np.diag([1.0, -1.0, 1.0]), np.diag([1.0, np.nan, 1.0])):
        assert math.isnan(float(convergence.distance(convergence.factor(backend.asarray(p)), target)))


def test_bad_measures_are_refused(backend):
    target = convergence.target(backend.asarray(np.eye(3)))
    with pytest.raises(ValueError, match=r"`q` must be a square matrix"):
        convergence.measure(backend.asarray(np.ones((2, 3))), target)
    with pytest.raises(ValueError, match=r"`q` must have the shape of `target\.root`"):
        convergence.measure(backend.asarray(np.eye(2)), target)
    with pytest.raises(ValueError, match=r"`hessian` must be a square matrix"):
        convergence.target(backend.asarray(np.ones(3)))
    with pytest.raises(ValueError, match=r"`orbits` must hold every index"):
        convergence.target(backend.asarray(np.eye(3)), [[0, 1]])
    with pytest.raises(TypeError, match="`q` must be an array"):
        convergence.distance([[1.0]], target)
    with pytest.raises(TypeError, match=r"dtype of `target\.root`"):
        convergence.distance(np.eye(3, dtype=np.float32), convergence.target(np.eye(3)))
    with pytest.raises(TypeError, match="`p` must be float32 or float64"):
        convergence.factor(np.eye(3, dtype=int))


# -- rates: the theory against dense simulations ---------------------------------------------------------


def simulate(hessian, step, updates, *, rule="left", mask=None, per_orbit=True, start=None, normalizer=None):
    """Run a rule on exact expectations in plain NumPy; return (updates, distances), at most 150 of them.

    The normaliser is 2 h_max, h the eigenvalues of P*^{-1}, or those of each orbit.
    """
    n = hessian.shape[0]
    m, mask = hessian @ hessian, np.ones((n, n)) if mask is None else mask
    inverse = scipy.linalg.sqrtm(m * mask).real
    if per_orbit:
        sizes = np.array([np.linalg.norm(inverse * np.outer(row, row), 2) for row in mask])
    else:
        sizes = np.full(n, np.linalg.norm(inverse, 2))
    bound = 2 * sizes if normalizer is None else np.full(n, normalizer)
    root, q = scipy.linalg.sqrtm(inverse).real, np.eye(n) if start is None else start
    times, distances = [], []
    for t in range(updates + 1):
        if t % max(1, updates // 150) == 0:
            x = root @ (q.T @ q) @ root
            times.append(t)
            distances.append(np.sqrt(np.mean(np.log(np.linalg.eigvalsh(x)) ** 2)))
            if distances[-1] > max(1, 2 * distances[0]):
                break
        inv = np.linalg.inv(q)
        if rule == "left":
            q = q - step * ((q @ m @ q.T - inv.T @ inv) * mask / bound[:, None]) @ q
        else:
            q = q - step * q @ ((q.T @ q @ m - inv @ inv.T) * mask / bound[:, None])
        if rule == "(6)":
            w, vectors = np.linalg.eigh(q.T @ q)
            q = vectors @ np.diag(np.sqrt(w)) @ vectors.T
    return np.array(times), np.array(distances)


def near(hessian, mask=1.0, size=1e-6):
    """Return a start close to the minimiser, with every mode of the error excited alike."""
    h, vectors = np.linalg.eigh(scipy.linalg.sqrtm((hessian @ hessian) * mask).real)
    root = vectors @ np.diag(h**-0.5) @ vectors.T
    e = size * (vectors @ np.ones_like(hessian) @ vectors.T) * mask
    return root + root @ e @ root


def last_rate(times, distances):
    """Return the rate between two late points above rounding: no fit, the simulation's own asymptotics."""
    good = np.nonzero(distances > 1e-11)[0]
    late, half = good[-1], good[int(0.7 * good.size)]
    return np.log(distances[half] / distances[late]) / (times[late] - times[half])


@pytest.mark.parametrize(
    ("kappa", "step", "updates"), [(10, 0.9, 250), (10, 0.2, 1000), (40, 0.9, 900), (3, 0.5, 60)]
)
def test_left_rule_converges_at_the_predicted_rate(rng, kappa, step, updates):
    hessian = indefinite(rng, 6, kappa)
    spectra = convergence.target(hessian).spectra
    rate = float(predicted_rate(spectra, step))
    times, distances = simulate(hessian, step, updates, start=near(hessian))
    assert rate == pytest.approx(last_rate(times, distances), rel=0.02)
    slowest = 1 - 2 * step / kappa
    assert rate == pytest.approx(-np.log(max(slowest, abs(1 - 2 * step))), rel=1e-9)
    doubled = float(predicted_rate(spectra, step, normalizer=4 * kappa))
    times, distances = simulate(hessian, step, 2 * updates, start=near(hessian), normalizer=4 * kappa)
    assert doubled == pytest.approx(last_rate(times, distances), rel=0.02)


@pytest.mark.parametrize("per_orbit", [True, False])
def test_a_step_per_orbit_sees_only_its_blocks(rng, per_orbit):
    """Orbits of very different size: one step for all is slowed down by the smallest."""
    n, mask = 7, mask_of(FLIP, 7)
    scale = np.diag([1.0, 3.0, 10.0, 5.0, 10.0, 3.0, 1.0]) ** 0.5
    hessian = scale @ (indefinite(rng, n, 3.0) * mask + 0.05 * indefinite(rng, n, 3.0)) @ scale
    target = convergence.target(hessian, FLIP)
    rate = float(predicted_rate(target.spectra, 0.9, per_orbit=per_orbit))
    times, distances = simulate(
        hessian,
        0.9,
        150 if per_orbit else 700,
        mask=mask,
        per_orbit=per_orbit,
        start=near(hessian, mask),
    )
    assert rate == pytest.approx(last_rate(times, distances), rel=0.03)
    other = float(predicted_rate(target.spectra, 0.9, per_orbit=not per_orbit))
    assert (rate > 2 * other) if per_orbit else (2 * rate < other)


@pytest.mark.parametrize("rule", ["right", "(6)"])
@pytest.mark.parametrize("kappa", [1.5, 2.0, 3.0, 10.0])
def test_rules_5_and_6_are_stable_exactly_below_the_bound(rng, rule, kappa):
    hessian = indefinite(rng, 4, kappa)
    spectra = convergence.target(hessian).spectra
    start = near(hessian)
    for side in (0.95, 1.05):
        step = side * stable_step(kappa)
        times, distances = simulate(hessian, step, 300, rule=rule, start=start)
        rate = float(predicted_rate(spectra, step, geometry="QE"))
        if side < 1:
            assert distances[-1] < 1e-3 * distances[0]
            assert rate == pytest.approx(last_rate(times, distances), rel=0.1)
        else:
            assert distances[-1] > 1
            assert rate < 0


def test_stable_step_is_one_for_small_kappa_and_four_over_kappa_for_large():
    assert stable_step(1) == stable_step(2.4) == 1
    assert stable_step(2.45) < 1
    kappa = 7.0
    assert stable_step(kappa) == pytest.approx(4 * kappa**2 / ((kappa + 1) * (kappa**2 + 1)), rel=1e-14)
    assert stable_step(1e6) == pytest.approx(4e-6, rel=1e-5)
    assert 0 < stable_step(1e300) < 1e-299
    for bad in (0.5, float("nan")):
        with pytest.raises(ValueError, match="`kappa` must be a condition number"):
            stable_step(bad)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=6),
    st.floats(0.01, 0.99),
    st.sampled_from(["EQ", "QE"]),
)
def test_predicted_rate_is_the_slowest_of_all_modes(values, step, geometry):
    h = np.array(values)
    modes = [2 * (x + y) if geometry == "EQ" else (x + y) * (x**2 + y**2) / (x * y) for x in h for y in h]
    factors = [abs(1 - step * mode / (2 * h.max())) for mode in modes]
    want = -math.log(max(factors)) if max(factors) > 0 else math.inf
    got = float(predicted_rate((h[:, None],), step, geometry=geometry))
    assert math.exp(-got) == pytest.approx(math.exp(-want), rel=1e-12, abs=1e-14)


def test_predicted_rate_on_every_library(backend):
    spectra = (np.array([[3.0]]), np.array([[1.0, 2.0], [4.0, 2.5]]))  # kappa 1, 4 and 1.25
    rate = backend.jit(lambda *s: predicted_rate(s, 0.25))(*map(backend.asarray, spectra))
    assert rate.dtype == backend.dtype
    assert float(rate) == pytest.approx(-math.log(1 - 2 * 0.25 / 4), rel=20 * backend.eps)
    shared = predicted_rate(tuple(map(backend.asarray, spectra)), 0.25, per_orbit=False)
    assert float(shared) == pytest.approx(-math.log(1 - 2 * 0.25 / 4), rel=20 * backend.eps)
    one = (backend.asarray(np.ones((1, 3))),)
    assert float(predicted_rate(one, 0.5)) == math.inf


def test_predicted_rate_refuses_what_is_no_spectrum():
    with pytest.raises(ValueError, match="`spectra` must hold an array"):
        predicted_rate((), 0.5)
    with pytest.raises(ValueError, match=r"`spectra\[1\]` must have shape \(s, c\)"):
        predicted_rate((np.ones((1, 1)), np.ones(3)), 0.5)
    with pytest.raises(TypeError, match=r"`spectra\[0\]` must be float32 or float64"):
        predicted_rate((np.ones((1, 1), int),), 0.5)
    with pytest.raises(ValueError, match="`geometry` must be one of"):
        predicted_rate((np.ones((1, 1)),), 0.5, geometry="up")


# -- fits ------------------------------------------------------------------------------------------------

TIMES = np.arange(0, 3001, 30)
LOG_TIMES = np.concatenate([[0], np.unique(np.geomspace(1, 3000, 60).astype(int))])


def scatter(size, seed, n=TIMES.size):
    return np.exp(size * np.random.default_rng(seed).standard_normal(n))


@pytest.mark.parametrize(
    ("times", "curve", "rate", "floor", "tolerance"),
    [
        (TIMES, lambda t: np.exp(-0.01 * t), 0.01, 0, 1e-9),
        (TIMES, lambda t: np.hypot(np.exp(-0.01 * t), 1e-9 * scatter(0.2, 0)), 0.01, 1e-9, 0.005),
        (TIMES, lambda t: np.exp(-0.01 * t) + 1e-9, 0.01, 1e-9, 0.005),
        (LOG_TIMES, lambda t: np.hypot(np.exp(-0.01 * t), 1e-9), 0.01, 1e-9, 0.005),
        (TIMES, lambda t: np.exp(-0.002 * t) + 10 * np.exp(-0.02 * t), 0.002, 0, 0.03),
        (TIMES, lambda t: np.hypot(np.exp(-0.01 * t) + 100 * np.exp(-0.1 * t), 1e-8), 0.01, 1e-8, 0.02),
        (TIMES, lambda t: np.hypot(np.exp(-0.2 * t), 1e-15 * scatter(0.3, 0)), 0.2, 1e-15, 0.005),
        (TIMES, lambda t: np.exp(-2e-5 * t) + 10 * np.exp(-0.02 * t), 2e-5, 0, 0.05),
        (TIMES, lambda t: np.exp(0.001 * t), -0.001, 0, 1e-9),
    ],
    ids=["pure", "rounding", "added floor", "log-spaced", "transient", "both", "fast", "slow", "growing"],
)
def test_fit_finds_rate_and_floor(times, curve, rate, floor, tolerance):
    fit = fit_rate(times, curve(times))
    assert fit.rate == pytest.approx(rate, rel=tolerance)
    assert fit.floor == pytest.approx(floor, rel=0.15)
    assert fit.r2 > 0.99
    assert times[0] <= fit.start < fit.stop <= times[-1]
    assert fit.points == np.sum((times >= fit.start) & (times <= fit.stop))


@pytest.mark.parametrize("seed", range(5))
def test_fit_under_noise(seed):
    noise = scatter(0.3, seed)
    fit = fit_rate(TIMES, np.hypot(np.exp(-0.005 * TIMES), 1e-3) * noise)
    assert fit.rate == pytest.approx(0.005, rel=0.1)
    assert fit.floor == pytest.approx(1e-3, rel=0.25)
    fit = fit_rate(TIMES, np.exp(-0.002 * TIMES) * noise)
    assert fit.rate == pytest.approx(0.002, rel=0.05)
    assert fit.floor == 0
    # a curve that never moves has no rate
    fit = fit_rate(TIMES, noise)
    assert abs(fit.rate) < 2e-4


def test_fit_takes_a_known_floor_and_leaves_out_what_is_no_distance():
    d = np.hypot(np.exp(-0.01 * TIMES), 1e-9)
    assert fit_rate(TIMES, d, floor=1e-9).rate == pytest.approx(0.01, rel=1e-6)
    d = np.exp(-0.01 * TIMES)
    d[3], d[5], d[50:] = np.nan, np.inf, 0.0
    assert fit_rate(TIMES, d).rate == pytest.approx(0.01, rel=1e-9)
    # one checkpoint above the floor: a lower bound of the rate, marked by its two points
    d = np.full(TIMES.size, 1e-15)
    d[0] = 1.0
    fit = fit_rate(TIMES, d)
    assert fit.points == 2
    assert fit.rate == pytest.approx(math.log(1e15) / 30, rel=1e-9)


def test_fit_refuses_what_it_cannot_fit():
    with pytest.raises(ValueError, match="`distances` must be as long as `updates`"):
        fit_rate([1, 2, 3], [1.0, 2.0])
    with pytest.raises(ValueError, match="`updates` must increase"):
        fit_rate([1, 2, 2, 3], [1.0, 0.9, 0.8, 0.7])
    with pytest.raises(ValueError, match="at least 4 finite positive values, got 2"):
        fit_rate([1, 2, 3, 4], [1.0, np.nan, 0.0, 2.0])


def test_fit_agrees_with_theory_on_a_whole_run(rng):
    """From far away, through the transient, to rounding: kappa = 100, n = 16, step 0.9."""
    hessian = indefinite(rng, 16, 100.0)
    times, distances = simulate(hessian, 0.9, 2500, start=0.1 * np.eye(16))
    assert distances[-1] < 1e-11
    fit = fit_rate(times, distances)
    assert fit.rate == pytest.approx(-math.log(1 - 2 * 0.9 / 100), rel=0.03)


# -- traces ----------------------------------------------------------------------------------------------


def test_a_trace_records_any_librarys_scalars_and_survives_json(backend):
    target = convergence.target(backend.asarray(np.diag([1.0, -2.0])))
    trace = Trace("Dense")
    for t, scale in ((0, 1.0), (10, 0.5), (20, np.nan)):
        errors = convergence.measure(backend.asarray(scale * np.eye(2)), target)
        trace.record(t, **errors._asdict(), step=0.5)
    assert trace.updates == [0, 10, 20]
    assert all(type(x) is float for x in trace.distance)
    want = np.sqrt((np.log(1.0) ** 2 + np.log(2.0) ** 2) / 2)
    assert trace.distance[0] == pytest.approx(want, rel=20 * backend.eps)
    assert math.isnan(trace.distance[2])
    assert all(map(math.isnan, trace.criterion))
    trace.gap[1] = math.inf
    again = Trace.from_dict(json.loads(json.dumps(trace.as_dict(), allow_nan=False)))
    for column in ("updates", "distance", "residual", "gap", "criterion", "step"):
        np.testing.assert_array_equal(again.column(column), trace.column(column))
    assert again.name == "Dense"
    assert len(again) == 3


def test_the_repr_of_a_trace_is_short():
    trace = Trace("XMat")
    assert repr(trace) == "Trace('XMat', no records)"
    for t in range(1000):
        trace.record(t, distance=2.0**-t)
    assert repr(trace) == "Trace('XMat', 1000 records, updates 0 to 999, distance 1 -> 1.9e-301)"
    assert repr(Trace()) == "Trace(no records)"


def test_bad_records_are_refused():
    trace = Trace()
    trace.record(5, distance=1.0)
    with pytest.raises(ValueError, match="`updates` must increase from record to record, got 5 after 5"):
        trace.record(5)
    with pytest.raises(TypeError, match="`values` must be named among distance"):
        trace.record(6, loss=1.0)
    with pytest.raises(ValueError, match="`name` must be one of 'updates', 'distance'"):
        trace.column("loss")
    data = trace.as_dict()
    with pytest.raises(ValueError, match="`data` must have the keys"):
        Trace.from_dict({k: x for k, x in data.items() if k != "gap"})
    with pytest.raises(ValueError, match="`data` must have 1 values in every column"):
        Trace.from_dict(data | {"gap": [1.0, 2.0]})
    assert len(trace) == 1


def test_level_is_the_median_of_the_end():
    assert convergence.level([9, 9, 9, 9, 9, 9, 9, 9, 1, 3]) == 2
    assert convergence.level([4.0]) == 4
    assert convergence.level(range(10), 1) == 4.5
    with pytest.raises(ValueError, match="`fraction` must lie in"):
        convergence.level([1.0], 0)
    with pytest.raises(ValueError, match="`values` must not be empty"):
        convergence.level([])


# -- verdicts --------------------------------------------------------------------------------------------


def traced(values, column="distance", times=TIMES):
    trace = Trace()
    for t, x in zip(times, values, strict=False):
        trace.record(int(t), **{column: x})
    return trace


@pytest.mark.parametrize(
    ("curve", "rate", "status"),
    [
        (np.hypot(np.exp(-0.02 * TIMES), 1e-14), 0.02, Status.CONVERGED),
        (np.hypot(np.exp(-0.02 * TIMES), 1e-14), None, Status.CONVERGED),
        (np.hypot(np.exp(-0.02 * TIMES), 1e-14), 0.018, Status.CONVERGED),
        (np.hypot(np.exp(-0.02 * TIMES), 1e-14), 0.04, Status.SLOW),
        (np.exp(-0.002 * TIMES), 0.002, Status.UNFINISHED),
        (np.hypot(np.exp(-0.02 * TIMES), 1e-3), 0.02, Status.STALLED),
        (np.full(TIMES.size, 0.5), None, Status.STALLED),
        (np.full(TIMES.size, 3e-16), 0.02, Status.CONVERGED),
        (3e-16 * (1 + TIMES), 0.02, Status.CONVERGED),
        (np.exp(0.01 * TIMES), 0.02, Status.DIVERGED),
        (np.where(TIMES < 300, 1.0, np.nan), 0.02, Status.DIVERGED),
        (np.where(TIMES < 30, 1.0, 1e-15), 2.3, Status.CONVERGED),
        (np.where(TIMES < 30, 1.0, 0.0), 2.3, Status.CONVERGED),
        (np.ones(3), None, Status.TOO_SHORT),
    ],
)
def test_linear_to_rounding(curve, rate, status):
    verdict = judge(traced(curve), LinearToRounding(bound=1e-10, rate=rate))
    assert verdict.status is status
    assert verdict.passed == (status is Status.CONVERGED)
    assert len(verdict.reason) > 10
    assert "\n" not in verdict.reason


def test_falling_floor():
    flat = np.hypot(np.exp(-0.02 * TIMES), 1e-5)
    assert judge(traced(flat, "gap"), FallingFloor(reference=1e-3, bound=1e-4)).status is Status.FLOOR_FELL
    assert (
        judge(traced(flat, "gap"), FallingFloor(reference=1.5e-5, bound=1e-4)).status is Status.FLOOR_STAYED
    )
    assert judge(traced(flat, "gap"), FallingFloor(reference=1e-3, bound=1e-6)).status is Status.STALLED
    expectation = FallingFloor(reference=1e-3, bound=1e-4, column="distance")
    assert judge(traced(flat), expectation).passed
    assert judge(traced(np.exp(0.01 * TIMES), "gap"), FallingFloor(1.0, 1.0)).status is Status.DIVERGED


def test_tracks():
    wobble = 0.05 * (1 + 0.5 * np.sin(TIMES / 100)) + np.exp(-0.01 * TIMES)
    assert judge(traced(wobble), Tracks(0.1)).status is Status.TRACKED
    assert judge(traced(wobble), Tracks(0.01)).status is Status.LOST
    assert judge(traced(wobble[:2]), Tracks(1.0)).status is Status.TOO_SHORT
