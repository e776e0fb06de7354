"""Nested dicts, lists and tuples of arrays: walked, mapped, and flattened to one vector and back."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from .library import Array, all_known, is_array, known, namespace, require_alike, require_float, spread

Tree = Any
"""An array, or a dict, list, tuple or NamedTuple of trees."""


def mapped(function: Callable[..., Any], *trees: Tree) -> Tree:
    """Return the tree of what `function` returns for the leaves of trees of one structure.

    Leaves are what is neither a tuple, a list nor a dict; the keys of dicts are those of the first tree's.
    """
    first = trees[0]
    if not isinstance(first, tuple | list | dict):
        return function(*trees)
    if isinstance(first, dict):
        return type(first)((key, mapped(function, *(tree[key] for tree in trees))) for key in first)
    parts = [mapped(function, *row) for row in zip(*trees, strict=True)]
    return _rebuilt(type(first), parts)


def leaves_with_names(tree: Tree, name: str) -> list[tuple[str, Any]]:
    """Return (name, leaf) for each leaf, named by its keys, fields or positions: ``state.q.blocks.0``."""
    if not isinstance(tree, tuple | list | dict):
        return [(name, tree)]
    return [leaf for key, child in _branches(tree) for leaf in leaves_with_names(child, f"{name}.{key}")]


def where(flag: Array, new: Tree, old: Tree) -> Tree:
    """Return `new` if the 0-d `flag` is true, else `old`; if its value is known, without copying.

    Or a flag for each row of all the leaves.
    """
    value = known(flag) if flag.ndim == 0 else all_known(flag) or None
    if value is not None:
        return new if value else old
    return mapped(lambda x, y: x if x is y else namespace(x, y).where(spread(flag, x.ndim), x, y), new, old)


def owned(tree: Tree) -> Tree:
    """Return copies of the arrays of a tree, for one owner to keep; JAX's, immutable, as they are."""
    return tree.copy() if type(tree) is np.ndarray else mapped(_owned, tree)  # NumPy's first: it is cheap


def _owned(x: Any) -> Any:
    if array_api_compat.is_torch_array(x):
        return x.clone()  # in autograd's graph, if there is one
    if isinstance(x, np.generic) or array_api_compat.is_jax_array(x) or not is_array(x):
        return x
    return namespace(x).asarray(x, copy=True)


def _branches(tree: Tree) -> list[tuple[Any, Tree]]:
    """Return (key, child) of a dict, list or tuple; the keys of a NamedTuple are its fields."""
    if isinstance(tree, dict):
        return list(tree.items())
    return list(zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True))


def _rebuilt(kind: Any, parts: list[Any]) -> Any:
    """Return a list, tuple or NamedTuple of parts."""
    return kind(*parts) if hasattr(kind, "_fields") else kind(parts)


class Leaf(NamedTuple):
    """What an array of parameters is called, and its shape."""

    name: str  # its keys, joined by dots; "" if they are all positions
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Structure:
    """How the leaves of a tree lie in its vector: hashable, and without arrays."""

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

    def leaves(self, path: tuple[Any, ...] = ()) -> list[Leaf]:
        """Return the leaves, in the order in which they lie in the vector."""
        if self.kind is None:
            return [Leaf(_joined(path), self.shape)]
        keys = getattr(self.kind, "_fields", self.keys)
        rows = zip(keys, self.children, strict=True)
        return [leaf for key, child in rows for leaf in child.leaves((*path, key))]

    def flatten(self, tree: Tree, name: str) -> Array:
        """Return `tree`, which must have this structure, as a vector (n,).

        Raises
        ------
        TypeError, ValueError
            If it has another structure, or a leaf has another shape; `name` is what messages call it.
        """
        leaves = self._leaves(tree, name)
        xp = namespace(*leaves)
        flat = [xp.reshape(leaf, (-1,)) if leaf.ndim != 1 else leaf for leaf in leaves]
        return flat[0] if len(flat) == 1 else xp.concat(flat)

    def unflatten(self, flat: Array) -> Tree:
        """Return a vector (n,) in the shape of the tree."""
        if self.kind is None:
            return flat if self.is_vector else namespace(flat).reshape(flat, self.shape)
        parts, start = [], 0
        for child in self.children:
            parts.append(child.unflatten(flat[start : start + child.size]))
            start += child.size
        if self.kind in (dict, OrderedDict):
            return self.kind(zip(self.keys, parts, strict=True))
        return _rebuilt(self.kind, parts)

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
            if isinstance(tree, dict) and key not in tree:
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
        If a leaf is anything else, or there are no leaves.
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
    if type(tree) in (dict, OrderedDict):
        keys = _sorted(tree, name)  # as JAX hands dicts to traced functions
    elif isinstance(tree, list | tuple):
        keys = tuple(range(len(tree)))
    else:
        raise _not_a_tree(tree, name)
    children = tuple(_structure(tree[key], f"{name}[{key!r}]") for key in keys)
    return Structure(type(tree), (), keys, children)


