"""What the solutions look like: the Hessian and the entropy where each optimiser ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claims import Claim, better
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import against, figure
from ..panels import densities
from ..within import where_known

PSGD_RATES = {"lr": [0.1, 0.001], "step": [0.1, 0.01], "optimizer_settings": {"clip": 10.0}}
"""E.1's."""

LOW_RANK = "PSGD LowRank(5)"

METHODS: dict[str, dict[str, Any]] = {
    "SGD": {"optimizer": "sgd", "lr": [0.1, 0.001]},
    "Adam": {"optimizer": "adam", "lr": [1e-3, 1e-5]},
    "KFAC": {"optimizer": "kfac", "lr": [0.1, 0.001], "optimizer_settings": {"clip": 10.0}},
    "PSGD Diagonal": {"optimizer": "psgd_diagonal", **PSGD_RATES},
    LOW_RANK: {
        "optimizer": "psgd_lowrank",
        **PSGD_RATES,
        "optimizer_settings": {"clip": 10.0, "rank": 5},
    },
    "PSGD XMat": {"optimizer": "psgd_xmat", **PSGD_RATES},
    "PSGD affine": {"optimizer": "psgd_affine", **PSGD_RATES},
}
"""The paper states no rates of SGD, Adam and KFAC: those of SGD and KFAC are PSGD's, Adam's its usual one."""

MODELS = {"LeNet5": "lenet5", "MLP": "mlp", "softmax": "softmax"}

LEVELS = {
    "reduced": {"LeNet5": 0.6, "MLP": 0.4, "softmax": 0.5},
    "faithful": {"LeNet5": 0.1, "MLP": 0.2, "softmax": 0.32},
}
"""Losses on the fixed images at which curvatures are compared besides: such that all optimisers get there."""


def name(model: str, method: str) -> str:
    """Return the name of a cell."""
    return f"{model}, {method}"


def method_of(cell: str) -> str:
    """Return the optimiser in the name of a cell."""
    return cell.partition(", ")[2]


def cells(
    train: int,
    epochs: int,
    examples: int,
    levels: dict[str, float],
    models: tuple[str, ...] = tuple(MODELS),
    **options: Any,
) -> tuple[Cell, ...]:
    """Return a cell for each model and optimiser; the Hessian is that on the first `examples` images."""
    found = []
    for model in models:
        for method, own in METHODS.items():
            hessian = {"examples": examples, "level": levels[model], **options}
            settings = {
                "model": MODELS[model],
                "data": "mnist",
                "batch": 64,
                "train": train,
                "epochs": epochs,
                "measures": {"train": {}, "uncertainty": {}, "distance": {}, "hessian": hessian},
                **own,
            }
            step = 0.02 if model == "LeNet5" else 0.004
            found.append(Cell(name(model, method), settings, train / 64 * epochs * step + 20))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..training import start

    return start(job, folder)


def claims() -> tuple[Claim, ...]:
    """Return the claims, model by model: flatter than SGD's and Adam's, at the end and at the same loss."""
    found = []
    for model in MODELS:
        ours = name(model, LOW_RANK)
        for other in ("SGD", "Adam"):
            theirs = name(model, other)
            for text, key, larger in (
                ("the largest eigenvalue is lower", "eigenvalue", False),
                ("the trace is lower", "trace", False),
                ("at the same training loss the largest eigenvalue is lower", "level_eigenvalue", False),
                ("at the same training loss the trace is lower", "level_trace", False),
                ("the mean entropy of the predictions is higher", "train_entropy_mean", True),
            ):
                says = f"{model}: {text} with {LOW_RANK} than with {other}"
                judge = where_known(key, better(key, ours, theirs, larger=larger))
                found.append(Claim(says, MECHANISM, "in words", judge))
    return tuple(found)


MECHANISM = "5.4, summary (mechanism 3)"

EXPERIMENT = Experiment(
    name="solutions",
    title="What the solutions look like",
    sources=("5.4", "Table 6", "the summary's second experiment and third mechanism"),
    claim="PSGD finds flatter minima, with higher entropy, than SGD and Adam.",
    needs=("torch", "asdl"),
    data=("mnist",),
    plans={
        "smoke": Plan(
            cells(256, 1, 64, LEVELS["reduced"], ("softmax",), probes=1, steps=8, trace=6, top=2),
            1,
            "15 s",
            ("256 images, one epoch, softmax regression only", "curvature on 64 images"),
        ),
        "reduced": Plan(
            cells(6_000, 5, 500, LEVELS["reduced"], probes=1, steps=40),
            3,
            "30 min",
            ("6,000 of the 60,000 images, 5 of 10 epochs", "curvature on 500 images"),
        ),
        "faithful": Plan(cells(60_000, 10, 5_000, LEVELS["faithful"], steps=100), 10, "20 h"),
    },
    start=start,
    columns=(
        Column("training loss", "whole_train_loss", ".2g"),
        Column("test accuracy, %", "accuracy", ".2f"),
        Column("largest eigenvalue", "eigenvalue", ".3g"),
        Column("trace", "trace", ".3g"),
        Column("negative eigenvalues", "negative", ".3f"),
        Column("least eigenvalue", "least", ".2g"),
        Column("entropy on training images, nats", "train_entropy_mean", ".2g"),
        Column("entropy on test images, nats", "test_entropy_mean", ".2g"),
        Column("distance from initialisation", "distance", ".3g"),
        Column("largest eigenvalue at the level", "level_eigenvalue", ".3g"),
        Column("trace at the level", "level_trace", ".3g"),
        Column("loss there", "level_loss", ".2g"),
    ),
    claims=claims(),
    figures={
        "": figure(*(densities(m, [name(m, method) for method in METHODS]) for m in MODELS), named=method_of),
        "flatness": figure(
            *(
                against(
                    "whole_train_loss",
                    "trace",
                    cells=[name(m, method) for method in METHODS],
                    log=(True, True),
                    title=m,
                    xlabel="training loss",
                    ylabel="trace of the Hessian",
                )
                for m in MODELS
            ),
            named=method_of,
        ),
    },
    notes=(
        "The Hessian is that of the mean cross-entropy on the same images, by the same random vectors, for "
        "all runs. Its trace is Hutch++'s estimate, whose standard error is in the records (trace_error).",
        "Near zero loss a cross-entropy's Hessian shrinks with the loss, whatever the optimiser. So the "
        "largest eigenvalue and the trace are also taken where the loss on these images is low enough for "
        "the first time, of every tenth step. The losses there, still not equal, are in the table.",
        "The Hessian of a network of ReLU layers depends on how weights are scaled between layers, which "
        "changes no prediction (Dinh et al., 2017): flatness is no property of the function alone.",
    ),
    contests=tuple(
        Contest(
            f"trace of the Hessian at the solution of {m}, lower is flatter",
            "trace",
            tuple(name(m, method) for method in METHODS if method.startswith("PSGD")),
            tuple(name(m, method) for method in ("SGD", "Adam", "KFAC")),
            larger=False,
        )
        for m in MODELS
    ),
)
