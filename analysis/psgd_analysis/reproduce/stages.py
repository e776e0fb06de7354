"""Runs of several trainings in turn: each is made from what those before it found."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

from .experiment import Training, never

Found = Mapping[str, Any]
"""What a stage found: numbers, texts and tensors, in dicts and lists."""


@dataclass(frozen=True)
class Stage:
    """A part of a longer run.

    Parameters
    ----------
    name : str
    parts : int
        That its training has, known before it is made.
    start : callable
        Gets what the stages before found, by name, and returns the training.
    found : callable
        Gets the training at its end, and returns what it found: `Training.final` does.
    """

    name: str
    parts: int
    start: Callable[[Mapping[str, Found]], Training]
    found: Callable[[Any], Found] = lambda training: training.final()


class Stages:
    """A training of stages, with one checkpoint: what was found so far, and that of the stage under way.

    Parameters
    ----------
    stages : sequence of Stages
    join : callable
        Gets what the stages found, by name, and returns the record's `final`. A run that was cut, or that
        diverged, lacks some of them.
    """

    def __init__(
        self, stages: Sequence[Stage], join: Callable[[Mapping[str, Found]], dict[str, Any]]
    ) -> None:
        self.stages, self.join = tuple(stages), join
        self.parts = sum(stage.parts for stage in self.stages)
        self._found: dict[str, Found] = {}
        self._skipped = 0
        self._training = self.stages[0].start({})

    @property
    def _stage(self) -> Stage:
        return self.stages[len(self._found)]

    @property
    def status(self) -> Literal["going", "done", "diverged"]:
        """Whether more parts are needed; a stage that diverges ends all."""
        if len(self._found) == len(self.stages):
            return "done"
        return "diverged" if self._training.status == "diverged" else "going"

    @property
    def skipped(self) -> int:
        """How many pairs, or steps, all stages refused so far."""
        return self._skipped + (self._training.skipped if self.status != "done" else 0)

    def advance(self, pause: Callable[[], bool] = never) -> dict[str, Any] | None:
        """Run the next part of the stage under way; after its last one, make the next stage."""
        stage, training = self._stage, self._training
        found = training.advance(pause)
        if found is None:
            return None
        metrics = {"stage": stage.name, **found}
        if training.status == "done":
            self._skipped += training.skipped
            self._found[stage.name] = stage.found(training)
            if self.status != "done":
                self._training = self._stage.start(self._found)
        return metrics

    def final(self) -> dict[str, Any]:
        """Return what all stages found together."""
        return self.join(self._found)

    def save(self, file: IO[bytes]) -> None:
        """Write what was found, and the stage under way."""
        import torch

        held = io.BytesIO()
        if self.status != "done":
            self._training.save(held)
        own = torch.frombuffer(bytearray(held.getvalue() or b"\0"), dtype=torch.uint8)
        torch.save({"found": self._found, "skipped": self._skipped, "training": own}, file)

    def load(self, file: IO[bytes]) -> None:
        """Make the stage that was under way, and take up what `save` wrote."""
        import torch

        held = torch.load(file, weights_only=True)
        self._found, self._skipped = held["found"], held["skipped"]
        if self.status != "done":
            self._training = self._stage.start(self._found)
            self._training.load(io.BytesIO(held["training"].numpy().tobytes()))
