"""CIFAR-10 with a residual network, with and without shortcuts: Tables 2 and 3, Figure 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..cifar10 import (
    ADAM,
    APOLLO,
    BASELINES,
    CODE,
    FAITHFUL,
    LRA,
    REDUCED,
    REDUCED_DEPARTS,
    SCAN,
    SCHEDULES,
    SGD,
    SMOKE,
    SMOKE_DEPARTS,
    XMAT,
    Setup,
    seconds,
    settings,
)
from ..claims import Claim, best, better, near
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import curves, figure, rows
from ..within import Derived, better_derived, difference

PLAIN = ("", ", no shortcuts")

NO_SHORTCUTS: dict[str, dict[str, Any]] = {LRA: {"l2": 0.01}, XMAT: {"l2": 0.01}}
"""As the authors' code has it; the paper says between 0.01 and 0.02."""


def name(method: str, schedule: str, without: str = "") -> str:
    """Return the name of a cell."""
    return f"{method}, {schedule}{without}"


def cells(setup: Setup, psgd: tuple[str, ...]) -> tuple[Cell, ...]:
    """Return SGD and some of PSGD in all four columns of Table 2, Adam and Apollo in the first."""
    found = []
    for without in PLAIN:
        for schedule in SCHEDULES:
            first = not without and schedule == "cosine"
            for method in (SGD, *psgd, *((ADAM, APOLLO) if first else ())):
                own = NO_SHORTCUTS.get(method, {}) if without else {}
                if without and setup is FAITHFUL:
                    own = {**own, "batch": 64}
                made = settings(setup, method, schedule=schedule, shortcuts=not without, **own)
                found.append(Cell(name(method, schedule, without), made, seconds(setup, method)))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..training import start

    return start(job, folder)


ACCURACY = "accuracy"
TABLE_2 = {
    name(SGD, "cosine"): 95.51,
    name(SGD, "stage"): 95.07,
    name(SGD, "cosine", PLAIN[1]): 94.97,
    name(SGD, "stage", PLAIN[1]): 94.35,
    name(LRA, "cosine"): 95.54,
    name(LRA, "stage"): 95.43,
    name(LRA, "cosine", PLAIN[1]): 95.36,
    name(LRA, "stage", PLAIN[1]): 95.17,
}
"""Test accuracy, %; the table says "PSGD", the caption of Figure 4 order 10."""

TABLE_3 = {name(SGD, "cosine"): "95.47 ± 0.14", name(LRA, "cosine"): "95.49 ± 0.08"}


def told(cell: str) -> str:
    """Return what the paper prints of a cell."""
    return f"{TABLE_2[cell]:.2f}" + (f" (Table 3: {TABLE_3[cell]})" if cell in TABLE_3 else "")


def gain(schedule: str, without: str) -> Derived:
    """Return by how much PSGD is ahead of SGD."""
    where = f"{schedule}{without or ', shortcuts'}"
    return Derived(
        f"gain over SGD, {where}", (name(LRA, schedule, without), name(SGD, schedule, without)), difference
    )


def columns_of_table_2() -> tuple[Claim, ...]:
    """Return for each column that PSGD is better."""
    return tuple(
        Claim(
            f"PSGD's test accuracy is higher than SGD's: {schedule}{without or ', with shortcuts'}",
            "Table 2",
            f"{TABLE_2[name(LRA, schedule, without)]:.2f} and {TABLE_2[name(SGD, schedule, without)]:.2f} %",
            better(ACCURACY, name(LRA, schedule, without), name(SGD, schedule, without)),
        )
        for without in PLAIN
        for schedule in SCHEDULES
    )


