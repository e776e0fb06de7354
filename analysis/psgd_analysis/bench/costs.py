"""The least memory traffic of an update and of ``P g``: the cost model of the bench.

Every array whose length grows with n counts each time it must pass between memory and processor, for one
probe and a state that is updated in place. Sums, r x r matrices, scalars and arithmetic are free. A copy of n
numbers counts 2 n, a read and a write, so that bytes per second compare with the bandwidth of a large copy.

**Groups of Theorem 3.1** (`Diagonal`, `XMat`, `Butterfly`, `Sparse`; not `Dense`). An orbit of s members has
s^2 numbers of Q, one held by its normaliser, s of v and s of h. Orbits are independent, so one pass does
all::

    update         reads  s^2 + 1 + 2 s,  writes  s^2 + 1        per orbit
    precondition   reads  s^2 + s,        writes  s              per orbit, y = Q^T (Q g)

so 6 n (s = 1), 7 n (s = 2), 10.5 n (s = 4) for an update, and (s + 2) n for P g. `Sparse` reads its gather
index in addition: 8 bytes per parameter, once per operation.

*Again*: a pair that is not finite, or leads to a result that is not finite, must leave the state unchanged.
An update in place must therefore read all of v, h and Q before it writes anything: (s + 2) n more, read a
second time where they do not fit the cache. This is listed separately and not part of the floor.

**LowRank** (design, three passes). With ``x = d h`` and ``y = v / d``::

    Gram matrix of [U V x y]                          reads U, V, d, h, v              2 r + 3
    new factor, and d's numerator into a work vector  reads U, V, d, h, v;             2 r + 3
                                                      writes a factor, the vector      r + 1
    d <- d (1 - step / N * numerator)                 reads d, numerator; writes d     3

together ``(5 r + 10) n``; rank 0 needs no Gram matrix, and forms the numerator twice rather than store it: 3
to measure it, 4 to apply it. *Again*: factors that move together share one bound, which holds the largest
entry of d's numerator, so that the factor is written after the second pass and not in it: it is read once
more, as are three vectors, ``(r + 3) n``.

``P g = d (I + V U^T)(I + U V^T) d g`` is least in three passes, V, U, V, with Q g in a work vector: ``V^T x``
reads r + 2; ``a = x + U s``, ``U^T a`` reads r + 2 and writes 1; ``d (a + V w)`` reads r + 2, writes 1:
``(3 r + 8) n``. Below r = 4 it is cheaper to take ``U^T U`` along and to read U and V twice: ``(4 r + 5) n``.

**Dense**, by rows of Q: ``a = Q h`` and ``P h = Q^T a`` in one read, which also copies Q to where it is
factored (2); the factorisation reads and writes its matrix once at the very least (2); Q is read and
written (2): ``6 n^2``, and v and h: 2 n. What is between them stays in a cache beside n^2 numbers. It is
bound by arithmetic, O(n^3), from n of a few hundred on, so its floor says little. ``P g``: ``n^2 + 2 n``.

**Kronecker**, by factors: each reads and writes ``s (s + 1) / 2`` numbers where it is triangular and s where
it is diagonal, and 1 or s numbers of its normaliser; v and h (or g) are read, and P g is written. That is
little compared with its arithmetic, which it is measured by (`flops`). Sums and products, with m = n / s
columns::

    triangular   update   s^2 m each for Q h and Q^{-T} v; s (s + 1) (2 m - 1) / 2 each for A A^T, B B^T;
                          s (s + 1) (s + 2) / 3 - s (s + 1) / 2 for E Q, both triangular
                 P g      s^2 m each for Q x and Q^T x
    diagonal     update   n each for Q h and v / Q, 2 n - s each for the squared norms of rows
                 P g      n

Remaining terms of order s^2 and n are free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import psgd_core as psgd

from ..kinds import offered

KINDS = offered("bench")
"""What is measured, by the names of the command line."""

CACHED = 2**25
"""Bytes moved below which everything may stay in a cache, so that memory bandwidth sets no floor."""

INDEX_BYTES = 8
"""Of one entry of `Sparse`'s gather index, int64."""


