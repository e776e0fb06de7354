"""Which library computes: JAX, traced or not, or NumPy or CuPy on the memory of JAX's arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import array_api_compat.numpy
import jax
import jax.numpy as jnp
import numpy as np

from ...arrays.arguments import require_choice
from ...arrays.library import Array
from ...preconditioners import Preconditioner, Replay
from ...preconditioners.replay import fitted
from ..dlpack import to_cupy, to_jax, to_numpy

EngineName = Literal["jax", "numpy", "cupy"]
"""The libraries that may compute."""


class Engine:
    """JAX itself."""

    xp: Any = jnp
    compiles: ClassVar[bool] = True
    """Whether updates are compiled."""

    def inward(self, x: jax.Array) -> Array:
        """Return a JAX array as one of the engine, to read."""
        return x

    def outward(self, x: Any) -> jax.Array:
        """Return a new array of the engine as one of JAX."""
        found: jax.Array = x
        return found

    def choose(self, due: Any, fit: Callable[[], Any], kept: Any) -> Any:
        """Return ``fit()`` if `due`, which only the device may know, else `kept`; only one is computed."""
        return jax.lax.cond(due, fit, lambda: kept)

    def fitted(
        self,
        p: Preconditioner[Any],
        replay: Replay | None,
        before: tuple[Any, Any],
        v: Array,
        h: Array,
        step: float | Array,
    ) -> tuple[Any, Any]:
        """Return (state, ring) of a leaf after fitting on a pair; leaves of one kind are traced once."""
        static, traced = (step, None) if isinstance(step, float) else (None, step)
        found: tuple[Any, Any] = _fitted(p, replay, static, before, v, h, traced)
        return found


@partial(jax.jit, static_argnums=(0, 1, 2))
def _fitted(p: Any, replay: Any, static: float | None, before: Any, v: Any, h: Any, traced: Any) -> Any:
    return fitted(p, replay, before, v, h, traced if static is None else static)


class NumPyEngine(Engine):
    """NumPy, on JAX's memory on the host."""

    xp: Any = array_api_compat.numpy
    compiles = False

    def inward(self, x: jax.Array) -> Array:
        """Return a read-only view."""
        return to_numpy(x)

    def outward(self, x: Any) -> jax.Array:
        """Return a view of a copy that is aligned as JAX requires: NumPy's own arrays seldom are."""
        room = np.empty(x.nbytes + 64, dtype=np.uint8)
        start = -room.__array_interface__["data"][0] % 64
        aligned = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
        aligned[...] = x
        return to_jax(aligned)

    def choose(self, due: Any, fit: Callable[[], Any], kept: Any) -> Any:
        """Return ``fit()`` if `due`, else `kept`."""
        return fit() if bool(due) else kept

    def fitted(
        self,
        p: Preconditioner[Any],
        replay: Replay | None,
        before: tuple[Any, Any],
        v: Array,
        h: Array,
        step: float | Array,
    ) -> tuple[Any, Any]:
        """Return (state, ring) of a leaf after fitting on a pair."""
        return fitted(p, replay, before, v, h, step)


class CuPyEngine(NumPyEngine):
    """CuPy, on JAX's memory on a GPU."""

    def __init__(self) -> None:
        from array_api_compat import cupy

        self.xp = cupy

    def inward(self, x: jax.Array) -> Array:
        """Return a view, which the engine does not write to."""
        return to_cupy(x, read_only=True)

    def outward(self, x: Any) -> jax.Array:
        """Return a view."""
        return to_jax(x)


def engine_named(name: EngineName) -> Engine:
    """Return the engine of that name."""
    require_choice("engine", name, get_args(EngineName), "'jax' runs under jax.jit")
    try:
        return {"jax": Engine, "numpy": NumPyEngine, "cupy": CuPyEngine}[name]()
    except ImportError as error:
        raise ImportError(
            "`engine` 'cupy' needs CuPy, which is not installed; pip install cupy-cuda12x or cupy-cuda13x"
        ) from error
