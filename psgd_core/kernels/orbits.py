"""When an update on a Theorem 3.1 group takes the CPU's kernels, and how.

For small n the conditions are what an update costs, so they are cheap to ask; where one is not met the
answer is None, and the caller goes the ordinary way, with its checks and its messages.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .._damping import DAMPING
from . import gpu
from ._switch import available

PARALLEL = 65_536
"""From this n on all threads share the work."""

LARGEST = 8
"""Largest orbits with kernels, where there are many."""

DENSE = 128
"""Largest single orbit with a kernel; above, libraries are faster."""

LAYOUTS = {"direct": 0, "shifted": 1, "mirrored": 2, "gathered": 3}
"""What `OrbitGroup.layout` says, as `cpu_orbits` has it."""

Layout = tuple[tuple[str, int], ...]


class _Float(NamedTuple):
    """What a kernel has to know of a dtype."""

    cast: Any
    limits: np.ndarray  # what `unit` is at least; the relative size below which the damping is not heard
    bits: np.ndarray  # the sign bit; its dtype is what floats are viewed as


_FLOATS = {
    np.dtype(x): _Float(
        x,
        np.asarray([np.finfo(x).tiny, np.sqrt(np.finfo(x).eps) / 8], dtype=x),
        np.asarray([np.iinfo(b).min], dtype=b),
    )
    for x, b in ((np.float32, np.int32), (np.float64, np.int64))
}
_FLAGS = (np.ndarray, np.bool_)
_WHOLE: Layout = (("shifted", 0),)
_NO_ORDER = np.zeros(1, dtype=np.int64)


@lru_cache
def _numbers(dtype: np.dtype, damping: float | None, step: float, decay: float) -> tuple[Any, ...]:
    kind = _FLOATS[dtype]
    if damping is None:
        damping = DAMPING[dtype.name]
    return *map(kind.cast, (damping, step, step**0.25, decay)), kind.limits, kind.bits


def update(
    state: Any, layout: Layout, v: Any, h: Any, step: Any, damping: float | None, decay: float, inplace: bool
) -> tuple[tuple[Any, ...], tuple[Any, ...], Any] | None:
    """Return (blocks, held, whether every orbit moved) after one update, or None if it is not for kernels.

    In place of whether every orbit moved, `gpu.update` returns the state's new (pending, count, skipped).

    Parameters
    ----------
    state : OrbitState
    layout : tuple of (str, int)
        Of its group.
    v, h : array
    step : float or 0-d array
    damping : float or None
    decay : float
        Of `Running`; -1 stands for `Sample`.
    inplace : bool
        Whether blocks and what is held are overwritten.
    """
    if (
        not (_suits(v, state, layout) and _suits(h, state, layout))
        or not isinstance(state.pending, _FLAGS)
        or state.pending
    ):
        on_gpu = type(v) is not np.ndarray
        return gpu.update(state, layout, v, h, step, damping, decay, inplace) if on_gpu else None
    if type(step) is not float:
        if not isinstance(step, np.ndarray | np.floating) or step.ndim:
            return None
        step = float(step)
    if not 0 < step < 1 or (inplace and not all(x.flags.writeable for x in state.q.blocks + state.held)):
        return None
    from . import cpu_orbits

    shared = v.shape[0] >= PARALLEL
    if shared and not (cpu_orbits.usable_parallel(v, True) and cpu_orbits.usable_parallel(h, False)):
        return None
    kernel = cpu_orbits.update_parallel if shared else cpu_orbits.update
    order = state.q.gather[0] if state.q.gather else _NO_ORDER
    numbers = _numbers(v.dtype, damping, step, decay)
    blocks, held = state.q.blocks, state.held
    if not inplace:
        blocks, held = tuple(map(np.empty_like, blocks)), tuple(map(np.empty_like, held))
    left = 0
    for i, (how, start) in enumerate(layout):
        q, bound = state.q.blocks[i], state.held[i]
        check = not shared and i == 0
        found = kernel(v, h, order, start, LAYOUTS[how], q, bound, blocks[i], held[i], *numbers, check)
        if found < 0:
            return None
        left += found
    return blocks, held, left == 0


def update_dense(
    state: Any, layout: Layout, v: Any, h: Any, step: Any, damping: float | None, decay: float, inplace: bool
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], bool] | None:
    """Return (blocks, held, whether it moved) of a single orbit, or None if it is not for kernels."""
    (q,), (bound,) = state.q.blocks, state.held
    if layout != _WHOLE or not (_suits(v, state, layout, DENSE) and _suits(h, state, layout, DENSE)):
        return None
    if not isinstance(state.pending, _FLAGS) or state.pending:
        return None
    if (
        type(step) is not float
        or not 0 < step < 1
        or (inplace and not (q.flags.writeable and bound.flags.writeable))
    ):
        return None
    from . import cpu_dense

    n = v.shape[0]
    block, held = (q, bound) if inplace else (np.empty_like(q), np.empty_like(bound))
    numbers = _numbers(v.dtype, damping, step, decay)
    found = cpu_dense.update(
        v, h, int(state.count), q.reshape(n, n), bound.reshape(1), block.reshape(n, n), held.reshape(1),
        *numbers[:4], numbers[4][0],
    )  # fmt: skip
    return None if found < 0 else ((block,), (held,), found == 1)


def precondition(state: Any, layout: Layout, g: Any) -> Any:
    """Return ``Q^T Q g`` for g of shape (n,), or None if it is not for kernels."""
    if not _suits(g, state, layout):
        return None if type(g) is np.ndarray else gpu.precondition(state, layout, g)
    from . import cpu_orbits

    kernel = cpu_orbits.precondition_parallel if g.shape[0] >= PARALLEL else cpu_orbits.precondition
    order, out = state.q.gather[0] if state.q.gather else _NO_ORDER, np.empty_like(g)
    for (how, start), q in zip(layout, state.q.blocks, strict=True):
        kernel(g, order, start, LAYOUTS[how], q, out)
    return out


def _suits(x: Any, state: Any, layout: Layout, largest: int = LARGEST) -> bool:
    """Return whether x is a vector that kernels can read as it is, and the state one that they know.

    Kernels do not look where they read and write, so everything they rely on is looked at here.
    """
    if type(x) is not np.ndarray or x.ndim != 1 or not available():
        return False
    n, dtype = 0, x.dtype
    if dtype not in _FLOATS or not x.flags.c_contiguous or len(layout) != len(state.q.blocks):
        return False
    for q, held, (how, start) in zip(state.q.blocks, state.held, layout, strict=False):
        s, _, c = q.shape
        whole = type(q) is np.ndarray and q.dtype == dtype and q.flags.c_contiguous and s <= largest
        if not whole or type(held) is not np.ndarray or held.shape != (c,) or held.dtype != dtype:
            return False
        if how == "gathered":
            order = state.q.gather[0] if state.q.gather else _NO_ORDER
            if type(order) is not np.ndarray or order.dtype != np.int64 or order.shape != x.shape:
                return False
        elif start + s * c > x.shape[0]:
            return False
        n += s * c
    return x.shape[0] == n
