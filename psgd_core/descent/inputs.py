"""What users give to `PSGD` and `minimize`, as the loop works with it: vectors, and functions of vectors."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from functools import partial
from typing import Any

import array_api_compat
import numpy as np

from ..arrays import trees
from ..arrays.arguments import as_float, described, require_number
from ..arrays.library import Array, device_of, is_array, namespace, require_alike, require_arrays
from ..arrays.trees import Structure, Tree, owned
from ..curvature import Functions, product_with
from ..curvature.functions import pair_of
from ..schedules import Schedule, value_at
from .differences import accuracy, differenced, method_of

Function = Callable[..., Any]
"""A user's function of x: what it returns is checked when it is called."""


# -- for one step --------------------------------------------------------------------------------------------


def rate(name: str, schedule: Schedule, count: Array, x: Array) -> float | Array:
    """Return a schedule after `count` steps as a number, or as an array in the dtype of x, which sets it."""
    value: Any = value_at(schedule, namespace(x).astype(count, x.dtype)) if callable(schedule) else schedule
    if not is_array(value) or array_api_compat.is_numpy_array(value):
        return require_number(name, value, "(-inf, inf)", "it is what the schedule returned")
    return require_arrays(**{"x": x, name: value}).astype(value, x.dtype)


def value_like(value: Any, like: Array, name: str = "value") -> Array:
    """Return the value of a function as a 0-d array like another; NaN for None."""
    if value is None:
        return like * float("nan")
    xp, single = namespace(like), is_array(value) and math.prod(value.shape) == 1
    if is_array(value) and not array_api_compat.is_numpy_array(value):
        require_arrays(**{"x": like, name: value})
        if single and not xp.isdtype(value.dtype, "complex floating"):
            return xp.astype(xp.reshape(value, ()), like.dtype)
    found = as_float(value.reshape(()) if single else value)
    if found is None:
        raise TypeError(f"`{name}` must be a real number, got {described(value)}; sum over the elements")
    return xp.asarray(found, dtype=like.dtype, device=device_of(like))


def flag_of(name: str, flag: Any) -> bool | Array:
    """Return a bool, or a 0-d array of bool as it is, without reading its value."""
    if isinstance(flag, bool | np.bool_):
        return bool(flag)
    found: Array = flag
    if is_array(flag) and flag.ndim == 0 and namespace(flag).isdtype(flag.dtype, "bool"):
        return found
    raise TypeError(f"`{name}` must be a bool or a 0-d array of bool, got {described(flag)}; compare first")


