"""The array libraries that the commands run on: how to start one, and how to make many updates quickly.

Pairs are drawn on the host and handed over a segment at a time, so every library fits the same numbers. On
JAX a segment is one `jax.lax.scan` under `jax.jit`; elsewhere it is a loop.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from psgd_core import convergence

from .arrays import Array

LIBRARIES = {
    "numpy": ("numpy", "numpy"),
    "cupy": ("cupy", "cupy-cuda13x"),
    "torch": ("torch", "torch"),
    "jax": ("jax.numpy", "jax"),
}
"""Name of a backend: (module, what to install for it)."""

DTYPES = ("float64", "float32")


class Unavailable(RuntimeError):
    """A library is not installed, or has no device; the message is one sentence."""


@dataclass(frozen=True)
class Backend:
    """An array library and a dtype.

    Parameters
    ----------
    name : str
        One of `LIBRARIES`.
    dtype : str
        One of `DTYPES`.
    """

    name: str = "numpy"
    dtype: str = "float64"

    @property
    def eps(self) -> float:
        """Rounding unit of the dtype."""
        return float(np.finfo(self.dtype).eps)

    @property
    def version(self) -> str:
        """The library's version."""
        return str(importlib.import_module(self.name).__version__)

    def require(self) -> None:
        """Raise `Unavailable` unless arrays can be made."""
        module, package = LIBRARIES[self.name]
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise Unavailable(
                f"backend {self.name} is not installed ({error}): pip install {package}"
            ) from error
        if self.name == "cupy":
            import cupy

            if not cupy.cuda.is_available():
                raise Unavailable("backend cupy finds no CUDA device: choose --backend numpy, torch or jax")

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Set what the library needs: JAX computes in float64 only within this context."""
        if self.name != "jax":
            yield
            return
        import jax

        with jax.enable_x64(self.dtype == "float64"):
            yield

    def asarray(self, x: np.ndarray) -> Array:
        """Return host numbers on this library, in this dtype."""
        xp: Any = importlib.import_module(LIBRARIES[self.name][0])
        host = np.array(x, dtype=self.dtype)  # a copy: writable and contiguous whatever x was
        return xp.asarray(host)

    def advance(self, fitter: Any, state: Any, v: Array, h: Array, steps: np.ndarray) -> Any:
        """Return the state after one update per step.

        Parameters
        ----------
        fitter : hashable
            Whatever has ``update(state, v, h, step)``.
        v, h : array, shape (t, n), (t, n, k), or (1, n, k)
            A pair per step, or one for all of them; None for v integrates it out.
        steps : numpy.ndarray, shape (t,)
        """
        if self.name == "jax":
            return _scan(fitter, state, v, h, self.asarray(steps))
        same = h.shape[0] == 1
        for i, step in enumerate(steps):
            j = 0 if same else i
            probe = None if v is None else v[j, ...]
            state = fitter.update(state, probe, h[j, ...], step=float(step))
        return state

    def measure(self, fitter: Any, state: Any, eye: Array, target: convergence.Target) -> convergence.Errors:
        """Return distance, residual and gap to the target."""
        return _jitted_errors()(fitter, state, eye, target) if self.name == "jax" else _errors(
            fitter, state, eye, target
        )  # fmt: skip


def _errors(fitter: Any, state: Any, eye: Array, target: convergence.Target) -> convergence.Errors:
    return convergence.measure(fitter.apply(state, eye), target)


@functools.cache
def _jitted_errors() -> Any:
    import jax

    return jax.jit(_errors, static_argnums=0)


def _scan(fitter: Any, state: Any, v: Array, h: Array, steps: Array) -> Any:
    return _jitted_scan()(fitter, state, v, h, steps)


@functools.cache
def _jitted_scan() -> Any:
    import jax

    def run(fitter: Any, state: Any, v: Array, h: Array, steps: Array) -> Any:
        if h.shape[0] == 1:
            one = None if v is None else v[0]
            return jax.lax.scan(lambda s, step: (fitter.update(s, one, h[0], step=step), None), state, steps)[
                0
            ]
        return jax.lax.scan(
            lambda s, x: (fitter.update(s, x[0], x[1], step=x[2]), None), state, (v, h, steps)
        )[0]

    return jax.jit(run, static_argnums=0)
