"""Learning rates and step sizes part by part, as settings have them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from psgd_core.schedules import Cosine, Exponential, Staged

FORMS = (
    "a number, [first, last], {'cosine': [first, last]}, that with 'warmup': parts, or "
    "{'stages': [..], 'at': [..]}"
)

Rate = Callable[..., float]
"""Called with the part and, if it moves, how much of that will be done after the next step, from 0 to 1."""


def rate_of(name: str, setting: Any, parts: int) -> Rate:
    """Return a rate as a function of the part, 0 .. parts - 1, and for "warmup" of the place in it.

    Parameters
    ----------
    name : str
        Of the setting, for errors.
    setting : number, [first, last], or dict
        A constant; an exponential from the first part to the last one, the paper's E.1; and
        ``{"cosine": [first, end]}``, which would reach its end after the last part, or
        ``{"stages": [0.1, 0.01], "at": [100]}``. These change from part to part. With
        ``{"warmup": 0.5, "cosine": [1e-3, 1e-4]}`` the rate changes in each step, as in nanoGPT: it rises
        linearly for half a part, then falls to its end at the last step.
    parts : int
    """
    if isinstance(setting, int | float) and not isinstance(setting, bool):
        return lambda part, progress=0.0: float(setting)
    if moves(setting) and set(setting) == {"warmup", "cosine"}:
        return _warmed(name, setting, parts)
    schedule: Callable[[int], Any]
    if isinstance(setting, Mapping) and set(setting) == {"cosine"}:
        first, last = _two(name, setting["cosine"])
        schedule = Cosine(first, over=parts, end=last)
    elif isinstance(setting, Mapping) and set(setting) == {"stages", "at"}:
        schedule = Staged(tuple(setting["stages"]), tuple(setting["at"]))
    else:
        first, last = _two(name, setting)
        if parts == 1:
            return lambda part, progress=0.0: first
        schedule = Exponential(first, last, over=parts - 1)
    return lambda part, progress=0.0: float(schedule(part))


def moves(setting: Any) -> bool:
    """Return whether a rate changes in each step."""
    return isinstance(setting, Mapping) and "warmup" in setting


def _warmed(name: str, setting: Mapping[str, Any], parts: int) -> Rate:
    first, last = _two(name, setting["cosine"])
    rise = float(setting["warmup"])
    if not 0 < rise < parts:
        raise ValueError(f"`{name}` must have a warmup between 0 and its {parts} parts, got {rise:g}")

    def rate(part: int, progress: float = 0.0) -> float:
        done = part + progress
        if done < rise:
            return first * done / rise
        return last + (first - last) * (1 + math.cos(math.pi * (done - rise) / (parts - rise))) / 2

    return rate


def _two(name: str, setting: Any) -> tuple[float, float]:
    if not isinstance(setting, Sequence) or isinstance(setting, str) or len(setting) != 2:
        raise ValueError(f"`{name}` must be {FORMS}, got {setting!r}")
    return float(setting[0]), float(setting[1])
