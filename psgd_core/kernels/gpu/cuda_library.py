"""Memory on CUDA devices and kernels that work on it, for CuPy arrays and PyTorch tensors alike.

Kernels are compiled by NVRTC through ``cupy.RawModule``, for the device at hand, and kept on disk by CuPy.
They get bare pointers, so that tensors need no conversion, and run on the library's current stream: nothing
here waits for the device. As nothing checks what a kernel reads and writes, `Library.view` is asked about
every array that one gets.
"""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, NamedTuple

import array_api_compat

from ...arrays.library import Array, followed
from ..rules import float_of

THREADS = 256
"""Of a block; a power of two, at most what ``norms.cuh`` sets apart room for."""

BLOCKS = 16
"""Per multiprocessor at most: threads take more than one item where there are more."""

OPTIONS = ("--std=c++14",)

Kernel = Callable[..., None]
"""Called as ``kernel(grid, block, arguments, shared_mem=bytes)``."""


class View(NamedTuple):
    """What a kernel has to know about a contiguous array."""

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    device: int


class Library(ABC):
    """A library whose arrays may lie on a CUDA device."""

    @abstractmethod
    def view(self, x: Any) -> View | None:
        """Return what a kernel has to know about x; None if x is not for kernels."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Array:
        """Return an uninitialised array on the device, for the current stream."""

    @abstractmethod
    def zeros(self, count: int, device: int) -> Array:
        """Return zeros (count,) in float64."""

    @abstractmethod
    def cast(self, x: Any, dtype: str) -> Array:
        """Return x in another dtype."""

    @abstractmethod
    def contiguous(self, x: Any) -> Array:
        """Return x, contiguous."""

    @abstractmethod
    def reread(self, x: Any, dtype: str) -> Array:
        """Return the same memory as numbers of another dtype."""

    @abstractmethod
    def within(self, device: int) -> contextlib.AbstractContextManager[Any]:
        """Return the context to launch in: CuPy's device, and its stream is the library's current one."""

    @abstractmethod
    def written(self, *arrays: Array) -> None:
        """Say that a kernel has written to arrays that others may hold as well."""

    def pointer(self, x: Array) -> int:
        """Return the address of an array that kernels can read as it is."""
        view = self.view(x)
        if view is None:
            raise TypeError(f"`x` must be a contiguous array on the device, got {type(x).__name__}; copy it")
        return view.pointer

    def processors(self, device: int) -> int:
        """Return the number of multiprocessors."""
        return _processors(device)


class _Cupy(Library):
    def view(self, x: Any) -> View | None:
        if not array_api_compat.is_cupy_array(x) or not x.flags.c_contiguous:
            return None
        return View(x.data.ptr, x.shape, x.dtype.name, x.device.id)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        import cupy

        return cupy.empty(shape, dtype)

    def zeros(self, count: int, device: int) -> Any:
        import cupy

        return cupy.zeros(count)

    def cast(self, x: Any, dtype: str) -> Any:
        return x.astype(dtype, copy=False)

    def contiguous(self, x: Any) -> Any:
        import cupy

        return cupy.ascontiguousarray(x)

    def reread(self, x: Any, dtype: str) -> Any:
        return x.view(dtype)

    def written(self, *arrays: Array) -> None:
        pass

    def within(self, device: int) -> contextlib.AbstractContextManager[Any]:
        import cupy

        context: contextlib.AbstractContextManager[Any] = cupy.cuda.Device(device)
        return context


class _Torch(Library):
    def view(self, x: Any) -> View | None:
        import torch

        # subclasses (FakeTensor, DTensor) are not what they seem; gradients do not flow through kernels
        if type(x) is not torch.Tensor or x.device.type != "cuda" or not x.is_contiguous():
            return None
        if x.requires_grad or x.is_neg():
            return None
        try:
            pointer = x.data_ptr()
        except RuntimeError:  # the wrappers of torch.func have no memory of their own
            return None
        return View(pointer, tuple(x.shape), str(x.dtype).removeprefix("torch."), x.device.index)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype), device=f"cuda:{device}")

    def zeros(self, count: int, device: int) -> Any:
        import torch

        return torch.zeros(count, dtype=torch.float64, device=f"cuda:{device}")

    def cast(self, x: Any, dtype: str) -> Any:
        import torch

        return x.to(getattr(torch, dtype))

    def contiguous(self, x: Any) -> Any:
        return x.contiguous()

    def reread(self, x: Any, dtype: str) -> Any:
        import torch

        return x.view(getattr(torch, dtype))

    def written(self, *arrays: Array) -> None:
        import torch

        for x in arrays:  # which autograd has to know
            torch.autograd.graph.increment_version(x)

    @contextlib.contextmanager
    def within(self, device: int) -> Any:
        import cupy
        import torch

        stream = torch.cuda.current_stream(device).cuda_stream
        with torch.cuda.device(device), cupy.cuda.Device(device), cupy.cuda.ExternalStream(stream, device):
            yield


_CUPY, _TORCH = _Cupy(), _Torch()


def library_of(x: Any) -> Library | None:
    """Return the library of an array on a CUDA device, None where there are no kernels for it.

    Of what ``torch.compile`` traces, nothing but the device is asked.
    """
    if array_api_compat.is_torch_array(x):
        if x.device.type != "cuda":
            return None
        return None if followed() or not _have_cupy() else _TORCH
    return _CUPY if array_api_compat.is_cupy_array(x) else None


@cache
def _have_cupy() -> bool:
    return find_spec("cupy") is not None


@cache
def _processors(device: int) -> int:
    import cupy

    return int(cupy.cuda.Device(device).attributes["MultiProcessorCount"])


@cache
def source(name: str) -> str:
    """Return the CUDA C++ source of that name, with the files it includes in their places."""

    def text(part: str) -> str:
        return (files(__package__) / "cuda" / part).read_text(encoding="utf-8")

    return re.sub(r'^#include "(.+)"\n', lambda found: text(found[1]), text(name), flags=re.MULTILINE)


@cache
def compiled(name: str, kernels: tuple[str, ...]) -> tuple[Kernel, ...]:
    """Return kernels of a source, named as C++ does: ``inspect<float, 4>``."""
    import cupy

    module = cupy.RawModule(code=source(name), options=OPTIONS, name_expressions=kernels)
    return tuple(module.get_function(kernel) for kernel in kernels)


def step_of(library: Library, step: Any, dtype: str, device: int) -> float | Array | None:
    """Return a step as a number in (0, 1) or a 0-d array on the device, in the dtype; None if it is neither.

    What an array holds is not asked: where that is no step, the pair is skipped on the device.
    """
    seen = library.view(step)
    if seen is None:
        rate = float_of(step)
        return rate if rate is not None and 0 < rate < 1 else None
    fits = seen.shape == () and seen.device == device and seen.dtype in ("float32", "float64")
    return library.cast(step, dtype) if fits else None


def grid(items: int, device: int, library: Library, threads: int = THREADS) -> int:
    """Return how many blocks share so many items."""
    return max(1, min(-(-items // threads), BLOCKS * library.processors(device)))
