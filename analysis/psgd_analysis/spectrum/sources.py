"""Where Hessians come from: an Hvp function, a file, a problem.

Whether a function is the same every time is looked at once, in its first product.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_api_compat

from ..arrays import Array
from ..problems import Problem, load_matrix
from .checks import checked
from .operators import HessianOperator, from_matrix

ADVICE = "fix the batch, and the random numbers"
"""What to do about products that are not the same every time."""


def from_hvp(
    hvp: Callable[[Array], Array], n: int, like: Array, *, columns: bool = False, name: str = "H"
) -> HessianOperator:
    """Return the Hessian whose products a function computes.

    Parameters
    ----------
    hvp : callable
        ``hvp(v)`` for v of shape (n,); with `columns`, for v of shape (n, k), a product per column.
    n : int
    like : array
        Its library, dtype and device are those of v; its values do not matter.
    columns : bool
        Whether `hvp` takes several columns at once, which is faster wherever it can.

    Notes
    -----
    `hvp` gets a v of its own, which it may write to, and what it returns is copied, so that it may return the
    same buffer every time. Its first product is asked for twice: both must be the same up to rounding, and
    those of a symmetric matrix.
    """
    if not callable(hvp):
        raise TypeError(f"`hvp` must be a function of v, got {type(hvp).__name__}; use `from_matrix`")

    def product(v: Array) -> Array:
        out = hvp(_own(v))
        operator.require(f"the product of {name}", out, "make the Hvp return an array like its argument")
        if out.ndim != v.ndim:
            raise ValueError(
                f"the product of {name} must have the shape of `v`, {tuple(v.shape)}, got "
                f"{tuple(out.shape)}; say `columns=True` if the Hvp is one of columns"
            )
        return _own(out)

    def column_by_column(v: Array) -> Array:
        xp = array_api_compat.array_namespace(v)
        return xp.stack([product(v[:, i]) for i in range(v.shape[1])], axis=1)

    if array_api_compat.is_array_api_obj(like):
        like = array_api_compat.array_namespace(like).reshape(like, (-1,))[:0]
    operator = HessianOperator(n, like, checked(product if columns else column_by_column, name, ADVICE), name)
    return operator


def from_file(
    path: str | os.PathLike[str], *, key: str | None = None, like: Array | None = None
) -> HessianOperator:
    """Return the symmetric matrix in a `.npy`, `.npz` or `.mtx` file, see `problems.load_matrix`.

    Singular matrices are accepted: they have a spectrum, though no ``|H|^{-1}``. Large sparse ones stay
    sparse: they are known by their products, whatever n.
    """
    return from_matrix(load_matrix(path, key=key, like=like), Path(path).name)


def from_problem(problem: Problem, x: Array | None = None, sample: Any = None) -> HessianOperator:
    """Return the Hessian of a problem of `psgd_analysis.problems` at x (by default its starting point)."""
    point = problem.start if x is None else x
    return HessianOperator(
        problem.n, point[:0], lambda v: problem.hvp(point, v, sample), f"Hessian of {problem.name}"
    )


def _own(x: Array) -> Array:
    """Return a copy of an array."""
    return array_api_compat.array_namespace(x).asarray(x, copy=True)
