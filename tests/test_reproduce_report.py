"""Verdicts, tables, figures and pages of `psgd reproduce`, from forged records."""

import dataclasses
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from psgd_analysis.reproduce import statistics
from psgd_analysis.reproduce.claims import (
    Claim,
    Judgement,
    all_of,
    best,
    better,
    compare,
    judge,
    near,
    ranked,
    rate_at_least,
    rate_at_most,
    rates_grow,
    trend,
)
from psgd_analysis.reproduce.contests import Contest, among, comparisons, standing
from psgd_analysis.reproduce.experiment import Cell, Column, Experiment, Job, Plan
from psgd_analysis.reproduce.pages import scales
from psgd_analysis.reproduce.records import Book, Record
from psgd_analysis.reproduce.samples import PUBLISHED, of_scale, sample, stand_ins
from psgd_analysis.reproduce.tables import about, duration, fixed, results, spans

MNIST = PUBLISHED
CONFIRMED, REFUTED, UNTESTED = "confirmed", "not confirmed", "not tested at this scale"


def run(cell: str, seed: int, status: str = "done", scale: str = "reduced", **final: object) -> Record:
    """A record of a cell whose settings are its name."""
    data = final.pop("data", MNIST)
    job = Job("forged", scale, cell, seed, {"name": cell}, data)
    clocks = {name: final.pop(name, 1.0) for name in ("seconds", "cpu_seconds")}
    metrics = final.pop("metrics", ())
    about = {"versions": {"numpy": "2"}, "revision": "abc", "command": "psgd", "machine": "forge"}
    return Record.of(job, status, final=final, metrics=metrics, **clocks, **about)


def runs(**cells: list[object]) -> list[Record]:
    """A run for each value `x`, seeds from 0; None for a run that diverged, "cut" for one that was cut."""
    found = []
    for cell, values in cells.items():
        for seed, x in enumerate(values):
            status = {None: "diverged", "cut": "cut"}.get(x, "done") if not isinstance(x, float) else "done"
            found.append(run(cell, seed, status, **({"x": x} if status == "done" else {})))
    return found


def forged(claims: tuple[Claim, ...] = (), **more: object) -> Experiment:
    cells = tuple(Cell(name, {"name": name}) for name in "abc")
    given = {
        "name": "forged", "title": "A forgery", "sources": ("Table 1",), "claim": "a beats b.",
        "needs": ("numpy", "no_such_package"), "data": ("mnist",),
        "plans": {
            "smoke": Plan(cells, 1, "1 s", ("short",)),
            "reduced": Plan(cells, 3, "1 min", ("half of it",)),
            "faithful": Plan(cells, 4, "1 h"),
        },
        "start": None, "columns": (Column("x / %", "x", ".2f", {"a": "1.5"}),), "claims": claims,
        "figures": {},
    }  # fmt: skip
    return Experiment(**(given | more))


# -- intervals -----------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_students():
    """1, 2, 3: mean 2, standard error 1 / sqrt(3), and 4.302653 from a printed table of t with 2 degrees."""
    found = statistics.mean([1.0, 2.0, 3.0])
    assert found.estimate == pytest.approx(2)
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.low == pytest.approx(4 - found.high)


def test_the_interval_of_numbers_whose_squares_overflow_is_the_same_in_their_unit():
    """Losses that have run away."""
    small, large = statistics.mean([1.0, 2.0, -3.0]), statistics.mean([1e200, 2e200, -3e200])
    for one, other in zip(small, large, strict=True):
        assert other == pytest.approx(1e200 * one, rel=1e-12, abs=1e188)
    assert statistics.mean([0.0, 0.0]) == (0.0, 0.0, 0.0)


def test_the_interval_of_a_share_is_exact():
    """Of 10 in 10 the lower end solves p^10 = 0.025; of 1 in 2 the ends solve p^2 and (1 - p)^2 = 0.025."""
    assert statistics.share(10, 10)[1:] == pytest.approx((0.025**0.1, 1.0))
    assert statistics.share(1, 2)[1:] == pytest.approx((1 - math.sqrt(0.975), math.sqrt(0.975)), rel=1e-4)


@pytest.mark.parametrize(("n", "decides"), [(3, False), (4, True)])
def test_all_against_none_decides_from_four_runs_on(n, decides):
    """Fisher: the probability of all n successes on one side is 1 / C(2n, n): 1/20, then 1/70."""
    assert (1 / math.comb(2 * n, n) < statistics.LEVEL) == decides
    low, high = statistics.odds((n, n), (0, n))
    assert (low > 1, high) == (decides, math.inf)


