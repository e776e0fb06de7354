"""In which order a training set is gone through; see `ORDERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .examples import Batches


class Order(Protocol):
    """What the training asks for its batches."""

    per_epoch: int
    """Batches in an epoch."""

    @property
    def follows(self) -> bool:
        """Whether the next batch goes on where the last one ended, place by place."""

    def next(self) -> Tensor:
        """Return the indices of the next batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next batches depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""


class Drawn:
    """Batches drawn with replacement, as nanoGPT draws them; an epoch has as many examples as the set.

    Parameters
    ----------
    size, batch, seed : int
        As for `Batches`.
    """

    follows = False

    def __init__(self, size: int, batch: int, seed: int) -> None:
        self._size, self._batch = size, batch
        self._generator = torch.Generator().manual_seed(seed)
        self.per_epoch = -(-size // batch)

    def next(self) -> Tensor:
        """Return the indices of the next batch."""
        return torch.randint(self._size, (self._batch,), generator=self._generator)

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._generator.set_state(state["generator"])


class Lanes:
    """A text read in several places at once: each batch goes on where the one before it ended.

    Its pieces, in order, are divided among as many lanes as a batch is large, the first ones a piece longer
    where that does not come out even: the last batch of an epoch then has these lanes only.

    Parameters
    ----------
    size, batch, seed : int
        As for `Batches`; nothing is drawn.
    """

    def __init__(self, size: int, batch: int, seed: int) -> None:
        lanes = min(batch, size)
        self._length, self._longer = divmod(size, lanes)
        places = torch.arange(lanes)
        self._starts = places * self._length + places.clamp(max=self._longer)
        self.per_epoch = self._length + bool(self._longer)
        self._position = 0

    @property
    def follows(self) -> bool:
        """Whether the next batch is not the first of an epoch."""
        return self._position > 0

    def next(self) -> Tensor:
        """Return the indices of the next batch."""
        lanes = len(self._starts) if self._position < self._length else self._longer
        found = self._starts[:lanes] + self._position
        self._position = (self._position + 1) % self.per_epoch
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the place."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._position = state["position"]


ORDERS: dict[str, Callable[[int, int, int], Order]] = {"shuffled": Batches, "drawn": Drawn, "lanes": Lanes}
"""By the name that settings have: "shuffled" is a new permutation for each epoch."""
