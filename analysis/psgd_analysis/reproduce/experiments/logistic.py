"""Logistic regression on outer products of MNIST's images: Figures 5 and 6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..claims import Claim, best, better, near
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import curves, figure
from ..records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOW_RANK, XMAT = "PSGD LowRank(10)", "PSGD XMat"

METHODS: dict[str, dict[str, Any]] = {
    "SGD": {"optimizer": "sgd", "lr": 0.5},
    "L-BFGS": {
        "optimizer": "lbfgs",
        "optimizer_settings": {"max_iter": 10, "history_size": 10},
        "lr": 0.1,
    },
    "AdaBelief": {"optimizer": "adabelief", "lr": 3e-3},
    "AdaHessian": {"optimizer": "adahessian", "optimizer_settings": {"eps": 0.01}, "lr": 0.1},
    XMAT: {"optimizer": "psgd_xmat", "lr": 0.05, "step": 0.1},
    LOW_RANK: {
        "optimizer": "psgd_lowrank",
        "optimizer_settings": {"rank": 10},
        "lr": 0.05,
        "step": 0.1,
    },
}
"""The rates of PSGD and L-BFGS are the paper's, SGD's its authors'; of the others the best of a few."""

SECONDS = {"SGD": 25, "L-BFGS": 550, "AdaBelief": 30, "AdaHessian": 110, XMAT: 70, LOW_RANK: 140}
"""Of a run of 20 epochs on 14 x 14 pixels, measured."""

SLOW = "L-BFGS, lr 0.05"

NOISE = ", noise"


def cells(side: int, epochs: int, batch: int) -> tuple[Cell, ...]:
    """Return all cells."""
    found = []
    for noise in ("", NOISE):
        for name, own in {**METHODS, **({} if noise else {SLOW: {**METHODS["L-BFGS"], "lr": 0.05}})}.items():
            settings = {
                **{"data": "mnist", "model": "outer_products", "model_settings": {"side": side}},
                **{**own, "lr": [own["lr"], own["lr"] / 100], "batch": batch, "epochs": epochs},
                **({"augment": [{"name": "bernoulli"}]} if noise else {}),
            }
            seconds = SECONDS[name.split(",")[0]] * epochs / 20 * (side / 14) ** 4
            found.append(Cell(name + noise, settings, seconds))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from .. import training

    return training.start(job, folder)


def convergence(noise: str) -> Callable[[Sequence[Record]], Figure]:
    """Return what draws training loss and test accuracy with or without noise."""
    shown = [name + noise for name in (*METHODS, SLOW)]
    return figure(
        curves("train_loss", cells=shown, log=True, xlabel="epoch", ylabel="training loss"),
        curves("train_loss", "seconds", cells=shown, log=True, xlabel="seconds", ylabel="training loss"),
        curves("accuracy", cells=shown, xlabel="epoch", ylabel="test accuracy, %"),
        columns=3,
    )


OTHERS = [name + NOISE for name in METHODS if name != LOW_RANK]


def contests() -> tuple[Contest, ...]:
    """Return what PSGD is held against: accuracy and training loss, without and with noise."""
    ours, theirs = (LOW_RANK, XMAT), [name for name in METHODS if name not in (LOW_RANK, XMAT)]
    return tuple(
        Contest(f"{about}{noise}", key, tuple(n + noise for n in ours), tuple(n + noise for n in theirs), up)
        for noise in ("", NOISE)
        for about, key, up in (("test accuracy", "accuracy", True), ("training loss", "train_loss", False))
    )


