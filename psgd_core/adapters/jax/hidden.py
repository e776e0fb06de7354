"""What `optax.masked`, and everything built on it, hides from the transformation inside.

It puts empty nodes into the gradients and parameters, but passes products, probes and functions on unmasked.
So a tree fits the gradients if it has anything at all where they have such a node.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Tree = Any


class Outline(NamedTuple):
    """How a tree is built, and which of its leaves optax hides; hashable, without arrays."""

    structure: Any  # hidden nodes counted as leaves
    hidden: tuple[bool, ...]  # of each leaf

    @classmethod
    def of(cls, tree: Tree) -> Outline:
        """Return that of a tree."""
        marks, structure = jax.tree.flatten(tree, is_leaf=_is_hidden)
        return cls(structure, tuple(map(_is_hidden, marks)))

    def leaves(self, tree: Tree) -> list[Any] | None:
        """Return the leaves of `tree` that are not hidden here, or None if it is built otherwise."""
        try:
            parts = self.structure.flatten_up_to(tree)
        except ValueError:
            return None
        found = [part for part, hidden in zip(parts, self.hidden, strict=True) if not hidden]
        return found if all(hasattr(part, "shape") for part in found) else None


def completed(tree: Tree) -> Tree:
    """Return `tree` with zeros in place of what is hidden in it, as users' functions take it.

    optax does not pass on the shapes that it hides. They are found in the trees that it was called with: in
    the local variables of the calling functions.
    """
    outline = Outline.of(tree)
    if not any(outline.hidden):
        return tree
    parts = zip(
        outline.hidden,
        outline.structure.flatten_up_to(tree),
        outline.structure.flatten_up_to(_whole(tree, outline)),
        strict=True,
    )
    filled = [jax.tree.map(jnp.zeros_like, whole) if hidden else part for hidden, part, whole in parts]
    return jax.tree.unflatten(outline.structure, filled)


def _whole(tree: Tree, outline: Outline) -> Tree:
    """Return the nearest tree of a caller with leaves of the same shapes that hides nothing."""
    wanted, frame = [_kind(leaf) for leaf in jax.tree.leaves(tree)], sys._getframe(1)
    while frame is not None:
        for value in list(frame.f_locals.values()):
            leaves = outline.leaves(value)
            if leaves and [_kind(leaf) for leaf in leaves] == wanted and not any(Outline.of(value).hidden):
                return value
        frame = frame.f_back  # type: ignore[assignment]
    raise ValueError(
        "`probe` must be given where `hvp` is a function and parameters are hidden by optax, got None; "
        "pass probe=draw_probe(key, params), of all parameters"
    )


def _kind(leaf: Any) -> tuple[Any, Any]:
    return leaf.shape, getattr(leaf, "dtype", None)


def _is_hidden(x: Any) -> bool:
    """Whether x is an empty node that optax puts in the place of parameters."""
    return type(x).__module__.partition(".")[0] == "optax" and not jax.tree.leaves(x)
