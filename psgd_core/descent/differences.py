"""Gradients as differences of values, for functions given without one: SciPy's, on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import array_api_compat
import numpy as np

from ..arrays.arguments import described, require_choice
from ..arrays.library import Array, eps

Differences = Literal["2-point", "3-point"]
"""SciPy's names: forward and central differences."""

ACCURACY = {"2-point": 1 / 2, "3-point": 2 / 3}
"""The relative error of a gradient by differences, as a power of eps."""


def method_of(jac: Any, x: Array) -> Differences | None:
    """Return which differences `jac` asks for, "2-point" for None and False; None if it asks for none.

    Raises
    ------
    TypeError, ValueError
        If it is something else, or the arrays are not NumPy's, whose libraries differentiate.
    """
    if callable(jac) or jac is True or (isinstance(jac, np.bool_) and bool(jac)):
        return None
    if jac is not None and not isinstance(jac, str | bool | np.bool_):
        raise TypeError(
            "`jac` must be callable, True if `fun` returns both, '2-point' or '3-point', got "
            f"{described(jac)}; leave it out for differences"
        )
    if isinstance(jac, str):
        require_choice("jac", jac, ACCURACY, "or give a function")
    if not array_api_compat.is_numpy_array(x):
        library = "jax.grad(fun)" if array_api_compat.is_jax_array(x) else "torch.func.grad(fun)"
        ending = "write it" if array_api_compat.is_cupy_array(x) else f"derive it, as by {library}"
        raise ValueError(
            f"`grad` must be given, or jac=True for a `fun` that returns (value, gradient), got {jac!r}, and "
            f"differences of values are for NumPy arrays only; {ending}"
        )
    return "3-point" if jac == "3-point" else "2-point"


def accuracy(method: Differences, x: Array) -> float:
    """Return the relative error of a gradient by differences."""
    found: float = eps(x) ** ACCURACY[method]
    return found


def differenced(value: Callable[..., Array], method: Differences) -> Callable[..., tuple[Array, Array]]:
    """Return value and gradient as a function of (x, *bound), from n or 2 n more values.

    Steps are those of SciPy's `approx_derivative`: relative to elements of x beyond 1, absolute below.
    """

    def both(x: Any, *bound: Any) -> tuple[Any, Any]:
        from scipy.optimize._numdiff import approx_derivative  # importing it takes long

        f: Any = value(x.copy(), *bound)
        if not np.isfinite(f):
            return f, np.full_like(x, np.nan)
        # the function may write to what it gets
        g = approx_derivative(lambda y: value(y.copy(), *bound), x, method=method, f0=f)
        return f, np.asarray(g, dtype=x.dtype).reshape(x.shape)

    return both
