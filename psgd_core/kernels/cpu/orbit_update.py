"""An update on a Theorem 3.1 group by the CPU's kernels, and ``P g``.

For small n the checks are most of what an update costs. So what they compare with is made once for a layout
and dtype (`_Plan`), and they are in one place (`_plan_for`), not in functions of their own.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .. import switch
from ..rules import Layout, OrbitRule, float_of
from .counting import KINDS, counted

PARALLEL = 65_536
"""From this n on all threads share the work."""

LARGEST = 8
"""Largest orbits with kernels, where there are many."""

DENSE = 128
"""Largest single orbit with a kernel; above, libraries are faster."""

LAYOUTS = {"direct": 0, "shifted": 1, "mirrored": 2, "gathered": 3}
"""What a `Layout` says, as `members` has it."""

_WORDS: dict[type, type] = {np.float32: np.int32, np.float64: np.int64}
_NO_ORDER = np.zeros(1, dtype=np.int64)
_Moved = tuple[int, np.ndarray, bool, float]
"""Orbits that stayed as they were; |a|^2 and |b|^2 in one unit; whether the scale was set, and P's growth."""

_Arrays = tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]
_MALFORMED = AttributeError, IndexError, TypeError, ValueError
"""What comes of asking a state that is not one of `init`'s for its parts."""


class _Plan(NamedTuple):
    """What a state and vectors must be, and what kernels are told, for a layout and a dtype."""

    blocks: tuple[tuple[int, ...], ...]  # their shapes
    shapes: tuple[tuple[int, ...], ...]  # of the blocks, then of what is held
    places: tuple[tuple[int, int], ...]  # per orbit size (start, how) as the kernels take them
    gathered: bool  # whether a kernel reads the order
    dense: bool  # whether it is GL(n), a single orbit
    counters: tuple[tuple[type, np.dtype[Any]], ...]  # scalar type and dtype of the counters
    bits: np.ndarray  # of floats viewed as integers: all but the sign's bit, and those of Inf


@lru_cache(maxsize=256)
def _plan(layout: Layout, n: int, dtype: np.dtype[Any]) -> _Plan | None:
    """Return the plan for vectors (n,), None where there are no kernels."""
    real, small = dtype.type, all(size <= LARGEST for size, *_ in layout)
    dense = len(layout) == 1 and layout[0][1:] == (1, "shifted", 0)
    covered = small or (dense and layout[0][0] <= DENSE)
    inside = all(how == "gathered" or start + size * count <= n for size, count, how, start in layout)
    covered = covered and inside and sum(size * count for size, count, _, _ in layout) == n > 0
    if not covered or real not in _WORDS or not dtype.isnative:
        return None
    word, blocks = _WORDS[real], tuple((size, size, count) for size, count, _, _ in layout)
    return _Plan(
        blocks=blocks,
        shapes=(*blocks, *((count,) for _, count, _, _ in layout)),
        places=tuple((start, LAYOUTS[how]) for _, _, how, start in layout),
        gathered=any(how == "gathered" for _, _, how, _ in layout),
        dense=dense,
        counters=((real, dtype), *KINDS),
        bits=np.asarray([np.iinfo(word).max, real(np.inf).view(word)], dtype=word),
    )


