"""Subsets of high and low entropy, and what a LeNet5 shows of uncertainty and forgetting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claims import Claim, all_of, better
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import figure, rows
from ..panels import entropy_by_events
from ..within import better_within

SGD, ADAM, PSGD = "SGD", "Adam", "PSGD LowRank(5)"

METHODS: dict[str, dict[str, Any]] = {
    SGD: {"optimizer": "sgd", "lr": [0.1, 0.001]},
    ADAM: {"optimizer": "adam", "lr": [1e-3, 1e-5]},
    PSGD: {
        "optimizer": "psgd_lowrank",
        "optimizer_settings": {"rank": 5, "clip": 10.0},
        "lr": [0.1, 0.001],
        "step": [0.1, 0.01],
    },
}
"""E.1's for PSGD; the paper does not say the others."""

SECONDS = {SGD: 9e-3, ADAM: 11e-3, PSGD: 27e-3}
"""Of a step."""


def cells(train: int, size: int, epochs: int, methods: tuple[str, ...] = tuple(METHODS)) -> tuple[Cell, ...]:
    """Return a cell for each optimiser: an oracle on `train` images, two networks on `size` each."""
    shared = {"model": "lenet5", "data": "mnist", "batch": 64, "epochs": epochs, "train": train, "size": size}
    steps = epochs * (train + 2 * size) / 64
    return tuple(Cell(name, {**shared, **METHODS[name]}, steps * SECONDS[name]) for name in methods)


def start(job: Job, folder: Path | None) -> Training:
    """Return the oracle and the two networks that follow it, as one run."""
    from ..subsets import start

    return start(job, folder)


def columns() -> tuple[Column, ...]:
    """Return Table 11's columns, three of each, then those of Tables 6 and 10."""
    found = []
    for title, key, form, paper in (
        ("test accuracy, %", "accuracy", ".2f", ("99.3", "99.3", "74.2")),
        ("mean entropy on the oracle's low subset", "low_entropy", ".1e", ("5e-16", "1e-10", "6e-18")),
        ("mean entropy on its high subset", "high_entropy", ".1e", ("6e-3", "2e-2", "4e-4")),
    ):
        for which, number in zip(("full", "high", "low"), paper, strict=True):
            cited = {SGD: number, PSGD: number}
            found.append(Column(f"{title}: {which}", f"{key}_{which}", form, cited, "median"))
    for which, sgd, psgd in (("full", "23.1", "26"), ("high", "21.7", "21.2"), ("low", "9.2", "8.7")):
        both = {SGD: sgd, PSGD: psgd}
        found.append(Column(f"distance from initialisation: {which}", f"distance_{which}", ".2f", both))
    for which in ("min", "mean", "max"):
        key = f"train_entropy_{which}"
        found.append(Column(f"entropy of training images: {which}", key, ".1e", spread="median"))
    for which in ("min", "mean", "max"):
        found.append(Column(f"their margin: {which}", f"train_margin_{which}", ".3f", spread="median"))
    for title, key in (
        ("Spearman, entropy and forgetting", "spearman"),
        ("Pearson", "pearson"),
        ("Kendall", "kendall"),
        ("weighted tau", "weighted_tau"),
        ("never forgotten", "unforgettable"),
    ):
        found.append(Column(title, key, ".2f"))
    return tuple(found)


BOTH = (SGD, PSGD)

