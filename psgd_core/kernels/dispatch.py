"""The one door to the kernels: which of them, if any, has this configuration for these arrays.

==================  ===============================================  =========================================
arrays              `OrbitRule`                                      `LowRankRule`
==================  ===============================================  =========================================
NumPy               `cpu.orbit_update` (numba)                       `cpu.low_rank_update` (numba, or blocks)
PyTorch on a host   the same, on the same memory (`host_tensors`)    the same
CuPy, PyTorch CUDA  `gpu.orbit_queue`                                `gpu.low_rank_queue`
others (JAX)        None                                             None
==================  ===============================================  =========================================

On the host they are compiled where `switch.worthwhile` says so. Each has
``update(rule, state, v, h, step, inplace)`` and ``precondition(rule, state, g)``. None means: go the ordinary
way, with its checks and its messages; nothing has been written then. Nobody has checked the arguments before:
a kernel does not look where it reads and writes, so whoever calls one looks at everything that it relies on.

`Kronecker` and `Blocks` have no kernels, and are many small operations: for PyTorch's tensors on the host
NumPy runs their plain code in the tensors' memory, after the checks (`by_numpy`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..arrays import shards
from ..arrays.library import at_hand
from .cpu import low_rank_update, orbit_update
from .gpu import cuda_library, low_rank_queue, orbit_queue
from .host_tensors import on_host
from .rules import LowRankRule, OrbitRule, Rule
from .switch import available, switched_on


class _Kernels(NamedTuple):
    """An implementation."""

    update: Callable[..., Any]
    precondition: Callable[..., Any]


NUMPY: dict[type, _Kernels] = {
    OrbitRule: _Kernels(orbit_update.update, orbit_update.precondition),
    LowRankRule: _Kernels(low_rank_update.update, low_rank_update.precondition),
}
TENSORS = {rule: _Kernels(*(partial(on_host, kernel) for kernel in both)) for rule, both in NUMPY.items()}
CUDA: dict[type, _Kernels] = {
    OrbitRule: _Kernels(orbit_queue.update, orbit_queue.precondition),
    LowRankRule: _Kernels(low_rank_queue.update, low_rank_queue.precondition),
}


def _kernels_for(rule: Rule | None, x: Any) -> _Kernels | None:
    """Return the kernels for a configuration and arrays like x, None where there are none."""
    table = None
    if rule is None or shards.active() is not None:  # kernels sum over what is here alone
        return None
    if type(x) is np.ndarray:  # first: for small n every question counts
        table = NUMPY if switched_on() else None
    elif at_hand(x) and not isinstance(x, np.ndarray | np.generic):  # a tensor on the host
        table = TENSORS if available() else None
    elif cuda_library.library_of(x) is not None:
        table = CUDA if switched_on() else None
    return None if table is None else table[type(rule)]


def update(rule: Rule | None, state: Any, v: Any, h: Any, step: Any, inplace: bool) -> Any:
    """Return the state after one update, None where no kernel applies.

    Parameters
    ----------
    rule : OrbitRule or LowRankRule, optional
        None: no kernel covers the configuration.
    state, v, h, step, inplace
        As `Preconditioner.update` got them, unchecked.
    """
    found = _kernels_for(rule, h) if inplace is True or inplace is False else None
    return None if found is None else found.update(rule, state, v, h, step, inplace)


def by_numpy(function: Callable[..., Any], like: Any, *arguments: Any) -> Any:
    """Return what a function makes of PyTorch's tensors, computed by NumPy in their memory.

    None, and nothing is done, where `like` is no tensor on the host or its values must not be looked at, and
    where kernels are switched off.

    Parameters
    ----------
    function : callable
        Of the arguments; the first is passed on as it is.
    like : array
    *arguments
        See `host_tensors.on_host`.
    """
    # what is compiled by torch.compile goes no further: it traces nothing of the rest
    if type(like) is np.ndarray or not at_hand(like) or isinstance(like, np.ndarray | np.generic):
        return None
    return on_host(function, *arguments) if switched_on() and shards.active() is None else None


def precondition(rule: Rule | None, state: Any, g: Any) -> Any:
    """Return ``P g``, None where no kernel applies; the arguments are as in `update`."""
    found = _kernels_for(rule, g)
    return None if found is None else found.precondition(rule, state, g)
