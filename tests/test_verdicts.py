"""Fits and verdicts do not hang on the last bit: flat floors, scaled curves, thresholds that are just met."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psgd_core.convergence import FallingFloor, LinearToRounding, Status, Trace, Tracks, fit_rate, judge

TIMES = np.arange(0, 3001, 30)
properties = settings(deadline=None, derandomize=True, max_examples=150)


def traced(times, distances, column="distance"):
    trace = Trace()
    for t, x in zip(times, distances, strict=True):
        trace.record(int(t), **{column: x})
    return trace


def ulps(level, counts, dtype=np.float64):
    """Return values so many units in the last place above a level."""
    level = dtype(level)
    return (level + np.asarray(counts) * np.spacing(level)).astype(np.float64)


def noise(seed, size, n=TIMES.size):
    return np.exp(size * np.random.default_rng(seed).standard_normal(n))


@st.composite
def curves(draw):
    """Return distances at TIMES from 1 down (or up): with floors or none, noise, transients, plateaus."""
    rate = draw(st.floats(1e-4, 1.0))
    floor = 10.0 ** draw(st.floats(-16, -2))
    size = draw(st.sampled_from([0.0, 0.03, 0.3]))
    random = noise(draw(st.integers(0, 10**6)), size)
    half = TIMES.size // 2
    kinds = {
        "decay": np.exp(-rate * TIMES / 10),
        "floor": np.hypot(np.exp(-rate * TIMES), floor),
        "added": np.exp(-rate * TIMES) + floor,
        "drop": np.where(np.arange(TIMES.size) < draw(st.integers(1, 60)), 1.0, floor),
        "halfway": np.where(np.arange(TIMES.size) < half, floor ** (np.arange(TIMES.size) / half), floor),
        "transient": np.exp(-rate * TIMES / 100) + 10 * np.exp(-rate * TIMES),
        "constant": np.full(TIMES.size, floor),
        "growing": floor * np.exp(rate * TIMES / 100),
        "hump": np.where(np.arange(TIMES.size) == draw(st.integers(1, 40)), 1.0, floor),
    }
    return kinds[draw(st.sampled_from(sorted(kinds)))] * random


# -- flat floors -----------------------------------------------------------------------------------------


@properties
@given(
    st.floats(-300, -1),
    st.lists(st.integers(0, 64), min_size=100, max_size=100),
    st.sampled_from([np.float64, np.float32]),
    st.integers(1, 50),
)
def test_a_floor_that_is_flat_to_rounding_is_found_at_any_level(exponent, counts, dtype, above):
    level = 10.0 ** max(exponent, -37.0 if dtype is np.float32 else -300.0)
    scale = ulps(level, 8 * np.array(counts) if dtype is np.float64 else np.array(counts) % 5, dtype)
    d = np.concatenate([np.full(above, 1.0), scale[above - 1 :]])
    fit = fit_rate(np.arange(101.0), d)
    assert fit.floor == pytest.approx(level, rel=1e-6)
    assert fit.points == (2 if above < 3 else above)
    if above == 1:
        assert fit.rate == pytest.approx(-math.log(level), rel=1e-6)


@pytest.mark.parametrize("level", [5e-324, 1e-320, 2.2250738585072014e-308, 1e-9, 0.49])
@pytest.mark.parametrize("size", [4, 5, 9, 40])
def test_floors_are_found_on_short_traces_and_among_subnormals(level, size):
    fit = fit_rate(range(size), [1.0, *[level] * (size - 1)])
    assert fit.floor == level
    assert fit.rate == pytest.approx(-math.log(level), rel=1e-12)


@pytest.mark.parametrize("level", [5e-324, 0.1, 1 / 3, 1.7e308])
@pytest.mark.parametrize("size", [4, 7, 101])
def test_an_exactly_constant_curve_has_rate_zero(level, size):
    fit = fit_rate(np.arange(size) * 0.1, np.full(size, level))
    assert (fit.rate, fit.floor, fit.r2, fit.points) == (0.0, 0.0, 1.0, size)


@properties
@given(st.floats(-300, 300), st.lists(st.integers(0, 1000), min_size=4, max_size=60))
def test_a_curve_that_is_constant_but_for_its_last_bits_is_flat(exponent, counts):
    d = ulps(10.0**exponent, counts)
    fit = fit_rate(range(d.size), d)
    assert abs(fit.rate) <= 1001 * 2.0**-52
    assert (fit.floor, fit.r2, fit.points) == (0.0, 1.0, d.size)
    assert fit_rate(range(d.size), d, floor=d[-1]).points == d.size


@pytest.mark.parametrize("level", [1e-15, 3e-14, 7e-12])
def test_a_fall_in_one_record_has_the_verdict_of_its_end(level):
    for bits in (0, 1, 3, 17):
        d = np.where(TIMES < 30, 1.0, ulps(level, bits * (np.arange(TIMES.size) % 3)))
        assert judge(traced(TIMES, d), LinearToRounding(1e-10, 2.3)).status is Status.CONVERGED


def test_a_floor_that_is_reached_halfway_or_at_the_very_end():
    fall = 0.8 ** np.arange(101)
    halfway = fit_rate(range(101), np.maximum(fall, 0.8**50))
    assert halfway.floor == 0.8**50
    assert halfway.rate == pytest.approx(-math.log(0.8), rel=0.01)
    last = fit_rate(range(101), fall)
    assert last.floor == 0
    assert last.points == 101
    assert last.rate == pytest.approx(-math.log(0.8), rel=1e-12)


def test_ten_floors_are_near_the_floor_however_they_round():
    for level in 10.0 ** np.random.default_rng(1).uniform(-16, -3, 100):
        d = level * np.array([1e4, 1e3, 100.0, 10.0, *[1.0] * 30])
        assert fit_rate(range(34), d).points == 3


# -- curves that say the same ----------------------------------------------------------------------------


@properties
@given(curves(), st.integers(-900, 900))
def test_a_power_of_two_changes_the_unit_and_nothing_else(d, exponent):
    exponent = max(exponent, -1000 - math.frexp(float(d.min()))[1])  # scaled without rounding
    one, two = fit_rate(TIMES, d), fit_rate(TIMES, np.ldexp(d, exponent))
    assert two == one._replace(floor=math.ldexp(one.floor, exponent))
    clock = math.ldexp(1.0, exponent // 4)
    three = fit_rate(TIMES * clock, d)
    assert three == one._replace(rate=one.rate / clock, start=one.start * clock, stop=one.stop * clock)


def assert_the_same_to_rounding(one, two, factor=1.0, clock=1.0):
    assert two.points == one.points
    assert (two.start, two.stop) == pytest.approx((clock * one.start, clock * one.stop), rel=1e-12)
    assert two.floor == pytest.approx(factor * one.floor, rel=1e-9)
    assert two.rate * clock == pytest.approx(one.rate, rel=1e-6, abs=1e-11)


@properties
@given(curves(), st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.integers(0, 10**6))
def test_units_and_rounding_change_a_fit_by_rounding_only(d, factor, clock, seed):
    one = fit_rate(TIMES, d)
    assert_the_same_to_rounding(one, fit_rate(TIMES, factor * d), factor)
    assert_the_same_to_rounding(one, fit_rate(clock * TIMES, d), clock=clock)
    rng = np.random.default_rng(seed)
    moved = d * (1 + 1e-12 * rng.uniform(-1, 1, d.size))
    later = TIMES * (1 + 1e-12 * rng.uniform(-1, 1, d.size))
    assert_the_same_to_rounding(one, fit_rate(later, moved))


@properties
@given(curves(), st.floats(-15, -1), st.floats(1e-5, 1), st.floats(1e-6, 1e6), st.integers(0, 10**6))
def test_verdicts_are_stable_under_rounding_and_units(d, bound, rate, factor, seed):
    """A bound or rate at which a drawn curve's verdict turns has probability zero, and is drawn nowhere."""
    level = 10.0**bound
    moved = d * (1 + 1e-12 * np.random.default_rng(seed).uniform(-1, 1, d.size))
    for make in (lambda c: LinearToRounding(c * level, rate), lambda c: Tracks(c * level)):
        status = judge(traced(TIMES, d), make(1)).status
        assert judge(traced(TIMES, moved), make(1)).status is status
        assert judge(traced(TIMES, factor * d), make(factor)).status is status
    falling = [
        judge(traced(TIMES, x, "gap"), FallingFloor(c * 3 * level, c * level, 3.0)).status
        for x, c in ((d, 1), (moved, 1), (factor * d, factor))
    ]
    assert len(set(falling)) == 1


