"""States as nested tuples of arrays: one of two chosen, apart from another, or written into its buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from ..arrays.library import Array, known, namespace, select
from .counters import State
from .forms import named


def mapped(function: Callable[..., Array], *trees: Any) -> Any:
    """Return the tree of `function` at the arrays of nested tuples of the same structure."""
    first = trees[0]
    if not isinstance(first, tuple):
        return function(*trees)
    parts = [mapped(function, *each) for each in zip(*trees, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def chosen(flag: Array, new: State, old: State) -> State:
    """Return `new` where the 0-d flag is true, else `old`."""
    value = known(flag)
    if value is not None:
        return new if value else old
    return mapped(lambda x, y: x if x is y else select(flag, x, y), new, old)


def detach(old: State, new: State) -> State:
    """Copy what `new` shares with `old`, so that consuming the one in place leaves the other alone.

    An update that moves only some of its arrays shares the others where the flags are known (NumPy). Index
    arrays stay shared: nothing writes to them.
    """

    def apart(old: Array, new: Array) -> Array:
        if old is not new or new.ndim == 0:
            return new
        xp = namespace(new)
        floating = xp.isdtype(new.dtype, ("real floating", "complex floating"))
        return xp.asarray(new, copy=True) if floating else new

    return mapped(apart, old, new)


def require_writeable(state: State) -> None:
    """Raise unless `store` may write into all arrays of the state: it is all of them or none."""
    for name, x in named("state", state):
        read_only = isinstance(x, np.ndarray) and not x.flags.writeable
        recorded = array_api_compat.is_torch_array(x) and x.requires_grad
        if x.ndim > 0 and (read_only or recorded):
            kind = "one that autograd records" if recorded else "a read-only one"
            raise ValueError(
                f"`{name}` must be an array that can be written to for `inplace`, got {kind}; "
                "leave `inplace` out, or copy it"
            )


def store(old: State, new: State) -> State:
    """Write `new` into the buffers of `old` and return `old`'s structure."""

    def stored(old: Array, new: Array) -> Array:
        if old.ndim == 0 or old is new:
            return new
        old[...] = new
        return old

    return mapped(stored, old, new)