def _plan_for(  # noqa: PLR0911 -- calls, even of a helper, would double what it costs
    rule: OrbitRule, state: Any, vectors: tuple[Any, ...], inplace: bool | None = None
) -> _Plan | None:
    """Return the plan for a state and vectors, None where kernels would misread them.

    Kernels do not look where they read and write, so everything that they rely on is looked at here.

    Parameters
    ----------
    rule : OrbitRule
    state : OrbitState
    vectors : tuple
        The first is an array.
    inplace : bool, optional
        None for a product, which looks at Q alone.
    """
    try:
        (blocks, gather), held, counters = state.q, state.held, state[2:]
        n, dtype = vectors[0].size, vectors[0].dtype
        if not switch.worthwhile(n, int(state.count)):
            return None
        plan = _plan(rule.layout(n), n, dtype)
        if plan is None:
            return None
        for x in vectors:
            if type(x) is not np.ndarray or x.shape != (n,) or x.dtype != dtype or not x.flags.c_contiguous:
                return None
        written = inplace or (inplace is not None and state.pending)  # a trial's input is named as its output
        arrays, shapes = (blocks + held, plan.shapes) if inplace is not None else (blocks, plan.blocks)
        for x, shape in zip(arrays, shapes, strict=True):
            if type(x) is not np.ndarray or x.shape != shape or x.dtype != dtype:
                return None
            if not x.flags.c_contiguous or (written and not x.flags.writeable):
                return None
        for x, (kind, of) in zip(counters, plan.counters, strict=True):
            if type(x) is not kind and (type(x) is not np.ndarray or x.shape != () or x.dtype != of):
                return None
        if plan.gathered:
            order = gather[0]
            if type(order) is not np.ndarray or order.shape != (n,) or order.dtype != np.int64:
                return None
            return plan if order.flags.c_contiguous else None
    except _MALFORMED:
        return None
    return None if gather else plan


@cache
def _compiled(name: str) -> Any:
    return import_module(f"{__package__}.{name}")


