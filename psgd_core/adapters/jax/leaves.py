"""The leaves of a pytree as vectors for the core, and back: one vector a leaf, or one for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...arrays.library import Array
from .engines import Engine
from .hidden import Outline
from .sharding import Layout, layout_of

Tree = Any
"""A pytree of arrays."""

Kind: Any = jax.ShapeDtypeStruct
"""Shape and dtype of a leaf."""


class LeafState(NamedTuple):
    """The state of one leaf (or of all of them together): arrays of the engine's library."""

    layout: dict[str, tuple[()]]  # how the leaf becomes a vector: a note of its shards, static
    preconditioner: Any  # the preconditioner's state
    momentum: Any  # (n,), or () without momentum
    ring: Any = ()  # the last pairs, or () without replay


class Leaves(NamedTuple):
    """The shapes and dtypes of a pytree, and how it becomes vectors."""

    structure: Any
    outline: Outline  # the structure, with what optax hides in it
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    apart: bool  # a vector for each leaf

    @classmethod
    def of(cls, tree: Tree, name: str, *, apart: bool) -> Leaves:
        """Return those of a tree, which must hold real floats."""
        found, structure = jax.tree_util.tree_flatten_with_path(tree)
        outline = Outline.of(tree)
        if not found and not any(outline.hidden):
            raise ValueError(f"`{name}` must hold at least one array, got none; there is nothing to optimise")
        names = tuple(f"{name}{jax.tree_util.keystr(path)}" for path, _ in found)
        leaves = [leaf for _, leaf in found]
        for label, leaf in zip(names, leaves, strict=True):
            dtype = getattr(leaf, "dtype", None)
            if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize < 2:
                got = type(leaf).__name__ if dtype is None else dtype
                raise TypeError(
                    f"`{label}` must be an array of real floats, got {got}; optax.masked leaves out what is "
                    "not, or has less than 16 bits"
                )
            if leaf.size == 0:
                raise ValueError(f"`{label}` must not be empty, got {leaf.shape}; optax.masked leaves it out")
        shapes = tuple(tuple(leaf.shape) for leaf in leaves)
        return cls(structure, outline, names, shapes, tuple(leaf.dtype for leaf in leaves), apart)

    @property
    def sizes(self) -> list[int]:
        """Number of parameters of each leaf."""
        return [math.prod(shape) for shape in self.shapes]

    def have(self, tree: Tree) -> bool:
        """Whether a tree has this structure; what optax hides in the gradients may be there or not."""
        return self.outline.leaves(tree) is not None

    def cut(self, tree: Tree, name: str) -> Tree:
        """Return a tree that must have this structure, without what optax hides in the gradients."""
        leaves = self.outline.leaves(tree)
        if leaves is None:
            raise ValueError(
                f"`{name}` must have the structure of the gradients, {self.structure}, got "
                f"{jax.tree.structure(tree)}; give it an array for each of their leaves"
            )
        return jax.tree.unflatten(self.structure, leaves)

    def vectors(self, tree: Tree, name: str, layouts: list[Layout], engine: Engine) -> list[Array]:
        """Return a tree of this structure as vectors (n,), or (n, k) where leaves have a leading axis of k.

        Leaves of 16 bits become float32.
        """
        leaves = jax.tree.leaves(self.cut(tree, name))
        lead = leaves[0].shape[: leaves[0].ndim - len(self.shapes[0])]
        if len(lead) > 1 or any(x.shape != (*lead, *s) for x, s in zip(leaves, self.shapes, strict=True)):
            shapes = [tuple(leaf.shape) for leaf in leaves]
            raise ValueError(
                f"`{name}` must have the shapes of the gradients, {list(self.shapes)}, or those with one "
                f"leading axis of k probes, got {shapes}; make it with value_grad_hvp or draw_probe"
            )
        if any(jnp.iscomplexobj(leaf) for leaf in leaves):
            raise TypeError(f"`{name}` must be real, got {[str(leaf.dtype) for leaf in leaves]}; as the loss")
        layouts = layouts if self.apart else [Layout()] * len(leaves)
        flat = [
            layout.flatten(engine.inward(jnp.asarray(leaf, dtype=wide(dtype))), len(shape))
            for leaf, layout, shape, dtype in zip(leaves, layouts, self.shapes, self.dtypes, strict=True)
        ]
        return flat if self.apart else [engine.xp.concat(flat, axis=0)]

    def tree(self, vectors: list[Array], layouts: list[Layout], engine: Engine) -> Tree:
        """Return vectors (n,) as a tree of JAX arrays in the dtypes of the leaves."""
        if not self.apart:
            ends = accumulate(self.sizes)
            vectors = [vectors[0][end - size : end] for size, end in zip(self.sizes, ends, strict=True)]
            layouts = [Layout()] * len(vectors)
        rows = zip(vectors, layouts, self.shapes, self.dtypes, strict=True)
        leaves = [engine.outward(lay.unflatten(v, shape)).astype(dtype) for v, lay, shape, dtype in rows]
        return jax.tree.unflatten(self.structure, leaves)

    def states(self, tree: Tree) -> list[LeafState]:
        """Return the state of each vector, from the tree that `with_states` made for the same structure."""
        states, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, LeafState))
        if self.apart and structure != self.structure:
            raise ValueError(
                f"`updates` must have the structure of the parameters that `init` saw, {structure}, got "
                f"{self.structure}; call `init` anew for other parameters"
            )
        return states

    def with_states(self, states: list[LeafState]) -> Tree:
        """Return the states in place of the leaves, or the one for all of them as it is."""
        return jax.tree.unflatten(self.structure, states) if self.apart or not states else states[0]

    def layouts(self, tree: Tree) -> list[Layout]:
        """Return the layouts in which the leaves, where they lie, become vectors."""
        return [layout_of(leaf) for leaf in jax.tree.leaves(tree)] if self.apart else [Layout()]

    def kinds(self) -> list[jax.ShapeDtypeStruct]:
        """Return the shape and dtype of what each state is for."""
        if self.apart or not self.names:
            return [Kind(s, wide(d)) for s, d in zip(self.shapes, self.dtypes, strict=True)]
        return [Kind((sum(self.sizes),), wide(jnp.result_type(*self.dtypes)))]


def wide(dtype: Any) -> Any:
    """Return the dtype of the state of a leaf: float32 or float64."""
    return jnp.promote_types(dtype, jnp.float32)


def each(function: Callable[..., Any], *lists: list[Any]) -> list[Any]:
    """Return ``function`` of the first element of each list, of the second, and so on."""
    return [function(*row) for row in zip(*lists, strict=True)]
