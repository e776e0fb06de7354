"""`XMat` and `Butterfly` on sharded vectors: the same groups, joined and split by neighbours' exchanges.

XLA makes all-gathers of concatenating, or reshaping to two rows, a sharded vector; of slices, and of sums of
padded halves, it makes collective-permutes. On one device the plain forms are faster (measured, CPU: three
times), so these stand in where a leaf is sharded, and only there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp

from ...groups.orbits import ButterflyGroup, OrbitBlocks, OrbitGroup, XMatGroup
from ...preconditioners import Butterfly, Preconditioner, XMat


@dataclass(frozen=True)
class _ShardedXMatGroup(XMatGroup):
    def join(self, a: OrbitBlocks, parts: tuple[jax.Array, ...]) -> jax.Array:
        """Return the columns that `split` took apart."""
        *middle, pairs = (jnp.permute_dims(part, (0, 2, 1)) for part in parts)
        if pairs.shape[0] == 1:
            return pairs[0]
        return _below(pairs[0], *(m[0] for m in middle), jnp.flip(pairs[1], axis=0))


@dataclass(frozen=True)
class _ShardedButterflyGroup(ButterflyGroup):
    def split(self, a: OrbitBlocks, x: jax.Array) -> tuple[jax.Array, ...]:
        """Return columns (n, k) as (2, k, n // 2)."""
        half = x.shape[0] // 2
        return (jnp.permute_dims(jnp.stack([x[:half], x[half:]]), (0, 2, 1)),)

    def join(self, a: OrbitBlocks, parts: tuple[jax.Array, ...]) -> jax.Array:
        """Return the columns that `split` took apart."""
        return _below(*jnp.permute_dims(parts[0], (0, 2, 1)))


@dataclass(frozen=True)
class _ShardedXMat(XMat):
    @property
    def group(self) -> OrbitGroup:
        """X-shaped matrices."""
        return _ShardedXMatGroup()


@dataclass(frozen=True)
class _ShardedButterfly(Butterfly):
    @property
    def group(self) -> OrbitGroup:
        """Butterfly matrices."""
        return _ShardedButterflyGroup()


def for_shards(preconditioner: Preconditioner) -> Preconditioner:
    """Return the same preconditioner in the form for sharded vectors."""
    for plain, sharded in ((XMat, _ShardedXMat), (Butterfly, _ShardedButterfly)):
        if type(preconditioner) is plain:
            return sharded(**{f.name: getattr(preconditioner, f.name) for f in fields(preconditioner)})
    return preconditioner


def _below(*pieces: jax.Array) -> jax.Array:
    """Return (m_i, k) arrays below each other."""
    n, start, padded = sum(piece.shape[0] for piece in pieces), 0, []
    for piece in pieces:
        padded.append(jnp.pad(piece, ((start, n - start - piece.shape[0]), (0, 0))))
        start += piece.shape[0]
    # kept apart: fused into one loop, the sum takes ten times as long on a CPU
    return sum(jax.lax.optimization_barrier(tuple(padded)), start=jnp.zeros((), padded[0].dtype))
