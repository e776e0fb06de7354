"""Does higher entropy cause better generalisation? Entropy is controlled, all else held: next check 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..claims import Claim, all_of, better
from ..contests import Contest
from ..doses import slope
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import figure
from ..panels import responses

SGD, FASTER, PSGD = "SGD", "SGD at 0.1", "PSGD LowRank(5)"

METHODS: dict[str, dict[str, Any]] = {
    SGD: {"optimizer": "momentum", "lr": [0.03, 0.0003]},
    FASTER: {"optimizer": "momentum", "lr": [0.1, 0.001]},
    PSGD: {
        "optimizer": "psgd_lowrank",
        "optimizer_settings": {"rank": 5, "clip": 1.0, "every": 10},
        "lr": [0.3, 0.003],
        "step": [0.1, 0.01],
    },
}
"""SGD has momentum 0.9; at 0.1 it memorises wrong labels. P is fitted once in ten steps, as in E.2."""

LABELS: dict[str, list[dict[str, Any]]] = {
    "clean": [],
    "noisy": [{"name": "uniform_noise", "rate": 0.54}],
}
"""5.1: 46 % of the labels are right, 6 % fall on each other class."""

DOSES: dict[str, dict[str, dict[str, float]]] = {
    "temperature": {f"T = {t:g}": {"temperature": t} for t in (0.25, 0.5, 2.0, 4.0)},
    "entropy term": {f"β = {b:g}": {"entropy": b} for b in (-0.3, -0.1, 0.3, 1.0)},
    "label smoothing": {f"ε = {e:g}": {"smoothing": e} for e in (0.1, 0.3)},
}
"""By what controls the entropy: the loss by name of the dose."""

LOSSES: dict[str, dict[str, float]] = {"": {}} | {
    n: own for found in DOSES.values() for n, own in found.items()
}
"""All of them, and the plain loss."""

SECONDS = {SGD: 7e-3, FASTER: 7e-3, PSGD: 10e-3}
"""Of a step, roughly."""


def name(method: str, labels: str, dose: str = "") -> str:
    """Return the name of a cell."""
    return f"{method}, {labels}{f', {dose}' if dose else ''}"


def line(method: str, labels: str, control: str) -> list[str]:
    """Return the names of the cells that differ in one control alone, the plain loss in its place."""
    plain = 1.0 if control == "temperature" else 0.0
    doses = {"": plain} | {dose: next(iter(own.values())) for dose, own in DOSES[control].items()}
    return [name(method, labels, dose) for dose in sorted(doses, key=doses.__getitem__)]


def cells(
    iterations: int,
    parts: int,
    labels: Sequence[str] = tuple(LABELS),
    doses: Sequence[str] = tuple(LOSSES),
    **size: Any,
) -> tuple[Cell, ...]:
    """Return a cell for each optimiser, kind of labels and dose; `size` limits the number of images."""
    return tuple(
        Cell(
            name(method, kind, dose),
            {
                "model": "lenet5",
                "data": "mnist",
                "batch": 64,
                "iterations": iterations,
                "parts": parts,
                "changes": LABELS[kind],
                "loss": LOSSES[dose],
                "measures": ["train", "uncertainty", "calibration"],
                **size,
                **own,
            },
            iterations * SECONDS[method] + 2,
        )
        for kind in labels
        for method, own in METHODS.items()
        for dose in doses
    )


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..training import start

    return start(job, folder)


ENTROPY, ACCURACY = "entropy", "accuracy"

SOURCE = "next check 2, 5.4"


def claims() -> tuple[Claim, ...]:
    """Return what the paper says of cause and effect, for each kind of labels; the headline first."""
    says = 'in words: "PSGD\'s higher uncertainty leads to better generalization"'
    found = []
    for kind in LABELS:
        for method in METHODS:
            slopes = {c: slope(ACCURACY, ENTROPY, line(method, kind, c)) for c in DOSES}
            text = f"{method}, {kind} labels: higher entropy causes a higher test accuracy"
            found.append(Claim(f"{text}, whichever way it is raised", SOURCE, says, all_of(*slopes.values())))
            found += [
                Claim(f"{text}: by {control}", SOURCE, says, judge) for control, judge in slopes.items()
            ]
        ours, theirs = name(PSGD, kind), name(SGD, kind)
        found += [
            Claim(
                f"{kind} labels: PSGD's predictions have a higher entropy than SGD's",
                "Table 6, 5.4",
                "0.260 and 0.01 nats (ResNet18)",
                better(ENTROPY, ours, theirs),
            ),
            Claim(
                f"{kind} labels: PSGD's test accuracy is higher than SGD's",
                "Table 2, Table 3",
                "95.49 and 95.47 %; noisy 78.63 and 73.98 % (ResNet18)",
                better(ACCURACY, ours, theirs),
            ),
        ]
    return tuple(found)


EXPERIMENT = Experiment(
    name="calibration",
    title="Entropy and generalisation: cause and effect",
    sources=("summary, next check 2", "5.4"),
    claim="PSGD's higher entropy causes its better generalisation: less sure networks generalise better.",
    needs=("torch",),
    data=("mnist",),
    plans={
        "smoke": Plan(
            cells(8, 2, ("noisy",), ("", "T = 4", "β = 1", "ε = 0.1"), train=256, test=200),
            1,
            "20 s",
            ("256 images, 8 steps, noisy labels only, four doses",),
        ),
        "reduced": Plan(
            cells(600, 6, train=1_000, test=5_000),
            5,
            "35 min",
            ("LeNet5 on 1,000 images of MNIST, 600 steps; the paper's Table 6 is of ResNet18 on CIFAR-10",),
        ),
        "faithful": Plan(cells(9_380, 10), 10, "15 h"),
    },
    start=start,
    columns=(
        Column("test accuracy, %", ACCURACY, ".2f"),
        Column("entropy, nats", ENTROPY, ".3g"),
        Column("its entropy on training images", "train_entropy_mean", ".2g", spread="median"),
        Column("margin", "margin", ".3f"),
        Column("test loss, nats", "nll", ".3f"),
        Column("ECE", "ece", ".3f"),
        Column("ECE, equal mass", "ece_mass", ".3f"),
        Column("Brier", "brier", ".3f"),
        Column("training loss", "whole_train_loss", ".2g", spread="median"),
        Column("temperature fitted afterwards", "fitted_temperature", ".2f"),
        Column("entropy with it", "scaled_entropy", ".3g"),
        Column("test loss with it", "scaled_nll", ".3f"),
        Column("ECE with it", "scaled_ece", ".3f"),
        Column("test accuracy with it, %", "scaled_accuracy", ".2f"),
        Column("CPU s", "cpu_seconds", ",.0f", spread="median"),
    ),
    claims=claims(),
    figures={
        "": figure(
            *(
                responses(
                    ENTROPY,
                    ACCURACY,
                    {f"{method}, {c}": line(method, kind, c) for method in METHODS for c in DOSES},
                    title=f"{kind} labels",
                    xlabel="mean entropy of test predictions, nats",
                    ylabel="test accuracy, %",
                )
                for kind in LABELS
            ),
            *(
                responses(
                    ENTROPY,
                    "ece",
                    {f"{method}, {c}": line(method, kind, c) for method in METHODS for c in DOSES},
                    title=f"{kind} labels",
                    xlabel="mean entropy of test predictions, nats",
                    ylabel="calibration error (ECE)",
                )
                for kind in LABELS
            ),
        )
    },
    notes=(
        "The claim is made of ResNet18 on CIFAR-10 in the paper (Table 6); here it is tested with LeNet5 on "
        "MNIST.",
        "Within a seed everything but the loss is the same: initial parameters, batches, the labels that are "
        "wrong, rates. T divides the logits in training and in prediction; β is of - β × mean entropy, the "
        "confidence penalty of Pereyra et al. (2017) where it is positive; ε of the labels is spread evenly. "
        "All numbers of predictions are of the model with its own T, on test images.",
        "No way to raise entropy changes entropy alone. T also divides SGD's gradients, as a lower learning "
        "rate does; PSGD, whose P follows the curvature, feels that less. Strong penalties leave the network "
        "underfitted. Were entropy the cause, it would not matter how it is raised: so the first claim asks "
        "for all three.",
        "A slope is a straight line through all doses of a seed; where a dose in between is best, the "
        "verdict's words say which. Accuracy is in %, so a slope is in points of a hundred per nat.",
        "A control: a temperature after training, fitted on one half of the test images for the other one "
        "and the reverse, changes entropy, loss and calibration of the same networks, and no prediction. So "
        "where accuracy follows entropy, it is by how the network was trained, not by its being less sure.",
        "Rates and clip are the best of a short scan on seed 0 without a dose, by the accuracies on clean "
        "and on noisy labels: SGD's rate of 0.03 and 0.1 at first, PSGD's of 0.1 and 0.3 with clips of 1, 3 "
        "and 10. SGD at 0.1, nearly as good on clean labels, is shown besides: it memorises wrong labels, of "
        "which the paper speaks. With E.1's rate of 0.1 and clip of 10 PSGD stayed at chance on noisy ones; "
        "with E.2's averaged momentum also on clean ones, so it has none.",
    ),
    contests=tuple(
        Contest(f"{what}, {kind} labels", key, (name(PSGD, kind),), (name(SGD, kind),), larger)
        for kind in LABELS
        for what, key, larger in (
            ("test accuracy", ACCURACY, True),
            ("test loss", "nll", False),
            ("calibration error", "ece", False),
        )
    ),
)
