"""Trained on clean images and tested on perturbed ones: a column of Table 3."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..cifar10 import (
    BASELINES,
    CODE,
    FAITHFUL,
    LRA,
    REDUCED,
    REDUCED_DEPARTS,
    SCAN,
    SGD,
    SMOKE,
    XMAT,
    Setup,
    seconds,
    settings,
)
from ..claims import Claim, better
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import curves, figure, rows

DATA = "cifar10-perturbed"


def cells(setup: Setup, methods: tuple[str, ...], share: float = 1.0) -> tuple[Cell, ...]:
    """Return a cell for each optimiser."""
    return tuple(Cell(m, settings(setup, m, data=DATA), seconds(setup, m, share)) for m in methods)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..training import start

    return start(job, folder)


ACCURACY = "accuracy"

EXPERIMENT = Experiment(
    name="adversarial",
    title="Tested on perturbed images",
    sources=("Table 3", "5.1"),
    claim="Trained on 10,000 clean images, PSGD is better than SGD on 40,000 that were perturbed.",
    needs=("torch",),
    data=(DATA,),
    plans={
        "smoke": Plan(
            cells(replace(SMOKE, images=300), (SGD, LRA)),
            1,
            "10 s",
            ("a network of 4 to 8 channels, 300 images, 4 epochs, rates of its own",),
        ),
        "reduced": Plan(
            cells(REDUCED, (SGD, LRA)),
            3,
            "10 min",
            (
                *REDUCED_DEPARTS,
                "4,000 of the 10,000 images to train on",
                "PSGD XMat at the faithful scale only",
            ),
        ),
        "faithful": Plan(cells(FAITHFUL, (SGD, LRA, XMAT), 0.2), 5, "700 h (est.)"),
    },
    start=start,
    columns=(
        Column("accuracy on perturbed images, %", ACCURACY, ".2f"),
        Column("best on the way, %", "best_accuracy", ".2f"),
        Column("training loss", "train_loss", ".3f"),
        Column("loss on perturbed images", "test_loss", ".3f"),
        Column("products", "products", ",.0f", spread="median"),
        Column("CPU s", "cpu_seconds", ",.0f", spread="median"),
    ),
    claims=(
        Claim(
            "PSGD's accuracy on perturbed images is higher than SGD's",
            "Table 3, 5.1",
            "by 1.35 %; the table's numbers are lost in our copy",
            better(ACCURACY, LRA, SGD),
        ),
    ),
    contests=(Contest("accuracy on perturbed images", ACCURACY, (LRA, XMAT), (SGD,)),),
    figures={
        "": figure(
            rows(ACCURACY, title="Table 3", xlabel="accuracy on perturbed images, %"),
            curves("accuracy", xlabel="epoch", ylabel="accuracy on perturbed images, %"),
        )
    },
    notes=(
        "The perturbed images are NTGA's, which its authors publish and `--data DIR` gives: "
        "`DIR/cifar10-perturbed` with `x_val_cifar10.npy`, `y_val_cifar10.npy`, "
        "`x_train_cifar10_ntga_cnn_best.npy` and `y_train_cifar10.npy`. Where they are not there, a fifth of "
        "CIFAR-10's training set is trained on and the rest tested on, each pixel and colour of it 8 of 255 "
        "levels up or down at random, the strength of NTGA's. Such noise knows nothing of networks, so it "
        "tests something weaker; tables then name the data as cifar10-noise or cifar10-jpeg-noise.",
        "The paper does not say which perturbed set it has; the authors' code has that of the convolutional "
        "model. As published, the code crops and flips the test images at random too; here they are whole.",
        "How many runs Table 3 has is not said; 5 at the faithful scale here.",
        CODE,
        BASELINES,
        SCAN,
    ),
)
