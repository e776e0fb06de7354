"""Delayed XOR: Table 8, Figure 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..experiment import Cell, Column, Experiment, Job, Plan, Training

LENGTHS = (32, 55, 64, 112)
RANKS = (0, 1, 2, 5, 10)
BASELINES = ("SGD", "AdaBelief", "Adan", "Adam")

COMMON: dict[str, Any] = {
    "units": 30,
    "batch": 128,
    "solved": 0.1,
    "iterations": 100_000,
    "part": 1_000,
    "lr": 0.01,
    "clip": 1.0,
}


def cell(
    network: str, length: int, optimizer: str, *, runs: int | None = None, more: str = "", **own: Any
) -> Cell:
    """Return a cell: PSGD has a rank and a step, 0.01 if not given."""
    name = f"{network}, T = {length}, {optimizer}"
    if optimizer == "PSGD":
        own = {"rank": 10, "step": 0.01, **own}
        name += f", r = {own['rank']}"
    settings = {**COMMON, "cell": network, "length": length, "optimizer": optimizer, **own}
    return Cell(name + more, settings, _seconds(settings), runs)


def _seconds(settings: dict[str, Any]) -> float:
    """Return how long a run takes, measured: 3 times as long with an LSTM; PSGD solves it on the way."""
    each = (2.5e-3 if settings["optimizer"] == "PSGD" else 1.1e-3) * settings["length"] / 32
    share = 0.3 if settings["optimizer"] == "PSGD" else 1.0
    return share * settings["iterations"] * each * (3 if settings["cell"] == "LSTM" else 1)


def ranks() -> list[Cell]:
    """Return Figure 8 but for its rank 10, which Table 8 has."""
    return [cell("RNN", 32, "PSGD", rank=rank) for rank in RANKS if rank != 10]


def larger_step(network: str, length: int, runs: int | None = None) -> Cell:
    """Return PSGD with the step that solves more here than the paper's."""
    return cell(network, length, "PSGD", runs=runs, more=", step 0.3", step=0.3)


def smaller_rate(network: str, length: int, optimizer: str, runs: int | None = None) -> Cell:
    """Return a baseline with its libraries' usual rate: the paper does not say its own."""
    return cell(network, length, optimizer, runs=runs, more=", lr 0.001", lr=0.001)


SMOKE = (
    cell("RNN", 6, "PSGD", more=", step 0.3", step=0.3, iterations=1_000, part=500),
    cell("RNN", 6, "SGD", iterations=1_000, part=500),
    cell("LSTM", 6, "SGD", iterations=200, part=100),
)

REDUCED = (
    cell("RNN", 32, "PSGD"),
    larger_step("RNN", 32),
    *ranks(),
    cell("RNN", 32, "SGD"),
    *(cell("RNN", length, "PSGD", runs=5) for length in LENGTHS[1:]),
    *(larger_step("RNN", length, 5) for length in LENGTHS[1:]),
    *(cell("RNN", length, "SGD", runs=5) for length in LENGTHS[1:]),
    *(cell("RNN", length, name, runs=5) for length in LENGTHS[:2] for name in BASELINES[1:]),
    *(smaller_rate("RNN", length, name, 5) for length in LENGTHS[:2] for name in BASELINES[1:]),
    cell("LSTM", 32, "PSGD", runs=5),
    larger_step("LSTM", 32, 5),
    cell("LSTM", 32, "SGD", runs=5),
)

FAITHFUL = (
    *(cell(network, length, "PSGD") for network in ("RNN", "LSTM") for length in LENGTHS),
    *(larger_step(network, length) for network in ("RNN", "LSTM") for length in LENGTHS),
    *ranks(),
    *(cell(n, length, name) for n in ("RNN", "LSTM") for length in LENGTHS for name in BASELINES),
    *(smaller_rate(n, length, b) for n in ("RNN", "LSTM") for length in LENGTHS for b in BASELINES[1:]),
)


def paper() -> dict[str, str]:
    """Return the rates of Table 8 and Figure 8 by name of cell."""
    found = {}
    for network in ("RNN", "LSTM"):
        for length in LENGTHS:
            found[cell(network, length, "PSGD").name] = "1"
            for name in BASELINES[:3]:
                rate = "1" if length == 32 else "0"
                found[cell(network, length, name).name] = rate
                if name != "SGD":
                    found[smaller_rate(network, length, name).name] = rate
    for rank, rate in zip(RANKS, ("0.1", "0.4", "0.8", "1", "1"), strict=True):
        found[cell("RNN", 32, "PSGD", rank=rank).name] = rate
    return found


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning; it draws its data itself."""
    from ..recurrent_training import XorTraining

    return XorTraining(job.settings, job.seed)


EXPERIMENT = Experiment(
    name="xor",
    title="Delayed XOR",
    sources=("Table 8", "Figure 8", "E.5"),
    claim="PSGD solves delayed XOR at every length, also with an RNN; other optimisers fail beyond 32.",
    needs=("jax", "optax"),
    data=(),
    plans={
        "smoke": Plan(SMOKE, 2, "20 s", ("sequences of 6, up to 1,000 iterations",)),
        "reduced": Plan(
            REDUCED,
            10,
            "8 h",
            (
                "10 runs of PSGD and SGD at T = 32, 5 of all others",
                "AdaBelief, Adan and Adam at T = 32 and 55 only; LSTM at T = 32 only, with PSGD and SGD",
                "AdaHessian, Shampoo, Hessian-free and KFAC are not run",
            ),
        ),
        "faithful": Plan(FAITHFUL, 10, "90 h"),
    },
    start=start,
    columns=(
        Column("solved", "solved", ".2f", paper(), "rate"),
        Column("iterations", "iterations", ",.0f", spread="median"),
        Column("products", "products", ",.0f", spread="median"),
        Column("CPU s", "cpu_seconds", ",.0f", spread="median"),
    ),
    claims=(),
    figures={},
)
