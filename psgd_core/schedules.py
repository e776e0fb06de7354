"""Learning rates and step sizes that change over the iterations: exponentially, by cosine, in stages.

A schedule is any callable of the iteration t = 0, 1, ...: t is an int, or a 0-d float array inside the loop,
and the schedules here return an array for an array (so they trace under ``jax.jit``). They are frozen and
hashable. Wherever a schedule is expected, a number stands for a constant one, also inside another schedule::

    WarmUp(Cosine(1.0, over=1000), over=50)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays.arguments import as_float, described, keep, require_count, require_number
from .arrays.brief import Brief
from .arrays.library import Array, is_array, namespace

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
    value: Array = schedule(t)
    if is_array(value) and value.ndim == 0:
        return value
    found = as_float(value)
    if found is None:
        raise TypeError(
            f"a schedule must return a number or a 0-d array, got {described(value)}; see {schedule!r}"
        )
    return found


def is_due(iteration: int, every: int, chance: float | Array, toss: Callable[[], float]) -> bool:
    """Return whether P is fitted in an iteration: in each `every`-th, with a probability, and in the first.

    Parameters
    ----------
    iteration, every : int
    chance : float
        The probability of this iteration.
    toss : callable
        Returns a number in [0, 1) by chance; called only where that decides.
    """
    if iteration % every:
        return False
    return bool(iteration == 0 or chance >= 1 or toss() < chance)


def require_schedule(name: str, schedule: Schedule, within: str) -> Schedule:
    """Return a callable unchanged, and a number inside the interval `within`, such as "(0, 1)", as a float.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    if callable(schedule) and not isinstance(schedule, type):
        return schedule
    if as_float(schedule) is None:
        raise TypeError(
            f"`{name}` must be a number or a callable of the iteration, got {described(schedule)}; "
            "see psgd_core.schedules"
        )
    return require_number(name, schedule, within, "choose one inside")


@dataclass(frozen=True, repr=False)
class Constant(Brief):
    """The same value at all iterations."""

    value: float

    def __post_init__(self) -> None:
        keep(self, value=_finite("value", self.value))

    def __call__(self, t: int | Array) -> float | Array:
        """Return the value at iteration t."""
        return self.value


@dataclass(frozen=True, repr=False)
class Exponential(Brief):
    """``start (end / start)^{t / over}``, and `end` from iteration `over` on."""

    start: float
    end: float
    over: int

    def __post_init__(self) -> None:
        keep(
            self,
            start=require_number("start", self.start, "(0, inf)", "use Cosine to start from 0"),
            end=require_number("end", self.end, "(0, inf)", "use Cosine to reach 0"),
            over=_iterations(self.over),
        )

    def __call__(self, t: int | Array) -> float | Array:
        """Return the value at iteration t."""
        progress = _progress(t, self.over)
        return self.start * namespace(progress).exp(math.log(self.end / self.start) * progress)


@dataclass(frozen=True, repr=False)
class Cosine(Brief):
    """``end + (start - end) (1 + cos(pi t / over)) / 2``, and `end` from iteration `over` on."""

    start: float
    over: int
    end: float = 0.0

    def __post_init__(self) -> None:
        keep(
            self,
            start=_finite("start", self.start),
            over=_iterations(self.over),
            end=_finite("end", self.end),
        )

    def __call__(self, t: int | Array) -> float | Array:
        """Return the value at iteration t."""
        progress = _progress(t, self.over)
        return self.end + (self.start - self.end) * (0.5 + 0.5 * namespace(progress).cos(math.pi * progress))


@dataclass(frozen=True, repr=False)
class Staged(Brief):
    """``values[i]`` from iteration ``at[i - 1]`` on; there is one value more than there are changes."""

    values: tuple[float, ...]
    at: tuple[int, ...]

    def __post_init__(self) -> None:
        values = tuple(_finite("values", value) for value in _elements("values", self.values))
        at = tuple(require_count("at", t, "it holds iterations", 0) for t in _elements("at", self.at))
        if len(values) != len(at) + 1:
            raise ValueError(
                f"`values` must hold one value more than `at`, got {len(values)} values for {len(at)} "
                "changes; the first value holds before the first change"
            )
        if list(at) != sorted(set(at)):
            raise ValueError(f"`at` must ascend, got {at}; sort the iterations")
        keep(self, values=values, at=at)

    def __call__(self, t: int | Array) -> float | Array:
        """Return the value at iteration t."""
        now = _as_float(t)
        xp = namespace(now)
        value = 0 * now + self.values[0]
        for change, after in zip(self.at, self.values[1:], strict=True):
            value = xp.where(now >= change, 0 * now + after, value)
        return value if is_array(t) else float(value)


@dataclass(frozen=True, repr=False)
class WarmUp(Brief):
    """Another schedule times ``min(1, (t + 1) / over)``: a linear rise that starts at 1 / over, not at 0."""

    schedule: Schedule
    over: int

    def __post_init__(self) -> None:
        keep(
            self,
            schedule=require_schedule("schedule", self.schedule, "(-inf, inf)"),
            over=_iterations(self.over),
        )

    def __call__(self, t: int | Array) -> float | Array:
        """Return the value at iteration t."""
        return value_at(self.schedule, t) * _progress(t + 1, self.over)


def _finite(name: str, value: Any) -> float:
    return require_number(name, value, "(-inf, inf)", "values of a schedule are finite")


def _iterations(over: Any) -> int:
    return require_count("over", over, "it is a number of iterations")


def _elements(name: str, given: Any) -> list[Any]:
    """Return the elements of a tuple, list or array of shape (m,)."""
    if not isinstance(given, tuple | list) and not (is_array(given) and given.ndim == 1):
        raise TypeError(f"`{name}` must be a tuple of numbers, got {described(given)}; give it in brackets")
    return [given[i] for i in range(len(given))]


def _as_float(t: int | Array) -> Array:
    """Return t as a float: NumPy's for an int; integer arrays in float32, which counts to 2^24."""
    now: Any = t if is_array(t) else np.float64(t)
    xp = namespace(now)
    found: Array = now if xp.isdtype(now.dtype, "real floating") else xp.astype(now, xp.float32)
    return found


def _progress(t: int | Array, over: int) -> Array:
    """Return t / over, at most 1."""
    now = _as_float(t)
    xp = namespace(now)
    return xp.minimum(now / over, xp.ones_like(now))
