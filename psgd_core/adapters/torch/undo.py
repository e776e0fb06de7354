"""What a step changes, and how to undo it: PyTorch's generators, ``.grad``, and the optimiser itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...arrays.draws import ByPlace
from .flat import Flats, Vectors


class Snapshot:
    """What is in ``.grad``, object and values, and where PyTorch's generators are.

    Restored before each evaluation of a closure, so that all start alike: dropout drops the same elements,
    and gradients left in ``.grad`` cancel in a difference.

    Parameters
    ----------
    params : sequence of tensors
    generators : bool
        Whether to restore the generators, on the host and on the devices of the parameters.
    """

    def __init__(self, params: Sequence[Tensor], *, generators: bool = True) -> None:
        self.grads: list[tuple[Tensor, Tensor | None, Tensor | None]] = [
            (p, p.grad, None if p.grad is None else p.grad.detach().clone()) for p in params
        ]
        self.host: Tensor | None = torch.get_rng_state() if generators else None
        devices = {p.device for p in params if p.device.type == "cuda"} if generators else ()
        self.cuda: dict[torch.device, Tensor] = {d: torch.cuda.get_rng_state(d) for d in devices}

    def restore(self) -> None:
        """Put everything back."""
        for p, grad, values in self.grads:
            p.grad = grad
            if grad is not None and values is not None:
                grad.detach().copy_(values)
        if self.host is not None:
            torch.set_rng_state(self.host)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)


@contextmanager
def all_or_nothing(
    optimizer: torch.optim.Optimizer,
    names: tuple[str, ...],
    flats: Flats,
    x: Vectors,
    before: Snapshot | None,
) -> Iterator[None]:
    """Undo a step completely if anything is raised in it, Ctrl-C as well.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    names : tuple of str
        Its attributes, besides `state`, that a step replaces.
    flats, x
        The parameters, and their values.
    before : Snapshot or None
        Of generators and ``.grad``, if they can change.
    """
    own: dict[str, Any] = {name: getattr(optimizer, name) for name in names}
    states = dict(optimizer.state)
    kinds = (torch.Generator, ByPlace)
    drawn: list[tuple[Any, Any]] = [(it, it.get_state()) for it in own.values() if isinstance(it, kinds)]
    try:
        yield
    except BaseException:
        try:
            flats.undo(x)
        finally:  # also if parameters cannot be written
            optimizer.state.clear()
            optimizer.state.update(states)
            optimizer.__dict__.update(own)
            for generator, state in drawn:
                generator.set_state(state)
            if before is not None:
                before.restore()
        raise
