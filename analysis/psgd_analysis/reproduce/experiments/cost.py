"""Time and memory of a step, and time to a loss, beside other second-order methods: open question 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claims import Claim, all_of, better
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import against, figure, rows

SELDOM = "P in a tenth of steps"
"""P fitted with probability 0.1, as the authors' code does, in place of every step."""


def psgd(kind: str, **own: Any) -> dict[str, Any]:
    """Return the settings of a PSGD, with E.1's step and clip."""
    return {"optimizer": f"psgd_{kind}", "lr": 0.1, "step": 0.1, "optimizer_settings": {"clip": 10.0, **own}}


PSGDS = {
    "PSGD LowRank(5)": psgd("lowrank", rank=5),
    "PSGD XMat": psgd("xmat"),
    "PSGD Diagonal": psgd("diagonal"),
    "PSGD affine": psgd("affine"),
}

BASELINES: dict[str, dict[str, Any]] = {
    "SGD": {"optimizer": "sgd", "lr": 0.3},
    "Adam": {"optimizer": "adam", "lr": 0.003},
    "AdamW": {"optimizer": "adamw", "lr": 0.003},
    "AdaHessian": {"optimizer": "adahessian", "lr": 0.05},
    "Shampoo": {"optimizer": "scalable_shampoo", "lr": 0.05},
    "SOAP": {"optimizer": "soap", "lr": 0.003},
    "Muon": {"optimizer": "muon", "lr": 0.02, "optimizer_settings": {"adamw_lr": 0.001}},
    "KFAC": {"optimizer": "kfac", "lr": 0.1, "optimizer_settings": {"clip": 10.0}},
}
"""Rates are the best of two or three tried on 2,000 images, AdamW's is Adam's; they do not set seconds."""


def seldom(name: str) -> str:
    """Return the name of the cell in which P is fitted with probability 0.1."""
    return f"{name}, {SELDOM}"


METHODS = (
    BASELINES
    | PSGDS
    | {
        seldom(n): {**s, "optimizer_settings": {**s["optimizer_settings"], "update_probability": 0.1}}
        for n, s in PSGDS.items()
    }
)


def cells(
    train: int, epochs: int, blocks: int, loss: float, methods: tuple[str, ...] = tuple(METHODS)
) -> tuple[Cell, ...]:
    """Return a cell for each optimiser of LeNet5."""
    shared = {"model": "lenet5", "data": "mnist", "batch": 64, "train": train, "epochs": epochs}
    return tuple(
        Cell(
            name, {**shared, "blocks": blocks, "loss": loss, **METHODS[name]}, epochs * train / 64 * 0.01 + 20
        )
        for name in methods
    )


def start(job: Job, folder: Path | None) -> Training:
    """Return the timing of steps, and the training to the loss, as one run."""
    from ..costs import start

    return start(job, folder)


def at_most(text: str, key: str, factor: float, names: tuple[str, ...], paper: str) -> Claim:
    """Return the claim that PSGD's cost is at most a factor of SGD's, for each of some cells."""
    judge = all_of(*(better(key, n, "SGD", larger=False, factor=factor) for n in names))
    return Claim(text, "abstract, 5, summary", paper, judge)


SELDOM_CELLS = tuple(seldom(name) for name in PSGDS)

