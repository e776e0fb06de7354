"""PyTorch's generator on the host, lent to an optimiser that draws from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Own:
    """A context in which PyTorch's own generator is one of a seed of its own; it goes on in the next.

    So what an optimiser draws depends on its seed alone, and what data and dropout draw does not depend on
    the optimiser.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int) -> None:
        self._state: Tensor = torch.Generator().manual_seed(seed).get_state()
        self._outside: Tensor = self._state

    def __enter__(self) -> None:
        self._outside = torch.get_rng_state()
        torch.set_rng_state(self._state)

    def __exit__(self, *error: Any) -> None:
        self._state = torch.get_rng_state()
        torch.set_rng_state(self._outside)

    def state(self) -> Tensor:
        """Return the generator's state."""
        return self._state

    def restore(self, state: Tensor) -> None:
        """Go on from a generator's state."""
        self._state = state.cpu()
