"""What decides whether an array can be shared with another library: its dtype, device, strides and flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

NAMES = {"numpy": "NumPy", "cupy": "CuPy", "torch": "PyTorch", "jax": "JAX"}
_HOST = {1, 3, 11, 13}
"""DLPack's device types that the host can read: CPU, pinned for CUDA and ROCm, managed by CUDA."""

_COMMON = {
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64", "complex64", "complex128"),
}
"""The dtypes that NumPy and CuPy have, and can exchange."""

_ALIGNMENT = 64
"""Bytes that the memory of a JAX array on the host starts at a multiple of."""


@dataclass
class Obstacle:
    """Why an array cannot be shared."""

    why: str
    otherwise: str = ""  # what to do, if not to copy
    advice: str = ""  # what to do where a copy is no way out


@dataclass
class Source:
    """An array, and what decides whether it can be shared."""

    x: Any
    library: str  # "" for one that is known by its protocol alone
    dtype: str
    on_host: bool
    place: str  # the device, in words
    writable: bool = True
    compact: bool = True  # no gaps between elements: a transposition of row-major order at most
    backwards: bool = False  # a stride is negative
    address: int | None = None  # where that is cheaply known
    attached: Obstacle | None = None  # what it must be freed from first


def look_at(x: Any) -> Source:
    """Return what decides about sharing x, without touching its data."""
    if array_api_compat.is_numpy_array(x):
        x = np.asarray(x)
        return _strided(Source(x, "numpy", x.dtype.name, True, "the host", x.flags.writeable), x.strides)
    if array_api_compat.is_cupy_array(x):
        return _strided(Source(x, "cupy", x.dtype.name, False, f"CUDA device {x.device.id}"), x.strides)
    if array_api_compat.is_torch_array(x):
        return _look_at_torch(x)
    if array_api_compat.is_jax_array(x):
        return _look_at_jax(x)
    if not (hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__")):
        raise TypeError(
            f"`x` must be an array with `__dlpack__` and `__dlpack_device__`, got {type(x).__name__}; "
            "hand over the array itself, not its capsule or its elements"
        )
    kind, index = x.__dlpack_device__()
    if int(kind) not in _HOST:
        return Source(x, "", "", False, f"DLPack device {int(kind)}:{index}")
    view = np.from_dlpack(x)  # NumPy tells what the protocol does not: dtype, strides, whether it is writable
    source = look_at(view)
    source.library = ""
    return source


def _look_at_torch(x: Any) -> Source:
    on_host, name = x.device.type == "cpu", str(x.dtype).removeprefix("torch.")
    source = Source(x, "torch", name, on_host, f"{x.device}")
    if str(x.layout) != "torch.strided":
        source.attached = Obstacle(f"it has layout {x.layout}", advice="call x.to_dense()")
        return source
    for wrong, why, instead in (
        (x.requires_grad, "it requires gradients", "call x.detach()"),
        (x.is_conj(), "it is lazily conjugated", "call x.resolve_conj()"),
        (x.is_neg(), "it is lazily negated", "call x.resolve_neg()"),
    ):
        if wrong and source.attached is None:
            source.attached = Obstacle(why, f"{instead}, or pass copy=True")
    return _strided(source, tuple(s * x.element_size() for s in x.stride()))


def _look_at_jax(x: Any) -> Source:
    import jax

    if isinstance(x, jax.core.Tracer):
        raise TypeError(
            "`x` must be a JAX array that is there, got one being traced; hand it over outside `jax.jit`, or "
            "compute on it in JAX"
        )
    devices = x.devices()
    place = "several devices" if len(devices) > 1 else str(next(iter(devices)))
    on_host = all(d.platform == "cpu" for d in devices)
    source = Source(x, "jax", str(x.dtype), on_host, place, writable=False)
    if len(devices) > 1:
        source.attached = Obstacle(
            f"it is spread over {len(devices)} devices", "call jax.device_put(x, device), or pass copy=True"
        )
    return source


def _strided(source: Source, strides: tuple[int, ...]) -> Source:
    """Note what the strides, in bytes, mean for sharing."""
    x = source.x
    pairs = sorted((s, n) for s, n in zip(strides, x.shape, strict=True) if n != 1)
    source.backwards = any(s < 0 for s, _ in pairs)
    span = x.element_size() if source.library == "torch" else x.itemsize
    for stride, length in pairs:
        source.compact = source.compact and (stride == span or 0 in x.shape)
        span *= length
    if source.library == "numpy":
        source.address = x.__array_interface__["data"][0]
    elif source.on_host:
        source.address = x.data_ptr()
    return source


def obstacle_to(source: Source, library: str, module: Any, read_only: bool) -> Obstacle | None:
    """Return why `source` cannot be shared with `library`, None if it can."""
    name, dtype = NAMES[library], source.dtype
    if source.attached is not None:
        return source.attached
    if dtype and not has_dtype(library, module, dtype):
        return _dtype_obstacle(library, dtype)
    if not reaches(source, library, module):
        where = "the host" if library == "numpy" else "a CUDA device" if library == "cupy" else "its devices"
        return Obstacle(
            f"it lies on {source.place}", f"move it to {where} first, or pass copy=True for a copy there"
        )
    into_torch, into_jax = library == "torch", library == "jax"
    foreign_bytes = isinstance(source.x, np.ndarray) and not source.x.dtype.isnative
    mutable = library in ("torch", "cupy") and not (source.writable or read_only)
    crooked = into_jax and source.x.size != 0 and (source.address or 0) % _ALIGNMENT != 0
    for applies, why, otherwise in (
        (foreign_bytes, "it is not in native byte order", ""),
        (
            mutable,
            f"it is read-only and {name} arrays are always writable",
            "pass copy=True, or read_only=True if nobody is going to write to the result",
        ),
        (into_torch and source.backwards, "a stride is negative, which PyTorch has not", ""),
        (into_jax and not source.compact, "its elements are not contiguous, which JAX requires", ""),
        (crooked, f"its memory is not aligned to {_ALIGNMENT} bytes, which JAX requires", ""),
    ):
        if applies:
            return Obstacle(why, otherwise)
    return None


def _dtype_obstacle(library: str, dtype: str) -> Obstacle:
    if library == "jax" and dtype in _COMMON:
        return Obstacle(
            f"JAX has no {dtype} without x64",
            advice="set jax.config.update('jax_enable_x64', True), or round it with `astype`",
        )
    why = f"{NAMES[library]} has no {dtype}"
    if dtype.startswith(("bfloat", "float8")):
        return Obstacle(why, "pass copy=True for a float32 copy")
    return Obstacle(why, advice="convert it to a dtype that both have")


def has_dtype(library: str, module: Any, dtype: str) -> bool:
    """Whether the library has a dtype."""
    if library in ("numpy", "cupy"):
        return dtype in _COMMON
    if library == "torch":
        return hasattr(module, dtype)
    import jax

    known = getattr(module, "bool_" if dtype == "bool" else dtype, None)
    return known is not None and str(jax.dtypes.canonicalize_dtype(known)) == dtype


def reaches(source: Source, library: str, module: Any) -> bool:
    """Whether the library sees the device of `source`."""
    if library == "numpy":
        return source.on_host
    if library == "cupy":
        return not source.on_host
    if source.on_host:
        return True
    if library == "torch":
        return module.cuda.is_available()
    import jax

    return any(device.platform == "gpu" for device in jax.local_devices())
