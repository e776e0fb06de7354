"""Claims of the paper as predicates over records, and the verdicts on them.

An experiment composes its claims of `better`, `trend`, `rate_at_least` and the like; each returns what gets
the records of one scale and gives a `Judgement`. A claim is confirmed only if an interval of 95 % (or a test
at the level of one of its ends) excludes the opposite, so a claim that is wrong is confirmed at most once in
forty times. Numbers are compared paired over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from . import statistics
from .experiment import Experiment, Scale
from .records import Record
from .samples import Sample, left_out, levels, of_scale, sample, stand_ins
from .statistics import FEWEST, LEVEL

Verdict = Literal["confirmed", "not confirmed", "not tested at this scale"]

Predicate = Callable[[Sequence[Record]], "Judgement"]

CONFIRMED: Verdict = "confirmed"
REFUTED: Verdict = "not confirmed"
UNTESTED: Verdict = "not tested at this scale"

OPPOSITE = "the opposite holds"
"""What a judgement's words begin with where that was measured."""


@dataclass(frozen=True)
class Judgement:
    """What records say of a claim: the verdict, and the measurement behind it with its interval, in words."""

    verdict: Verdict
    measured: str


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and what decides it.

    Parameters
    ----------
    text : str
        What is claimed.
    source : str
        Such as "Table 1".
    paper : str
        The paper's numbers.
    judge : callable
        Gets the records of one scale, all seeds.
    absolute : bool
        Whether the paper's absolute numbers decide: only the faithful scale on the paper's data tests that.
    """

    text: str
    source: str
    paper: str
    judge: Predicate
    absolute: bool = False


def judge(experiment: Experiment, records: Sequence[Record], scale: Scale) -> list[tuple[Claim, Judgement]]:
    """Return the verdict on each claim, from the records of an experiment's book."""
    mine = of_scale(experiment, records, scale)
    found = []
    for claim in experiment.claims:
        judged = claim.judge(mine) if mine else Judgement(UNTESTED, "no runs")
        why = _untestable(experiment, claim, mine, scale) if mine else ""
        if why:
            judged = Judgement(UNTESTED, why if scale == "smoke" else f"{why}; {judged.measured}")
        found.append((claim, judged))
    return found


def _untestable(experiment: Experiment, claim: Claim, mine: Sequence[Record], scale: Scale) -> str:
    """Return why these runs cannot decide a claim; "" if they can."""
    others = stand_ins(experiment, mine)
    if scale == "smoke":
        return "smoke runs only show that it runs"
    if claim.absolute and others:
        return f"the paper's numbers are of other data than {' and '.join(others)}"
    if claim.absolute and (scale != "faithful" or experiment.plans[scale].departs):
        return "the paper's numbers are of its own settings"
    return ""


# -- comparing two cells -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Two cells, compared: whether the first is better, worse, or the interval leaves it open."""

    outcome: Literal["better", "worse", "open", "untested"]
    words: str


def compare(
    records: Sequence[Record], key: str, first: str, second: str, *, larger: bool = True, factor: float = 1.0
) -> Comparison:
    """Compare a number of two cells, paired over the seeds that both have; see `better`."""
    a, b = sample(records, first, key), sample(records, second, key)
    notes = left_out((a, b))
    seeds, why = _common((a, b), key)
    if why:
        return Comparison("untested", why + notes)
    if a.truth or b.truth:
        return _by_odds(a, b, larger, notes)
    # a failed run is worse than any other, by how much nobody can say; and equal differences have no spread
    pairs = [(a.values[s], factor * b.values[s]) for s in seeds if s in a.values and s in b.values]
    differences = [x - y for x, y in pairs]
    if len(differences) < len(seeds) or not statistics.spread(
        differences, [x for pair in pairs for x in pair]
    ):
        wins = sum(_beats(a, b, s, larger, factor) for s in seeds)
        losses = sum(_beats(b, a, s, larger, 1 / factor) for s in seeds)
        return _by_signs(a, b, wins, losses, len(seeds), notes)
    found = statistics.mean(differences)
    low, high = (found.low, found.high) if larger else (-found.high, -found.low)
    outcome: Literal["better", "worse", "open"] = "better" if low > 0 else "worse" if high < 0 else "open"
    other = second if factor == 1 else f"{factor:g} × {second}"
    return Comparison(outcome, f"{first} − {other}: {found} (t, {len(seeds)} paired seeds){notes}")


def _beats(a: Sample, b: Sample, seed: int, larger: bool, factor: float) -> bool:
    """Return whether a run is better than another one: any is, than one that failed."""
    worst = float("-inf" if larger else "inf")
    x, y = a.values.get(seed, worst), b.values.get(seed, worst)
    return x > factor * y if larger else x < factor * y


