"""A first pair that is refused, at the door or within, leaves the automatic scale to the next one."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from registry import PRECONDITIONERS, arrays, core, draw_pairs, to_numpy, without_jax

import psgd_core as psgd
from psgd_core import kernels

FITTED = {name: (row.preconditioner, row.n) for name, row in PRECONDITIONERS.items()} | {
    "Kronecker": (psgd.Kronecker((2, 3), "dense"), 6),
    "Kronecker, mixed": (psgd.Kronecker((3, 1, 2), ("triangular", "identity", "diagonal")), 6),
    "Kronecker, affine": (psgd.Kronecker((2, 3), ("normalization", "affine")), 6),
    "Kronecker, QEP": (psgd.Kronecker((2, 3), "dense", geometry="QEP"), 6),
    "LowRank, n = 40": (psgd.LowRank(4), 40),
    "XMat, n = 41": (psgd.XMat(), 41),
}

fitted = pytest.mark.parametrize(("p", "n"), FITTED.values(), ids=FITTED.keys())
with_and_without_kernels = pytest.mark.parametrize(
    "switch", [contextlib.nullcontext, kernels.off], ids=["kernels", "plain"]
)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def assert_identical(one, two):
    """Every array of both states is the same, bit for bit, but for the count of what was skipped."""
    for x, y in zip(arrays(one), arrays(two._replace(skipped=one.skipped)), strict=True):
        np.testing.assert_array_equal(x, y)


def odd_pairs(v, h):
    """Pairs without a number, without a probe, and at the ends of what the dtype can hold."""
    largest, smallest = np.finfo(v.dtype).max, np.finfo(v.dtype).smallest_subnormal
    for spoiled in (np.nan, np.inf, -np.inf):
        bad = v.copy()
        bad[-1] = spoiled
        yield bad, h
        yield v, np.full_like(h, spoiled)
    yield np.zeros_like(v), h
    yield from ((v, np.full_like(h, largest)), (np.full_like(v, largest), h))
    yield from ((np.full_like(v, smallest), h), (np.full_like(v, smallest), np.full_like(h, largest)))


@fitted
@DTYPES
@with_and_without_kernels
def test_what_is_refused_first_leaves_no_trace_but_its_count(p, n, dtype, switch):
    (v, h), (v2, h2) = (
        [x.astype(dtype) for x in pair] for pair in zip(*draw_pairs(n, 2, seed=5), strict=True)
    )
    fresh, refused = p.init(n, v), p.init(n, v)
    with switch(), np.errstate(all="ignore"):
        for pair in odd_pairs(v, h):
            after = p.update(refused, *pair, 0.3)
            assert int(after.count) + int(after.skipped) == int(refused.skipped) + 1
            if int(after.skipped) > int(refused.skipped):  # not all ends of a dtype are beyond every group
                assert bool(after.pending)
                refused = after
        assert int(refused.skipped) >= 7
        assert_identical(refused, fresh)
        # a product of zeros can be used, but says nothing of the scale
        nothing = p.update(refused, v, np.zeros_like(h), 0.3)
        assert (int(nothing.count), bool(nothing.pending)) == (1, True)
        assert not bool(p.update(nothing, v, h, 0.3).pending)
        # the next pair that can be used sets the scale, and the one after it does not
        for pair in ((v, h), (v2, h2)):
            refused, fresh = p.update(refused, *pair, 0.3), p.update(fresh, *pair, 0.3)
            assert not bool(refused.pending)
            assert_identical(refused, fresh)
    assert int(refused.count) == 2


def singular(p, n, like):
    """A state whose Q has no inverse: where b is made from it no pair can be used."""
    state = p.init(n, like)
    if isinstance(p, psgd.LowRank):
        u = np.zeros_like(state.u)
        u[:, 0] = 1
        return state._replace(u=u, v=-u)  # all columns of U are e, and V = -U: I + U V^T has rank n - 1 or so
    if isinstance(p, psgd.Kronecker):
        return state._replace(factors=(*state.factors[:-1], 0 * state.factors[-1]))
    blocks = list(state.q.blocks)
    blocks[-1] = blocks[-1].copy()
    blocks[-1][:, :, 0] = 0  # one orbit alone
    return state._replace(q=state.q._replace(blocks=tuple(blocks)))


@pytest.mark.parametrize(
    ("p", "n"),
    [
        (psgd.Diagonal(), 9),
        (psgd.XMat(), 9),
        (psgd.Butterfly(), 8),
        (psgd.Sparse(psgd.PermutationSubgroup.klein(8)), 8),
        (psgd.Dense(), 6),
        (psgd.LowRank(1), 8),
        (psgd.LowRank(1, diagonal="left"), 8),
        (psgd.Kronecker((2, 3), "dense"), 6),
    ],
    ids=str,
)
@DTYPES
@with_and_without_kernels
def test_a_pair_that_a_singular_q_makes_unusable_leaves_the_scale_pending(p, n, dtype, switch):
    v, h = (x[0].astype(dtype) for x in draw_pairs(n, 1, seed=6))
    start = singular(p, n, v)
    with switch(), np.errstate(all="ignore"):
        after = p.update(start, v, h, 0.3)
        assert (int(after.count), int(after.skipped), bool(after.pending)) == (0, 1, True)
        assert_identical(after, start)
        # with a scale given nothing is pending, and nothing becomes so
        given = p.update(start._replace(pending=np.asarray(False)), v, h, 0.3)
        assert (int(given.count), int(given.skipped), bool(given.pending)) == (0, 1, False)
        # and with a Q that can be inverted the scale is that of a fresh start
        fresh = p.init(n, v)
        whole = {name: getattr(fresh, name) for name in ("q", "u", "v", "factors") if hasattr(fresh, name)}
        mended = p.update(after._replace(**whole), v, h, 0.3)
        assert_identical(mended, p.update(fresh, v, h, 0.3))


@without_jax
@core
def test_other_libraries_do_as_numpy_does(backend, row):
    p, n = row.preconditioner, row.n
    v, h = (backend.asarray(x[0]) for x in draw_pairs(n, 1, 2))
    start = p.init(n, v)
    late = p.update(start, v, h * float("nan"), 0.3)
    assert bool(late.pending)
    assert_identical(
        to_numpy_state(backend, p.update(late, v, h, 0.3)),
        to_numpy_state(backend, p.update(start, v, h, 0.3)),
    )


def to_numpy_state(backend, state):
    return type(state)(*to_numpy(backend, state))


def test_the_scale_is_that_of_the_usable_pair():
    """sqrt(|v| / |h|) on the identity, whatever was refused before: 1e-4 here, not 1, and not NaN."""
    p = psgd.Dense(damping=0.0)
    v, h = np.array([3.0, 4.0]), np.array([4e8, 3e8])
    state = p.init(2, v)
    state = p.update(state, v, np.array([1.0, np.nan]), 1e-12)
    state = p.update(state, v, h, 1e-12)
    np.testing.assert_allclose(p.matrix(state), 1e-8 * np.eye(2), rtol=1e-9, atol=1e-17)
