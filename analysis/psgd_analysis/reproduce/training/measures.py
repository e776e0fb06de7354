"""What is measured of a run besides losses and accuracies, each by a class of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ...generalisation import distance_from_initialization, uncertainty
from .calibration import Calibration
from .measure import Measure
from .products import Products
from .retention import Retention
from .solutions import Events, Hessian, Memory, Seconds

if TYPE_CHECKING:
    from .networks import NetworkTraining


class Train(Measure):
    """Loss and accuracy (%) on the whole training set, at the end."""

    def final(self) -> dict[str, Any]:
        """Return "whole_train_loss" and "whole_train_accuracy"."""
        loss, accuracy = self.training.evaluate("train")
        return {"whole_train_loss": loss, "whole_train_accuracy": accuracy}


class Distance(Measure):
    """How far the parameters are from where they began, as in Table 11."""

    def __init__(self, training: NetworkTraining) -> None:
        super().__init__(training)
        self._initial = {name: p.detach().clone() for name, p in training.model.named_parameters()}

    def final(self) -> dict[str, Any]:
        """Return "distance", and "relative_distance" in units of the initial norm."""
        found = distance_from_initialization(dict(self.training.model.named_parameters()), self._initial)
        return {"distance": found.total, "relative_distance": found.relative}


class Entropies(Measure):
    """Entropy (nats) and margin of the predictions on both sets, as in Tables 6 and 11."""

    def final(self) -> dict[str, Any]:
        """Return "test_entropy_mean" and so on: of both sets, of entropy and margin, least, mean, largest."""
        numbers = {}
        for split in ("test", "train"):
            found: Any = sum(uncertainty(x, y) for x, y in self.training.logits(split))
            for name, values in (("entropy", found.entropy), ("margin", found.margin)):
                for which in ("min", "mean", "max"):
                    numbers[f"{split}_{name}_{which}"] = float(getattr(values, which))
        return numbers


LARGEST = 700.0
"""Loss whose exponential is still finite."""


class Perplexity(Measure):
    """The exponential of the mean loss on the test set, and its least value on the way."""

    def __init__(self, training: NetworkTraining) -> None:
        super().__init__(training)
        self._last = self._least = math.inf

    def after_part(self) -> dict[str, Any]:
        """Return "perplexity"."""
        self._last = math.exp(min(self.training.last["test_loss"], LARGEST))
        self._least = min(self._least, self._last)
        return {"perplexity": self._last}

    def final(self) -> dict[str, Any]:
        """Return "perplexity" and "best_perplexity"."""
        return {"perplexity": self._last, "best_perplexity": self._least}

    def state_dict(self) -> dict[str, Any]:
        """Return the last and the least so far."""
        return {"last": self._last, "least": self._least}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._last, self._least = state["last"], state["least"]


class Labels(Measure):
    """What a network makes of labels that a change of the data has made wrong; for one label each."""

    def final(self) -> dict[str, Any]:
        """Return "true_accuracy" and "memorised", in percent.

        The first is the accuracy on the training images with the labels they were given with, the second how
        many of those labelled wrong are predicted as labelled; None if none is.
        """
        predicted = torch.cat([logits.argmax(1) for logits, _ in self.training.logits("train")]).cpu()
        true, labels = self.training.given.train_y, self.training.examples.train_y.cpu()
        wrong = labels != true
        memorised = 100 * float((predicted == labels)[wrong].double().mean()) if wrong.any() else None
        return {
            "true_accuracy": 100 * float((predicted == true).double().mean()),
            "memorised": memorised,
        }


MEASURES: dict[str, Callable[..., Measure]] = {
    "train": Train,
    "distance": Distance,
    "uncertainty": Entropies,
    "perplexity": Perplexity,
    "calibration": Calibration,
    "labels": Labels,
    "forgetting": Events,
    "hessian": Hessian,
    "seconds": Seconds,
    "memory": Memory,
    "retention": Retention,
    "products": Products,
}
"""By the name that settings have."""