def _by_odds(a: Sample, b: Sample, larger: bool, notes: str) -> Comparison:
    """Compare how often something is true, of all runs of both: a pair of seeds has little in common.

    What takes longest is cut, and may be what would not have come true: neither may decide.
    """
    low, high = statistics.odds((a.true, len(a.seeds)), (b.true, len(b.seeds)))
    words = (
        f"{a.cell}: {a.true}/{len(a.seeds)}; {b.cell}: {b.true}/{len(b.seeds)}; "
        f"odds ratio in [{low:.2g}, {high:.2g}] (exact){notes}"
    )
    if a.cut or b.cut:
        (a_least, a_most), (b_least, b_most) = a.bounds, b.bounds
        low, high = statistics.odds(a_least, b_most)[0], statistics.odds(a_most, b_least)[1]
        words += f"; with any outcome of those cut in [{low:.2g}, {high:.2g}]"
    up, down = low > 1, high < 1
    right, wrong = (up, down) if larger else (down, up)
    return Comparison("better" if right else "worse" if wrong else "open", words)


def _by_signs(a: Sample, b: Sample, wins: int, losses: int, count: int, notes: str) -> Comparison:
    """Compare by how often each is better: the exact sign test."""
    if not wins + losses:
        return Comparison("open", f"{a.cell} and {b.cell} are equal with all {count} seeds{notes}")
    found = statistics.share(wins, wins + losses)
    words = (
        f"{a.cell} is better than {b.cell} with {wins} seeds, worse with {losses}, of {count}: "
        f"share {found} (exact sign test){notes}"
    )
    return Comparison("better" if found.low > 0.5 else "worse" if found.high < 0.5 else "open", words)


def better(key: str, first: str, second: str, *, larger: bool = True, factor: float = 1.0) -> Predicate:
    """Return the predicate that a cell is better than another, paired over seeds.

    The mean of the differences decides, by Student's t interval; where a run diverged, or all differences
    are equal, how often each is better (exact sign test: it takes six seeds that all agree); and of what is
    true or false, the odds ratio (exact: 4 of 4 against 0 of 4 is enough).

    Parameters
    ----------
    key : str
        A number of `Record.final`, or "seconds", "cpu_seconds", "skipped".
    first, second : str
        Names of cells.
    larger : bool
        Whether more is better.
    factor : float
        That the second is multiplied by: ``larger=False, factor=1.2`` says "at most 20 % more".
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"`factor` must be positive and finite, got {factor!r}; 1 compares as they are")

    def predicate(records: Sequence[Record]) -> Judgement:
        found = compare(records, key, first, second, larger=larger, factor=factor)
        return _judgement(found.outcome, found.words)

    return predicate


def ranked(key: str, cells: Sequence[str], *, larger: bool = True) -> Predicate:
    """Return the predicate that each cell is better than the next; see `better`."""
    _require_several("cells", cells, 2)
    return all_of(*(better(key, a, b, larger=larger) for a, b in pairwise(cells)))


def best(
    key: str, cell: str, others: Sequence[str], *, larger: bool = True, factor: float = 1.0
) -> Predicate:
    """Return the predicate that a cell is better than each of the others; see `better`."""
    _require_several("others", others, 1)
    return all_of(*(better(key, cell, other, larger=larger, factor=factor) for other in others))


# -- several cells, and single ones --------------------------------------------------------------------------


def trend(key: str, cells: Sequence[str], *, larger: bool = True) -> Predicate:
    """Return the predicate that a number rises from cell to cell (falls, unless `larger`): Page's test."""
    _require_several("cells", cells, 3)

    def predicate(records: Sequence[Record]) -> Judgement:
        found = [sample(records, cell, key) for cell in cells]
        notes, seeds, why = left_out(found), *_common(found, key)
        if why:
            return Judgement(UNTESTED, f"{why}{notes}")
        worst = 0.0 if any(s.truth for s in found) else float("-inf" if larger else "inf")
        rows = [[s.values.get(seed, worst) for s in found] for seed in seeds]
        up, down = statistics.rises(rows), statistics.rises([row[::-1] for row in rows])
        right, wrong = (up, down) if larger else (down, up)
        outcome = "better" if right < LEVEL else "worse" if wrong < LEVEL else "open"
        test = f"Page's test for a trend {'upwards' if larger else 'downwards'}, {len(seeds)} paired seeds"
        return _judgement(outcome, f"{levels(found)}; p = {right:.2g} ({test}){notes}")

    return predicate


def rates_grow(key: str, cells: Sequence[str]) -> Predicate:
    """Return the predicate that a truth holds more often from cell to cell; see `trend`."""
    return trend(key, cells)


