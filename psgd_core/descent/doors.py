"""What `PSGD` is given, as it works with it: clips, rates, values, vectors and functions of vectors."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from ..arrays import trees
from ..arrays.library import Array, device_of, namespace, require_alike, require_arrays
from ..arrays.numbers import as_float, real, shown
from ..arrays.trees import Tree
from ..curvature import Functions
from ..curvature.functions import pair_of
from ..schedules import Schedule, value_at
from .clips import Chain, Clip, Norm


def as_clip(clip: Any) -> Clip:
    """Return what was given for `clip` as one Clip."""
    if clip is None:
        return Chain(())
    if isinstance(clip, tuple | list):
        return Chain(tuple(clip))
    if as_float(clip) is not None:
        return Norm(clip)
    if not isinstance(clip, Clip):
        raise TypeError(f"`clip` must be a Clip, a tuple of Clips, a number or None, got {shown(clip)}")
    return clip


def rate(name: str, schedule: Schedule, t: Any, x: Array) -> float | Array:
    """Return a schedule's value at t, as a number or in the dtype of x, which it must not decide."""
    value = value_at(schedule, t)
    if not array_api_compat.is_array_api_obj(value) or array_api_compat.is_numpy_array(value):
        return real(name, value, "(-inf, inf)", "it is what the schedule returned")
    xp = require_arrays(**{"x": x, name: value})
    return xp.astype(value, x.dtype)


def value_like(value: Any, like: Array, name: str = "value") -> Array:
    """Return a function's value as a 0-d array like another; NaN if None."""
    if value is None:
        return like * float("nan")
    xp = namespace(like)
    if array_api_compat.is_array_api_obj(value) and not array_api_compat.is_numpy_array(value):
        require_arrays(**{"x": like, name: value})
        if math.prod(value.shape) == 1 and not xp.isdtype(value.dtype, "complex floating"):
            return xp.astype(xp.reshape(value, ()), like.dtype)
    found = as_float(value.reshape(()) if getattr(value, "size", 0) == 1 else value)
    if found is None:
        raise TypeError(f"`{name}` must be a real number, got {shown(value)}; sum over the elements")
    return xp.asarray(found, dtype=like.dtype, device=device_of(like))


def as_flag(name: str, flag: Any) -> bool | Array:
    """Return a bool, or a 0-d array of them, which is not asked for its value."""
    if isinstance(flag, bool | np.bool_):
        return bool(flag)
    scalar = array_api_compat.is_array_api_obj(flag) and flag.ndim == 0
    if scalar and namespace(flag).isdtype(flag.dtype, "bool"):
        return flag
    raise TypeError(f"`{name}` must be a bool or a 0-d array of bool, got {shown(flag)}; compare first")


def require_state(state: Any) -> None:
    """Raise TypeError unless `state` is one of `PSGD`."""
    if not hasattr(state, "preconditioner") or not isinstance(state, tuple):
        raise TypeError(f"`state` must be a PSGDState, got {shown(state)}; start from `init`")


def require_probes(v: Any, x: Array) -> None:
    """Raise unless v has the shape (n,) or (n, k), and is an array as x."""
    require_arrays(v=v)
    if v.ndim not in (1, 2) or v.shape[0] != x.shape[0]:
        n = x.shape[0]
        raise ValueError(f"`v` must have shape ({n},) or ({n}, k), got {tuple(v.shape)}; one row a parameter")
    require_alike("v", v, "x", x)


def vectors(layout: trees.Structure, tree: Tree, name: str) -> Array:
    """Return probes or products as vectors: (n,) or (n, k) as they are, trees flattened."""
    if array_api_compat.is_array_api_obj(tree) and tree.ndim > 0 and tree.shape[0] == layout.size:
        return tree
    return layout.flatten(tree, name)


def on_vectors(functions: Functions, layout: trees.Structure) -> Functions:
    """Return functions of vectors from functions of trees."""
    if layout.is_vector:
        return functions
    value, gradient, hvp, both = functions.value, functions.gradient, functions.hvp, functions.both

    def flat_both(x: Array) -> tuple[Array, Array]:
        assert both is not None
        f, g = pair_of("both", both(layout.unflatten(x)))
        return f, layout.flatten(g, "g")

    def flat_hvp(x: Array, v: Array) -> Array:
        assert hvp is not None
        return layout.flatten(hvp(layout.unflatten(x), layout.unflatten(v)), "h")

    return Functions(
        gradient=lambda x: layout.flatten(gradient(layout.unflatten(x)), "g"),
        value=None if value is None else lambda x: value(layout.unflatten(x)),
        hvp=None if hvp is None else flat_hvp,
        both=None if both is None else flat_both,
    )
