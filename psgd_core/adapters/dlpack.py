"""Arrays of one library seen by another without a copy, through the DLPack protocol.

`to_numpy`, `to_cupy`, `to_torch`, `to_jax`, or `convert` with the library as an argument: the result lies in
the same memory on the same device. Where that is impossible, they say why, and copy only when told to::

    g = to_numpy(tensor)  # a view: writing to one writes to the other
    y = to_jax(g, copy=True)  # NumPy's memory starts at multiples of 16 bytes, JAX wants 64

What cannot be shared: other devices; dtypes that the other library lacks (bfloat16 in NumPy; float64 in JAX
without x64); strides that it does not support (JAX needs an array without gaps, PyTorch no negative stride);
PyTorch tensors that require gradients, or are lazily conjugated or negated; memory not aligned to 64 bytes
for JAX; and read-only data for PyTorch and CuPy, whose arrays are always writable. JAX arrays are read-only:
``read_only=True`` shares them on the caller's promise not to write.

Memory lives as long as either library holds an array on it. On a GPU the consumer passes its stream to the
producer (arrays are exchanged, never bare capsules), so that neither waits for the host; on the host, JAX is
waited for. JAX takes shared memory as immutable and computes asynchronously: do not write to it until
``jax.block_until_ready`` on everything that was computed from it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.library import Array
from .producers import NAMES, Obstacle, Producer, has_dtype, look_at, obstacle_to, reaches

if TYPE_CHECKING:
    import jax
    import torch

__all__ = ["convert", "to_cupy", "to_jax", "to_numpy", "to_torch"]


def to_numpy(x: Array, *, copy: bool | None = False) -> np.ndarray:
    """Return `x` as a NumPy array, read-only where x is (JAX); see `convert`."""
    found: np.ndarray = convert(x, "numpy", copy=copy)
    return found


def to_cupy(x: Array, *, copy: bool | None = False, read_only: bool = False) -> Array:
    """Return `x` as a CuPy array on its CUDA device; see `convert`."""
    found: Array = convert(x, "cupy", copy=copy, read_only=read_only)
    return found


def to_torch(x: Array, *, copy: bool | None = False, read_only: bool = False) -> torch.Tensor:
    """Return `x` as a PyTorch tensor on its device, without gradients; see `convert`."""
    found: torch.Tensor = convert(x, "torch", copy=copy, read_only=read_only)
    return found


def to_jax(x: Array, *, copy: bool | None = False) -> jax.Array:
    """Return `x` as a JAX array on its device; see `convert`."""
    found: jax.Array = convert(x, "jax", copy=copy)
    return found


def convert(x: Array, xp: Any, *, copy: bool | None = False, read_only: bool = False) -> Any:
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
        rounded. It lies on the device of x if the library supports that device.
    read_only : bool
        A promise not to write to the result, which allows JAX arrays and read-only NumPy arrays to be shared
        with PyTorch and CuPy.

    Raises
    ------
    TypeError
        If x is not an array, or traced by JAX, or `xp` is none of the four.
    BufferError
        If x cannot be shared and `copy` is False, or cannot even be copied.
    ImportError
        If the library is not installed.
    """
    library = _library(xp)
    module = _import(library)
    producer = look_at(x)
    if producer.library == library and copy is not True:
        return x
    obstacle = obstacle_to(producer, library, module, read_only)
    if obstacle is not None and obstacle.advice:
        raise _error(library, obstacle.why, obstacle.advice)
    if copy is not True and obstacle is None:
        try:
            return _share(producer, library, module)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            obstacle = Obstacle(f"its library says: {reason}")
    if copy is False:
        assert obstacle is not None
        raise _error(library, obstacle.why, obstacle.otherwise or "pass copy=True")
    return _copy(producer, library, module)


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
    """Read-only NumPy memory as writable, for libraries that refuse the flag; keeps it alive."""

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


def _share(producer: Producer, library: str, module: Any) -> Any:
    """Return x as an array of the library, in the same memory."""
    x = producer.x
    if library == "cupy":
        return module.from_dlpack(x if producer.writable else _Unversioned(x))
    if library == "numpy" and producer.library == "torch":
        return x.numpy()  # writable with every version of PyTorch, where DLPack's flag is recent
    if library == "numpy" and isinstance(x, np.ndarray):
        return x
    # PyTorch has no read-only arrays (the caller promised not to write), and JAX does not write
    if isinstance(x, np.ndarray) and not producer.writable:
        x = np.asarray(_Writable(x))
    if producer.library == "jax" and producer.on_host:
        x.block_until_ready()
    return module.from_dlpack(x, copy=False) if library == "jax" else module.from_dlpack(x)


def _copy(producer: Producer, library: str, module: Any) -> Any:
    """Return a copy of x: the producer copies, then the copy is shared."""
    x, stays = producer.x, reaches(producer, library, module)
    widen = bool(producer.dtype) and not has_dtype(library, module, producer.dtype)
    if producer.library == "torch":
        x = x.detach().resolve_conj().resolve_neg().to(sys.modules["torch"].float32 if widen else x.dtype)
        x = (x if stays else x.cpu()).contiguous()
        x = x.clone() if x.data_ptr() == producer.x.data_ptr() else x
    elif producer.library == "cupy":
        x = x.copy() if stays else x.get()
    elif producer.library == "jax" and stays and library != "numpy" and not (widen or producer.attached):
        x = x.copy()
    elif producer.library or producer.on_host:
        x = x if producer.library else np.from_dlpack(x)
        x = np.array(x, dtype="float32" if widen else x.dtype.newbyteorder("="), order="C")
    elif stays:
        return _copy(look_at(_share(producer, library, module)), library, module)
    else:
        raise _error(library, f"it lies on {producer.place}", "move it with its own library first")
    fresh = look_at(x)
    if fresh.library == library:
        return x
    if library == "cupy" and fresh.on_host:
        return module.asarray(_share(fresh, "numpy", np))
    if library == "jax":  # without alignment it copies once more
        return module.array(x) if type(x) is np.ndarray else module.from_dlpack(x)
    return _share(fresh, library, module)
