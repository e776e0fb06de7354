"""Vectors of which each process holds a part: sums, largest values and tests that count all of them.

The mathematics of this package is written for one vector of n parameters. Where each process holds some of
its elements (a *shard*), nearly all of it is right as it stands, element by element; what is not is a sum, a
maximum or a test over all n. These few places ask here: `total`, `most`, `everywhere`, `length`, `places`.
Within `over` they count all shards, by as many collective calls; elsewhere they return what they are given.

So every process runs the same code on its own shard, and what comes out of a sum, such as a Gram matrix, is
the same everywhere, and so is what is decided from it. Arrays along n are shards; all others are whole, on
each process the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from .library import Array, device_of, namespace


class Shards(Protocol):
    """The shards of a vector, seen from the process that holds one of them."""

    @property
    def n(self) -> int:
        """Elements of all shards together."""

    def total(self, x: Array) -> Array:
        """Return the sum of an array over the processes, the same bits on each."""

    def most(self, x: Array) -> Array:
        """Return the largest value of each element over the processes; there are no NaN."""

    def places(self, start: int, stop: int, like: Array) -> Array:
        """Return where elements `start` to `stop` of this shard are in the whole vector, int64.

        -1 stands for an element that fills up an empty shard; all that belongs to it is 0.
        """


_shards: ContextVar[Shards | None] = ContextVar("psgd_core.shards", default=None)
_open: list[None] = []  # one for each `over` in any thread: torch.compile cannot trace a ContextVar


@contextmanager
def over(shards: Shards | None) -> Iterator[None]:
    """Count all shards within a ``with`` block, in this thread; None counts what is here alone."""
    if shards is None and not _open:  # nothing counts any; so that torch.compile sees none either
        yield
        return
    _open.append(None)
    token = _shards.set(shards)
    try:
        yield
    finally:
        _shards.reset(token)
        _open.pop()


def active() -> Shards | None:
    """Return the shards that are counted here."""
    return _shards.get() if _open else None


def total(x: Array) -> Array:
    """Return a sum over n, given that over the elements here."""
    shards = active()
    return x if shards is None else shards.total(x)


def most(x: Array) -> Array:
    """Return a maximum over n, given that over the elements here; NaN counts as infinite."""
    shards = active()
    if shards is None:
        return x
    xp = namespace(x)
    return shards.most(xp.where(xp.isnan(x), xp.full_like(x, xp.inf), x))


def everywhere(flag: Array) -> Array:
    """Return whether something holds for all n, a 0-d bool, given whether it does for the elements here."""
    if active() is None:
        return flag
    xp = namespace(flag)
    wrong: Any = most(xp.astype(xp.logical_not(flag), xp.float32))
    none: Array = wrong < 1
    return none


def length(n: int) -> int:
    """Return n, given how many elements are here."""
    shards = active()
    return n if shards is None else shards.n


def places(start: int, stop: int, like: Array) -> Array:
    """Return where the elements `start` to `stop` that are here are in the whole vector, int32 or int64."""
    shards = active()
    if shards is not None:
        return shards.places(start, stop, like)
    xp = namespace(like)
    dtype = xp.int64 if stop > 2**31 - 1 else xp.int32
    return xp.arange(start, stop, dtype=dtype, device=device_of(like))
