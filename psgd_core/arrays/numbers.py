"""Numbers given as settings: Python's, NumPy's scalars, 0-d arrays of any library; kept as Python's.

So configuration stays hashable and free of arrays, and no setting decides the dtype of a state.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import array_api_compat
import numpy as np

from .library import namespace

_WORDS = {
    "(0, inf)": "be positive and finite",
    "(0, inf]": "be positive",
    "[0, inf)": "be finite and not negative",
    "(1, inf)": "be above 1 and finite",
    "[1, inf)": "be at least 1 and finite",
}
"""Intervals in words; any other is said as it is."""


def as_float(value: Any) -> float | None:
    """Return a real number as a float; None for what is none: bool, text, complex, arrays with a shape."""
    if type(value) is float:
        return value
    plain = isinstance(value, numbers.Real) and not isinstance(value, bool | np.generic)
    if not plain and not _holds(value, ("integral", "real floating")):
        return None
    try:
        return float(value.detach() if array_api_compat.is_torch_array(value) else value)
    except OverflowError:  # a Python int beyond all floats
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):  # traced, or without values
        return None


def real(name: str, value: Any, within: str, hint: str) -> float:
    """Return a real number inside an interval, such as ``"[0, 1)"``, as a float.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it lies outside, or is NaN.
    """
    found = as_float(value)
    if found is None:
        raise TypeError(f"`{name}` must be a number, got {shown(value)}; {hint}")
    low, high = (float(end) for end in within[1:-1].split(","))
    above = found >= low if within[0] == "[" else found > low
    below = found <= high if within[-1] == "]" else found < high
    if not (above and below):
        raise ValueError(f"`{name}` must {_WORDS.get(within, f'lie in {within}')}, got {found}; {hint}")
    return found


def whole(name: str, value: Any, low: int, hint: str) -> int:
    """Return an integer that is at least `low`, 0 or 1, as an int.

    Raises
    ------
    ValueError
        If it is none.
    """
    plain = isinstance(value, int | np.integer) and not isinstance(value, bool)
    try:
        found = operator.index(value) if plain or _holds(value, ("integral",)) else low - 1
    except (TypeError, ValueError, RuntimeError):  # traced, or without values
        found = low - 1
    if found < low:
        rule = "a positive int" if low == 1 else "an int that is not negative"
        raise ValueError(f"`{name}` must be {rule}, got {shown(value)}; {hint}")
    return found


def shown(value: Any) -> str:
    """Return a value as a message shows it: on one line, and no longer than it takes."""
    if array_api_compat.is_array_api_obj(value) and not isinstance(value, np.generic):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{type(value).__name__} {text[:60]}..."


def _holds(value: Any, kinds: tuple[str, ...]) -> bool:
    """Return whether a value is a 0-d array of one of these kinds of dtypes."""
    if not array_api_compat.is_array_api_obj(value) or value.ndim != 0:
        return False
    if array_api_compat.is_numpy_array(value):
        if isinstance(value, np.ndarray) and type(value) is not np.ndarray:  # masked, for one
            return False
        letters = {"integral": "iu", "real floating": "f"}
        return value.dtype.kind in "".join(letters[kind] for kind in kinds)
    return namespace(value).isdtype(value.dtype, kinds)
