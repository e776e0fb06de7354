"""PyTorch's tensors on the host as NumPy sees them, in the same memory, and the way back.

Nothing is copied. A tensor that somebody follows (autograd, `torch.compile`, `torch.func`, `torch.jit.trace`,
a dispatch mode) or that NumPy cannot read (another device, a dtype or subclass of PyTorch's own) stays one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from ._switch import available


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
    if not array_api_compat.is_torch_array(x):
        return None
    import torch

    if torch.compiler.is_compiling() or not x.is_cpu or not available() or followed(torch):
        return None
    views: dict[int, Any] = {}
    try:
        seen = _seen(arrays, torch.Tensor, views)
    except (RuntimeError, TypeError):  # NumPy cannot read it
        return None
    found = function(*seen, *settings)
    return None if found is None else _handed_back(found, torch, views)


def followed(torch: Any) -> bool:
    """Return whether what happens to tensors is recorded or transformed, so that NumPy must not get them."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch.jit.is_tracing()
    )


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
