"""PyTorch's tensors on the host as NumPy sees them, in the same memory, and the way back.

Nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def on_host(function: Callable[..., Any], rule: Any, *arguments: Any) -> Any:
    """Return ``function(rule, *arguments)``, computed on NumPy views of tensors.

    Parameters
    ----------
    function : callable
        It must look at everything that it relies on: types, dtypes, shapes, flags. None means that it
        refuses.
    rule
        Passed on.
    *arguments
        Tensors, nested tuples of them, and numbers. Tensors become views; what comes back are tensors: those
        given, where their views come back.
    """
    import torch

    views: dict[int, Any] = {}
    try:
        seen = _seen(arguments, torch.Tensor, views)
    except (RuntimeError, TypeError):  # NumPy cannot read it
        return None
    found = function(rule, *seen)
    return None if found is None else _handed_back(found, torch, views)


def _seen(parts: tuple[Any, ...], tensor: Any, views: dict[int, Any]) -> Any:
    found: list[Any] = []
    for part in parts:
        if type(part) is tensor:
            view = part.numpy()
            views[id(view)] = part
            found.append(view)
        elif isinstance(part, tuple):
            found.append(_seen(part, tensor, views))
        elif isinstance(part, tensor | np.ndarray):
            raise TypeError("subclasses of tensors, and arrays among tensors, are not for NumPy")
        else:
            found.append(part)
    return type(parts)(*found) if hasattr(parts, "_fields") else tuple(found)


def _handed_back(part: Any, torch: Any, views: dict[int, Any]) -> Any:
    if isinstance(part, tuple):
        parts = [_handed_back(x, torch, views) for x in part]
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
    if type(part) is not np.ndarray:
        return torch.from_numpy(np.array(part)) if isinstance(part, np.generic) else part
    given = views.get(id(part))
    if given is None:
        return torch.from_numpy(part)
    if given.ndim > 0 and given.is_floating_point():  # overwritten, which autograd has to know
        torch.autograd.graph.increment_version(given)
    return given
