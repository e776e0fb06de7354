"""What a model says of a whole set, in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from ..carried import carrying, kept
from .examples import Examples
from .losses import IGNORED
from .orders import Lanes

EVALUATED, LOGITS = 500, 10_000_000
"""Examples evaluated at once, few enough to stay in the processor's cache, and logits at most."""

LANES = 10
"""In which a model that carries a state is evaluated, as in AdaBelief's framework."""


def logits_of(
    model: torch.nn.Module, examples: Examples, split: Literal["train", "test"], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (m, classes) and labels (m,) of a set's places that are asked for, block by block.

    They are in order, but lane by lane where the model carries a state; see `Lanes`. The model evaluates
    meanwhile, and trains afterwards; what it carries is as it was.
    """
    y = getattr(examples, f"{split}_y")
    parts = carrying(model)
    if parts:
        lanes = Lanes(len(y), LANES, 0)
        blocks: Any = (lanes.next() for _ in range(lanes.per_epoch))
    else:
        places = y[:1].numel() * examples.classes
        blocks = torch.arange(len(y)).split(max(1, min(EVALUATED, LOGITS // places)))
    model.eval()
    with torch.no_grad(), kept(parts):
        for indices in blocks:
            x, labels = examples.batch(split, indices, device)
            logits, asked = model(x), labels != IGNORED
            for part in parts:
                part.carry(part.after)
            yield logits[asked], labels[asked]
    model.train()
