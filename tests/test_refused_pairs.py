"""A pair that is refused before any was usable leaves the automatic scale to the first that is."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from registry import core, every, to_numpy, without_jax

import psgd_core as psgd
from psgd_core import kernels

REFUSED = {
    "NaN in h": lambda v, h: (v, np.where(np.arange(len(v)) == 0, np.nan, h)),
    "Inf in h": lambda v, h: (v, np.full_like(h, np.inf)),
    "NaN in v": lambda v, h: (np.where(np.arange(len(v)) == len(v) - 1, np.nan, v), h),
    "no v": lambda v, h: (0 * v, h),
}


def scaled_by_the_first(p, n, refused, like, seed=4, step=0.3):
    """Return the states after a usable pair: one at once, one after pairs that were refused."""
    rng = np.random.default_rng(seed)
    v, h = rng.standard_normal(n), 1e3 * rng.standard_normal(n)

    def update(state, v, h):
        return p.update(state, like(v), like(h), step)

    late = start = p.init(n, like(v))
    for _ in range(3):
        late = update(late, *refused(v, h))
    return update(start, v, h), late, update(late, v, h), p.init(n, like(v), scale=1.0)


@every
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("within", [contextlib.nullcontext, kernels.off], ids=["kernels", "plain"])
def test_the_scale_waits_for_a_usable_pair(row, kind, within):
    p, n = row.preconditioner, row.n
    with within():
        at_once, late, after, fixed = scaled_by_the_first(p, n, REFUSED[kind], np.asarray)
    assert int(late.skipped) == 3
    assert int(late.count) == 0
    assert bool(late.pending)
    assert not bool(fixed.pending)
    assert not bool(after.pending)
    np.testing.assert_equal(after._replace(skipped=at_once.skipped), at_once)
    assert int(after.skipped) == 3


@without_jax
@core
def test_on_other_libraries(backend, row):
    p, n = row.preconditioner, row.n
    at_once, late, after, _ = scaled_by_the_first(p, n, REFUSED["NaN in h"], backend.asarray)
    assert bool(late.pending)
    np.testing.assert_equal(
        to_numpy(backend, after._replace(skipped=at_once.skipped)), to_numpy(backend, at_once)
    )


def test_the_scale_is_that_of_the_usable_pair():
    """sqrt(|v| / |h|) on the identity, whatever was refused before: 1e-4 here, not 1, and not NaN."""
    p = psgd.Dense(damping=0.0)
    v, h = np.array([3.0, 4.0]), np.array([4e8, 3e8])
    state = p.init(2, v)
    state = p.update(state, v, np.array([1.0, np.nan]), 1e-12)
    state = p.update(state, v, h, 1e-12)
    np.testing.assert_allclose(p.matrix(state), 1e-8 * np.eye(2), rtol=1e-9, atol=1e-17)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2)])
def test_kronecker(shape):
    p = psgd.Kronecker(shape)
    at_once, late, after, _ = scaled_by_the_first(p, 6, REFUSED["Inf in h"], np.asarray)
    assert bool(late.pending)
    np.testing.assert_equal(after._replace(skipped=at_once.skipped), at_once)
