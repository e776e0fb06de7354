"""Dose and response: what follows, within a seed, where one thing is changed and all else is held."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import statistics
from .claims import CONFIRMED, OPPOSITE, REFUTED, UNTESTED, Judgement, Predicate
from .records import Record
from .samples import sample
from .statistics import FEWEST


def slope(key: str, on: str, cells: Sequence[str], *, larger: bool = True, log: bool = False) -> Predicate:
    """Return the predicate that a number rises with another one (falls, unless `larger`), within seeds.

    Each seed has a line of least squares through its cells, which share all but the dose; the mean of the
    slopes over the seeds decides, by Student's t interval. A seed of which a cell has no such numbers, as it
    diverged, was cut or was not run, has no line and is left out, which is said. Lines say nothing of a best
    dose in between, so the words name the cell of the largest mean (least, unless `larger`).

    Parameters
    ----------
    key, on : str
        Numbers of `Record.final`: what follows, and what was changed.
    cells : sequence of str
        Of all doses, three or more, in their order.
    larger : bool
        Whether the claim is that the slope is positive.
    log : bool
        Whether `on` counts by tenfolds: the slope is then per decade.

    Raises
    ------
    ValueError
        For fewer than three cells.
    """
    if isinstance(cells, str) or len(cells) < 3:
        raise ValueError(f"`cells` must be at least 3 doses, got {cells!r}; two are `claims.better`")

    def predicate(records: Sequence[Record]) -> Judgement:
        # the seeds that have both numbers with every dose
        ys, xs = ([sample(records, cell, number) for cell in cells] for number in (key, on))
        every = {seed for s in ys for seed in [*s.seeds, *s.cut]}
        seeds = sorted(every.intersection(*(s.values for s in [*ys, *xs])))
        notes = (
            f"; seeds without all doses, left out: {len(every) - len(seeds)}"
            if len(every) > len(seeds)
            else ""
        )
        if len(seeds) < FEWEST:
            return Judgement(UNTESTED, f"seeds with all doses: {len(seeds)}, {FEWEST} are needed{notes}")
        x, y = (np.array([[s.values[seed] for s in found] for seed in seeds]) for found in (xs, ys))
        if log and x.min() <= 0:
            return Judgement(UNTESTED, f"`{on}` has no logarithm where it is {x.min():g}{notes}")
        x = np.log10(x) if log else x
        if np.ptp(x, axis=1).min() <= 1e-9 * np.abs(x).max():
            return Judgement(UNTESTED, f"the doses do not change `{on}`{notes}")
        # a line for each seed
        apart = x - x.mean(1, keepdims=True)
        slopes = (apart * y).sum(1) / np.square(apart).sum(1)
        found = statistics.mean(slopes.tolist())
        least, *_, most = sorted(10 ** x.mean(0) if log else x.mean(0))
        means = y.mean(0)
        top = cells[int(means.argmax() if larger else means.argmin())]
        unit = f"{'tenfold' if log else 'unit of'} {on.replace('_', ' ')}"
        words = (
            f"slope {found} per {unit} (t, {len(seeds)} seeds), which goes from {least:.2g} to "
            f"{most:.2g}; best on average: {top}{notes}"
        )
        low, high = (found.low, found.high) if larger else (-found.high, -found.low)
        if low > 0:
            return Judgement(CONFIRMED, words)
        return Judgement(REFUTED, f"{OPPOSITE}: {words}" if high < 0 else f"undecided: {words}")

    return predicate
