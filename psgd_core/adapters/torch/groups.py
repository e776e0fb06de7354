"""A parameter group in motion: its settings, checked; its loop; its engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ...arrays.trees import Leaf
from ...curvature import Source
from ...descent import PSGD as Loop
from ...preconditioners import LowRank, Preconditioner
from ...preconditioners.placement import placed
from ...schedules import require_schedule, value_at
from .engines import Engine, Setting
from .flat import Flat

RANK = 10
"""Of the preconditioner by default, `LowRank`, where there are more parameters."""

LOOP = ("preconditioner", "momentum", "clip", "weight_decay", "decay")
"""The settings of a group that its loop is built from; `lr` and `step` go into each update."""


def require_settings(settings: dict[str, Any], source: Source) -> None:
    """Raise TypeError or ValueError unless the settings of a group can be."""
    lr = settings["lr"]
    if callable(lr) or not isinstance(lr, float | int | Tensor):
        raise TypeError(f"`lr` must be a number, got {lr!r}; torch.optim.lr_scheduler changes it in time")
    if not 0 <= lr < float("inf"):
        raise ValueError(f"`lr` must be finite and not negative, got {lr}; 0 moves nothing")
    require_schedule("step", settings["step"], "(0, 1)")
    if settings["preconditioner"] is None:
        settings = settings | {"preconditioner": LowRank(RANK)}
    _loop(settings, source)


def settled(group: dict[str, Any]) -> Preconditioner | None:
    """Return the preconditioner of a group, for its parameters as they come.

    `Blocks` are put in their order. By default it is `LowRank` of rank 10, or of the largest that fits; None
    where parameters have no shape yet.

    Raises
    ------
    ValueError
        If blocks are for other parameters.
    """
    params, given = group["params"], group["preconditioner"]
    if any(map(is_lazy, params)):
        return given
    if given is None:
        return LowRank(max(0, min(RANK, sum(p.numel() for p in params) - 1)))
    names = group.get("param_names") or [""] * len(params)
    return placed(given, [Leaf(name, tuple(p.shape)) for name, p in zip(names, params, strict=True)])


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

    def start(self, flat: Flat) -> dict[str, Any]:
        """Return what is held for a group at the start: "loop", the state of the loop.

        Raises
        ------
        ValueError
            If the preconditioner is for another number of parameters.
        """
        with self.engine.context():
            return {"loop": self.engine.separate(self.loop.init(self.engine.inward(flat.vector())))}

    def moved(
        self,
        group: dict[str, Any],
        held: dict[str, Any],
        flat: Flat,
        x: Tensor,
        g: Tensor,
        pair: tuple[Tensor | None, Tensor | None],
        value: Tensor | None,
        iteration: int,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return where the parameters of a group go, (n,), and what is held then; nothing is changed.

        Parameters
        ----------
        held : dict
            What the optimiser holds for the group: "loop", the state of the loop, on the engine's library;
            "wide", where the parameters are in the state's dtype, if theirs is another.
        x, g : tensor, shape (n,)
            The parameters, and the gradient.
        pair : (v, h)
            None for both to leave P alone.
        value : tensor, 0-d
            The loss, if a clip asks for it.
        """
        engine = self.engine
        self._set(group, iteration)
        if "wide" in held:  # what the parameters were rounded from, unless somebody has changed them
            x = torch.where(flat.rounded(held["wide"]) == x, held["wide"], x)
        if value is not None:
            g = g.clone()  # the clip keeps it, and it may be a view of .grad
        with engine.context():
            state = held["loop"]
            if self.loop.momentum > 0 and isinstance(state.momentum, tuple):  # it was 0 until now
                state = state._replace(momentum=engine.inward(torch.zeros_like(x)))
            arrays = [None if a is None else engine.inward(a) for a in (x, g, *pair, value)]
            new, state = self.advance(state, *arrays)
            moved = engine.outward(new)
        return moved, {"loop": state} | ({"wide": moved} if flat.rounds else {})

    def _set(self, group: dict[str, Any], iteration: int) -> None:
        """Take over lr and step as they are now."""
        lr, step = group["lr"], value_at(group["step"], iteration)
        self.lr.set(lr if self.engine.name == "torch" else float(lr))
        require_schedule("step", float(step), "(0, 1)")
        self.step.set(float(step))


def _key(group: dict[str, Any], flat: Flat) -> tuple:
    return (*(group[name] for name in LOOP), flat.dtype, flat.device)
