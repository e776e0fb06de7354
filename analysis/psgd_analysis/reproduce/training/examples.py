"""Data sets as tensors, and the batches that are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import DataSet


@dataclass(frozen=True)
class Examples:
    """What a model is trained and tested on.

    Parameters
    ----------
    train_x, train_y, test_x, test_y : tensors
        Images in float32 from 0 to 1, (n, colours, height, width), with a label each; pieces of text as
        integers, (n, length), with what comes next at each place.
    classes : int
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an example."""
        return tuple(self.train_x.shape[1:])

    def to(self, device: torch.device) -> Examples:
        """Return the same on a device."""
        return Examples(
            self.train_x.to(device),
            self.train_y.to(device),
            self.test_x.to(device),
            self.test_y.to(device),
            self.classes,
        )

    def of(self, indices: Any) -> Examples:
        """Return the same with a part of the training set."""
        chosen = torch.as_tensor(indices)
        return Examples(self.train_x[chosen], self.train_y[chosen], self.test_x, self.test_y, self.classes)


def examples_of(
    data: DataSet, *, train: int | None = None, test: int | None = None, length: int = 32
) -> Examples:
    """Return the tensors of a data set.

    Parameters
    ----------
    data : DataSet
    train, test : int, optional
        How many examples to take, the first ones of a permutation that is always the same; all by default.
    length : int
        Of the pieces that a text is cut into.
    """
    trained = _tensors("train", data.train_x, data.train_y, train, length)
    tested = _tensors("test", data.test_x, data.test_y, test, length)
    return Examples(*trained, *tested, data.classes)


def _tensors(name: str, x: np.ndarray, y: np.ndarray, size: int | None, length: int) -> tuple[Tensor, Tensor]:
    # a text is cut into pieces
    if x.ndim == 1:
        pieces = len(x) // length
        x, y = (tokens[: pieces * length].reshape(pieces, length) for tokens in (x, y))
    # a part, if that is asked for
    if size is not None and not 1 <= size <= len(x):
        raise ValueError(f"`{name}` must be from 1 to {len(x)} with this data, got {size}")
    if size is not None:
        chosen = np.random.default_rng(0).permutation(len(x))[:size]
        x, y = x[chosen], y[chosen]
    labels = torch.from_numpy(np.ascontiguousarray(y))
    if x.ndim == 2:
        return torch.from_numpy(np.ascontiguousarray(x)), labels
    # colours come before height and width
    images = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)) / 255, labels


class Batches:
    """The batches of a training set: a new permutation for each epoch, the last batch what is left.

    They depend on sizes and seed alone, so all optimisers see the same ones.

    Parameters
    ----------
    size, batch : int
        Of the training set, and of a batch.
    seed : int
    """

    def __init__(self, size: int, batch: int, seed: int) -> None:
        self.batch, self._position = batch, 0
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.randperm(size, generator=self._generator)
        self.per_epoch = -(-size // batch)

    def next(self) -> Tensor:
        """Return the indices of the next batch."""
        if self._position >= len(self._order):
            self._order = torch.randperm(len(self._order), generator=self._generator)
            self._position = 0
        found = self._order[self._position : self._position + self.batch]
        self._position += self.batch
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next batches depend on."""
        return {
            "order": self._order,
            "position": self._position,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._order, self._position = state["order"], state["position"]
        self._generator.set_state(state["generator"])