EXPERIMENT = Experiment(
    name="logistic",
    title="Logistic regression on outer products of images",
    sources=("Figure 5", "Figure 6", "E.3"),
    claim="Convex, with six million parameters: PSGD has lower losses and errors than L-BFGS and SGD.",
    needs=("torch", "pytorch_optimizer"),
    data=("mnist",),
    plans={
        "smoke": Plan(
            cells(side=7, epochs=2, batch=250),
            1,
            "10 s",
            ("images of 7 x 7 pixels, 24,010 parameters", "batches of 250, two epochs"),
        ),
        "reduced": Plan(
            cells(side=14, epochs=10, batch=500),
            3,
            "1 h",
            (
                "images averaged to 14 x 14 pixels: 384,160 parameters instead of 6,146,560",
                "ten epochs instead of twenty, three runs instead of ten",
            ),
        ),
        "faithful": Plan(cells(side=28, epochs=20, batch=500), 10, "100 h"),
    },
    start=start,
    columns=(
        Column(
            "test accuracy, %",
            "accuracy",
            ".2f",
            {"SGD": "97.63 ± 0.08", "L-BFGS": "97.91 ± 0.18", LOW_RANK: "98.02 ± 0.08"},
        ),
        Column("best on the way, %", "best_accuracy", ".2f"),
        Column("training loss", "train_loss", ".2g"),
        Column("test loss", "test_loss", ".3f"),
        Column("gradients", "gradients", ",.0f", spread="median"),
        Column("products", "products", ",.0f", spread="median"),
        Column("CPU s", "cpu_seconds", ",.0f", spread="median"),
    ),
    claims=(
        Claim(
            "PSGD's test error is lower than SGD's",
            "E.3",
            "1.98 and 2.37 %",
            better("accuracy", LOW_RANK, "SGD"),
        ),
        Claim(
            "PSGD's test error is lower than that of L-BFGS",
            "E.3",
            "1.98 and 2.09 %",
            better("accuracy", LOW_RANK, "L-BFGS"),
        ),
        Claim(
            "The test error of L-BFGS is lower than SGD's",
            "E.3",
            "2.09 and 2.37 %",
            better("accuracy", "L-BFGS", "SGD"),
        ),
        Claim(
            "PSGD's training loss is about one order below those of SGD and L-BFGS (at least five times)",
            "Figure 5, E.3",
            "in a figure",
            best("train_loss", LOW_RANK, ["SGD", "L-BFGS"], larger=False, factor=0.2),
        ),
        Claim(
            "L-BFGS reaches training losses a few times smaller than SGD (at least twice)",
            "Figure 5, E.3",
            "in a figure",
            better("train_loss", "L-BFGS", "SGD", larger=False, factor=0.5),
        ),
        Claim(
            "With noise, PSGD has the lowest training loss",
            "Figure 6",
            "in a figure",
            best("train_loss", LOW_RANK + NOISE, OTHERS, larger=False),
        ),
        Claim(
            "With noise, PSGD's test error is lower than SGD's",
            "Figure 6",
            "in a figure",
            better("accuracy", LOW_RANK + NOISE, "SGD" + NOISE),
        ),
        Claim(
            "With noise, PSGD's test error is lower than that of L-BFGS",
            "Figure 6",
            "in a figure",
            better("accuracy", LOW_RANK + NOISE, "L-BFGS" + NOISE),
        ),
        Claim(
            "With noise, AdaBelief's training loss is the lowest but for PSGD's",
            "Figure 6",
            "in a figure",
            best("train_loss", "AdaBelief" + NOISE, ["SGD" + NOISE, "L-BFGS" + NOISE], larger=False),
        ),
        Claim(
            "PSGD's test error is that of the paper",
            "E.3",
            "1.98 ± 0.08 %",
            near("accuracy", LOW_RANK, 98.02, 0.1),
            absolute=True,
        ),
    ),
    contests=contests(),
    figures={"5": convergence(""), "6": convergence(NOISE)},
    notes=(
        "The noise is that of the authors' published program: in each batch every pixel is drawn anew, "
        "1 with its grey for a probability. Test images are without noise.",
        "That program adds the pixels themselves and a bias to the outer products (6,154,410 parameters), "
        "and prints the lowest test error of 20 epochs; here there are the outer products alone, as in the "
        "text, and the last epoch counts. The paper has errors, the table accuracies.",
        "What the paper does not say is from it too: 20 epochs, W = 0 at first, SGD's rate 0.5, and rates "
        "that fall a hundredfold from the first epoch to the last.",
        "The paper does not say the rates of AdaBelief and AdaHessian: 0.003 was the best of four, 0.1 with "
        "eps = 0.01 the best of five, in runs of four and two epochs at the reduced scale, by their accuracy "
        "on the test images, which favours these two.",
        "L-BFGS is torch.optim.LBFGS on each batch in turn: ten iterations, a memory of ten, no line search. "
        "That is ten gradients a step, where SGD takes one, and PSGD one and a product.",
        "KFAC and Hessian-free are not run; the paper leaves them out too.",
    ),
)
