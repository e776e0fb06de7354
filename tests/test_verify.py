"""`psgd verify`, its parts: rivals, Hessians, stops and verdicts, runs on every library, tables and data."""

from __future__ import annotations

import json
import math
import pickle
from fnmatch import fnmatchcase

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from psgd_analysis.backends import LIBRARIES, Backend, Unavailable
from psgd_analysis.documents import as_json
from psgd_analysis.sweeps import Stopped
from psgd_analysis.verify import comparison, pool, report
from psgd_analysis.verify.baselines import BFGS, ClosedForm, best_below
from psgd_analysis.verify.cases import CHOSEN, Case, Sizes, chosen, situation_of, table
from psgd_analysis.verify.entries import BASES, ENTRIES
from psgd_analysis.verify.families import FAMILIES, OWN
from psgd_analysis.verify.page import page
from psgd_analysis.verify.run import Options, Source, run_case
from psgd_analysis.verify.settings import SETTINGS, Steps
from psgd_analysis.verify.stops import Below, GapBelow, LinearDescent, Settled, descent
from psgd_analysis.verify.theory import lag, online_rate
from psgd_core import convergence
from psgd_core.convergence import Status, Trace
from psgd_core.preconditioners.geometries import GEOMETRIES

INSTALLED = []
for name in LIBRARIES:
    try:
        Backend(name).require()
    except Unavailable:
        continue
    INSTALLED.append(name)


def small(**kwargs):
    return Options(sizes=Sizes(**({"n": 6, "kappa": 4.0} | kwargs)))


def trace_of(distances, gaps=None):
    trace = Trace("made up")
    for i, d in enumerate(distances):
        trace.record(10 * i, distance=d, gap=d if gaps is None else gaps[i])
    return trace


# -- the rivals ------------------------------------------------------------------------------------------


def test_bfgs_is_the_textbook_formula_and_meets_the_secant_condition(backend, rng):
    n = 5
    root = rng.standard_normal((n, n))
    hessian = root @ root.T + np.eye(n)
    fitter, state = BFGS(), None
    update = backend.jit(fitter.update)
    state = fitter.init(n, backend.asarray(np.zeros(n)))
    expected = None
    for _ in range(4):
        v = rng.standard_normal(n)
        h = hessian @ v
        state = update(state, backend.asarray(v), backend.asarray(h))
        if expected is None:
            expected = np.eye(n) * (v @ h) / (h @ h)
        left = np.eye(n) - np.outer(v, h) / (v @ h)
        expected = left @ expected @ left.T + np.outer(v, v) / (v @ h)
    p = backend.numpy(fitter.matrix(state))
    np.testing.assert_allclose(p, expected, rtol=0, atol=2e3 * backend.eps)
    np.testing.assert_allclose(p @ h, v, rtol=0, atol=2e3 * backend.eps)


def test_bfgs_skips_negative_curvature_and_counts_it():
    fitter = BFGS()
    state = fitter.init(2, np.zeros(2))
    after = fitter.update(state, np.array([1.0, 0.0]), np.array([-1.0, 0.0]))
    assert np.array_equal(after.p, state.p)
    assert (after.count, after.skipped) == (0, 1)


def test_closed_form_is_the_mean_and_waits_for_n_pairs(backend64, rng):
    n, pairs = 4, rng.standard_normal((7, 4))
    fitter = ClosedForm()
    update = backend64.jit(fitter.update)
    state = fitter.init(n, backend64.asarray(np.zeros(n)))
    for i, h in enumerate(pairs):
        state = update(state, backend64.asarray(h), backend64.asarray(h))
        p = backend64.numpy(fitter.matrix(state))
        assert np.all(np.isnan(p)) == (i + 1 < n)
    expected = np.linalg.inv(scipy.linalg.sqrtm(pairs.T @ pairs / len(pairs)).real)
    np.testing.assert_allclose(p, expected, rtol=1e-9)
    q = backend64.numpy(fitter.apply(state, backend64.asarray(np.eye(n))))
    np.testing.assert_allclose(q.T @ q, expected, rtol=1e-9, atol=1e-12)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 10**6), rank=st.integers(0, 3))
