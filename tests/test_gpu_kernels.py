"""The GPU's kernels compile, and do on an emulator what the plain code does; on a GPU, where there is one."""

import numpy as np
import nvrtc
import pytest
from emulated import OnDevice, emulated_device, emulator
from fitted_pairs import leaves, pairs
from gpu_kernels import KINDS, fitting, orbit_kernels
from hypothesis import given, settings
from hypothesis import strategies as st

import psgd_core as psgd
from psgd_core import PermutationSubgroup, kernels
from psgd_core.kernels.gpu import cuda_library, orbit_launches

THREADS = cuda_library.THREADS
DTYPES = ("float32", "float64")
needs_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed")


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_every_kernel_compiles_to_machine_code(architecture):
    names = orbit_kernels()
    code = nvrtc.compile_for(
        architecture, cuda_library.source("orbits.cu"), tuple(names), cuda_library.OPTIONS
    )
    assert code[:4] == b"\x7fELF"


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
def test_wide_kernels_access_16_bytes_at_once(architecture):
    names = ("inspect<float, 4>", "move<float, 1, 1, 4>", "precondition<double, 1, 1, 2>")
    text = nvrtc.compile_for(
        architecture, cuda_library.source("orbits.cu"), names, cuda_library.OPTIONS
    ).decode()
    for access in ("ld.global.nc.v4.f32", "st.global.v4.f32", "ld.global.nc.v2.f64", "st.global.v2.f64"):
        assert access in text, access
    assert f".target sm_{architecture[-2:]}" in text


@pytest.fixture
def orbits():
    """The kernels of orbits.cu, emulated."""
    return emulator("orbits.cu")


@pytest.fixture
def host(monkeypatch):
    """A device on which threads take several orbits."""
    with emulated_device(monkeypatch, threads=8) as found:
        yield found


def plain(p, state, *args, **kwargs):
    """Return an update by the plain code."""
    with kernels.off(), np.errstate(all="ignore"):
        return p.update(state, *args, **kwargs)


def assert_same_bits(got, expected):
    for x, y in zip(leaves(got), leaves(expected), strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()


def assert_equal_to_rounding(got, expected, updates):
    """Compare states: each update adds a few roundings of the largest entry of its block."""
    for x, y in zip(leaves(got), leaves(expected), strict=True):
        assert type(x) is OnDevice
        assert x.dtype == y.dtype
        if np.issubdtype(y.dtype, np.floating):
            tolerance = 100 * updates * np.finfo(y.dtype).eps
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * np.max(np.abs(y)))
        else:
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [12, 61])
def test_updates_and_products_are_those_of_the_plain_code(kind, dtype, n, host, orbits):
    n = fitting(kind, n)
    p, made = KINDS[kind](n), pairs(n, dtype, 12, seed=n)
    expected = p.init(n, like=made[0][0])
    state = host.state(expected)
    for v, h in made:
        orbits.launched.clear()
        state = p.update(state, host.place(v), host.place(h), 0.3)
        expected = plain(p, expected, v, h, 0.3)
        assert orbits.launched[0].startswith("inspect")
    assert_equal_to_rounding(state, expected, 12)
    g = made[0][1]
    with kernels.off():
        product = p.precondition(expected, g)
    got = p.precondition(host.state(expected), host.place(g))
    np.testing.assert_allclose(got, product, rtol=0, atol=50 * np.finfo(dtype).eps * np.max(np.abs(product)))


