"""The array libraries: how to make arrays, wait for them, copy them, and count the memory of a call."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from ..backends import LIBRARIES, Backend
from ..resident import resident_peak
from .timing import COPY, Task, nothing

DTYPES = ("float32", "float64")
RESIDENT_FROM = 2**25
"""Bytes of an n-vector above which the process's resident peak is informative about one call."""


@dataclass(frozen=True)
class Library:
    """An array library, a dtype and a device.

    Parameters
    ----------
    name : str
        One of numpy, torch, jax, cupy.
    dtype : str
        One of `DTYPES`.
    device : {"cpu", "gpu"}
    """

    name: str = "numpy"
    dtype: str = "float32"
    device: str = "cpu"

    @classmethod
    def of(cls, name: str, dtype: str) -> Library:
        """Return the library on its default device, a GPU where there is one.

        Raises
        ------
        Unavailable
            If it is not installed, or has no device to run on.
        """
        Backend(name, dtype).require()
        module: Any = importlib.import_module(name)
        gpu = name == "cupy"
        if name == "torch":
            gpu = module.cuda.is_available()
        elif name == "jax":
            gpu = module.default_backend() == "gpu"
        return cls(name, dtype, "gpu" if gpu else "cpu")

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def host(self) -> Any:
        """The dtype, as NumPy has it."""
        return np.dtype(self.dtype)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Set what the library needs, such as JAX's float64 mode."""
        with Backend(self.name, self.dtype).active():
            yield

    def asarray(self, x: np.ndarray) -> Array:
        """Return host numbers on this library and device, a copy."""
        host = np.array(x, dtype=self.dtype)
        if self.name == "torch":
            torch: Any = importlib.import_module("torch")
            return torch.asarray(host, device=self.torch_device)
        xp: Any = importlib.import_module(LIBRARIES[self.name][0])
        return xp.asarray(host)

    @property
    def torch_device(self) -> str:
        """What torch calls the device."""
        return "cuda" if self.device == "gpu" else "cpu"

    def waiter(self) -> Callable[[Any], Any]:
        """Return a function that waits until its argument, and everything before it, is computed."""
        if self.name == "jax":
            return importlib.import_module("jax").block_until_ready
        if self.device == "cpu":
            return nothing
        if self.name == "torch":
            synchronize = importlib.import_module("torch").cuda.synchronize
            return lambda _: synchronize()
        stream = importlib.import_module("cupy").cuda.get_current_stream()
        return lambda _: stream.synchronize()

    # -- the yardstick ---------------------------------------------------------------------------------

    def copy_task(self, size: int, threads: int) -> Task:
        """Return the task of copying `size` bytes into allocated memory."""
        if self.device == "cpu":
            return Task(COPY, _HostCopy(size, threads))
        count = size // self.itemsize
        source = self.asarray(np.zeros(count))
        if self.name == "torch":
            target = source.clone()
            return Task(COPY, lambda: target.copy_(source), self.waiter())
        if self.name == "cupy":
            target = source.copy()
            cupy = importlib.import_module("cupy")
            return Task(COPY, lambda: cupy.copyto(target, source), self.waiter())
        jax: Any = importlib.import_module("jax")
        # XLA would drop a plain copy; negation reads and writes as much
        return Task(COPY, jax.jit(lambda x: -x).lower(source).compile().__call__, self.waiter())

    # -- memory ----------------------------------------------------------------------------------------

    def extra_memory(self, call: Callable[[], Any], n: int) -> int | None:
        """Return the peak of the bytes that a call allocates, or None where it cannot be measured.

        NumPy's by tracemalloc, CUDA's by the libraries' own counters. Torch has no counter on the CPU: there
        it is the process's resident peak, for vectors large enough to show.
        """
        wait = self.waiter()
        if self.name == "numpy":
            return _traced(call)
        if self.device == "gpu" and self.name == "torch":
            cuda = importlib.import_module("torch").cuda
            wait(None)
            cuda.reset_peak_memory_stats()
            before = cuda.memory_allocated()
            wait(call())
            return cuda.max_memory_allocated() - before
        if self.name == "cupy":
            pool = importlib.import_module("cupy").get_default_memory_pool()
            wait(None)
            pool.free_all_blocks()
            before = pool.total_bytes()
            wait(call())
            return pool.total_bytes() - before  # a pool only grows while it is used
        if self.name == "torch" and n * self.itemsize >= RESIDENT_FROM:
            return resident_peak(call)
        return None


class _HostCopy:
    """A copy by several threads, each with a part of the array: one does not saturate the memory bus."""

    def __init__(self, size: int, threads: int) -> None:
        count = max(size // 8, threads)
        source, target = np.zeros(count), np.ones(count)  # written once, so that the pages are allocated
        source += 1.0
        edges = np.linspace(0, count, threads + 1).astype(int)
        self.parts = [(target[a:b], source[a:b]) for a, b in itertools.pairwise(edges)]
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __call__(self) -> None:
        if self.pool is None:
            np.copyto(*self.parts[0])
        else:
            list(self.pool.map(lambda part: np.copyto(*part), self.parts))


def _traced(call: Callable[[], Any]) -> int:
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        out = call()
        peak = tracemalloc.get_traced_memory()[1]
        del out
    finally:
        if not tracing:
            tracemalloc.stop()
    return max(peak - before, 0)
