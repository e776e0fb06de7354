"""Numbers, flags and choices given as arguments: as Python's own types, or refused in one sentence.

Settings kept as Python numbers stay hashable and free of arrays, and never decide the dtype of a state.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import array_api_compat
import numpy as np

from .library import Array, at_hand, holds_reals, is_array, namespace, require_arrays, require_device

MOST = 2**48
"""The largest count: no array has more elements, and a product of two counts fits into 96 bits."""

_RULES = {
    "(0, inf)": "be positive and finite",
    "(0, inf]": "be positive",
    "[0, inf)": "be finite and not negative",
    "(1, inf)": "be above 1 and finite",
    "[1, inf)": "be at least 1 and finite",
}
"""Intervals that messages put into words; all others are shown as they are."""


def as_float(value: Any) -> float | None:
    """Return a real number or a 0-d array of one as a float, None for anything else.

    bool, text, complex numbers, arrays with a shape, masked arrays and traced arrays are not numbers here. An
    integer too large for a float is infinite.
    """
    if isinstance(value, float):  # the common case, and NumPy's float64, first
        return float(value)
    if not (_is_python(value, Real) or _holds(value, ("integral", "real floating"))):
        return None
    try:
        return float(value.detach() if array_api_compat.is_torch_array(value) else value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):  # traced, or without values
        return None


def require_number(name: str, value: Any, within: str | None = None, hint: str = "") -> float:
    """Return a real number, or a 0-d array of one, as a Python float.

    Parameters
    ----------
    name : str
        What messages call it.
    value : number or 0-d array
        Waits for the device of an array.
    within : str, optional
        The interval that it must lie in, such as ``"[0, 1)"``; NaN lies in none.
    hint : str
        Ends the messages.

    Raises
    ------
    TypeError
        If it is not a real number.
    ValueError
        If it lies outside the interval.
    """
    found, ending = as_float(value), f"; {hint}" if hint else ""
    if found is None:
        raise TypeError(f"`{name}` must be a number, got {described(value)}{ending}")
    if within is not None:
        low, high = (float(end) for end in within[1:-1].split(","))
        above = found >= low if within[0] == "[" else found > low
        below = found <= high if within[-1] == "]" else found < high
        if not (above and below):
            rule = _RULES.get(within, f"lie in {within}")
            raise ValueError(f"`{name}` must {rule}, got {found}{ending}")
    return found


def require_count(name: str, value: Any, meaning: str, least: int = 1, most: float = MOST) -> int:
    """Return an integer from `least` to `most`, or a 0-d array of one, as a Python int.

    `meaning` ends the message of the ValueError; ``most=math.inf`` sets no upper limit.
    """
    count: int | None = None
    if _is_python(value, Integral) or _holds(value, ("integral",)):
        try:
            count = operator.index(value)
        except (TypeError, ValueError, RuntimeError):  # traced, or without values
            count = None
    if count is None or not least <= count <= most:
        wanted = "a positive int" if least == 1 else f"an int >= {least}"
        bound = f", at most {most}" if count is not None and count > most else ""
        raise ValueError(f"`{name}` must be {wanted}{bound}, got {described(value)}; {meaning}")
    return count


def require_flag(name: str, value: Any) -> bool:
    """Return True or False, Python's or NumPy's, as a Python bool; numbers are refused."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"`{name}` must be True or False, got {described(value)}")


def require_choice(name: str, value: Any, choices: Iterable[str], hint: str = "") -> None:
    """Raise ValueError unless it is one of a few texts."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        ending = f"; {hint}" if hint else ""
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, known))}, got {described(value)}{ending}"
        )


def scalar_of(name: str, value: Any, like: Array) -> float | Array:
    """Return a real number as a Python float, or as a 0-d array where reading its value would wait.

    Parameters
    ----------
    name : str
        What messages call it.
    value : number or 0-d array
        Of any library if its value can be read without waiting; of the library of `like` otherwise.
    like : array
        Sets the real dtype of a result that stays an array.
    """
    if not holds_reals(value) or at_hand(value):
        return require_number(name, value)
    if value.ndim != 0:
        raise TypeError(f"`{name}` must be a number, got {described(value)}; take one element")
    xp = require_arrays(**{name: value, "h": like})
    if array_api_compat.is_torch_array(value) and not value.is_cpu:  # on the CPU it goes with any device
        require_device(name, value, "h", like)
    real = xp.real(like).dtype if xp.isdtype(like.dtype, "complex floating") else like.dtype
    return xp.astype(value, real, copy=False)


def keep(config: Any, **settings: Any) -> None:
    """Set fields of a frozen dataclass to what they were checked and converted to in ``__post_init__``."""
    for name, value in settings.items():
        object.__setattr__(config, name, value)


def described(value: Any) -> str:
    """Return what a message shows of a wrong value: the start of its repr, of an array the shape."""
    kind = type(value).__name__
    if is_array(value) and not isinstance(value, np.generic):
        return f"{kind} of shape {tuple(value.shape)} and dtype {value.dtype}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr that fails; Python itself refuses integers of thousands of digits
        return f"{kind} without a repr"
    return text if len(text) <= 60 else f"{kind} {text[:57]}..."


def _is_python(value: Any, kind: type) -> bool:
    """Return whether it is a number of this kind, but not a bool, and not NumPy's (see `_holds`)."""
    return isinstance(value, kind) and not isinstance(value, bool | np.generic)


def _holds(value: Any, kinds: tuple[str, ...]) -> bool:
    """Return whether it is a 0-d array, or a scalar of NumPy's, whose dtype is of one of these kinds."""
    if not holds_reals(value) or value.ndim != 0:
        return False
    return bool(namespace(value).isdtype(value.dtype, kinds))
