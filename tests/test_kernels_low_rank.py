"""The fused passes of `LowRank` give what the plain code gives, and repeat it bit for bit."""

import contextlib
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import psgd_core as psgd
from psgd_core import kernels
from psgd_core.kernels.cpu import low_rank_update
from psgd_core.preconditioners.low_rank import LowRankState

numba = pytest.importorskip("numba", reason="the kernels need numba (the extra `fast`)")

ENGINES = ("numba", "blocked")
DTYPES = (np.float32, np.float64)
NORMALIZERS = {
    "running": psgd.normalizers.Running(),
    "sample": psgd.normalizers.Sample(),
    "gradient": psgd.normalizers.Gradient(),
}


@contextlib.contextmanager
def engine(name):
    """Take the passes that numba compiles, or those that do without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(low_rank_update, "worthwhile", lambda n, count: name == "numba")
        yield


def copied(state):
    """Return the state with arrays of its own."""
    return LowRankState(*(np.array(x) for x in state))


def started(p, n, dtype, seed=0):
    """Return a state away from the start, and a function that draws pairs of a spiked indefinite Hessian."""
    rng = np.random.default_rng(seed)
    diagonal = rng.choice([-1, 1], n) * 10 ** rng.uniform(-0.5, 0.5, n)
    spikes = rng.standard_normal((n, 2)) * 2 / n**0.5

    def pair():
        v = rng.standard_normal(n)
        return v.astype(dtype), (diagonal * v + spikes @ (spikes.T @ v)).astype(dtype)

    state = p.init(n, like=np.zeros(1, dtype))
    with kernels.off():
        for _ in range(9):
            state = p.update(state, *pair(), 0.2)
    return state, pair


def assert_close(got, expected, before):
    """Compare states up to the rounding of sums of r rows, and of r x r systems solved in float64."""
    rank, u, v = before.u.shape[0], before.u.astype(float), before.v.astype(float)
    systems = (np.eye(rank) + v @ u.T, u @ u.T, v @ v.T) if rank else (np.eye(1),)
    amplified = np.finfo(float).eps * max(map(np.linalg.cond, systems))
    for name, x, y in zip(expected._fields, got, expected, strict=True):
        assert x.dtype == y.dtype, name
        assert np.shape(x) == np.shape(y), name
        if np.issubdtype(y.dtype, np.floating):
            tolerance = 100 * ((rank + 1) * np.finfo(y.dtype).eps + amplified)
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.max(np.abs(y), initial=0))
        else:
            np.testing.assert_array_equal(x, y)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    n=st.one_of(st.integers(1, 40), st.sampled_from([511, 1023, 1024, 1025, 2600])),
    rank=st.integers(0, 11),
    dtype=st.sampled_from(DTYPES),
    normalizer=st.sampled_from(sorted(NORMALIZERS)),
    damping=st.sampled_from([None, 0.0, 0.01]),
    pending=st.booleans(),
    passes=st.sampled_from(ENGINES),
    seed=st.integers(0, 1000),
)
def test_an_update_is_that_of_the_plain_code(n, rank, dtype, normalizer, damping, pending, passes, seed):
    # there the automatic scale is the minimiser, and what is left of the gradient is rounding
    assume(not (n == 1 and pending and normalizer == "gradient"))
    p = psgd.LowRank(min(rank, n - 1), normalizer=NORMALIZERS[normalizer], damping=damping)
    state, pair = started(p, n, dtype, seed)
    if pending:
        state = p.init(n, like=np.zeros(1, dtype))
    for _ in range(3):
        v, h = pair()
        with engine(passes):
            fused = kernels.update(p._rule, state, v, h, 0.3, False)
        with kernels.off():
            plain = p.update(state, v, h, 0.3)
        assert_close(fused, plain, state)
        state = plain


@pytest.mark.parametrize("passes", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [30, low_rank_update.PARALLEL + 77])
def test_in_place_and_by_any_number_of_threads_the_bits_are_the_same(n, dtype, passes, monkeypatch):
    monkeypatch.setattr(low_rank_update, "worthwhile", lambda n, count: passes == "numba")
    p = psgd.LowRank(5)
    state, pair = started(p, n, dtype)
    for _ in range(kernels_period := 8):  # the gauge moves once in as many
        v, h = pair()
        once, again = p.update(state, v, h, 0.3), p.update(state, v, h, 0.3)
        mine = copied(state)
        moved = p.update(mine, v, h, 0.3, inplace=True)
        threads = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            alone = p.update(state, v, h, 0.3)
        finally:
            numba.set_num_threads(threads)
        for x, y, z, w in zip(once, again, moved, alone, strict=True):
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(x, z)
            np.testing.assert_array_equal(x, w)
        assert all(getattr(moved, name) is getattr(mine, name) for name in ("u", "v", "d", "held"))
        assert not any(np.shares_memory(getattr(once, k), getattr(state, k)) for k in ("u", "v", "d", "held"))
        state = once
    assert int(state.count) == 9 + kernels_period


def in_float64(state):
    """Return the state with its arrays of floating-point numbers in float64."""
    return LowRankState(*(np.asarray(x, float) if x.dtype.kind == "f" else x for x in map(np.asarray, state)))


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("n", [low_rank_update.SUMMED_AS_IS - 1, low_rank_update.SUMMED_AS_IS])
def test_products_of_tiles_keep_to_the_contract_whatever_the_condition_of_the_factors(n, condition):
    rng, rank = np.random.default_rng(1), 10

    def factor():
        """Singular values from 3 down to 3 / condition, in a random basis."""
        turn = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
        sizes = 3 * np.geomspace(1, 1 / condition, rank)
        return ((turn * sizes) @ np.linalg.qr(rng.standard_normal((n, rank)))[0].T).astype("f4")

    p, d = psgd.LowRank(rank), np.exp(rng.uniform(-1, 1, n)).astype("f4")
    v = rng.standard_normal(n).astype("f4")
    h = (v * rng.choice([-1, 1], n) * np.exp(rng.uniform(-1, 1, n))).astype("f4")
    g = rng.standard_normal(n)
    drawn = p.update(p.init(n, like=v), v, h, 0.1)._replace(u=factor(), v=factor(), d=d)
    for count in (6, 7):  # U moves; V does, and the gauge is renewed
        state = drawn._replace(count=np.asarray(count, drawn.count.dtype))
        with engine("numba"):
            fused = kernels.update(p._rule, state, v, h, 0.1, False)
        with kernels.off():
            exact = p.update(in_float64(state), v.astype(float), h.astype(float), 0.1)
            expected = p.precondition(exact, g)
            error = np.linalg.norm(p.precondition(in_float64(fused), g) - expected)
        assert error < 1e-5 * np.linalg.norm(expected)


@pytest.mark.slow
def test_a_long_run_whose_tiles_are_summed_in_float32_stays_balanced(monkeypatch):
    monkeypatch.setattr(low_rank_update, "SUMMED_AS_IS", 0)
    p, n, updates = psgd.LowRank(4), 64, 1_000_000 if os.environ.get("PSGD_LONG") else 20_000
    rng = np.random.default_rng(7)
    diagonal = rng.choice([-1, 1], n) * 10 ** rng.uniform(-0.5, 0.5, n)
    spikes = rng.standard_normal((n, 4)) * 2 / n**0.5
    hessian = (np.diag(diagonal) + spikes @ spikes.T).astype("f4")
    state, left = p.init(n, like=hessian), []
    with engine("numba"):
        for k in range(updates):
            v = rng.standard_normal(n).astype("f4")
            state = p.update(state, v, hessian @ v + 0.05 * rng.standard_normal(n).astype("f4"), 0.1)
            if k % 100 == 0:
                whitened = p.matrix(state) @ hessian.astype(float)
                left.append(np.linalg.norm(whitened @ whitened - np.eye(n)))
    assert int(state.count) == updates
    assert 1 / 8 < np.linalg.norm(state.u) / np.linalg.norm(state.v) < 8
    tenth = len(left) // 10
    assert np.median(left[-tenth:]) < 2 * np.median(left[tenth : 2 * tenth])


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    n=st.one_of(st.integers(1, 40), st.sampled_from([511, 1023, 1024, 1025, 2600])),
    rank=st.integers(0, 9),
    dtype=st.sampled_from(DTYPES),
    diagonal=st.sampled_from(["right", "left"]),
    seed=st.integers(0, 1000),
)
def test_products_are_those_of_the_plain_code(n, rank, dtype, diagonal, seed):
    p = psgd.LowRank(min(rank, n - 1), diagonal=diagonal)
    state, pair = started(p, n, dtype, seed)
    g = pair()[1]
    assert kernels.precondition(p._rule, state, g) is not None
    got = p.precondition(state, g)
    with kernels.off():
        expected = p.precondition(state, g)
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=50 * np.finfo(dtype).eps * np.max(np.abs(expected))
    )


@pytest.mark.parametrize(
    ("v", "h"),
    [(1.0, np.nan), (1.0, np.inf), (np.nan, 1.0), (0.0, 1.0), (1.0, 0.0), (1e30, 1e30), (1e-30, 1e-30)],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [None, 1.0])
def test_odd_pairs_end_as_in_the_plain_code(v, h, dtype, scale):
    p, n = psgd.LowRank(3), 12
    state = p.init(n, like=np.zeros(1, dtype), scale=scale)
    pair = [np.ones(n, dtype) if not np.isfinite(x) else np.full(n, x, dtype) for x in (v, h)]
    for made, value in zip(pair, (v, h), strict=True):
        made[n // 2] = value
    with np.errstate(all="ignore"):
        got = p.update(state, *pair, 0.3)
        with kernels.off():
            expected = p.update(state, *pair, 0.3)
    assert_close(got, expected, state)


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda s, v, h: (s, np.repeat(v, 2)[::2], h),
        lambda s, v, h: (s, v, h[::-1]),
        lambda s, v, h: (s, v[:, None], h[:, None]),
        lambda s, v, h: (s, v.astype(np.float32), h),
        lambda s, v, h: (s, v[:-1], h[:-1]),
        lambda s, v, h: (s._replace(u=np.asfortranarray(s.u)), v, h),
        lambda s, v, h: (s._replace(d=s.d[:-1]), v, h),
        lambda s, v, h: (s._replace(v=s.v[:-1]), v, h),
    ],
)
def test_kernels_leave_alone_what_they_would_misread(spoiled):
    p = psgd.LowRank(3)
    state, pair = started(p, 12, np.float64)
    assert kernels.update(p._rule, *spoiled(state, *pair()), 0.1, False) is None
    assert kernels.update(p._rule, state, *pair(), 1.5, False) is None
    assert kernels.update(p._rule, state, *pair(), np.ones(2), False) is None
    state.d.flags.writeable = False
    assert kernels.update(p._rule, state, *pair(), 0.1, True) is None
    assert kernels.update(p._rule, state, *pair(), 0.1, False) is not None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inplace", [False, True])
def test_tensors_on_the_host_take_them_too(dtype, inplace):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    p = psgd.LowRank(4)
    state, pair = started(p, 30, dtype)
    tensors = LowRankState(*(torch.from_numpy(np.array(x)) for x in state))
    for _ in range(9):
        v, h = pair()
        before = tensors
        state = p.update(state, v, h, 0.3)
        tensors = p.update(tensors, *map(torch.from_numpy, (v, h)), 0.3, inplace=inplace)
        assert (tensors.u is before.u) == inplace
        assert all(type(x) is torch.Tensor for x in tensors)
        for x, y in zip(state, tensors, strict=True):
            np.testing.assert_array_equal(x, y.numpy())
    product = p.precondition(tensors, torch.from_numpy(h))
    np.testing.assert_array_equal(product.numpy(), p.precondition(state, h))


@pytest.mark.parametrize("passes", ENGINES)
def test_in_place_takes_one_work_vector_from_the_first_update_on(passes, monkeypatch):
    monkeypatch.setattr(low_rank_update, "worthwhile", lambda n, count: passes == "numba")
    less, more, p = 200_000, 600_000, psgd.LowRank(6)

    def peak(n):
        v, h = np.random.default_rng(0).standard_normal((2, n), dtype=np.float32)
        state = p.init(n, like=v)
        tracemalloc.start()
        try:
            for _ in range(9):
                state = p.update(state, v, h, 0.1, inplace=True)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for n in (less, more):  # compiles: larger n have kernels of their own
        peak(n)
    assert peak(more) - peak(less) < 1.05 * 4 * (more - less)


def test_kernels_for_one_thread_and_for_all_go_by_different_names():
    """What is kept on disk goes by the name: under one name either would be taken for the other."""
    from psgd_core.kernels.cpu import low_rank_passes, low_rank_product, orbit_passes

    pairs = [
        (getattr(module, name.removesuffix("_parallel")), getattr(module, name).__wrapped__)
        for module in (low_rank_passes, low_rank_product, orbit_passes)
        for name in vars(module)
        if name.endswith("_parallel")
    ]
    assert len(pairs) >= 9
    assert all(one.py_func.__qualname__ != many.py_func.__qualname__ for one, many in pairs)