def test_any_size_in_any_place(host):
    @settings(deadline=None, derandomize=True, max_examples=120)
    @given(
        n=st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 97, 128, 200])),
        kind=st.sampled_from(sorted(KINDS)),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 1000),
        shifts=st.tuples(*[st.integers(0, 3)] * 3),
        pending=st.booleans(),
        inplace=st.booleans(),
    )
    def check(n, kind, dtype, seed, shifts, pending, inplace):
        n = fitting(kind, n)
        rng = np.random.default_rng(seed)
        p = KINDS[kind](n)
        v, h = rng.standard_normal((2, n)).astype(dtype)
        start = p.init(n, like=v, scale=None if pending else 1.5)
        q = tuple((x + 0.3 * rng.standard_normal(x.shape)).astype(dtype) for x in start.q.blocks)
        start = start._replace(q=start.q._replace(blocks=q))
        state = host.state(start)
        blocks = tuple(host.place(x, shifts[2]) for x in q)
        state = state._replace(q=state.q._replace(blocks=blocks))
        got = p.update(state, host.place(v, shifts[0]), host.place(h, shifts[1]), 0.2, inplace=inplace)
        assert_near(got, plain(p, start, v, h, 0.2), start)
        assert all((x is y) == inplace for x, y in zip(got.q.blocks, blocks, strict=True))

    check()


def assert_near(got, expected, start):
    """Compare blocks, each to the rounding that its elimination amplifies, by its condition number."""
    for x, y, q in zip(got.q.blocks, expected.q.blocks, start.q.blocks, strict=True):
        condition = np.linalg.cond(np.moveaxis(q.astype(np.float64), 2, 0))
        tolerance = 50 * np.finfo(y.dtype).eps * condition * np.max(np.abs(y), axis=(0, 1))
        assert np.all(np.abs(x.astype(np.float64) - y) <= tolerance + np.max(tolerance) * start.pending)
    for x, y, q in zip(got.held, expected.held, start.q.blocks, strict=True):
        condition = np.linalg.cond(np.moveaxis(q.astype(np.float64), 2, 0))
        assert np.all(np.abs(x.astype(np.float64) - y) <= 50 * np.finfo(y.dtype).eps * condition * y.max())
    condition = max(np.max(np.linalg.cond(np.moveaxis(q.astype(np.float64), 2, 0))) for q in start.q.blocks)
    tolerance = 50 * np.finfo(expected.damping.dtype).eps * condition * start.pending
    np.testing.assert_allclose(got.damping, expected.damping, rtol=tolerance, atol=0)
    assert_same_bits(got[3:], expected[3:])
    assert got.damping.dtype == expected.damping.dtype


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "uneven"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("bad", [{"v": np.nan}, {"v": np.inf}, {"h": np.nan}, {"h": -np.inf}, {"v": 0.0}])
def test_a_pair_that_is_none_changes_nothing_and_is_counted(kind, inplace, pending, bad, host):
    n = 21
    p, (pair,) = KINDS[kind](n), pairs(n, "float32", 1, seed=3)
    state = p.init(n, like=pair[0], scale=None if pending else 1.0)
    v, h = pair
    ((name, value),) = bad.items()
    (v if name == "v" else h)[slice(None) if value == 0.0 else 11] = value
    got = p.update(host.state(state), host.place(v), host.place(h), 0.3, inplace=inplace)
    assert (got.count, got.skipped, got.pending) == (0, 1, pending)
    assert_same_bits(got[:2], host.state(state[:2]))
    assert_same_bits(got, plain(p, state, v, h, 0.3))


