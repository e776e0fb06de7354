"""When an update on a Theorem 3.1 group takes the CPU's kernels, and how.

For small n the conditions are what an update costs, so they are cheap to ask; where one is not met the
answer is None, and the caller goes the ordinary way, with its checks and its messages.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from ..switch import available
from .counting import counted

PARALLEL = 65_536
"""From this n on all threads share the work."""

LARGEST = 8
"""Largest orbits with kernels, where there are many."""

DENSE = 128
"""Largest single orbit with a kernel; above, libraries are faster."""

LAYOUTS = {"direct": 0, "shifted": 1, "mirrored": 2, "gathered": 3}
"""What `OrbitGroup.layout` says, as `cpu_layouts` has it."""

Layout = tuple[tuple[str, int], ...]
Arrays = tuple[np.ndarray, ...]


class _Float(NamedTuple):
    """What a kernel has to know of a dtype."""

    cast: Any
    limits: tuple[float, float]  # what `unit` is at least; the relative size below which damping is not heard
    bits: np.ndarray  # as integers: all but the sign's bit, and those of Inf


_FLOATS = {
    np.dtype(x): _Float(
        x,
        (float(np.finfo(x).tiny), float(np.sqrt(np.finfo(x).eps) / 8)),
        np.asarray([np.iinfo(b).max, x(np.inf).view(b)], dtype=b),
    )
    for x, b in ((np.float32, np.int32), (np.float64, np.int64))
}
_FLAGS = (np.ndarray, np.bool_)
_WHOLE: Layout = (("shifted", 0),)
_INDEX = np.dtype(np.int64)
_NO_ORDER = np.zeros(1, dtype=np.int64)


@cache
def _compiled(name: str) -> Any:
    return import_module(f"{__package__}.{name}")


@lru_cache
def _numbers(dtype: np.dtype, damping: float, step: float, decay: float) -> np.ndarray:
    """Return what `cpu_orbits.update` calls `numbers`, without an automatic scale."""
    return np.asarray([damping, step, step**0.25, decay, *_FLOATS[dtype].limits, 1.0], dtype=dtype)


def update(state: Any, v: Any, h: Any, step: Any, layout: Layout, decay: float, inplace: bool) -> Any:
    """Return the state after one update, or None if it is not for kernels.

    Parameters
    ----------
    state : OrbitState
    v, h : array
    step : float or 0-d array
    layout : tuple of (str, int)
        Of its group.
    decay : float
        Of `Running`; -1 stands for `Sample`.
    inplace : bool
        Whether blocks and what is held are overwritten.
    """
    (blocks, gather), held = state.q, state.held
    rate, (v, h) = rate_of(step), _vectors(v, h)
    if rate is None or not _suits(blocks, gather, held, layout, LARGEST, v, h):
        return None
    written = inplace or state.pending  # a trial of the scale names its input as its output
    if not _counters_fit(state) or (written and False in [x.flags.writeable for x in blocks + held]):
        return None
    compiled, kind = _compiled("orbit_passes"), _FLOATS[v.dtype]
    shared = v.shape[0] >= PARALLEL
    usable = compiled.usable_parallel if shared else compiled.usable
    kernel = compiled.update_parallel if shared else compiled.update
    order = gather[0] if gather else _NO_ORDER
    numbers = _numbers(v.dtype, abs(float(state.damping)), rate, decay)
    mode, due, growth = compiled.CHECK, False, 1.0
    if shared or state.pending:
        found = usable(v, h, kind.bits)
        if found == 0:
            return None
        due, mode = bool(state.pending) and found == 2, compiled.READY
    squares = np.zeros((compiled.chunks(v.shape[0]) if shared else 1, 2))
    if due:
        # nothing is damped, and nothing held counts: N is the sample's own bound
        numbers = _numbers(v.dtype, 0.0, rate, -1.0)
        # the automatic scale: the minimiser over c of the criterion at c Q, c^4 = |Q^{-T} v|^2 / |Q h|^2
        x, y = np.zeros((2, 2))
        for (how, start), q in zip(layout, blocks, strict=True):
            compiled.norms(v, h, order, start, LAYOUTS[how], q, kind.bits, x, y)
        numbers, growth = _rescaling(numbers, x, y)
        left = 0
        for (how, start), q, bound in zip(layout, blocks, held, strict=True):
            where = v, h, order, start, LAYOUTS[how]
            left += kernel(*where, q, bound, q, bound, numbers, kind.bits, compiled.TRIAL, squares)
        if left:  # then nothing moves, and the scale is still to be set
            return None
    new_blocks, new_held, left = blocks, held, 0
    if not inplace:
        new_blocks, new_held = tuple(map(np.empty_like, blocks)), tuple(map(np.empty_like, held))
    for i, (how, start) in enumerate(layout):
        found = kernel(
            v, h, order, start, LAYOUTS[how], blocks[i], held[i], new_blocks[i], new_held[i],
            numbers, kind.bits, mode, squares,
        )  # fmt: skip
        if found < 0:
            return None
        left += found
        mode = compiled.READY
    a, b = (squares.sum(axis=0) if shared else squares[0]).tolist()
    counters = counted(state, moved=left == 0, due=due, growth=growth, squares=(a, b), h=h)
    return type(state)(type(state.q)(new_blocks, gather), new_held, *counters)


def update_dense(state: Any, v: Any, h: Any, step: Any, layout: Layout, decay: float, inplace: bool) -> Any:
    """Return what `update` does for a single orbit, whose damping is noise drawn by the count, or None."""
    (blocks, gather), held = state.q, state.held
    rate, (v, h) = rate_of(step), _vectors(v, h)
    if rate is None or layout != _WHOLE or not _suits(blocks, gather, held, layout, DENSE, v, h):
        return None
    if (
        not _counters_fit(state)
        or state.pending
        or (inplace and False in [x.flags.writeable for x in blocks + held])
    ):
        return None
    (q,), (bound,), n = blocks, held, v.shape[0]
    if q.shape[0] != n:
        return None
    new_q, new_bound = (q, bound) if inplace else (np.empty_like(q), np.empty_like(bound))
    squares = np.zeros(2)
    found = _compiled("dense").update(
        v, h, int(state.count), q.reshape(n, n), bound, new_q.reshape(n, n), new_bound,
        _numbers(v.dtype, abs(float(state.damping)), rate, decay), _FLOATS[v.dtype].bits, squares,
    )  # fmt: skip
    if found < 0:
        return None
    a, b = squares.tolist()
    counters = counted(state, moved=found == 1, due=False, growth=1.0, squares=(a, b), h=h)
    return type(state)(type(state.q)((new_q,), gather), (new_bound,), *counters)


def _counters_fit(state: Any) -> bool:
    """Return whether the counters are NumPy's."""
    numbers = np.ndarray, np.generic  # a union of types, or a loop in Python, would take longer
    return all(map(isinstance, state[2:], (numbers,) * 5))


