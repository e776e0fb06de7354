"""One network, one data set, one optimiser: trained part by part, left and taken up again bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .. import data, models, optimizers
from ..experiment import Job, Settings
from .examples import Batches, Examples, examples_of
from .measures import MEASURES
from .rates import rate_of

SETTINGS = {
    *("model", "model_settings", "data", "length", "train", "test"),
    *("optimizer", "optimizer_settings", "lr", "step", "l2"),
    *("batch", "epochs", "iterations", "parts", "measures", "noise"),
}

EVALUATED = 500
"""Examples evaluated at once: few enough to stay in the processor's cache."""


def start(job: Job, folder: Path | None) -> NetworkTraining:
    """Return the training that the settings of a job describe; see `NetworkTraining` and `examples_for`."""
    return NetworkTraining(job.settings, job.seed, examples_for(job, folder))


def examples_for(job: Job, folder: Path | None) -> Examples:
    """Return the examples that a job's settings name.

    Parameters
    ----------
    job : Job
        Its settings name the "data", and may have "train" and "test", numbers of examples, and "length", of
        the pieces of a text.
    folder : Path or None
        Where the user keeps the data.

    Raises
    ------
    ValueError
        If the files are others than those the run was planned with.
    """
    found = data.load(job.settings["data"], folder)
    if job.data and found.hash not in job.data.values():
        raise ValueError(
            f"the data {found.name!r} is not what the run was planned with; give every process the same files"
        )
    sizes = {name: job.settings[name] for name in ("train", "test", "length") if name in job.settings}
    return examples_of(found, **sizes)


