"""Reinforcement learning: PPO on HalfCheetah and Walker2d, Figure 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claims import Claim, best
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import curves, figure, rows

ENVIRONMENTS = ("HalfCheetah", "Walker2d")

PSGD = {
    "optimizer": "psgd_lowrank",
    "step": 0.1,
    "optimizer_settings": {"rank": 10, "every": 10, "momentum": 0.9},
}
WHITENING = {**PSGD, "optimizer": "psgd_lowrank_whitening"}

METHODS: dict[str, dict[str, Any]] = {
    "PSGD": {**PSGD, "lr": 0.03},
    "PSGD, whitening": {**WHITENING, "lr": 0.003},
    "AdaBelief": {"optimizer": "adabelief", "lr": 0.003},
    "Adan": {"optimizer": "adan", "lr": 0.003},
    "Adam": {"optimizer": "adam", "lr": 0.003},
}
"""The same for the actor and for the critic; the rates fall to zero, as half a cosine."""

FIRST_ORDER = ("AdaBelief", "Adan", "Adam")
SECOND_ORDER = ("PSGD", "PSGD, whitening")

COMMON: dict[str, Any] = {
    "discount": 0.99,
    "trace": 0.95,
    "clip": 0.2,
    "epochs": 10,
    "batch": 64,
    "hidden": [64, 64],
}
"""Those of Schulman et al., Proximal policy optimization algorithms, 2017, Table 3 and Section 6.1."""

SECONDS = {"PSGD": 1.1, "PSGD, whitening": 1.0, "AdaBelief": 0.8, "Adan": 0.8, "Adam": 0.75}
"""CPU-seconds of 1,000 steps with batches of 64, roughly; about half with batches of 128."""


def name(environment: str, method: str) -> str:
    """Return the name of a cell."""
    return f"{environment}, {method}"


def cells(factor: float, **size: Any) -> tuple[Cell, ...]:
    """Return all cells; `size` says for how long, and in how many environments; `factor` is of all rates."""
    found = []
    for environment in ENVIRONMENTS:
        for method, own in METHODS.items():
            learner = {**own, "lr": {"cosine": [round(own["lr"] * factor, 6), 0.0]}}
            learners = {"environment": f"{environment}-v5", "actor": learner, "critic": learner}
            settings = {**COMMON, **size, **learners}
            share = settings["steps"] / 1000 * 64 / settings["batch"]
            found.append(Cell(name(environment, method), settings, share * SECONDS[method]))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning; the environment is its data."""
    from ..reinforcement import PPOTraining

    return PPOTraining(job.settings, job.seed)


RETURN = "return"
EXPERIMENT = Experiment(
    name="ppo",
    title="Reinforcement learning with PPO",
    sources=("Figure 1", "5.3"),
    claim="With PSGD, PPO reaches a higher reward on Walker2d and HalfCheetah than with AdaBelief and Adan.",
    needs=("torch", "pytorch_optimizer", "gymnasium", "mujoco"),
    extras="reproduce,reproduce-rl",
    data=(),
    plans={
        "smoke": Plan(
            cells(1.0, environments=2, rollout=128, steps=2_048, parts=2, batch=256, epochs=2),
            1,
            "20 s",
            ("2,048 steps, few updates",),
        ),
        "reduced": Plan(
            cells(1.0, environments=4, rollout=512, steps=200_000, parts=25, batch=128),
            3,
            "45 min",
            (
                "200,000 steps; batches of 128 steps",
                "512 steps in each of four environments, not 2,048 in one",
            ),
        ),
        "faithful": Plan(cells(0.1, environments=1, rollout=2_048, steps=3_000_000, parts=100), 10, "75 h"),
    },
    start=start,
    columns=(
        Column("return at the end", RETURN, ",.0f"),
        Column("on the way, mean", "mean_return", ",.0f"),
        Column("KL of an update", "kl", ".2g", spread="median"),
        Column("deviation", "deviation", ".2f", spread="median"),
        Column("products", "products", ",.0f", spread="median"),
        Column("CPU s", "cpu_seconds", ",.0f", spread="median"),
    ),
    claims=tuple(
        Claim(
            f"{environment}: {method} reaches a higher return than AdaBelief and Adan",
            "Figure 1",
            "in a figure",
            best(RETURN, name(environment, method), [name(environment, b) for b in FIRST_ORDER[:2]]),
        )
        for environment in ENVIRONMENTS
        for method in SECOND_ORDER
    ),
    contests=tuple(
        Contest(
            f"{what}, {environment}",
            key,
            tuple(name(environment, m) for m in SECOND_ORDER),
            tuple(name(environment, b) for b in FIRST_ORDER),
        )
        for what, key in (("return at the end", RETURN), ("mean return on the way", "mean_return"))
        for environment in ENVIRONMENTS
    ),
    figures={
        "": figure(
            *(
                curves(
                    RETURN,
                    "steps",
                    cells=[name(environment, m) for m in METHODS],
                    title=f"{environment} (Figure 1)",
                    xlabel="steps",
                    ylabel="return of an episode",
                )
                for environment in ENVIRONMENTS
            ),
            *(
                rows(
                    RETURN,
                    cells=[name(environment, m) for m in METHODS],
                    title=f"{environment}, at the end",
                    xlabel="return of an episode",
                )
                for environment in ENVIRONMENTS
            ),
            named=lambda cell: cell.partition(", ")[2],
        )
    },
    notes=(
        "The paper says neither the settings of PPO nor those of the optimisers, nor in which form PSGD was "
        "used, how many steps were taken, or with how many seeds. PPO's settings are those published for "
        "these environments (Schulman et al., 2017): 2,048 steps between updates, 10 epochs, batches of 64, "
        "discount 0.99, lambda 0.95, clip 0.2, two layers of 64 units. Observations and rewards are scaled "
        "by what was seen so far, and advantages in each batch; where an episode ends as its time is up, the "
        "value of what would have come counts. Gradients are not clipped.",
        "PSGD has two forms here, both with LowRank(10), P fitted once per ten iterations and momentum 0.9, "
        "as in the paper's other experiments: exact Hessian-vector products, and whitening of the gradients.",
        "First rates were chosen by a scan with one seed that is not used here, on HalfCheetah for 61,440 "
        "steps at the reduced scale's settings, of three constant rates for each optimiser (PSGD 0.01, 0.03, "
        "0.1; others 0.0003, 0.001, 0.003): the best mean return of the run. PSGD was tried besides with a "
        "step of 0.01, and with whitening and affine groups (rate 0.001); both did worse. The rates serve "
        "Walker2d too, and the actor as well as the critic; that they fall was settled on afterwards. At the "
        "faithful scale all are a tenth of these, which is Adam's published rate there, 0.0003; none was "
        "chosen anew for it.",
        "A return is the sum of rewards of an episode in training, with the policy's noise. The return at "
        "the end is that of the last tenth of the parts.",
        "The paper does not name the versions of its environments, and its figure has no numbers; here they "
        "are HalfCheetah-v5 and Walker2d-v5 of gymnasium.",
        "All of it runs on the CPU, with the environments, also where there is a GPU: one small network is "
        "asked for each step.",
    ),
)
