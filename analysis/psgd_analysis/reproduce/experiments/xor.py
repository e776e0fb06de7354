"""Delayed XOR: Table 8, Figure 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claims import Claim, all_of, better, rate_at_least, rate_at_most, rates_grow
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import curves, figure, levels

LENGTHS = (32, 55, 64, 112)
RANKS = (0, 1, 2, 5, 10)
BASELINES = ("SGD", "AdaBelief", "Adan", "Adam")
SECOND_ORDER = ("AdaHessian", "Hessian-free")

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
    """Return how long a run takes, measured with an RNN; PSGD solves it on the way."""
    each = {"PSGD": 2.5e-3, "AdaHessian": 2.5e-3, "Hessian-free": 13e-3}.get(settings["optimizer"], 1.1e-3)
    share = 0.3 if settings["optimizer"] == "PSGD" else 1.0
    longer = settings["length"] / 32 * (4 if settings["cell"] == "LSTM" else 1)
    return share * settings["iterations"] * each * longer


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
    *(cell("RNN", length, "PSGD", runs=6) for length in LENGTHS[1:]),
    *(larger_step("RNN", length, 6) for length in LENGTHS[1:]),
    *(cell("RNN", length, "SGD", runs=6) for length in LENGTHS[1:]),
    *(cell("RNN", length, name, runs=6) for length in LENGTHS[:2] for name in BASELINES[1:]),
    *(smaller_rate("RNN", length, name, 6) for length in LENGTHS[:2] for name in BASELINES[1:]),
    cell("LSTM", 32, "PSGD", runs=6),
    larger_step("LSTM", 32, 6),
    cell("LSTM", 32, "SGD", runs=6),
)

FAITHFUL = (
    *(cell(network, length, "PSGD") for network in ("RNN", "LSTM") for length in LENGTHS),
    *(larger_step(network, length) for network in ("RNN", "LSTM") for length in LENGTHS),
    *ranks(),
    *(cell(n, length, name) for n in ("RNN", "LSTM") for length in LENGTHS for name in BASELINES),
    *(smaller_rate(n, length, b) for n in ("RNN", "LSTM") for length in LENGTHS for b in BASELINES[1:]),
    *(cell(n, length, name) for n in ("RNN", "LSTM") for length in LENGTHS for name in SECOND_ORDER),
)


def paper() -> dict[str, str]:
    """Return the rates of Table 8 and Figure 8 by name of cell."""
    first_order = dict.fromkeys(BASELINES[:3], ("1", "0", "0", "0"))
    table = {
        "RNN": {**first_order, "AdaHessian": ("1", "0", "0", "0"), "Hessian-free": ("1", "0", "0", "0")},
        "LSTM": {**first_order, "AdaHessian": ("1", "1", "0.8", "0"), "Hessian-free": ("1", "0.6", "0", "0")},
    }
    found: dict[str, str] = {}
    for network, rows in table.items():
        for name, rates in {"PSGD": ("1",) * 4, **rows}.items():
            found |= dict(zip(names(network, name), rates, strict=True))
            if name in BASELINES[1:]:
                found |= dict(zip(names(network, name, more=", lr 0.001"), rates, strict=True))
    for rank, rate in zip(RANKS, ("0.1", "0.4", "0.8", "1", "1"), strict=True):
        found[cell("RNN", 32, "PSGD", rank=rank).name] = rate
    return found


def names(network: str, optimizer: str, lengths: tuple[int, ...] = LENGTHS, **own: Any) -> list[str]:
    """Return the names of an optimiser's cells."""
    return [cell(network, length, optimizer, **own).name for length in lengths]


def by_rank() -> dict[str, float]:
    """Return the names of Figure 8's cells, with their ranks."""
    return {cell("RNN", 32, "PSGD", rank=rank).name: rank for rank in RANKS}


