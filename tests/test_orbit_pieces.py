"""The plain update works on a few orbits at a time, and gives what it gives on all of them at once."""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd
from psgd_core import PermutationSubgroup, kernels
from psgd_core.preconditioners import orbit

KINDS = {
    "diagonal": psgd.Diagonal(),
    "xmat, odd n": psgd.XMat(),
    "uneven": psgd.Sparse(PermutationSubgroup.from_generators([[1, 2, 0, 4, 3, *range(5, 37)]])),
    "not damped": psgd.XMat(damping=0.0),
    "sample": psgd.XMat(normalizer=psgd.normalizers.Sample()),
    "Lyapunov": psgd.XMat(geometry="Lyapunov"),
    "QUAD4P": psgd.XMat(geometry="QUAD4P"),
    "one step for all": psgd.XMat(steps="group"),
}


def run(backend, p, v, h):
    """Return the arrays after updates by single pairs, by whitening and by several probes."""
    with kernels.off():
        state = p.init(37, like=backend.asarray(np.zeros(1)))
        for i in range(4):
            state = p.update(state, backend.asarray(v[:, i]), backend.asarray(h[:, i]), 0.2)
        if p.normalizer != psgd.normalizers.Sample():
            state = p.update(state, None, backend.asarray(h), 0.2)
        state = p.update(state, backend.asarray(v), backend.asarray(h), 0.2, inplace=True)
    return [backend.numpy(x) for x in (*state.q.blocks, *state.held, state.count, state.skipped)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 10])
@pytest.mark.parametrize("singular", [False, True])
def test_pieces_make_no_difference(kind, size, singular, backend, monkeypatch):
    if backend.name.startswith("jax"):
        pytest.skip("in place is not for JAX")
    rng = np.random.default_rng(5)
    v = rng.standard_normal((37, 4))
    h = v * np.linspace(-2, 3, 37)[:, None] + 0.1 * rng.standard_normal((37, 4))
    if singular:
        h[3, 2] = np.nan  # the third is skipped, in all pieces
    with np.errstate(all="ignore"):
        expected = run(backend, KINDS[kind], v, h)
        calls = []
        fit = orbit.OrbitPreconditioner._moves
        monkeypatch.setattr(orbit, "PIECE", size)
        monkeypatch.setattr(
            orbit.OrbitPreconditioner, "_moves", lambda *args: (calls.append(1), fit(*args))[1]
        )
        got = run(backend, KINDS[kind], v, h)
    if size == 1 and backend.name.startswith(("numpy", "torch")) and kind != "one step for all":
        assert len(calls) > 20
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=20 * backend.eps, atol=20 * backend.eps)
