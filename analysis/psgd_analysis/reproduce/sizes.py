"""How much memory an optimiser's state takes, and how much its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def state_bytes(state: Any) -> int:
    """Return the bytes of all tensors and arrays in nested containers; what shares memory counts once.

    Parameters
    ----------
    state : dict, list, tuple, tensor, array or anything else
        Such as `Steps.state_dict` returns; numbers and texts count nothing.
    """
    found: dict[tuple[int, int], int] = {}
    _collect(state, found)
    return sum(found.values())


def _collect(x: Any, found: dict[tuple[int, int], int]) -> None:
    if isinstance(x, Mapping):
        for value in x.values():
            _collect(value, found)
    elif isinstance(x, list | tuple):
        for value in x:
            _collect(value, found)
    elif hasattr(x, "untyped_storage"):
        size = x.numel() * x.element_size()
        found[(x.data_ptr(), size)] = size
    elif hasattr(x, "nbytes"):
        found[(id(x), x.nbytes)] = int(x.nbytes)