@dataclass(frozen=True)
class Cost:
    """Numbers of the state's dtype moved, and bytes of other types.

    Parameters
    ----------
    read, written : float
        Moved by every implementation.
    again : float
        Read a second time by one that works in place; see the module's docstring.
    index : int
        Bytes read that do not depend on the dtype.
    """

    read: float
    written: float
    again: float = 0
    index: int = 0

    def bytes(self, itemsize: int) -> int:
        """Return the floor, in bytes."""
        return round((self.read + self.written) * itemsize) + self.index

    def bytes_in_place(self, itemsize: int) -> int:
        """Return the floor including what is read again."""
        return self.bytes(itemsize) + round(self.again * itemsize)


def cost(operation: str, kind: str, n: int, rank: int = 0, shape: tuple[int, ...] = ()) -> Cost:
    """Return what an operation moves.

    Parameters
    ----------
    operation : {"update", "precondition"}
    kind : str
        One of `KINDS`.
    n : int
    rank : int
        Of ``lowrank`` only.
    shape : tuple of int
        Of ``kronecker`` only.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}")
    update = _OPERATIONS.get(operation)
    if update is None:
        raise ValueError(f"`operation` must be 'update' or 'precondition', got {operation!r}")
    if kind == "lowrank":
        return _low_rank(update, n, rank)
    if kind == "kronecker":
        q, held = 0, 0
        for s, triangular in _factors(shape):
            q += s * (s + 1) // 2 if triangular else s
            held += 1 if triangular else s
        return Cost(q + held + 2 * n, q + held) if update else Cost(q + n, n)
    if kind == "dense":
        return Cost(3 * n * n + 2 * n, 3 * n * n) if update else Cost(n * n + n, n)
    orbits = orbit_sizes(kind, n)
    index = INDEX_BYTES * n if KINDS[kind].indexed else 0
    q = sum(count * size * size for size, count in orbits)
    if not update:
        return Cost(q + n, n, index=index)
    held = sum(count for _, count in orbits)
    return Cost(q + held + 2 * n, q + held, again=q + 2 * n, index=index)


_OPERATIONS = {"update": True, "precondition": False}


def flops(operation: str, kind: str, shape: tuple[int, ...]) -> int | None:
    """Return how many sums and products an operation of ``kronecker`` takes; None for the others."""
    if kind != "kronecker":
        return None
    n, total = math.prod(shape), 0
    for s, dense in _factors(shape):
        m = n // s
        if operation == "precondition":
            total += 2 * s * n if dense else n
        elif dense:
            total += 2 * s * n + s * (s + 1) * (2 * m - 1) + s * (s + 1) * (s + 2) // 3 - s * (s + 1) // 2
        else:
            total += 2 * n + 2 * (2 * n - s)
    return total


def triangular(shape: tuple[int, ...]) -> int:
    """Return the largest dimension whose factor is triangular, 0 if none is; no smaller one is diagonal."""
    return max((s for s, dense in _factors(shape) if dense), default=0)


def _factors(shape: tuple[int, ...]) -> list[tuple[int, bool]]:
    """Return the size of each factor, and whether it is triangular or diagonal."""
    kinds = psgd.Kronecker(shape).kinds
    found = [(s, kind == "triangular") for s, kind in zip(shape, kinds, strict=True) if kind != "identity"]
    return found or [(1, False)]


def orbit_sizes(kind: str, n: int) -> list[tuple[int, int]]:
    """Return (size, number) of the orbits.

    Raises
    ------
    ValueError
        If n is not divisible by what the kind requires.
    """
    orbit, multiple = KINDS[kind].orbit, KINDS[kind].multiple
    if orbit is None:
        raise ValueError(f"`kind` must be a group of Theorem 3.1 other than dense, got {kind!r}")
    if n % multiple:
        raise ValueError(
            f"`--n` must be divisible by {multiple} for {kind}, got {n}; "
            f"try {max(n - n % multiple, multiple)}"
        )
    return [(size, count) for size, count in ((1, n % orbit), (orbit, n // orbit)) if count]


def _low_rank(update: bool, n: int, rank: int) -> Cost:
    if not update:
        if rank == 0:
            return Cost(2 * n, n)
        two, three = Cost((4 * rank + 4) * n, n), Cost((3 * rank + 6) * n, 2 * n)
        return min(two, three, key=lambda c: c.read + c.written)
    if rank == 0:
        return Cost(6 * n, n)
    return Cost((4 * rank + 8) * n, (rank + 2) * n, again=(rank + 3) * n)
