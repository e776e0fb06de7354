"""Learning rates and step sizes that change over the iterations: exponentially, by cosine, in stages.

A schedule is any callable of the iteration t = 0, 1, ...: t is an int, or inside the loop a 0-d float array,
and the schedules here return what they got (so they trace under ``jax.jit``). They are frozen and hashable;
numbers stand for themselves wherever a schedule is expected, also inside another one::

    WarmUp(Cosine(1.0, over=1000), over=50)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from .arrays.library import Array, namespace
from .arrays.numbers import as_float, real, shown, whole

Schedule = float | Callable[[Any], Any]
"""A number, or a callable of the iteration."""


def value_at(schedule: Schedule, t: int | Array) -> float | Array:
    """Return the value of a number or a schedule at iteration t.

    Raises
    ------
    TypeError
        If the schedule returns neither a number nor a 0-d array.
    """
    if not callable(schedule):
        return schedule
    value = schedule(t)
    if array_api_compat.is_array_api_obj(value) and value.ndim == 0:
        return value
    found = as_float(value)
    if found is not None:
        return found
    raise TypeError(f"a schedule must return a number or a 0-d array, got {shown(value)}; see {schedule!r}")


def require_schedule(name: str, schedule: Schedule, low: float, high: float) -> Schedule:
    """Return a callable as it is, and a number strictly between `low` and `high` as a float.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    if callable(schedule) and not isinstance(schedule, type):
        return schedule
    found = as_float(schedule)
    if found is None:
        raise TypeError(
            f"`{name}` must be a number or a callable of the iteration, got {shown(schedule)}; "
            "see psgd_core.schedules"
        )
    if not low < found < high:
        raise ValueError(f"`{name}` must lie in ({low:g}, {high:g}), got {found}; choose one inside")
    return found


@dataclass(frozen=True)
class Constant:
    """The same value always."""

    value: float

    def __post_init__(self) -> None:
        _keep_real(self, "value", "(-inf, inf)", "it is the value always")

    def __call__(self, t: int | Array) -> float | Array:
        """Return the value at iteration t."""
        return self.value


@dataclass(frozen=True)
class Exponential:
    """``start (end / start)^{t / over}``, and `end` from iteration `over` on."""

    start: float
    end: float
    over: int

    def __post_init__(self) -> None:
        _keep_over(self)
        for name in ("start", "end"):
            _keep_real(self, name, "(0, inf)", "use Cosine to reach 0")

    def __call__(self, t: int | Array) -> float | Array:
        """Return the value at iteration t."""
        return self.start * _namespace(t).exp(math.log(self.end / self.start) * _progress(t, self.over))


@dataclass(frozen=True)
class Cosine:
    """``end + (start - end) (1 + cos(pi t / over)) / 2``, and `end` from iteration `over` on."""

    start: float
    over: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _keep_over(self)
        for name in ("start", "end"):
            _keep_real(self, name, "(-inf, inf)", "it is a value of the schedule")

    def __call__(self, t: int | Array) -> float | Array:
        """Return the value at iteration t."""
        wave = _namespace(t).cos(math.pi * _progress(t, self.over))
        return self.end + (self.start - self.end) * (0.5 + 0.5 * wave)


@dataclass(frozen=True)
class Staged:
    """``values[i]`` from iteration ``at[i - 1]`` on: one value more than there are changes."""

    values: tuple[float, ...]
    at: tuple[int, ...]

    def __post_init__(self) -> None:
        given = _several("values", self.values)
        values = tuple(real("values", value, "(-inf, inf)", "they are numbers") for value in given)
        at = tuple(whole("at", t, 0, "it holds iterations") for t in _several("at", self.at))
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "at", at)
        if len(self.values) != len(self.at) + 1:
            raise ValueError(
                f"`values` must hold one value more than `at`, got {len(self.values)} values for "
                f"{len(self.at)} changes; the first value holds before the first change"
            )
        if list(self.at) != sorted(set(self.at)):
            raise ValueError(f"`at` must ascend, got {self.at}; sort the iterations")

    def __call__(self, t: int | Array) -> float | Array:
        """Return the value at iteration t."""
        xp = _namespace(t)
        now = _float(t)
        value = 0 * now + self.values[0]
        for change, after in zip(self.at, self.values[1:], strict=True):
            value = xp.where(now >= change, 0 * now + after, value)
        return value if array_api_compat.is_array_api_obj(t) else float(value)


@dataclass(frozen=True)
class WarmUp:
    """Another schedule times ``min(1, (t + 1) / over)``: it rises linearly, from 1 / over and not from 0."""

    schedule: Schedule
    over: int

    def __post_init__(self) -> None:
        _keep_over(self)
        kept = require_schedule("schedule", self.schedule, -math.inf, math.inf)
        object.__setattr__(self, "schedule", kept)

    def __call__(self, t: int | Array) -> float | Array:
        """Return the value at iteration t."""
        return value_at(self.schedule, t) * _progress(t + 1, self.over)


def _keep_real(schedule: Any, name: str, within: str, hint: str) -> None:
    object.__setattr__(schedule, name, real(name, getattr(schedule, name), within, hint))


def _keep_over(schedule: Any) -> None:
    object.__setattr__(schedule, "over", whole("over", schedule.over, 1, "it is a number of iterations"))


def _several(name: str, given: Any) -> list[Any]:
    """Return the elements of a tuple, list or array of shape (m,)."""
    one_row = array_api_compat.is_array_api_obj(given) and given.ndim == 1
    if not one_row and not isinstance(given, tuple | list):
        raise TypeError(f"`{name}` must be a tuple of numbers, got {shown(given)}; give it in brackets")
    return [given[i] for i in range(len(given))]


def _namespace(t: int | Array) -> Any:
    return namespace(t) if array_api_compat.is_array_api_obj(t) else np


def _float(t: int | Array) -> Any:
    """Return t as a float; integer arrays in float32, which counts to 2^24."""
    if not array_api_compat.is_array_api_obj(t):
        return np.float64(t)
    xp = namespace(t)
    kept: Any = t
    return kept if xp.isdtype(kept.dtype, "real floating") else xp.astype(kept, xp.float32)


def _progress(t: int | Array, over: int) -> Any:
    """Return t / over, at most 1."""
    now = _float(t)
    if isinstance(now, np.float64) and not array_api_compat.is_array_api_obj(t):
        return min(now / over, np.float64(1.0))
    xp = _namespace(t)
    return xp.minimum(now / over, xp.ones_like(now))
