"""A problem that moves: how soon P and the loss recover, by the memory of P (the summary's next check 1)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..claims import Claim, all_of, best, better, trend
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import Panel, against, curves, figure, levels

STILL, JUMP, SLOW, FAST = "still", "jumps", "turns slowly", "turns fast"

MOTIONS: dict[str, dict[str, Any]] = {
    STILL: {},
    JUMP: {},
    SLOW: {"speed": 3e-4},
    FAST: {"speed": 3e-3},
}
"""Speeds in radians per iteration."""

MEMORIES: tuple[int | str, ...] = (30, 100, 300, 1000, "all")
STEPS = (0.5, 0.1, 0.02)
WINDOWS = (30, 100, 300)


def memory(t: int | str) -> str:
    """Return the name of PSGD that remembers so many pairs."""
    return f"PSGD, {t} pairs"


def step(size: float) -> str:
    """Return the name of PSGD with a constant step of the fit."""
    return f"PSGD, step {size:g}"


def closed(t: int) -> str:
    """Return the name of PSGD with the closed form of so many pairs."""
    return f"closed form, {t} pairs"


METHODS: dict[str, dict[str, Any]] = {
    **{memory(t): {"optimizer": "psgd", "fit": "memory", "memory": t, "lr": 1.0} for t in MEMORIES},
    **{step(s): {"optimizer": "psgd", "fit": "step", "step": s, "lr": 0.3} for s in STEPS},
    **{
        closed(t): {"optimizer": "psgd", "fit": "closed form", "step": 2 / (t + 1), "lr": 1.0}
        for t in WINDOWS
    },
    "SGD": {"optimizer": "sgd", "lr": 1.5},
    "Adam": {"optimizer": "adam", "lr": 0.1},
}
"""Rates are the best of a scan; see the notes. A running mean over T pairs has the least weight 2/(T+1)."""


def name(motion: str, method: str) -> str:
    """Return the name of a cell."""
    return f"{motion}: {method}"


def method_of(cell: str) -> str:
    """Return the optimiser in the name of a cell."""
    return cell.partition(": ")[2]


def cells(
    period: int, periods: int, part: int, methods: tuple[str, ...] = tuple(METHODS)
) -> tuple[Cell, ...]:
    """Return a cell for each motion and optimiser, all of one length."""
    found = []
    for motion, own in MOTIONS.items():
        for method in methods:
            # what does not move has a period as its start, and the others as one
            lengths = (period * periods // 2, 2) if motion == STILL else (period, periods)
            settings = {
                **{"n": 16, "kappa": 100.0, "batch": 64, "part": part},
                **{"period": lengths[0], "periods": lengths[1]},
                **own,
                **METHODS[method],
            }
            found.append(Cell(name(motion, method), settings, 1.3e-3 * period * periods))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..drifting import DriftTraining

    return DriftTraining(job.settings, job.seed)


def of(motion: str, *methods: str) -> list[str]:
    """Return the names of cells of a motion."""
    return [name(motion, method) for method in methods]


CHECK = "summary, next check 1"

NUMBERED = [memory(t) for t in MEMORIES if t != "all"]

PLACES = {memory(t): math.inf if t == "all" else float(t) for t in MEMORIES}


def by_memory(key: str, motions: tuple[str, ...], title: str, ylabel: str, log: bool = False) -> Panel:
    """Return the panel of a number by memory."""
    lines = {m: {name(m, method): place for method, place in PLACES.items()} for m in motions}
    return levels(key, lines, log=log, title=title, xlabel="memory, pairs", ylabel=ylabel)


EXPERIMENT = Experiment(
    name="drift",
    title="A problem that moves",
    sources=(CHECK,),
    claim="P follows a Hessian that changes, sooner the shorter its memory, at the price of noise at rest.",
    needs=("torch",),
    data=(),
    plans={
        "smoke": Plan(
            cells(40, 2, 20, (memory(30), memory("all"), step(0.1), closed(30), "SGD", "Adam")),
            1,
            "10 s",
            ("two periods of 40 iterations", "not all memories and steps"),
        ),
        "reduced": Plan(
            cells(1_000, 4, 20), 5, "25 min", ("four periods of 1,000 iterations in place of 20",)
        ),
        "faithful": Plan(cells(1_000, 20, 20), 10, "4 h"),
    },
    start=start,
    columns=(
        Column("error of P", "error", ".3f"),
        Column("error at rest", "rest", ".3f"),
        Column("pairs until P has recovered", "recovery", ".0f"),
        Column("excess loss", "excess", ".2g"),
    ),
    claims=(
        Claim(
            "At rest P is closer to its target the more pairs it remembers",
            CHECK,
            "about the last T pairs",
            trend("rest", of(STILL, *NUMBERED), larger=False),
        ),
        Claim(
            "After a jump P recovers sooner the fewer pairs it remembers",
            CHECK,
            "about the last T pairs",
            trend("recovery", of(JUMP, *NUMBERED)),
        ),
        Claim(
            "A jump is noticed where all pairs are remembered: P recovers within twice the pairs that it "
            "takes with a memory of 300",
            "psgd_core's guide to steps",
            "in words",
            better("recovery", *of(JUMP, memory("all"), memory(300)), larger=False, factor=2.0),
        ),
        Claim(
            "The faster H turns, the fewer pairs are best to remember: 30 rather than 300 where it turns "
            "fast, 300 rather than 30 where it turns slowly",
            CHECK,
            "in words",
            all_of(
                better("error", *of(FAST, memory(30), memory(300)), larger=False),
                better("error", *of(SLOW, memory(300), memory(30)), larger=False),
            ),
        ),
        *(
            Claim(
                f"Where H {motion}, P with a memory of {t} pairs is closer than with any constant step",
                CHECK,
                "in words",
                best("error", name(motion, memory(t)), of(motion, *map(step, STEPS)), larger=False),
            )
            for motion, t in ((JUMP, 100), (SLOW, 300), (FAST, 100))
        ),
        *(
            Claim(
                f"Where H {motion}, the loss of PSGD with a memory of 100 pairs is below those of SGD and "
                "Adam",
                CHECK,
                "in words",
                best("excess", name(motion, memory(100)), of(motion, "SGD", "Adam"), larger=False),
            )
            for motion in (JUMP, SLOW, FAST)
        ),
    ),
    contests=tuple(
        Contest(
            f"excess loss where H {motion}" if motion != STILL else "excess loss where H stays",
            "excess",
            tuple(of(motion, memory(100), step(0.1))),
            tuple(of(motion, "SGD", "Adam")),
            False,
        )
        for motion in MOTIONS
    ),
    figures={
        "": figure(
            curves(
                "distance",
                "iterations",
                cells=of(JUMP, *map(memory, MEMORIES), step(0.1), closed(100)),
                log=True,
                title="H jumps",
                xlabel="pairs",
                ylabel="error of P",
            ),
            against(
                "recovery",
                "rest",
                cells=of(JUMP, *(m for m in METHODS if m not in ("SGD", "Adam"))),
                log=(True, True),
                title="H jumps",
                xlabel="pairs until P has recovered",
                ylabel="error at rest",
            ),
            by_memory("rest", (STILL,), title="H stays", ylabel="error at rest"),
            by_memory("error", (JUMP, SLOW, FAST), title="H moves", ylabel="error of P"),
            curves(
                "excess",
                "iterations",
                cells=of(JUMP, memory(30), memory(100), memory("all"), step(0.1), "SGD", "Adam"),
                log=True,
                title="H jumps",
                ylabel="excess loss",
            ),
            by_memory("excess", (JUMP, SLOW, FAST), title="H moves", ylabel="excess loss", log=True),
            named=method_of,
        )
    },
    notes=(
        "Least squares with n = 16 and batches of 64 rows; the eigenvalues, log-spaced with condition number "
        "100, stay, while the eigenvectors, and the optimum with them, jump every 1,000 iterations to others "
        "drawn anew, or turn by 0.0003 or 0.003 radians per iteration. P is in GL(n), with one pair per "
        "iteration, the product of the batch's own Hessian; everything is in float64.",
        "The error is the affine-invariant distance of P from the criterion's minimiser, which is known in "
        "closed form; P has recovered where it is 0.5 or less. The first period, the start, is left out. At "
        "rest is the last half of each period. A jump from which P does not recover in time counts as a "
        "period.",
        "Learning rates are the best of one short scan (three periods, another seed, H jumps): SGD of 0.3, "
        "1, 1.5; Adam of 0.01, 0.03, 0.1; a memory of 100 pairs of 0.1, 0.3, 0.6, 1, which the other "
        "memories and the closed forms share; a step of 0.1 of 0.1, 0.3, 1, which the other steps share.",
    ),
)
