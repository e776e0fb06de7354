"""The functions that a user gives, all of one sample at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat

from .._array import Array


@dataclass(frozen=True)
class Functions:
    """A function to minimise: its gradient, and what else is known of it.

    Each takes x, of shape (n,), and then whatever `at` binds.

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

    def at(self, *bound: Any) -> Functions:
        """Return the functions of x (and v) alone, with a sample, or any arguments, bound to all of them."""
        if not bound:
            return self
        gradient, value, hvp, both = self.gradient, self.value, self.hvp, self.both
        return replace(
            self,
            gradient=lambda x: gradient(x, *bound),
            value=None if value is None else lambda x: value(x, *bound),
            hvp=None if hvp is None else lambda x, v: hvp(x, v, *bound),
            both=None if both is None else lambda x: both(x, *bound),
        )

    def value_and_gradient(self, x: Array) -> tuple[Array | None, Array]:
        """Return (value or None, gradient) at x."""
        if self.both is not None:
            return self.both(x)
        return (None if self.value is None else self.value(x)), self.gradient(x)

    def products(self, x: Array, v: Array) -> Array:
        """Return the Hessian at x times v, of shape (n,) or (n, k) as v.

        Raises
        ------
        ValueError
            If there is no `hvp`.
        """
        if self.hvp is None:
            raise ValueError("`hvp` must be given for exact products, got None; or difference the gradients")
        hvp = self.hvp
        if v.ndim == 1 or self.batched:
            return hvp(x, v)
        xp = array_api_compat.array_namespace(v)
        return xp.stack([hvp(x, v[:, i]) for i in range(v.shape[1])], axis=1)


def product_with(hessian: Any) -> Callable[..., Array]:
    """Return ``hvp(x, v, *bound)`` for a Hessian: a matrix, a SciPy LinearOperator, or a callable giving one.

    Parameters
    ----------
    hessian : array (n, n), LinearOperator, or callable
        Constant, or ``hessian(x, *bound)``; anything that ``@`` multiplies with v, (n,) or (n, k).
    """
    # a LinearOperator is callable too, and then multiplies
    if hasattr(hessian, "__matmul__"):
        return lambda x, v, *bound: hessian @ v
    if callable(hessian):
        return lambda x, v, *bound: hessian(x, *bound) @ v
    raise TypeError(
        "`hessian` must be a matrix, a LinearOperator or a callable giving one, "
        f"got {type(hessian).__name__}; give a Hessian-vector product as `hvp`"
    )
