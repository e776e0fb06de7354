"""Repeatable evaluations of a PyTorch loss that leave generators and buffers unchanged."""

from __future__ import annotations

import threading
import warnings
from types import TracebackType
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook


class Still:
    """A context in which random numbers are the same each time, and after which buffers are as before.

    Buffers are those of the modules that are called in it, by this thread.

    Parameters
    ----------
    device : torch.device
        Its generator counts, besides the host's.
    speaks : bool
        Whether to warn, once, of random numbers that were drawn.
    """

    def __init__(self, device: torch.device, *, speaks: bool = True) -> None:
        self.device = device
        self.start: list[torch.Tensor] | None = None
        self.said = not speaks

    def __enter__(self) -> None:
        self.outside, thread = self._states(), threading.get_ident()
        if self.start is None:
            self.start = self.outside
        self._go_to(self.start)
        self.buffers: dict[int, tuple[torch.nn.Module, dict[str, Any]]] = {}

        def note(module: torch.nn.Module, arguments: Any) -> None:
            if threading.get_ident() == thread and module._buffers and id(module) not in self.buffers:
                held = {
                    name: (x, x if x is None else x.detach().clone()) for name, x in module._buffers.items()
                }
                self.buffers[id(module)] = (module, held)

        self.hook = register_module_forward_pre_hook(note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hook.remove()
        with torch.no_grad():
            for module, held in self.buffers.values():
                for name, (x, values) in held.items():
                    module._buffers[name] = x
                    if x is not None:
                        x.copy_(values)
        assert self.start is not None
        drawn = any(not torch.equal(a, b) for a, b in zip(self._states(), self.start, strict=True))
        self._go_to(self.outside)
        if drawn and not self.said and kind is None:
            self.said = True
            warnings.warn(
                "The loss draws random numbers, as dropout does: this is the Hessian of one draw, the same "
                "in every product; call eval() on the model for that without dropout",
                stacklevel=5,
            )

    def _states(self) -> list[torch.Tensor]:
        on_device = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return [torch.get_rng_state(), *on_device]

    def _go_to(self, states: list[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, self.device)
