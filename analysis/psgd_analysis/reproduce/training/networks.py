"""One network, one data set, one optimiser: trained part by part, left and taken up again bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from .. import data, models, optimizers
from ..carried import carrying, is_noisy, noise
from ..experiment import Job, Settings, never
from .augment import AUGMENTATIONS, augmented
from .changes import changed
from .device import device, name_of
from .evaluation import logits_of
from .examples import Examples, examples_of
from .losses import IGNORED, Objective
from .losses import loss as loss_of
from .measures import MEASURES
from .orders import ORDERS, Order
from .phases import phases_of
from .sums import Sums

SETTINGS = {
    *("model", "model_settings", "data", "length", "stride", "train", "test", "order"),
    *("optimizer", "optimizer_settings", "lr", "step", "l2", "loss"),
    *("batch", "epochs", "iterations", "parts", "measures", "augment", "changes", "phases"),
}


def start(job: Job, folder: Path | None) -> NetworkTraining:
    """Return the training that the settings of a job describe; see `NetworkTraining` and `examples_for`."""
    return NetworkTraining(job.settings, job.seed, examples_for(job, folder))


def examples_for(job: Job, folder: Path | None) -> Examples:
    """Return the examples that a job's settings name.

    Parameters
    ----------
    job : Job
        Its settings name the "data", and may have "train" and "test", numbers of examples, and "length" and
        "stride" of the pieces of a text.
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
    sizes = {
        name: job.settings[name] for name in ("train", "test", "length", "stride") if name in job.settings
    }
    return examples_of(found, **sizes)


