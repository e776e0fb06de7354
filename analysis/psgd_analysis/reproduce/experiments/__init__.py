"""The experiments, one file each, named as on the command line; each has an `EXPERIMENT`."""

from __future__ import annotations

from importlib import import_module

from ..experiment import Experiment

NAMES = (
    *("xor", "lenet", "logistic", "entropy", "solutions", "rank", "cost"),
    *("cifar", "grid", "imbalance", "adversarial", "noise", "blur", "stubborn", "forgetting"),
    *("lstm", "gpt", "openwebtext", "masked", "ppo"),
    *("calibration", "drift", "tasks", "kinks"),
)
"""In the order of the list."""


def experiment(name: str) -> Experiment:
    """Return an experiment by name."""
    found: Experiment = import_module(f"{__name__}.{name}").EXPERIMENT
    return found
