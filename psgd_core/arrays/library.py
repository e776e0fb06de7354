"""What every module needs of an array library: its namespace, dtypes and devices, and what is at hand.

Everything here is written against the Python array API standard (2022.12 or later), through
``array_api_compat``; nothing converts, moves or synchronises an array.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

import array_api_compat
import numpy as np

from .protocols import Array as Array  # noqa: PLC0414
from .protocols import Namespace as Namespace  # noqa: PLC0414

_namespaces: dict[type, Namespace] = {}  # by the types of arrays met so far: a few


def namespace(*arrays: Any) -> Namespace:
    """Return the array API namespace of arrays of one library; numbers and None among them are passed over.

    Nearly every line of the mathematics asks, and a library's answer depends on the type alone: so it is
    remembered. That of `lanes` depends on what they are made of.
    """
    found: Namespace | None = None
    for x in arrays:
        own = _namespaces.get(type(x))
        if own is None or (found is not None and own is not found):
            return _asked(arrays)
        found = own
    return _asked(arrays) if found is None else found


def _asked(arrays: tuple[Any, ...]) -> Namespace:
    found: Namespace = cast("Any", array_api_compat.array_namespace(*arrays))
    # JAX's zero gradients of integers are NumPy's arrays, of a dtype of their own
    ordinary = type(arrays[0]) is not np.ndarray or array_api_compat.is_numpy_namespace(found)
    if len(arrays) == 1 and ordinary and isinstance(found, ModuleType):
        _namespaces[type(arrays[0])] = found
    return found


def is_array(x: Any) -> bool:
    """Return whether it is an array of any library; the classes of arrays are none."""
    return array_api_compat.is_array_api_obj(x) and not isinstance(x, type)


def require_arrays(**arrays: Any) -> Namespace:
    """Return the array API namespace that all the named arrays share.

    Raises
    ------
    TypeError
        If one of them is not an array, or they belong to different libraries.
    """
    for name, x in arrays.items():  # asked first: array_namespace lets numbers and None pass
        if not is_array(x):
            raise TypeError(
                f"`{name}` must be an array (NumPy, CuPy, PyTorch, JAX, ...), got {type(x).__name__}; "
                "convert it with the `asarray` of your array library"
            )
        if _is_special(x):
            raise TypeError(
                f"`{name}` must be a plain array, got {type(x).__name__}, whose arithmetic is another; "
                "fill it, make it dense, or convert it with the `asarray` of its library"
            )
    try:
        return namespace(*arrays.values())
    except TypeError:
        pass
    first = {type(x): name for name, x in reversed(arrays.items())}  # one of each kind: there may be many
    listed = ", ".join(
        f"`{name}`: {kind.__module__}.{kind.__name__}" for kind, name in reversed(first.items())
    )
    raise TypeError(f"all arrays must come from one library, got {listed}; convert them first")


def require_float(name: str, x: Array) -> None:
    """Raise TypeError unless `x` holds float32 or float64."""
    xp = namespace(x)
    if x.dtype not in (xp.float32, xp.float64):
        raise TypeError(f"`{name}` must be float32 or float64, got {x.dtype}; convert it with `astype`")


def require_alike(name: str, x: Array, other_name: str, other: Array) -> None:
    """Raise unless `x` has the library, dtype and device of `other`."""
    if type(x) is type(other) and array_api_compat.is_torch_array(x):  # the hot path: asks for little
        alike = x.dtype == other.dtype and x.device == array_api_compat.device(other)
    else:
        alike = type(x) is type(other) is np.ndarray and x.dtype == other.dtype
    if alike:
        return
    require_arrays(**{other_name: other, name: x})
    if x.dtype != other.dtype:
        raise TypeError(
            f"`{name}` must have the dtype of `{other_name}`, {other.dtype}, got {x.dtype}; "
            "convert it with `astype`"
        )
    require_device(name, x, other_name, other)


def require_device(name: str, x: Array, other_name: str, other: Array) -> None:
    """Raise unless `x` is on the device of `other`, or JAX is free to move one of them."""
    here, there = device_of(x), device_of(other)
    if here != there and here is not None and there is not None:
        raise ValueError(
            f"`{name}` must be on the device of `{other_name}`, {there}, got {here}; "
            "move it with `array_api_compat.to_device`"
        )


def holds_reals(x: Any) -> bool:
    """Return whether it is an array of real numbers whose arithmetic is that of its library."""
    if not is_array(x) or _is_special(x):
        return False
    xp = namespace(x)
    try:
        return bool(xp.isdtype(x.dtype, ("real floating", "integral")))
    except (TypeError, ValueError):  # a dtype outside the standard
        return False


def holds_integers(x: Array) -> bool:
    """Return whether an array holds integers, in the machine's order of bytes."""
    xp = namespace(x)
    return x.dtype in (xp.int32, xp.int64)


