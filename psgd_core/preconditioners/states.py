"""States apart from others, or written into their buffers."""

from __future__ import annotations

from typing import Any, TypeVar

import array_api_compat
import numpy as np

from ..arrays.library import namespace
from ..arrays.trees import leaves_with_names, mapped

State = TypeVar("State", bound="tuple[Any, ...]")
"""A NamedTuple of arrays and of tuples of them, as its preconditioner documents."""


def detached(new: State, old: State) -> State:
    """Return `new` with copies of what it shares with `old`, so that either may be consumed in place.

    An update that moves only some of its arrays shares the others where the flags are known (NumPy). Index
    arrays stay shared: nothing writes to them.
    """
    parts: list[Any] = []
    for x, y in zip(new, old, strict=True):
        if isinstance(x, tuple):
            parts.append(detached(x, y))
        elif x is y and x.ndim > 0 and namespace(x).isdtype(x.dtype, ("real floating", "complex floating")):
            parts.append(namespace(x).asarray(x, copy=True))
        else:
            parts.append(x)
    return type(new)(*parts) if hasattr(new, "_fields") else type(new)(parts)


def stored(new: State, old: State) -> State:
    """Write `new` into the buffers of `old`; return it there."""

    def into(x: Any, y: Any) -> Any:
        if y.ndim == 0 or x is y:
            return x
        y[...] = x
        return y

    found: State = mapped(into, new, old)
    return found


def require_writeable(state: tuple[Any, ...]) -> None:
    """Raise unless `stored` may write into all arrays of the state: it is all of them or none."""
    for name, x in leaves_with_names(state, "state"):
        if array_api_compat.is_jax_array(x):
            raise ValueError(
                "`inplace` must be False for JAX arrays, got True; donate the state to `jax.jit` instead"
            )
        read_only = isinstance(x, np.ndarray) and not x.flags.writeable
        recorded = array_api_compat.is_torch_array(x) and x.requires_grad
        if x.ndim > 0 and (read_only or recorded):
            kind = "one that autograd records" if recorded else "a read-only one"
            raise ValueError(
                f"`{name}` must be an array that can be written to for `inplace`, got {kind}; "
                "leave `inplace` out, or copy it"
            )
