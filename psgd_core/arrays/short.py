"""Reductions of short arrays in JAX on the CPU, each of them one loop.

XLA makes four loops there of a sum or a maximum over more than 32 numbers and fewer than some thousands, and
compiles each loop by itself: 12 ms each, so that most of the time it took to compile a step went into them
(measured, JAX 0.10). It leaves alone a reduction that has several results that are asked for: here the
largest absolute value and the sum of squares in units of it. What asks for either of the same array shares
the loop.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import array_api_compat
import numpy as np

from .library import Array, namespace

SHORT = 4096
"""Elements up to which an array is short. Longer ones are one loop as they are, and a faster one."""


def is_short(x: Array) -> bool:
    """Return whether it is a short array of reals that JAX has on the CPU, traced or not."""
    if not array_api_compat.is_jax_array(x) or not 0 < x.size <= SHORT:
        return False
    import jax

    return jax.default_backend() == "cpu" and bool(namespace(x).isdtype(x.dtype, "real floating"))


def largest(x: Array) -> Array:
    """Return the largest absolute value of a short array, NaN unless all are finite; it has no derivative."""
    import jax

    top, total = _reduction()(x)
    found: Array = jax.lax.select(total >= 0, top, jax.lax.full_like(top, float("nan")))
    return found


def is_finite(x: Array) -> Array:
    """Return whether all elements of a short array are finite."""
    return namespace(x).isfinite(_reduction()(x)[1])


def norm(x: Array) -> Array:
    """Return the Euclidean norm of all elements of a short array, without overflow, in one pass."""
    found: Array = _norm()(x)
    return found


@lru_cache(maxsize=1)
def _reduction() -> Any:
    """Return the reduction, traced once for each shape."""
    import jax

    return jax.jit(_scaled_squares)


@lru_cache(maxsize=1)
def _norm() -> Any:
    import jax

    @jax.custom_jvp  # JAX cannot differentiate a reduction of its kind backwards
    def norm(x: Any) -> Any:
        largest, total = _reduction()(x)
        return largest * jax.lax.sqrt(total)

    @norm.defjvp
    def along(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        (x,), (change,), xp = primals, tangents, namespace(*primals)
        size = norm(x)
        return size, xp.sum(x / xp.where(size > 0, size, xp.ones_like(size)) * change)

    return norm


def _scaled_squares(x: Any) -> tuple[Any, Any]:
    """Return the largest absolute value s, and the sum of ``(x / s)^2``, NaN unless all are finite."""
    from jax import lax

    x = lax.stop_gradient(x)
    zero, one = (np.asarray(number, dtype=x.dtype) for number in (0, 1))

    def joined(p: Any, q: Any) -> Any:
        (s, squares), (t, more) = p, q
        top = lax.max(s, t)
        unit = lax.select(lax.gt(top, zero), top, one)
        s, t = lax.div(s, unit), lax.div(t, unit)
        return top, lax.add(lax.mul(squares, lax.mul(s, s)), lax.mul(more, lax.mul(t, t)))

    ones = lax.add(lax.mul(x, zero), one)  # NaN where x is not finite: one element alone is not joined
    top, total = lax.reduce((lax.abs(x), ones), (zero, zero), joined, tuple(range(x.ndim)))
    return top, total
