"""From the host to any array library: random draws and tables are made with NumPy once, then converted."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

Array = Any
"""An array of any library that follows the array API standard."""


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
    """Return the host integers `x` as int32 (JAX has no int64 by default), where `like` lives."""
    host = np.array(x, dtype=np.int32)
    if like is None:
        return host
    xp = array_api_compat.array_namespace(like)
    return xp.asarray(host, dtype=xp.int32, device=array_api_compat.device(like))


def require_count(name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int, or raise ValueError unless it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}; choose one")
    return int(value)


def require_choice(name: str, value: Any, choices: Any) -> None:
    """Raise ValueError unless `value` is one of the strings `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}; choose one of these")
