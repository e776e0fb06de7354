"""States that move to other devices: from a checkpoint, or to another number of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from .hidden import Outline
from .leaves import LeafState
from .rule import ScaleByPSGDState
from .sharding import Layout, PartitionSpec, layout_of, sharding_of, state_shardings

Tree = Any


def reshard(state: Tree, params: Tree) -> Tree:
    """Return a state of `psgd`, or of anything that contains one, where `params` lie now, sharded alike.

    With it a checkpoint is resumed on another number of devices, or of processes::

        state = reshard(psgd_core.load("run.npz"), params)

    Parameters
    ----------
    state : pytree of arrays
        JAX's, on any devices that this process sees, or NumPy's, as `psgd_core.load` returns them. Where
        there are several processes, each gives the same.
    params : pytree of arrays
        The parameters, where they are to lie.

    Returns
    -------
    pytree of JAX arrays
        The same numbers. The arrays of a leaf lie as if `init` had made them; all others are whole on each
        device.

    Raises
    ------
    ValueError
        If `params` have another structure than those that the state was made for.

    Notes
    -----
    The order of a leaf in its vector belongs to the state. Leaves that were, or are now, sharded over other
    than their leading axes keep the order they had: their updates then move more between devices.
    """
    meshes = [s.mesh for x in jax.tree.leaves(params) if isinstance(s := sharding_of(x), NamedSharding)]
    if not meshes:
        arrays = [x for x in jax.tree.leaves(params) if isinstance(x, jax.Array) and x.committed]
        return jax.device_put(state, next(iter(arrays[0].devices())) if arrays else None)
    whole = NamedSharding(meshes[0], PartitionSpec())

    def one(part: Any) -> Any:
        if not isinstance(part, ScaleByPSGDState):
            return _placed(part, whole)
        rest = jax.tree.map(partial(_placed, sharding=whole), part._replace(leaves=()))
        states, structure = jax.tree.flatten(part.leaves, is_leaf=_is_state)
        if isinstance(part.leaves, LeafState) and not isinstance(params, jax.Array):  # one for all leaves
            placed = jax.tree.map(partial(_placed, sharding=whole), states)
        else:
            kept = jax.tree.unflatten(structure, [0] * len(states))
            found = Outline.of(kept).leaves(params)
            if found is None:
                raise ValueError(
                    f"`params` must have the structure of those that the state was made for, {structure}, "
                    f"got {jax.tree.structure(params)}; load the state of the same model"
                )
            placed = [_placed_leaf(meshes[0], x, leaf) for x, leaf in zip(found, states, strict=True)]
        return rest._replace(leaves=jax.tree.unflatten(structure, placed))

    return jax.tree.map(one, state, is_leaf=lambda x: isinstance(x, ScaleByPSGDState))


def _is_state(x: Any) -> bool:
    return isinstance(x, LeafState)


def _placed_leaf(mesh: Any, x: Any, state: LeafState) -> LeafState:
    """Return the state of a leaf where the leaf lies."""
    before, now = Layout.noted(state.layout), layout_of(x)
    if before.is_row_major(x.shape) and now.is_row_major(x.shape):
        state = state._replace(layout=now.note())
    placed: LeafState = jax.tree.map(_placed, state, state_shardings(mesh, x, state))
    return placed


def _placed(x: Any, sharding: NamedSharding) -> jax.Array:
    """Return an array under a sharding; each process fills in what it holds."""
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