# -- thresholds that are just met ------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.1, 0.3, 0.7, 1e-10, 3e-5])
def test_a_bound_that_is_met_is_kept_by_whatever_route_it_was_computed(level):
    for end in (level, np.nextafter(level, 1), (level / 3) * 3, level * (1 + 1e-12)):
        d = np.concatenate([np.geomspace(1, end, 60), np.full(41, end)])
        assert judge(traced(TIMES, d), LinearToRounding(level)).passed
        assert judge(traced(TIMES, np.full(101, end)), Tracks(level)).passed
        gap = traced(TIMES, np.full(101, end), "gap")
        assert judge(gap, FallingFloor(reference=3 * level, bound=level, ratio=3.0)).passed
    d = np.full(101, level * (1 + 1e-5))
    assert not judge(traced(TIMES, d), LinearToRounding(level)).passed
    assert not judge(traced(TIMES, d), Tracks(level)).passed
    assert not judge(traced(TIMES, d, "gap"), FallingFloor(3 * level, 2 * level, 3.0)).passed


@pytest.mark.parametrize("rate", [0.004, 0.01, 0.03, 0.07])
def test_a_rate_that_is_just_fast_enough_passes(rate):
    d = traced(TIMES, np.exp(-rate * TIMES))
    bound = math.exp(-rate * 3000)
    assert judge(d, LinearToRounding(bound, rate / 0.75, 0.25)).passed
    assert judge(d, LinearToRounding(bound, 1.001 * rate / 0.75, 0.25)).status is Status.SLOW


