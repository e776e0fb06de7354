"""Data sets as tensors, and the batches that are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
        integers, (n, length), with what comes next at each place. Pieces may be views of a file.
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
        """Return the same on a device; texts, which may not fit there, are left: see `batch`."""
        if not self.train_x.is_floating_point():
            return self
        return Examples(
            self.train_x.to(device),
            self.train_y.to(device),
            self.test_x.to(device),
            self.test_y.to(device),
            self.classes,
        )

    def batch(
        self, split: Literal["train", "test"], indices: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return some examples on a device, integers as int64."""
        found = []
        for part in (getattr(self, f"{split}_x"), getattr(self, f"{split}_y")):
            chosen = part[indices.to(part.device)].to(device)
            found.append(chosen if chosen.is_floating_point() else chosen.long())
        return found[0], found[1]

    def of(self, indices: Any) -> Examples:
        """Return the same with a part of the training set."""
        chosen = torch.as_tensor(indices)
        return Examples(self.train_x[chosen], self.train_y[chosen], self.test_x, self.test_y, self.classes)


def examples_of(
    data: DataSet,
    *,
    train: int | None = None,
    test: int | None = None,
    length: int = 32,
    stride: int | None = None,
) -> Examples:
    """Return the tensors of a data set.

    Parameters
    ----------
    data : DataSet
    train, test : int, optional
        How many examples to take, all by default: of images the first of a permutation that is always the
        same, of a text its first pieces.
    length : int
        Of the pieces that a text is cut into.
    stride : int, optional
        From where one piece of the training set begins to where the next one does; by default the length, so
        that they do not overlap. Those of the test set never do.
    """
    trained = _tensors("train", data.train_x, data.train_y, train, length, stride or length)
    tested = _tensors("test", data.test_x, data.test_y, test, length, length)
    return Examples(*trained, *tested, data.classes)


def _tensors(
    name: str, x: np.ndarray, y: np.ndarray, size: int | None, length: int, stride: int
) -> tuple[Tensor, Tensor]:
    inputs: Any = x
    labels = torch.from_numpy(np.ascontiguousarray(y))
    # a text is cut into pieces, without a copy
    if x.ndim == 1:
        if length > len(x):
            raise ValueError(f"`length` must be at most {len(x)} with this data, got {length}")
        inputs, labels = (t.unfold(0, length, stride) for t in (torch.from_numpy(x), labels))
    # a part, if that is asked for
    if size is not None and not 1 <= size <= len(inputs):
        raise ValueError(f"`{name}` must be from 1 to {len(inputs)} with this data, got {size}")
    if x.ndim == 1:  # pieces that follow each other, for models that carry a state from one to the next
        return inputs[:size], labels[:size]
    if size is not None:
        chosen = np.random.default_rng(0).permutation(len(inputs))[:size]
        inputs, labels = inputs[chosen], labels[chosen]
    # colours come before height and width
    images = inputs[:, None] if x.ndim == 3 else inputs.transpose(0, 3, 1, 2)
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

    follows = False
    """Whether the next batch goes on where the last one ended, place by place."""

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
