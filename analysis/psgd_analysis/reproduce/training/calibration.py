"""How well probabilities fit what comes true, and what a temperature after training changes of that."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import generalisation
from .measure import Measure

BINS = 15
"""Of the expected calibration error, as Guo et al. (2017) have it."""

LIMITS = 1e-2, 1e2
"""Between which a temperature is looked for: where all is predicted right, no temperature is low enough."""


def calibration_error(confidence: np.ndarray, correct: np.ndarray, *, equal_mass: bool = False) -> float:
    """Return the expected calibration error: the mean over examples of ``|accuracy - confidence|`` by bin.

    Parameters
    ----------
    confidence : array, shape (n,)
        The largest probability of each example.
    correct : array of bool, shape (n,)
        Whether its class is the label.
    equal_mass : bool
        Whether the `BINS` bins have as many examples each, in the order of their confidence (Nguyen and
        O'Connor, 2015), in place of the same width: networks are so sure that most bins of equal width are
        empty.
    """
    order = np.argsort(confidence, kind="stable")
    sure, right = confidence[order], correct[order].astype(np.float64)
    # bins are ((m - 1) / BINS, m / BINS]
    inner = np.arange(1, BINS) / BINS
    cuts = BINS if equal_mass else np.searchsorted(sure, inner, side="right")
    gaps = [
        np.sum(b) - np.sum(a)
        for a, b in zip(np.array_split(sure, cuts), np.array_split(right, cuts), strict=True)
    ]
    return float(np.abs(gaps).sum() / confidence.size)


def calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the numbers of one set of predictions.

    Parameters
    ----------
    logits : array, shape (n, classes)
        In float64.
    labels : array of int, shape (n,)

    Returns
    -------
    dict
        "accuracy" (%), "nll" (nats), "brier" (sum over the classes of squared errors, from 0 to 2), "ece" and
        "ece_mass" (see `calibration_error`), and the means of "entropy" (nats), "confidence", the largest
        probability, and "margin", between the probabilities of the label and of the best other class.
    """
    p, predicted = generalisation.softmax(logits), logits.argmax(1)
    confidence, correct = p.max(1), predicted == labels
    return {
        "accuracy": 100 * float(correct.mean()),
        "nll": float(generalisation.cross_entropy(logits, labels).mean()),
        "brier": float(np.square(p - np.eye(logits.shape[1])[labels]).sum(1).mean()),
        "ece": calibration_error(confidence, correct),
        "ece_mass": calibration_error(confidence, correct, equal_mass=True),
        "entropy": float(generalisation.entropy(logits).mean()),
        "confidence": float(confidence.mean()),
        "margin": float(generalisation.margin(p, labels).mean()),
    }


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature T within `LIMITS` for which ``softmax(logits / T)`` has the least loss.

    The loss is convex in 1 / T, so there is one minimum.
    """
    from scipy.optimize import minimize_scalar

    def loss(t: float) -> float:
        return float(generalisation.cross_entropy(logits / math.exp(t), labels).mean())

    bounds = tuple(map(math.log, LIMITS))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x)


class Calibration(Measure):
    """Calibration on the test set, as trained and after a temperature that is fitted when all is trained.

    Each half of the test set (every other example) gets the temperature that was fitted on the other half,
    so that no example has a part in its own.
    """

    def final(self) -> dict[str, Any]:
        """Return what `calibration` does; the same as "scaled_nll" and so on; and "fitted_temperature"."""
        blocks = [(z.double().cpu().numpy(), y.cpu().numpy()) for z, y in self.training.logits("test")]
        logits, labels = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        temperatures = [fitted_temperature(logits[k::2], labels[k::2]) for k in (1, 0)]
        scaled = logits / np.resize(temperatures, len(logits))[:, None]
        found = calibration(logits, labels)
        found |= {f"scaled_{name}": value for name, value in calibration(scaled, labels).items()}
        return {**found, "fitted_temperature": math.sqrt(math.prod(temperatures))}