def _is_special(x: Array) -> bool:
    """Return whether an array's arithmetic is not that of its library: masked, matrices, sparse tensors."""
    if isinstance(x, np.ndarray):
        return type(x) is not np.ndarray and isinstance(x, np.ma.MaskedArray | np.matrix)
    if not array_api_compat.is_torch_array(x):
        return False
    import torch

    return x.layout is not torch.strided


def device_of(x: Array) -> Any:
    """Return the device for new arrays beside x: None, the default, where JAX is free to move x.

    JAX moves what nobody has put on a device (it calls it uncommitted) to the arrays that it is used with; an
    array made with ``device=`` stays, and so would all that is computed with it.
    """
    if array_api_compat.is_jax_array(x):
        import jax

        if isinstance(x, jax.core.Tracer):  # asked for a device, it writes a message on all traced so far
            return None
    device = array_api_compat.device(x)
    return None if device is None or getattr(x, "committed", True) is False else device


def eps(x: Array) -> float:
    """Return the rounding unit of the dtype of `x` as a Python float."""
    return float(namespace(x).finfo(x.dtype).eps)


def wide_dtype(xp: Namespace) -> Any:
    """Return the widest real dtype that `xp` computes in: float64, but float32 in JAX without x64."""
    return xp.zeros(0).dtype if array_api_compat.is_jax_namespace(xp) else xp.float64


def at_hand(x: Array) -> bool:
    """Return whether the values of x can be asked for without waiting, and without anybody who minds.

    Of NumPy they can; of PyTorch on the host, unless what happens to x is followed: by autograd,
    `torch.compile`, `torch.func`, `torch.jit.trace` or a dispatch mode, or by a subclass of tensors.
    """
    if array_api_compat.is_numpy_array(x):
        return True
    if not array_api_compat.is_torch_array(x):
        return False
    import torch

    # what is compiled is asked first: torch.compile traces nothing else of this
    return not followed() and type(x) is torch.Tensor and x.is_cpu and not x.requires_grad


def followed() -> bool:
    """Return whether what happens to PyTorch's tensors is compiled, recorded or transformed."""
    import torch

    jit: Any = torch.jit
    return torch.compiler.is_compiling() or (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or jit.is_tracing()
    )


def known(flag: Any) -> bool | None:
    """Return the value of a 0-d flag where it is at hand, None where asking would wait or cannot be.

    Nor can it be where a flag stands for many (`lanes`) that differ.
    """
    if type(flag) is np.bool_ or at_hand(flag):
        return bool(flag)
    return flag.agreed() if hasattr(flag, "agreed") else None


def all_known(flags: Array) -> bool | None:
    """Return whether all of some flags are true, where that is at hand, else None."""
    return known(flags if flags.ndim == 0 else namespace(flags).all(flags))


def none_known(flags: Array) -> bool:
    """Return whether it is at hand that none of some flags is true."""
    return known(flags if flags.ndim == 0 else namespace(flags).any(flags)) is False


def spread(x: Any, ndim: int) -> Any:
    """Return an array with axes of length 1 after its own, `ndim` in all; numbers as they are."""
    return x[(..., *(None,) * (ndim - x.ndim))] if 0 < getattr(x, "ndim", 0) < ndim else x


def on_host(x: Any) -> bool:
    """Return whether it is an array of NumPy, or of PyTorch on the CPU: loops over blocks are cheap there."""
    if array_api_compat.is_torch_array(x):
        return x.device.type == "cpu"
    return array_api_compat.is_numpy_array(x)


def silent() -> np.errstate:
    """Return a context in which NumPy says nothing of overflow, division by zero and the like."""
    return np.errstate(all="ignore")


def select(flag: Array, x: Array, y: Array) -> Array:
    """Return x if the 0-d `flag` is true, else y: a `where` that costs no pass where the flag is known."""
    value = known(flag)
    if value is None:
        return namespace(x, y).where(flag, x, y)
    return x if value else y


def clamped(x: Array, low: float, high: float) -> Array:
    """Return x, with what lies outside of [low, high] at its ends; NaN stays.

    ``array_api_compat``'s ``clip`` looks for those elements on CuPy, and so waits for the device.
    """
    xp = namespace(x)
    return xp.minimum(xp.maximum(x, xp.full_like(x, low)), xp.full_like(x, high))


def numbers(*values: Any) -> list[float]:
    """Return 0-d arrays of one library as Python's numbers; waits for their device once, not for each."""
    if array_api_compat.is_jax_array(values[0]):
        import jax

        values = jax.device_get(values)
    elif not at_hand(values[0]):
        xp = namespace(*values)
        return cast("list[float]", to_host(xp.stack([xp.astype(x, xp.float64) for x in values])).tolist())
    return [float(x) for x in values]


def to_host(x: Any) -> np.ndarray[Any, Any]:
    """Return an array of any library as NumPy; waits for its device."""
    if array_api_compat.is_torch_array(x):
        return x.detach().cpu().numpy()
    if array_api_compat.is_cupy_array(x):
        x = x.get()
    return np.asarray(x)
