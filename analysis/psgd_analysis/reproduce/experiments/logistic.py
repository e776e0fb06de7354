"""Logistic regression on outer products of MNIST's images: Figures 5 and 6."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..claims import Claim, best, better, near
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOW_RANK, XMAT = "PSGD LowRank(10)", "PSGD XMat"

METHODS: dict[str, dict[str, Any]] = {
    "SGD": {"optimizer": "sgd", "options": {}, "lr": 0.5},
    "L-BFGS": {"optimizer": "lbfgs", "options": {"max_iter": 10, "history_size": 10}, "lr": 0.1},
    "AdaBelief": {"optimizer": "adabelief", "options": {}, "lr": 1e-3},
    "AdaHessian": {"optimizer": "adahessian", "options": {}, "lr": 1e-3},
    XMAT: {"optimizer": "psgd_xmat", "options": {"step": 0.1}, "lr": 0.05},
    LOW_RANK: {"optimizer": "psgd_lowrank", "options": {"rank": 10, "step": 0.1}, "lr": 0.05},
}
"""The rates of PSGD and L-BFGS are the paper's, that of SGD its authors'; the paper does not say the others."""

SLOW = "L-BFGS, lr 0.05"

NOISE = ", noise"


def cells(**size: Any) -> tuple[Cell, ...]:
    """Return all cells; with `side`, `epochs` and `batch`."""
    plain = {**METHODS, SLOW: {**METHODS["L-BFGS"], "lr": 0.05}}
    return (
        *(Cell(name, {**own, **size, "noise": "none"}) for name, own in plain.items()),
        *(Cell(name + NOISE, {**own, **size, "noise": "Bernoulli"}) for name, own in METHODS.items()),
    )


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..data import load
    from ..outer_products import Regression

    return Regression(load("mnist", folder), job.settings, job.seed)


def curves(noise: str) -> Any:
    """Return what draws loss and test error of the cells with or without noise."""

    def draw(records: Sequence[Record]) -> Figure:
        from ..curves import by_epoch

        mine = {name: [r for r in records if r.cell == name + noise] for name in (*METHODS, SLOW)}
        return by_epoch(mine, {"train_loss": "training loss", "test_error": "test error, %"})

    return draw


def others(name: str, noise: str = "") -> list[str]:
    """Return all cells but one, and the slow L-BFGS, with or without noise."""
    return [other + noise for other in METHODS if other != name]


EXPERIMENT = Experiment(
    name="logistic",
    title="Logistic regression on outer products of images",
    sources=("Figure 5", "Figure 6", "E.3"),
    claim="On a convex problem of six million parameters PSGD has lower losses and errors than SGD and L-BFGS.",
    needs=("torch", "pytorch_optimizer"),
    data=("mnist",),
    plans={
        "smoke": Plan(
            cells(side=7, epochs=2, batch=250),
            1,
            "1 min",
            ("images of 7 x 7 pixels, 24,010 parameters", "batches of 250, two epochs"),
        ),
        "reduced": Plan(
            cells(side=14, epochs=20, batch=500),
            3,
            "1.5 h",
            ("images averaged to 14 x 14 pixels: 384,160 parameters instead of 6,146,560", "three seeds"),
        ),
        "faithful": Plan(cells(side=28, epochs=20, batch=500), 10, "80 h"),
    },
    start=start,
    columns=(
        Column(
            "test error, %",
            "test_error",
            ".2f",
            {"SGD": "2.37 ± 0.08", "L-BFGS": "2.09 ± 0.18", LOW_RANK: "1.98 ± 0.08"},
        ),
        Column("best on the way, %", "best_error", ".2f"),
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
            better("test_error", LOW_RANK, "SGD", larger=False),
        ),
        Claim(
            "PSGD's test error is lower than that of L-BFGS",
            "E.3",
            "1.98 and 2.09 %",
            better("test_error", LOW_RANK, "L-BFGS", larger=False),
        ),
        Claim(
            "The test error of L-BFGS is lower than SGD's",
            "E.3",
            "2.09 and 2.37 %",
            better("test_error", "L-BFGS", "SGD", larger=False),
        ),
        Claim(
            "PSGD's training loss is about an order of magnitude below those of SGD and L-BFGS (five times here)",
            "Figure 5, E.3",
            "in a figure",
            best("train_loss", LOW_RANK, ["SGD", "L-BFGS"], larger=False, factor=0.2),
        ),
        Claim(
            "L-BFGS reaches training losses a few times smaller than SGD (twice here)",
            "Figure 5, E.3",
            "in a figure",
            better("train_loss", "L-BFGS", "SGD", larger=False, factor=0.5),
        ),
        Claim(
            "With noise, PSGD has the lowest training loss",
            "Figure 6",
            "in a figure",
            best("train_loss", LOW_RANK + NOISE, others(LOW_RANK, NOISE), larger=False),
        ),
        Claim(
            "With noise, PSGD's test error is lower than SGD's",
            "Figure 6",
            "in a figure",
            better("test_error", LOW_RANK + NOISE, "SGD" + NOISE, larger=False),
        ),
        Claim(
            "With noise, PSGD's test error is lower than that of L-BFGS",
            "Figure 6",
            "in a figure",
            better("test_error", LOW_RANK + NOISE, "L-BFGS" + NOISE, larger=False),
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
            near("test_error", LOW_RANK, 1.98, 0.1),
            absolute=True,
        ),
    ),
    figures={"5": curves(""), "6": curves(NOISE)},
    notes=(
        "The noise is what the authors' published program does: in each batch every pixel is drawn anew, 1 with "
        "its grey for a probability. Test images are without noise.",
        "That program adds the pixels themselves and a bias to the outer products (6,154,410 parameters), and "
        "prints the lowest test error of 20 epochs; here there are the outer products alone, as in the text, and "
        "the error counted is the last. Both are in the table.",
        "From it are also what the paper does not say: 20 epochs, W = 0 at first, SGD's rate 0.5, and rates that "
        "fall a hundredfold (per iteration here, per epoch there).",
        "L-BFGS is torch.optim.LBFGS on each batch in turn, ten iterations and a memory of ten, without a line "
        "search: ten gradients a step where SGD takes one, and PSGD one and a product.",
        "KFAC and Hessian-free are not run: the paper leaves them out too.",
    ),
)
