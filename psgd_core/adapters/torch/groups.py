"""A parameter group: its settings, checked; its loop; its engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ...arrays import shards
from ...arrays.arguments import require_flag, require_number
from ...arrays.library import Array
from ...arrays.trees import Leaf, owned
from ...curvature import Source
from ...descent import PSGD as Loop
from ...preconditioners import LowRank, Preconditioner
from ...preconditioners.naming import is_name, named
from ...preconditioners.placement import placed
from ...schedules import require_schedule, value_at
from .engines import Engine, EngineName
from .flat import Flat, require_parameter
from .names import naming

RANK = 10
"""Of the preconditioner by default, `LowRank`, where there are more parameters."""

LOOP = ("preconditioner", "momentum", "clip", "weight_decay", "decay", "replay")
"""The settings of a group that its loop is built from; `lr` and `step` go into each update."""


def require_settings(settings: dict[str, Any], source: Source) -> None:
    """Raise TypeError or ValueError for invalid settings of a group."""
    lr = settings["lr"]
    one = lr.reshape(()) if isinstance(lr, Tensor) and lr.numel() == 1 else lr
    require_number("lr", one, "[0, inf)", "torch.optim.lr_scheduler changes it in time")
    require_schedule("step", settings["step"], "(0, 1)")
    if settings["scale"] is not None:
        require_number("scale", settings["scale"], "(0, inf)", "None lets the first pair set it")
    require_flag("maximize", settings["maximize"])
    if settings["preconditioner"] is None or is_name(settings["preconditioner"]):
        settings = settings | {"preconditioner": LowRank(RANK)}
    _loop(settings, source)


def has_parameters(group: dict[str, Any]) -> bool:
    """Return whether a group has a parameter, also one that has no shape yet."""
    return any(is_lazy(p) or p.numel() for p in group["params"])


def settled(group: dict[str, Any]) -> Preconditioner[Any] | None:
    """Return the preconditioner of a group, `Blocks` in the order of its parameters.

    The default is `LowRank` of rank 10, or of the largest that fits; None where parameters have no shape yet.

    Raises
    ------
    ValueError
        If blocks are for other parameters.
    """
    params = group["params"]
    given: Preconditioner[Any] | None = group["preconditioner"]  # or a name, until there are shapes
    if any(map(is_lazy, params)):
        return given  # it is made when they have one
    if given is None:
        return LowRank(max(0, min(RANK, sum(p.numel() for p in params) - 1)))
    names = group.get("param_names") or [""] * len(params)
    leaves = [Leaf(name, tuple(p.shape)) for name, p in zip(names, params, strict=True)]
    return placed(named(given, leaves), leaves)


def settle(groups: list[dict[str, Any]]) -> None:
    """Check the parameters of the last group, and put its preconditioner in their order."""
    with naming(groups):
        for p in groups[-1]["params"]:
            require_parameter(p)
    groups[-1]["preconditioner"] = settled(groups[-1])


def within_shards(group: dict[str, Any], flat: Flat) -> Preconditioner[Any]:
    """Return what preconditions the shard here of a group's vector."""
    from .restriction import restricted  # imports torch.distributed

    return restricted(group["preconditioner"], flat)


def _loop(settings: dict[str, Any], source: Source, lr: Any = 1.0, step: Any = 0.1) -> Loop:
    return Loop(lr=lr, step_size=step, source=source, **{name: settings[name] for name in LOOP})


Moved = tuple[Tensor, dict[str, Any]]
"""The new parameters of a group, (n,), and what the optimiser is to hold for it."""


class Proposal(NamedTuple):
    """A move of a group, before it is known how far all groups may go."""

    move: Tensor  # (n,): ``P m`` within the group's own limit
    usable: Tensor  # 0-d bool: gradient, value and move are finite
    x: Array  # these three in the engine's library: where the move starts,
    before: Any  # the state before it,
    after: Any  # and after it


