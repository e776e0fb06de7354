"""Singular values of a matrix that has no structure to take them from."""

from __future__ import annotations

from collections.abc import Callable

from ..arrays.library import Array, namespace
from ..arrays.matrices import eye

LARGEST = 2048
"""The largest n: seconds, and 32 MiB in float64."""


def dense(product: Callable[[Array], Array], n: int, like: Array) -> Array:
    """Return the singular values, (n,), of the matrix that `product` multiplies columns by; O(n^3).

    Raises
    ------
    NotImplementedError
        If n is above `LARGEST`.
    """
    if n > LARGEST:
        raise NotImplementedError(
            f"all eigenvalues of P take a dense matrix without structure, of up to {LARGEST} rows, got {n}; "
            "`psgd_analysis.spectrum.preconditioner_eigenvalues` finds the largest and the smallest"
        )
    found: Array = namespace(like).linalg.svdvals(product(eye(n, like)))
    return found
