"""What a step of an optimiser costs, beside SGD's in turn, and how long it takes to reach a loss.

Seconds are of CPU, of one thread, so that other processes count little. A sample is a block of steps, so that
what is done every tenth step counts; blocks of SGD and of the optimiser alternate, and the ratio is that of
their medians. Seconds to a loss are steps to the loss times the seconds of a step.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from .experiment import Job, Settings, never
from .sizes import state_bytes, step_bytes
from .stages import Found, Stage, Stages
from .training import Examples, NetworkTraining, examples_for

BLOCK = 20
"""Steps of a sample."""


def start(job: Job, folder: Path | None) -> Stages:
    """Return the timing of steps, and the training to a loss, as one run.

    Parameters
    ----------
    job : Job
        Its settings are those of a `NetworkTraining`, and "blocks", samples of the seconds, and "loss", the
        mean over an epoch's batches that ends the training.
    folder : Path or None
        Where the user keeps the data.
    """
    examples = examples_for(job, folder)
    settings = {name: value for name, value in job.settings.items() if name not in ("blocks", "loss")}
    timing = Stage(
        "steps", job.settings["blocks"], lambda found: Timing(settings, job.settings["blocks"], examples)
    )
    training = Stage(
        "training",
        settings["epochs"],
        lambda found: ToLoss(NetworkTraining(settings, job.seed, examples), job.settings["loss"]),
    )
    return Stages((timing, training), joined)


def joined(found: Mapping[str, Found]) -> dict[str, Any]:
    """Return the numbers of both, and the seconds to the loss; None if it was not reached."""
    numbers = {**found.get("steps", {}), **found.get("training", {})}
    if numbers.get("reached"):
        numbers["seconds_to_loss"] = numbers["steps_to_loss"] * numbers["step_ms"] / 1000
    return numbers


class Timing:
    """Blocks of steps of SGD and of an optimiser, in turn, on the same batches of the same model.

    Parameters
    ----------
    settings : dict
        Of the optimiser's `NetworkTraining`.
    blocks : int
    examples : Examples
    """

    skipped = 0

    def __init__(self, settings: Settings, blocks: int, examples: Examples) -> None:
        self.settings, self.parts, self.examples = settings, blocks, examples
        plain = {"optimizer": "sgd", "lr": 0.01, "optimizer_settings": {}}
        own = {name: value for name, value in settings.items() if name not in (*plain, "step")}
        self._runs = [Stepping(which, examples) for which in ({**own, **plain}, settings)]
        self._seconds: list[list[float]] = [[], []]
        for run in self._runs:
            run.block()  # what is loaded and compiled on the way

    @property
    def status(self) -> Literal["going", "done", "diverged"]:
        """Whether more blocks are needed."""
        return "done" if len(self._seconds[0]) == self.parts else "going"

    def advance(self, pause: Callable[[], bool] = never) -> dict[str, Any]:
        """Time a block of each."""
        # who comes first changes, so that no one has the warmer processor
        order = (0, 1) if len(self._seconds[0]) % 2 else (1, 0)
        for i in order:
            before = time.process_time()
            self._runs[i].block()
            self._seconds[i].append((time.process_time() - before) / BLOCK)
        return {"sgd_ms": 1000 * self._seconds[0][-1], "step_ms": 1000 * self._seconds[1][-1]}

    def final(self) -> dict[str, Any]:
        """Return milliseconds of a step, those of SGD, their ratio, and memory in 10^6 bytes."""
        sgd, own = (1000 * float(np.median(seconds)) for seconds in self._seconds)
        settings = self.settings
        names = ("model", "model_settings", "optimizer", "optimizer_settings", "batch")
        about = {name: settings[name] for name in names if name in settings}
        peaks = [
            step_bytes(which, self.examples.shape, self.examples.classes)
            for which in ({**about, "optimizer": "sgd", "optimizer_settings": {}}, about)
        ]
        found = {"step_ms": own, "sgd_ms": sgd, "step_ratio": own / sgd}
        found["state_mb"] = state_bytes(self._runs[1].training.steps.state_dict()["own"]) / 1e6
        if peaks[0] and peaks[1]:
            found |= {
                "step_mb": peaks[1] / 1e6,
                "sgd_mb": peaks[0] / 1e6,
                "memory_ratio": peaks[1] / peaks[0],
            }
        return found

    def save(self, file: IO[bytes]) -> None:
        """Write the times."""
        file.write(json.dumps(self._seconds).encode())

    def load(self, file: IO[bytes]) -> None:
        """Take up the times; the steps begin anew: what they cost does not depend on where they are."""
        self._seconds = json.loads(file.read())


class Stepping:
    """Steps of a training without its evaluations."""

    def __init__(self, settings: Settings, examples: Examples) -> None:
        self.training = NetworkTraining({**settings, "measures": ()}, 0, examples)
        self.training.set_rates()

    def block(self) -> None:
        """Do some steps."""
        for _ in range(BLOCK):
            self.training.one_step(self.training.next_batch())


class ToLoss:
    """A training that ends when the loss of a part is low enough.

    Parameters
    ----------
    training : NetworkTraining
    loss : float
    """

    def __init__(self, training: NetworkTraining, loss: float) -> None:
        self.training, self.loss = training, loss
        self.parts = training.parts
        self._reached = False

    @property
    def status(self) -> Literal["going", "done", "diverged"]:
        """Done as soon as the loss is reached."""
        return "done" if self._reached else self.training.status

    @property
    def skipped(self) -> int:
        """Of the training."""
        return self.training.skipped

    def advance(self, pause: Callable[[], bool] = never) -> dict[str, Any] | None:
        """Run the next part."""
        metrics = self.training.advance(pause)
        self._reached = metrics is not None and metrics["train_loss"] <= self.loss
        return metrics

    def final(self) -> dict[str, Any]:
        """Return the training's numbers, whether the loss was reached, and in how many steps."""
        found = self.training.final()
        steps = found["iterations"] if self._reached else None
        return {**found, "reached": self._reached, "steps_to_loss": steps}

    def save(self, file: IO[bytes]) -> None:
        """Write the training, and whether it is at its end."""
        held = io.BytesIO()
        self.training.save(held)
        file.write(bytes([self._reached]) + held.getvalue())

    def load(self, file: IO[bytes]) -> None:
        """Take up what `save` wrote."""
        self._reached = bool(file.read(1)[0])
        self.training.load(io.BytesIO(file.read()))
