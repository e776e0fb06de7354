"""An update of ``Q = (I + U V^T) diag(d)`` by the CPU's passes over n, and ``P g``.

Between the passes is algebra of size r (`arrays.gram_algebra`). Where nothing is to be compiled (`switch`)
the passes are those of `low_rank_blocks`, and ``P g`` is the plain code's.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from ...arrays.gram_algebra import FactorMove, combinations, factor_move, gauge, joint_bound
from ..rules import LowRankRule, float_of
from ..switch import worthwhile
from .counting import KINDS, counted

PARALLEL = 65_536
"""From this n on all threads share the work."""

SUMMED_AS_IS = 262_144
"""From this n on tiles of the Gram matrix are summed in the dtype of the state, below in float64.

In float32 each tile errs at random, so that many err less than one. With U and V of condition 10,000 P
errs by 7e-6 or less from this n on, and by 6e-4 at n = 1,000; with condition 100 nothing shows
from n = 5,000 on.
"""

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_SAFE = 1e100
"""Largest entries between 1 / `_SAFE` and this have squares and sums of squares in float64."""

_STAYS = np.zeros((0, 0))
_EXACT = np.zeros(0)


def _suits(rule: LowRankRule, state: Any, vectors: tuple[Any, ...], writes: bool) -> bool:
    """Return whether the state and vectors of its length are what kernels can read as they are.

    Kernels do not look where they read and write, so everything that they rely on is looked at here.
    """
    try:
        own, numbers = (state.u, state.v, state.d, state.held), state[4:]
        n, dtype = vectors[0].size, vectors[0].dtype
        if dtype not in _DTYPES or not n:
            return False
        factor = rule.rank, n
        shapes = factor, factor, (n,), (2,), (n,), (n,)
        for x, shape in zip((*own, *vectors), shapes, strict=False):
            if type(x) is not np.ndarray or x.shape != shape or x.dtype != dtype or not x.flags.c_contiguous:
                return False
        kinds = ((dtype.type, dtype), *KINDS)
        for x, (kind, of) in zip(numbers, kinds, strict=True):
            if type(x) is not kind and (type(x) is not np.ndarray or x.shape != () or x.dtype != of):
                return False
    except (AttributeError, TypeError, ValueError):  # it is not a state of `init`'s
        return False
    return not (writes and False in [x.flags.writeable for x in own])


@cache
def _passes(numba: bool) -> Any:
    return import_module(".low_rank_passes" if numba else ".low_rank_blocks", __package__)


@lru_cache
def _lower(m: int) -> np.ndarray:
    """Return where the entries of a matrix are that the Gram pass computes."""
    return np.tri(m, dtype=np.bool_)


class _Reading(NamedTuple):
    """What the passes read, and in which units."""

    passes: Any  # the module
    ending: str  # of the names of its functions
    parts: int  # in which sums are kept
    arrays: tuple[Any, ...]  # what all passes begin with: U, V, d, h, v, damping and seed of its signs
    growth: float  # c, which d is multiplied by beforehand
    unit: float  # of x and y
    scales: np.ndarray  # (2,): what x and y are multiplied by


def update(rule: LowRankRule, state: Any, v: Any, h: np.ndarray, step: Any, inplace: bool) -> Any:
    """Return the state after one update, or None if it is not for kernels: see `dispatch`."""
    rate = step if type(step) is float else float_of(step)
    if rate is None or not 0 < rate < 1 or not rule.diagonal_first or rule.measure is None:
        return None
    if not _suits(rule, state, (h, v), inplace):
        return None
    count, due, dtype = int(state.count), bool(state.pending), h.dtype
    found = _gram(state, v, h, due)
    if found is None:
        return None
    g, as_read = found
    # make the generators, and bound them together
    turn_u, small = count % 2 == 0, combinations(g, rule.rank)
    move = factor_move(small, turn_u, rule.measure)
    work, size_d = _numerator(as_read, small.ends, rule.measure)
    size = dtype.type(as_read.unit * joint_bound(size_d, move.size, rate) ** 0.5)
    if not size < np.inf:
        return None
    # ask the normaliser
    turn = 0 if turn_u else 1  # of the two bounds that are held, the one that is renewed
    before = dtype.type(0) if due else state.held[turn]
    scale_n, after = rule.scale(before, size, rate)
    mu = rate * (as_read.unit / scale_n) ** 2 if scale_n > 0 else 0.0
    # move d and one factor, and renew the gauge of U and V
    drifted = rule.rank and count % rule.gauge_every == rule.gauge_every - 1
    u, v, d = _write(as_read, move, mu, turn_u, gauge(small.uu, small.vv) if drifted else None, work, inplace)
    held = state.held if inplace else state.held.copy()
    if due:
        held[:] = 0
    held[turn] = after
    growth, both = as_read.growth**2, np.asarray(small.squares)
    counters = counted(state, rule.jump, moved=True, due=due, growth=growth, squares=both, h=h)
    return type(state)(u, v, d, held, *counters)


def _gram(state: Any, v: np.ndarray, h: np.ndarray, due: bool) -> tuple[np.ndarray, _Reading] | None:
    """Return the Gram matrix of R = [U; V; x; y], x and y in a unit that keeps them near 1.

    Where the scale is due, d is taken times c, the minimiser ``c^4 = |y|^2 / |x|^2``. None if something is
    not finite, or x or y nothing or out of all scale.
    """
    n, count = h.size, int(state.count)
    compiled = worthwhile(n, count)
    passes = _passes(compiled)
    parts, ending = passes.parts(n), "_parallel" if compiled and n >= PARALLEL else ""
    damping = 0.0 if due else abs(float(state.damping))  # the pair that sets the scale is not damped
    seed = np.uint32(count * 0x1F35B1D9 & 0xFFFFFFFF)  # as in `arrays.signs`
    arrays = state.u, state.v, state.d, h, v, h.dtype.type(damping), seed
    # as they are
    r = state.u.shape[0]
    m = 2 * r + 2
    padded = m + -m % 4
    products, largest = np.zeros((parts, padded, padded)), np.zeros((parts, 2), h.dtype)
    like = h[:0] if n >= SUMMED_AS_IS else _EXACT
    getattr(passes, "gram" + ending)(*arrays, np.ones(2, h.dtype), like, products, largest)
    g = products.sum(axis=0)[:m, :m]
    g = np.where(_lower(m), g, g.T)
    x, y = largest.max(axis=0).tolist()
    if not (np.all(np.isfinite(g)) and min(x, y) > 1 / _SAFE and max(x, y) < _SAFE):
        return None
    # and in the unit
    growth = float((g[-1, -1] / g[-2, -2]) ** 0.25) if due else 1.0
    unit = max(growth * x, y / growth)
    scales = np.asarray([growth / unit, 1 / (growth * unit)])
    g[2 * r :, :] *= scales[:, None]
    g[:, 2 * r :] *= scales
    return g, _Reading(passes, ending, parts, arrays, growth, unit, scales.astype(h.dtype))


def _numerator(as_read: _Reading, ends: Any, measure: str) -> tuple[np.ndarray, Any]:
    """Form what d moves along, ``x P h / d - y d P^{-1} v``, and return it with its size."""
    d = as_read.arrays[2]
    largest, work = np.zeros((as_read.parts, 3), d.dtype), np.empty_like(d)
    rows = np.ascontiguousarray(ends.T, dtype=d.dtype)
    numerator = getattr(as_read.passes, "numerator" + as_read.ending)
    numerator(*as_read.arrays, as_read.scales, rows[0], rows[1], work, largest)
    plus, minus, difference = largest.max(axis=0)
    return work, difference if measure == "gradient" else plus + minus


def _write(
    as_read: _Reading, move: FactorMove, mu: float, turn_u: bool, gauges: tuple[Any, Any] | None,
    work: np.ndarray, inplace: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return U, V and d after a move of d along `work` and of one factor, in a new gauge if one is given."""
    u, v, d = as_read.arrays[:3]
    dtype, left, right = d.dtype, np.asarray(move.left), np.asarray(move.right)
    new: tuple[np.ndarray, np.ndarray, np.ndarray] = (u, v, d)
    if not inplace:  # the work vector becomes the new d
        new = np.empty_like(u), np.empty_like(v), work
    out = list(new)
    if inplace and gauges is None:
        out[1 if turn_u else 0] = np.empty((0, d.size), dtype)
    c, back = (_STAYS, _STAYS) if gauges is None else gauges
    getattr(as_read.passes, "write" + as_read.ending)(
        *as_read.arrays,
        as_read.scales,
        np.ascontiguousarray(right.T, dtype=dtype),
        np.ascontiguousarray(mu * left, dtype=dtype),
        np.asarray([mu, as_read.growth], dtype=dtype),
        work,
        turn_u,
        c.astype(dtype),
        back.astype(dtype),
        inplace,
        *out,
    )
    return new


def precondition(rule: LowRankRule, state: Any, g: np.ndarray) -> np.ndarray | None:
    """Return ``P g`` for g of shape (n,), or None if it is not for kernels: see `dispatch`."""
    if not _suits(rule, state, (g,), False) or not worthwhile(g.size, int(state.count)):
        return None
    from . import low_rank_product as product  # which needs numba

    u, v, d, first = state.u, state.v, state.d, rule.diagonal_first
    ending = "_parallel" if d.size >= PARALLEL else ""
    project, middle, finish = (getattr(product, x + ending) for x in ("project", "middle", "finish"))
    sums, out = np.zeros((2, product.parts(d.size), u.shape[0])), np.empty_like(g)
    project(v, d, g, first, sums[0])
    middle(u, d, g, first, np.sum(sums[0], axis=0).astype(d.dtype), out, sums[1])
    finish(v, d, first, np.sum(sums[1], axis=0).astype(d.dtype), out)
    return out
