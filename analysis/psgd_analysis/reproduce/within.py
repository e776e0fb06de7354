"""Claims about several numbers of the same runs, and about the runs that have a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .claims import Judgement, Predicate, better
from .records import Record


def better_within(
    cell: str, first: str, second: str, *, larger: bool = True, factor: float = 1.0
) -> Predicate:
    """Return the predicate that one number of a cell's runs is better than another, paired over seeds.

    Parameters
    ----------
    cell : str
    first, second : str
        Numbers of `Record.final`.
    larger, factor
        As for `claims.better`.
    """
    names = {key: f"{cell}, {key.replace('_', ' ')}" for key in (first, second)}
    compared = better("number", names[first], names[second], larger=larger, factor=factor)

    def predicate(records: Sequence[Record]) -> Judgement:
        apart = [
            dataclasses.replace(r, cell=name, final={"number": r.final.get(key)})
            for key, name in names.items()
            for r in records
            if r.cell == cell
        ]
        return compared(apart)

    return predicate


def where_known(key: str, predicate: Predicate) -> Predicate:
    """Return the predicate on the runs alone that have a number: those without it have not failed.

    Parameters
    ----------
    key : str
        A number of `Record.final`.
    predicate : callable
    """

    def known(records: Sequence[Record]) -> Judgement:
        return predicate([r for r in records if r.final.get(key) is not None])

    return known
