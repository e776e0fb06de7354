"""The overview: a row for each table, figure and question of the paper, from all records."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..files import write_text
from . import contests, tables
from .claims import CONFIRMED, OPPOSITE, UNTESTED, Claim, Judgement, judge
from .experiment import Column, Experiment, Scale
from .pages import place, scales
from .records import Book, Record
from .samples import of_scale, sample
from .tables import Table

OVERVIEW = "overview"

EVERY = (*(f"Table {i}" for i in range(1, 12)), *(f"Figure {i}" for i in range(1, 9)))
"""What the paper has."""

CHECKS = ("next check 1", "next check 2", "next check 3", "open question 2")
"""What its summary would have checked next, and the question that goes with these."""

QUESTIONS = (*CHECKS, "open question 1", "open question 3")

ABOUT = {
    "Table 1": "LeNet5 on MNIST",
    "Table 2": "ResNet18 on CIFAR-10",
    "Table 3": "CIFAR-10 made harder",
    "Table 4": "LSTMs on Penn Treebank",
    "Table 5": "GPTs",
    "Table 6": "entropy and margins",
    "Table 7": "pruned by forgetting",
    "Table 8": "delayed XOR",
    "Table 9": "rates and weight decay",
    "Table 10": "entropy and forgetting",
    "Table 11": "subsets by entropy",
    "Figure 1": "reinforcement learning",
    "Figure 2": "stubborn solutions, deficits",
    "Figure 3": "LeNet5 by rank",
    "Figure 4": "CIFAR-10, 16 runs",
    "Figure 5": "convex, MNIST",
    "Figure 6": "convex, noisy",
    "Figure 7": "entropy and forgetting",
    "Figure 8": "delayed XOR by rank",
    "next check 1": "non-stationary data",
    "next check 2": "does entropy cause it?",
    "next check 3": "a transformer",
    "open question 1": "which rank?",
    "open question 2": "parts without derivatives",
    "open question 3": "time and memory",
}
"""What each is of, in a few words."""


def named(text: str) -> list[str]:
    """Return the tables, figures and questions that a text names, "Figure 2a" being of Figure 2."""
    found = re.findall(r"(?:Table|Figure) \d+|(?:next check|open question) \d+", text)
    return list(dict.fromkeys(found))


def of(experiment: Experiment) -> list[str]:
    """Return what an experiment is of, by `named`; its first source where that is none of them."""
    return [n for source in experiment.sources for n in named(source)] or [experiment.sources[0]]


@dataclass(frozen=True)
class Part:
    """An experiment and its records, at the scale that comes first, if there are any."""

    experiment: Experiment
    records: Sequence[Record]

    @cached_property
    def scale(self) -> Scale | None:
        """The scale shown, None where nothing was run."""
        return next(iter(scales(self.experiment, self.records)), None)

    @cached_property
    def mine(self) -> list[Record]:
        """The runs of that scale."""
        return of_scale(self.experiment, self.records, self.scale) if self.scale else []

    @cached_property
    def judged(self) -> list[tuple[Claim, Judgement]]:
        """All claims with their verdicts; none where nothing was run."""
        return judge(self.experiment, self.records, self.scale) if self.scale else []

    @cached_property
    def held(self) -> list[str]:
        """The outcomes of PSGD against the baselines, of comparisons that decide something."""
        decided = self.scale not in (None, "smoke")
        found = contests.held(self.experiment.contests, self.mine) if decided else []
        return [c.outcome for _, c in found if c.outcome != "untested"]

    def about(self, name: str) -> list[tuple[Claim, Judgement]]:
        """Return the claims about a table: those that name it, and at the first one those that name none."""
        every = of(self.experiment)
        return [
            (claim, found)
            for claim, found in self.judged
            if name in ([n for n in named(claim.source) if n in every] or every[:1])
        ]

    def numbers(self, name: str) -> tuple[str, str]:
        """Return the paper's main numbers and those beside them here, of one table.

        A column that has the paper's numbers tells two cells, PSGD's first; without one, the first claim
        that is decided tells what the paper says and what was measured.
        """
        first = of(self.experiment)[0]
        for column in self.experiment.columns:
            cells = self._cells(column) if column.paper and (column.source or first) == name else []
            if cells:
                ours = tables.texts(column, [sample(self.mine, cell, column.key) for cell in cells])
                told = "; ".join(f"{cell}: {column.paper[cell]}" for cell in cells)
                return f"{column.title}; {told}", "; ".join(ours)
        judged = self.about(name)
        if not judged:
            return "", "in the figure" if name.startswith("Figure") else ""
        # rather one that is decided, rather with a number
        claim, found = min(judged, key=lambda f: (f[1].verdict == UNTESTED, not re.search(r"\d", f[0].paper)))
        return claim.paper, textwrap.shorten(found.measured, LONGEST, placeholder=" …")

    def _cells(self, column: Column) -> list[str]:
        """Return at most two cells that have both numbers, of PSGD and of a baseline if there are such."""
        there = [cell for cell in column.paper if sample(self.mine, cell, column.key).seeds]
        return [*[cell for cell in there if "PSGD" in cell][:1], *[c for c in there if "PSGD" not in c][:1]]


LONGEST = 160
"""Characters of a measurement in a row; the pages have all of it."""


def outcome(found: Judgement) -> str:
    """Return "confirmed", "opposite", "undecided" or "untested"."""
    if found.verdict == UNTESTED:
        return "untested"
    if found.verdict == CONFIRMED:
        return "confirmed"
    return "opposite" if found.measured.startswith(OPPOSITE) else "undecided"


OUTCOMES = ("confirmed", "undecided", "opposite", "untested")

HELD = "PSGD better, undecided, worse"
"""Of its comparisons with baselines."""


def overview(experiments: Sequence[Experiment], records: Mapping[str, Sequence[Record]]) -> str:
    """Return the page, from the records of each experiment by its name."""
    parts = [Part(e, records.get(e.name, ())) for e in experiments]
    lines = ["# The paper's tables and figures", "", *totals(parts), ""]
    lines += ["## Row by row", "", *by_table(parts).markdown(), "", LEGEND, ""]
    absent = [name for name in (*EVERY, *CHECKS) if not any(name in of(e) for e in experiments)]
    if absent:
        lines += [f"Without an experiment of its own: {', '.join(absent)}.", ""]
    return "\n".join([*lines, "## Claim by claim", "", *by_claim(parts).markdown(), ""])


LEGEND = (
    "*Confirmed*: an interval of 95 % over the seeds excludes the opposite; *opposite*: it excludes the "
    "claim; *undecided*: neither; *untested*: too few seeds, or a number of the paper's own settings, which "
    f"shorter runs cannot meet. *{HELD}*: in how many comparisons with baselines. Numbers at the reduced "
    "scale are of shorter runs on less data: they show an order, not the paper's levels. Runs have scale, "
    "data if not the paper's, number, seeds, and their CPU time on one core, of the whole experiment in each "
    "of its rows. Names lead to pages with all numbers, intervals, figures, what departs from the paper, and "
    "the full command."
)


def totals(parts: Sequence[Part]) -> list[str]:
    """Return what a hurried reader should know: how many claims held, and what PSGD beats."""
    found = [outcome(j) for part in parts for _, j in part.judged]
    count = {name: found.count(name) for name in OUTCOMES}
    tested = len(found) - count["untested"]
    held = [result for part in parts for result in part.held]
    wins, losses = held.count("better"), held.count("worse")
    seconds = sum(r.cpu_seconds for part in parts for r in part.mine)
    runs = sum(len(part.mine) for part in parts)
    return [
        f"**Of {tested} claims that were tested, {count['confirmed']} are confirmed, {count['undecided']} "
        f"are undecided, and of {count['opposite']} the opposite was measured.** {count['untested']} more "
        "are not tested at the scales that were run.",
        "",
        f"**PSGD beats a baseline in {wins} of {len(held)} comparisons, and is worse in {losses}**; "
        f"{len(held) - wins - losses} are undecided.",
        "",
        f"All of this is from {runs} runs, {tables.duration(seconds)} of CPU in all, and can be made again: "
        "the records are beside these pages. Claims are counted as the experiments split them.",
    ]


def by_table(parts: Sequence[Part]) -> Table:
    """Return the table with a row for each table, figure or question, and each experiment about it."""
    heads = ("", "psgd reproduce ..", *OUTCOMES, HELD, "paper", "here", "runs")
    rows = tuple(_row(name, part) for name, part in _pairs(parts))
    return Table(heads, rows, frozenset({0, 1, 6, 7, 8, 9}))


def _pairs(parts: Sequence[Part]) -> Iterator[tuple[str, Part]]:
    """Yield what the paper has, in its order, with each experiment about it."""
    known = (*EVERY, *QUESTIONS)
    for name in known:
        yield from ((name, part) for part in parts if name in of(part.experiment))
    for part in parts:
        yield from ((name, part) for name in of(part.experiment) if name not in known)


def _row(name: str, part: Part) -> tuple[str, ...]:
    e = part.experiment
    about = f"{name}: {ABOUT[name]}" if name in ABOUT else e.title
    link = f"[{e.name}]({e.name}.md)"
    if not part.scale:
        return (about, link, *[tables.DASH] * 5, "", "not run yet", "")
    found = [outcome(j) for _, j in part.about(name)]
    held = [str(part.held.count(o)) for o in ("better", "open", "worse")]
    cost = tables.duration(sum(r.cpu_seconds for r in part.mine))
    seeds = tables.spans(sorted({r.seed for r in part.mine}))
    return (
        about,
        link,
        *(str(found.count(o) or tables.DASH) for o in OUTCOMES),
        ", ".join(held) if part.held else tables.DASH,
        *part.numbers(name),
        f"{place(e, part.records, part.scale)}: {len(part.mine)} (seeds {seeds}), {cost}",
    )


def by_claim(parts: Sequence[Part]) -> Table:
    """Return the table of all claims: what was measured to be otherwise first, what is untested last."""
    found: dict[str, list[tuple[str, ...]]] = {
        o: [] for o in ("opposite", "undecided", "confirmed", "untested")
    }
    for part in parts:
        for claim, judged in part.judged:
            own = outcome(judged)
            verdict = f"{judged.verdict}; {OPPOSITE}" if own == "opposite" else judged.verdict
            measured = judged.measured.removeprefix(f"{OPPOSITE}: ").removeprefix("undecided: ")
            link = f"[{claim.source}]({part.experiment.name}.md)"
            found[own].append((f"**{verdict}**", link, claim.text, claim.paper, measured))
    heads = ("verdict", "table or figure", "claim", "paper", "measured")
    return Table(heads, tuple(row for rows in found.values() for row in rows), frozenset(range(len(heads))))


def write_overview(experiments: Sequence[Experiment], folder: Path) -> None:
    """Write the overview of what a folder has of each experiment."""
    records = {e.name: Book(folder / f"{e.name}.jsonl").records() for e in experiments}
    write_text(folder / f"{OVERVIEW}.md", overview(experiments, records))
