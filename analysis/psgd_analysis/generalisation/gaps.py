"""The generalisation gap: what a network loses between its training set and its test set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from psgd_core.display import html_table

from ..documents import plain
from ..tables import short
from . import charts
from .statistics import Uncertainty


@dataclass(frozen=True, repr=False)
class Gap:
    """Statistics of one network on training and test set, and their differences. Made by `gap`."""

    train: Uncertainty
    test: Uncertainty

    @property
    def accuracy(self) -> float:
        """Training minus test accuracy: positive where the network does worse on new examples."""
        return self.train.accuracy - self.test.accuracy

    @property
    def accuracy_error(self) -> float:
        """Standard error of `accuracy`, for independent examples."""
        return math.hypot(self.train.accuracy_error, self.test.accuracy_error)

    @property
    def loss(self) -> float:
        """Test minus training loss in nats: positive where the network does worse on new examples."""
        assert self.train.loss is not None
        assert self.test.loss is not None
        return self.test.loss.mean - self.train.loss.mean

    @property
    def entropy(self) -> float:
        """Mean test minus mean training entropy in nats: positive where the network is less sure."""
        return self.test.entropy.mean - self.train.entropy.mean

    @property
    def margin(self) -> float:
        """Mean training minus mean test margin between probabilities."""
        return self.train.margin.mean - self.test.margin.mean

    def as_dict(self) -> dict[str, Any]:
        """Return both sets' statistics and the gaps in types that JSON has."""
        names = ("accuracy", "accuracy_error", "loss", "entropy", "margin")
        return {
            "gap": {name: plain(getattr(self, name)) for name in names},
            "train": self.train.as_dict(),
            "test": self.test.as_dict(),
        }

    def plot(self, ax: Any = None) -> Any:
        """Draw accuracy, margin and entropy on both sets."""
        return charts.gap_chart({"": self}, ax)

    def __repr__(self) -> str:
        return (
            f"Gap(accuracy {self._points()}, loss {short(self.loss)} nats, "
            f"entropy {short(self.entropy)} nats, margin {short(self.margin)})"
        )

    def _points(self) -> str:
        return f"{100 * self.accuracy:.2f} ± {100 * self.accuracy_error:.2f} points"

    def _repr_html_(self) -> str:
        assert self.train.loss is not None
        assert self.test.loss is not None
        rows = [
            ("accuracy", f"{self.train.accuracy:.2%}", f"{self.test.accuracy:.2%}", self._points()),
            _row("cross-entropy / nats", self.train.loss.mean, self.test.loss.mean, self.loss),
            _row("mean entropy / nats", self.train.entropy.mean, self.test.entropy.mean, self.entropy),
            _row("mean margin (probability)", self.train.margin.mean, self.test.margin.mean, self.margin),
        ]
        return html_table("Generalisation gap", ("", "training", "test", "gap"), rows)


def _row(name: str, train: float, test: float, difference: float) -> tuple[str, str, str, str]:
    return name, short(train), short(test), short(difference)


def gap(train: Uncertainty, test: Uncertainty) -> Gap:
    """Return the generalisation gap between two sets' statistics, both taken with the same network.

    Parameters
    ----------
    train, test : Uncertainty
        From `uncertainty` with labels, on at least one example each.

    Raises
    ------
    ValueError
        If one lacks labels or examples, or they differ in the number of classes.
    """
    for name, statistics in (("train", train), ("test", test)):
        if statistics.loss is None or statistics.count == 0:
            got = "no labels" if statistics.loss is None else "no examples"
            raise ValueError(
                f"`{name}` must come from labelled examples, got {got}; give `uncertainty` labels"
            )
    if train.classes != test.classes:
        raise ValueError(
            f"`test` must have the {train.classes} classes of `train`, got {test.classes}; "
            "take both statistics with one network"
        )
    return Gap(train, test)
