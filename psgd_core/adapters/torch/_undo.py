"""What a closure changes besides the loss: PyTorch's generators and ``.grad``, and how to put them back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Gradients:
    """What is in ``.grad``, object and values."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.held = [(p, p.grad, None if p.grad is None else p.grad.detach().clone()) for p in params]

    def restore(self) -> None:
        """Put it back."""
        for p, grad, values in self.held:
            p.grad = grad
            if grad is not None:
                grad.detach().copy_(values)


class Random:
    """Where PyTorch's own generators are, on the host and on the devices of the parameters."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.host = torch.get_rng_state()
        devices = {p.device for p in params if p.device.type == "cuda"}
        self.cuda = {device: torch.cuda.get_rng_state(device) for device in devices}

    def restore(self) -> None:
        """Go back there."""
        torch.set_rng_state(self.host)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)

    def moved(self) -> bool:
        """Return whether they have drawn since."""
        return not torch.equal(self.host, torch.get_rng_state()) or any(
            not torch.equal(state, torch.cuda.get_rng_state(device)) for device, state in self.cuda.items()
        )


class Before:
    """Both, as they are before a closure is evaluated: so that every evaluation starts alike.

    Dropout drops the same then, and gradients that are left in ``.grad`` cancel in a difference.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.random, self.gradients = Random(params), Gradients(params)

    def restore(self) -> None:
        """Put everything back."""
        self.gradients.restore()
        self.random.restore()