def test_a_fall_by_just_e_is_not_told_apart_by_rounding():
    for size in (1.0, 0.3, 1e-7, 1 / 3):
        d = size * np.exp(-TIMES / 3000)
        assert judge(traced(TIMES, d), LinearToRounding(1e-10)).status is Status.STALLED
    assert judge(traced(TIMES, np.exp(-1.01 * TIMES / 3000)), LinearToRounding(1e-10)).status is (
        Status.UNFINISHED
    )


# -- what is no distance ---------------------------------------------------------------------------------


def test_zeros_and_what_is_not_finite_are_left_out_of_fits():
    d = np.hypot(np.exp(-0.01 * TIMES), 1e-7)
    gaps = np.where(np.arange(TIMES.size) % 7 == 3, np.nan, d)
    gaps[5], gaps[-2] = np.inf, 0.0
    fit = fit_rate(TIMES, gaps)
    assert fit.rate == pytest.approx(0.01, rel=0.005)
    assert fit.floor == pytest.approx(1e-7, rel=1e-3)


@pytest.mark.parametrize("start", [[np.nan], [np.inf], [np.nan, np.inf, np.nan]])
def test_a_trace_that_starts_without_a_number_is_judged_by_its_first_one(start):
    size = 60 - len(start)
    fall = traced(range(60), [*start, *np.geomspace(1, 1e-12, size)])
    assert judge(fall, LinearToRounding(1e-10)).status is Status.CONVERGED
    rise = traced(range(60), [*start, *np.geomspace(1e-3, 1, size)])
    assert judge(rise, LinearToRounding(1e-10)).status is Status.DIVERGED


@pytest.mark.parametrize(
    ("d", "status"),
    [
        ([1.0, 0.0, 0.0, 0.0], Status.CONVERGED),
        ([0.0] * 20, Status.CONVERGED),
        ([1.0, 0.1, *[0.0] * 20], Status.CONVERGED),
        ([1.0, *[5e-324] * 20], Status.CONVERGED),
        ([1.0, 0.5, np.nan, np.nan], Status.DIVERGED),
        ([np.nan] * 4, Status.DIVERGED),
        ([1e308] * 20, Status.STALLED),
    ],
)
def test_zeros_subnormals_and_the_largest_numbers_have_verdicts(d, status):
    verdict = judge(traced(range(len(d)), d), LinearToRounding(1e-10, 0.5))
    assert verdict.status is status


def test_fit_refuses_updates_and_floors_that_are_no_numbers():
    d = [1.0, 0.5, 0.25, 0.125]
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="`updates` must be finite"):
            fit_rate([0, 1, 2, bad], d)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="`floor` must be finite and not negative"):
            fit_rate(range(4), d, floor=bad)
    assert fit_rate(range(4), d, floor=0).rate == pytest.approx(math.log(2), rel=1e-12)
    assert fit_rate(range(4), d, floor=2.0).rate == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("bad", ["abc", None, "1.5", b"2", 1j, [1.0]])
def test_what_is_no_number_is_refused_by_name_and_nothing_is_recorded(bad):
    with pytest.raises(TypeError, match=r"`distances\[2\]` must be a number"):
        fit_rate(range(4), [1.0, 0.5, bad, 0.1])
    with pytest.raises(TypeError, match=r"`updates\[0\]` must be a number"):
        fit_rate([bad, 1, 2, 3], [1.0, 0.5, 0.2, 0.1])
    trace = Trace()
    with pytest.raises(TypeError, match="`distance` must be a number"):
        trace.record(1, gap=1.0, distance=bad)
    with pytest.raises(TypeError, match="`updates` must be a number"):
        trace.record(bad, distance=1.0)
    assert (len(trace), trace.distance) == (0, [])
    for values in ("abc", 3.0, None):
        with pytest.raises(TypeError, match="`distances` must be a sequence of numbers"):
            fit_rate(range(4), values)
    if bad is not None:
        with pytest.raises(TypeError, match="`floor` must be a number"):
            fit_rate(range(4), [1.0, 0.5, 0.2, 0.1], floor=bad)


@pytest.mark.parametrize("updates", [2.5, np.nan, np.inf])
def test_updates_are_whole_numbers(updates):
    trace = Trace()
    trace.record(np.int64(2), distance=1.0)
    with pytest.raises(ValueError, match="`updates` must be a whole number"):
        trace.record(updates, distance=0.5)
    trace.record(np.asarray(3.0), distance=0.5)
    assert trace.updates == [2, 3]
