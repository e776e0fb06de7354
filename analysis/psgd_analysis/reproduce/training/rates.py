"""Learning rates and step sizes part by part, as settings have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from psgd_core.schedules import Cosine, Exponential, Staged

FORMS = "a number, [first, last], {'cosine': [first, last]} or {'stages': [..], 'at': [..]}"


def rate_of(name: str, setting: Any, parts: int) -> Callable[[int], float]:
    """Return a rate as a function of the part, 0 .. parts - 1.

    Parameters
    ----------
    name : str
        Of the setting, for errors.
    setting : number, [first, last], or dict
        A constant; an exponential from the first part to the last one, the paper's E.1; and
        ``{"cosine": [first, end]}``, which would reach its end after the last part, or
        ``{"stages": [0.1, 0.01], "at": [100]}``.
    parts : int
    """
    if isinstance(setting, int | float) and not isinstance(setting, bool):
        return lambda part: float(setting)
    schedule: Callable[[int], Any]
    if isinstance(setting, Mapping) and set(setting) == {"cosine"}:
        first, last = _two(name, setting["cosine"])
        schedule = Cosine(first, over=parts, end=last)
    elif isinstance(setting, Mapping) and set(setting) == {"stages", "at"}:
        schedule = Staged(tuple(setting["stages"]), tuple(setting["at"]))
    else:
        first, last = _two(name, setting)
        if parts == 1:
            return lambda part: first
        schedule = Exponential(first, last, over=parts - 1)
    return lambda part: float(schedule(part))


def _two(name: str, setting: Any) -> tuple[float, float]:
    if not isinstance(setting, Sequence) or isinstance(setting, str) or len(setting) != 2:
        raise ValueError(f"`{name}` must be {FORMS}, got {setting!r}")
    return float(setting[0]), float(setting[1])