def test_pages_test_on_a_case_counted_by_hand():
    """One increasing row of three is one of six orders, two rows one of 36; ties never help."""
    assert statistics.rises([[1, 2, 3]] * 2) == pytest.approx(1 / 36)
    assert statistics.rises([[3, 2, 1]] * 2) == pytest.approx(1)
    assert statistics.rises([[0, 0, 1]] * 3) > statistics.rises([[0, 1, 2]] * 3)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((0.1419, 0.0811, 0.2031), "0.142 [0.081, 0.203]"),
        ((12345.0, 9000.0, 15690.0), "12345 [9000, 15690]"),
        ((2e-9, -1e-9, 5e-9), "2.0e-09 [-1.0e-09, 5.0e-09]"),
        ((0.0, -0.0001, 0.0001), "0.0e+00 [-1.0e-04, 1.0e-04]"),
        ((-0.001, -0.21, 0.21), "0.00 [-0.21, 0.21]"),
        ((1.0, 1.0, 1.0), "1 [1, 1]"),
    ],
)
def test_intervals_have_the_decimals_that_their_width_calls_for(interval, text):
    assert str(statistics.Interval(*interval)) == text


# -- better --------------------------------------------------------------------------------------------------


def test_better_is_the_paired_t_test():
    """Differences 1, 2, 3 around numbers that differ far more between seeds."""
    records = runs(a=[101.0, 52.0, 13.0], b=[100.0, 50.0, 10.0])
    judged = better("x", "a", "b")(records)
    assert judged.verdict == REFUTED
    assert "undecided: a − b: 2.0 [-0.5, 4.5] (t, 3 paired seeds)" in judged.measured
    records = runs(a=[102.0, 52.0, 12.0], b=[100.0, 50.1, 9.9])
    assert better("x", "a", "b")(records).verdict == CONFIRMED
    assert better("x", "b", "a")(records).measured.startswith("the opposite holds: b − a: -2.0")
    assert better("x", "b", "a", larger=False)(records).verdict == CONFIRMED


def test_a_factor_says_how_much_more_is_allowed():
    records = runs(a=[1.11, 1.09, 1.12, 1.10], b=[1.0, 1.0, 1.01, 0.99])
    assert better("x", "a", "b", larger=False)(records).verdict == REFUTED
    assert better("x", "a", "b", larger=False, factor=1.2)(records).verdict == CONFIRMED
    assert better("x", "a", "b", larger=False, factor=1.05)(records).measured.startswith("the opposite holds")
    with pytest.raises(ValueError, match="`factor` must be positive"):
        better("x", "a", "b", factor=0.0)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("draw", ["normal", "heavy tails"])
def test_better_confirms_what_is_not_so_in_few_cases(n, draw):
    """Without a difference the interval lies above 0 in 2.5 % of cases: here within five deviations."""
    rng, trials = np.random.default_rng(n), 800
    noise = (
        rng.standard_t(3, (trials, 2, n)) if draw == "heavy tails" else rng.standard_normal((trials, 2, n))
    )
    shared = rng.standard_normal((trials, 1, n)) * 5
    wrong = 0
    for a, b in noise + shared:
        wrong += better("x", "a", "b")(runs(a=a.tolist(), b=b.tolist())).verdict == CONFIRMED
    assert wrong <= trials * 0.025 + 5 * math.sqrt(trials * 0.025)
    if draw == "normal":
        assert wrong >= trials * 0.025 - 5 * math.sqrt(trials * 0.025)


def test_better_confirms_what_is_so():
    """A difference of three standard deviations, five seeds: the power of the t test is above 95 %."""
    rng = np.random.default_rng(0)
    found = [
        better("x", "a", "b")(runs(a=(3 + rng.standard_normal(5)).tolist(), b=[0.0] * 5)).verdict
        for _ in range(200)
    ]
    assert found.count(CONFIRMED) > 180


numbers = st.lists(st.integers(-1000, 1000).map(float), min_size=3, max_size=8)


@settings(deadline=None)
@given(numbers, st.randoms(use_true_random=False), st.data())
def test_better_depends_on_nothing_but_differences(a, random, data):
    """Permuting records and adding a number to both cells change nothing; swapping cells flips."""
    b = data.draw(st.lists(st.integers(-1000, 1000).map(float), min_size=len(a), max_size=len(a)))
    shift = data.draw(st.integers(-1000, 1000))
    records = runs(a=a, b=b)
    judged = better("x", "a", "b")(records)
    shuffled = list(records)
    random.shuffle(shuffled)
    assert better("x", "a", "b")(shuffled) == judged
    moved = better("x", "a", "b")(runs(a=[x + shift for x in a], b=[x + shift for x in b]))
    assert moved.verdict == judged.verdict
    other = compare(records, "x", "b", "a").outcome
    flipped = {"better": "worse", "worse": "better", "open": "open"}
    assert other == flipped[compare(records, "x", "a", "b").outcome]
    assert other == compare(records, "x", "a", "b", larger=False).outcome
    assert {judged.verdict, better("x", "b", "a")(records).verdict} != {CONFIRMED}


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=3, max_size=12), st.lists(st.booleans(), min_size=3, max_size=12))
def test_truths_are_compared_by_fishers_test(a, b):
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    table = [[sum(a), n - sum(a)], [sum(b), n - sum(b)]]
    p = stats.fisher_exact(table, alternative="greater").pvalue
    found = compare(runs(a=a, b=b), "x", "a", "b").outcome
    assert (found == "better") == (p < 0.025)
    assert (found == "worse") == (compare(runs(a=b, b=a), "x", "a", "b").outcome == "better")


