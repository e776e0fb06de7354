"""Models that go on from where they were after the batch before, and the noise in models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd


class Carrying(nn.Module):
    """A module that begins each batch in a state that was carried to it.

    However often a batch is evaluated, it begins in the same state: only `carry` moves it. The state is part
    of the module's `state_dict`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: tuple[Tensor, ...] = ()
        self.after: tuple[Tensor, ...] = ()
        """Where the last evaluation ended, without a graph."""

    def begin(self, zeros: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the state to begin in: zeros at first. A smaller batch has the first places only."""
        return tuple(b[: len(z)] for b, z in zip(self._before, zeros, strict=True)) if self._before else zeros

    def end(self, state: tuple[Tensor, ...]) -> None:
        """Take note of the state in which an evaluation ended."""
        self.after = tuple(part.detach() for part in state)

    def carry(self, state: tuple[Tensor, ...]) -> None:
        """Begin the next batch in this state; `()` stands for zeros."""
        self._before = state

    def get_extra_state(self) -> list[Tensor]:
        """Return the state, for `state_dict`."""
        return list(self._before)

    def set_extra_state(self, state: list[Tensor]) -> None:
        """Take it up again."""
        device = next(self.parameters()).device
        self._before = tuple(part.to(device) for part in state)


def carrying(model: nn.Module) -> list[Carrying]:
    """Return the parts of a model that carry a state."""
    return [m for m in model.modules() if isinstance(m, Carrying)]


@contextlib.contextmanager
def kept(parts: Iterable[Carrying]) -> Iterator[None]:
    """Begin with zeros, and put the states back afterwards."""
    held: list[tuple[Carrying, Any]] = [(part, part.get_extra_state()) for part in parts]
    for part, _ in held:
        part.carry(())
    try:
        yield
    finally:
        for part, state in held:
            part.set_extra_state(state)


def is_noisy(model: nn.Module) -> bool:
    """Return whether a model has dropout."""
    return any(isinstance(m, _DropoutNd) and m.p > 0 for m in model.modules())


@contextlib.contextmanager
def noise(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from PyTorch's own generators, as dropout does, by a seed, and leave them as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
