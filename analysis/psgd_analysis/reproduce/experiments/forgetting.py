"""Forgetting and uncertainty of a residual network on CIFAR-10: Tables 6, 7 and 10, Figure 7."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..cifar10 import (
    BASELINES,
    CODE,
    FAITHFUL,
    LRA,
    REDUCED,
    SGD,
    SMOKE,
    Setup,
    optimizer_of,
    seconds,
    settings,
)
from ..claims import Claim, all_of, better, near
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import figure, rows
from ..panels import entropy_by_events
from ..within import better_within

KEEP = (0.5, 0.3, 0.1)
"""25,000, 15,000 and 5,000 of 50,000."""


def cells(setup: Setup) -> tuple[Cell, ...]:
    """Return both optimisers, each with SGD as the reference for its order."""
    share = 1 + sum(KEEP) + min(KEEP)
    found = []
    for method in (SGD, LRA):
        own = {**settings(setup, method), "keep": list(KEEP), "reference": optimizer_of(setup, SGD)}
        found.append(Cell(method, own, seconds(setup, method, share) + seconds(setup, SGD)))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return the trainings of a cell, as one run."""
    from ..pruning import start

    return start(job, folder)


def columns() -> tuple[Column, ...]:
    """Return Table 7's columns, then those of Tables 6 and 10, and the orders."""
    found = [
        Column(f"test accuracy, trained on {share}, %", key, ".2f", {SGD: sgd, LRA: psgd}, source="Table 7")
        for share, key, sgd, psgd in (
            ("all", "accuracy", "96.21", "96.65"),
            ("the most forgettable 50 %", "accuracy_50", "95.56", "95.83"),
            ("30 %", "accuracy_30", "–", "–"),
            ("10 %", "accuracy_10", "42.48", "56.46"),
        )
    ]
    found.append(Column("a random 10 %", "accuracy_random", ".2f"))
    for what, numbers in (
        ("entropy", (("7e-7", "0.139"), ("0.01", "0.260"), ("0.8975", "1.545"))),
        ("margin", (("0.3925", "0.144"), ("0.999", "0.956"), ("1", "0.994"))),
    ):
        for which, (sgd, psgd) in zip(("min", "mean", "max"), numbers, strict=True):
            cited = {SGD: sgd, LRA: psgd}
            key = f"train_{what}_{which}"
            found.append(Column(f"{what}: {which}", key, ".2g", cited, "median", "Table 6"))
    for title, key, sgd, psgd in (
        ("Spearman, entropy and forgetting", "spearman", ".72", ".73"),
        ("Pearson", "pearson", ".57", ".65"),
        ("Kendall", "kendall", ".54", ".56"),
        ("weighted tau", "weighted_tau", ".60", ".75"),
    ):
        found.append(Column(title, key, ".2f", {SGD: sgd, LRA: psgd}, source="Table 10"))
    found += [
        Column("never forgotten", "unforgettable", ".2f"),
        Column("Spearman, order of forgetting and another SGD run's", "order_spearman", ".3f", {LRA: "0.02"}),
        Column("CPU s", "cpu_seconds", ",.0f", spread="median"),
    ]
    return tuple(found)


