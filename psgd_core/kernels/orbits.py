"""When an update on a Theorem 3.1 group takes the CPU's kernels, and how.

The conditions are cheap to ask, since for small n they are what an update costs; where one is not met the
answer is None, and the caller goes the ordinary way, with its checks and its messages.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import available

PARALLEL = 65_536
"""From this n on all threads share the work."""

LARGEST = 8
"""Largest orbits with kernels."""


class Part(NamedTuple):
    """Where the orbits of one size lie in a vector."""

    layout: int
    start: int


class _Float(NamedTuple):
    """What a kernel has to know of a dtype."""

    cast: Any
    limits: np.ndarray  # what `unit` is at least; relative size below which the damping is not heard
    bits: np.ndarray  # the sign bit; its dtype is what floats are viewed as
    infinite: int  # Inf as bits


_FLOATS = {
    np.dtype(x): _Float(
        x,
        np.asarray([np.finfo(x).tiny, np.sqrt(np.finfo(x).eps) / 8], dtype=x),
        np.asarray([np.iinfo(b).min], dtype=b),
        int(np.asarray(np.inf, dtype=x).view(b)),
    )
    for x, b in ((np.float32, np.int32), (np.float64, np.int64))
}
_NO_ORDER = np.zeros(1, dtype=np.int64)


def update(
    blocks: tuple[np.ndarray, ...],
    held: tuple[np.ndarray, ...],
    gather: tuple[np.ndarray, ...],
    parts: tuple[Part, ...],
    v: np.ndarray,
    h: np.ndarray,
    step: float,
    damping: float,
    decay: float,
    inplace: bool,
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], bool] | None:
    """Return (blocks, held, whether every orbit moved) after one update, or None if it is not for kernels.

    Parameters
    ----------
    blocks, held, gather
        Of the state.
    parts : tuple of Part
        One for each of the blocks.
    v, h : array, shape (n,)
    step, damping : float
    decay : float
        Of `Running`; -1 stands for `Sample`.
    inplace : bool
        Whether blocks and what is held are overwritten.
    """
    from . import cpu_orbits

    kind = _FLOATS[v.dtype]
    n = v.shape[0]
    shared = n >= PARALLEL
    largest = cpu_orbits.largest_parallel if shared else cpu_orbits.largest
    if not 0 < largest(v, kind.bits) < kind.infinite or largest(h, kind.bits) >= kind.infinite:
        return None
    kernel = cpu_orbits.update_parallel if shared else cpu_orbits.update
    order = gather[0] if gather else _NO_ORDER
    cast = kind.cast
    numbers = cast(damping), cast(step), cast(step**0.25), cast(decay), kind.limits, kind.bits
    if inplace:
        new_blocks, new_held = blocks, held
    else:
        new_blocks, new_held = tuple(map(np.empty_like, blocks)), tuple(map(np.empty_like, held))
    left = 0
    for part, q, bound, new_q, new_bound in zip(parts, blocks, held, new_blocks, new_held, strict=True):
        left += kernel(v, h, order, part.start, part.layout, q, bound, new_q, new_bound, *numbers)
    return new_blocks, new_held, left == 0


def precondition(
    blocks: tuple[np.ndarray, ...], gather: tuple[np.ndarray, ...], parts: tuple[Part, ...], g: np.ndarray
) -> np.ndarray:
    """Return ``Q^T Q g`` for g of shape (n,)."""
    from . import cpu_orbits

    kernel = cpu_orbits.precondition_parallel if g.shape[0] >= PARALLEL else cpu_orbits.precondition
    order, out = gather[0] if gather else _NO_ORDER, np.empty_like(g)
    for part, q in zip(parts, blocks, strict=True):
        kernel(g, order, part.start, part.layout, q, out)
    return out


def suits(x: Any, n: int, dtype: Any) -> bool:
    """Return whether x is a vector that kernels can read as it is."""
    return (
        type(x) is np.ndarray
        and x.shape == (n,)
        and x.dtype == dtype
        and x.dtype in _FLOATS
        and x.flags.c_contiguous
        and available()
    )
