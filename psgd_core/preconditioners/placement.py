"""Blocks on the parameters they were made for, whatever order both came in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..arrays.trees import Leaf
from .base import Preconditioner
from .blocks import Blocks
from .kronecker import Kronecker


def placed(preconditioner: Preconditioner[Any], leaves: Sequence[Leaf]) -> Preconditioner[Any]:
    """Return a preconditioner for the vector that arrays make, one after another.

    Blocks made by `Blocks.of` are put in their order: by name where all have names, and these are the same
    on both sides, else by shape. Those made by hand must not break an array and go on in the next. A vector
    alone has nothing to compare with but its size.

    Parameters
    ----------
    preconditioner : Preconditioner
        Of any kind; only `Blocks` and `Kronecker` know of shapes.
    leaves : sequence of Leaf
        The arrays, in the order of the vector.

    Raises
    ------
    ValueError
        If the blocks are for other arrays, or it cannot be told which is for which.
    """
    leaves = [leaf for leaf in leaves if math.prod(leaf.shape) > 0]
    if len(leaves) == 1 and len(leaves[0].shape) == 1:
        return preconditioner
    if isinstance(preconditioner, Kronecker) and len(leaves) == 1:
        _require_not_transposed(preconditioner, leaves[0])
    if not isinstance(preconditioner, Blocks):
        return preconditioner
    if preconditioner.arrays is None:
        _require_whole(preconditioner, leaves)
        return preconditioner
    order = _order(preconditioner, preconditioner.arrays, leaves)
    if order is None:
        raise ValueError(
            f"`preconditioner` must have blocks for the parameters it meets, {_text(leaves)}, got blocks for "
            f"{_text(preconditioner.arrays)}; make them by Blocks.of of these parameters"
        )
    if order == list(range(len(order))):
        return preconditioner
    return replace(
        preconditioner,
        parts=tuple(preconditioner.parts[i] for i in order),
        arrays=tuple(preconditioner.arrays[i] for i in order),
    )


def require_placed(preconditioner: Preconditioner[Any], leaves: Sequence[Leaf]) -> None:
    """Raise ValueError unless `placed` returns a preconditioner as it is.

    For those who leave it, and its state, in the user's hands: the order must be one for both.
    """
    there = placed(preconditioner, leaves)
    if there is not preconditioner:
        assert isinstance(preconditioner, Blocks)
        raise ValueError(
            f"`preconditioner` must have its blocks in the order of the parameters, {_text(leaves)}, got "
            f"{_text(preconditioner.arrays or ())}; make them by Blocks.of of the same tree"
        )


def _order(blocks: Blocks, own: Sequence[Leaf], leaves: Sequence[Leaf]) -> list[int] | None:
    """Return which block is for each of the leaves; None if there is no telling."""
    if sorted(leaf.shape for leaf in own) != sorted(leaf.shape for leaf in leaves):
        return None
    names, there = [leaf.name for leaf in own], [leaf.name for leaf in leaves]
    named = all(names) and all(there)
    if named and sorted(names) == sorted(there) and len(set(names)) == len(names):
        order = [names.index(name) for name in there]
        fits = all(own[i].shape == leaf.shape for i, leaf in zip(order, leaves, strict=True))
        return order if fits else None
    if not named and all(a.shape == b.shape for a, b in zip(own, leaves, strict=True)):
        return list(range(len(own)))
    queues: dict[tuple[int, ...], list[int]] = {}
    for i, leaf in enumerate(own):
        queues.setdefault(leaf.shape, []).append(i)
    if any(len({blocks.parts[i][1] for i in queue}) > 1 for queue in queues.values()):
        return None  # blocks of one shape differ, and nothing says which is for which
    return [queues[leaf.shape].pop(0) for leaf in leaves]


def _require_whole(blocks: Blocks, leaves: Sequence[Leaf]) -> None:
    """Raise ValueError unless blocks made by hand hold whole arrays each, or lie within one."""
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    edges = list(itertools.accumulate(sizes, initial=0))
    starts = dict(zip(edges, leaves, strict=False))
    start = 0
    for n, part in blocks.parts:
        end = start + n
        across = any(start < edge < end for edge in edges)
        if end > edges[-1] or (across and not {start, end} <= set(edges)):
            raise ValueError(
                f"`preconditioner` must have blocks of whole parameters, or within one, got blocks of "
                f"{[n for n, _ in blocks.parts]} for parameters of {sizes}; Blocks.of follows their order"
            )
        if isinstance(part, Kronecker) and not across and {start, end} <= set(edges):
            _require_not_transposed(part, starts[start])
        start = end
    if start != edges[-1]:
        raise ValueError(
            f"`preconditioner` must have blocks for all of {edges[-1]} parameters, got blocks for {start}; "
            "Blocks.of makes them"
        )


def _require_not_transposed(part: Kronecker, leaf: Leaf) -> None:
    if part.shape != leaf.shape and sorted(part.shape) == sorted(leaf.shape):
        raise ValueError(
            f"`preconditioner` must not have its dimensions in another order than the parameter, of shape "
            f"{leaf.shape}, got Kronecker({part.shape}); give it the parameter's shape"
        )


def _text(leaves: Sequence[Leaf]) -> str:
    shown = [f"{name} {shape}" if name else str(shape) for name, shape in leaves[:8]]
    return ", ".join([*shown, *(["..."] if len(leaves) > 8 else [])])
