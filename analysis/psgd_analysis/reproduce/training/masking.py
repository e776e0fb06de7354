"""Masked tokens, which a model is asked for, as in BERT (Devlin et al., 2019)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from .examples import Examples
from .losses import IGNORED

SHARE, MASKED, RANDOM = 0.15, 0.8, 0.1
"""Of places that are asked for, and of these those masked, and with a token at random; others are left."""


def mask(
    x: Tensor, y: Tensor, generator: torch.Generator, *, classes: int, share: float = SHARE
) -> tuple[Tensor, Tensor]:
    """Ask for some tokens of texts, each by chance.

    Of those that are asked for, 80 % are masked, 10 % become one at random, and 10 % stay.

    Parameters
    ----------
    x : tensor of int64, shape (n, length)
    y : tensor
        What comes next, which is forgotten.
    generator : torch.Generator
        On the processor.
    classes : int
        Of the tokens. The mask is the token after the last.
    share : float
    """
    asked, kind = (torch.rand(x.shape, generator=generator).to(x.device) for _ in range(2))
    other = torch.randint(classes, x.shape, generator=generator).to(x.device)
    chosen = asked < share
    given = torch.where(chosen & (kind < MASKED), torch.full_like(x, classes), x)
    given = torch.where(chosen & (kind >= MASKED) & (kind < MASKED + RANDOM), other, given)
    return given, torch.where(chosen, x, torch.full_like(x, IGNORED))


def masked(examples: Examples, rng: np.random.Generator, share: float = SHARE) -> Examples:
    """Return texts whose test set is masked once and for all, alike for all seeds; see `mask`."""
    generator = torch.Generator().manual_seed(0)
    x, y = mask(examples.test_x.long(), examples.test_y, generator, classes=examples.classes, share=share)
    return dataclasses.replace(examples, test_x=x, test_y=y)
