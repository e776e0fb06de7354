"""What a training went through and where it ended: forgetting, the Hessian, and what steps cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...generalisation import Forgetting, forgetting
from ..curvature import Curvature
from ..sizes import state_bytes, step_bytes
from ..twice import differentiable_twice
from .measure import Measure

if TYPE_CHECKING:
    from .networks import NetworkTraining


CHECKED = 10
"""Steps from one look at a loss to the next."""


class Events(Measure):
    """Forgetting events, counted as the examples are presented, on the processor; for one label each."""

    def __init__(self, training: NetworkTraining) -> None:
        super().__init__(training)
        self._state = forgetting.init(len(training.examples.train_x), like=torch.empty(0))
        self._batches: list[tuple[Tensor, Tensor]] = []

    def after_step(self, indices: Tensor, correct: Tensor) -> None:
        """Keep a batch; those of a part are counted together, which gives the same for less."""
        self._batches.append((indices, correct))

    def after_part(self) -> dict[str, Any]:
        """Count the part's presentations."""
        indices, correct = (torch.cat(parts).cpu() for parts in zip(*self._batches, strict=True))
        self._state, self._batches = forgetting.update(self._state, correct, indices), []
        return {}

    @property
    def result(self) -> Forgetting:
        """What was counted so far, example by example."""
        return forgetting.result(self._state)

    def final(self) -> dict[str, Any]:
        """Return shares of examples, and events per example that was learned."""
        found = self.result
        learned = ~found.never_learned
        return {
            "unforgettable": float(found.unforgettable.mean()),
            "never_learned": float(found.never_learned.mean()),
            "forgetting_events": float(found.events[learned].mean()) if learned.any() else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, and the part's batches so far."""
        return {"counts": self._state._asdict(), "batches": [list(batch) for batch in self._batches]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._state = forgetting.ForgettingState(**state["counts"])
        device = self.training.device
        self._batches = [(indices, correct.to(device)) for indices, correct in state["batches"]]


class Hessian(Measure):
    """The Hessian of the loss on the first examples of the training set; see `Curvature`.

    Parameters
    ----------
    training : NetworkTraining
    examples : int
        How many.
    level : float, optional
        The sharpness is also taken where their loss is this or less for the first time, of every `CHECKED`
        steps, so that optimisers can be compared at about the same loss.
    **options
        Of `Curvature`.
    """

    def __init__(
        self, training: NetworkTraining, examples: int = 500, level: float | None = None, **options: Any
    ) -> None:
        super().__init__(training)
        self._curvature, self._level = Curvature(**options), level
        first = torch.arange(min(examples, len(training.examples.train_x)))
        self._x, self._y = training.examples.batch("train", first, training.device)
        self._there: dict[str, Any] = {}
        self._steps = 0

    def _loss(self) -> Tensor:
        with differentiable_twice():
            z = self.training.model(self._x)
        return cross_entropy(z.reshape(-1, z.shape[-1]), self._y.reshape(-1))

    def _value(self) -> float:
        with torch.no_grad():
            return float(self._loss())

    def after_step(self, indices: Tensor, correct: Tensor) -> None:
        """Look at the curvature where the loss is low enough for the first time."""
        self._steps += 1
        if self._level is None or self._there or self._steps % CHECKED:
            return
        value = self._value()
        if value <= self._level:
            found = self._curvature.sharpness(self._loss, self.training.model)
            numbers = ("eigenvalue", "trace", "trace_error")
            self._there = {"level_loss": value, **{f"level_{name}": found[name] for name in numbers}}

    def final(self) -> dict[str, Any]:
        """Return the curvature at the end, the loss it is of, and "level_eigenvalue" and so on."""
        found = self._curvature.of(self._loss, self.training.model)
        return {"hessian_loss": self._value(), **found, **self._there}

    def state_dict(self) -> dict[str, Any]:
        """Return what was found at the level, and how many steps were done."""
        return {"there": self._there, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._there, self._steps = state["there"], state["steps"]


class Seconds(Measure):
    """CPU-time of a step: the median; drawing the batch included, evaluations and first steps not."""

    def __init__(self, training: NetworkTraining) -> None:
        super().__init__(training)
        self._seconds: list[float] = []
        self._before: float | None = None

    def after_step(self, indices: Tensor, correct: Tensor) -> None:
        """Look at the clock."""
        now = time.process_time()
        if self._before is not None:
            self._seconds.append(now - self._before)
        self._before = now

    def after_part(self) -> dict[str, Any]:
        """Leave out the time until the next step, in which the training is evaluated."""
        self._before = None
        return {}

    def final(self) -> dict[str, Any]:
        """Return "step_ms", milliseconds."""
        return {"step_ms": 1000 * float(np.median(self._seconds)) if self._seconds else None}

    def state_dict(self) -> dict[str, Any]:
        """Return the times so far."""
        return {"seconds": self._seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._seconds = state["seconds"]


class Memory(Measure):
    """Memory of the optimiser's state, and of steps in a process of their own; see `step_bytes`."""

    def final(self) -> dict[str, Any]:
        """Return "state_mb" and "step_mb", in 10^6 bytes; the latter is None off Linux."""
        settings, examples = self.training.settings, self.training.examples
        names = ("model", "model_settings", "optimizer", "optimizer_settings", "batch")
        steps = {name: settings[name] for name in names if name in settings}
        peak = step_bytes(steps, examples.shape, examples.classes)
        held = state_bytes(self.training.steps.state_dict()["own"])
        return {"state_mb": held / 1e6, "step_mb": None if peak is None else peak / 1e6}