class NetworkTraining:
    """A `Training` of a classifier, or of a model that predicts the next character.

    The same seed gives all optimisers the same initial parameters and the same batches.

    Parameters
    ----------
    settings : dict
        "model" and "optimizer" by name, with "model_settings" and "optimizer_settings"; "batch"; either
        "epochs", a part each, or "iterations" in so many "parts"; "lr" and, for PSGD, "step" (see `rate_of`);
        "l2", the lambda of ``0.5 lambda x^T x`` in the loss; "measures" by name, or a dict from names to
        their options; "noise": "bernoulli" draws each pixel of each batch of images anew, 1 with its grey for
        a probability (E.3). All but model, optimizer, batch, lr and length of the run may be left out.
    seed : int
    examples : Examples

    Raises
    ------
    ValueError
        For settings that are not known, or contradict each other.
    """

    def __init__(self, settings: Settings, seed: int, examples: Examples) -> None:
        _require_known(settings)
        self.settings, self.examples = settings, examples
        # independent streams of one seed
        initial, shuffled, drawn, noisy = (
            int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(4)
        )
        self.model = models.make(
            settings["model"], examples.shape, examples.classes, settings.get("model_settings", {}), initial
        )
        self.batches = Batches(len(examples.train_x), settings["batch"], shuffled)
        self._noise = torch.Generator().manual_seed(noisy)
        self.steps = optimizers.make(
            settings["optimizer"], self.model, settings.get("optimizer_settings", {}), drawn
        )
        self.parts = settings.get("epochs") or settings["parts"]
        self._params = [p for p in self.model.parameters() if p.requires_grad]
        self._lr = rate_of("lr", settings["lr"], self.parts)
        step = settings.get("step")
        self._step = None if step is None else rate_of("step", step, self.parts)
        self._l2 = settings.get("l2", 0.0)
        # how far it is; the measures look at the model now
        self._done = self._iterations = 0
        self._best, self._finite = 0.0, True
        self._last: dict[str, Any] = {}
        given = settings.get("measures", ())
        options = given if isinstance(given, Mapping) else {}
        self.measures = {name: MEASURES[name](self, **options.get(name, {})) for name in given}

    @property
    def status(self) -> Literal["going", "done", "diverged"]:
        """Diverged if the last loss of a part, or the loss on the test set after it, was not finite."""
        if not self._finite:
            return "diverged"
        return "done" if self._done == self.parts else "going"

    @property
    def skipped(self) -> int:
        """Pairs and steps that the optimiser left out."""
        return self.steps.skipped

    def advance(self) -> dict[str, Any]:
        """Run the next part; return loss and accuracy (%) over its batches, and on the test set."""
        self.set_rates()
        losses, right, seen = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64), 0
        last = losses
        for _ in range(self._length()):
            indices = self.batches.next()
            last, correct = self.one_step(indices)
            losses += last * len(indices)
            right += correct.sum()
            seen += len(indices)
            for measure in self.measures.values():
                measure.after_step(indices, correct)
            self._iterations += 1
        self._done += 1
        test_loss, accuracy = self.evaluate("test")
        self._finite = bool(torch.isfinite(last)) and math.isfinite(test_loss)
        self._best = max(self._best, accuracy)
        places = seen * self.examples.train_y[0].numel()
        self._last = {
            "train_loss": float(losses) / seen,
            "train_accuracy": 100 * int(right) / places,
            "test_loss": test_loss,
            "accuracy": accuracy,
        }
        more: dict[str, Any] = {}
        for measure in self.measures.values():
            more |= measure.after_part()
        return {**self._last, "iterations": self._iterations, "products": self.steps.products, **more}

    def final(self) -> dict[str, Any]:
        """Return the last metrics, the best test accuracy, what was used, and what was measured."""
        found = {
            **self._last,
            "best_accuracy": self._best,
            "iterations": self._iterations,
            "parameters": sum(p.numel() for p in self._params),
            "gradients": self.steps.gradients,
            "products": self.steps.products,
            "optimizer": self.steps.version,
        }
        if self._finite:
            for measure in self.measures.values():
                found |= measure.final()
        return found

    def save(self, file: IO[bytes]) -> None:
        """Write all that the next part depends on, as tensors, numbers and texts."""
        held = {
            "model": self.model.state_dict(),
            "steps": self.steps.state_dict(),
            "batches": self.batches.state_dict(),
            "noise": self._noise.get_state(),
            "measures": {name: measure.state_dict() for name, measure in self.measures.items()},
            "progress": [self._done, self._iterations, self._best, self._last, self._finite],
        }
        torch.save(held, file)

    def load(self, file: IO[bytes]) -> None:
        """Take up what `save` wrote; nothing is unpickled but tensors, numbers and texts."""
        held = torch.load(file, weights_only=True)
        self.model.load_state_dict(held["model"])
        self.steps.load_state_dict(held["steps"])
        self.batches.load_state_dict(held["batches"])
        self._noise.set_state(held["noise"])
        for name, state in held["measures"].items():
            self.measures[name].load_state_dict(state)
        self._done, self._iterations, self._best, self._last, self._finite = held["progress"]

    # -- what measures ask for -------------------------------------------------------------------------

    def logits(self, split: Literal["train", "test"]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits (m, classes) and labels (m,) of a whole set, in blocks and in order."""
        x = getattr(self.examples, f"{split}_x").split(EVALUATED)
        y = getattr(self.examples, f"{split}_y").split(EVALUATED)
        self.model.eval()
        with torch.no_grad():
            for some, labels in zip(x, y, strict=True):
                yield self.model(some).reshape(-1, self.examples.classes), labels.reshape(-1)
        self.model.train()

    def evaluate(self, split: Literal["train", "test"]) -> tuple[float, float]:
        """Return loss and accuracy (%) on a whole set."""
        loss, right, seen = 0.0, 0, 0
        for logits, labels in self.logits(split):
            loss += float(cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
        return loss / seen, 100 * right / seen

    # -- its parts -------------------------------------------------------------------------------------

    def set_rates(self) -> None:
        """Set the learning rate and the step size of the part that comes next."""
        step = None if self._step is None else self._step(self._done)
        self.steps.rates(self._lr(self._done), step)

    def one_step(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Do a step; return the loss of the batch, without L2, and what of it was predicted right before."""
        x, y = self.examples.train_x[indices], self.examples.train_y[indices]
        if self.settings.get("noise"):
            x = torch.bernoulli(x, generator=self._noise)

        def loss() -> tuple[Tensor, Any]:
            logits = self.model(x)
            value = cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
            more = value.detach(), logits.detach().argmax(-1) == y
            if self._l2:
                value = value + 0.5 * self._l2 * sum(p.square().sum() for p in self._params)
            return value, more

        _, (value, correct) = self.steps.step(loss)
        return value, correct

    def _length(self) -> int:
        """Return how many iterations the next part has; equal to one, all parts together as asked for."""
        if "epochs" in self.settings:
            return self.batches.per_epoch
        total = self.settings["iterations"]
        return (self._done + 1) * total // self.parts - self._done * total // self.parts


def _require_known(settings: Settings) -> None:
    wrong = sorted(set(settings) - SETTINGS)
    if wrong:
        raise ValueError(f"`settings` must be among {', '.join(sorted(SETTINGS))}, got {wrong[0]!r}")
    if ("epochs" in settings) == ("iterations" in settings) or (
        ("iterations" in settings) != ("parts" in settings)
    ):
        raise ValueError(
            "`settings` must have either 'epochs', or 'iterations' and 'parts'; give one of them"
        )
    if settings.get("noise") not in (None, "bernoulli"):
        raise ValueError(f"`noise` must be 'bernoulli' or None, got {settings['noise']!r}")
    unknown = [name for name in settings.get("measures", ()) if name not in MEASURES]
    if unknown:
        raise ValueError(f"`measures` must be among {', '.join(MEASURES)}, got {unknown[0]!r}")