def test_a_run_that_diverged_is_worse_than_any_other():
    """Six seeds that all agree are the fewest that the sign test decides on: 2^-6 < 0.025 < 2^-5."""
    for n, verdict in ((5, REFUTED), (6, CONFIRMED)):
        judged = better("x", "a", "b", larger=False)(runs(a=[9.0] * n, b=[10.0] * (n - 1) + [None]))
        assert judged.verdict == verdict
        assert f"better than b with {n} seeds, worse with 0" in judged.measured
        assert "diverged, counted as worst: 1 of b" in judged.measured
    # the other way round, its numbers where it ended are no help
    judged = better("x", "a", "b", larger=False)(
        runs(a=[0.0, None, None, None, None, None, None], b=[1.0] * 7)
    )
    assert judged.verdict == REFUTED
    assert "better than b with 1 seeds, worse with 6" in judged.measured
    # truths: a run that diverged is false
    assert better("x", "a", "b")(runs(a=[True] * 4, b=[None] * 4)).verdict == CONFIRMED


def test_equal_differences_have_no_interval():
    """Three seeds with the same difference decide nothing, six do; no difference never does."""
    assert better("x", "a", "b")(runs(a=[2.0] * 3, b=[1.0] * 3)).verdict == REFUTED
    assert better("x", "a", "b")(runs(a=[2.0] * 6, b=[1.0] * 6)).verdict == CONFIRMED
    judged = better("x", "a", "b")(runs(a=[1.0] * 9, b=[1.0] * 9))
    assert judged == Judgement(REFUTED, "undecided: a and b are equal with all 9 seeds")


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ({"a": [1.0, 2.0, 3.0]}, "no runs of b"),
        ({"a": [1.0, 2.0, 3.0], "b": [0.0, 0.0]}, "2 paired seeds, 3 are needed"),
        (
            {"a": [1.0, 2.0, 3.0], "b": [0.0, 0.5, "cut"]},
            "2 paired seeds, 3 are needed; cut, left out: 1 of b",
        ),
        ({"a": ["cut"] * 4, "b": [1.0] * 4}, "no runs of a; cut, left out: 4 of a"),
        ({"a": [None] * 4, "b": [None] * 4}, "no run has `x`; diverged, counted as worst: 4 of a, 4 of b"),
    ],
)
def test_too_little_is_not_tested(cells, why):
    assert better("x", "a", "b")(runs(**cells)) == Judgement(UNTESTED, why)


def test_differences_that_are_equal_but_for_rounding_have_no_interval():
    records = runs(a=[99.22, 99.12, 99.32], b=[99.12, 99.02, 99.22])
    assert len({x - y for x, y in ((99.22, 99.12), (99.12, 99.02), (99.32, 99.22))}) > 1
    found = compare(records, "x", "a", "b")
    assert (found.outcome, "sign test" in found.words) == ("open", True)


def test_numbers_too_large_to_be_squared_decide_nothing():
    with np.errstate(over="ignore"):
        assert compare(runs(a=[1e200, 2e200, 4e200], b=[1.0, 1.1, 1.2]), "x", "a", "b").outcome == "open"


def test_what_was_cut_may_be_what_would_not_have_come_true():
    six, cut, none = [True] * 6, ["cut"] * 20, [False] * 26
    assert rate_at_least("x", ["a"], 0.5)(runs(a=six)).verdict == CONFIRMED
    found = rate_at_least("x", ["a"], 0.5)(runs(a=six + cut))
    assert (found.verdict, "cut, left out: 20 of a" in found.measured) == (REFUTED, True)
    assert not found.measured.startswith("the opposite holds")
    assert rate_at_most("x", ["a"], 0.5)(runs(a=none[:6] + cut)).measured.startswith("undecided")
    assert compare(runs(a=six, b=none), "x", "a", "b").outcome == "better"
    assert compare(runs(a=six + cut, b=none), "x", "a", "b").outcome == "better"  # 6 of 26 are still more
    assert compare(runs(a=six[:4] + cut, b=none), "x", "a", "b").outcome == "open"
    assert compare(runs(a=six, b=none[:6] + cut), "x", "a", "b").outcome == "open"


