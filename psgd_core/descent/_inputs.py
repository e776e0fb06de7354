"""What the user gave to `minimize`, as counted functions of vectors."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from .. import _trees
from .._array import Array, device_of, require_alike
from .._trees import Structure, Tree
from ..curvature import Functions, product_with


@dataclass
class Counted:
    """The user's functions on vectors, and how often each was evaluated."""

    functions: Functions
    nfev: int = 0
    njev: int = 0
    nhev: int = 0


def parameters(x0: Any) -> tuple[Array, Structure]:
    """Return x0 as a vector of its own and its structure; plain numbers become a NumPy array, as in SciPy."""
    counts = isinstance(x0, np.ndarray | np.generic) and x0.dtype.kind in "iub"
    if counts or _is_numbers(x0):
        x0 = np.asarray(x0, dtype=np.float64)
    layout = _trees.structure(x0, "x0")
    flat = layout.flatten(x0, "x0")
    return array_api_compat.array_namespace(flat).asarray(flat, copy=True), layout


def counted(
    layout: Structure,
    like: Array,
    fun: Callable | None,
    grad: Callable | None,
    jac: Callable | bool | None,
    hvp: Callable | None,
    hess: Any,
) -> Counted:
    """Return the user's functions, counting, after checking which are there.

    Raises
    ------
    TypeError, ValueError
        If the gradient is missing or given twice, or something is not callable.
    """
    if grad is not None and jac not in (None, False):
        raise ValueError("`grad` and `jac` must not both be given; they are the same, drop one")
    if hvp is not None and hess is not None:
        raise ValueError("`hvp` and `hess` must not both be given; drop one")
    together = jac is True
    grad = jac if callable(jac) else grad
    for name, function in (("fun", fun), ("grad", grad), ("hvp", hvp)):
        if function is not None and not callable(function):
            raise TypeError(f"`{name}` must be callable, got {type(function).__name__}; pass a function")
    if together and fun is None:
        raise ValueError("`fun` must be given with jac=True, got None; it returns value and gradient")
    if grad is None and not together:
        raise ValueError(
            "`grad` must be given, or jac=True for a `fun` that returns (value, gradient), got None; "
            "write or derive the gradient"
        )
    if hess is not None:
        hvp = product_with(hess)
        one_by_one, layout_h = False, Structure(None, (layout.size,))
    else:
        one_by_one, layout_h = True, layout
    found = Counted(Functions(gradient=lambda x: x))

    def value(x: Array, *bound: Any) -> Array:
        assert fun is not None
        found.nfev += 1
        return scalar(fun(layout.unflatten(x), *bound), like)

    def gradient(x: Array, *bound: Any) -> Array:
        if together:
            return both(x, *bound)[1]
        assert grad is not None
        found.njev += 1
        return vector(grad(layout.unflatten(x), *bound), layout, like, "grad")

    def both(x: Array, *bound: Any) -> tuple[Array, Array]:
        assert fun is not None
        found.nfev += 1
        found.njev += 1
        f, g = fun(layout.unflatten(x), *bound)
        return scalar(f, like), vector(g, layout, like, "jac")

    def product(x: Array, v: Array, *bound: Any) -> Array:
        assert hvp is not None
        found.nhev += 1 if v.ndim == 1 else v.shape[1]
        if v.ndim == 2:
            return hvp(layout.unflatten(x), v, *bound)
        return vector(hvp(layout.unflatten(x), layout_h.unflatten(v), *bound), layout_h, like, "hvp")

    found.functions = Functions(
        gradient=gradient,
        value=None if fun is None or together else value,
        hvp=None if hvp is None else product,
        both=both if together else None,
        batched=not one_by_one,
    )
    return found


def scalar(value: Any, like: Array) -> Array:
    """Return a function's value as a 0-d array of the dtype and device of `like`."""
    xp = array_api_compat.array_namespace(like)
    if array_api_compat.is_array_api_obj(value):
        if value.size != 1 if hasattr(value, "size") and isinstance(value.size, int) else value.ndim != 0:
            raise ValueError(
                f"`fun` must return a scalar, got shape {tuple(value.shape)}; sum over the elements"
            )
        return xp.astype(xp.reshape(xp.asarray(value), ()), like.dtype)
    return xp.asarray(value, dtype=like.dtype, device=device_of(like))


def vector(tree: Tree, layout: Structure, like: Array, name: str) -> Array:
    """Return a gradient or product as a vector (n,), a copy for NumPy: users may reuse their buffer."""
    if not array_api_compat.is_numpy_array(like):
        flat = layout.flatten(tree, name)
        require_alike(name, flat, "x0", like)
        return flat
    if layout.kind is None:
        tree = np.asarray(tree)
    return np.array(layout.flatten(tree, name), dtype=like.dtype)


def _is_numbers(x: Any) -> bool:
    """Whether x is a plain number, or a (nested) list or tuple of them."""
    if array_api_compat.is_array_api_obj(x):
        return False
    if not isinstance(x, list | tuple) or hasattr(x, "_fields") or not x:
        return isinstance(x, numbers.Real)
    return all(_is_numbers(e) for e in x)
