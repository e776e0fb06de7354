"""What a module returns while a loss is evaluated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .steps import Loss


def evaluated(name: str, model: torch.nn.Module, loss: Loss) -> tuple[Tensor, Any, Tensor]:
    """Return (loss, more, what the module returned on the way, in the loss's graph).

    Raises
    ------
    ValueError
        If the module was not called once, or returned anything but a tensor.
    """
    found: list[Any] = []
    hook = model.register_forward_hook(lambda module, given, returned: found.append(returned))
    try:
        value, more = loss()
    finally:
        hook.remove()
    if len(found) != 1 or not isinstance(found[0], Tensor):
        raise ValueError(
            f"`loss` must call the module once, which must return a tensor, for {name!r}, got "
            f"{[type(z).__name__ for z in found]}"
        )
    return value, more, found[0]
