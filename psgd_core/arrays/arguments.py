"""Numbers at the door: what counts as one, and what a message says of what does not."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import array_api_compat
import numpy as np

from .library import Array, at_hand, holds_reals, require_arrays, require_device

MOST = 2**48
"""Elements that an array may have: nothing holds more, and products of two numbers below are no surprise."""


def require_number(name: str, value: Any) -> float:
    """Return a real number as a Python float; NumPy's scalars and 0-d arrays at hand are numbers.

    What is too large for a float is infinite: no range that anything has to lie in holds it.
    """
    if isinstance(value, float):
        return float(value)
    if not _is_number(value):
        if not holds_reals(value) or (value.ndim == 0 and not at_hand(value)):
            raise TypeError(f"`{name}` must be a real number, got {described(value)}; pass a Python float")
        _require_scalar(name, value)
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _require_scalar(name: str, value: Array) -> None:
    if value.ndim != 0:
        raise TypeError(
            f"`{name}` must be a number or a 0-d array, got shape {tuple(value.shape)}; take one element"
        )


def require_count(name: str, value: Any, meaning: str, least: int = 1) -> int:
    """Return an integer from `least` to `MOST` as a Python int; NumPy's integers are integers."""
    count = int(value) if _is_number(value) and isinstance(value, Integral) else None
    if count is None or not least <= count <= MOST:
        wanted = "a positive int" if least == 1 else f"an int >= {least}"
        bound = f", at most {MOST}" if count is not None and count > MOST else ""
        raise ValueError(f"`{name}` must be {wanted}{bound}, got {described(value)}; {meaning}")
    return count


def require_flag(name: str, value: Any) -> bool:
    """Return a truth value as a Python bool; NumPy's are truth values, numbers are not."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"`{name}` must be True or False, got {described(value)}")


def scalar_of(name: str, value: Any, like: Array) -> float | Array:
    """Return a real number as a Python float, or as a 0-d array where its value is not at hand.

    Parameters
    ----------
    name : str
        Of the argument.
    value : number or 0-d array
        Of any library where it is at hand; of the library of `like` otherwise.
    like : array
        Sets the real dtype of what stays an array.
    """
    if not holds_reals(value) or at_hand(value):
        return require_number(name, value)
    _require_scalar(name, value)
    xp = require_arrays(**{name: value, "h": like})
    if array_api_compat.is_torch_array(value) and not value.is_cpu:  # which goes along with any device
        require_device(name, value, "h", like)
    real = xp.real(like).dtype if xp.isdtype(like.dtype, "complex floating") else like.dtype
    return xp.astype(value, real, copy=False)


def _is_number(value: Any) -> bool:
    """Return whether it is a real number; truth values are none, and NumPy's durations only look like one."""
    return isinstance(value, Real) and not isinstance(value, bool | np.timedelta64)


def described(value: Any) -> str:
    """Return what a message says of a wrong value: a number as it is, of anything else its type as well."""
    try:
        text = repr(value)
    except Exception:  # it is somebody else's, and Python does not print integers of thousands of digits
        text = "of no repr"
    shown = " ".join(text.split())
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return shown if isinstance(value, int | float) else f"{type(value).__name__} {shown}"