def test_pairs_are_of_the_same_seed():
    records = [run("a", seed, x=float(seed)) for seed in (0, 1, 2, 3)]
    records += [run("b", seed, x=seed - 0.5 - 0.01 * seed) for seed in (1, 2, 3, 9)]
    assert "(t, 3 paired seeds)" in better("x", "a", "b")(records).measured
    assert better("x", "a", "b")(records).verdict == CONFIRMED


# -- other predicates ----------------------------------------------------------------------------------------


def test_ranked_and_best_need_every_pair():
    rng = np.random.default_rng(1)
    values = {
        cell: (level + 0.1 * rng.standard_normal(6)).tolist()
        for cell, level in (("a", 3), ("b", 2), ("c", 1))
    }
    records = runs(**values)
    assert ranked("x", ["a", "b", "c"])(records).verdict == CONFIRMED
    assert ranked("x", ["c", "b", "a"], larger=False)(records).verdict == CONFIRMED
    assert best("x", "a", ["b", "c"])(records).verdict == CONFIRMED
    judged = best("x", "b", ["a", "c"])(records)
    assert judged.verdict == REFUTED
    assert judged.measured.startswith("the opposite holds: b − a")
    assert judged.measured.endswith("1 of 2 parts hold")
    assert best("x", "a", ["b", "d"])(records).verdict == UNTESTED
    with pytest.raises(ValueError, match="`cells` must be at least 2"):
        ranked("x", "a")


def test_all_of_is_as_weak_as_its_weakest():
    parts = {v: (lambda records, v=v: Judgement(v, v)) for v in (CONFIRMED, REFUTED, UNTESTED)}
    for verdicts, whole in (
        ((CONFIRMED, CONFIRMED), CONFIRMED),
        ((CONFIRMED, UNTESTED), UNTESTED),
        ((CONFIRMED, UNTESTED, REFUTED), REFUTED),
    ):
        assert all_of(*(parts[v] for v in verdicts))([]).verdict == whole


def test_a_trend_is_judged_by_the_order_within_seeds():
    rising = runs(a=[1.0, 11.0, 21.0], b=[2.0, 12.0, 22.0], c=[3.0, 13.0, 23.0])
    assert trend("x", ["a", "b", "c"])(rising).verdict == CONFIRMED
    assert trend("x", ["c", "b", "a"])(rising).measured.startswith("the opposite holds")
    assert trend("x", ["c", "b", "a"], larger=False)(rising).verdict == CONFIRMED
    assert trend("x", ["a", "b", "d"])(rising).verdict == UNTESTED
    # the first cell diverged: worse than all
    lost = runs(a=[None] * 3, b=[2.0, 1.0, 5.0], c=[3.0, 13.0, 23.0])
    assert trend("x", ["a", "b", "c"])(lost).verdict == CONFIRMED
    assert trend("x", ["a", "b", "c"], larger=False)(lost).verdict == REFUTED


def test_rates_grow_as_in_the_papers_figure_8():
    solved = {"a": 1, "b": 4, "c": 8, "d": 10, "e": 10}
    records = runs(**{cell: [i < k for i in range(10)] for cell, k in solved.items()})
    judged = rates_grow("x", list("abcde"))(records)
    assert judged.verdict == CONFIRMED
    assert judged.measured.startswith("a: 1/10; b: 4/10; c: 8/10; d: 10/10; e: 10/10; p = ")
    assert rates_grow("x", list("edcba"))(records).verdict == REFUTED


def test_rates_have_exact_intervals():
    records = runs(a=[True] * 10, b=[True] * 5 + [False] * 4 + [None], c=[True] * 2)
    assert rate_at_least("x", ["a"], 0.69)(records).verdict == CONFIRMED
    assert rate_at_least("x", ["a"], 0.70)(records).measured == "undecided: a: 10/10, 1.00 [0.69, 1.00]"
    assert rate_at_least("x", ["a", "b"], 0.5)(records).verdict == REFUTED
    assert "b: 5/10" in rate_at_least("x", ["b"], 0.5)(records).measured
    assert rate_at_most("x", ["a"], 0.5)(records).measured.startswith("the opposite holds")
    assert rate_at_least("x", ["c"], 0.5)(records).verdict == UNTESTED
    with pytest.raises(ValueError, match="`value` must lie between 0 and 1"):
        rate_at_least("x", ["a"], 1.0)


