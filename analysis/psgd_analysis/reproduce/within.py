"""Claims about several numbers of the same runs, the runs that have a number, and numbers without chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .claims import CONFIRMED, REFUTED, UNTESTED, Judgement, Predicate, better
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


def at_most_times(key: str, first: str, second: str, factor: float) -> Predicate:
    """Return the predicate that a number which no seed changes, such as bytes, is at most a multiple.

    No interval is needed: one run of each cell decides.

    Parameters
    ----------
    key : str
        A number of `Record.final`.
    first, second : str
        Names of cells.
    factor : float
        That the second is multiplied by.

    Raises
    ------
    ValueError
        If runs of a cell differ.
    """

    def predicate(records: Sequence[Record]) -> Judgement:
        found: list[float] = []
        for cell in (first, second):
            values = {r.number(key) for r in records if r.cell == cell and r.final.get(key) is not None}
            if len(values) > 1:
                raise ValueError(f"`key` must be the same in all runs of {cell!r}, got {key!r}, which is not")
            if not values:
                return Judgement(UNTESTED, f"no run of {cell} has `{key}`")
            found += values
        ratio = found[0] / found[1]
        return Judgement(CONFIRMED if ratio <= factor else REFUTED, f"{first} / {second}: {ratio:.3g}")

    return predicate


@dataclass(frozen=True)
class Derived:
    """A number made of one number of several cells' runs with the same seed, such as their spread.

    Parameters
    ----------
    name : str
        In words.
    cells : tuple of str
    of : callable
        Gets the cells' numbers, in order.
    """

    name: str
    cells: tuple[str, ...]
    of: Callable[[Sequence[float]], float]

    def records(self, key: str, records: Sequence[Record]) -> list[Record]:
        """Return a record for each seed that all cells have; it diverged, or was cut, if one of them was."""
        found = []
        by_seed: dict[int, dict[str, Record]] = {}
        for r in records:
            by_seed.setdefault(r.seed, {})[r.cell] = r
        for runs in by_seed.values():
            if not all(cell in runs for cell in self.cells):
                continue
            mine = [runs[cell] for cell in self.cells]
            first = next((r for s in ("cut", "diverged") for r in mine if r.status == s), mine[0])
            number = self.of([r.number(key) for r in mine])
            found.append(dataclasses.replace(first, cell=self.name, final={"number": number}))
        return found


def better_derived(key: str, first: Derived, second: Derived, *, larger: bool = True) -> Predicate:
    """Return the predicate that one derived number is better than another, paired over seeds.

    Parameters
    ----------
    key : str
        The number of `Record.final` that both are made of.
    first, second : Derived
    larger : bool
        Whether more is better.
    """
    compared = better("number", first.name, second.name, larger=larger)

    def predicate(records: Sequence[Record]) -> Judgement:
        return compared([*first.records(key, records), *second.records(key, records)])

    return predicate


def spread(values: Sequence[float]) -> float:
    """Return the largest less the least."""
    return max(values) - min(values)


def difference(values: Sequence[float]) -> float:
    """Return the first of two less the second."""
    return values[0] - values[1]
