"""What a measure of a training is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from .networks import NetworkTraining


class Measure:
    """Something measured of a training; subclasses define what they need of this.

    Parameters
    ----------
    training : NetworkTraining
        At its beginning: its model has its initial parameters.
    """

    def __init__(self, training: NetworkTraining) -> None:
        self.training = training

    def after_step(self, indices: Tensor, correct: Tensor) -> None:
        """Take note of a batch: its places in the training set, and which of it was predicted right."""

    def after_part(self) -> dict[str, Any]:
        """Return metrics of the part."""
        return {}

    def final(self) -> dict[str, Any]:
        """Return numbers of the finished run, in JSON's types."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what is held between parts: tensors, numbers and texts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
