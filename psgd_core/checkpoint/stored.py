"""Arrays of any library converted for a file and back: bit for bit, in the order of their memory."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from ..arrays.library import Array, device_of, namespace, require_arrays, to_host
from .fingerprint import Misfit

DTYPES = {"bool", "float32", "float64", "complex64", "complex128"} | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


def described(name: str, x: Array) -> dict[str, Any]:
    """Return dtype, shape and order of axes of an array, or raise TypeError if a file cannot hold it."""
    require_arrays(**{name: x})  # masks would be lost
    dtype = _dtype_name(x.dtype)
    if dtype not in DTYPES:
        raise TypeError(
            f"`{name}` must be bool, integer, real or complex, in native byte order, got {x.dtype}; "
            "convert it with `astype`"
        )
    try:
        order = _axis_order(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _unreadable(name, error) from error
    return {"dtype": dtype, "shape": list(x.shape), "order": order}


def packed(name: str, x: Array) -> np.ndarray:
    """Return `x` on the host, with its axes in the order of the memory."""
    try:
        if array_api_compat.is_torch_array(x):  # apply what PyTorch does lazily
            x = x.resolve_conj().resolve_neg()
        return to_host(namespace(x).permute_dims(x, tuple(_axis_order(x))))
    except (TypeError, ValueError, RuntimeError) as error:
        raise _unreadable(name, error) from error


def moved(name: str, x: np.ndarray, order: list[int], target: Array, dtype: Any) -> Array:
    """Return `x` as it was before `packed`, on the library and device of `target`.

    In `dtype`, or its own for None; no value is changed.
    """
    xp, device = namespace(target), device_of(target)
    if dtype is None:
        dtype = xp.asarray(np.zeros(0, dtype=x.dtype)).dtype  # JAX may have no 64 bits
    wanted = _dtype_name(dtype)
    if wanted != x.dtype.name:
        if not ("int" in wanted and x.dtype.kind in "iu" and _fits(x, np.iinfo(wanted))):
            raise Misfit(
                f"`{name}` is {x.dtype}, in `like` it is {wanted}, which would change its values; "
                "take the saved dtype (in JAX, jax_enable_x64 gives 64 bits)"
            )
        x = x.astype(wanted)
    return xp.permute_dims(
        xp.asarray(x, device=device, copy=True), tuple(order.index(i) for i in range(x.ndim))
    )


def _axis_order(x: Array) -> list[int]:
    """Return the axes of `x` from the slowest in memory to the fastest.

    Libraries sum in the order of the memory, so without it a resumed run could differ in the last bit.
    """
    strides = x.stride() if array_api_compat.is_torch_array(x) else getattr(x, "strides", None)
    if strides is None:  # array_api_strict, JAX: their NumPy view tells
        strides = np.asarray(x).strides
    return sorted(range(len(strides)), key=lambda i: -strides[i])


def _unreadable(name: str, error: Exception) -> TypeError:
    reason = str(error).strip().split("\n")[0]
    return TypeError(
        f"`{name}` must be a dense array with concrete values, got {reason!r}; "
        "save it outside of traced functions, or make it dense"
    )


def _fits(x: np.ndarray, limits: np.iinfo) -> bool:
    return x.size == 0 or (int(x.min()) >= limits.min and int(x.max()) <= limits.max)


def _dtype_name(dtype: Any) -> str:
    """Return the name of a dtype, the same for all libraries."""
    return str(dtype).rpartition(".")[2]
