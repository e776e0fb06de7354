"""`XMat` and `Butterfly` on sharded vectors: the same groups, joined and split by neighbours' exchanges.

XLA makes all-gathers of concatenating, or reshaping to two rows, a sharded vector; of slices, and of sums of
padded halves, it makes collective-permutes. On one device the plain forms are faster (measured, CPU: three
times), so these stand in where a leaf is sharded, and only there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ...arrays.library import Array
from ...groups.layouts import Layout, OrbitLayout, pieces, split
from ...groups.orbits import ButterflyGroup, OrbitGroup, XMatGroup
from ...preconditioners import Butterfly, Preconditioner, XMat


def _split_slices(layout: Layout, x: Array, gather: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return what `split` does, with slices in place of reshaping."""
    parts: list[Array] = []
    for entry in layout:
        size, count, how, start = entry
        if how == "shifted":
            rows: list[Any] = [x[start + i * count : start + (i + 1) * count, :] for i in range(size)]
            parts.append(jnp.permute_dims(jnp.stack(rows), (0, 2, 1)))
        else:
            parts += split((entry,), x, gather)
    return tuple(parts)


def _join_padded(layout: Layout, parts: tuple[Array, ...], gather: tuple[Array, ...]) -> Array:
    """Return what `join` does, with sums of padded pieces in place of concatenating."""
    del gather  # nothing is gathered here
    entries: list[OrbitLayout] = []
    rows: list[Array] = []
    for entry, part in zip(layout, parts, strict=True):
        size, count, how, start = entry
        if how == "shifted":  # member by member: reshaping would move them
            entries += [OrbitLayout(1, count, "direct", start + i * count) for i in range(size)]
            rows += [part[i : i + 1, :, :] for i in range(size)]
        else:
            entries.append(entry)
            rows.append(part)
    padded: Array = _below(*pieces(tuple(entries), tuple(rows)))
    return padded


@dataclass(frozen=True)
class _ShardedXMatGroup(XMatGroup):
    split = staticmethod(_split_slices)
    join = staticmethod(_join_padded)


@dataclass(frozen=True)
class _ShardedButterflyGroup(ButterflyGroup):
    split = staticmethod(_split_slices)
    join = staticmethod(_join_padded)


@dataclass(frozen=True)
class _ShardedXMat(XMat):
    group: ClassVar[OrbitGroup] = _ShardedXMatGroup()
    """X-shaped matrices."""


@dataclass(frozen=True)
class _ShardedButterfly(Butterfly):
    group: ClassVar[OrbitGroup] = _ShardedButterflyGroup()
    """Butterfly matrices."""


def for_shards(preconditioner: Preconditioner[Any]) -> Preconditioner[Any]:
    """Return the same preconditioner in the form for sharded vectors."""
    for plain, sharded in ((XMat, _ShardedXMat), (Butterfly, _ShardedButterfly)):
        if type(preconditioner) is plain:
            return sharded(**{f.name: getattr(preconditioner, f.name) for f in fields(preconditioner)})
    return preconditioner


def _below(*pieces: Any) -> Any:
    """Return (m_i, k) arrays below each other."""
    n, start, padded = sum(piece.shape[0] for piece in pieces), 0, []
    for piece in pieces:
        padded.append(jnp.pad(piece, ((start, n - start - piece.shape[0]), (0, 0))))
        start += piece.shape[0]
    # kept apart: fused into one loop, the sum takes ten times as long on a CPU
    barrier: Any = jax.lax.optimization_barrier
    return sum(barrier(tuple(padded)), start=jnp.zeros((), padded[0].dtype))