def arrays(tree: Any, name: str) -> list[Leaf]:
    """Return the arrays of a tree in the order in which its library keeps them.

    Dicts are in the order of their keys, as for `structure`; those of PyTorch's tensors, and OrderedDicts, in
    their own order, which is that of ``module.parameters()``. Tensors that share their memory count once;
    arrays without elements are left out.

    Parameters
    ----------
    tree : tree, module, or iterator of arrays or of (name, array) pairs
        A module is anything with `named_parameters`.
    name : str
        What messages call it.

    Raises
    ------
    TypeError, ValueError
        If it is something else, holds no arrays, or a leaf does not hold floats.
    """
    found, seen = [], set()
    for path, leaf in _walk(tree, name, ()):
        xp = namespace(leaf)
        if not xp.isdtype(leaf.dtype, ("real floating", "complex floating")):
            raise TypeError(
                f"`{name}` must hold arrays of floats, got {leaf.dtype} at {_joined(path) or path!r}; "
                "leave out what is not a parameter"
            )
        shape = tuple(leaf.shape)
        key: Any = object()
        if array_api_compat.is_torch_array(leaf):
            key = (leaf.data_ptr(), shape, leaf.stride()) if leaf.device.type != "meta" else id(leaf)
        if math.prod(shape) > 0 and key not in seen:
            found.append(Leaf(_joined(path), shape))
        seen.add(key)
    if not found:
        raise ValueError(f"`{name}` must hold at least one parameter, got none; an iterator serves once")
    return found


def _walk(tree: Any, name: str, path: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Array]]:
    """Return (path, array) for each leaf."""
    if array_api_compat.is_array_api_obj(tree):
        return [(path, tree)]
    if callable(getattr(tree, "named_parameters", None)) and not isinstance(tree, type):
        tree = tree.named_parameters()
    if isinstance(tree, Iterator):
        tree = list(tree)
    if not isinstance(tree, list | tuple | dict):
        raise _not_a_tree(tree, name)
    pairs = not isinstance(tree, dict) and bool(tree) and all(map(_is_named, tree))
    rows = list(tree) if pairs else _branches(tree)
    below = {key: _walk(child, f"{name}[{key!r}]", (*path, key)) for key, child in rows}
    if len(below) < len(rows):
        raise ValueError(f"`{name}` must name each array once, got {[key for key, _ in rows]}; rename them")
    leaves = [leaf for part in below.values() for leaf in part]
    tensors = any(array_api_compat.is_torch_array(x) for _, x in leaves)
    if isinstance(tree, dict) and not isinstance(tree, OrderedDict) and not tensors:
        return [leaf for key in _sorted(tree, name) for leaf in below[key]]
    return leaves


def _is_named(pair: Any) -> bool:
    """Return whether it is one of the pairs of ``module.named_parameters()``."""
    return type(pair) is tuple and len(pair) == 2 and isinstance(pair[0], str)


def _joined(path: tuple[Any, ...]) -> str:
    """Return the keys of a path as a name; "" if they are all positions."""
    return "" if all(isinstance(key, int) for key in path) else ".".join(map(str, path))


def _sorted(tree: dict[Any, Any], name: str) -> tuple[Any, ...]:
    try:
        return tuple(sorted(tree))
    except TypeError:
        raise TypeError(
            f"`{name}` must have keys of one type that can be sorted, got {list(tree)}; use texts"
        ) from None


def _not_a_tree(tree: Any, name: str) -> TypeError:
    return TypeError(
        f"`{name}` must be an array or a dict, list or tuple of arrays, got {type(tree).__name__}; "
        "convert it with the `asarray` of your array library"
    )


def require_plain(name: str, x: Array) -> None:
    """Raise TypeError for NumPy's masked arrays, matrices and other subclasses with their own arithmetic."""
    if isinstance(x, np.ndarray) and type(x) not in (np.ndarray, np.memmap):
        raise TypeError(
            f"`{name}` must be a plain NumPy array, got {type(x).__name__}; "
            "convert it with `numpy.asarray`, after filling what is masked"
        )
