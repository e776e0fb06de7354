"""The loss that is trained on."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED = -100
"""The label of a place that is not asked for, as PyTorch has it."""


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over all places that are asked for.

    Parameters
    ----------
    logits : tensor, shape (..., classes)
    labels : tensor, shape (...)
        `IGNORED` where nothing is asked.
    """
    return cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED)
