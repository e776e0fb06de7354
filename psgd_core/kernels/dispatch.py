"""The one door to the kernels: which of them, if any, has this configuration for these arrays.

==================  ===============================================  =========================================
arrays              `OrbitRule`                                      `LowRankRule`
==================  ===============================================  =========================================
NumPy               `cpu.orbit_update` (numba)                       `cpu.low_rank_update` (numba, or blocks)
PyTorch on a host   the same, on the same memory (`host_tensors`)    the same
CuPy, PyTorch CUDA  `gpu.orbit_queue`                                `gpu.low_rank_queue`
others (JAX)        None                                             None
==================  ===============================================  =========================================

Each has ``update(rule, state, v, h, step, inplace)`` and ``precondition(rule, state, g)``. None means: go the
ordinary way, with its checks and its messages; nothing has been written then. Nobody has checked the
arguments before: a kernel does not look where it reads and writes, so whoever calls one looks at everything
that it relies on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..arrays.library import Array, at_hand
from .cpu import low_rank_update, orbit_update
from .gpu import cuda_library, low_rank_queue, orbit_queue
from .host_tensors import on_host
from .rules import LowRankRule, OrbitRule, Rule
from .switch import available, switched_on


class _Kernels(NamedTuple):
    """An implementation."""

    update: Callable[..., Any]
    precondition: Callable[..., Any]


HOST: dict[type, _Kernels] = {
    OrbitRule: _Kernels(orbit_update.update, orbit_update.precondition),
    LowRankRule: _Kernels(low_rank_update.update, low_rank_update.precondition),
}
CUDA: dict[type, _Kernels] = {
    OrbitRule: _Kernels(orbit_queue.update, orbit_queue.precondition),
    LowRankRule: _Kernels(low_rank_queue.update, low_rank_queue.precondition),
}


def update(rule: Rule | None, state: Any, v: Any, h: Any, step: Any, inplace: bool) -> Any:
    """Return the state after one update, None where no kernel applies.

    Parameters
    ----------
    rule : OrbitRule or LowRankRule, optional
        None: no kernel covers the configuration.
    state, v, h, step, inplace
        As `Preconditioner.update` got them, unchecked.
    """
    if rule is None or (inplace is not False and inplace is not True):
        return None
    if type(h) is np.ndarray:  # first: for small n every call counts
        return HOST[type(rule)].update(rule, state, v, h, step, inplace) if switched_on() else None
    if _is_tensor_at_hand(h):
        return on_host(HOST[type(rule)].update, rule, (state, v, h, step), inplace)
    if cuda_library.library_of(h) is not None and switched_on():
        return CUDA[type(rule)].update(rule, state, v, h, step, inplace)
    return None


def precondition(rule: Rule | None, state: Any, g: Any) -> Array | None:
    """Return ``P g``, None where no kernel applies; the arguments are as in `update`."""
    if rule is None:
        return None
    found: Array | None = None
    if type(g) is np.ndarray:
        found = HOST[type(rule)].precondition(rule, state, g) if switched_on() else None
    elif _is_tensor_at_hand(g):
        found = on_host(HOST[type(rule)].precondition, rule, (state, g))
    elif cuda_library.library_of(g) is not None and switched_on():
        found = CUDA[type(rule)].precondition(rule, state, g)
    return found


def _is_tensor_at_hand(x: Any) -> bool:
    """Return whether x is a tensor of PyTorch in the host's memory, and kernels may work on it unseen."""
    return at_hand(x) and not isinstance(x, np.ndarray | np.generic) and available()
