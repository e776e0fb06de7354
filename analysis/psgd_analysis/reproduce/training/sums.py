"""What is summed over a part of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class Sums:
    """Sums over the iterations of a part so far, on the device: nothing waits for them.

    Parameters
    ----------
    loss : float64 Tensor, shape ()
        Of all examples.
    right, asked : int64 Tensor, shape ()
        How many places were predicted right, and how many were asked for.
    seen, iterations : int
        Examples, and batches of them.
    """

    loss: Tensor
    right: Tensor
    asked: Tensor
    seen: int = 0
    iterations: int = 0

    @classmethod
    def zeros(cls, device: torch.device) -> Sums:
        """Return those of no iteration."""
        return cls(
            torch.zeros((), dtype=torch.float64, device=device),
            *torch.zeros((2,), dtype=torch.int64, device=device),
        )

    @classmethod
    def of(cls, held: Sequence[Any], device: torch.device) -> Sums:
        """Return what `list` made of sums, on a device."""
        loss, right, asked, seen, iterations = held
        return cls(loss.to(device), right.to(device), asked.to(device), seen, iterations)

    def __iter__(self) -> Iterator[Any]:
        """Yield the fields in order, copies of the tensors."""
        for field in fields(self):
            value = getattr(self, field.name)
            yield value.clone() if isinstance(value, Tensor) else value

    def add(self, loss: Tensor, correct: Tensor, places: Tensor) -> None:
        """Add a batch: its mean loss, whether each of its predictions was right, how many were asked for."""
        self.loss += loss * len(correct)
        self.right += correct.sum()
        self.asked += places
        self.seen += len(correct)
        self.iterations += 1