def toss(rng: Any) -> float:
    """Return a number in [0, 1) by chance, or raise TypeError."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"`rng` must be a numpy.random.Generator, got {described(rng)}; it tosses coins")
    return rng.random()


def require_state(state: Any) -> None:
    """Raise TypeError unless `state` is one of `PSGD`."""
    if not hasattr(state, "preconditioner") or not isinstance(state, tuple):
        raise TypeError(f"`state` must be a PSGDState, got {described(state)}; start from `init`")


def vectors(layout: Structure, tree: Tree, name: str) -> Array:
    """Return probes or products as vectors: (n,) or (n, k) as they are, trees flattened."""
    found: Array = tree
    if is_array(tree) and tree.ndim > 0 and tree.shape[0] == layout.size:
        return found
    return layout.flatten(tree, name)


def on_vectors(functions: Functions, layout: Structure) -> Functions:
    """Return functions of vectors from functions of trees."""
    if layout.is_vector:
        return functions

    def wrapped(function: Any, finish: Function) -> Any:
        return None if function is None else lambda *at: finish(function(*map(layout.unflatten, at)))

    def flat_pair(found: Any) -> tuple[Any, Array]:
        f, g = pair_of("both", found)
        return f, layout.flatten(g, "g")

    return Functions(
        gradient=wrapped(functions.gradient, lambda g: layout.flatten(g, "g")),
        value=wrapped(functions.value, lambda f: f),
        hvp=wrapped(functions.hvp, lambda h: layout.flatten(h, "h")),
        both=wrapped(functions.both, flat_pair),
    )


# -- for `minimize` ------------------------------------------------------------------------------------------


def require_unbounded(bounds: Any) -> None:
    """Raise ValueError unless `bounds`, as SciPy takes them, bound nothing."""
    if bounds is None:
        return
    low, high = getattr(bounds, "lb", None), getattr(bounds, "ub", None)
    try:
        if low is None or high is None:
            pairs = [(-math.inf if a is None else a, math.inf if b is None else b) for a, b in bounds]
            low, high = [a for a, _ in pairs], [b for _, b in pairs]
        free = bool(np.all(np.asarray(low) == -math.inf) and np.all(np.asarray(high) == math.inf))
    except (TypeError, ValueError):  # no pairs
        free = False
    if not free:
        raise ValueError(
            f"`bounds` must be None or infinite, got {described(bounds)}: PSGD has no bounds; transform x, "
            "such as x = lower + exp(y), or use SciPy's method='L-BFGS-B'"
        )


def parameters(x0: Any) -> tuple[Array, Structure]:
    """Return a copy of x0 as a vector, and its structure; plain numbers become a NumPy array, as in SciPy."""
    counts = (type(x0) is np.ndarray or isinstance(x0, np.generic)) and x0.dtype.kind in "iub"
    if counts or _are_numbers(x0):
        try:
            x0 = np.asarray(x0, dtype=np.float64)
        except (ValueError, OverflowError):
            raise ValueError(f"`x0` must hold numbers in rows of one length, got {described(x0)}") from None
    layout = trees.structure(x0, "x0")
    x: Array = owned(_detached(layout.flatten(x0, "x0")))
    return x, layout


class Objective:
    """The user's functions of trees as functions of vectors, and how often each was evaluated.

    Parameters
    ----------
    x : array, shape (n,)
        Where to start; sets library, dtype and device of what the functions return.
    layout : Structure
        Of the tree that x is a vector of.
    fun, grad, jac, hvp, hess
        As `minimize` takes them.

    Raises
    ------
    TypeError, ValueError
        If the gradient is missing or given twice, or something is not callable. Without one, for NumPy
        arrays, it is differences of values.
    """

    def __init__(
        self,
        x: Array,
        layout: Structure,
        fun: Function | None,
        grad: Function | None,
        jac: Function | bool | str | None,
        hvp: Function | None,
        hess: Any,
    ) -> None:
        # which are given?
        flag = isinstance(jac, bool | np.bool_)
        together = flag and bool(jac)
        if grad is not None and jac is not None and (together or not flag):
            raise ValueError("`grad` and `jac` must not both be given; they are the same, drop one")
        if hvp is not None and hess is not None:
            raise ValueError("`hvp` and `hess` must not both be given; drop one")
        grad = jac if callable(jac) else grad
        for name, function in (("fun", fun), ("grad", grad), ("hvp", hvp)):
            if function is not None and not callable(function):
                raise TypeError(f"`{name}` must be callable, got {described(function)}; pass a function")
        if together and fun is None:
            raise ValueError("`fun` must be given with jac=True, got None; it returns value and gradient")
        method = method_of(jac, x) if grad is None else None
        if method is not None and fun is None:
            raise ValueError("`fun` or `grad` must be given, got None for both; there is nothing to minimise")
        # on vectors
        self.x: Array = x
        self.layout: Structure = layout
        self.counts: dict[str, int] = {"nfev": 0, "njev": 0, "nhev": 0}
        value = None if fun is None or together else self._counted(fun, self._number, "nfev")
        both = self._counted(fun, self._pair, "nfev", "njev") if together else None
        if method is not None:
            assert value is not None  # as `fun` is
            both, value = self._noting(differenced(value, method), "njev"), None
        self.noise: float | None = None if method is None else accuracy(method, x)
        if hvp is not None:
            hvp = self._counted(hvp, partial(self._vector, "hvp"), "nhev", points=2)
        elif hess is not None:
            hvp = partial(self._times, product_with(hess))
        self.functions: Functions = Functions(
            gradient=(
                self._counted(grad, partial(self._vector, "grad"), "njev")
                if both is None
                else lambda x, *bound: both(x, *bound)[1]
            ),
            value=value,
            hvp=hvp,
            both=both,
            batched=hess is not None,
        )

    def _counted(self, function: Any, finish: Function, *names: str, points: int = 1) -> Function:
        """Return a function of trees, the first `points` of its arguments, as one of vectors that counts."""

        def evaluate(*given: Any) -> Any:
            for name in names:
                self.counts[name] += 1
            trees_given = [self.layout.unflatten(x) for x in given[:points]]
            return finish(function(*trees_given, *given[points:]))

        return evaluate

    def _noting(self, function: Function, name: str) -> Function:
        """Return a function of vectors that counts."""

        def evaluate(*given: Any) -> Any:
            self.counts[name] += 1
            return function(*given)

        return evaluate

    def _times(self, product: Function, x: Array, v: Array, *bound: Any) -> Array:
        """Return the product of the Hessian at x with v, (n,) or (n, k)."""
        self.counts["nhev"] += 1 if v.ndim == 1 else v.shape[1]
        layout = Structure(None, tuple(v.shape))
        h = self._vector("hess", product(self.layout.unflatten(x), v, *bound), layout)
        return namespace(v).reshape(h, layout.shape)

    def _pair(self, found: Any) -> tuple[Array, Array]:
        """Return value and gradient as `fun` returned them."""
        f, g = pair_of("fun", found)
        return self._number(f), self._vector("jac", g)

    def _number(self, value: Any) -> Array:
        """Return a value of the function as a 0-d array like x."""
        if value is None:
            raise TypeError("`fun` must return a number, got None; return the value")
        if is_array(value) and math.prod(value.shape) != 1:
            raise ValueError(f"`fun` must return a scalar, got shape {tuple(value.shape)}; take the sum")
        return value_like(_detached(value), self.x, "fun")

    def _vector(self, name: str, tree: Tree, layout: Structure | None = None) -> Array:
        """Return a gradient or product as a vector like x; for NumPy from anything that `asarray` takes."""
        layout = layout or self.layout
        if layout.kind is None and layout.size == 1 and is_array(tree) and math.prod(tree.shape) == 1:
            tree = namespace(tree).reshape(tree, layout.shape)  # of one variable, of any shape
        if not array_api_compat.is_numpy_array(self.x):
            flat = layout.flatten(tree, name)
            require_alike(name, flat, "x0", self.x)
            found: Array = _detached(flat)
            return found
        if layout.kind is None and not isinstance(tree, np.ndarray):
            try:
                tree = np.asarray(tree)
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(f"`{name}` must return an array, got {described(tree)}; {error}") from None
            _require_real(name, tree)
            tree = tree.reshape(layout.shape) if layout.size == 1 == tree.size else tree
        flat = layout.flatten(tree, name)
        _require_real(name, flat)
        return namespace(flat).astype(flat, self.x.dtype, copy=False)


def _require_real(name: str, x: Any) -> None:
    if x.dtype.kind not in "biuf":
        got = described(x.item()) if x.dtype.kind == "O" and x.ndim == 0 else f"dtype {x.dtype}"
        raise TypeError(f"`{name}` must return real numbers, got {got}; return one for each parameter")


def _detached(x: Any) -> Any:
    """Return a tensor without its graph, which a loop would make ever longer; anything else unchanged."""
    return x.detach() if array_api_compat.is_torch_array(x) else x


def _are_numbers(x: Any, *, top: bool = True) -> bool:
    """Return whether x is a real number of Python's, or a nested list or tuple of numbers, also NumPy's."""
    if isinstance(x, list | tuple) and not hasattr(x, "_fields") and x:
        return all(_are_numbers(e, top=False) for e in x)
    if isinstance(x, np.generic):
        return not top and x.dtype.kind in "biuf"
    return isinstance(x, numbers.Real)
