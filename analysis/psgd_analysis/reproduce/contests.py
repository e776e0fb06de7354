"""Where PSGD wins and where it does not, from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .claims import Comparison, compare
from .records import Record


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


def held(contests: Sequence[Contest], records: Sequence[Record]) -> list[Found]:
    """Return all comparisons of some contests."""
    return [
        (contest, compare(records, contest.key, ours, theirs, larger=contest.larger))
        for contest in contests
        for ours in contest.psgd
        for theirs in contest.baselines
    ]


def standing(contests: Sequence[Contest], records: Sequence[Record]) -> list[str]:
    """Return lines of Markdown: how often PSGD does not beat a baseline, then where, then where it does."""
    found = held(contests, records)
    by = {o: [f for f in found if f[1].outcome == o] for o in ("worse", "open", "better", "untested")}
    tested = len(found) - len(by["untested"])
    if not tested:
        return ["**PSGD was not compared with a baseline**: too few runs."]
    lost, level = len(by["worse"]), len(by["open"])
    if lost + level:
        head = (
            f"**PSGD does not beat a baseline in {lost + level} of {tested} comparisons**: "
            f"it is worse in {lost}, and {level} are open (the interval contains 0)."
        )
    else:
        head = f"**PSGD beats every baseline in all {tested} comparisons.**"
    lines = [head, ""]
    words = {"worse": "worse", "open": "open", "better": "better", "untested": "not compared"}
    for outcome, word in words.items():
        lines += [f"- {word}: {contest.about}: {c.words}" for contest, c in by[outcome]]
    return lines