def test_near_needs_the_whole_interval_inside():
    records = runs(a=[99.2, 99.21, 99.22], b=[99.2, 99.21, 99.22, None], c=[99.0, 99.2, 99.4])
    assert near("x", "a", 99.22, 0.1)(records).verdict == CONFIRMED
    assert near("x", "a", 99.4, 0.1)(records).measured.startswith("the opposite holds")
    assert near("x", "b", 99.22, 0.1)(records).verdict == REFUTED  # one diverged
    assert near("x", "c", 99.22, 0.1)(records).measured.startswith("undecided: c: 99.20 [98.70, 99.70]")
    with pytest.raises(ValueError, match="`tolerance` must be positive"):
        near("x", "a", 1.0, 0.0)


# -- verdicts of an experiment -------------------------------------------------------------------------------

COMPARED = Claim("a beats b", "Table 1", "2 and 1", better("x", "a", "b"))
ABSOLUTE = Claim("a has 2", "Table 1", "2", near("x", "a", 2.0, 0.5), absolute=True)
CLEAR = {"a": [2.0, 2.1, 1.9, 2.05], "b": [1.0, 1.0, 1.1, 1.02]}


def on(data: dict[str, str]) -> list[Record]:
    return [
        Record.of(Job("forged", r.scale, r.cell, r.seed, r.settings, data), "done", final=r.final)
        for r in runs(**CLEAR)
    ]


@pytest.mark.parametrize(
    ("scale", "data", "compared", "absolute"),
    [
        ("smoke", MNIST, UNTESTED, UNTESTED),
        ("reduced", MNIST, CONFIRMED, UNTESTED),
        ("faithful", MNIST, CONFIRMED, CONFIRMED),
        ("reduced", {"digits": "00"}, CONFIRMED, UNTESTED),
        ("faithful", {"digits": "00"}, CONFIRMED, UNTESTED),
        ("faithful", {"mnist-jpeg": "00"}, CONFIRMED, UNTESTED),
        (
            "faithful",
            {"mnist": "00"},
            CONFIRMED,
            UNTESTED,
        ),  # such as Fashion-MNIST, in files of the same names
        ("faithful", {}, CONFIRMED, UNTESTED),
    ],
)
def test_what_each_scale_may_say(scale, data, compared, absolute):
    found = judge(forged((COMPARED, ABSOLUTE)), on(data), scale)
    assert [judged.verdict for _, judged in found] == [compared, absolute]
    if absolute == UNTESTED and scale != "smoke":
        assert "a: 2.0" in found[1][1].measured  # what was measured is said nevertheless


def test_a_faithful_plan_that_departs_tests_no_absolute_claim():
    plans = {"faithful": Plan(tuple(Cell(n, {"name": n}) for n in "ab"), 4, "1 h", ("another model",))}
    assert judge(forged((ABSOLUTE,), plans=plans), on(MNIST), "faithful")[0][1].verdict == UNTESTED


def test_runs_with_other_settings_and_other_data_stay_apart():
    e = forged((COMPARED,))
    old = [dataclasses.replace(r, settings={"name": "other"}) for r in runs(a=[-9.0] * 4)]
    fewer = on({"mnist": "cd"})[:3]
    stand_in = [*on({"digits": "00"}), run("c", 0, x=1.0, data={"digits": "00"})]
    records = of_scale(e, [*old, *stand_in, *fewer, *on(MNIST)], "reduced")
    assert len(records) == 8
    assert {r.data["mnist"] for r in records} == {MNIST["mnist"]}
    assert stand_ins(e, records) == []
    assert stand_ins(e, stand_in) == ["digits"]
    assert judge(e, [], "reduced")[0][1] == Judgement(UNTESTED, "no runs")


def test_a_number_that_is_missing_counts_as_failed():
    records = [run("a", 0, x=1.0), run("a", 1), run("a", 2, "diverged", x=5.0), run("a", 3, "cut", x=5.0)]
    found = sample(records, "a", "x")
    assert (found.values, found.failed, found.cut) == ({0: 1.0}, (1, 2), (3,))


# -- tables --------------------------------------------------------------------------------------------------


