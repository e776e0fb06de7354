"""`LowRank` renews the gauge of U and V at counts 8 k + 7, and then only, with kernels and without."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest

import psgd_core as psgd
from psgd_core import kernels
from psgd_core.kernels.cpu import low_rank_update

N, RANK, STILL = 40, 3, 1e-30
"""`STILL` is a step at which nothing but the gauge moves."""


@contextlib.contextmanager
def engine(name):
    """Take numba's passes, those that do without it, or the plain code."""
    with (
        pytest.MonkeyPatch.context() as patch,
        kernels.off() if name == "plain" else contextlib.nullcontext(),
    ):
        if name != "plain":
            pytest.importorskip("numba")
            patch.setattr(low_rank_update, "worthwhile", lambda n, count: name == "numba")
        yield


ENGINES = pytest.mark.parametrize(
    ("passes", "diagonal"),
    [("numba", "right"), ("blocked", "right"), ("plain", "right"), ("plain", "left")],
)


def drawn(seed):
    """A state whose U has singular values 1, 0.3, 0.1 and V ones of 64 times these sizes, and pairs."""
    rng = np.random.default_rng(seed)
    p = psgd.LowRank(RANK)
    sizes = np.array([1.0, 0.3, 0.1])
    turn = np.linalg.qr(rng.standard_normal((RANK, RANK)))[0]
    u = turn @ (sizes[:, None] * np.linalg.qr(rng.standard_normal((N, RANK)))[0].T)
    v = 64 * turn @ (sizes[:, None] * np.linalg.qr(rng.standard_normal((N, RANK)))[0].T)
    state = p.init(N, np.zeros(1), scale=1.0)._replace(u=u, v=v, d=rng.uniform(0.5, 2, N))
    diagonal = rng.choice([-1, 1], N) * 10 ** rng.uniform(-0.5, 0.5, N)
    return state, [(x, diagonal * x) for x in rng.standard_normal((24, N))]


def at(state, count):
    return state._replace(count=np.asarray(count, dtype=np.int32))


@ENGINES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_gauge_is_renewed_at_counts_8k_plus_7_only(passes, diagonal, dtype, inplace):
    """U's singular values become ``s (3/2 - s^2 / 2 s_max^2)``, |U| and |V| equal up to 2; U V^T stays."""
    p, eps = psgd.LowRank(RANK, diagonal=diagonal), float(np.finfo(dtype).eps)
    state, pairs = drawn(1)
    u, v, d = (x.astype(dtype) for x in (state.u, state.v, state.d))
    product, singular = v.T @ u, np.linalg.svd(u.astype(float), compute_uv=False)
    for count in (*range(17), 23, 1007):
        start = at(p.init(N, u, scale=1.0)._replace(u=u.copy(), v=v.copy(), d=d.copy()), count)
        probe, h = (x.astype(dtype) for x in pairs[count % 24])
        with engine(passes):
            new = p.update(start, probe, h, STILL, inplace=inplace)
        assert int(new.count) == count + 1
        np.testing.assert_allclose(new.v.T @ new.u, product, rtol=0, atol=40 * eps * abs(product).max())
        if count % 8 != 7:
            np.testing.assert_allclose(new.u, u, rtol=0, atol=4 * eps * abs(u).max())
            np.testing.assert_allclose(new.v, v, rtol=0, atol=4 * eps * abs(v).max())
            continue
        got = np.linalg.svd(new.u.astype(float), compute_uv=False)
        expected = singular * (1.5 - 0.5 * (singular / singular[0]) ** 2)
        power = got[0] / expected[0]
        np.testing.assert_allclose(got, expected * power, rtol=100 * eps)
        assert np.log2(power) == pytest.approx(round(np.log2(power)), abs=100 * eps)
        assert 0.5 <= np.linalg.norm(new.u) / np.linalg.norm(new.v) <= 2


@ENGINES
def test_a_run_is_the_same_in_every_gauge_through_all_counts(passes, diagonal):
    """U -> C^T U, V -> C^{-1} V leave P alone at the start, and so in every update, whatever its gauge."""
    p = psgd.LowRank(RANK, diagonal=diagonal, damping=0)
    one, pairs = drawn(2)
    c = np.diag([1.0, 0.25, 8.0]) + 0.3 * np.ones((3, 3))
    two = one._replace(u=c.T @ one.u, v=np.linalg.solve(c, one.v))
    with engine(passes):
        for probe, h in pairs:
            one, two = p.update(one, probe, h, 0.2), p.update(two, probe, h, 0.2)
            expected = p.matrix(one)
            np.testing.assert_allclose(p.matrix(two), expected, rtol=0, atol=1e-8 * abs(expected).max())
    assert int(one.count) == 24


@pytest.mark.parametrize("passes", ["numba", "blocked"])
@pytest.mark.parametrize("normalizer", ["Running", "Sample", "Gradient"])
def test_kernels_and_plain_code_agree_through_two_periods(passes, normalizer):
    """U and V themselves, not P alone: the gauge is part of the state."""
    p = replace(psgd.LowRank(RANK), normalizer=getattr(psgd.normalizers, normalizer)())
    state, pairs = drawn(3)
    for probe, h in pairs[:17]:
        with engine("plain"):
            plain = p.update(state, probe, h, 0.2)
        with engine(passes):
            fused = p.update(state, probe, h, 0.2)
            assert kernels.update(p._rule, state, probe, h, 0.2, False) is not None
        for x, y in zip(fused, plain, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-10 * np.max(np.abs(y), initial=0))
        state = plain
