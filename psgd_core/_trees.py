"""Parameters as nested dicts, lists and tuples of arrays, flattened to one vector and given back in shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from ._array import Array, require_alike, require_float, select

Tree = Any
"""An array, or a dict, list, tuple or NamedTuple of trees."""


@dataclass(frozen=True)
class Structure:
    """How the leaves of a tree lie in its vector; hashable, without arrays."""

    kind: Any  # None for a leaf; else dict, list, tuple or the NamedTuple's class
    shape: tuple[int, ...] = ()  # of a leaf
    keys: tuple[Any, ...] = ()  # of a branch
    children: tuple[Structure, ...] = ()

    @property
    def size(self) -> int:
        """Number of parameters."""
        return math.prod(self.shape) if self.kind is None else sum(c.size for c in self.children)

    @property
    def is_vector(self) -> bool:
        """Whether the tree is one array of shape (n,)."""
        return self.kind is None and len(self.shape) == 1

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the leaves, in the order in which they lie in the vector."""
        if self.kind is None:
            return [self.shape]
        return [shape for child in self.children for shape in child.shapes()]

    def flatten(self, tree: Tree, name: str) -> Array:
        """Return `tree`, which must have this structure, as a vector (n,).

        Raises
        ------
        TypeError, ValueError
            If it has another structure, or a leaf has another shape; `name` is what messages call it.
        """
        leaves = self._leaves(tree, name)
        xp = array_api_compat.array_namespace(*leaves)
        flat = [xp.reshape(leaf, (-1,)) if leaf.ndim != 1 else leaf for leaf in leaves]
        return flat[0] if len(flat) == 1 else xp.concat(flat)

    def unflatten(self, flat: Array) -> Tree:
        """Return a vector (n,) in the shape of the tree."""
        if self.kind is None:
            return (
                flat if self.is_vector else array_api_compat.array_namespace(flat).reshape(flat, self.shape)
            )
        parts, start = [], 0
        for child in self.children:
            parts.append(child.unflatten(flat[start : start + child.size]))
            start += child.size
        if self.kind is dict:
            return dict(zip(self.keys, parts, strict=True))
        return self.kind(*parts) if hasattr(self.kind, "_fields") else self.kind(parts)

    def _leaves(self, tree: Tree, name: str) -> list[Array]:
        if self.kind is None:
            if not array_api_compat.is_array_api_obj(tree):
                raise TypeError(
                    f"`{name}` must be an array of shape {self.shape}, got {type(tree).__name__}; "
                    "give it the structure of the parameters"
                )
            if tuple(tree.shape) != self.shape:
                raise ValueError(
                    f"`{name}` must have shape {self.shape}, got {tuple(tree.shape)}; "
                    "give it the shape of the parameters"
                )
            require_plain(name, tree)
            return [tree]
        if type(tree) is not self.kind or len(tree) != len(self.keys):
            raise TypeError(
                f"`{name}` must be a {self.kind.__name__} of {len(self.keys)}, got {type(tree).__name__}; "
                "give it the structure of the parameters"
            )
        leaves = []
        for key, child in zip(self.keys, self.children, strict=True):
            if self.kind is dict and key not in tree:
                raise ValueError(
                    f"`{name}` must have the key {key!r}, got {list(tree)}; "
                    "give it the structure of the parameters"
                )
            leaves += child._leaves(tree[key], f"{name}[{key!r}]")
        return leaves


def structure(tree: Tree, name: str = "x0") -> Structure:
    """Return the structure of a tree of float32 or float64 arrays, all of one library, dtype and device.

    Raises
    ------
    TypeError, ValueError
        If a leaf is not such an array, or there is none.
    """
    found = _structure(tree, name)
    leaves = found._leaves(tree, name)
    if found.size == 0:
        raise ValueError(f"`{name}` must hold at least one parameter, got none; there is nothing to minimise")
    require_float(name, leaves[0])
    for leaf in leaves[1:]:
        require_alike(f"a leaf of {name}", leaf, "the first leaf", leaves[0])
    return found


def _structure(tree: Tree, name: str) -> Structure:
    if array_api_compat.is_array_api_obj(tree):
        return Structure(None, tuple(tree.shape))
    if isinstance(tree, dict):
        keys = tuple(sorted(tree))  # as JAX hands dicts to traced functions
    elif isinstance(tree, list | tuple):
        keys = tuple(range(len(tree)))
    else:
        raise TypeError(
            f"`{name}` must be an array or a dict, list or tuple of arrays, got {type(tree).__name__}; "
            "convert it with the `asarray` of your array library"
        )
    children = tuple(_structure(tree[key], f"{name}[{key!r}]") for key in keys)
    return Structure(type(tree), (), keys, children)


def where(condition: Array, new: Tree, old: Tree) -> Tree:
    """Return `new` where the 0-d `condition` holds and `old` elsewhere, for nested tuples of arrays."""
    if isinstance(old, tuple):
        parts = [where(condition, n, o) for n, o in zip(new, old, strict=True)]
        return type(old)(*parts) if hasattr(old, "_fields") else tuple(parts)
    return select(condition, new, old)


def require_plain(name: str, x: Array) -> None:
    """Raise TypeError for NumPy's masked arrays, matrices and other subclasses, which compute otherwise."""
    if isinstance(x, np.ndarray) and type(x) not in (np.ndarray, np.memmap):
        raise TypeError(
            f"`{name}` must be a plain NumPy array, got {type(x).__name__}; "
            "convert it with `numpy.asarray`, after filling what is masked"
        )


def owned(tree: Tree) -> Tree:
    """Return copies of the arrays in nested tuples, for one owner to keep; JAX's, immutable, as they are."""
    if type(tree) is np.ndarray:  # asked first: a small function costs no more than this
        return tree.copy()
    if isinstance(tree, tuple):
        parts = [owned(part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if array_api_compat.is_torch_array(tree):
        return tree.clone()  # in the graph of autograd, where there is one
    if isinstance(tree, np.generic) or array_api_compat.is_jax_array(tree):
        return tree
    if not array_api_compat.is_array_api_obj(tree):
        return tree
    return array_api_compat.array_namespace(tree).asarray(tree, copy=True)