def test_zero_products_leave_the_scale_pending_and_are_counted(host):
    p, v = psgd.XMat(), np.ones(9, np.float32)
    state = p.init(9, like=v)
    got = p.update(host.state(state), host.place(v), host.place(0 * v), 0.3)
    assert (got.count, got.skipped, got.pending) == (1, 0, True)
    assert_equal_to_rounding(got, plain(p, state, v, 0 * v, 0.3), 1)


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", ["xmat", "klein", "diagonal"])
def test_a_singular_orbit_stays_and_the_others_move_unless_the_scale_is_due(kind, inplace, pending, host):
    n = 20
    p, (pair,) = KINDS[kind](n), pairs(n, "float64", 1, seed=6)
    state = p.init(n, like=pair[0], scale=None if pending else 1.0)
    blocks = tuple(q.copy() for q in state.q.blocks)
    blocks[-1][:, :, 1] = 0.0
    state = state._replace(q=state.q._replace(blocks=blocks))
    expected = plain(p, state, *pair, 0.3)
    got = p.update(host.state(state), *map(host.place, pair), 0.3, inplace=inplace)
    assert (got.count, got.skipped, got.pending) == (0, 1, pending)
    assert_equal_to_rounding(got, expected, 1)
    np.testing.assert_array_equal(got.q.blocks[-1][:, :, 1], 0.0)
    moved = np.any(got.q.blocks[-1] != blocks[-1], axis=(0, 1))
    assert np.sum(moved) == (0 if pending else moved.size - 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_scales_near_the_ends_of_float32(scale, dtype, host):
    p, made = psgd.XMat(damping=0.0), pairs(12, dtype, 8, seed=5)
    made = [(v, (h * scale**5 if dtype == "float64" else h * scale).astype(dtype)) for v, h in made]
    expected = p.init(12, like=made[0][0])
    state = host.state(expected)
    for v, h in made:
        state = p.update(state, host.place(v), host.place(h), 0.3, inplace=True)
        expected = plain(p, expected, v, h, 0.3)
    assert_equal_to_rounding(state, expected, 8)
    assert state.count == 8


@pytest.mark.parametrize("pending", [False, True])
def test_squares_of_the_damping_do_not_overflow_where_the_pair_is_small(pending, host):
    p, (pair,) = psgd.XMat(damping=0.3), pairs(12, "float32", 1, seed=5)
    state = p.init(12, like=pair[0], scale=None if pending else 1.0)
    v, h = (x * np.float32(1e-30) for x in pair)
    got = p.update(host.state(state), host.place(v), host.place(h), 0.3)
    assert got.count == 1
    assert_equal_to_rounding(got, plain(p, state, v, h, 0.3), 1)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_scale_beyond_the_floats_moves_nothing(inplace, host):
    p, v = psgd.Diagonal(), np.full(9, 3e38, np.float32)
    state = p.init(9, like=v)
    got = p.update(host.state(state), host.place(v), host.place(v), 0.3, inplace=inplace)
    assert (got.count, got.skipped, got.pending) == (0, 1, True)
    assert_same_bits(got, plain(p, state, v, v, 0.3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_order_of_threads_or_blocks_changes_a_bit(kind, dtype, host, orbits):
    n = fitting(kind, 150)
    p, made, results = KINDS[kind](n), pairs(n, dtype, 3, seed=n), []
    for schedule in (0, 1, 2, 0):
        orbits.schedule = schedule
        state = host.state(p.init(n, like=made[0][0]))
        for v, h in made:
            state = p.update(state, host.place(v), host.place(h), 0.3, inplace=schedule == 1)
        product = p.precondition(state, host.place(made[0][0]))
        results.append((state, product))
    for other in results[1:]:
        assert_same_bits(results[0], other)


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "klein"])
def test_blocks_as_large_as_on_a_gpu(kind, host, orbits, monkeypatch):
    monkeypatch.setattr(cuda_library, "THREADS", THREADS)
    n, rng = 6001 if kind == "xmat" else 6000, np.random.default_rng(0)
    p, (v, h) = KINDS[kind](n), rng.standard_normal((2, n)).astype(np.float32)
    state = p.init(n, like=v)
    for schedule in (0, 2):
        orbits.schedule = schedule
        got = p.update(host.state(state), host.place(v), host.place(h), 0.3)
        assert_equal_to_rounding(got, plain(p, state, v, h, 0.3), 1)


def test_a_step_may_be_an_array(host):
    p, (pair,) = psgd.XMat(), pairs(10, "float32", 1, seed=8)
    state = p.init(10, like=pair[0], scale=1.0)
    for dtype in DTYPES:
        step = host.place(np.asarray(0.3, dtype))
        got = p.update(host.state(state), *map(host.place, pair), step)
        assert_equal_to_rounding(got, plain(p, state, *pair, 0.3), 1)


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "klein"])
def test_in_place_nothing_of_size_n_is_allocated(kind, host):
    n = 400
    p, (pair,) = KINDS[kind](n), pairs(n, "float32", 1, seed=8)
    state, pair = host.state(p.init(n, like=pair[0])), [host.place(x) for x in pair]
    host.allocated.clear()
    p.update(state, *pair, 0.3, inplace=True)
    assert host.allocated == [()] * 5  # the counters
    assert [id(x) for x in host.overwritten] == [id(x) for x in (*state.q.blocks, *state.held)]
    work = host.guarded[-1][2]
    assert work < 4 * n


