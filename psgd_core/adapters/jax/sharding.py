"""Sharded leaves: how they flatten without communication, and where their states lie.

A leaf sharded over its leading axes flattens row by row within each device. Sharded over other axes,
row-major order would move everything, so the vector runs through the shards one after another, in row-major
order within each. `Layout` holds that order, which is fixed when the state is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.sharding import NamedSharding

from ...arrays.library import Array, namespace

PartitionSpec: Any = jax.sharding.PartitionSpec


@dataclass(frozen=True)
class Layout:
    """How a leaf becomes a vector.

    Parameters
    ----------
    splits : tuple of int
        Shards along each axis; () where the leaf is whole.
    """

    splits: tuple[int, ...] = ()

    @property
    def shards(self) -> int:
        """Number of shards."""
        return math.prod(self.splits)

    def flatten(self, x: Array, ndim: int) -> Array:
        """Return x as (n,), or as (n, k) if it has k probes along an axis before its own `ndim`."""
        xp = namespace(x)
        lead = x.shape[: x.ndim - ndim]
        if self.shards > 1:
            at = len(lead)
            shape = (part for s, d in zip(self.splits, x.shape[at:], strict=True) for part in (s, d // s))
            outer, inner = range(at, at + 2 * ndim, 2), range(at + 1, at + 2 * ndim, 2)
            x = xp.permute_dims(xp.reshape(x, (*lead, *shape)), (*range(at), *outer, *inner))
        flat = xp.reshape(x, (*lead, -1))
        return flat.T if lead else flat

    def unflatten(self, flat: Array, shape: tuple[int, ...]) -> Array:
        """Return a vector (n,) in the shape of the leaf."""
        xp = namespace(flat)
        if self.shards > 1:
            local = tuple(d // s for s, d in zip(self.splits, shape, strict=True))
            ndim = len(shape)
            order = tuple(axis for i in range(ndim) for axis in (i, ndim + i))
            flat = xp.permute_dims(xp.reshape(flat, (*self.splits, *local)), order)
        return xp.reshape(flat, shape)

    def is_row_major(self, shape: tuple[int, ...]) -> bool:
        """Whether a leaf of this shape flattens in row-major order."""
        whole = True  # no axis so far has more than one row in a shard
        for s, d in zip(self.splits or (1,) * len(shape), shape, strict=True):
            if s > 1 and not whole:
                return False
            whole = whole and s == d
        return True

    def note(self) -> dict[str, tuple[()]]:
        """Return the layout as a pytree without leaves: static under jit, and every saver takes its types."""
        return {"x".join(map(str, self.splits)): ()} if self.splits else {}

    @classmethod
    def noted(cls, note: dict[str, tuple[()]]) -> Layout:
        """Return the layout of a `note`."""
        return cls(tuple(int(s) for key in note for s in key.split("x")))


def sharding_of(x: Any) -> Any:
    """Return the sharding of x if it is known: of a traced x, only on meshes with explicit axes."""
    if isinstance(x, jax.core.Tracer):
        sharding = getattr(jax.typeof(x), "sharding", None) if hasattr(jax, "typeof") else None
        return sharding if sharding is not None and _is_explicit(sharding) else None
    return getattr(x, "sharding", None)


def is_explicit(x: Any) -> bool:
    """Whether x lies on a mesh with explicit axes, where shardings belong to types."""
    sharding = sharding_of(x)
    return isinstance(sharding, NamedSharding) and _is_explicit(sharding)


def _is_explicit(sharding: Any) -> bool:
    kinds = getattr(getattr(sharding, "mesh", None), "axis_types", None) or ()
    return any("explicit" in str(kind).lower() for kind in kinds)


def layout_of(x: Any) -> Layout:
    """Return the layout in which x flattens without communication."""
    axes = _axes(x)
    if not any(axes):
        return Layout()
    mesh = sharding_of(x).mesh
    return Layout(tuple(math.prod(mesh.shape[name] for name in names) for names in axes))


def _axes(x: Any) -> tuple[tuple[str, ...], ...]:
    """Return the names of the mesh's axes that each axis of x is sharded over."""
    sharding = sharding_of(x)
    if not isinstance(sharding, NamedSharding):
        return ()
    given: list[Any] = list(sharding.spec)
    spec = given + [None] * (x.ndim - len(given))
    return tuple(() if s is None else s if isinstance(s, tuple) else (s,) for s in spec)


