"""Where the members of orbits lie in a vector: all that a group of Theorem 3.1 says of itself beside K.

A layout has one entry for each orbit size. From it follow the sizes of an element's blocks, the index arrays
that it carries, `split` and `join`, and what compiled kernels read and write.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..arrays.library import Array, namespace

How = Literal["direct", "shifted", "mirrored", "gathered"]
"""The rule for the index of member i of orbit j: see `OrbitLayout`."""


class OrbitLayout(NamedTuple):
    """All orbits of one size, and where member i of orbit j is in a vector of n parameters.

    - "direct": ``start + j``, orbits of one;
    - "shifted": ``start + i count + j``;
    - "mirrored": j for i = 0, ``n - 1 - j`` for i = 1, orbits of two;
    - "gathered": ``order[start + i count + j]``, where `order` is the first index array of an element.
    """

    size: int  # members of each orbit
    count: int  # orbits of this size
    how: How
    start: int


Layout = tuple[OrbitLayout, ...]
"""All orbits of a group: an entry per size, ascending. Either all entries are "gathered" or none is."""


def is_gathered(layout: Layout) -> bool:
    """Return whether `split` and `join` need index arrays."""
    return layout[0].how == "gathered"


def split(layout: Layout, x: Array, gather: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return the rows of x by orbits: an array (size, k, count) for each orbit size.

    Parameters
    ----------
    layout : Layout
    x : array, shape (n, k)
    gather : tuple of arrays
        `OrbitBlocks.gather` of an element: (order, inverse order), or () unless the layout is gathered.
    """
    xp, n = namespace(x), x.shape[0]
    if gather:
        x = xp.take(x, gather[0], axis=0)  # now the members lie as in a shifted layout
    parts = []
    for size, count, how, start in layout:
        if how == "mirrored":
            members = xp.stack([x[:count, :], xp.flip(x[n - count :, :], axis=0)])
        else:
            rows = x if size * count == n else x[start : start + size * count, :]
            members = xp.reshape(rows, (size, count, x.shape[1]))
        parts.append(xp.permute_dims(members, (0, 2, 1)))
    return tuple(parts)


def join(layout: Layout, parts: tuple[Array, ...], gather: tuple[Array, ...]) -> Array:
    """Return the rows (n, k) that `split` took apart."""
    xp, n = namespace(*parts), sum(size * count for size, count, _, _ in layout)
    pieces: list[tuple[int, Array]] = []  # where they start, and rows that follow one another
    for (size, count, how, start), part in zip(layout, parts, strict=True):
        members = xp.permute_dims(part, (0, 2, 1))
        if how == "mirrored":
            pieces += [(0, members[0, :, :]), (n - count, xp.flip(members[1, :, :], axis=0))]
        else:
            pieces.append((start, xp.reshape(members, (size * count, part.shape[1]))))
    rows = [piece for _, piece in sorted(pieces, key=lambda piece: piece[0])]
    joined = rows[0] if len(rows) == 1 else xp.concat(rows, axis=0)
    return xp.take(joined, gather[1], axis=0) if gather else joined
