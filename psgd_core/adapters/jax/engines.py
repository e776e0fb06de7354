"""Whose arrays the mathematics runs on: JAX's, traced or not, or NumPy's and CuPy's on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat.numpy
import jax
import jax.numpy as jnp
import numpy as np

from ...arrays.library import Array
from ..dlpack import to_cupy, to_jax, to_numpy


class Engine:
    """JAX itself."""

    xp: Any = jnp

    def bring(self, x: jax.Array) -> Array:
        """Return a JAX array for the engine to read."""
        return x

    def give(self, x: Array) -> jax.Array:
        """Return a new array of the engine to JAX."""
        return x

    def choose(self, due: Any, fit: Callable[[], Any], kept: Any) -> Any:
        """Return ``fit()`` if `due`, which only the device may know, else `kept`; only one is computed."""
        return jax.lax.cond(due, fit, lambda: kept)


class NumPyEngine(Engine):
    """NumPy, on JAX's memory on the host."""

    xp: Any = array_api_compat.numpy

    def bring(self, x: jax.Array) -> Array:
        """Return a read-only view."""
        return to_numpy(x)

    def give(self, x: Array) -> jax.Array:
        """Return a view of a copy that starts where JAX wants arrays to start: NumPy's seldom do."""
        room = np.empty(x.nbytes + 64, dtype=np.uint8)
        start = -room.__array_interface__["data"][0] % 64
        aligned = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
        aligned[...] = x
        return to_jax(aligned)

    def choose(self, due: Any, fit: Callable[[], Any], kept: Any) -> Any:
        """Return ``fit()`` if `due`, else `kept`."""
        return fit() if bool(due) else kept


class CuPyEngine(NumPyEngine):
    """CuPy, on JAX's memory on a GPU."""

    def __init__(self) -> None:
        from array_api_compat import cupy

        self.xp = cupy

    def bring(self, x: jax.Array) -> Array:
        """Return a view; nothing here writes to it."""
        return to_cupy(x, read_only=True)

    def give(self, x: Array) -> jax.Array:
        """Return a view."""
        return to_jax(x)


def engine_named(name: str) -> Engine:
    """Return the engine of that name."""
    kinds = {"jax": Engine, "numpy": NumPyEngine, "cupy": CuPyEngine}
    if name not in kinds:
        raise ValueError(f"`engine` must be 'jax', 'numpy' or 'cupy', got {name!r}; 'jax' runs under jax.jit")
    try:
        return kinds[name]()
    except ImportError as error:
        raise ImportError(
            "`engine` 'cupy' needs CuPy, which is not installed; pip install cupy-cuda12x or cupy-cuda13x"
        ) from error
