"""Pruning by forgetting: networks trained on what the first one forgot most often (Table 7, section 5.4).

A first network is trained on all examples and its forgetting events are counted. Others, which begin as it
did and have its optimiser, are trained on the most forgettable shares of the examples for as many epochs, and
one on as many random ones as the smallest share has. The last is a network of a reference optimiser with
another seed, on all examples, whose order of forgetting the first one's is held against: where the optimiser
is the reference itself, that is how far two runs of one optimiser agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import generalisation
from .experiment import Job
from .stages import Found, Stage, Stages
from .subsets import of_oracle, on_subset, oracle
from .training import Examples, NetworkTraining, examples_for

ANOTHER = 1_000_000
"""Added to the seed for the reference."""


def start(job: Job, folder: Path | None) -> Stages:
    """Return the trainings of a job.

    Parameters
    ----------
    job : Job
        Its settings are those of the first `NetworkTraining`; "keep", shares of the examples, from 0 to 1;
        and "reference", the settings in which the reference differs.
    folder : Path or None
        Where the user keeps the data.
    """
    settings = {name: x for name, x in job.settings.items() if name not in ("keep", "reference")}
    others = {**settings, **job.settings["reference"]}
    keep, examples = job.settings["keep"], examples_for(job, folder)
    count = len(examples.train_x)

    def at_random(_: Found) -> np.ndarray:
        drawn: np.ndarray = np.random.default_rng([job.seed, *b"random"]).permutation(count)
        return drawn[: size_of(min(keep), count)]

    def on_share(share: float) -> Stage:
        def chosen(first: Found) -> np.ndarray:
            return most_forgettable(first, share)

        return on_subset(named(share), settings, job.seed, examples, chosen, accuracy)

    stages = (
        oracle(settings, job.seed, examples),
        *map(on_share, keep),
        on_subset("random", settings, job.seed, examples, at_random, accuracy),
        reference(others, job.seed + ANOTHER, examples),
    )
    return Stages(stages, lambda found: joined(found, keep))


def reference(settings: Mapping[str, Any], seed: int, examples: Examples) -> Stage:
    """Return the stage "reference", on all examples: it finds forgetting."""
    whole = oracle(settings, seed, examples)
    return Stage(
        "reference", whole.parts, whole.start, lambda t: {"forgetting": whole.found(t)["forgetting"]}
    )


def accuracy(training: NetworkTraining) -> Found:
    """Return the test accuracy at the end of a training, %."""
    return {"accuracy": training.final()["accuracy"]}


def size_of(share: float, count: int) -> int:
    """Return how many of so many examples a share has, at least one."""
    return max(1, round(share * count))


def named(share: float) -> str:
    """Return the name of a share: its percents."""
    return f"{100 * share:g}"


def most_forgettable(found: Found, share: float) -> np.ndarray:
    """Return the places of the examples forgotten most often, of equal ones those of highest entropy.

    Those never learned count as forgotten most often. To decide by place would prefer some classes where the
    data is in the order of its classes.
    """
    order = generalisation.pruning_order(found["forgetting"].numpy(), found["entropies"].numpy())
    kept: np.ndarray = order[len(order) - size_of(share, len(order)) :]
    return kept


def joined(found: Mapping[str, Found], keep: Sequence[float]) -> dict[str, Any]:
    """Return the record's numbers.

    "accuracy" of the first network, "accuracy_50" and so on of those trained on shares of 50 %, with
    "accuracy_random" of the random ones: on the test set, %. Of the first, entropies, margins, forgetting and
    their correlations (Tables 6 and 10, Figure 7). "order_spearman" and so on compare its order of forgetting
    with the reference's. Only what was reached is there.
    """
    numbers: dict[str, Any] = {}
    if "full" not in found:
        return numbers
    first = found["full"]
    numbers |= {key: first["numbers"][key] for key in ("accuracy", "train_loss", "products")}
    for name in (*map(named, keep), "random"):
        if name in found:
            numbers[f"accuracy_{name}"] = found[name]["accuracy"]
    if "reference" in found:
        orders = [f["forgetting"].numpy() for f in (first, found["reference"])]
        if all(np.ptp(scores) for scores in orders):
            coefficients = generalisation.correlate(*orders).as_dict()
            for name in ("spearman", "kendall"):
                numbers[f"order_{name}"] = coefficients[name]["statistic"]
            numbers["order_p"] = coefficients["spearman"]["pvalue"]
    return {**numbers, **of_oracle(first)}
