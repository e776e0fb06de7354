"""What the rank of the low-rank preconditioner gains and costs: the paper's first open question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claims import Claim, all_of, better, trend
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import figure, levels
from ..within import at_most_times

RANKS = (0, 1, 2, 5, 10, 20, 32)

MODELS: dict[str, dict[str, Any]] = {
    "softmax": {"model": "softmax"},
    "MLP": {"model": "mlp"},
    "LeNet5": {"model": "lenet5"},
    "RNN": {"model": "rnn"},
    "transformer": {"model": "transformer"},
}

SECONDS = {"softmax": 4e-3, "MLP": 8e-3, "LeNet5": 19e-3, "RNN": 30e-3, "transformer": 30e-3}
"""Of a step, roughly."""


def name(model: str, rank: int) -> str:
    """Return the name of a cell."""
    return f"{model}, r = {rank}"


def cells(
    train: int, epochs: int, models: tuple[str, ...] = tuple(MODELS), ranks: tuple[int, ...] = RANKS
) -> tuple[Cell, ...]:
    """Return a cell for each model and rank, with E.1's rates."""
    found = []
    for model in models:
        for rank in ranks:
            settings = {
                **MODELS[model],
                "data": "mnist",
                "batch": 64,
                "train": train,
                "epochs": epochs,
                "optimizer": "psgd_lowrank",
                "optimizer_settings": {"rank": rank, "clip": 10.0},
                "lr": [0.1, 0.001],
                "step": [0.1, 0.01],
                "measures": ["train", "seconds", "memory"],
            }
            found.append(Cell(name(model, rank), settings, train / 64 * epochs * SECONDS[model] + 5))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..training import start

    return start(job, folder)


LOSS = "whole_train_loss"


def claims() -> tuple[Claim, ...]:
    """Return for each model that rank gains up to 5 and little beyond, and for all what it costs."""
    found = []
    for model in MODELS:
        to_five = [name(model, r) for r in RANKS if r <= 5]
        beyond = [name(model, r) for r in RANKS if r > 5]
        five = name(model, 5)
        found += [
            Claim(
                f"{model}: the training loss falls with the rank up to 5",
                "Figure 3, E.1, open question 1",
                "marginal gains up to r = 5",
                trend(LOSS, to_five, larger=False),
            ),
            Claim(
                f"{model}: ranks 10, 20 and 32 gain little: their loss is not 5 % below that of rank 5",
                "Figure 3, E.1, open question 1",
                "marginal gains up to r = 5",
                all_of(*(better(LOSS, five, other, larger=False, factor=1 / 0.95) for other in beyond)),
            ),
        ]
    doubled = [(name(m, 2 * r), name(m, r)) for m in MODELS for r in (1, 5, 10)]
    slower = (better("step_ms", twice, once, larger=False, factor=2.0) for twice, once in doubled)
    larger = (at_most_times("state_mb", twice, once, 2.0) for twice, once in doubled)
    for what, judges in (("CPU time of a step", slower), ("memory of the state", larger)):
        says = f"The cost of a rank is at most linear: twice the rank costs at most twice the {what}"
        found.append(Claim(says, "3, O(r n)", "in words", all_of(*judges)))
    return tuple(found)


def by_model(key: str, ylabel: str, log: bool) -> Any:
    """Return the panel of a number against the rank, a line for each model."""
    lines = {model: {name(model, r): float(r) for r in RANKS} for model in MODELS}
    return levels(key, lines, log=log, xlabel="rank", ylabel=ylabel)


EXPERIMENT = Experiment(
    name="rank",
    title="The rank of the preconditioner",
    sources=("open question 1", "Figure 3", "E.1"),
    claim="Ranks up to 5 gain marginally, higher ones hardly; a rank costs time and memory linearly.",
    needs=("torch",),
    data=("mnist",),
    plans={
        "smoke": Plan(
            cells(256, 1, ("softmax",), (0, 5)),
            1,
            "30 s",
            ("256 images, one epoch, softmax regression only, ranks 0 and 5",),
        ),
        "reduced": Plan(
            cells(6_000, 4), 3, "25 min", ("6,000 of the 60,000 images, 4 of the 10 epochs of E.1",)
        ),
        "faithful": Plan(cells(60_000, 10), 10, "150 h"),
    },
    start=start,
    columns=(
        Column("final training loss", LOSS, ".3g"),
        Column("test accuracy, %", "accuracy", ".2f"),
        Column("products", "products", ",.0f", spread="median"),
        Column("ms a step (CPU)", "step_ms", ".1f", spread="median"),
        Column("state, MB", "state_mb", ".2f", spread="median"),
        Column("peak of steps, MB", "step_mb", ".1f", spread="median"),
        Column("parameters", "parameters", ",.0f", spread="median"),
    ),
    claims=claims(),
    figures={
        "": figure(
            by_model(LOSS, "Final training loss", True),
            by_model("step_ms", "CPU milliseconds of a step", True),
            by_model("state_mb", "Memory of the state, MB", True),
            by_model("step_mb", "Peak memory of steps, MB", True),
        )
    },
    notes=(
        "The paper's own evidence is Figure 3, LeNet5 alone; the models here have 5,000 to 80,000 parameters "
        "and learn the same images. The RNN reads an image row by row, the transformer in patches of 7 x 7.",
        "Milliseconds are of this machine; what counts is how they grow. Peaks are those of a process of its "
        "own, by how much steps raise its resident memory: graphs of derivatives are most of it.",
    ),
)
