"""How the factors of a Kronecker product act along the dimensions of a tensor.

A factor of size s acts on the tensor unfolded along its dimension, (s, columns). The first dimension's
unfolding is there already; to the last one of a single column the tensor is rows, (before, s), which need no
transposition. Only what lies between is copied.

**Small neighbours act as one**: ``Q_i ⊗ Q_{i+1}`` of at most `MERGED` rows, formed once, is one product in
place of two, and the 3 x 3 of a convolution's kernel need no unfolding each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..arrays.library import Array, namespace
from ..arrays.matrices import kron
from .factor import Factor
from .patterns import FACTORS, DenseFactor
from .sides import Place, swapped

MERGED = 16
"""Rows of the largest product of neighbours that is formed."""


class Dimension(NamedTuple):
    """A dimension that has a factor."""

    place: Place
    group: Factor
    around: Place  # the neighbours that it acts with, or itself


class Run(NamedTuple):
    """Neighbours that act as one, or a single dimension."""

    place: Place
    group: Factor
    members: int


def dimensions(shape: Sequence[int], kinds: Sequence[str]) -> tuple[tuple[Dimension, ...], tuple[Run, ...]]:
    """Return the dimensions that have a factor, and the runs that act as one.

    Where none has, there is one of size 1, for the scale.
    """
    n, before = math.prod(shape), 1
    found: list[tuple[Place, Factor]] = []
    for s, name in zip(shape, kinds, strict=True):
        if name != "identity":
            found.append((Place(before, s, n // before // s), FACTORS[name]))
        before *= s
    runs: list[Run] = []
    for place, group in found or [(Place(n, 1, 1), FACTORS["diagonal"])]:
        last = runs[-1] if runs else None
        if last is not None and _joins(last, place, group):
            kind = group if group is last.group else FACTORS["dense"]
            joined = Place(last.place.before, last.place.s * place.s, place.after)
            runs[-1] = Run(joined, kind, last.members + 1)
        else:
            runs.append(Run(place, group, 1))
    around = [run.place for run in runs for _ in range(run.members)]
    parts = found or [(Place(n, 1, 1), FACTORS["diagonal"])]
    return tuple(Dimension(*part, run) for part, run in zip(parts, around, strict=True)), tuple(runs)


def _joins(run: Run, place: Place, group: Factor) -> bool:
    next_to = run.place.before * run.place.s == place.before
    small = run.place.s * place.s <= MERGED
    return next_to and small and isinstance(group, DenseFactor) and isinstance(run.group, DenseFactor)


def acting(runs: Sequence[Run], factors: Sequence[Array]) -> list[Array]:
    """Return what each run acts by: the factor itself, or the Kronecker product of several."""
    made, start = [], 0
    for run in runs:
        made.append(kron(*factors[start : start + run.members]))
        start += run.members
    return made


def along(runs: Sequence[Run], acting: Sequence[Array], x: Array, verb: str) -> Array:
    """Return columns (..., n, k) after a verb of every run along its dimension."""
    xp, (*lead, _, k) = namespace(x), x.shape
    for (place, group, _), q in zip(runs, acting, strict=True):
        action: Callable[..., Array] = getattr(group, verb)
        before, s, after = place
        if place.holds_rows(x):
            x = xp.reshape(action(q, xp.reshape(x, (*lead, before, s)), rows=True), x.shape)
            continue
        y = action(q, place.columns(x))
        if before > 1:
            y = swapped(xp.reshape(y, (*lead, s, before, after * k)))
        x = xp.reshape(y, (*lead, before * s * after, k))
    return x
