"""Checks of arguments that several studies of spectra share, each with a one-sentence error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from psgd_core import PermutationSubgroup


def require_invertible(name: str, values: np.ndarray, unit: float) -> None:
    """Raise ValueError if the eigenvalues are those of a matrix that is singular to the rounding `unit`."""
    magnitudes = np.abs(values)
    low, high = float(np.min(magnitudes)), float(np.max(magnitudes))
    if low <= values.size * unit * high:
        raise ValueError(
            f"`hessian`, {name}, must be invertible, got |λ| from {low:.2g} to {high:.2g}; "
            "study `damped(hessian, λ)` in its place"
        )


def require_squares(name: str, matrix: Any) -> None:
    """Raise ValueError where ``H^2``, which the criterion is made of, overflows, or vanishes to rounding."""
    xp = array_api_compat.array_namespace(matrix)
    size, limits = float(xp.max(xp.abs(matrix))), xp.finfo(matrix.dtype)
    high = (float(limits.max) / matrix.shape[0]) ** 0.5 / 16
    low = (float(limits.smallest_normal) / float(limits.eps) ** 2) ** 0.5
    if size and not low <= size <= high:
        raise ValueError(
            f"`hessian`, {name}, must have a largest entry between {low:.0e} and {high:.0e}, so that its "
            f"square is a {matrix.dtype}, got {size:.2g}; multiply it by {1 / size:.0e}"
        )


def require_subgroup(name: str, subgroup: PermutationSubgroup, n: int) -> None:
    """Raise unless `subgroup` is a subgroup of the permutations of range(n)."""
    if not isinstance(subgroup, PermutationSubgroup):
        raise TypeError(
            f"`{name}` must be a PermutationSubgroup, got {type(subgroup).__name__}; "
            "make one with PermutationSubgroup.from_generators"
        )
    if subgroup.n != n:
        raise ValueError(f"`{name}` must permute range({n}), got a subgroup for n = {subgroup.n}; rebuild it")


def repeatable(product: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
    """Return products that are repeatable: the first is computed twice and must agree to rounding.

    Products that JAX traces are not checked.

    Raises
    ------
    ValueError
        By the first product, if it differs the second time.
    """
    looked = False

    def looking(v: Any) -> Any:
        nonlocal looked
        out = product(v)
        if not looked and v.shape[1] > 0 and not _is_traced(out):
            xp = array_api_compat.array_namespace(out)
            again, first = product(v[:, :1]), out[:, :1]
            if bool(xp.all(xp.isfinite(first) & xp.isfinite(again))):  # otherwise reported where it matters
                off, size = (float(xp.max(xp.abs(x))) for x in (again - first, first))
                if off > float(xp.finfo(out.dtype).eps) ** 0.5 * size:
                    raise ValueError(
                        f"the products of {name} must be the same for the same v, got one that is off by "
                        f"{off:.2g} of {size:.2g} the second time; fix the batch, and the random numbers"
                    )
            looked = True
        return out

    return looking


def _is_traced(x: Any) -> bool:
    """Return whether x is a tracer of JAX."""
    if not array_api_compat.is_jax_array(x):
        return False
    import jax

    return isinstance(x, jax.core.Tracer)