def test_no_identity_plus_low_rank_comes_closer_than_best_below(seed, rank):
    rng = np.random.default_rng(seed)
    n = 6
    magnitudes = np.exp(rng.standard_normal(n))
    bound = best_below(magnitudes, rank)

    def distance(p):
        root = np.sqrt(np.diag(magnitudes))
        return np.linalg.norm(np.log(np.linalg.eigvalsh(root @ p @ root))) / np.sqrt(n)

    for _ in range(3):
        u = rng.standard_normal((n, rank)) * np.exp(rng.standard_normal())
        assert distance(np.exp(rng.standard_normal()) * np.eye(n) + u @ u.T) >= bound * (1 - 1e-9)
    order = np.argsort(magnitudes)  # and one does come that close
    rho = np.exp(-np.mean(np.log(magnitudes[order[rank:]])))
    values = np.where(np.isin(np.arange(n), order[:rank]), 1 / magnitudes, rho)
    assert np.all(values >= rho * (1 - 1e-12))
    assert distance(np.diag(values)) == pytest.approx(bound, abs=1e-12)


# -- the table of cases ----------------------------------------------------------------------------------


def test_table_has_everything_once_and_nothing_that_makes_no_sense():
    cases = table(Sizes())
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    for part, known in (("preconditioner", ENTRIES), ("problem", FAMILIES), ("setting", SETTINGS)):
        assert {getattr(case, part) for case in cases} == set(known)
    assert not any(fnmatchcase(name, "dense*/outside/*") for name in names)  # nothing is outside GL(n)
    assert not any(fnmatchcase(name, "*/drifting/exact*") for name in names)
    assert not any(fnmatchcase(name, "xmat/indefinite/online*") for name in names)  # a floor is left there
    assert "diagonal/indefinite/online/gaussian" in names  # but not for orbits of one
    assert {"xmat/outside/outside/gaussian", "xmat/outside/outside/rademacher"} <= set(names)
    assert sum(fnmatchcase(name, "lowrank/low-rank/online/*") for name in names) == 10
    turned = [name for name in names if name.split("/")[0] in set(ENTRIES) - set(BASES)]
    assert all(fnmatchcase(name, "*/*/exact") or fnmatchcase(name, "*/*/whitening") for name in turned)


def test_every_geometry_is_checked_with_every_kind_of_group_and_both_criteria():
    names = {case.name for case in table(Sizes())}
    for geometry, moves in GEOMETRIES.items():
        for base in ("xmat", "sparse-klein", "dense", "kronecker"):
            entry = base if geometry == "EQ" else f"{geometry.lower()}-{base}"
            problem = "kronecker" if base == "kronecker" else "indefinite"
            offered = not (base == "kronecker" and moves.fits_p)
            for setting in ("exact", "whitening"):
                assert (f"{entry}/{problem}/{setting}" in names) == offered


def test_every_pattern_of_the_default_run_chooses_something():
    cases = table(Sizes())
    for pattern in CHOSEN:
        if f"/{OWN.name}/" in pattern:  # of a user's Hessian, which is not given here
            continue
        assert any(fnmatchcase(case.name, pattern) for case in cases), pattern
    assert {case.preconditioner for case in chosen(cases)} >= set(BASES) - {"lowrank-left"}
    assert {case.problem for case in chosen(cases)} == set(FAMILIES)


@pytest.mark.parametrize("name", [*BASES, "qe-dense", "lyapunov-kronecker"])
def test_situations_are_what_their_families_say(name):
    entry = ENTRIES[name]
    for case in {(c.problem): c for c in table(Sizes(), [name])}.values():
        found = situation_of(case, Sizes())
        h = found.instance.hessian
        assert np.array_equal(h, h.T)
        values = np.linalg.eigvalsh(h)
        if case.problem in ("indefinite", "outside", "rosenbrock"):
            assert values[0] < 0 < values[-1]
            assert not found.definite
        else:
            assert found.definite
        if case.problem in ("definite", "indefinite"):
            kappa = np.max(np.abs(values)) / np.min(np.abs(values))
            assert kappa == pytest.approx(min(100.0, entry.kappa_limit))
        if case.problem == "kronecker":
            assert found.kappa == pytest.approx(np.linalg.cond(h))
        assert found.inside == (case.problem not in ("outside", "drifting", "rosenbrock") or found.inside)
        assert (found.instance.noise is not None) == (case.problem == "noisy")