def by_length(optimizer: str, **own: Any) -> dict[str, float]:
    """Return the names of an optimiser's cells with an RNN, with their lengths."""
    return dict(zip(names("RNN", optimizer, **own), LENGTHS, strict=True))


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
        "smoke": Plan(SMOKE, 2, "30 s", ("sequences of 6, up to 1,000 iterations",)),
        "reduced": Plan(
            REDUCED,
            10,
            "9 h",
            (
                "10 runs of PSGD and SGD at T = 32, 6 of all others",
                "AdaBelief, Adan and Adam at T = 32 and 55 only; LSTM at T = 32 only, with PSGD and SGD; "
                "AdaHessian and Hessian-free at the faithful scale only",
            ),
        ),
        "faithful": Plan(FAITHFUL, 10, "230 h"),
    },
    start=start,
    columns=(
        Column("solved", "solved", ".2f", paper(), "rate"),
        Column("iterations", "iterations", ",.0f", spread="median"),
        Column("products", "products", ",.0f", spread="median"),
        Column("CPU s", "cpu_seconds", ",.0f", spread="median"),
    ),
    claims=(
        Claim(
            "PSGD solves it with an RNN whatever the length: in more than half of the runs, at each",
            "Table 8",
            "1 at 32, 55, 64 and 112",
            rate_at_least("solved", names("RNN", "PSGD"), 0.5),
        ),
        Claim(
            "SGD, AdaBelief and Adan solve it with an RNN at T = 32",
            "Table 8",
            "1 for each",
            rate_at_least("solved", [n for b in BASELINES[:3] for n in names("RNN", b, LENGTHS[:1])], 0.5),
        ),
        Claim(
            "SGD does not solve it with an RNN beyond T = 32",
            "Table 8",
            "0 at 55, 64 and 112",
            rate_at_most("solved", names("RNN", "SGD", LENGTHS[1:]), 0.5),
        ),
        Claim(
            "AdaBelief and Adan do not solve it with an RNN at T = 55",
            "Table 8",
            "0 for both",
            rate_at_most("solved", [n for b in BASELINES[1:3] for n in names("RNN", b, LENGTHS[1:2])], 0.5),
        ),
        Claim(
            "Beyond T = 32 PSGD solves it with an RNN more often than SGD",
            "Table 8",
            "1 and 0",
            all_of(
                *(
                    better("solved", ours, theirs)
                    for ours, theirs in zip(
                        names("RNN", "PSGD", LENGTHS[1:]), names("RNN", "SGD", LENGTHS[1:]), strict=True
                    )
                )
            ),
        ),
        Claim(
            "Beyond T = 32 PSGD with an RNN solves it more often than SGD, AdaBelief and Adan with an LSTM",
            "Table 8",
            "1 and 0",
            all_of(
                *(
                    better("solved", ours, theirs)
                    for name in BASELINES[:3]
                    for ours, theirs in zip(
                        names("RNN", "PSGD", LENGTHS[1:]), names("LSTM", name, LENGTHS[1:]), strict=True
                    )
                )
            ),
        ),
        Claim(
            "The rate rises with the rank",
            "Figure 8",
            "0.1, 0.4, 0.8, 1, 1 for r = 0, 1, 2, 5, 10",
            rates_grow("solved", list(by_rank())),
        ),
        Claim(
            "The diagonal alone struggles: at most half of the runs",
            "Figure 8",
            "0.1 for r = 0",
            rate_at_most("solved", names("RNN", "PSGD", LENGTHS[:1], rank=0), 0.5),
        ),
        Claim(
            "A low rank suffices: more than half of the runs with ranks 5 and 10",
            "Figure 8",
            "1 for r = 5 and 10",
            rate_at_least(
                "solved", [n for r in (5, 10) for n in names("RNN", "PSGD", LENGTHS[:1], rank=r)], 0.5
            ),
        ),
    ),
    figures={
        "": figure(
            levels(
                "solved",
                {"PSGD": by_rank()},
                paper={"PSGD": dict(zip(RANKS, (0.1, 0.4, 0.8, 1.0, 1.0), strict=True))},
                title="RNN, T = 32 (Figure 8)",
                xlabel="rank",
                ylabel="solved",
            ),
            levels(
                "solved",
                {
                    "PSGD, r = 10": by_length("PSGD"),
                    "PSGD, r = 10, step 0.3": by_length("PSGD", more=", step 0.3"),
                    "SGD": by_length("SGD"),
                    "AdaBelief": by_length("AdaBelief"),
                    "Adan": by_length("Adan"),
                },
                title="RNN (Table 8)",
                xlabel="T",
                ylabel="solved",
            ),
            curves(
                "loss",
                "iterations",
                cells=[n for b in ("PSGD", *BASELINES) for n in names("RNN", b, LENGTHS[:1])]
                + [c.name for c in SMOKE],
                log=True,
                title="On the way",
                xlabel="iterations",
            ),
            columns=3,
        )
    },
    notes=(
        "A run is solved when a batch of 128 has a loss below 0.1; the paper does not say when it counts "
        "one as solved, nor how weights start: recurrent matrices are orthogonal here, other weights "
        "normal with standard deviation 0.1, the bias of the LSTM's forget gate 1.",
        "Figure 8 does not state its length; T = 32 here.",
        "E.5 fixes both steps at 0.01, the clip at 1 and no momentum. SGD and the adaptive baselines have "
        "that rate and that clip, of the gradient, here. The paper says no more of the latter, which "
        "therefore have cells with a rate of 0.001 too; and PSGD has cells with a step of 0.3 in fitting "
        "P, which is not the paper's.",
        "With one seed all cells of a network and length start from the same weights and see the same "
        "batches.",
        "KFAC is not run: its factors are those of layers used once in a pass, not of weights that all "
        "steps of a sequence share. Shampoo is not run: optax has none.",
        "Hessian-free takes 20 conjugate gradients on Gauss-Newton products of one batch, damped as "
        "Levenberg and Marquardt do, without structural damping; AdaHessian has the clip of the gradient "
        "too.",
    ),
    contests=tuple(
        Contest(
            f"delayed XOR solved, RNN, T = {length}",
            "solved",
            tuple(names("RNN", "PSGD", (length,))),
            tuple(
                n for b in BASELINES[: 3 if length in LENGTHS[:2] else 1] for n in names("RNN", b, (length,))
            ),
        )
        for length in LENGTHS
    ),
)