EXPERIMENT = Experiment(
    name="cost",
    title="Time and memory of a step, and time to a loss",
    sources=("open question 3", "the summary's overhead of 20 %"),
    claim="PSGD costs 20 % more than SGD, and less than other second-order methods.",
    needs=("torch", "pytorch_optimizer", "asdl"),
    data=("mnist",),
    plans={
        "smoke": Plan(
            cells(256, 1, 2, 0.5, ("SGD", seldom("PSGD LowRank(5)"))),
            1,
            "30 s",
            ("256 images, one epoch, blocks of steps in two repeats",),
        ),
        "reduced": Plan(
            cells(6_000, 8, 9, 0.2), 3, "30 min", ("6,000 of the 60,000 images, at most 8 epochs",)
        ),
        "faithful": Plan(cells(60_000, 10, 25, 0.02), 10, "10 h"),
    },
    start=start,
    columns=(
        Column("seconds of a step, over SGD's", "step_ratio", ".2f", dict.fromkeys(SELDOM_CELLS, "1.2")),
        Column("CPU ms of a step", "step_ms", ".1f", spread="median"),
        Column("peak memory of steps, over SGD's", "memory_ratio", ".2f"),
        Column("MB", "step_mb", ".1f", spread="median"),
        Column("state, MB", "state_mb", ".2f", spread="median"),
        Column("loss reached", "reached", spread="rate"),
        Column("steps to the loss", "steps_to_loss", ",.0f", spread="median"),
        Column("CPU s to the loss", "seconds_to_loss", ".1f"),
        Column("test accuracy there, %", "accuracy", ".2f"),
    ),
    claims=(
        at_most("P in every step: at most 20 % slower than SGD", "step_ratio", 1.2, tuple(PSGDS), "20 %"),
        at_most(
            "P with probability 0.1: at most 20 % slower than SGD", "step_ratio", 1.2, SELDOM_CELLS, "20 %"
        ),
        *(
            Claim(
                f"A step of PSGD LowRank(5), {how}, takes less time than one of {other}",
                "summary",
                "negligible beside other second-order methods",
                better("step_ratio", ours, other, larger=False),
            )
            for how, ours in (
                ("P in every step", "PSGD LowRank(5)"),
                ("P with probability 0.1", seldom("PSGD LowRank(5)")),
            )
            for other in ("KFAC", "Shampoo", "AdaHessian", "SOAP")
        ),
        *(
            Claim(
                f"PSGD LowRank(5) reaches the loss in less time than {other}",
                "open question 3",
                "not said",
                better("seconds_to_loss", "PSGD LowRank(5)", other, larger=False),
            )
            for other in ("SGD", "Adam", "KFAC", "Shampoo", "AdaHessian")
        ),
    ),
    figures={
        "": figure(
            against(
                "step_ratio",
                "seconds_to_loss",
                log=(True, True),
                title="LeNet5",
                xlabel="CPU-seconds of a step, over SGD's",
                ylabel="CPU-seconds to the loss",
            ),
            rows("step_ratio", log=True, title="Time of a step", xlabel="over SGD's"),
            rows("memory_ratio", log=True, title="Peak memory of steps", xlabel="over SGD's"),
            rows("state_mb", log=True, title="Memory of the state", xlabel="MB"),
        )
    },
    notes=(
        "Seconds are of CPU, one thread: medians over blocks of 20 steps, which alternate with blocks of "
        "SGD. Ratios are to SGD in the same run; milliseconds and megabytes are of this machine.",
        "Peak memory is by how much an optimiser and 12 steps of it raise the resident memory of a process "
        "of its own, after 12 steps to load what they need: graphs of derivatives and the state, to about "
        "10 %.",
        "The paper's 20 % are with P fitted once in ten steps, on a GPU. Seconds to the loss are steps "
        "(whole epochs) times the seconds of a step.",
        "The baselines' learning rates, constant (AdamW's is Adam's), are the best of two or three tried "
        "with one seed on 2,000 images; PSGD's are E.1's first ones. Shampoo is ScalableShampoo: in blocks, "
        "grafted.",
    ),
    contests=(
        Contest(
            "CPU-seconds of a step over SGD's",
            "step_ratio",
            ("PSGD LowRank(5)", seldom("PSGD LowRank(5)")),
            tuple(BASELINES),
            larger=False,
        ),
        Contest(
            "CPU-seconds to the loss",
            "seconds_to_loss",
            tuple(PSGDS),
            tuple(BASELINES),
            larger=False,
        ),
    ),
)
