"""A parameter group in motion: its settings, checked; its loop; its engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...curvature import Source
from ...descent import PSGD as Loop
from ...schedules import require_schedule, value_at
from ._engines import Engine, Setting
from ._flat import Flat

LOOP = ("preconditioner", "momentum", "clip", "weight_decay", "decay")
"""The settings of a group that its loop is built from; `lr` and `step` go into each update."""


def require_settings(settings: dict[str, Any], source: Source) -> None:
    """Raise TypeError or ValueError unless the settings of a group can be."""
    lr = settings["lr"]
    if callable(lr) or not isinstance(lr, float | int | Tensor):
        raise TypeError(f"`lr` must be a number, got {lr!r}; torch.optim.lr_scheduler changes it in time")
    if not 0 <= lr < float("inf"):
        raise ValueError(f"`lr` must be finite and not negative, got {lr}; 0 moves nothing")
    require_schedule("step", settings["step"], 0.0, 1.0)
    _loop(settings, source)


def _loop(settings: dict[str, Any], source: Source, lr: Any = 1.0, step: Any = 0.1) -> Loop:
    return Loop(lr=lr, step_size=step, source=source, **{name: settings[name] for name in LOOP})


class Mover:
    """The loop of a group, made anew where its settings (but lr and step) change.

    Parameters
    ----------
    group : dict
        One of the optimiser's.
    flat : Flat
        Its parameters.
    source : Source
    engine : str
    options : dict or None
        For `torch.compile`.
    """

    def __init__(
        self, group: dict[str, Any], flat: Flat, source: Source, engine: str, options: dict[str, Any] | None
    ) -> None:
        self.key = _key(group, flat)
        self.engine = Engine(engine, flat.device, options)
        self.lr, self.step = (Setting(options is not None, flat) for _ in range(2))
        self.loop = _loop(group, source, self.lr, self.step)
        self.advance: Callable = self.engine.advance(self.loop)

    def fits(self, group: dict[str, Any], flat: Flat) -> bool:
        """Return whether this is still the group's."""
        return self.key == _key(group, flat)

    @property
    def needs_value(self) -> bool:
        """Whether a clip compares losses."""
        return self.loop.clip.needs_value  # type: ignore[union-attr]

    def start(self, flat: Flat) -> Any:
        """Return the state to start from."""
        return self.engine.separate(self.loop.init(self.engine.inward(flat.vector())))

    def move(
        self,
        group: dict[str, Any],
        held: dict[str, Any],
        flat: Flat,
        g: Tensor,
        used: list[bool],
        pair: tuple[Tensor | None, Tensor | None],
        value: Tensor | None,
        iteration: int,
    ) -> None:
        """Fit P of a group and move its parameters, in place.

        Parameters
        ----------
        held : dict
            What the optimiser holds for the group: "loop", the state of the loop, on the engine's library;
            "wide", where the parameters are in the state's dtype, if theirs is another.
        g : tensor, shape (n,)
        used : list of bool
            Which parameters have a gradient; the others stay.
        pair : (v, h)
            None for both to leave P alone.
        value : tensor, 0-d
            The loss, if a clip asks for it.
        """
        engine, x = self.engine, flat.vector()
        self._set(group, iteration)
        if "wide" in held:  # what the parameters were rounded from, unless somebody has changed them
            x = torch.where(flat.rounded(held["wide"]) == x, held["wide"], x)
        if value is not None:
            g = g.clone()  # the clip keeps it, and it may be a view of .grad
        with engine.context():
            state = held["loop"] if "loop" in held else self.start(flat)
            if self.loop.momentum > 0 and isinstance(state.momentum, tuple):  # it was 0 until now
                state = state._replace(momentum=engine.inward(torch.zeros_like(x)))
            arrays = [None if a is None else engine.inward(a) for a in (x, g, *pair, value)]
            new, held["loop"] = self.advance(state, *arrays)
            moved = engine.outward(new)
        flat.write(moved, used)
        if flat.rounds:
            held["wide"] = moved

    def _set(self, group: dict[str, Any], iteration: int) -> None:
        """Take over lr and step as they are now."""
        lr, step = group["lr"], value_at(group["step"], iteration)
        self.lr.set(lr if self.engine.name == "torch" else float(lr))
        require_schedule("step", float(step), 0.0, 1.0)
        self.step.set(float(step))


def _key(group: dict[str, Any], flat: Flat) -> tuple:
    return (*(group[name] for name in LOOP), flat.dtype, flat.device)