EXPERIMENT = Experiment(
    name="entropy",
    title="High and low entropy: what a LeNet5 learns from",
    sources=("Table 11", "Table 6", "Table 10", "Figure 7", "E.4", "5.4"),
    claim="A network generalises as well from the examples an oracle is least sure of as from all, and badly "
    "from those it is most sure of; PSGD's networks are less sure than SGD's.",
    needs=("torch",),
    data=("mnist",),
    plans={
        "smoke": Plan(cells(512, 100, 2, BOTH), 1, "10 s", ("512 images, subsets of 100, 2 epochs",)),
        "reduced": Plan(
            cells(12_000, 2_000, 20), 3, "12 min", ("12,000 of the 60,000 images, subsets of 2,000",)
        ),
        "faithful": Plan(cells(60_000, 10_000, 20), 10, "4 h"),
    },
    start=start,
    columns=columns(),
    claims=(
        *(
            Claim(
                f"{name}: the subset of high entropy generalises better than that of low entropy",
                "Table 11",
                "99.3 and 74.2 %",
                better_within(name, "accuracy_high", "accuracy_low"),
            )
            for name in BOTH
        ),
        *(
            Claim(
                f"{name}: the subset of high entropy generalises like the whole set (within 0.5 %)",
                "Table 11",
                "99.3 and 99.3 %",
                better_within(name, "accuracy_high", "accuracy_full", factor=0.995),
            )
            for name in BOTH
        ),
        *(
            Claim(
                f"{name}: trained on low entropy, a network is surer of those examples than trained on all, "
                "and that one surer than trained on high entropy",
                "Table 11",
                "6e-18, 5e-16 and 1e-10 nats",
                all_of(
                    better_within(name, "low_entropy_low", "low_entropy_full", larger=False),
                    better_within(name, "low_entropy_full", "low_entropy_high", larger=False),
                ),
            )
            for name in BOTH
        ),
        *(
            Claim(
                f"{name}: training on all moves the parameters furthest, on low entropy least",
                "Table 11",
                paper,
                all_of(
                    better_within(name, "distance_full", "distance_high"),
                    better_within(name, "distance_high", "distance_low"),
                ),
            )
            for name, paper in ((SGD, "23.1, 21.7 and 9.2"), (PSGD, "26, 21.2 and 8.7"))
        ),
        Claim(
            "On low entropy PSGD moves the parameters less than SGD",
            "Table 11",
            "8.7 and 9.2",
            better("distance_low", PSGD, SGD, larger=False),
        ),
        Claim(
            "PSGD's entropies are higher than SGD's: least, mean and largest",
            "Table 6 (ResNet18)",
            "0.139, 0.260, 1.545 and 7e-7, 0.01, 0.8975 nats",
            all_of(*(better(f"train_entropy_{which}", PSGD, SGD) for which in ("min", "mean", "max"))),
        ),
        Claim(
            "PSGD's mean margin is lower than SGD's",
            "Table 6 (ResNet18)",
            "0.956 and 0.999",
            better("train_margin_mean", PSGD, SGD, larger=False),
        ),
        Claim(
            "Entropy and forgetting are correlated more with PSGD than with SGD, by each coefficient",
            "Table 10 (ResNet18)",
            "Spearman .73 and .72, Pearson .65 and .57, Kendall .56 and .54, weighted tau .75 and .60",
            all_of(*(better(key, PSGD, SGD) for key in ("spearman", "pearson", "kendall", "weighted_tau"))),
        ),
    ),
    figures={
        "": figure(
            entropy_by_events,
            rows("accuracy_high", title="Trained on high entropy", xlabel="test accuracy, %"),
            rows("accuracy_low", title="Trained on low entropy", xlabel="test accuracy, %"),
            rows("distance_full", title="Trained on all", xlabel="distance from initialisation"),
        )
    },
    notes=(
        "Tables 6 and 10 and Figure 7 are of ResNet18 on CIFAR-10 in the paper, of LeNet5 on MNIST here.",
        "Expected low and high entropy are read as the mean entropy that a network has on the oracle's "
        "subset of low, or high, entropy, whatever it was trained on: E.4 does not say. The records also "
        "have the other reading, the means over the examples of lowest and highest entropy of the network "
        'itself ("own_low", "own_high").',
        "Table 11 does not say which optimiser its accuracies and entropies are of: they stand beside SGD "
        "and PSGD. All three networks of a run begin with the same parameters, and train as many epochs.",
        "E.4 says that training on the full set gave a higher mean low entropy than the full set: the "
        "second must be the subset of low entropy, as Table 11 has it.",
        "Table 6 gives PSGD a largest margin of 0.994 and a least entropy of 0.139 nats, which no ten "
        "probabilities have together: they are not of the same examples.",
        "Table 11 has 99.3 % for the oracle, Table 1 99.04 to 99.26 % for LeNet5.",
    ),
    contests=(
        Contest("test accuracy, trained on high entropy", "accuracy_high", (PSGD,), (SGD, ADAM)),
        Contest("test accuracy, trained on all", "accuracy_full", (PSGD,), (SGD, ADAM)),
    ),
)
