"""`psgd verify` where theory is at its ends: modes that vanish at once, signs that are rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psgd_analysis.verify import report
from psgd_analysis.verify.cases import Case, Sizes, situation_of
from psgd_analysis.verify.families import OWN
from psgd_analysis.verify.run import Options, planned, run_case
from psgd_analysis.verify.stops import LinearDescent, Settled, descent
from psgd_analysis.verify.theory import Asked, lengths, measurable, needed, reachable, tolerance, uneven
from psgd_core.convergence import Status, Trace


def trace_of(distances):
    trace = Trace()
    for i, d in enumerate(distances):
        trace.record(i, distance=d, gap=d)
    return trace


# -- modes that vanish in one update -------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [math.inf, 36.7, 100.0, 3.0, 0.1, 0.0, -0.5])
@pytest.mark.parametrize("steps", [None, 10, 50, 1000])
def test_any_rate_makes_a_plan(rate, steps):
    asked = Asked(steps=steps)
    updates, every = lengths(asked, rate)
    assert updates >= 10
    assert 1 <= every <= updates
    assert 0.25 <= tolerance(0.25, asked, rate) <= 0.5
    assert 1 <= needed(asked, rate) < math.inf
    bound = reachable(1e-10, rate, updates)
    assert bound == 10 if updates <= 100 and rate > 0 else bound >= 1e-10
    assert measurable(asked, rate) == (rate < 1.8)


@pytest.mark.parametrize("kappa", [1.0, 1 + 2.0**-52, 1.001])
@pytest.mark.parametrize(
    "case", ["dense/definite/exact", "xmat/indefinite/exact", "sparse-klein/definite/whitening"]
)
def test_where_all_modes_vanish_in_an_update_only_the_end_counts(case, kappa):
    """At step 1/2 and kappa = 1 every mode's factor is 0 to first order, or rounding: neither is a rate."""
    options = Options(Sizes(n=8, kappa=kappa), step=0.5)
    case = Case(*case.split("/"))
    assert planned(case, options).rate is None
    outcome = run_case(case, options)
    assert outcome.status == Status.CONVERGED.name
    assert outcome.predicted is None
    assert outcome.final < 1e-10


@pytest.mark.parametrize("kappa", [4.0, 100.0, 1000.0])
def test_orbits_of_one_element_at_step_one_half(kappa):
    """A diagonal is of condition number 1 on each of its orbits, whatever H's is."""
    outcome = run_case(Case("diagonal", "indefinite", "exact"), Options(Sizes(kappa=kappa), step=0.5))
    assert outcome.passed
    assert outcome.predicted is None


def test_a_way_down_of_few_records_is_judged_by_the_whole_curve():
    """Cut at ten times its floor it would have too few records for a verdict, or just enough, by rounding."""
    for fall in ([1.0], [1.0, 1e-6], [1.0, 1e-4, 1e-9], [1.0, 0.01, 1e-5, 1e-9]):
        flat = trace_of(fall + [1e-15, 2e-15] * 20)
        assert (descent(flat) is flat) == (len(fall) < 3)
        assert LinearDescent(1e-10, 0.5).judge(flat).status is Status.CONVERGED
    longer = trace_of([1.0, 1e-3, 1e-6, 1e-9] + [1e-15, 2e-15] * 20)
    assert len(descent(longer)) == 5


def test_a_run_that_has_come_to_zero_may_end():
    assert Settled(1e-10)(trace_of([1.0, 1e-3] + [0.0] * 30))
    assert not Settled(1e-10)(trace_of([10.0**-i for i in range(40)]))


def test_a_fit_that_starts_at_rounding_has_not_diverged_by_growing_there():
    assert report.fate(trace_of([1e-16, 5e-16, 9e-16]), "exact", 2.0**-52) == "converges"
    assert report.fate(trace_of([1e-16, 5e-3, 0.9]), "exact", 2.0**-52) == "diverges"


# -- what rounding must not decide ---------------------------------------------------------------------------


def own(hessian, name="xmat"):
    return situation_of(Case(name, OWN.name, "exact"), Sizes(hessian=np.asarray(hessian, dtype=float)))


@pytest.mark.parametrize("sign", [1, -1])
def test_an_eigenvalue_that_is_rounding_makes_no_h_definite(sign):
    tiny = sign * 1e-16
    assert not own(np.diag([1.0, 2.0, 1.5, tiny])).definite
    assert own(np.diag([1.0, 2.0, 1.5, 1e-13])).definite
    assert not own(np.diag([1.0, 2.0, 1.5, -1e-13])).definite


@pytest.mark.parametrize("factor", [1 - 2.0**-52, 1.0, 1 + 2.0**-52])
def test_scales_a_thousand_apart_are_on_one_side_however_they_round(factor):
    assert not uneven(own(np.diag([1.0, 3.0, 10.0, 1000.0 * factor]), "diagonal"))
    assert uneven(own(np.diag([1.0, 3.0, 10.0, 2000.0 * factor]), "diagonal"))


@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e5, 1e6])
def test_a_kronecker_product_is_inside_whatever_its_condition(kappa):
    """The minimiser is known to ``eps kappa^2``: at kappa = 1e5 that is more than 1e-6."""
    rng = np.random.default_rng(3)
    parts = []
    for _ in range(2):
        turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        parts.append(turn @ np.diag(np.geomspace(1, kappa**0.5, 3)) @ turn.T)
    h = np.kron(*parts)
    assert own((h + h.T) / 2, "kronecker").inside
    outside = np.diag(np.arange(1.0, 10.0)) + 0.3
    assert not own(outside, "kronecker").inside
