"""The loss that is trained on, and what is added to it to make predictions more or less sure."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

IGNORED = -100
"""The label of a place that is not asked for, as PyTorch has it."""


def loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy over all places that are asked for.

    Parameters
    ----------
    logits : tensor, shape (..., classes)
    labels : tensor, shape (...)
        `IGNORED` where nothing is asked.
    smoothing : float
        Share of a label that is spread evenly over all classes.
    """
    z, y = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    return cross_entropy(z, y, ignore_index=IGNORED, label_smoothing=smoothing)


class Tempered(nn.Module):
    """A model whose logits are divided by a temperature, in training and in prediction alike."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits over the temperature."""
        logits: Tensor = self.model(x) / self.temperature
        return logits


@dataclass(frozen=True)
class Objective:
    """The cross-entropy, and what controls the entropy of the predictions besides.

    Parameters
    ----------
    temperature : float
        The model predicts ``softmax(z / temperature)``; see `predictor`.
    entropy : float
        The beta of ``- beta H`` in the loss, H being the mean entropy of the predictions in nats: the
        confidence penalty of Pereyra et al. (2017) where positive; negative rewards confidence.
    smoothing : float
        Of the labels (Szegedy et al., 2016), from 0 to 1.
    """

    temperature: float = 1.0
    entropy: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"`temperature` must be positive and finite, got {self.temperature!r}")
        if not abs(self.entropy) < float("inf"):
            raise ValueError(f"`entropy` must be finite, got {self.entropy!r}")
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"`smoothing` must be from 0 to 1, got {self.smoothing!r}")

    def predictor(self, model: nn.Module) -> nn.Module:
        """Return the model whose probabilities are asked for, whoever asks; it has the same parameters."""
        return model if self.temperature == 1 else Tempered(model, self.temperature)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over all places that are asked for; see `loss`."""
        value = loss(logits, labels, self.smoothing)
        if self.entropy:
            logs = log_softmax(logits[labels != IGNORED], -1)
            value = value + self.entropy * (logs.exp() * logs).sum(-1).mean()
        return value
