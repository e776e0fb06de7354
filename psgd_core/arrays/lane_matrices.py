"""Linear algebra of matrices whose last axis is over lanes (`lanes`): shapes (.., s, t, lanes)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from .batched import library_solve
from .library import namespace

THIN = 4
"""Terms up to which a product of matrices is added up term by term: each is one operation on long vectors."""


def front(x: Any) -> Any:
    """Return x with its last axis, the lanes, in front: a batch for the library's own linear algebra."""
    return namespace(x).permute_dims(x, (x.ndim - 1, *range(x.ndim - 1)))


def back(x: Any) -> Any:
    """Return x with its first axis last, where lanes are; contiguous along it."""
    last = namespace(x).permute_dims(x, (*range(1, x.ndim), 0))
    if isinstance(last, np.ndarray):
        return np.ascontiguousarray(last).reshape(last.shape)  # which makes an axis of none
    return last.contiguous() if array_api_compat.is_torch_array(last) else last


def matmul(x: Any, y: Any) -> Any:
    """Return the products of (.., s, t, lanes) and (.., t, u, lanes)."""
    xp, (s, terms), u = namespace(x), x.shape[-3:-1], y.shape[-2]
    if terms > THIN and min(s, u) > 1:
        return back(front(x) @ front(y))
    if terms == 0:
        total = xp.sum(x[..., :, :, None, :], axis=-3) + xp.sum(y[..., None, :, :, :], axis=-3)
        return total  # sums of nothing
    total = x[..., :, 0, None, :] * y[..., None, 0, :, :]
    for j in range(1, terms):
        total = total + x[..., :, j, None, :] * y[..., None, j, :, :]
    return total


class Linalg:
    """A library's linear algebra, for arrays that end in an axis over lanes."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _OF_MATRICES:
            raise AttributeError(
                f"`linalg.{name}` is not among the functions that work on many arrays at once"
            )
        function: Callable[..., Any] = library_solve if name == "solve" else getattr(self._xp.linalg, name)

        def applied(*matrices: Any, **options: Any) -> Any:
            found: Any = function(*[front(x) for x in matrices], **options)
            if not isinstance(found, tuple):
                return back(found)
            parts = [back(part) for part in found]
            return type(found)(*parts) if hasattr(found, "_fields") else type(found)(parts)

        setattr(self, name, applied)
        return applied

    def vector_norm(self, x: Any, *, axis: int | None = None) -> Any:
        """Return the norm of all elements of each lane, or along an axis."""
        xp = self._xp
        if axis is None:
            x, axis = xp.reshape(x, (-1, x.shape[-1])), 0
        return xp.linalg.vector_norm(x, axis=axis if axis >= 0 else axis - 1)


_NAMES = "cholesky det diagonal eigh eigvalsh inv matrix_norm pinv qr slogdet solve svd svdvals trace"
_OF_MATRICES = frozenset(_NAMES.split())
"""Functions of square or other matrices in the last two axes alone."""
