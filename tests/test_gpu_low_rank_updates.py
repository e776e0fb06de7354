"""Low-rank updates and products on an emulated GPU are those of the plain code."""

import numpy as np
import pytest
from emulated import emulated_device, emulator
from hypothesis import given, settings
from hypothesis import strategies as st

import psgd_core as psgd
from psgd_core.kernels import off

DTYPES = ("float32", "float64")


@pytest.fixture
def low_rank():
    """The kernels of low_rank.cu, emulated."""
    return emulator("low_rank.cu")


@pytest.fixture
def host(monkeypatch):
    """A device on which threads take several columns."""
    with emulated_device(monkeypatch, threads=16) as found:
        yield found


def fitted(p, hessian, dtype, updates, seed, host=None, step=0.2, inplace=False):
    """Return the state after updates on a diagonal Hessian, by the plain code or on the host's device."""
    n, rng = hessian.size, np.random.default_rng(seed)
    state = p.init(n, like=np.zeros(1, dtype))
    if host is not None:
        state = host.state(state)
    for _ in range(updates):
        v = rng.standard_normal(n)
        pair = v.astype(dtype), (hessian * v).astype(dtype)
        if host is None:
            with off(), np.errstate(all="ignore"):
                state = p.update(state, *pair, step)
        else:
            state = p.update(state, *map(host.place, pair), step, inplace=inplace)
    return state


def matrix(p, state):
    """Return P in float64, from whatever the state is made of."""
    wide = [np.array(x, dtype=np.float64 if x.dtype.kind == "f" else x.dtype) for x in state]
    with off():
        return p.matrix(type(state)(*wide))


NORMALIZERS = [
    psgd.normalizers.Running(),
    psgd.normalizers.Sample(),
    psgd.normalizers.Gradient(),
]


def test_updates_are_those_of_the_plain_code(host, low_rank):
    @settings(deadline=None, derandomize=True, max_examples=40)
    @given(
        r=st.integers(0, 8),
        n=st.integers(2, 90),
        dtype=st.sampled_from(DTYPES),
        normalizer=st.sampled_from(NORMALIZERS),
        damping=st.sampled_from([None, 0.0, 0.2]),
        inplace=st.booleans(),
        seed=st.integers(0, 100),
    )
    def check(r, n, dtype, normalizer, damping, inplace, seed):
        rng = np.random.default_rng(seed)
        hessian = rng.choice([-1, 1], n) * 10 ** rng.uniform(-0.5, 0.5, n)
        # near r = n the r x r systems of either path amplify rounding by their condition
        p = psgd.LowRank(min(r, n // 2), normalizer=normalizer, damping=damping)
        plain = fitted(p, hessian, dtype, 9, seed)  # the ninth after a change of gauge
        low_rank.launched.clear()
        got = fitted(p, hessian, dtype, 9, seed, host, inplace=inplace)
        assert sum("rewrite" in name for name in low_rank.launched) == 9
        expected = matrix(p, plain)
        tolerance = 1000 * np.finfo(dtype).eps * np.max(np.abs(expected))
        np.testing.assert_allclose(matrix(p, got), expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(got.held, plain.held, rtol=2000 * np.finfo(dtype).eps)
        assert (got.count, got.skipped, got.pending) == (9, 0, False)
        assert [x.dtype for x in got] == [x.dtype for x in plain]

    check()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("bad", [{"v": np.nan}, {"h": np.inf}, {"v": 0.0}])
@pytest.mark.parametrize("updates", [0, 3])
def test_a_pair_that_is_none_changes_nothing_and_is_counted(host, bad, updates, inplace):
    p, n = psgd.LowRank(3), 30
    state = fitted(p, np.ones(n), "float32", updates, 1)
    v, h = np.random.default_rng(2).standard_normal((2, n)).astype(np.float32)
    ((name, value),) = bad.items()
    (v if name == "v" else h)[slice(None) if value == 0.0 else 7] = value
    with np.errstate(all="ignore"):
        got = p.update(host.state(state), host.place(v), host.place(h), 0.3, inplace=inplace)
    assert (got.count, got.skipped, got.pending) == (updates, 1, updates == 0)
    for x, y in zip(got[:6], state[:6], strict=True):
        np.testing.assert_array_equal(x, y)


def test_zero_products_leave_the_scale_pending(host):
    p, v = psgd.LowRank(2), np.ones(20, np.float32)
    state = p.init(20, like=v)
    with off():
        plain = p.update(state, v, 0 * v, 0.3)
    got = p.update(host.state(state), host.place(v), host.place(0 * v), 0.3)
    assert (got.count, got.skipped, got.pending) == (1, 0, True)
    np.testing.assert_allclose(matrix(p, got), matrix(p, plain), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_scales_near_the_ends_of_float32(host, scale):
    p, n = psgd.LowRank(3, damping=0.0), 40
    hessian = scale * np.random.default_rng(0).uniform(0.5, 2, n)
    expected = matrix(p, fitted(p, hessian, "float32", 10, 3))
    got = fitted(p, hessian, "float32", 10, 3, host)
    assert (got.count, got.skipped) == (10, 0)
    np.testing.assert_allclose(matrix(p, got), expected, rtol=0, atol=1e-4 * np.max(np.abs(expected)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("r", [0, 1, 7])
def test_products_are_those_of_the_plain_code(host, low_rank, r, dtype):
    p, n = psgd.LowRank(r), 55
    state = fitted(p, np.linspace(0.5, 2, n), dtype, 5, 4)
    g = np.random.default_rng(5).standard_normal(n).astype(dtype)
    got = p.precondition(host.state(state), host.place(g))
    assert any("combine" in name for name in low_rank.launched)
    with off():
        expected = p.precondition(state, g)
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=50 * np.finfo(dtype).eps * np.max(np.abs(expected))
    )


def test_what_has_no_kernels_goes_the_ordinary_way(host, low_rank):
    v, h = np.random.default_rng(0).standard_normal((2, 20))
    low_rank.launched.clear()
    for p in (psgd.LowRank(2, diagonal="left"), psgd.LowRank(60)):
        n = 20 if p.rank < 20 else 61
        x = np.resize(v, n), np.resize(h, n)
        state = host.state(p.init(n, like=v))
        p.update(state, *map(host.place, x), 0.3)
        p.precondition(state, host.place(x[0]))
    p = psgd.LowRank(2)
    state, x = host.state(p.init(20, like=v)), (v, h)
    with off():
        p.update(state, *map(host.place, x), 0.3)
        p.precondition(state, host.place(h))
    with pytest.raises(ValueError, match="`step` must lie in"):
        p.update(state, *map(host.place, x), 1.5)
    assert not low_rank.launched
