"""GPT-2 on OpenWebText, from a token file that the user has: the rest of Table 5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..claims import Claim, better
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import curves, figure, rows
from . import gpt

METHODS: dict[str, dict[str, Any]] = {
    "AdamW": {
        "optimizer": "adamw",
        "lr": 6e-4,
        "optimizer_settings": {"weight_decay": 0.1, "betas": [0.9, 0.95], "clip": 1.0},
    },
    gpt.PAPER_STEP: {**gpt.METHODS[gpt.PAPER_STEP], "iterations": 100_000},
}
"""The paper trains AdamW for 600,000 iterations, PSGD for 100,000; AdamW's settings are nanoGPT's."""

SIZES: dict[str, dict[str, Any]] = {
    "50M": {
        "model": {"width": 512, "heads": 8, "depth": 8},
        "length": 1024,
        "batch": 12,
        "iterations": 600_000,
    },
    "124M": {
        "model": {"width": 768, "heads": 12, "depth": 12},
        "length": 1024,
        "batch": 12,
        "iterations": 600_000,
    },
}
"""The first has 51 million parameters with GPT-2's 50,257 tokens, the second is GPT-2."""

SMALL = {"0.8M": {"model": gpt.SMALL, "length": 64, "batch": 12, "iterations": 1_000, "test": 500}}
TINY = {
    "0.8M": {
        "model": {"width": 16, "heads": 2, "depth": 1},
        "length": 32,
        "batch": 8,
        "iterations": 40,
        "test": 40,
    }
}


def cells(
    sizes: Mapping[str, Mapping[str, Any]],
    parts: int,
    seconds: float,
    methods: Iterable[str] = tuple(METHODS),
) -> tuple[Cell, ...]:
    """Return a cell for each size and method; `seconds` is what an iteration of AdamW takes."""
    found = []
    for label, size in sizes.items():
        for method in methods:
            own = dict(METHODS[method])
            longest = own.pop("iterations", size["iterations"])
            shorter = {**size, "iterations": min(size["iterations"], longest)}
            settings = {"data": "tokens", **gpt.training_of(own, shorter, parts, 2_000 / 600_000)}
            cost = seconds * shorter["iterations"] * (5 if "step" in own else 1)
            found.append(Cell(gpt.name(label, method), settings, cost))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..training import start

    return start(job, folder)


PAIRS = {"124M": "4.53 and 19.53", "50M": "250.7 and 591.8"}
EVERY = (*SIZES, *SMALL)

EXPERIMENT = Experiment(
    name="openwebtext",
    title="GPT-2 on OpenWebText",
    sources=("Table 5", "5.2"),
    claim="PSGD reaches a lower test perplexity in 100,000 iterations than AdamW in 600,000.",
    needs=("torch",),
    data=("tokens",),
    plans={
        "smoke": Plan(cells(TINY, 2, 0.01), 1, "5 s", ("a transformer of width 16, 40 iterations",)),
        "reduced": Plan(
            cells(SMALL, 5, 0.7),
            3,
            "3 h",
            ("a transformer of width 128, 1,000 iterations for both optimisers",),
        ),
        "faithful": Plan(cells(SIZES, 200, 120.0), 1, "8 years on one core; days on a GPU"),
    },
    start=start,
    columns=(
        Column("best test perplexity", gpt.PERPLEXITY, ".2f"),
        Column("at the end", "perplexity", ".2f"),
        Column("training loss", "train_loss", ".3f"),
        Column("iterations", "iterations", ",.0f", spread="median"),
        Column("CPU s", "cpu_seconds", ",.0f", spread="median"),
    ),
    claims=tuple(
        Claim(
            f"{size}: PSGD's test perplexity is lower than AdamW's",
            "Table 5",
            PAIRS.get(size, "of larger models"),
            better(gpt.PERPLEXITY, gpt.name(size, gpt.PAPER_STEP), gpt.name(size, "AdamW"), larger=False),
        )
        for size in EVERY
    ),
    contests=tuple(
        Contest(
            f"test perplexity, {size}",
            gpt.PERPLEXITY,
            (gpt.name(size, gpt.PAPER_STEP),),
            (gpt.name(size, "AdamW"),),
            False,
        )
        for size in SIZES
    ),
    figures={
        "": figure(
            curves("test_loss", "iterations", ylabel="test loss"),
            rows(gpt.PERPLEXITY, xlabel="best test perplexity"),
        )
    },
    notes=(
        "The tokens are the user's to give: train.bin and val.bin of 16-bit tokens, as nanoGPT prepares "
        "them, in DIR/openwebtext or DIR/tokens. Without a folder the letters of a Markov chain stand in, "
        "which tests nothing. There are no runs here: no tokens were at hand.",
        "nanoGPT adds up the gradients of 40 batches in each iteration; here an iteration has one batch "
        "of 12. It trains in 16 bits, this in 32.",
        "The rows of Table 5 have lost their sizes in our copy of the paper, but for 50M. The third one "
        "(PSGD 4.53, AdamW 19.53, AdanW 4.92, AdaBelief 21.04, AdanBelief 5.34) stands beside GPT-2 here; a "
        "perplexity of 4.53 is hardly one of 50,257 tokens, so it may be another model's on Shakespeare.",
    ),
)
