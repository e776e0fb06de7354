"""What the user gave to `minimize`, as counted functions of vectors."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from ..arrays import trees
from ..arrays.library import Array, namespace, require_alike
from ..arrays.numbers import shown
from ..arrays.trees import Structure, Tree, owned
from ..curvature import Functions, product_with
from ..curvature.functions import pair_of
from .doors import value_like


@dataclass
class Counted:
    """The user's functions on vectors, and how often each was evaluated."""

    functions: Functions
    nfev: int = 0
    njev: int = 0
    nhev: int = 0


def parameters(x0: Any) -> tuple[Array, Structure]:
    """Return x0 as a vector of its own and its structure; plain numbers become a NumPy array, as in SciPy."""
    counts = type(x0) is np.ndarray and x0.dtype.kind in "iub"
    if counts or _is_number(x0) or (isinstance(x0, list | tuple) and _are_numbers(x0)):
        try:
            x0 = np.asarray(x0, dtype=np.float64)
        except (ValueError, OverflowError):
            raise ValueError(
                f"`x0` must hold numbers in rows of one length, got {shown(x0)}; or arrays, for a tree"
            ) from None
    layout = trees.structure(x0, "x0")
    return owned(_detached(layout.flatten(x0, "x0"))), layout


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
    together = isinstance(jac, bool | np.bool_) and bool(jac)
    if grad is not None and (together or callable(jac)):
        raise ValueError("`grad` and `jac` must not both be given; they are the same, drop one")
    if hvp is not None and hess is not None:
        raise ValueError("`hvp` and `hess` must not both be given; drop one")
    grad = jac if callable(jac) else grad
    if not (jac is None or isinstance(jac, bool | np.bool_) or callable(jac)):
        raise TypeError(f"`jac` must be callable, or True for a `fun` that returns both, got {shown(jac)}")
    for name, function in (("fun", fun), ("grad", grad), ("hvp", hvp)):
        if function is not None and not callable(function):
            raise TypeError(f"`{name}` must be callable, got {shown(function)}; pass a function")
    if together and fun is None:
        raise ValueError("`fun` must be given with jac=True, got None; it returns value and gradient")
    if grad is None and not together:
        raise ValueError(
            "`grad` must be given, or jac=True for a `fun` that returns (value, gradient), got None; "
            "write or derive the gradient"
        )
    times = None if hess is None else product_with(hess)
    found = Counted(Functions(gradient=lambda x: x))

    def value(x: Array, *bound: Any) -> Array:
        assert fun is not None
        found.nfev += 1
        return _value(fun(layout.unflatten(x), *bound), like)

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
        f, g = pair_of("fun", fun(layout.unflatten(x), *bound))
        return _value(f, like), vector(g, layout, like, "jac")

    def product(x: Array, v: Array, *bound: Any) -> Array:
        found.nhev += 1 if v.ndim == 1 else v.shape[1]
        if times is not None:
            shape = tuple(v.shape)
            h = vector(times(layout.unflatten(x), v, *bound), Structure(None, shape), like, "hess")
            return namespace(h).reshape(h, shape)
        assert hvp is not None
        return vector(hvp(layout.unflatten(x), layout.unflatten(v), *bound), layout, like, "hvp")

    found.functions = Functions(
        gradient=gradient,
        value=None if fun is None or together else value,
        hvp=None if hvp is None and times is None else product,
        both=both if together else None,
        batched=times is not None,
    )
    return found


def vector(tree: Tree, layout: Structure, like: Array, name: str) -> Array:
    """Return a gradient or product as a vector (n,) like x; for NumPy from anything that `asarray` takes."""
    if not array_api_compat.is_numpy_array(like):
        flat = layout.flatten(tree, name)
        require_alike(name, flat, "x0", like)
        return _detached(flat)
    if layout.kind is None and not isinstance(tree, np.ndarray):
        try:
            tree = np.asarray(tree)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"`{name}` must return an array, got {shown(tree)}; {error}") from None
        _require_real(name, tree)
    flat = layout.flatten(tree, name)
    _require_real(name, flat)
    return flat.astype(like.dtype, copy=False)


def _require_real(name: str, x: np.ndarray) -> None:
    if x.dtype.kind not in "biuf":
        got = shown(x.item()) if x.dtype.kind == "O" and x.ndim == 0 else f"dtype {x.dtype}"
        raise TypeError(f"`{name}` must return real numbers, got {got}; return one for each parameter")


def _value(value: Any, like: Array) -> Array:
    """Return what `fun` returned as a 0-d array like x."""
    if value is None:
        raise TypeError("`fun` must return a number, got None; return the value")
    if array_api_compat.is_array_api_obj(value) and math.prod(value.shape) != 1:
        raise ValueError(f"`fun` must return a scalar, got shape {tuple(value.shape)}; sum over the elements")
    return value_like(_detached(value), like, "fun")


def _detached(x: Any) -> Any:
    """Return a tensor out of autograd's graph, which a loop would make ever longer; others as they are."""
    return x.detach() if array_api_compat.is_torch_array(x) else x


def _is_number(x: Any) -> bool:
    """Whether x is a real number of Python's."""
    return isinstance(x, numbers.Real) and not isinstance(x, np.generic)


def _are_numbers(x: Any) -> bool:
    """Whether x is a (nested) list or tuple of real numbers, NumPy's among them."""
    if isinstance(x, list | tuple) and not hasattr(x, "_fields") and x:
        return all(_are_numbers(e) for e in x)
    return _is_number(x) or (isinstance(x, np.generic) and x.dtype.kind in "biuf")