def precondition(blocks: Arrays, gather: Arrays, g: Any, layout: Layout) -> np.ndarray | None:
    """Return ``Q^T Q g`` for g of shape (n,), or None if it is not for kernels."""
    if not _suits(blocks, gather, None, layout, LARGEST, g):
        if layout != _WHOLE or not _suits(blocks, gather, None, layout, DENSE, g):
            return None
        q = blocks[0][:, :, 0]
        return q.T @ (q @ g) if q.shape == (g.shape[0],) * 2 else None
    compiled = _compiled("orbit_passes")
    kernel = compiled.precondition_parallel if g.shape[0] >= PARALLEL else compiled.precondition
    order, out = gather[0] if gather else _NO_ORDER, np.empty_like(g)
    for (how, start), q in zip(layout, blocks, strict=True):
        kernel(g, order, start, LAYOUTS[how], q, out)
    return out


def rate_of(step: Any) -> float | None:
    """Return the step as a float; None if it is no number in (0, 1), or none that is at hand."""
    if type(step) is not float:
        if not isinstance(step, np.ndarray | np.floating) or step.ndim or step.dtype.kind != "f":
            return None
        step = float(step)
    return step if 0 < step < 1 else None


def _vectors(v: Any, h: Any) -> tuple[Any, Any]:
    """Return one probe and its product, given as columns (n, 1), as vectors; anything else as it is."""
    if (
        type(h) is np.ndarray
        and h.ndim == 2
        and h.shape[1] == 1
        and type(v) is type(h)
        and v.shape == h.shape
    ):
        return v[:, 0], h[:, 0]
    return v, h


def _rescaling(numbers: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the numbers of a kernel with the automatic scale c for what `norms` found, or NaN; and c^2."""
    with np.errstate(all="ignore"):
        c = numbers.dtype.type((y[0] ** 0.5 * y[1] ** 0.25) / (x[0] ** 0.5 * x[1] ** 0.25))
        return np.append(numbers[:-1], c), float(c * c)


def _suits(  # noqa: PLR0911, PLR0912 -- calls, even of a helper, would double what it costs
    blocks: Arrays, gather: Arrays, held: Arrays | None, layout: Layout, largest: int, *vectors: Any
) -> bool:
    """Return whether these are vectors that kernels can read as they are, and a state that they know.

    Kernels do not look where they read and write, so everything they rely on is looked at here.
    """
    first = vectors[0]
    if type(first) is not np.ndarray or not available():
        return False
    shape, dtype = first.shape, first.dtype
    if len(shape) != 1 or dtype not in _FLOATS or len(layout) != len(blocks):
        return False
    for x in vectors:
        if type(x) is not np.ndarray or x.shape != shape or x.dtype != dtype or not x.flags.c_contiguous:
            return False
    (n,), total = shape, 0
    for q, (how, start) in zip(blocks, layout, strict=True):
        if type(q) is not np.ndarray or q.ndim != 3 or q.dtype != dtype or not q.flags.c_contiguous:
            return False
        s, width, c = q.shape
        if s > largest or s != width:
            return False
        total += s * c
        if how == "gathered":
            order = gather[0] if gather else None
            if type(order) is not np.ndarray or order.shape != shape or order.dtype != _INDEX:
                return False
            if not order.flags.c_contiguous:
                return False
        elif start + s * c > n:
            return False
    if held is not None:
        if len(held) != len(blocks):
            return False
        for x, q in zip(held, blocks, strict=True):
            if type(x) is not np.ndarray or x.ndim != 1 or x.shape[0] != q.shape[2]:
                return False
            if x.dtype != dtype or not x.flags.c_contiguous:
                return False
    return total == n
