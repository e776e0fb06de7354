"""Arrays of one library seen by another without a copy, through the DLPack protocol.

`to_numpy`, `to_cupy`, `to_torch`, `to_jax`, or `convert` with the library as an argument: the result lies in
the same memory on the same device. Where that cannot be, they say why, and copy only when told to::

    g = to_numpy(tensor)  # a view: writing to one writes to the other
    y = to_jax(g, copy=True)  # NumPy's memory starts at multiples of 16 bytes, JAX wants 64

What cannot be shared: other devices; dtypes that the other side lacks (bfloat16 in NumPy; float64 in JAX
without x64); strides it cannot express (JAX wants an array without gaps, PyTorch none that run backwards);
PyTorch tensors that require gradients, or are lazily conjugated or negated; memory not aligned to 64 bytes
for JAX; and read-only data for PyTorch and CuPy, whose arrays are always writable. JAX arrays are such data:
``read_only=True`` shares them by the caller's promise not to write.

Memory lives as long as either side holds an array on it. On a GPU the consumer hands its stream to the
producer (arrays are exchanged, never bare capsules), so that neither waits for the host; on the host, JAX is
waited for. JAX takes what it is given as immutable and computes behind the caller's back: leave shared memory
alone until ``jax.block_until_ready`` on what was computed from it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from ..arrays.library import Array
from .sources import NAMES, Obstacle, Source, has_dtype, look_at, obstacle_to, reaches

__all__ = ["convert", "to_cupy", "to_jax", "to_numpy", "to_torch"]


def to_numpy(x: Array, *, copy: bool | None = False) -> np.ndarray:
    """Return `x` as a NumPy array, read-only where x is (JAX); see `convert`."""
    return convert(x, "numpy", copy=copy)


def to_cupy(x: Array, *, copy: bool | None = False, read_only: bool = False) -> Array:
    """Return `x` as a CuPy array on its CUDA device; see `convert`."""
    return convert(x, "cupy", copy=copy, read_only=read_only)


def to_torch(x: Array, *, copy: bool | None = False, read_only: bool = False) -> Array:
    """Return `x` as a PyTorch tensor on its device, without gradients; see `convert`."""
    return convert(x, "torch", copy=copy, read_only=read_only)


def to_jax(x: Array, *, copy: bool | None = False) -> Array:
    """Return `x` as a JAX array on its device; see `convert`."""
    return convert(x, "jax", copy=copy)


def convert(x: Array, xp: Any, *, copy: bool | None = False, read_only: bool = False) -> Array:
    """Return `x` as an array of the library `xp`, in the same memory.

    Parameters
    ----------
    x : array
        Of NumPy, CuPy, PyTorch or JAX, or any object with ``__dlpack__`` and ``__dlpack_device__``.
    xp : module or str
        ``numpy``, ``cupy``, ``torch``, ``jax``, an array API namespace of one of them, or its name.
    copy : bool or None
        False never copies; True always does, also to the host and to CUDA; None does where x cannot be
        shared. A copy is exact: small floats that the library lacks (bfloat16) widen to float32, nothing is
        rounded. It lies on the device of x, where the library has that device.
    read_only : bool
        The promise not to write to the result, by which JAX arrays and read-only NumPy arrays may be shared
        with PyTorch and CuPy.

    Raises
    ------
    TypeError
        If x is no array, or a value traced by JAX, or `xp` none of the four.
    BufferError
        If x cannot be shared and `copy` is False, or cannot be had even by copying.
    ImportError
        If the library is not installed.
    """
    library = _library(xp)
    module = _import(library)
    source = look_at(x)
    if source.library == library and copy is not True:
        return x
    obstacle = obstacle_to(source, library, module, read_only)
    if obstacle is not None and obstacle.advice:
        raise _error(library, obstacle.why, obstacle.advice)
    if copy is not True and obstacle is None:
        try:
            return _SHARE[library](module, source)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            obstacle = Obstacle(f"its library says: {reason}")
    if copy is False:
        assert obstacle is not None
        raise _error(library, obstacle.why, obstacle.otherwise or "pass copy=True")
    return _copy(source, library, module)


def _error(library: str, why: str, advice: str) -> BufferError:
    return BufferError(f"`x` must be shareable with {NAMES[library]}, but {why}; {advice}")


def _library(xp: Any) -> str:
    name = xp if isinstance(xp, str) else getattr(xp, "__name__", "")
    parts = name.split(".")
    found = parts[1] if parts[0] == "array_api_compat" and len(parts) > 1 else parts[0]
    if found not in NAMES:
        raise TypeError(f"`xp` must be numpy, cupy, torch or jax, got {xp!r}; name one of them")
    return found


def _import(library: str) -> Any:
    try:
        return import_module("jax.numpy" if library == "jax" else library)
    except ImportError as error:
        package = "cupy-cuda12x or cupy-cuda13x" if library == "cupy" else library
        raise ImportError(f"{NAMES[library]} is not installed; pip install {package}") from error


# -- sharing and copying -----------------------------------------------------------------------------------


class _Writable:
    """Read-only NumPy memory as writable, for those who do not write but refuse the flag; keeps it alive."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        interface = x.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


