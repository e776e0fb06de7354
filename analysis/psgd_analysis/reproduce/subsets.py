"""A network trained on a whole set, the oracle, and networks trained on what it says of the examples.

Table 11 and section E.4 choose by entropy: the oracle's entropies on its training set choose two subsets, of
the highest and of the lowest. Networks that begin as the oracle did are trained on these, for as many epochs.
All three are asked for their entropies on the whole training set. `pruning` chooses by forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import generalisation
from .experiment import Job, Settings
from .stages import Found, Stage, Stages
from .training import Examples, NetworkTraining, examples_for

TRAINED_ON = ("full", "high", "low")
"""The whole training set, and its subsets of high and low entropy."""

BINS = 4
"""Numbers of forgetting events that are told apart: 0, 1, 2, and more, or never learned."""


def start(job: Job, folder: Path | None) -> Stages:
    """Return the three trainings of a job.

    Parameters
    ----------
    job : Job
        Its settings are those of the oracle's `NetworkTraining`, and "size", of each subset.
    folder : Path or None
        Where the user keeps the data.
    """
    settings = {name: value for name, value in job.settings.items() if name != "size"}
    examples, size = examples_for(job, folder), job.settings["size"]

    def on(which: str) -> Stage:
        def chosen(oracle: Found) -> np.ndarray:
            found: np.ndarray = getattr(generalisation.entropy_subsets(oracle["entropies"], size), which)
            return found

        def found_there(training: NetworkTraining) -> Found:
            entropies = entropies_of(training.model, examples.train_x)
            return {"numbers": training.final(), "entropies": entropies}

        return on_subset(which, settings, job.seed, examples, chosen, found_there)

    stages = (oracle(settings, job.seed, examples), on("high"), on("low"))
    return Stages(stages, lambda found: joined(found, size))


def oracle(settings: Settings, seed: int, examples: Examples) -> Stage:
    """Return the stage "full": trained on all examples, it finds numbers, entropies and forgetting."""
    measures = ["distance", "uncertainty", "forgetting"]

    def found(training: NetworkTraining) -> Found:
        events = training.measures["forgetting"].result  # type: ignore[attr-defined]
        return {
            "numbers": training.final(),
            "entropies": entropies_of(training.model, examples.train_x),
            "forgetting": torch.from_numpy(np.array(events.finite_scores)),
        }

    def begin(_: Mapping[str, Found]) -> NetworkTraining:
        return NetworkTraining({**settings, "measures": measures}, seed, examples)

    return Stage("full", settings["epochs"], begin, found)


def on_subset(
    name: str,
    settings: Settings,
    seed: int,
    examples: Examples,
    choose: Callable[[Found], np.ndarray],
    found: Callable[[NetworkTraining], Found],
) -> Stage:
    """Return a stage that begins as the oracle did and is trained on the examples that `choose` finds.

    Parameters
    ----------
    name : str
    settings, seed, examples
        Of the oracle.
    choose : callable
        Gets what the oracle found, and returns places in the training set.
    found : callable
        Gets the training at its end, and returns what it found.
    """

    def begin(before: Mapping[str, Found]) -> NetworkTraining:
        own = examples.of(np.sort(choose(before["full"])))
        return NetworkTraining({**settings, "measures": ["distance"]}, seed, own)

    return Stage(name, settings["epochs"], begin, found)


def entropies_of(model: torch.nn.Module, x: Tensor) -> Tensor:
    """Return the entropy of a model's softmax on each example, in nats and float64, on the processor.

    The logits are in float32; their softmax in float64 resolves entropies down to 1e-300.
    """
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        found = [generalisation.entropy(model(part.to(device)).double()).cpu() for part in x.split(500)]
    model.train()
    return torch.cat(found)


def joined(found: Mapping[str, Found], size: int) -> dict[str, Any]:
    """Return the record's numbers.

    Of each network, "accuracy_full" and so on: test accuracy, distance from initialisation, and mean entropy
    over the oracle's subsets ("low_entropy_full", "high_entropy_full") and over the network's own extremes,
    as many examples of lowest and of highest entropy in the whole training set ("own_low_full"). Of the
    oracle, its entropies and margins (Table 6), correlations of entropy and forgetting (Table 10), and how
    entropies are distributed by number of forgetting events (Figure 7). Only what was reached is there.
    """
    numbers: dict[str, Any] = {}
    if "full" not in found:
        return numbers
    oracle = found["full"]
    chosen = generalisation.entropy_subsets(oracle["entropies"], size)
    for which in TRAINED_ON:
        if which in found:
            own, entropies = found[which]["numbers"], found[which]["entropies"].numpy()
            extremes = generalisation.entropy_subsets(entropies, size)
            of_network = {
                "accuracy": own["accuracy"],
                "train_loss": own["train_loss"],
                "distance": own["distance"],
                "low_entropy": float(entropies[chosen.low].mean()),
                "high_entropy": float(entropies[chosen.high].mean()),
                "own_low": extremes.low_mean,
                "own_high": extremes.high_mean,
            }
            numbers |= {f"{name}_{which}": value for name, value in of_network.items()}
    return {**numbers, **of_oracle(oracle)}


def of_oracle(oracle: Found) -> dict[str, Any]:
    """Return the oracle's entropies, margins and forgetting, and how they go together; see `compared`."""
    kept = ("entropy", "margin", "forgett", "learned", "device")
    numbers = {k: v for k, v in oracle["numbers"].items() if any(part in k for part in kept)}
    return {**numbers, **compared(oracle["entropies"].numpy(), oracle["forgetting"].numpy())}


def compared(entropies: np.ndarray, events: np.ndarray) -> dict[str, Any]:
    """Return the correlations of entropy with forgetting, and quartiles of entropy by number of events.

    "by_events" has a row for 0, 1, 2 and more events: how many examples, and three quartiles of their
    entropies in nats. There are no correlations if no example differs from another one.
    """
    rows = []
    for k in range(BINS):
        here = entropies[events == k] if k < BINS - 1 else entropies[events >= k]
        quartiles = np.quantile(here, [0.25, 0.5, 0.75]) if here.size else [None] * 3
        rows.append([int(here.size), *(None if q is None else float(q) for q in quartiles)])
    found: dict[str, Any] = {"by_events": rows}
    if np.ptp(events) and np.ptp(entropies):
        correlations = generalisation.correlate(entropies, events).as_dict()
        for name in ("spearman", "pearson", "kendall", "weighted_tau"):
            found[name] = correlations[name]["statistic"]
    return found
