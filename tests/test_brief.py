"""Short reprs: configurations that evaluate to themselves, states without their numbers."""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd
from psgd_core import curvature, descent, normalizers, schedules
from psgd_core.descent import clips
from psgd_core.preconditioners import Replay

NAMES = {
    name: value
    for module in (psgd, curvature, descent, normalizers, schedules, clips)
    for name, value in vars(module).items()
}

CONFIGURATIONS = {
    "Dense()": psgd.Dense(),
    "Diagonal(steps='group')": psgd.Diagonal(steps="group"),
    "XMat(normalizer=Sample(), damping=0.0)": psgd.XMat(normalizer=normalizers.Sample(), damping=0.0),
    "LowRank()": psgd.LowRank(),
    "LowRank(rank=3, diagonal='left')": psgd.LowRank(3, "left"),
    "Kronecker((2, 3))": psgd.Kronecker((2, 3)),
    "Kronecker((4,), factors='diagonal')": psgd.Kronecker((4,), "diagonal"),
    "Blocks(((6, Kronecker((2, 3))), (2, Diagonal())))": psgd.Blocks(
        ((6, psgd.Kronecker((2, 3))), (2, psgd.Diagonal()))
    ),
    "PSGD()": psgd.PSGD(),
    "PSGD(lr=0.5, clip=Norm(1.0))": psgd.PSGD(lr=0.5, clip=1.0),
    "Along(probes=Central(), every=3)": curvature.Along(curvature.Central(), every=3),
    "Forward(noise=0.001)": curvature.Forward(noise=1e-3),
    "Gaussian()": curvature.Gaussian(),
    "Replay(size=5, times=2)": Replay(5, times=2),
    "Cosine(1.0, 9)": schedules.Cosine(1.0, 9),
    "Chain((Norm(2.0), Elements(1.0)))": clips.as_clip((clips.Norm(2.0), clips.Elements(1.0))),
}


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_a_configuration_shows_what_is_not_default_and_evaluates_to_itself(text):
    config = CONFIGURATIONS[text]
    assert repr(config) == text
    assert eval(text, dict(NAMES)) == config


def test_configurations_of_ones_own_have_a_repr():
    class Mine(clips.Clip):
        pass

    assert "Mine" in repr(Mine())


@pytest.mark.parametrize(
    "p", [psgd.Dense(), psgd.LowRank(2), psgd.Kronecker((20, 20)), psgd.Diagonal()], ids=repr
)
def test_states_show_shapes_whatever_they_hold(p, backend):
    n = 400
    like = backend.asarray(np.zeros(1))
    state = p.init(n, like=like, scale=1.0)
    text = repr(state)
    assert len(text) < 200
    assert "\n" not in text
    assert f"{type(state).__name__}(" in text
    assert f"{backend.dtype_name}[" in text
    assert "count=0" in text


def test_results_and_progress_are_short():
    n = 300
    result = psgd.minimize(lambda x: float(x @ x), np.ones(n), jac=lambda x: 2 * x, maxiter=30)
    assert len(repr(result)) < 3000
    assert len(repr(result.progress)) < 1000
    assert f"float64[{n}]" in repr(result.progress)


def test_a_traced_state_has_a_repr():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    seen = []

    def look(x):
        seen.append(repr(psgd.XMat().init(4, like=x, scale=x[0])))
        return x

    jax.jit(look)(jax.numpy.ones(4))
    assert "OrbitState(" in seen[0]
