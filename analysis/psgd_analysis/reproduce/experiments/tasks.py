"""One task after the other: permuted and rotated digits (the summary's next check 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claims import Claim, best, better, trend
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import curves, figure, levels, rows

PERMUTED, ROTATED = "permuted", "rotated"
DEGREES = 45
"""From one task to the next."""

STEPS = (0.001, 0.01, 0.1, 0.5)

PSGD = {"lr": 0.03, "step": 0.1, "optimizer_settings": {"clip": 10.0}}


def low_rank(step: float) -> str:
    """Return the name of PSGD with rank 10 and a step of the fit."""
    return f"PSGD LowRank, step {step:g}"


LRA, STAYS = low_rank(0.1), "PSGD LowRank, P of the first task"

METHODS: dict[str, dict[str, Any]] = {
    "SGD": {"optimizer": "sgd", "lr": 0.3},
    "SGD, momentum 0.9": {"optimizer": "momentum", "lr": 0.03},
    "Adam": {"optimizer": "adam", "lr": 3e-3},
    **{low_rank(s): {"optimizer": "psgd_lowrank", **PSGD, "step": s} for s in STEPS},
    STAYS: {"optimizer": "psgd_lowrank", **PSGD},
    "PSGD Diagonal": {"optimizer": "psgd_diagonal", **PSGD},
    "PSGD XMat": {"optimizer": "psgd_xmat", **PSGD},
    "PSGD affine": {"optimizer": "psgd_affine", **PSGD},
}
"""The rates are the best of a scan; see the notes."""

BASELINES = ("SGD", "SGD, momentum 0.9", "Adam")

STILL = 1e-6
"""A step of the fit that changes P by nothing worth mentioning in a run."""

SECONDS = {"sgd": 1e-3, "momentum": 1e-3, "adam": 1.5e-3, "psgd_affine": 20e-3}
"""Of an iteration, roughly; 10e-3 with the other kinds of PSGD."""


def name(kind: str, method: str) -> str:
    """Return the name of a cell."""
    return f"{kind}: {method}"


def method_of(cell: str) -> str:
    """Return the optimiser in the name of a cell."""
    return cell.partition(": ")[2]


def change(kind: str, task: int) -> list[dict[str, Any]]:
    """Return what makes a task of the data; the first one has it as it is."""
    if not task:
        return []
    if kind == PERMUTED:
        return [{"name": "permute", "task": task}]
    return [{"name": "rotate", "degrees": DEGREES * task}]


def cells(
    tasks: int, parts: int, iterations: int, methods: tuple[str, ...] = tuple(METHODS), **size: Any
) -> tuple[Cell, ...]:
    """Return a cell for each kind of task and optimiser.

    Parameters
    ----------
    tasks : int
    parts, iterations : int
        Of a task.
    methods : tuple of str
    **size
        Limits the number of images.
    """
    found = []
    for kind in (PERMUTED, ROTATED):
        for method in methods:
            phases: list[dict[str, Any]] = [
                {"parts": parts, "changes": change(kind, task)} for task in range(tasks)
            ]
            if method == STAYS:
                phases = [{**phase, "step": STILL} if i else phase for i, phase in enumerate(phases)]
            settings = {
                "model": "mlp",
                "data": "mnist",
                "batch": 64,
                "iterations": tasks * iterations,
                "parts": tasks * parts,
                "phases": phases,
                "measures": {"retention": {"level": 85.0}},
                **size,
                **METHODS[method],
            }
            seconds = SECONDS.get(settings["optimizer"], 10e-3) * tasks * iterations + 3
            found.append(Cell(name(kind, method), settings, seconds))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..training import start

    return start(job, folder)


def of(kind: str, *methods: str) -> list[str]:
    """Return the names of cells of a kind."""
    return [name(kind, method) for method in methods]


CHECK = "summary, next check 1"


def claims(kind: str) -> tuple[Claim, ...]:
    """Return the claims about one kind of tasks."""
    ours = name(kind, LRA)
    digits = f"{kind} digits"
    return (
        *(
            Claim(
                f"{digits}: after a switch PSGD recovers sooner than {other}",
                CHECK,
                "in words",
                better("recovery", ours, name(kind, other), larger=False),
            )
            for other in BASELINES
        ),
        Claim(
            f"{digits}: on the way PSGD is more accurate on the present task than SGD and Adam",
            CHECK,
            "in words",
            best("online_accuracy", ours, of(kind, *BASELINES)),
        ),
        Claim(
            f"{digits}: PSGD recovers sooner the larger the step of its fit, up to 0.1",
            CHECK,
            "in words",
            trend("recovery", of(kind, *map(low_rank, STEPS[:3])), larger=False),
        ),
        Claim(
            f"{digits}: P must follow: it is better than P of the first task, kept",
            CHECK,
            "in words",
            better("online_accuracy", ours, name(kind, STAYS)),
        ),
        Claim(
            f"{digits}: PSGD forgets less than SGD and Adam",
            CHECK,
            "in words",
            best("backward_transfer", ours, of(kind, *BASELINES)),
        ),
    )


def panels(kind: str) -> tuple[Any, ...]:
    """Return the panels of one kind of tasks."""
    shown = of(kind, *BASELINES, LRA, STAYS, "PSGD XMat")
    title = f"{kind} digits"
    return (
        curves(
            "accuracy",
            "iterations",
            cells=shown,
            title=title,
            xlabel="iterations",
            ylabel="accuracy, present task, %",
        ),
        curves(
            "earlier_accuracy",
            "iterations",
            cells=shown,
            title=title,
            xlabel="iterations",
            ylabel="accuracy, earlier tasks, %",
        ),
    )


EXPERIMENT = Experiment(
    name="tasks",
    title="One task after the other",
    sources=(CHECK,),
    claim="PSGD recovers sooner than SGD and Adam when the data becomes another.",
    needs=("torch",),
    data=("mnist",),
    plans={
        "smoke": Plan(
            cells(2, 2, 4, ("SGD", "Adam", LRA, STAYS), train=256, test=100),
            1,
            "10 s",
            ("two tasks of 4 iterations, 256 images", "not all optimisers"),
        ),
        "reduced": Plan(
            cells(5, 20, 200, train=5_000, test=1_000),
            3,
            "15 min",
            ("5,000 of the 60,000 images, 200 iterations of 64 images a task in place of 938",),
        ),
        "faithful": Plan(cells(5, 94, 940), 10, "4 h"),
    },
    start=start,
    columns=(
        Column("iterations to recover", "recovery", ".0f"),
        Column("always recovered", "recovered", spread="rate"),
        Column("accuracy on the way, %", "online_accuracy", ".2f"),
        Column("loss on the way", "online_loss", ".3f"),
        Column("accuracy, ends of tasks, %", "present_accuracy", ".2f"),
        Column("accuracy, all tasks at the end, %", "average_accuracy", ".2f"),
        Column("backward transfer, %", "backward_transfer", ".1f"),
    ),
    claims=(*claims(PERMUTED), *claims(ROTATED)),
    contests=tuple(
        Contest(
            f"{about}, {kind} digits",
            key,
            tuple(of(kind, LRA, "PSGD Diagonal", "PSGD XMat", "PSGD affine")),
            tuple(of(kind, *BASELINES)),
            larger,
        )
        for kind in (PERMUTED, ROTATED)
        for about, key, larger in (
            ("iterations to recover", "recovery", False),
            ("accuracy on the present task on the way", "online_accuracy", True),
            ("backward transfer", "backward_transfer", True),
        )
    ),
    figures={
        "": figure(*panels(PERMUTED), *panels(ROTATED), named=method_of),
        "steps": figure(
            levels(
                "recovery",
                {kind: {name(kind, low_rank(s)): s for s in STEPS} for kind in (PERMUTED, ROTATED)},
                title="PSGD LowRank(10)",
                xlabel="step of the fit",
                ylabel="iterations to recover",
            ),
            levels(
                "backward_transfer",
                {kind: {name(kind, low_rank(s)): s for s in STEPS} for kind in (PERMUTED, ROTATED)},
                title="PSGD LowRank(10)",
                xlabel="step of the fit",
                ylabel="backward transfer, %",
            ),
            rows(
                "recovery",
                cells=of(PERMUTED, *METHODS),
                title="permuted digits",
                xlabel="iterations to recover",
            ),
            rows(
                "recovery",
                cells=of(ROTATED, *METHODS),
                title="rotated digits",
                xlabel="iterations to recover",
            ),
            named=method_of,
        ),
    },
    notes=(
        "Five tasks: the images as they are, then with the pixels at other places, drawn for each seed, or "
        "turned by 45 degrees more each time; training and test images alike. The network (784, 100, 10, "
        "tanh) and the optimiser go on as they are; rates are constant, and the optimiser is not told of a "
        "switch.",
        "Recovered is 85 % accuracy on the present task's test set, looked at every 10 iterations; where it "
        "is not reached, the length of a task counts. Backward transfer is the accuracy at the end less "
        "that at the end of a task's own phase, mean over all tasks but the last (Lopez-Paz and Ranzato, "
        "2017).",
        "Learning rates are the best by accuracy on the way of one short scan (three tasks, another seed, "
        "permuted digits): SGD of 0.1, 0.3, 1; momentum of 0.03, 0.1; Adam of 0.001, 0.003, 0.01; LowRank of "
        "0.03, 0.1, 0.3, which the other kinds of PSGD share. P kept is fitted on with a step of 1e-6 after "
        "the first task, so it costs the same.",
    ),
)
