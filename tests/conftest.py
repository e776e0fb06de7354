"""One fixture runs the mathematics on every installed array library (design: one parametrised suite)."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np
import pytest

# In tests that do not say which code they are about. psgd_core reads it when it is imported: not above this.
os.environ.setdefault("PSGD_KERNELS", "on")
if "PSGD_TEST_GPU" not in os.environ:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
if importlib.util.find_spec("jaxlib") and importlib.metadata.version("jaxlib").startswith("0.10."):
    # Compiling is most of what tests under JAX do, and takes a third of the time without these emitters. XLA
    # aborts the process over a flag it does not know: hence the versions known to know it.
    quick = "--xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()


@dataclass(frozen=True)
class Backend:
    """An array library, the dtype to test it in, and how to get arrays in and out of it."""

    name: str
    library: str
    dtype_name: str
    jitted: bool = False
    standin: bool = False
    """Whether CuPy is `cupy_standin`: its names over NumPy, and an error where a verb asks for a value."""

    @property
    def xp(self) -> Any:
        module = importlib.import_module(self.library)
        return array_api_compat.array_namespace(module.zeros(0)) if self.library == "torch" else module

    @property
    def dtype(self) -> Any:
        return getattr(self.xp, self.dtype_name)

    @property
    def eps(self) -> float:
        return float(np.finfo(self.dtype_name).eps)

    def asarray(self, x: Any) -> Any:
        """Return a NumPy array (or nested list) on this library, floats in the tested dtype."""
        x = np.asarray(x)
        if x.dtype.kind == "f":
            x = x.astype(self.dtype_name)
        return self.xp.asarray(x.copy())

    def numpy(self, x: Any) -> np.ndarray:
        """Return an array of this library as float64 (or integer) NumPy, after checking where it lives."""
        assert array_api_compat.array_namespace(x) is array_api_compat.array_namespace(self.asarray(0.0))
        if self.library == "array_api_compat.cupy":
            return x.get()
        return np.asarray(x)

    def jit(self, function: Callable, **kwargs: Any) -> Callable:
        """Return `function` compiled where this backend tests tracing, else unchanged."""
        if not self.jitted:
            return function
        import jax

        return jax.jit(function, **kwargs)

    def context(self) -> contextlib.AbstractContextManager:
        if self.library == "jax.numpy":
            import jax

            return jax.enable_x64(self.dtype_name == "float64")
        if self.standin:
            import cupy_standin

            return cupy_standin.with_unseen_verbs()
        return contextlib.nullcontext()

    def __str__(self) -> str:
        return self.name


BACKENDS = [
    Backend("numpy-f64", "array_api_compat.numpy", "float64"),
    Backend("numpy-f32", "array_api_compat.numpy", "float32"),
    Backend("strict-f64", "array_api_strict", "float64"),
    Backend("strict-f32", "array_api_strict", "float32"),
    Backend("torch-f64", "torch", "float64"),
    Backend("torch-f32", "torch", "float32"),
    Backend("jax-f64", "jax.numpy", "float64"),
    Backend("jax-f32", "jax.numpy", "float32"),  # without x64: no float64 anywhere
    Backend("jax-jit-f64", "jax.numpy", "float64", jitted=True),
    Backend("jax-jit-f32", "jax.numpy", "float32", jitted=True),
    Backend("standin-f32", "array_api_compat.cupy", "float32", standin=True),
    Backend("cupy-f64", "array_api_compat.cupy", "float64"),
    Backend("cupy-f32", "array_api_compat.cupy", "float32"),
]


def _missing(backend: Backend) -> str | None:
    if backend.standin:
        import cupy_names

        return cupy_names.missing()
    top = backend.library.removeprefix("array_api_compat.").split(".")[0]
    if importlib.util.find_spec(top) is None:
        return f"{top} is not installed"
    if top == "cupy":
        import cupy

        if not cupy.cuda.is_available():
            return "no CUDA device"
    return None


def _parameter(backend: Backend) -> Any:
    marks = [pytest.mark.gpu] if backend.name.startswith("cupy") else []
    if reason := _missing(backend):
        marks.append(pytest.mark.skip(reason=reason))
    return pytest.param(backend, id=backend.name, marks=marks)


@pytest.fixture(params=[_parameter(b) for b in BACKENDS])
def backend(request):
    """Every installed array library, in float64 and float32; JAX also compiled."""
    with request.param.context():
        yield request.param


@pytest.fixture(params=[_parameter(b) for b in BACKENDS if b.dtype_name == "float64"])
def backend64(request):
    """Every installed array library in float64, for what only rounding-level accuracy can tell."""
    with request.param.context():
        yield request.param


@pytest.fixture
def rng():
    """A fixed NumPy generator: probes are drawn once and handed to every library."""
    return np.random.default_rng(20240205)


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    """Close what a test left to pyplot, so that no test depends on how many figures others opened."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def torch_starts_from_a_seed():
    """So that what a test draws from PyTorch's own generator does not depend on the tests before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