def test_rosenbrock_pairs_lie_in_groups_of_even_orbits():
    for name, inside in (("xmat", True), ("sparse-klein", True), ("dense", True), ("diagonal", False)):
        found = situation_of(Case(name, "rosenbrock", "exact"), Sizes())
        assert found.inside == inside
        values = np.abs(np.linalg.eigvalsh(found.instance.hessian))
        assert found.kappa <= values.max() / values.min() * (1 + 1e-9)


def test_own_matrix_is_listed_where_it_fits():
    h = np.diag([3.0, -1.0, 2.0, 0.5, 1.0])  # n = 5: no butterfly, no Klein, no S_3
    cases = table(Sizes(hessian=h), None, [OWN.name])
    assert {case.preconditioner for case in cases} == {
        "diagonal", "xmat", "sparse-odd-flip", "dense", "kronecker", "kronecker-mixed",
        *(name for name in ENTRIES if name.endswith(("-xmat", "-dense", "-kronecker"))),
    }  # fmt: skip
    assert "diagonal/own/online/gaussian" in {case.name for case in cases}
    assert not any(case.setting == "outside" for case in cases)


def test_a_case_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="`case` must go together, got lowrank/definite/exact"):
        situation_of(Case("lowrank", "definite", "exact"), Sizes())


# -- pairs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", ["definite", "noisy", "drifting"])
def test_pairs_do_not_depend_on_how_they_are_cut(problem):
    instance = situation_of(Case("xmat", problem, "floor"), Sizes(n=6)).instance
    if problem != "drifting":  # draws of v and of noise come in blocks there
        instance = instance._replace(noise_root=None)
    whole, parts = (Source(instance, "gaussian", (3,)) for _ in range(2))
    v, h = whole.take(8)
    pieces = [parts.take(3), parts.take(5)]
    np.testing.assert_array_equal(v, np.concatenate([p[0] for p in pieces]) if problem == "drifting" else v)
    np.testing.assert_allclose(whole.hessian, parts.hessian)
    assert v.shape == h.shape == (8, 6)
    if problem == "definite":
        np.testing.assert_allclose(h, v @ instance.hessian, atol=1e-12)


def test_drifting_pairs_follow_their_hessian():
    instance = situation_of(Case("dense", "drifting", "tracking"), Sizes(n=4)).instance
    source = Source(instance, "gaussian", (0,))
    v, h = source.take(1)
    np.testing.assert_allclose(h[0], instance.hessian @ v[0])
    source.take(200)
    grown = source.hessian - instance.hessian
    assert np.linalg.eigvalsh(grown)[0] > 0
    assert np.trace(grown) == pytest.approx(201 * 0.1**2, rel=0.3)


