"""Producers, as DLPack calls arrays to be shared with another library, and what prevents sharing."""

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
    otherwise: str = ""  # what to do instead of copying
    advice: str = ""  # what to do where copying does not help


@dataclass
class Producer:
    """An array, and what decides whether it can be shared: dtype, device, strides and flags."""

    x: Any
    library: str  # "" for one known only by its protocol
    dtype: str
    on_host: bool
    place: str  # the device, in words
    writable: bool = True
    compact: bool = True  # no gaps between elements: a transposition of row-major order at most
    backwards: bool = False  # a stride is negative
    address: int | None = None  # if it is cheap to ask for
    attached: Obstacle | None = None  # what must be undone first


def look_at(x: Any) -> Producer:
    """Return x with what decides whether it can be shared, without touching its data."""
    if array_api_compat.is_numpy_array(x):
        x = np.asarray(x)
        return _strided(Producer(x, "numpy", x.dtype.name, True, "the host", x.flags.writeable), x.strides)
    if array_api_compat.is_cupy_array(x):
        return _strided(Producer(x, "cupy", x.dtype.name, False, f"CUDA device {x.device.id}"), x.strides)
    if array_api_compat.is_torch_array(x):
        return _look_at_torch(x)
    if array_api_compat.is_jax_array(x):
        return _look_at_jax(x)
    if not (hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__")):
        raise TypeError(
            f"`x` must be an array with `__dlpack__` and `__dlpack_device__`, got {type(x).__name__}; "
            "pass the array itself, not its capsule or its elements"
        )
    kind, index = x.__dlpack_device__()
    if int(kind) not in _HOST:
        return Producer(x, "", "", False, f"DLPack device {int(kind)}:{index}")
    view = np.from_dlpack(x)  # NumPy knows dtype, strides and writability, the protocol does not
    producer = look_at(view)
    producer.library = ""
    return producer


def _look_at_torch(x: Any) -> Producer:
    on_host, name = x.device.type == "cpu", str(x.dtype).removeprefix("torch.")
    producer = Producer(x, "torch", name, on_host, f"{x.device}")
    if str(x.layout) != "torch.strided":
        producer.attached = Obstacle(f"it has layout {x.layout}", advice="call x.to_dense()")
        return producer
    for wrong, why, instead in (
        (x.requires_grad, "it requires gradients", "call x.detach()"),
        (x.is_conj(), "it is lazily conjugated", "call x.resolve_conj()"),
        (x.is_neg(), "it is lazily negated", "call x.resolve_neg()"),
    ):
        if wrong and producer.attached is None:
            producer.attached = Obstacle(why, f"{instead}, or pass copy=True")
    return _strided(producer, tuple(s * x.element_size() for s in x.stride()))


def _look_at_jax(x: Any) -> Producer:
    import jax

    if isinstance(x, jax.core.Tracer):
        raise TypeError(
            "`x` must be a concrete JAX array, got a traced one; share it outside `jax.jit`, or compute on "
            "it in JAX"
        )
    devices = x.devices()
    place = "several devices" if len(devices) > 1 else str(next(iter(devices)))
    on_host = all(d.platform == "cpu" for d in devices)
    producer = Producer(x, "jax", str(x.dtype), on_host, place, writable=False)
    if len(devices) > 1:
        producer.attached = Obstacle(
            f"it is spread over {len(devices)} devices", "call jax.device_put(x, device), or pass copy=True"
        )
    return producer


def _strided(producer: Producer, strides: tuple[int, ...]) -> Producer:
    """Set what the strides, in bytes, mean for sharing."""
    x = producer.x
    pairs = sorted((s, n) for s, n in zip(strides, x.shape, strict=True) if n != 1)
    producer.backwards = any(s < 0 for s, _ in pairs)
    span = x.element_size() if producer.library == "torch" else x.itemsize
    for stride, length in pairs:
        producer.compact = producer.compact and (stride == span or 0 in x.shape)
        span *= length
    if producer.library == "numpy":
        producer.address = x.__array_interface__["data"][0]
    elif producer.on_host:
        producer.address = x.data_ptr()
    return producer


def obstacle_to(producer: Producer, library: str, module: Any, read_only: bool) -> Obstacle | None:
    """Return why `producer` cannot be shared with `library`, None if it can."""
    name, dtype = NAMES[library], producer.dtype
    if producer.attached is not None:
        return producer.attached
    if dtype and not has_dtype(library, module, dtype):
        return _dtype_obstacle(library, dtype)
    if not reaches(producer, library, module):
        where = "the host" if library == "numpy" else "a CUDA device" if library == "cupy" else "its devices"
        return Obstacle(
            f"it lies on {producer.place}", f"move it to {where} first, or pass copy=True for a copy there"
        )
    into_torch, into_jax = library == "torch", library == "jax"
    foreign_bytes = isinstance(producer.x, np.ndarray) and not producer.x.dtype.isnative
    mutable = library in ("torch", "cupy") and not (producer.writable or read_only)
    crooked = into_jax and producer.x.size != 0 and (producer.address or 0) % _ALIGNMENT != 0
    for applies, why, otherwise in (
        (foreign_bytes, "it is not in native byte order", ""),
        (
            mutable,
            f"it is read-only and {name} arrays are always writable",
            "pass copy=True, or read_only=True if nobody will write to the result",
        ),
        (into_torch and producer.backwards, "a stride is negative, which PyTorch does not support", ""),
        (into_jax and not producer.compact, "its elements are not contiguous, which JAX requires", ""),
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
    """Return whether the library has a dtype."""
    if library in ("numpy", "cupy"):
        return dtype in _COMMON
    if library == "torch":
        return hasattr(module, dtype)
    import jax

    known = getattr(module, "bool_" if dtype == "bool" else dtype, None)
    return known is not None and str(jax.dtypes.canonicalize_dtype(known)) == dtype


def reaches(producer: Producer, library: str, module: Any) -> bool:
    """Return whether the library can read the device of `producer`."""
    if library == "numpy":
        return producer.on_host
    if library == "cupy":
        return not producer.on_host
    if producer.on_host:
        return True
    if library == "torch":
        return bool(module.cuda.is_available())
    import jax

    return any(device.platform == "gpu" for device in jax.local_devices())