class NetworkTraining:
    """A `Training` of a classifier, or of a model that predicts the next character.

    The same seed gives all optimisers the same initial parameters and the same batches.

    Parameters
    ----------
    settings : dict
        "model" and "optimizer" by name, with "model_settings" and "optimizer_settings"; "batch"; either
        "epochs", a part each, or "iterations" in so many "parts"; "lr" and, for PSGD, "step" (see `rate_of`);
        "l2", the lambda of ``0.5 lambda x^T x`` in the loss; "loss", the arguments of `Objective`, such as a
        temperature; "measures" by name, or a dict from names to their options; "changes" of the data (see
        `changed`) and what is done to each batch ("augment", see `augmented`); "phases" with data, rates or
        an optimiser of their own (see `phases_of`); the "order" of its examples, one of `ORDERS`. All but
        model, optimizer, batch, lr and length of the run may be left out.
    seed : int
    examples : Examples
        As they are before any changes; held as `given`.

    Raises
    ------
    ValueError
        For settings that are not known, or contradict each other.
    """

    def __init__(self, settings: Settings, seed: int, examples: Examples) -> None:
        _require_known(settings)
        self.settings, self.given = settings, examples
        self.parts = settings.get("epochs") or settings["parts"]
        self._phases = phases_of(settings, self.parts)
        # independent streams of one seed
        streams = np.random.SeedSequence(seed).spawn(6)
        initial, self._shuffled, self._drawn, augmenting, self._changing, self._noise = (
            int(s.generate_state(1)[0]) for s in streams
        )
        self.device = device()
        self._objective = Objective(**settings.get("loss", {}))
        model = models.make(
            settings["model"], examples.shape, examples.classes, settings.get("model_settings", {}), initial
        )
        self.model = self._objective.predictor(model).to(self.device)
        self._norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
        self._carrying, self._noisy = carrying(self.model), is_noisy(self.model)
        self._params = [p for p in self.model.parameters() if p.requires_grad]
        self._augmenting = torch.Generator().manual_seed(augmenting)
        self._earlier = {"gradients": 0, "products": 0, "skipped": 0}
        self._begin(0)
        # how far it is; the measures look at the model now
        self._done = self._iterations = 0
        self._sums = Sums.zeros(self.device)
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
        return self._used("skipped")

    def advance(self, pause: Callable[[], bool] = never) -> dict[str, Any] | None:
        """Run the next part; return loss and accuracy (%) over its batches, and on the test set."""
        if self._phase + 1 < len(self._phases) and self._done == self._phases[self._phase + 1].first:
            self._begin(self._phase + 1)
        sums, length, begins = self._sums, self._length(), True
        last = sums.loss
        while sums.iterations < length:
            if begins or self._phases[self._phase].moves:
                self.set_rates((sums.iterations + 1) / length)
            begins = False
            indices = self.next_batch()
            last, correct, places = self.one_step(indices)
            sums.add(last, correct, places)
            for measure in self.measures.values():
                measure.after_step(indices, correct)
            self._iterations += 1
            if sums.iterations < length and pause():
                return None
        self._done, self._sums = self._done + 1, Sums.zeros(self.device)
        test_loss, accuracy = self.evaluate("test")
        self._finite = bool(torch.isfinite(last)) and math.isfinite(test_loss)
        self._best = max(self._best, accuracy)
        self._last = {
            "train_loss": float(sums.loss) / sums.seen,
            "train_accuracy": 100 * int(sums.right) / max(int(sums.asked), 1),
            "test_loss": test_loss,
            "accuracy": accuracy,
        }
        more: dict[str, Any] = {}
        for measure in self.measures.values():
            more |= measure.after_part()
        return {**self._last, "iterations": self._iterations, "products": self._used("products"), **more}

    def final(self) -> dict[str, Any]:
        """Return the last metrics, the best accuracy, and what was used; at the end what was measured."""
        found = {
            **self._last,
            "best_accuracy": self._best,
            "iterations": self._iterations,
            "parameters": sum(p.numel() for p in self._params),
            "gradients": self._used("gradients"),
            "products": self._used("products"),
            "optimizer": self.steps.version,
            "device": name_of(self.device),
        }
        if self.status == "done":  # they may take as long as an epoch
            for measure in self.measures.values():
                found |= measure.final()
        return found

    def save(self, file: IO[bytes]) -> None:
        """Write all that what comes depends on, as tensors, numbers and texts."""
        held = {
            "model": self.model.state_dict(),
            "steps": self.steps.state_dict(),
            "batches": self.batches.state_dict(),
            "augmenting": self._augmenting.get_state(),
            "measures": {name: measure.state_dict() for name, measure in self.measures.items()},
            "phase": [self._phase, self._earlier],
            "sums": list(self._sums),
            "progress": [self._done, self._iterations, self._best, self._last, self._finite],
        }
        torch.save(held, file)

    def load(self, file: IO[bytes]) -> None:
        """Take up what `save` wrote; nothing is unpickled but tensors, numbers and texts."""
        held = torch.load(file, weights_only=True, map_location="cpu")
        phase, self._earlier = held["phase"]
        if phase != self._phase:
            self._begin(phase, counting=False)
        self.model.load_state_dict(held["model"])
        self.steps.load_state_dict(held["steps"])
        self.batches.load_state_dict(held["batches"])
        self._augmenting.set_state(held["augmenting"])
        for name, state in held["measures"].items():
            self.measures[name].load_state_dict(state)
        self._sums = Sums.of(held["sums"], self.device)
        self._done, self._iterations, self._best, self._last, self._finite = held["progress"]

    # -- what measures ask for -------------------------------------------------------------------------

    @property
    def last(self) -> dict[str, Any]:
        """Loss and accuracy of the last part, on both sets."""
        return self._last

    def logits(
        self, split: Literal["train", "test"], examples: Examples | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits (m, classes) and labels (m,) of a whole set's places; see `logits_of`."""
        return logits_of(self.model, examples or self.examples, split, self.device)

    def evaluate(
        self, split: Literal["train", "test"], examples: Examples | None = None
    ) -> tuple[float, float]:
        """Return loss and accuracy (%) on a whole set: of the phase under way, or of other examples."""
        loss, right, seen = 0.0, 0, 0
        for logits, labels in self.logits(split, examples):
            loss += float(cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
        return loss / seen, 100 * right / seen

    @property
    def phase(self) -> int:
        """The number of the phase under way."""
        return self._phase

    def examples_in(self, phase: int) -> Examples:
        """Return the examples of a phase, on the device."""
        changes = self._phases[phase].settings.get("changes", ())
        return changed(self.given, changes, self._changing).to(self.device)

    # -- its parts -------------------------------------------------------------------------------------

    def _begin(self, phase: int, counting: bool = True) -> None:
        """Enter a phase: make its data, its batches and, if it has a new one, its optimiser."""
        now = self._phases[phase]
        if now.starts or not counting:
            if counting and phase:
                self._earlier = {name: self._used(name) for name in self._earlier}
            own = now.settings.get("optimizer_settings") or {}
            self.steps = optimizers.make(now.settings["optimizer"], self.model, own, self._drawn + phase)
        self._phase, self._l2 = phase, now.settings.get("l2", 0.0)
        self.examples = self.examples_in(phase)
        order = ORDERS[self.settings.get("order", "shuffled")]
        size, batch = len(self.examples.train_x), self.settings["batch"]
        self.batches: Order = order(size, batch, self._shuffled + phase)

    def _used(self, name: str) -> int:
        """Return how many gradients, products or refusals all optimisers had."""
        count: int = self._earlier[name] + getattr(self.steps, name)
        return count

    def set_rates(self, progress: float = 1.0) -> None:
        """Set the rates of the part that comes next; `progress` is how much of it the next step completes."""
        now = self._phases[self._phase]
        step = None if now.step is None else now.step(self._done, progress)
        self.steps.rates(now.lr(self._done, progress), step)

    def next_batch(self) -> Tensor:
        """Return the places of the next batch; nothing is carried to one that does not follow the last."""
        if not self.batches.follows:
            for part in self._carrying:
                part.carry(())
        return self.batches.next()

    def one_step(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do a step.

        Return the cross-entropy of the batch, what of it was predicted right before, and how many places
        were asked for. However often the optimiser evaluates the loss, statistics of batches move once,
        dropout is the same, and a model that carries a state begins in the same.
        """
        x, y = self.examples.batch("train", indices, self.device)
        augment = self.settings.get("augment", ())
        x, y = augmented(x, y, augment, self._augmenting, self.examples.classes)
        momenta = [m.momentum for m in self._norms]

        def loss() -> tuple[Tensor, Any]:
            with noise(self._noise + self._iterations, self.device) if self._noisy else nullcontext():
                logits = self.model(x)
            for m in self._norms:  # a running mean of momentum 0 stays
                m.momentum = 0.0
            value, known = self._objective(logits, y), logits.detach()
            more = loss_of(known, y), known.argmax(-1) == y, [part.after for part in self._carrying]
            if self._l2:
                value = value + 0.5 * self._l2 * sum(p.square().sum() for p in self._params)
            return value, more

        _, (value, correct, ends) = self.steps.step(loss)
        for m, momentum in zip(self._norms, momenta, strict=True):
            m.momentum = momentum
        for part, state in zip(self._carrying, ends, strict=True):
            part.carry(state)
        return value, correct, (y != IGNORED).sum()

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
    if settings.get("order", "shuffled") not in ORDERS:
        raise ValueError(f"`order` must be one of {', '.join(ORDERS)}, got {settings['order']!r}")
    strange = [one["name"] for one in settings.get("augment", ()) if one["name"] not in AUGMENTATIONS]
    if strange:
        raise ValueError(f"`augment` must be among {', '.join(AUGMENTATIONS)}, got {strange[0]!r}")
    unknown = [name for name in settings.get("measures", ()) if name not in MEASURES]
    if unknown:
        raise ValueError(f"`measures` must be among {', '.join(MEASURES)}, got {unknown[0]!r}")