class _Unversioned:
    """An array through the protocol's first version, which has no read-only flag to refuse."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self.x.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> Any:
        return self.x.__dlpack_device__()


def _exporter(source: Source) -> Any:
    """Return the object to hand to a consumer that has no read-only arrays, or does not write."""
    if isinstance(source.x, np.ndarray) and not source.writable:
        return np.asarray(_Writable(source.x))
    if source.library == "jax" and source.on_host:
        source.x.block_until_ready()
    return source.x


def _share_numpy(module: Any, source: Source) -> np.ndarray:
    if source.library == "torch":
        return source.x.numpy()  # writable with every version of PyTorch, where DLPack's flag is recent
    return source.x if isinstance(source.x, np.ndarray) else np.from_dlpack(_exporter(source))


def _share_cupy(module: Any, source: Source) -> Array:
    return module.from_dlpack(source.x if source.writable else _Unversioned(source.x))


def _share_torch(module: Any, source: Source) -> Array:
    return module.from_dlpack(_exporter(source))


def _share_jax(module: Any, source: Source) -> Array:
    return module.from_dlpack(_exporter(source), copy=False)


_SHARE: dict[str, Callable[[Any, Source], Array]] = {
    "numpy": _share_numpy,
    "cupy": _share_cupy,
    "torch": _share_torch,
    "jax": _share_jax,
}


def _copy(source: Source, library: str, module: Any) -> Array:
    """Return a copy of x that nobody else holds, made by the producer, then handed over."""
    x, stays = source.x, reaches(source, library, module)
    widen = bool(source.dtype) and not has_dtype(library, module, source.dtype)
    if source.library == "torch":
        x = x.detach().resolve_conj().resolve_neg().to(sys.modules["torch"].float32 if widen else x.dtype)
        x = (x if stays else x.cpu()).contiguous()
        x = x.clone() if x.data_ptr() == source.x.data_ptr() else x
    elif source.library == "cupy":
        x = x.copy() if stays else x.get()
    elif source.library == "jax" and stays and library != "numpy" and not (widen or source.attached):
        x = x.copy()
    elif source.library or source.on_host:
        x = x if source.library else np.from_dlpack(x)
        x = np.array(x, dtype="float32" if widen else x.dtype.newbyteorder("="), order="C")
    elif stays:
        return _copy(look_at(_SHARE[library](module, source)), library, module)
    else:
        raise _error(library, f"it lies on {source.place}", "move it with its own library first")
    fresh = look_at(x)
    if fresh.library == library:
        return x
    if library == "cupy" and fresh.on_host:
        return module.asarray(_share_numpy(np, fresh))
    if library == "jax":  # without alignment it copies once more
        return module.array(x) if type(x) is np.ndarray else module.from_dlpack(x)
    return _SHARE[library](module, fresh)