EXPERIMENT = Experiment(
    name="forgetting",
    title="Forgetting and uncertainty on CIFAR-10",
    sources=("Table 6", "Table 7", "Table 10", "Figure 7", "5.4", "E.4"),
    claim="PSGD is less sure than SGD, forgets other examples, and generalises better from those it forgets "
    "most.",
    needs=("torch",),
    data=("cifar10",),
    plans={
        "smoke": Plan(
            cells(replace(SMOKE, epochs=3)),
            1,
            "10 s",
            ("a network of 4 to 8 channels, 320 images, three epochs",),
        ),
        "reduced": Plan(
            cells(replace(REDUCED, epochs=8, tested=1_000)),
            3,
            "20 min",
            (
                "ResNet8, with 16 to 64 channels, in place of ResNet18",
                "4,000 of the 50,000 images, so 2,000, 1,200 and 400 for 25,000, 15,000 and 5,000",
                "8 of the 200 epochs, batches of 64; tested on 1,000 images",
                "P, fitted 50 times in a run, with step 0.1 in place of 0.01",
            ),
        ),
        "faithful": Plan(cells(FAITHFUL), 3, "1,800 h (est.)"),
    },
    start=start,
    columns=columns(),
    claims=(
        *(
            Claim(
                f"Trained on the {share} % that each forgot most, PSGD's test accuracy is higher than SGD's",
                "Table 7",
                paper,
                better(f"accuracy_{share}", LRA, SGD),
            )
            for share, paper in ((50, "95.83 and 95.56 %"), (30, "not legible"), (10, "56.46 and 42.48 %"))
        ),
        *(
            Claim(
                f"{name}: the half that is forgotten most is nearly as good as all (within 1.5 %)",
                "Table 7",
                paper,
                better_within(name, "accuracy_50", "accuracy", factor=0.985),
            )
            for name, paper in ((LRA, "95.83 and 96.65 %"), (SGD, "95.56 and 96.21 %"))
        ),
        Claim(
            "PSGD's entropies are higher than SGD's: least, mean and largest",
            "Table 6",
            "0.139, 0.260, 1.545 and 7e-7, 0.01, 0.8975 nats",
            all_of(*(better(f"train_entropy_{which}", LRA, SGD) for which in ("min", "mean", "max"))),
        ),
        Claim(
            "PSGD's mean margin is lower than SGD's",
            "Table 6",
            "0.956 and 0.999",
            better("train_margin_mean", LRA, SGD, larger=False),
        ),
        Claim(
            "Entropy and forgetting are correlated more with PSGD than with SGD, by each coefficient",
            "Table 10",
            "Spearman .73 and .72, Pearson .65 and .57, Kendall .56 and .54, weighted tau .75 and .60",
            all_of(*(better(key, LRA, SGD) for key in ("spearman", "pearson", "kendall", "weighted_tau"))),
        ),
        Claim(
            "PSGD's order of forgetting has less in common with an SGD run's than another SGD run's has",
            "5.4",
            "Spearman 0.02 between the optimisers; nothing is said of two runs of one",
            better("order_spearman", LRA, SGD, larger=False),
        ),
        Claim(
            "The orders of the two optimisers are hardly correlated",
            "5.4",
            "Spearman 0.02",
            near("order_spearman", LRA, 0.02, 0.1),
            absolute=True,
        ),
    ),
    contests=tuple(
        Contest(f"test accuracy, trained on {what}", key, (LRA,), (SGD,))
        for what, key in (
            ("all", "accuracy"),
            ("the 50 % it forgot most", "accuracy_50"),
            ("the 30 % it forgot most", "accuracy_30"),
            ("the 10 % it forgot most", "accuracy_10"),
            ("a random 10 %", "accuracy_random"),
        )
    ),
    figures={
        "": figure(
            entropy_by_events,
            rows("accuracy_50", title="Trained on the 50 % forgotten most", xlabel="test accuracy, %"),
            rows("accuracy_10", title="Trained on the 10 % forgotten most", xlabel="test accuracy, %"),
            rows("accuracy_random", title="Trained on a random 10 %", xlabel="test accuracy, %"),
            rows("order_spearman", title="Order of forgetting, with an SGD run's", xlabel="Spearman"),
            columns=3,
        )
    },
    notes=(
        "Each optimiser's network is trained on the examples that the same optimiser forgot most, so Table 7 "
        "does not tell whether the order or the optimiser makes the difference; training on a random 10 % "
        "shows the optimiser's part. All networks of a run but the reference begin with the same parameters "
        "and train for as many epochs.",
        "Of examples forgotten equally often those of higher entropy at the end are kept; Toneva et al. "
        "(2018) draw. Those never learned count as forgotten most.",
        "The order is held against that of a run of SGD with another seed, for PSGD and for SGD alike: what "
        "two runs of SGD have in common is what to compare the paper's 0.02 with.",
        "Table 7 has 96.65 and 96.21 % on all images, Table 3 95.49 and 95.47 for the same networks. Its "
        'column "15k" is not legible in our copy.',
        "Table 6 gives PSGD a largest margin of 0.994 and a least entropy of 0.139 nats, which no ten "
        "probabilities have together: they are not of the same examples.",
        CODE,
        BASELINES,
    ),
)