def rate_at_least(key: str, cells: Sequence[str], value: float) -> Predicate:
    """Return the predicate that a truth holds in at least this share of runs, in each cell.

    Exact intervals decide, so that 1 can never be confirmed: 10 of 10 says 0.69 or more.
    """
    _require_several("cells", cells, 1)
    _require_share(value)
    return all_of(*(_rate(key, cell, value, True) for cell in cells))


def rate_at_most(key: str, cells: Sequence[str], value: float) -> Predicate:
    """Return the predicate that a truth holds in at most this share of runs, in each cell."""
    _require_several("cells", cells, 1)
    _require_share(value)
    return all_of(*(_rate(key, cell, value, False) for cell in cells))


def _rate(key: str, cell: str, value: float, larger: bool) -> Predicate:
    def predicate(records: Sequence[Record]) -> Judgement:
        found = sample(records, cell, key)
        _, why = _common([found], key)
        if why:
            return Judgement(UNTESTED, f"{why}{left_out([found])}")
        interval = statistics.share(found.true, len(found.seeds))
        least, most = (statistics.share(*counts) for counts in found.bounds)  # equal where none was cut
        above, below = least.low >= value, most.high <= value
        right, wrong = (above, below) if larger else (below, above)
        words = f"{cell}: {found.true}/{len(found.seeds)}, {interval}{left_out([found])}"
        if found.cut:
            words += f"; with any outcome of those in [{least.low:.2f}, {most.high:.2f}]"
        return _judgement("better" if right else "worse" if wrong else "open", words)

    return predicate


def near(key: str, cell: str, value: float, tolerance: float) -> Predicate:
    """Return the predicate that the mean is within a tolerance of the paper's number.

    For claims that are `absolute`. A run that diverged refutes it.
    """
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive, got {tolerance!r}; a mean is never exact")

    def predicate(records: Sequence[Record]) -> Judgement:
        found = sample(records, cell, key)
        _, why = _common([found], key)
        if why:
            return Judgement(UNTESTED, f"{why}{left_out([found])}")
        if len(found.values) < FEWEST:
            return Judgement(REFUTED, f"{cell}: {_count(len(found.values), 'run')} ended{left_out([found])}")
        mean = statistics.mean(found.finite)
        inside = value - tolerance <= mean.low and mean.high <= value + tolerance
        outside = mean.high < value - tolerance or mean.low > value + tolerance
        outcome = "worse" if outside else "better" if inside and not found.failed else "open"
        words = f"{cell}: {mean} (t, {len(found.values)} seeds), to be {value:g} ± {tolerance:g}"
        return _judgement(outcome, words + left_out([found]))

    return predicate


def all_of(*predicates: Predicate) -> Predicate:
    """Return the predicate that all of them hold; its words say what fails, and how many others do not."""
    _require_several("predicates", predicates, 1)

    def predicate(records: Sequence[Record]) -> Judgement:
        judged = [one(records) for one in predicates]
        verdict = next(v for v in (REFUTED, UNTESTED, CONFIRMED) if any(j.verdict == v for j in judged))
        said = list(dict.fromkeys(j.measured for j in judged if j.verdict == verdict))
        held = sum(j.verdict == CONFIRMED for j in judged) if verdict != CONFIRMED else 0
        return Judgement(verdict, "; ".join(said) + (f"; {held} of {len(judged)} parts hold" if held else ""))

    return predicate


# -- words and checks ----------------------------------------------------------------------------------------


def _judgement(outcome: str, words: str) -> Judgement:
    if outcome == "untested":
        return Judgement(UNTESTED, words)
    if outcome == "better":
        return Judgement(CONFIRMED, words)
    return Judgement(REFUTED, f"{OPPOSITE}: {words}" if outcome == "worse" else f"undecided: {words}")


def _common(samples: Sequence[Sample], key: str) -> tuple[list[int], str]:
    """Return the seeds that all have, and why they decide nothing ("" if they do)."""
    absent = [s.cell for s in samples if not s.seeds]
    if absent:
        return [], f"no runs of {'; '.join(absent)}"
    if not any(s.values for s in samples):
        return [], f"no run has `{key}`"
    seeds = sorted(set.intersection(*(set(s.seeds) for s in samples)))
    few = f"{_count(len(seeds), 'paired seed' if len(samples) > 1 else 'seed')}, {FEWEST} are needed"
    return seeds, few if len(seeds) < FEWEST else ""


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _require_several(name: str, given: Sequence[object], least: int) -> None:
    if isinstance(given, str) or len(given) < least:
        raise ValueError(f"`{name}` must be at least {least}, got {given!r}; name them in a list")


def _require_share(value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"`value` must lie between 0 and 1, got {value!r}; no number of runs shows 0 or 1")
