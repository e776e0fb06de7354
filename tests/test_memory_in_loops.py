"""Preconditioners that take a memory: in the loop, in `minimize`, in the adapters; not with replay."""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd
from psgd_core.curvature import Exact, Functions
from psgd_core.descent.presets import deterministic

KALMAN = psgd.Dense(geometry="Lyapunov", normalizer=psgd.normalizers.Kalman())
H = np.diag([4.0, 2.0, 1.0, 0.5])


def test_the_loop_passes_the_memory_on():
    """One step of the loop is one update with that memory."""
    x, v = np.ones(4), np.array([1.0, -1.0, 0.5, 2.0])
    functions = Functions(gradient=lambda x: H @ x, hvp=lambda x, v: H @ v)
    loop = psgd.PSGD(KALMAN, memory=3)
    state = loop.init(x)
    x, state = loop.step(state, x, functions, v)
    _, state = loop.step(state, x, functions, -2 * v[::-1])
    expected = KALMAN.init(4, like=x)
    for probe in (v, -2 * v[::-1]):
        expected = KALMAN.update(expected, probe, H @ probe, memory=3)
    np.testing.assert_array_equal(state.preconditioner.q.blocks[0], expected.q.blocks[0])


def test_minimize_averages_over_white_probes():
    optimizer = deterministic(KALMAN)
    assert optimizer.source == Exact()
    assert optimizer.replay is None
    result = psgd.minimize(
        lambda x: 0.5 * x @ H @ x, np.ones(4), grad=lambda x: H @ x, hvp=lambda x, v: H @ v,
        preconditioner=KALMAN, memory="all",
    )  # fmt: skip
    assert result.success
    assert np.max(np.abs(result.x)) < 1e-6


def test_the_adapters_take_them():
    torch = pytest.importorskip("torch")
    x = torch.ones(4, dtype=torch.float64, requires_grad=True)
    h = torch.as_tensor(H)
    optimizer = psgd.adapters.torch.PSGD([x], KALMAN, lr=0.5)
    for _ in range(200):
        optimizer.step(lambda: 0.5 * x @ (h @ x))
    assert float(x.detach().abs().max()) < 1e-3


def test_what_averages_is_not_fitted_to_a_pair_twice():
    replay, v = psgd.Replay(4, 2), np.ones(4)
    with pytest.raises(ValueError, match="`p` must take a step to be fitted to a pair again"):
        replay.update(KALMAN, KALMAN.init(4, like=v), replay.init(4, v), v, H @ v, 0.1)


@pytest.mark.parametrize("memory", [0, 0.5, -1, float("nan"), "some"])
def test_a_memory_that_is_none_is_refused(memory):
    with pytest.raises((ValueError, TypeError), match="`memory` must"):
        psgd.PSGD(KALMAN, memory=memory)
