"""The phases of a run: at some part its data, or its optimiser, becomes another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..experiment import Settings
from .rates import Rate, moves, rate_of

OWN = {"changes", "optimizer", "optimizer_settings", "lr", "step", "l2", "parts"}
"""What the settings of a phase may say."""


@dataclass(frozen=True)
class Phase:
    """Parts `first` to `first + parts - 1` of a run.

    Parameters
    ----------
    first, parts : int
    settings : dict
        Of the run, with the phase's own.
    starts : bool
        Whether it has a new optimiser: the first phase, and those with another one than before.
    lr, step : callables
        Rates as functions of the run's part, see `rate_of`. Those of a phase's own have the phase as their
        length, others the whole run. step is None for what fits no preconditioner.
    moves : bool
        Whether a rate changes in each step.
    """

    first: int
    parts: int
    settings: Settings
    starts: bool
    lr: Rate
    step: Rate | None
    moves: bool


def phases_of(settings: Settings, parts: int) -> list[Phase]:
    """Return the phases that settings describe; one if they have no "phases".

    A phase has the settings of the run but for its own; an optimiser of its own has its own settings and
    step, or none.

    Parameters
    ----------
    settings : dict
        "phases" is a list of dicts, each with "parts", how long it is, and any others of `OWN`.
    parts : int
        Of the whole run.
    """
    given = settings.get("phases", [{"parts": parts}])
    wrong = sorted({key for own in given for key in own} - OWN)
    if wrong:
        raise ValueError(f"`phases` must have {', '.join(sorted(OWN))}, got {wrong[0]!r}")
    if sum(own["parts"] for own in given) != parts:
        raise ValueError(f"`phases` must have {parts} parts together, got {[own['parts'] for own in given]}")
    found: list[Phase] = []
    shared = {key: value for key, value in settings.items() if key != "phases"}
    first = 0
    for own in given:
        merged = {**shared, **{key: value for key, value in own.items() if key != "parts"}}
        if "optimizer" in own:  # another one has nothing of the first
            for key in ("optimizer_settings", "step"):
                merged.update({key: own[key]} if key in own else {key: None})
        starts = not found or _optimizer(merged) != _optimizer(found[-1].settings)
        lr = _rate("lr", own, merged, first, parts)
        step = None if merged.get("step") is None else _rate("step", own, merged, first, parts)
        within = moves(merged["lr"]) or moves(merged.get("step"))
        found.append(Phase(first, own["parts"], merged, starts, lr, step, within))
        first += own["parts"]
    return found


def _optimizer(settings: Settings) -> tuple[Any, Any]:
    return settings["optimizer"], settings.get("optimizer_settings") or {}


def _rate(name: str, own: Settings, merged: Settings, first: int, parts: int) -> Rate:
    if name in own:
        rate = rate_of(name, merged[name], own["parts"])
        return lambda part, progress=0.0: rate(part - first, progress)
    return rate_of(name, merged[name], parts)