@lru_cache
def _numbers(dtype: np.dtype[Any], damping: float, step: float, decay: float) -> np.ndarray:
    """Return what `orbit_passes.update` calls `numbers`, without an automatic scale."""
    limits = np.finfo(dtype)
    ordinary = 2.0 ** (limits.maxexp * 5 // 16)  # its square, and that of its inverse, are far from the ends
    return np.asarray(
        [damping, step, step**0.25, decay, limits.tiny, np.sqrt(limits.eps) / 8, ordinary, 1.0], dtype=dtype
    )


def update(rule: OrbitRule, state: Any, v: Any, h: np.ndarray, step: Any, inplace: bool) -> Any:
    """Return the state after one update, or None if it is not for kernels: see `dispatch`."""
    rate = step if type(step) is float else float_of(step)
    if rate is None or not 0 < rate < 1 or rule.decay is None:
        return None
    if h.ndim == 2 and h.shape[1] == 1 and type(v) is np.ndarray and v.shape == h.shape:
        v, h = v[:, 0], h[:, 0]  # one probe, given as a column
    plan = _plan_for(rule, state, (h, v), inplace)
    if plan is None or (rule.exact_damping and plan.blocks[-1][0] > LARGEST):
        return None
    new = blocks, held = state.q.blocks, state.held
    if not inplace:
        new = tuple(map(np.empty_like, blocks)), tuple(map(np.empty_like, held))
    move = _move_orbits if rule.exact_damping else _move_dense
    moved = move(plan, state, v, h, rate, rule.decay, new)
    if moved is None:
        return None
    left, squares, due, growth = moved
    counters = counted(state, rule.jump, moved=left == 0, due=due, growth=growth, squares=squares, h=h)
    return type(state)(type(state.q)(new[0], state.q.gather), new[1], *counters)


def _move_orbits(
    plan: _Plan, state: Any, v: np.ndarray, h: np.ndarray, rate: float, decay: float, new: _Arrays
) -> _Moved | None:
    """Write all orbits and what is held after an update to `new`; None where nothing may be written."""
    compiled, n = _compiled("orbit_passes"), v.shape[0]
    (blocks, gather), held = state.q, state.held
    order = gather[0] if plan.gathered else _NO_ORDER
    shared, pending = n >= PARALLEL, bool(state.pending)
    kernel = compiled.update_parallel if shared else compiled.update
    numbers = _numbers(v.dtype, abs(float(state.damping)), rate, decay)
    mode, due, growth = compiled.CHECK, False, 1.0
    # is it a pair, and is the scale due? One pass answers both, or else the first kernel looks by itself
    if shared or pending:
        usable = compiled.usable_parallel if shared else compiled.usable
        found = usable(v, h, plan.bits)
        if found == 0:
            return None
        due, mode = pending and found == 2, compiled.READY
    squares = np.zeros((compiled.chunks(n) if shared else 1, 2))
    # set the scale, if all orbits can move at it: otherwise none does, and it stays pending
    if due:
        # nothing is damped, and nothing held counts: N is the sample's own bound
        numbers, growth = _rescaling(_numbers(v.dtype, 0.0, rate, -1.0), _norms(plan, v, h, order, blocks))
        for (start, how), q, bound in zip(plan.places, blocks, held, strict=True):
            if kernel(
                v, h, order, start, how, q, bound, q, bound, numbers, plan.bits, compiled.TRIAL, squares
            ):
                return None
    # move the orbits, size by size
    left = 0
    for i, (start, how) in enumerate(plan.places):
        found = kernel(
            v, h, order, start, how, blocks[i], held[i], new[0][i], new[1][i],
            numbers, plan.bits, mode, squares,
        )  # fmt: skip
        if found < 0:
            return None
        left += found
        mode = compiled.READY
    return left, squares.sum(axis=0) if shared else squares[0], due, growth


def _move_dense(
    plan: _Plan, state: Any, v: np.ndarray, h: np.ndarray, rate: float, decay: float, new: _Arrays
) -> _Moved | None:
    """Do what `_move_orbits` does for a single orbit, damped by noise that the count draws."""
    if not plan.dense or state.pending:
        return None
    n, squares = v.shape[0], np.zeros(2)
    moved = _compiled("dense_orbit").update(
        v, h, int(state.count), state.q.blocks[0].reshape(n, n), state.held[0],
        new[0][0].reshape(n, n), new[1][0],
        _numbers(v.dtype, abs(float(state.damping)), rate, decay), plan.bits, squares,
    )  # fmt: skip
    return None if moved < 0 else (1 - moved, squares, False, 1.0)


def _norms(
    plan: _Plan, v: np.ndarray, h: np.ndarray, order: np.ndarray, blocks: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Return the squares of ``Q h`` and of ``Q^{-T} v``: a row each, as `orbit_passes.norms` adds them up."""
    sums = np.zeros((2, 2))
    for (start, how), q in zip(plan.places, blocks, strict=True):
        _compiled("orbit_passes").norms(v, h, order, start, how, q, plan.bits, *sums)
    return sums


def _rescaling(numbers: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the numbers with the automatic scale c for what `_norms` found, or NaN; and c^2.

    c minimises the criterion at c Q, ``c^4 = |Q^{-T} v|^2 / |Q h|^2``.
    """
    x, y = sums
    with np.errstate(all="ignore"):
        c = numbers.dtype.type((y[0] ** 0.5 * y[1] ** 0.25) / (x[0] ** 0.5 * x[1] ** 0.25))
        return np.append(numbers[:-1], c), float(c * c)


def precondition(rule: OrbitRule, state: Any, g: np.ndarray) -> np.ndarray | None:
    """Return ``Q^T Q g`` for g of shape (n,), or None if it is not for kernels: see `dispatch`."""
    plan = _plan_for(rule, state, (g,))
    if plan is None:
        return None
    blocks, n, out = state.q.blocks, g.shape[0], np.empty_like(g)
    if plan.blocks[0][0] > LARGEST:  # a dense one
        q = blocks[0].reshape(n, n)
        return np.matmul(q.T, q @ g, out=out)
    compiled = _compiled("orbit_passes")
    kernel = compiled.precondition_parallel if n >= PARALLEL else compiled.precondition
    order = state.q.gather[0] if plan.gathered else _NO_ORDER
    for (start, how), q in zip(plan.places, blocks, strict=True):
        kernel(g, order, start, how, q, out)
    return out