EXPERIMENT = Experiment(
    name="cifar",
    title="Residual networks on CIFAR-10",
    sources=("Table 2", "Table 3", "Figure 4", "5.1", "E.2"),
    claim="PSGD is slightly better than SGD, more so without shortcuts or with the stage schedule.",
    needs=("torch", "pytorch_optimizer"),
    data=("cifar10",),
    plans={
        "smoke": Plan(cells(SMOKE, (LRA,)), 1, "30 s", SMOKE_DEPARTS),
        "reduced": Plan(
            cells(REDUCED, (LRA,)),
            3,
            "50 min",
            (
                *REDUCED_DEPARTS,
                "4,000 of the 50,000 images",
                "PSGD XMat at the faithful scale only",
            ),
        ),
        "faithful": Plan(cells(FAITHFUL, (LRA, XMAT)), 16, "25,000 h (est.)"),
    },
    start=start,
    columns=(
        Column("test accuracy, %", ACCURACY, ".2f", {cell: told(cell) for cell in TABLE_2}),
        Column("best on the way, %", "best_accuracy", ".2f"),
        Column("training loss", "train_loss", ".3f"),
        Column("test loss", "test_loss", ".3f"),
        Column("products", "products", ",.0f", spread="median"),
        Column("CPU s", "cpu_seconds", ",.0f", spread="median"),
    ),
    claims=(
        *columns_of_table_2(),
        *(
            Claim(
                f"PSGD gains more over SGD without shortcuts than with them: {schedule} schedule",
                "Table 2, 5.1",
                paper,
                better_derived(ACCURACY, gain(schedule, PLAIN[1]), gain(schedule, "")),
            )
            for schedule, paper in (
                ("cosine", "0.39 and 0.03 in Table 2, 0.61 and 0.20 in the text"),
                ("stage", "0.82 and 0.36 in Table 2, 0.61 and 0.20 in the text"),
            )
        ),
        Claim(
            "PSGD gains more over SGD with the stage schedule than with the cosine, with shortcuts",
            "Table 2, E.2",
            "0.36 and 0.03",
            better_derived(ACCURACY, gain("stage", ""), gain("cosine", "")),
        ),
        Claim(
            "SGD is better with the cosine than with the stage schedule, with shortcuts",
            "Table 2, E.2",
            "95.51 and 95.07 %",
            better(ACCURACY, name(SGD, "cosine"), name(SGD, "stage")),
        ),
        Claim(
            "PSGD's test accuracy is higher than those of Adam and Apollo: cosine schedule, with shortcuts",
            "the summary's key results",
            "in words",
            best(ACCURACY, name(LRA, "cosine"), [name(ADAM, "cosine"), name(APOLLO, "cosine")]),
        ),
        *(
            Claim(
                f"{cell} reaches the paper's accuracy",
                "Table 2",
                f"{TABLE_2[cell]:.2f} %",
                near(ACCURACY, cell, TABLE_2[cell], 0.15),
                absolute=True,
            )
            for cell in (name(LRA, "cosine"), name(SGD, "cosine"))
        ),
    ),
    contests=(
        *(
            Contest(
                f"test accuracy, {schedule}{without or ', shortcuts'}",
                ACCURACY,
                (name(LRA, schedule, without), name(XMAT, schedule, without)),
                tuple(
                    name(method, schedule, without)
                    for method in ((SGD,) if without or schedule == "stage" else (SGD, ADAM, APOLLO))
                ),
            )
            for without in PLAIN
            for schedule in SCHEDULES
        ),
    ),
    figures={
        "": figure(
            rows(ACCURACY, paper=TABLE_2, title="Tables 2 and 3", xlabel="test accuracy, %"),
            curves(
                "accuracy",
                cells=[name(m, s) for m in (SGD, LRA) for s in SCHEDULES],
                title="With shortcuts (Figure 4)",
                xlabel="epoch",
                ylabel="test accuracy, %",
            ),
            curves(
                "accuracy",
                cells=[name(m, s, PLAIN[1]) for m in (SGD, LRA) for s in SCHEDULES],
                title="Without shortcuts (Figure 4)",
                xlabel="epoch",
                ylabel="test accuracy, %",
            ),
            curves(
                "train_accuracy",
                title="Training (Figure 4)",
                xlabel="epoch",
                ylabel="training accuracy, %",
            ),
        )
    },
    notes=(
        "Without shortcuts the text (5.1) has PSGD ahead of SGD by 0.61 %, Table 2 by 0.39 (cosine) and 0.82 "
        "(stage), of which 0.61 is the mean; with shortcuts 0.20, of which Table 2 has 0.03 and 0.36. Our "
        'copy of the paper lost the numbers of Table 3\'s column "No Shortcut".',
        "The paper does not say when the stage schedule reduces the rate: after 0.7 and 0.9 of the epochs, "
        "as in the authors' code. That has L2 0.01 and batches of 64 without shortcuts, 0.02 and 128 with "
        "them, and so it is here at the faithful scale; at the reduced scale batches are of 64 throughout. "
        "As published it builds the network with its shortcuts in any case.",
        CODE,
        BASELINES,
        SCAN,
    ),
)
