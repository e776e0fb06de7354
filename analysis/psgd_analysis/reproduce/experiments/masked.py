"""A transformer that fills in masked characters, the summary's next check 3: an encoder of BERT's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..claims import Claim, best, better
from ..contests import Contest
from ..experiment import Cell, Column, Experiment, Job, Plan, Training
from ..figures import curves, figure, rows
from . import gpt

METHODS = {name: gpt.METHODS[name] for name in ("SGD", "AdamW", "Adan", gpt.PAPER_STEP, gpt.OTHER_STEP)}

BERT = {
    "model": {"width": 768, "heads": 12, "depth": 12, "dropout": 0.1},
    "length": 128,
    "batch": 256,
    "iterations": 900_000,
}
"""BERT-base in the first 90 % of its training."""

SMALL = {"model": gpt.SMALL, "length": 64, "batch": 12, "iterations": 1_000, "every": 5, "test": 600}

TINY = {
    "model": {"width": 16, "heads": 2, "depth": 1},
    "length": 32,
    "batch": 16,
    "iterations": 120,
    "test": 200,
}


def cells(size: dict[str, Any], parts: int, seconds: float) -> tuple[Cell, ...]:
    """Return a cell for each method; `seconds` is what an iteration of AdamW takes."""
    found = []
    for method, own in METHODS.items():
        settings = gpt.training_of(own, size, parts, 0.02)
        settings["model_settings"]["causal"] = False
        settings |= {
            "data": "text",
            "changes": [{"name": "masked"}],
            "augment": [{"name": "mask"}],
        }
        cost = seconds * size["iterations"] * gpt.SECONDS[own["optimizer"]] / gpt.SECONDS["adamw"]
        found.append(Cell(method, settings, cost + 2 * parts))
    return tuple(found)


def start(job: Job, folder: Path | None) -> Training:
    """Return a run at its beginning."""
    from ..training import start

    return start(job, folder)


LOSS = "test_loss"
BASELINES = ("SGD", "AdamW", "Adan")

EXPERIMENT = Experiment(
    name="masked",
    title="An encoder that fills in masked characters",
    sources=("summary, next check 3",),
    claim="PSGD trains a transformer with masked tokens better than SGD, AdamW and Adan.",
    needs=("torch", "pytorch_optimizer"),
    data=("text",),
    plans={
        "smoke": Plan(cells(TINY, 2, 0.01), 1, "10 s", ("an encoder of width 16, 120 iterations",)),
        "reduced": Plan(
            cells(SMALL, 10, 0.07),
            3,
            "25 min",
            (
                "4 layers of width 128 instead of 12 of 768, 1,000 iterations of 12 pieces of 64 characters",
                "P is fitted in every fifth iteration; tested on 600 of 1,742 pieces",
            ),
        ),
        "faithful": Plan(cells(BERT, 100, 300.0), 1, "a century on one core; two months on a GPU"),
    },
    start=start,
    columns=(
        Column("test loss", LOSS, ".3f"),
        Column("accuracy on masked places, %", "accuracy", ".2f"),
        Column("training loss", "train_loss", ".3f"),
        Column("products", "products", ",.0f", spread="median"),
        Column("CPU s", "cpu_seconds", ",.0f", spread="median"),
    ),
    claims=(
        Claim(
            "PSGD's loss on masked places is lower than those of SGD, AdamW and Adan",
            "summary, next checks",
            "asked, not answered",
            best(LOSS, gpt.PAPER_STEP, BASELINES, larger=False),
        ),
        Claim(
            "A smaller step of the fitting, 0.001, is better than 0.01, as for GPT",
            "5.2, summary",
            "in words, of GPT",
            better(LOSS, gpt.PAPER_STEP, gpt.OTHER_STEP, larger=False),
        ),
    ),
    contests=(Contest("loss on masked places", LOSS, (gpt.PAPER_STEP, gpt.OTHER_STEP), BASELINES, False),),
    figures={
        "": figure(
            curves(LOSS, "iterations", ylabel="test loss"),
            curves(LOSS, "seconds", xlabel="seconds", ylabel="test loss"),
            rows("accuracy", xlabel="accuracy on masked places, %"),
        )
    },
    notes=(
        "15 % of the characters are asked for, each by chance; of these 80 % are masked, 10 % become "
        "another at random, 10 % stay. Training masks each batch anew, alike for all optimisers; the test "
        "set is masked once.",
        "Tokens are characters of the text that the user gives, BERT's are 30,000 pieces of words: of its "
        "110 million parameters, 85 million are there. There is no second task (next sentence), and "
        "LayerNorm comes before each layer, as in GPT-2.",
        "Optimisers have the settings that they have for GPT; see there how they were chosen.",
        "At the reduced scale no network learns much more than how frequent characters are: all are right at "
        "some 22 % of the places after 1,000 iterations, so little is told apart there.",
    ),
)