class Mover:
    """The loop of a group; a new one is made when the group's settings change (except lr and step).

    Parameters
    ----------
    group : dict
        One of the optimiser's.
    flat : Flat
        Its parameters.
    source : Source
    engine : {"auto", "torch", "numpy", "cupy"}
    options : dict or None
        For `torch.compile`.
    """

    def __init__(
        self,
        group: dict[str, Any],
        flat: Flat,
        source: Source,
        engine: EngineName,
        options: dict[str, Any] | None,
    ) -> None:
        self.key: tuple[Any, ...] = _key(group, flat)
        self.engine: Engine = Engine(engine, flat.device, options)
        # schedules that follow the group; compiled updates see tensors change in place
        self.now: dict[str, Any] = {"lr": 0.0, "step": 0.0}
        if options is not None:
            self.now = {name: torch.zeros((), dtype=flat.dtype, device=flat.device) for name in self.now}
        own = group if flat.shards is None else group | {"preconditioner": within_shards(group, flat)}
        if flat.shards is not None and options is not None:
            raise ValueError("`compile` must be False for sharded parameters, got options; leave it out")
        self.shards: Any = flat.shards
        self.loop: Loop = _loop(own, source, lambda t: self.now["lr"], lambda t: self.now["step"])
        self.scale: float | None = group["scale"]
        self.advance: Callable[..., tuple[Array, Any]] = self.engine.advance(self.loop)
        self.propose, self.accept = self.engine.halves(self.loop)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Compute with the engine within a ``with`` block, and over all shards."""
        with self.engine.context(), shards.over(self.shards):
            yield

    def fits(self, group: dict[str, Any], flat: Flat) -> bool:
        """Return whether this is still the group's."""
        return self.key == _key(group, flat)

    def start(self, flat: Flat) -> dict[str, Any]:
        """Return what the optimiser holds for the group at the start: "loop", the state of the loop.

        Raises
        ------
        ValueError
            If the preconditioner is for another number of parameters.
        """
        with self.context():
            state = self.loop.init(self.engine.inward(flat.vector()), scale=self.scale)
        # compiled updates would depend on which arrays of PyTorch's share memory: none do
        return {"loop": owned(state) if self.engine.name == "torch" else state}

    def arguments(
        self,
        group: dict[str, Any],
        held: dict[str, Any],
        flat: Flat,
        x: Tensor,
        g: Tensor,
        pair: tuple[Tensor | None, Tensor | None],
        value: Tensor | None,
        iteration: int,
    ) -> list[Any]:
        """Return (state, x, g, v, h, value) in the engine's library; lr and step take their present values.

        Parameters
        ----------
        held : dict
            What the optimiser holds for the group: "loop", the state of the loop, in the engine's library;
            "wide", the parameters in the state's dtype, if theirs is another.
        x, g : tensor, shape (n,)
            The parameters, and the gradient.
        pair : (v, h)
            None for both to leave P alone.
        value : tensor, 0-d
            The loss, if a clip compares it.

        Raises
        ------
        ValueError
            If the parameters have another dtype than before.
        """
        engine, state = self.engine, held["loop"]
        before = str(state.value.dtype).rpartition(".")[2]
        if f"torch.{before}" != str(flat.dtype):
            raise ValueError(
                f"`params` must keep their dtype, with a state in {before}, got {flat.dtype}; convert the "
                "model before making the optimizer"
            )
        self._set(group, iteration)
        if "wide" in held:  # what the parameters were rounded from, unless the user changed them
            x = torch.where(flat.rounded(held["wide"]) == x, held["wide"], x)
        if group["maximize"]:
            g, pair = -g, (pair[0], None if pair[1] is None else -pair[1])
            value = None if value is None else -value
        if value is not None:
            g = g.clone()  # the clip keeps it, and it may be a view of .grad
        with self.context():
            if self.loop.momentum > 0 and isinstance(state.momentum, tuple):  # it was 0 until now
                state = state._replace(momentum=engine.inward(torch.zeros_like(x)))
            return [state, *(None if a is None else engine.inward(a) for a in (x, g, *pair, value))]

    def moved(self, flat: Flat, arguments: list[Any]) -> Moved:
        """Return the new parameters of a group, (n,), and its new state; nothing is changed in place."""
        with self.context():
            return self._outward(flat, *self.advance(*arguments))

    def proposed(self, arguments: list[Any]) -> Proposal:
        """Return the first half of what `moved` does, up to the move."""
        with self.context():
            move, usable, *rest = self.propose(*arguments)
            return Proposal(self.engine.outward(move), self.engine.outward(usable), *rest)

    def accepted(self, flat: Flat, proposal: Proposal, move: Tensor) -> Moved:
        """Return the second half of what `moved` does, from a move within the limit of all groups."""
        _, usable, x, before, after = proposal
        with self.context():
            inward = self.engine.inward
            return self._outward(flat, *self.accept(before, after, x, inward(usable), inward(move)))

    def _outward(self, flat: Flat, new: Array, state: Any) -> Moved:
        """Return the new parameters as a tensor, and what the optimiser is to hold."""
        moved = self.engine.outward(new)
        return moved, {"loop": state} | ({"wide": moved} if flat.rounds else {})

    def _set(self, group: dict[str, Any], iteration: int) -> None:
        """Set lr and step to their present values."""
        lr = group["lr"] if self.engine.name == "torch" else float(group["lr"])
        step = require_number(
            "step", value_at(group["step"], iteration), "(0, 1)", "its schedule returned it"
        )
        for name, value in (("lr", lr), ("step", step)):
            if self.engine.options is None:
                self.now[name] = value
            else:
                self.now[name].copy_(torch.as_tensor(value, dtype=self.now[name].dtype))


def _key(group: dict[str, Any], flat: Flat) -> tuple[Any, ...]:
    pieces = None if flat.shards is None else flat.shards.pieces
    return (*(group[name] for name in (*LOOP, "scale")), flat.dtype, flat.device, pieces)