def made_on(make: Callable[[], Any], params: Any, leaves: str | None) -> Any:
    """Return ``make()``, new arrays, where `params` lie, committed to a device if they are.

    Parameters
    ----------
    make : callable
        Returns a NamedTuple of trees.
    params : pytree
    leaves : str, optional
        The field with a tree for each of the params, to be sharded like them; all else is whole everywhere.
    """
    arrays = jax.tree.leaves(params)
    placed = [x for x in arrays if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)]
    committed = [x for x in placed if x.committed]
    places = {frozenset(x.devices()) for x in committed or placed[:1]}
    if len(places) > 1:
        raise ValueError(
            "`params` must lie on one device or on one mesh, got "
            f"{sorted(sorted(map(str, place)) for place in places)}; place them with jax.device_put"
        )
    sharded = [x for x in arrays if isinstance(sharding_of(x), NamedSharding)]
    if not sharded:
        device = min(next(iter(places), ()), key=lambda device: device.id, default=None)
        with jax.default_device(device) if device is not None else nullcontext():
            made = make()
        if not committed:
            return made
        return jax.tree.map(lambda x: jax.device_put(x, device) if isinstance(x, jax.Array) else x, made)
    mesh = sharding_of(sharded[0]).mesh
    shapes = jax.eval_shape(make)
    shardings = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), shapes)
    if leaves is not None:
        alike = jax.tree.map(partial(state_shardings, mesh), params, getattr(shapes, leaves))
        shardings = shardings._replace(**{leaves: alike})
    if any(isinstance(x, jax.core.Tracer) for x in arrays):  # traced, yet known: explicit axes
        return jax.sharding.auto_axes(make, out_sharding=shardings)()
    return jax.jit(make, out_shardings=shardings)()


def state_shardings(mesh: Any, x: Any, state: Any) -> Any:
    """Return the shardings of a leaf's state: last axes as long as the leaf sharded as it is, others whole.

    An axis whose length the number of shards does not divide is whole on each device: the pairs of `XMat` and
    `Butterfly` need n to be a multiple of twice the number of shards.
    """
    shards = layout_of(x).shards
    names = tuple(name for names in _axes(x) for name in names)

    def one(part: Any) -> NamedSharding:
        long = part.ndim > 0 and 8 * part.shape[-1] >= x.size and part.shape[-1] % shards == 0
        spec = (*(None,) * (part.ndim - 1), names) if long and names else ()
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(one, state)


def in_auto_mode(function: Callable[..., Any], *args: Any) -> Any:
    """Return ``function(first, state, ...)`` whose results lie like its first two arguments.

    On meshes with explicit axes the compiler chooses the shardings inside, as it does on others.
    """
    explicit = [x for x in jax.tree.leaves(args[:2]) if is_explicit(x)]
    if not explicit:
        return function(*args)
    mesh = sharding_of(explicit[0]).mesh

    def of(x: Any) -> NamedSharding:
        return sharding_of(x) if is_explicit(x) else NamedSharding(mesh, PartitionSpec())

    return jax.sharding.auto_axes(function, out_sharding=jax.tree.map(of, args[:2]))(*args)


def place_like(drawn: jax.Array, leaf: Any) -> jax.Array:
    """Return `drawn`, of the shape of `leaf` after any leading axes, on the devices of the leaf."""
    sharding = sharding_of(leaf)
    if not isinstance(sharding, NamedSharding):
        return drawn
    lead = (None,) * (drawn.ndim - leaf.ndim)
    place: Any = jax.sharding.reshard if _is_explicit(sharding) else jax.lax.with_sharding_constraint
    placed: jax.Array = place(drawn, NamedSharding(sharding.mesh, PartitionSpec(*lead, *sharding.spec)))
    return placed