def parsed(lines: list[str]) -> list[dict[str, str]]:
    """The rows of a Markdown table, by the heads."""
    cells = [[c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", x)[1:-1]] for x in lines]
    assert set("".join(cells[1])) <= set("-:")
    assert {len(row) for row in cells} == {len(cells[0])}
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_a_table_parses_back():
    columns = (
        Column("x / %", "x", ".2f", {"a": "1.5", "c": "9"}),
        Column("true | false", "t", spread="rate"),
        Column("median", "x", ".1f", spread="median"),
        Column("s", "seconds", ".3g", spread="range"),
    )
    records = [run("a", i, x=float(i), t=i < 2, seconds=0.5 * (i + 1)) for i in range(3)]
    records += [run("a", 3, "diverged"), run("b", 0, x=12.0, t=False, seconds=20.0), run("b", 1, "cut")]
    e = forged(columns=columns)
    rows = parsed(results(e, of_scale(e, records, "reduced"), "reduced").markdown())
    assert rows[0] == {
        "": "a", "x / %": "1.00 ± 1.00", "paper": "1.5", "true | false": "2/4", "median": "1.0",
        "s": "1.00 (0.50 to 1.50)", "runs": "4", "diverged": "1", "cut": "0",
    }  # fmt: skip
    assert rows[1] == {
        "": "b", "x / %": "12.00", "paper": "–", "true | false": "0/1", "median": "12.0", "s": "20.00",
        "runs": "2", "diverged": "0", "cut": "1",
    }  # fmt: skip


def test_the_papers_column_stands_only_where_it_says_something():
    e = forged()
    table = results(e, of_scale(e, runs(b=[1.0, 2.0, 3.0]), "reduced"), "reduced")
    assert table.heads == ("", "x / %", "runs")


@pytest.mark.parametrize(
    ("form", "values", "found"),
    [(".3g", [1.234, 20.0], ".2f"), (".3g", [1e-9, 1.0], ".3g"), (".3g", [0.01234], ".4f"),
     (".1f", [1.0], ".1f"), (".2g", [], ".2g"), (".2g", [250.0], ".0f"), (",.0f", [1e5], ",.0f")],
)  # fmt: skip
def test_decimals_are_fixed_where_numbers_can_be_compared(form, values, found):
    assert fixed(form, values) == found


def test_decimals_show_the_spread():
    assert fixed(".2g", [2.3, 2.4], [0.004, 0.006, 0.0001]) == ".3f"
    assert fixed(".2g", [2.3, 2.4], [0.6]) == ".1f"
    assert fixed(".2g", [2.3, 2.4], [0.0]) == ".1f"


def test_words():
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert [duration(x) for x in (5, 90, 7200)] == ["5 s", "2 min", "2.0 h"]


def test_what_the_runs_are_is_said():
    e = forged()
    records = [run("a", 0, x=1.0, data={"digits": "00ff"}), run("b", 0, "cut", data={"digits": "00ff"})]
    records[1] = dataclasses.replace(records[1], error="cut after 9 CPU-seconds")
    text = "\n".join(about(e, records, "reduced"))
    for said in (
        "half of it",
        "digits (00ff)",
        "Not the paper's data: digits in place of mnist",
        "Not run: c",
        "Cut, and left out of all numbers: b (1 of 1: cut after 9 CPU-seconds)",
        "forge",
        "numpy 2",
        "abc",
    ):
        assert said in text


def test_digits_are_never_cut_on_a_narrow_terminal():
    rich = pytest.importorskip("rich.console")
    e = forged()
    table = results(e, of_scale(e, runs(a=[123456.789, 2.0, 3.0], b=[1.0] * 3), "reduced"), "reduced")
    console = rich.Console(width=30, record=True, file=io.StringIO())
    console.print(table.rich("title"))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 30
    there = re.findall(r"\d", "".join(table.heads) + "".join(cell for row in table.rows for cell in row))
    assert sorted(re.findall(r"\d", text)) == sorted(there)  # folded, so in another order


# -- contests, figures, pages --------------------------------------------------------------------------------

CONTEST = Contest("accuracy", "x", ("a",), ("b", "c"))


def test_a_page_begins_with_what_psgd_does_not_beat():
    records = runs(**CLEAR, c=[2.2, 1.9, 2.0, 2.06])
    lines = standing((CONTEST,), records)
    assert lines[0].startswith(
        "**PSGD does not beat a baseline in 1 of 2 comparisons**: it is worse in 0, and 1 is"
    )
    assert lines[2].startswith("- undecided in accuracy: a − c")
    assert len(lines) == 3
    assert [row[0] for row in comparisons((CONTEST,), records).rows] == [
        "PSGD is undecided",
        "PSGD is better",
    ]
    worse = standing((CONTEST,), runs(a=CLEAR["b"], b=CLEAR["a"], c=[0.0] * 4))
    assert worse[2].startswith("- worse in accuracy: a − b")
    both = standing((CONTEST,), runs(a=CLEAR["b"], b=[1.1, 0.9, 1.0, 1.05], c=CLEAR["a"]))
    assert both[2].startswith("- worse in accuracy: a − c")
    assert both[3].startswith("- undecided in accuracy: a − b")
    assert standing((CONTEST,), runs(**CLEAR)) == ["**PSGD beats the baselines in all of 1 comparison.**"]
    assert "too few runs" in standing((CONTEST,), [])[0]


def test_only_cells_that_a_scale_plans_are_compared():
    assert among((CONTEST,), ("a", "b", "c")) == [CONTEST]
    assert among((CONTEST,), ("a", "c", "d")) == [dataclasses.replace(CONTEST, baselines=("c",))]
    assert among((CONTEST,), ("b", "c")) == among((CONTEST,), ("a",)) == []


def along(n: int, lost: bool = False) -> list[dict[str, float]]:
    return [{"loss": math.nan if lost and i == n - 1 else 1 / (i + 1), "seconds": i + 1.0} for i in range(n)]


def drawn() -> list[Record]:
    records = [run(cell, i, x=1.0 + i, t=i > 0, metrics=along(3 + i)) for cell in "ab" for i in range(3)]
    return [*records, run("b", 3, "diverged", metrics=along(4, lost=True)), run("c", 0, "cut")]


def test_curves_are_medians_and_keep_the_last_value():
    pytest.importorskip("matplotlib")
    from psgd_analysis.reproduce.figures import curves, figure

    made = figure(curves("loss"), curves("loss", "seconds", log=True, cells=["a"]), curves("nothing"))(
        drawn()
    )
    first, second, third, _ = made.axes
    line = first.get_lines()[0]
    assert line.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert line.get_ydata() == pytest.approx(
        [1, 1 / 2, 1 / 3, 1 / 4, 1 / 4]
    )  # of 1/3, 1/4 and 1/5 at the end
    assert len(first.get_lines()) == 3  # two medians, and a cross where b diverged
    assert len(second.get_lines()) == 1
    assert second.get_yscale() == "log"
    assert third.texts[0].get_text() == "no runs"
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["a", "b"]


def test_levels_rows_and_points_show_what_the_records_say():
    pytest.importorskip("matplotlib")
    from psgd_analysis.reproduce.figures import against, figure, levels, rows

    panels = (
        levels("t", {"PSGD": {"a": 0, "b": 10}}, paper={"PSGD": {0: 0.5}}),
        rows("x", paper={"a": 2.0}),
        against("seconds", "x"),
    )
    one, two, three, _ = figure(*panels)(drawn()).axes
    assert one.get_lines()[0].get_ydata() == pytest.approx([2 / 3, 2 / 4])  # the run that diverged is false
    assert [label.get_text() for label in one.get_xticklabels()] == ["0", "10"]
    assert [label.get_text() for label in two.get_yticklabels()] == ["a", "b"]
    medians = [line for line in three.get_lines() if line.get_label() in "ab"]
    assert [line.get_ydata()[0] for line in medians] == [2.0, 2.0]


def test_many_cells_look_different():
    pytest.importorskip("matplotlib")
    from psgd_analysis.look import styles

    for names in (map(str, range(20)), [f"PSGD, step {i}" for i in range(20)]):
        looks = styles(names).values()
        assert len({(str(one["linestyle"]), one["marker"]) for one in looks}) == 20
        assert len({(one["color"], str(one["linestyle"])) for one in looks}) == 20


@pytest.fixture
def written(tmp_path):
    pytest.importorskip("matplotlib")
    from psgd_analysis.reproduce import pages
    from psgd_analysis.reproduce.figures import curves, figure

    claims = (COMPARED, ABSOLUTE, Claim("b beats a", "Figure 3", "in a figure", better("x", "b", "a")))
    e = forged(claims, figures={"": figure(curves("loss")), "two": figure(curves("loss"))},
               notes=("The text says otherwise.",), contests=(CONTEST,))  # fmt: skip
    records = runs(**CLEAR, c=[2.2, 1.9, 2.0, 2.06])
    book = Book(tmp_path / "forged.jsonl")
    for record in records:
        book.add(record)
    pages.write(e, records, tmp_path)
    return e, tmp_path, (tmp_path / "forged.md").read_text(encoding="utf-8")


def test_a_page_has_everything_and_its_links_lead_somewhere(written):
    _, folder, text = written
    order = (
        "# A forgery",
        "**PSGD does not beat a baseline in 1 of 2",
        "- **not confirmed** (Figure 3): b beats a; the opposite holds\n",
        "## Verdicts",
        "## Results at the reduced scale",
        "half of it",
        "![A forgery](forged.png)",
        "The text says otherwise.",
        "psgd reproduce forged --scale reduced --seeds 0-3 --data DIR",
    )
    places = [text.index(said) for said in order]
    assert places == sorted(places)
    for page in folder.glob("*.md"):
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (folder / link).stat().st_size > 0
    assert {path.name for path in folder.glob("*.png")} == {"forged.png", "forged-two.png"}
    verdicts = parsed(text.partition("## Verdicts\n\n")[2].partition("\n\n")[0].splitlines())
    assert [row["verdict"] for row in verdicts] == [f"**{v}**" for v in (CONFIRMED, UNTESTED, REFUTED)]
    assert all(row["scale"] == "reduced" for row in verdicts)


@pytest.mark.parametrize(
    ("used", "asked"), [("mnist", True), ("cifar10-jpeg", True), ("plain-words", True), ("digits", False)]
)
def test_the_command_of_a_page_gives_the_folder_where_files_were_read(used, asked):
    from psgd_analysis.reproduce import pages

    records = [dataclasses.replace(r, data={used: "0" * 64}) for r in runs(**CLEAR)]
    text = pages.page(forged((COMPARED,)), records)
    assert ("--seeds 0-3 --data DIR\n" in text, "--seeds 0-3\n" in text) == (asked, not asked)


def test_a_page_without_runs_and_one_of_smoke_runs_decide_nothing(tmp_path):
    from psgd_analysis.reproduce import pages

    e = forged((COMPARED,), contests=(CONTEST,))
    assert "Not run yet." in pages.page(e, [])
    smoke = [dataclasses.replace(r, scale="smoke") for r in runs(**CLEAR)]
    text = pages.page(e, smoke)
    assert "they decide nothing" in text
    assert "smoke" not in pages.page(e, [*smoke, run("c", 9, x=1.0)])
    assert "**confirmed**" not in text
    assert "beat a baseline" not in text


def test_the_terminal_and_the_list(written):
    rich = pytest.importorskip("rich.console")
    from psgd_analysis.reproduce import pages

    e, folder, _ = written
    console = rich.Console(width=110, record=True, file=io.StringIO())
    pages.show(e, Book(folder / "forged.jsonl").records(), "reduced", console)
    pages.show(e, [], "faithful", console)
    console.print(pages.listing([e], folder))
    shown = console.export_text()
    for said in (
        "2.01 ± 0.09",
        "confirmed: a beats b",
        "no runs at the faithful scale yet",
        "no_such_package (missing)",
        "reduced    1 min",
        "9 of 9 runs done",
        "12 of 12 runs done",
        "3 of 3 runs done",
    ):
        assert said in shown


def test_a_table_that_is_too_wide_for_the_terminal_is_turned(written):
    rich = pytest.importorskip("rich.console")
    from psgd_analysis.reproduce import pages, tables

    e, folder, _ = written
    records = Book(folder / "forged.jsonl").records()
    e = dataclasses.replace(e, columns=e.columns * 12)
    console = rich.Console(width=60, record=True, file=io.StringIO())
    pages.show(e, records, "reduced", console)
    shown = console.export_text()
    assert shown.count("2.01 ± 0.09") == 12
    plain = tables.results(e, records, "reduced")
    assert plain.transposed().transposed() == plain


def test_many_claims_that_smoke_runs_cannot_decide_are_said_at_once(written):
    rich = pytest.importorskip("rich.console")
    from psgd_analysis.reproduce import pages

    e, *_ = written
    console = rich.Console(width=110, record=True, file=io.StringIO())
    pages.show(e, [dataclasses.replace(r, scale="smoke") for r in runs(**CLEAR)], "smoke", console)
    shown = console.export_text()
    assert shown.count("not tested at this scale: smoke runs only show that it runs\n") == 1
    assert "  a beats b" in shown
    assert "  b beats a" in shown


def test_committed_results_are_shown_on_the_site():
    root = Path(__file__).parents[1]
    results, site = root / "analysis" / "results" / "reproduce", root / "docs" / "results" / "reproduce"
    index = (site / "index.md").read_text(encoding="utf-8")
    assert "analysis/results/reproduce/overview.md" in index
    for page in results.glob("*.md"):
        if page.stem != "overview":
            shown = (site / page.name).read_text(encoding="utf-8")
            assert f"analysis/results/reproduce/{page.name}" in shown
            assert f"<{page.stem}>" in index


def test_the_scale_that_decides_comes_first():
    e = forged()
    paper = [run(c, 0, scale="faithful", x=1.0) for c in "abc"]
    reduced = [run(c, seed, x=1.0) for c in "abc" for seed in range(3)]
    own = {s: Plan(tuple(Cell(n, {"name": n, "at": s}) for n in "abc"), 3, "") for s in e.plans}
    e = dataclasses.replace(e, plans=own)

    def at(scale: str, records: list[Record]) -> list[Record]:
        return [dataclasses.replace(r, scale=scale, settings={"name": r.cell, "at": scale}) for r in records]

    assert scales(e, at("faithful", paper)) == ["faithful"]
    assert scales(e, at("faithful", paper) + at("reduced", reduced)) == ["reduced"]
    assert scales(e, at("faithful", reduced) + at("reduced", reduced)) == ["faithful", "reduced"]
    assert scales(e, at("faithful", reduced[:6]) + at("reduced", reduced)) == ["reduced", "faithful"]
    assert scales(e, at("smoke", reduced)) == ["smoke"]
    assert scales(e, []) == []
