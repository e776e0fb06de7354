"""Where PSGD wins and where it does not, from records alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from .claims import Comparison, compare
from .records import Record
from .tables import Table


@dataclass(frozen=True)
class Contest:
    """PSGD's cells, each held against each baseline's.

    Parameters
    ----------
    about : str
        What is compared, such as "test accuracy on MNIST".
    key : str
        The number; see `Record.number`.
    psgd, baselines : tuple of str
        Names of cells.
    larger : bool
        Whether more is better.
    """

    about: str
    key: str
    psgd: tuple[str, ...]
    baselines: tuple[str, ...]
    larger: bool = True


Found = tuple[Contest, Comparison]

WORDS = {"worse": "worse", "open": "undecided", "better": "better", "untested": "not compared"}
"""Outcomes, the most important first."""


def held(contests: Sequence[Contest], records: Sequence[Record]) -> list[Found]:
    """Return all comparisons of some contests."""
    return [
        (contest, compare(records, contest.key, ours, theirs, larger=contest.larger))
        for contest in contests
        for ours in contest.psgd
        for theirs in contest.baselines
    ]


def among(contests: Sequence[Contest], cells: Collection[str]) -> list[Contest]:
    """Return contests of these cells alone: a scale does not plan every cell."""
    found = [
        replace(
            contest,
            psgd=tuple(name for name in contest.psgd if name in cells),
            baselines=tuple(name for name in contest.baselines if name in cells),
        )
        for contest in contests
    ]
    return [contest for contest in found if contest.psgd and contest.baselines]


def standing(contests: Sequence[Contest], records: Sequence[Record]) -> list[str]:
    """Return lines of Markdown: how often PSGD does not beat a baseline, and where; then where it does."""
    found = [f for f in held(contests, records) if f[1].outcome != "untested"]
    lost = [f for f in found if f[1].outcome == "worse"]
    level = [f for f in found if f[1].outcome == "open"]
    count = f"{len(found)} comparison{'s' * (len(found) != 1)}"
    if not found:
        return ["**PSGD is not compared with a baseline**: there are too few runs."]
    if not lost + level:
        return [f"**PSGD beats the baselines in all of {count}.**"]
    head = (
        f"**PSGD does not beat a baseline in {len(lost + level)} of {count}**: it is worse in {len(lost)}, "
        f"and {len(level)} {'is' if len(level) == 1 else 'are'} undecided (the interval has both signs)."
    )
    lines = [f"- {WORDS[c.outcome]} in {contest.about}: {c.words}" for contest, c in lost + level]
    return [head, "", *lines]


def comparisons(contests: Sequence[Contest], records: Sequence[Record]) -> Table:
    """Return the table of all comparisons, where PSGD does not win first."""
    order = list(WORDS)
    found = sorted(held(contests, records), key=lambda f: order.index(f[1].outcome))
    rows = tuple((f"PSGD is {WORDS[c.outcome]}", contest.about, c.words) for contest, c in found)
    return Table(("", "in", "measured"), rows, frozenset({0, 1, 2}))
