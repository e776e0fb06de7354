"""The functions that a user gives, all of one sample at a time.

They may write into the arrays they get, and may return the same buffer each time, as with SciPy. So
everything here calls them through `Functions.gradient_at`, `value_and_gradient` and `products`, which pass
copies in and keep copies of what comes out. JAX's arrays are immutable and not copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import array_api_compat
import numpy as np

from ..arrays.arguments import described
from ..arrays.library import Array, is_array, namespace, require_alike
from ..arrays.trees import owned, require_plain


@dataclass(frozen=True)
class Functions:
    """A function to minimise: its gradient, and optionally its value and its Hessian.

    Each takes x, of shape (n,), and then whatever `at` binds: all of them get the same sample.

    Attributes
    ----------
    gradient : callable
        ``gradient(x, *bound)``, shape (n,).
    value : callable, optional
        ``value(x, *bound)``, a 0-d array.
    hvp : callable, optional
        ``hvp(x, v, *bound)``, the Hessian at x times v.
    both : callable, optional
        ``both(x, *bound)``, value and gradient in one evaluation; used by `value_and_gradient`.
    batched : bool
        Whether `hvp` takes v of shape (n, k) too, k probes in one call.
    """

    gradient: Callable[..., Array]
    value: Callable[..., Array] | None = None
    hvp: Callable[..., Array] | None = None
    both: Callable[..., tuple[Array, Array]] | None = None
    batched: bool = False

    def __post_init__(self) -> None:
        for name in ("gradient", "value", "hvp", "both"):
            function = getattr(self, name)
            if not callable(function) and (function is not None or name == "gradient"):
                raise TypeError(f"`{name}` must be callable, got {described(function)}; pass a function of x")

    def at(self, *bound: Any) -> Functions:
        """Return functions of x (and v) only, with a sample, or any arguments, bound to all of them."""
        if not bound:
            return self

        def with_bound(function: Any) -> Any:
            return None if function is None else lambda *points: function(*points, *bound)

        names = ("gradient", "value", "hvp", "both")
        return replace(self, **{name: with_bound(getattr(self, name)) for name in names})

    def gradient_at(self, x: Array) -> Array:
        """Return the gradient at x."""
        return _kept("gradient", self.gradient(owned(x)), x)

    def value_and_gradient(self, x: Array) -> tuple[Array | None, Array]:
        """Return (value or None, gradient) at x."""
        if self.both is None:
            value = None if self.value is None else _number("value", self.value(owned(x)))
            return value, self.gradient_at(x)
        value, g = pair_of("both", self.both(owned(x)))
        return _number("both", value), _kept("both", g, x)

    def products(self, x: Array, v: Array) -> Array:
        """Return the Hessian at x times v, of shape (n,) or (n, k) as v.

        Raises
        ------
        ValueError
            If there is no `hvp`.
        """
        hvp = self.hvp
        if hvp is None:
            raise ValueError("`hvp` must be given for exact products, got None; or difference the gradients")
        if v.ndim == 1 or self.batched:
            return _kept("hvp", hvp(owned(x), owned(v)), v)
        columns = [_kept("hvp", hvp(owned(x), owned(v[:, i])), v[:, i]) for i in range(v.shape[1])]
        return namespace(v).stack(columns, axis=1)


def pair_of(name: str, found: Any) -> tuple[Any, Any]:
    """Return (value, gradient) as a function gave them.

    Raises
    ------
    TypeError
        If it gave something else.
    """
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(f"`{name}` must return (value, gradient), got {described(found)}; return the two")
    return found[0], found[1]


def _number(name: str, found: Any) -> Any:
    """Return a copy of the value that a function returned."""
    require_plain(name, found)
    return owned(found)


def _kept(name: str, found: Array, like: Array) -> Array:
    """Return a copy of what a function returned, which must be an array like `like`."""
    if not is_array(found):
        raise TypeError(f"`{name}` must return an array of shape {tuple(like.shape)}, got {described(found)}")
    require_plain(name, found)
    if tuple(found.shape) != tuple(like.shape):
        raise ValueError(f"`{name}` must return shape {tuple(like.shape)}, got {tuple(found.shape)}, like x")
    require_alike(name, found, "x", like)
    copy: Array = owned(found)
    return copy


def product_with(hessian: Any) -> Callable[..., Array]:
    """Return ``hvp(x, v, *bound)`` for a Hessian: a matrix, a SciPy LinearOperator, or a callable giving one.

    Parameters
    ----------
    hessian : array (n, n), LinearOperator, or callable
        Constant, or ``hessian(x, *bound)``; anything that ``@`` multiplies with v, (n,) or (n, k). For NumPy
        also rows of numbers, and a number for n = 1.
    """
    # a LinearOperator is callable too, and then multiplies
    if hasattr(hessian, "__matmul__") or _is_plain(hessian):
        return lambda x, v, *bound: _times(hessian, v)
    if callable(hessian):
        return lambda x, v, *bound: _times(hessian(x, *bound), v)
    raise TypeError(
        f"`hessian` must be a matrix, a LinearOperator or a callable giving one, got {described(hessian)}; "
        "give a Hessian-vector product as `hvp`"
    )


def _is_plain(hessian: Any) -> bool:
    """Return whether it is a number, or rows of numbers, rather than a matrix."""
    number = isinstance(hessian, Real | np.generic) and not isinstance(hessian, bool)
    return number or isinstance(hessian, list | tuple) or (is_array(hessian) and hessian.ndim < 2)


def _times(hessian: Any, v: Array) -> Array:
    """Return the product of a matrix or operator (n, n) with v."""
    if _is_plain(hessian) and array_api_compat.is_numpy_array(v):
        try:
            hessian = np.atleast_2d(np.asarray(hessian, dtype=v.dtype))
        except (TypeError, ValueError):
            raise TypeError(f"`hessian` must hold numbers in rows, got {described(hessian)}") from None
    if not hasattr(hessian, "__matmul__"):
        raise TypeError(
            f"`hessian` must be or return a matrix or a LinearOperator, got {described(hessian)}; "
            "convert it with the `asarray` of your array library"
        )
    require_plain("hessian", hessian)
    shape, n = tuple(getattr(hessian, "shape", (v.shape[0],) * 2)), v.shape[0]
    if shape != (n, n):
        raise ValueError(f"`hessian` must have shape ({n}, {n}), got {shape}; x has {n} elements")
    if is_array(hessian) and not array_api_compat.is_numpy_array(hessian):
        require_alike("hessian", hessian, "x", v)
    h: Array = hessian @ v
    return h