@pytest.mark.parametrize(
    "p",
    [
        psgd.XMat(geometry="QEQ"),
        psgd.XMat(steps="group"),
        psgd.XMat(normalizer=psgd.normalizers.Gradient()),
        psgd.Sparse(PermutationSubgroup.all_shifts(12)),
        psgd.Dense(),
    ],
)
def test_what_has_no_kernel_goes_the_ordinary_way(p, host, orbits):
    (pair,) = pairs(12, "float64", 1, seed=8)
    p.update(host.state(p.init(12, like=pair[0])), *map(host.place, pair), 0.1)
    assert not orbits.launched


@pytest.mark.parametrize(
    "spoil", ["held", "gather", "index", "block", "order", "dtype", "columns", "step", "count", "size", "off"]
)
def test_what_does_not_fit_is_refused(spoil, host, orbits):
    """They read and write without looking."""
    p, (pair,) = psgd.Sparse(PermutationSubgroup.klein(12)), pairs(12, "float64", 1, seed=12)
    state, (v, h), step = host.state(p.init(12, like=pair[0])), map(host.place, pair), 0.3

    def asked():
        return kernels.update(p._rule, state, v, h, step, False)

    assert asked() is not None
    q = state.q
    if spoil == "held":
        state = state._replace(held=(state.held[0][:1],))
    elif spoil == "gather":
        state = state._replace(q=q._replace(gather=(q.gather[0][:3], q.gather[1])))
    elif spoil == "index":
        state = state._replace(q=q._replace(gather=(host.place(q.gather[0].astype(np.int32)),) * 2))
    elif spoil == "order":
        state = state._replace(q=q._replace(gather=()))
    elif spoil == "block":
        state = state._replace(q=q._replace(blocks=(np.asfortranarray(q.blocks[0]).view(OnDevice),)))
    elif spoil == "dtype":
        v, h = v.astype(np.float32), h.astype(np.float32)
    elif spoil == "columns":
        v, h = v[:, None], h[:, None]
    elif spoil == "step":
        step = 1.0
    elif spoil == "count":
        state = state._replace(count=host.place(np.int64(0)))
    elif spoil == "size":
        v, h = v[:8], h[:8]
    orbits.launched.clear()
    if spoil == "off":
        with kernels.off():
            assert asked() is None
    else:
        assert asked() is None
    assert not orbits.launched


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    how=st.sampled_from(["direct", "shifted", "mirrored", "gathered"]),
    size=st.integers(1, 4),
    count=st.integers(1, 64),
    start=st.integers(0, 16),
    more=st.integers(0, 9),
    itemsize=st.sampled_from([4, 8]),
    offsets=st.lists(st.integers(0, 7), min_size=2, max_size=2),
)
def test_wide_accesses_are_aligned(how, size, count, start, more, itemsize, offsets):
    size = {"direct": 1, "mirrored": 2}.get(how, size)
    start = 0 if how == "mirrored" else start
    n = start + size * count + more
    pointers = [256 + itemsize * x for x in offsets]
    wide = orbit_launches.width(how, size, count, start, n, itemsize, pointers)
    assert wide in (1, 16 // itemsize // size)
    for t in range(0, count, wide):
        assert t + wide <= count
        items = [row * count + t for row in range(size * size)]
        items += [n - t - wide if how == "mirrored" and i else start + i * count + t for i in range(size)]
        if wide > 1:
            assert all((p + itemsize * i) % (wide * itemsize) == 0 for p in pointers for i in items)
