"""What is asked of a vector before it is used: that it fits, and how large it is."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from . import shards, short
from .library import Array, at_hand, namespace, require_alike, require_arrays, silent

SMALL = 16_384
"""Elements up to which an array of absolute values is made: it stays in cache."""


def require_vectors(name: str, x: Array, n: int, like: Array) -> None:
    """Raise unless `x` is a vector (n,) or k columns (n, k), alike to an array of the state that takes it."""
    plain = type(x) is type(like) is np.ndarray and x.dtype == like.dtype  # asked in every call: asks little
    if not plain:
        require_arrays(**{name: x})
    if x.ndim not in (1, 2) or x.shape[0] != n:
        raise ValueError(
            f"`{name}` must have shape ({n},) or ({n}, k), got {tuple(x.shape)}; "
            "one vector is a 1-D array, several are the columns of a 2-D array"
        )
    if not plain:
        require_alike(name, x, "state", like)


def columns_of(v: Array | None, h: Array) -> tuple[Array | None, Array]:
    """Return probes v and products h, checked each for itself, as columns (n, k); v may be None."""
    if v is not None and v.shape != h.shape:
        raise ValueError(
            f"`h` must have the shape of `v`, {tuple(v.shape)}, got {tuple(h.shape)}; "
            "pass one product per probe"
        )
    if h.ndim == 1:
        return None if v is None else v[:, None], h[:, None]
    if h.shape[1] == 0:
        name, what = ("h", "gradient") if v is None else ("v", "probe")
        raise ValueError(f"`{name}` must hold at least one {what}, got shape (n, 0); skip the update instead")
    return v, h


def largest(x: Array) -> Array:
    """Return the largest absolute value, a real 0-d array; NaN where there is one."""
    if short.is_short(x):
        return short.largest(x)
    xp = namespace(x)
    small = math.prod(x.shape) <= SMALL and not array_api_compat.is_jax_namespace(xp)
    if small or xp.isdtype(x.dtype, "complex floating"):
        return shards.most(xp.max(xp.abs(x)))
    # reads twice, where abs would read and write; XLA's loop over abs takes 8 times as long on a CPU
    return shards.most(xp.maximum(xp.max(x), -xp.min(x)))


def finite(x: Any) -> Any:
    """Return whether all elements of x, of shape (n,), are finite: a 0-d bool."""
    if at_hand(x):
        with silent():
            square = x.dot(x) < math.inf  # one pass, and nearly always enough
        if square:
            return shards.everywhere(square)
    if short.is_short(x):
        return short.is_finite(x)
    xp = namespace(x)
    return shards.everywhere(xp.max(xp.abs(x)) < math.inf)


def finite_here(x: Array) -> Array:
    """Return whether all elements of a real array, in one process of several those it holds, are finite."""
    xp = namespace(x)
    return short.is_finite(x) if short.is_short(x) else xp.all(xp.isfinite(x))