@pytest.mark.parametrize("problem", ["indefinite", "noisy"])
def test_exact_pairs_have_the_moments_of_the_instance(problem):
    instance = situation_of(Case("xmat", problem, "exact"), Sizes(n=6)).instance
    v, h = (x[0] for x in Source(instance, None, (0,)).take(30))
    k = v.shape[1]
    noise = 0 if instance.noise is None else instance.noise
    np.testing.assert_allclose(v @ v.T / k, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(h @ h.T / k, instance.hessian @ instance.hessian + noise, atol=1e-11)


# -- when to stop, and the way down ----------------------------------------------------------------------


def test_stops():
    falling = trace_of([10.0**-i for i in range(30)])
    flat = trace_of([10.0**-i for i in range(15)] + [1e-14, 2e-14] * 10)
    assert not Settled(1e-10)(falling)
    assert Settled(1e-10)(flat)
    assert not Settled(1e-15)(flat)
    assert Below(1e-28)(falling)
    assert not Below(1e-28)(flat)
    assert GapBelow(1e-10, records=30)(flat)
    assert not GapBelow(1e-10, records=50)(flat)  # too early to tell
    lucky = trace_of([1e-3] * 59 + [1e-9])
    assert not GapBelow(1e-4)(lucky)


def test_a_floor_does_not_spoil_the_rate():
    rate = 0.05
    flat = trace_of([max(math.exp(-rate * 10 * i), 1e-15) * (1 + 0.2 * (i % 3)) for i in range(90)])
    way = descent(flat)
    assert way.distance[-1] > 1e-15
    assert convergence.fit_rate(way.updates, way.distance).rate == pytest.approx(rate, rel=0.02)
    assert LinearDescent(1e-10, rate, 0.05).judge(flat).passed
    slow = LinearDescent(1e-10, 2 * rate, 0.25).judge(flat)
    assert slow.status is Status.SLOW
    assert LinearDescent(1e-16, rate).judge(flat).status is Status.STALLED
    short = trace_of([1.0, 0.9, 0.8, 0.7, 0.65, 0.6])
    assert descent(short) is short


def test_steps():
    np.testing.assert_allclose(Steps(0.3, 10.0)(np.array([0, 10, 30])), [0.3, 0.15, 0.075])
    np.testing.assert_allclose(Steps(0.3)(np.arange(3)), 0.3)


def test_online_rate_is_the_mean_contraction_of_single_probes():
    """Against the mean of the linearised update itself, averaged over probes, one orbit of two."""
    h = np.array([[1.0], [3.0]])
    step, draws = 0.01, np.random.default_rng(1).standard_normal((200_000, 2))
    size = np.mean(np.sqrt(2 * (draws**2 @ h[:, 0]))) ** 2
    # Y -> Y - step/N (A Y + Y A), A = 2 E[a a^T] = 2 diag(h) up to rotation: slowest mode (1, 1)
    contraction = 1 - step * 4 * np.mean(h[0, 0] * draws[:, 0] ** 2) / size
    assert online_rate([h], step, "gaussian") == pytest.approx(-np.log(contraction), rel=0.02)


def test_lag_grows_as_the_step_shrinks():
    situation = situation_of(Case("dense", "drifting", "tracking"), Sizes(n=6))
    assert lag(situation, 0.1, "gaussian", 1000) == pytest.approx(2 * lag(situation, 0.2, "gaussian", 1000))


# -- runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", INSTALLED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_library_gets_the_same_verdict(library, dtype):
    options = small()
    options = Options(options.sizes, Backend(library, dtype))
    for case in (Case("xmat", "indefinite", "exact"), Case("xmat", "definite", "online", "gaussian")):
        outcome = run_case(case, options)
        assert outcome.passed, outcome.reason
        assert outcome.final < (1e-10 if dtype == "float64" else 1e-4)
        reference = run_case(case, small())
        ours, theirs = outcome.traces["PSGD"], reference.traces["PSGD"]
        early = [i for i, d in enumerate(theirs.distance) if d > 1e-3]
        for i in early[: min(len(early), len(ours.distance))]:
            if ours.updates[i] == theirs.updates[i]:
                tolerance = 1e-7 if dtype == "float64" else 0.05
                assert ours.distance[i] == pytest.approx(theirs.distance[i], rel=tolerance)


@pytest.mark.parametrize(
    "name",
    [
        "sparse-s3/indefinite/exact",
        "sparse-odd-flip/outside/exact",
        "butterfly/rosenbrock/exact",
        "diagonal/ill-conditioned/exact",
        "sparse-klein/noisy/exact",
        "qe-symmetric-dense/indefinite/exact",
        "lowrank-tails/two-tails/exact",
        "kronecker-mixed/outside/exact",
        "kronecker/kronecker/whitening",
        "quad4p-xmat/outside/whitening",
        "pro4p-sparse-klein/definite/exact",
        "qep-kronecker/kronecker/exact",
        "lyapunov-dense/indefinite/whitening",
    ],
)
def test_checks_pass(name):
    case = next(case for case in table(Sizes()) if case.name == name)
    outcome = run_case(case, Options())
    assert outcome.passed, outcome.reason
    assert outcome.final < 1e-10
    if outcome.predicted is not None and not case.problem.startswith("rosen"):
        assert outcome.fitted == pytest.approx(outcome.predicted, rel=0.35)


def test_an_annealed_floor_falls_and_the_rivals_do_as_expected():
    case = Case("xmat", "indefinite", "floor", "gaussian")
    outcome = run_case(case, Options(Sizes(n=4, kappa=10.0), steps=1500))
    assert outcome.passed, outcome.reason
    assert outcome.status == "FLOOR_FELL"
    assert report.fate(outcome.traces["BFGS"], "floor", 1e-16) == "diverges"
    assert report.fate(outcome.traces["closed form"], "floor", 1e-16) == "falls"
    assert outcome.updates == 1500
    assert outcome.traces["constant step"].updates[-1] < 1500


def test_the_samples_own_normaliser_is_biased_and_the_default_is_not():
    outcome = run_case(Case("diagonal", "outside", "outside", "rademacher"), Options(Sizes(n=4)))
    assert outcome.passed, outcome.reason
    assert outcome.final < 1e-4
    assert convergence.level(outcome.traces["sample's own normaliser"].gap) > 1e-2


@pytest.mark.parametrize("probe", ["drawn", "integrated"])
def test_whitening_one_gradient_a_time_has_a_floor_that_falls(probe):
    case = Case("xmat", "indefinite", "whitening-floor", probe)
    outcome = run_case(case, Options(Sizes(n=4, kappa=10.0), steps=2000))
    assert outcome.passed, outcome.reason


def test_a_moving_target_is_tracked():
    case = Case("dense", "drifting", "tracking", "gaussian")
    outcome = run_case(case, Options(Sizes(n=4, kappa=10.0), steps=1000))
    assert outcome.passed, outcome.reason
    assert report.fate(outcome.traces["closed form"], "tracking", 1e-16) == "falls behind"


def test_a_step_beyond_the_stable_one_fails():
    case = Case("qe-dense", "definite", "exact")
    outcome = run_case(case, Options(Sizes(n=4), step=0.8, steps=400))
    assert not outcome.passed
    assert outcome.predicted < 0


def test_asked_updates_are_made_exactly():
    outcome = run_case(Case("xmat", "definite", "exact"), Options(Sizes(n=6), steps=37))
    assert outcome.updates == 37
    assert outcome.passed, outcome.reason  # judged by how far theory takes so few


# -- many runs -------------------------------------------------------------------------------------------

FEW = [Case("xmat", "definite", "exact"), Case("diagonal", "definite", "exact")]


def test_processes_change_nothing_and_progress_ends_at_all_of_it():
    seen = {}
    lengths = {case: pool.length(case, small()) for case in FEW}
    for jobs in (1, 2):
        shown = []
        results = pool.run_all(FEW, small(), jobs, lambda done, name, shown=shown: shown.append(done))
        assert not results.interrupted
        assert [outcome.case for outcome in results.outcomes] == FEW
        assert shown == sorted(shown)
        assert shown[-1] == sum(lengths.values())
        seen[jobs] = [outcome.traces["PSGD"].distance for outcome in results.outcomes]
    assert seen[1] == seen[2]


def test_an_exception_fails_its_case_alone(monkeypatch):
    real = pool.run_case

    def broken(case, options, tick):
        if case.preconditioner == "xmat":
            raise FloatingPointError("no luck\nat all")
        return real(case, options, tick)

    monkeypatch.setattr(pool, "run_case", broken)
    bad, good = pool.run_all(FEW, small()).outcomes
    assert (bad.passed, bad.status, bad.reason) == (False, "ERROR", "FloatingPointError: no luck")
    assert good.passed
    assert json.loads(as_json(report.as_dict([bad], small(), [], 0.0, False)))["passed"] == 0


def test_ctrl_c_keeps_what_is_finished(monkeypatch):
    real = pool.run_case

    def stopped(case, options, tick):
        if case.preconditioner == "diagonal":
            raise KeyboardInterrupt
        return real(case, options, tick)

    monkeypatch.setattr(pool, "run_case", stopped)
    results = pool.run_all(FEW, small())
    assert results.interrupted
    assert [outcome.case for outcome in results.outcomes] == FEW[:1]


def test_a_case_ends_where_it_is_asked_to():
    class Board:
        noted = ()

        def note(self, done):
            self.noted += (done,)

        def stopping(self):
            return len(self.noted) == 2

    board = Board()
    with pytest.raises(Stopped):
        pool.outcome(FEW[0], small(), board)
    assert 0 < board.noted[0] < board.noted[1]


def test_cases_and_outcomes_travel():
    outcome = run_case(FEW[0], small())
    again = pickle.loads(pickle.dumps((FEW[0], small(), outcome)))
    assert again[0] == FEW[0]
    assert again[2].traces["PSGD"].distance == outcome.traces["PSGD"].distance


# -- the report ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes():
    options = Options(Sizes(n=4, kappa=10.0), steps=400)
    names = (
        "xmat/definite/exact", "dense/definite/exact", "qe-dense/definite/exact",
        "dense/definite/online/gaussian", "dense/indefinite/floor/gaussian",
        "diagonal/outside/outside/rademacher", "lowrank-tails/two-tails/exact",
    )  # fmt: skip
    cases = [case for case in table(options.sizes) if case.name in names]
    assert len(cases) == len(names)
    return options, [run_case(case, options) for case in cases]


def test_json_is_strict_complete_and_read_back(outcomes):
    options, done = outcomes

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = as_json(report.as_dict(done, options, ["psgd", "verify"], 1.5, False))
    data = json.loads(text, parse_constant=refuse)
    assert data.keys() == {
        "hessian",
        "schema", "program", "command", "versions", "seed", "settings", "seconds", "interrupted", "passed",
        "total", "cases",
    }  # fmt: skip
    assert data["versions"].keys() == {"python", "psgd-core", "numpy", "scipy"}
    assert data["total"] == len(done)
    for case, outcome in zip(data["cases"], done, strict=True):
        assert case["name"] == outcome.case.name
        assert case["rate"].keys() == {"predicted", "fitted"}
        assert case["verdict"]["passed"] is outcome.passed
        assert len(case["traces"]) == len(outcome.traces)
        trace = Trace.from_dict(case["traces"][0])
        np.testing.assert_allclose(trace.distance, outcome.traces[trace.name].distance, rtol=1e-6)


def test_json_has_null_for_what_is_not_finite(outcomes):
    from dataclasses import replace

    options, done = outcomes
    gone = replace(done[0], traces={"PSGD": trace_of([1.0, math.inf, math.nan])}, fitted=math.nan)
    text = as_json(report.as_dict([gone], options, [], 0.0, True))
    case = json.loads(text)["cases"][0]
    assert case["traces"][0]["distance"] == [1.0, None, None]
    assert case["final"] is None
    assert case["rate"]["fitted"] is None
    assert "inf" not in text.lower().replace("definite", "")


@pytest.mark.parametrize("unicode", [True, False])
def test_tables_fit_a_hundred_columns(outcomes, unicode):
    from rich.console import Console

    _, done = outcomes
    console = Console(width=100, record=True, file=open("/dev/null", "w"), legacy_windows=False)  # noqa: SIM115
    for shown in (report.table(done, unicode), report.floors(done), report.contests(done, 1e-16)):
        console.print(shown)
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    for outcome in done:
        assert outcome.label in text
    assert ("✓" in text) is unicode
    assert text.isascii() or unicode
    exact = [outcome for outcome in done if outcome.case.setting == "exact"]
    assert report.contests(exact, 1e-16) is None
    assert report.floors(exact) is None


def test_the_longest_row_fits_a_hundred_columns(outcomes):
    from dataclasses import replace

    from rich.console import Console

    _, done = outcomes
    case = Case("sparse-dihedral", "ill-conditioned", "outside", "rademacher")
    wide = replace(
        done[0], case=case, label="Sparse(dihedral)", column="gap", status="FLOOR_STAYED", passed=False
    )
    wide = replace(wide, fitted=0.00123, predicted=0.00123)
    wide.traces["PSGD"].updates[-1] = 100_000
    console = Console(width=100, record=True, file=open("/dev/null", "w"), legacy_windows=False)  # noqa: SIM115
    console.print(report.table([wide]))
    text = console.export_text()
    assert "…" not in text
    assert "outside (signs)" in text
    assert "floor stayed" in text


def test_summary_says_how_many_and_where():
    done = pool.run_all(FEW, small()).outcomes
    assert report.summary(done, 2, 31.2, ["a.png", "a.json"]) == "2 of 2 checks passed in 31 s; a.png, a.json"
    assert "interrupted with 3 to go" in report.summary(done, 5, 1.0, [])


def test_fates():
    def fate(distances, setting="floor"):
        return report.fate(trace_of(distances), setting, 1e-16)

    assert fate([1.0, 0.1, 1e-11]) == "converges"
    assert fate([1.0] + [0.5] * 20) == "stalls"
    assert fate(1 / np.sqrt(np.arange(1.0, 40.0))) == "falls"
    assert fate([1.0, 5.0, math.nan]) == "diverges"
    assert fate([1.0, 5.0, 9.0]) == "diverges"
    assert fate([math.nan, math.nan]) == "none"
    assert fate([1.0, 0.05, 0.05], "tracking") == "keeps up"
    assert fate([0.1, 0.2, 0.4], "tracking") == "falls behind"


def test_page_has_a_panel_per_question_and_leaves_pyplot_alone(outcomes, tmp_path):
    import sys

    options, done = outcomes
    loaded = "matplotlib.pyplot" in sys.modules
    figure = page(done, options, "caption")
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    for what in (
        "Exact",
        "Rates",
        "Low rank",
        "outside the group",
        "same pairs: definite",
        "same pairs: indef",
    ):
        assert any(what in title for title in titles), (what, titles)
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes if ax.get_title(loc="left"))
    figure.savefig(tmp_path / "page.png")
    assert ("matplotlib.pyplot" in sys.modules) == loaded
    assert len(page(done[:1], options, "").axes) == 1


