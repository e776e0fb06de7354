"""The settings that all groups share, because the loss is differentiated for all of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ...arrays import shards
from ...arrays.arguments import keep, require_choice, require_count, require_number
from ...arrays.draws import ByPlace
from ...arrays.trees import where
from ...curvature import Central, Exact, Forward, Probes, Source, Whitening
from ...descent import clips
from ...schedules import Schedule, is_due, require_schedule, value_at
from .engines import EngineName
from .flat import Flat, Flats
from .forward import ForwardOverReverse
from .groups import Moved, Mover
from .pairs import toss

Curvature = Literal["hvp", "forward_over_reverse", "finite_difference", "whitening"]
"""Names for `curvature`."""

SOURCES: dict[str, Source] = dict(
    zip(get_args(Curvature), (Exact(), ForwardOverReverse(), Forward(), Whitening()), strict=True)
)

SHARED = (
    *("curvature", "update_probability", "every", "global_clip", "engine"),
    *("probes", "rng", "process_group", "compile"),
)
"""Their names, as arguments."""


def source_of(curvature: Any) -> Source:
    """Return the source that `curvature` names, or is."""
    source = SOURCES.get(curvature) if isinstance(curvature, str) else curvature
    if not isinstance(source, Exact | Forward | Central | Whitening):
        raise ValueError(
            f"`curvature` must be one of {list(SOURCES)}, or Exact, Forward, Central or Whitening of "
            f"psgd_core.curvature, got {curvature!r}"
        )
    return source


def seed_of(rng: Any) -> int:
    """Return a seed, or that of a generator."""
    seed = rng.initial_seed() if isinstance(rng, torch.Generator) else rng
    seed = rng.seed if isinstance(rng, ByPlace) else seed
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise TypeError(f"`rng` must be an int >= 0, a torch.Generator or curvature.ByPlace, got {rng!r}")
    return seed


class Way(NamedTuple):
    """A group that moves in a step."""

    mover: Mover
    flat: Flat
    used: list[bool]  # which of its parameters move
    arguments: list[Any]  # as `Mover.arguments` returned them


@dataclass(frozen=True)
class Shared:
    """These settings, checked, as `PSGD` describes them."""

    source: Source
    probes: Probes
    update_probability: Schedule
    every: int
    global_clip: Any
    engine: EngineName
    compile: Any

    def __post_init__(self) -> None:
        require_choice("engine", self.engine, get_args(EngineName))
        if self.compile is not False and self.engine not in ("auto", "torch"):
            raise ValueError(
                f"`compile` must be False for engine {self.engine!r}, got {self.compile!r}; use 'torch'"
            )
        if not isinstance(self.probes, Probes):
            raise TypeError(
                f"`probes` must be Probes such as psgd_core.curvature.Gaussian(), got {self.probes!r}"
            )
        if isinstance(self.source, ForwardOverReverse) and self.probes.k != 1:
            raise ValueError(
                "`probes` must have k = 1 for curvature='forward_over_reverse', which takes one probe at a "
                f"time, got {self.probes!r}; use curvature='hvp'"
            )
        clip = None if self.global_clip is None else clips.as_clip(self.global_clip, "global_clip")
        if clip is not None and clip.needs_value:
            raise ValueError(
                f"`global_clip` must not go back to earlier points, as {clip!r} does; give it as `clip` of "
                "one group of all parameters, or take clips.Norm or clips.AdaptiveNorm"
            )
        keep(
            self,
            update_probability=require_schedule("update_probability", self.update_probability, "(0, 1]"),
            every=require_count("every", self.every, "1 fits P in every step"),
            global_clip=clip,
        )

    @property
    def options(self) -> dict[str, Any] | None:
        """The arguments of `torch.compile`; None runs without."""
        return {} if self.compile is True else self.compile or None

    def due(self, iteration: int, seed: int) -> bool:
        """Return whether P is fitted in an iteration, for groups that have begun."""
        chance = value_at(self.update_probability, iteration)
        chance = require_number("update_probability", chance, "[0, inf)", "its schedule returned it")
        return is_due(iteration, self.every, chance, lambda: toss(seed, iteration))

    def clip_memory(self, flats: Flats) -> Any:
        """Return the memory that the global clip starts with: tensors, whatever the engine."""
        return None if self.global_clip is None else self.global_clip.init(_like(flats))

    def moves(self, memory: Any, flats: Flats, ways: list[Way]) -> tuple[list[Moved], Any]:
        """Return (the new parameters and state of each group that moves, the global clip's memory).

        Parameters
        ----------
        memory : Any
            As this returned it; None before the first step.
        flats : Flats
            All groups of the optimiser.
        ways : list of Way
            Those groups that move. Where one's move is not finite, it counts as 0, and the memory stays.
        """
        if self.global_clip is None or not ways:
            return [way.mover.moved(way.flat, way.arguments) for way in ways], memory
        before = self.clip_memory(flats) if memory is None else memory
        proposals, like = [way.mover.proposed(way.arguments) for way in ways], _like(flats)
        parts = [torch.where(it.usable, it.move, 0.0).to(like) for it in proposals]
        with shards.over(flats.shards("global_clip")):
            parts, after = self.global_clip.limit_parts(before, parts)
        whole = torch.stack([it.usable.to(like.device) for it in proposals]).all()
        both = zip(ways, proposals, parts, strict=True)
        found = [way.mover.accepted(way.flat, it, part.to(it.move)) for way, it, part in both]
        return found, where(whole, after, before)


def _like(flats: Flats) -> Tensor:
    """Return a vector of one element, of the widest dtype among groups, on the device of the first."""
    wide = any(flat.dtype == torch.float64 for flat in flats)
    return torch.zeros(1, dtype=torch.float64 if wide else torch.float32, device=flats[0].device)
