"""Where the members of orbits lie in a vector: together with K, all that defines a group of Theorem 3.1 here.

A layout has one entry for each orbit size. It determines the shapes of an element's blocks, whether the
element needs index arrays, `split` and `join`, and what compiled kernels read and write.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..arrays.library import Array, namespace

How = Literal["direct", "shifted", "mirrored", "gathered"]
"""The rule for the index of member i of orbit j: see `OrbitLayout`."""


class OrbitLayout(NamedTuple):
    """All orbits of one size, and where member i of orbit j is in a vector of n parameters.

    - "direct": ``start + j``, orbits of one;
    - "shifted": ``start + i orbits + j``;
    - "mirrored": j for i = 0, ``n - 1 - j`` for i = 1, orbits of two;
    - "gathered": ``order[start + i orbits + j]``, where `order` is the first index array of an element.
    """

    size: int  # members of each orbit
    orbits: int  # how many there are
    how: How
    start: int


Layout = tuple[OrbitLayout, ...]
"""All orbits of a group: an entry per size, ascending. Either all entries are "gathered" or none is."""


def is_gathered(layout: Layout) -> bool:
    """Return whether `split` and `join` need index arrays."""
    return layout[0].how == "gathered"


def split(layout: Layout, x: Array, gather: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return the rows of x sorted by orbits: an array (size, k, orbits) for each orbit size.

    Parameters
    ----------
    layout : Layout
    x : array, shape (n, k)
    gather : tuple of arrays
        `OrbitBlocks.gather` of an element: (order, inverse order), or () unless the layout is gathered.
    """
    xp, n = namespace(x), x.shape[0]
    if gather:
        x = xp.take(x, gather[0], axis=0)  # now the members lie as in a "shifted" layout
    parts = []
    for size, orbits, how, start in layout:
        if how == "mirrored":
            members = xp.stack([x[:orbits, :], xp.flip(x[n - orbits :, :], axis=0)])
        else:
            rows = x if size * orbits == n else x[start : start + size * orbits, :]
            members = xp.reshape(rows, (size, orbits, x.shape[1]))
        parts.append(xp.permute_dims(members, (0, 2, 1)))
    return tuple(parts)


def join(layout: Layout, parts: tuple[Array, ...], gather: tuple[Array, ...]) -> Array:
    """Return the rows (n, k) that `split` took apart."""
    rows = pieces(layout, parts)
    xp = namespace(*rows)
    joined = rows[0] if len(rows) == 1 else xp.concat(rows, axis=0)
    return xp.take(joined, gather[1], axis=0) if gather else joined


def pieces(layout: Layout, parts: tuple[Array, ...]) -> list[Array]:
    """Return the parts as pieces (m, k) of consecutive rows, in their order in the (gathered) vector."""
    xp, n = namespace(*parts), sum(size * orbits for size, orbits, _, _ in layout)
    found: list[tuple[int, Array]] = []  # where it starts, and the piece
    for (size, orbits, how, start), part in zip(layout, parts, strict=True):
        members = xp.permute_dims(part, (0, 2, 1))
        if how == "mirrored":
            found += [(0, members[0, :, :]), (n - orbits, xp.flip(members[1, :, :], axis=0))]
        else:
            found.append((start, xp.reshape(members, (size * orbits, part.shape[1]))))
    return [piece for _, piece in sorted(found, key=lambda one: one[0])]