# -- geometries side by side -------------------------------------------------------------------------------


def test_the_comparison_of_geometries(monkeypatch):
    """Few updates, two condition numbers: in float64 and float32 the best end where their precision does."""
    monkeypatch.setattr(comparison, "KAPPAS", (1e2, 1e4))
    monkeypatch.setattr(comparison, "UPDATES", 120)
    monkeypatch.setattr(comparison, "PRECISIONS", ("float64", "float32"))
    runs = list(comparison.compare(0))
    assert len(runs) == 2 * 2 * len(GEOMETRIES)
    for run in runs:
        assert len(run["updates"]) == len(run["distance"]) == len(run["seconds"])
        assert run["updates"][-1] == 120
        assert run["seconds"] == sorted(run["seconds"])
    ends = {(run["geometry"], run["kappa"], run["dtype"]): run["distance"][-1] for run in runs}
    assert ends["Lyapunov", 1e4, "float64"] < 1e-10 < 1e-2 < ends["EQ", 1e4, "float64"]
    assert 1e-10 < ends["Lyapunov", 1e4, "float32"] < 1e-3
    axes = comparison.page(runs, "").axes
    assert len(axes) == 8
    assert all(len(ax.lines) == len(GEOMETRIES) for ax in axes)


def test_bfloat16_keeps_eight_bits():
    pytest.importorskip("torch")
    x = np.array([1.0, 1.0 + 2.0**-9, 1.0 + 2.0**-7], dtype=np.float32)
    np.testing.assert_array_equal(comparison._bfloat16(x), [1.0, 1.0, 1.0 + 2.0**-7])
