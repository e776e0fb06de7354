"""What a step changes, and how to put it back: PyTorch's generators, ``.grad``, and the optimiser itself."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .flat import Flat


class Gradients:
    """What is in ``.grad``, object and values."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.held = [(p, p.grad, None if p.grad is None else p.grad.detach().clone()) for p in params]

    def restore(self) -> None:
        """Put it back."""
        for p, grad, values in self.held:
            p.grad = grad
            if grad is not None and values is not None:
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


class Whole:
    """A context that a step goes through as a whole or not at all, whatever is raised in it, Ctrl-C as well.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    names : tuple of str
        Its attributes, besides `state`, that a step replaces.
    flats : sequence of Flat
    x : sequence of tensors
        Their parameters as they are.
    before : Before or None
        Where generators and ``.grad`` are, if they can change.
    """

    def __init__(
        self,
        optimizer: Any,
        names: tuple[str, ...],
        flats: Sequence[Flat],
        x: Sequence[Tensor],
        before: Before | None,
    ) -> None:
        self.optimizer, self.flats, self.x, self.before = optimizer, flats, x, before
        self.own = {name: getattr(optimizer, name) for name in names}
        self.states = dict(optimizer.state)
        self.drawn = [(it, it.get_state()) for it in self.own.values() if isinstance(it, torch.Generator)]

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        for flat, x in zip(self.flats, self.x, strict=True):
            flat.write(x)
        self.optimizer.state.clear()
        self.optimizer.state.update(self.states)
        self.optimizer.__dict__.update(self.own)
        for generator, state in self.drawn:
            generator.set_state(state)
        if self.before is not None:
            self.before.restore()
