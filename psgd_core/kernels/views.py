"""PyTorch's tensors on the host as NumPy sees them, in the same memory, and the way back.

Nothing is copied. A tensor that is not at hand (see `at_hand`), or has a dtype that NumPy has not, stays one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays.library import at_hand
from .switch import available


def through(x: Any, function: Callable[..., Any], arrays: tuple[Any, ...], *settings: Any) -> Any:
    """Return ``function(*arrays, *settings)``, computed on NumPy arrays; None where that cannot be.

    Parameters
    ----------
    x : array
        Decides: of NumPy, everything is handed on as it is; of PyTorch, tensors are handed on as views, and
        what comes back are tensors, those of `arrays` themselves where their views come back.
    function : callable
        It must look at everything it relies on: types, dtypes, shapes, flags. None means that it refuses.
    arrays : tuple
        Arrays, nested tuples of them, and numbers.
    *settings
        What is no array.
    """
    if type(x) is np.ndarray:
        return function(*arrays, *settings)
    if not at_hand(x) or isinstance(x, np.ndarray | np.generic) or not available():
        return None
    import torch

    views: dict[int, Any] = {}
    try:
        seen = _seen(arrays, torch.Tensor, views)
    except (RuntimeError, TypeError):  # NumPy cannot read it
        return None
    found = function(*seen, *settings)
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
            raise TypeError("tensors of other classes, and arrays among tensors, are not for NumPy")
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
