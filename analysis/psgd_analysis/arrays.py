"""Arrays of any library to the host and back: numbers are drawn and reported in NumPy, computed anywhere."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import array_api_compat
import numpy as np

Array = Any
"""An array of any library that follows the array API standard."""


def namespace(**arrays: Any) -> ModuleType:
    """Return the array API namespace that all the named arrays share, or raise TypeError."""
    for name, x in arrays.items():
        if not array_api_compat.is_array_api_obj(x):
            raise TypeError(
                f"`{name}` must be an array (NumPy, CuPy, PyTorch, JAX, ...), got {type(x).__name__}; "
                "convert it with the `asarray` of your array library"
            )
    try:
        return array_api_compat.array_namespace(*arrays.values())
    except TypeError:
        listed = ", ".join(f"`{name}`: {type(x).__module__}.{type(x).__name__}" for name, x in arrays.items())
        raise TypeError(f"all arrays must come from one library, got {listed}; convert them first") from None


def rounding(like: Array) -> float:
    """Return the rounding unit of the dtype of an array."""
    return float(array_api_compat.array_namespace(like).finfo(like.dtype).eps)


# -- to a library ----------------------------------------------------------------------------------------


def put(x: Any, like: Any) -> Array:
    """Return the host array `x` as floats on the library, dtype and device of `like`.

    ``like=None`` means NumPy in float64. The result never shares memory with `x`.

    Raises
    ------
    TypeError
        If `like` is neither None nor a float32 or float64 array.
    """
    host = np.array(x, dtype=np.float64)
    if like is None:
        return host
    if not array_api_compat.is_array_api_obj(like):
        raise TypeError(
            f"`like` must be an array (NumPy, CuPy, PyTorch, JAX, ...) or None, got {type(like).__name__}; "
            "pass an array of the library, dtype and device that the result should have"
        )
    xp = array_api_compat.array_namespace(like)
    if like.dtype not in (xp.float32, xp.float64):
        raise TypeError(f"`like` must be float32 or float64, got {like.dtype}; convert it with `astype`")
    return xp.asarray(host, dtype=like.dtype, device=array_api_compat.device(like))


def put_index(x: Any, like: Array | None) -> Array:
    """Return the host integers `x` as int32 (JAX has no int64 by default), on the device of `like`."""
    host = np.array(x, dtype=np.int32)
    if like is None:
        return host
    xp = array_api_compat.array_namespace(like)
    return xp.asarray(host, dtype=xp.int32, device=array_api_compat.device(like))


# -- to the host -----------------------------------------------------------------------------------------


def detached(x: Array) -> Array:
    """Return a PyTorch tensor without its autograd history; any other array as it is."""
    return x.detach() if array_api_compat.is_torch_array(x) else x


def to_host(x: Any) -> np.ndarray:
    """Return an array of any library, or anything array-like, as a NumPy array of its own dtype."""
    if array_api_compat.is_torch_array(x):
        return detached(x).cpu().numpy()
    return x.get() if array_api_compat.is_cupy_array(x) else np.asarray(x)


def per_example(name: str, x: Any, *, infinite: bool = False) -> np.ndarray:
    """Return one number per example as a float64 NumPy array of shape (n,).

    Raises
    ------
    ValueError, TypeError
        If `x` is not one real number per example, holds NaN, or (unless `infinite`) an infinity.
    """
    values = to_host(x)
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise (ValueError if values.ndim != 1 else TypeError)(
            f"`{name}` must hold one real number per example, shape (n,), got {values.dtype} of shape "
            f"{values.shape}; flatten or convert it"
        )
    values = values.astype(np.float64)
    bad = np.isnan(values) if infinite else ~np.isfinite(values)
    if np.any(bad):
        first = int(np.argmax(bad))
        raise ValueError(
            f"`{name}` must {'not be NaN' if infinite else 'be finite'}, got {values[first]} for example "
            f"{first}; {_NAN_HINT if np.isnan(values[first]) else _INF_HINT}"
        )
    return values


_NAN_HINT = "leave such examples out, or look for divergence in the training"
_INF_HINT = "scores of examples never learned have finite stand-ins in `Forgetting.finite_scores`"


def frozen(x: np.ndarray) -> np.ndarray:
    """Return a read-only view of `x`."""
    view = x.view()
    view.flags.writeable = False
    return view
