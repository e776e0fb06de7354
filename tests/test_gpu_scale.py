"""What keeps P on its scale, on an emulated GPU: relative damping, jumps of H, and steps that are none."""

import numpy as np
import pytest
from emulated import emulated_device
from fitted_pairs import leaves, pairs
from gpu_kernels import KINDS

import psgd_core as psgd
from psgd_core import kernels

DTYPES = ("float32", "float64")
N = 12
FITTED = {
    **{
        kind: KINDS[kind](N)
        for kind in ("diagonal", "xmat", "butterfly", "klein", "thirds", "uneven", "sample")
    },
    "rank 0": psgd.LowRank(0),
    "rank 3": psgd.LowRank(3),
    "gradient": psgd.LowRank(2, normalizer=psgd.normalizers.Gradient()),
}
every_kind = pytest.mark.parametrize("p", FITTED.values(), ids=FITTED)


@pytest.fixture
def host(monkeypatch):
    """A device on which one block has not room for everything."""
    with emulated_device(monkeypatch, threads=4) as found:
        yield found


def plain(p, state, *args):
    """Return an update by the plain code."""
    with kernels.off(), np.errstate(all="ignore"):
        return p.update(state, *args)


def on_device(p, host, state, v, h, step=0.2, **options):
    """Return an update by the kernels."""
    host.launched.clear()
    with np.errstate(all="ignore"):
        found = p.update(host.state(state), host.place(v), host.place(h), step, **options)
    assert host.launched
    return found


def counters(state):
    """Return what a state counts, lambda left out."""
    return bool(state.pending), int(state.off_scale), int(state.count), int(state.skipped)


def wide(tree):
    """Return a state in NumPy, with its floats in float64."""
    if isinstance(tree, tuple):
        parts = map(wide, tree)
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return np.array(tree, np.float64 if tree.dtype.kind == "f" else tree.dtype)


def matrix(p, state):
    """Return P in float64."""
    with kernels.off():
        return p.matrix(wide(state))


def assert_on_one_path(p, got, expected, updates):
    """Compare two states: counters exactly, P and lambda up to what updates amplify of a rounding."""
    assert counters(got) == counters(expected)
    tolerance = 1000 * updates * np.finfo(expected.damping.dtype).eps
    np.testing.assert_allclose(got.damping, expected.damping, rtol=tolerance)
    wanted = matrix(p, expected)
    np.testing.assert_allclose(matrix(p, got), wanted, rtol=0, atol=tolerance * np.max(np.abs(wanted)))


# -- fitting c H is fitting H -------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("power", [-30, -7, 3, 20])
def test_a_multiple_of_the_hessian_gives_the_same_bits_scaled(p, power, dtype, host):
    made, c = pairs(N, dtype, 9, seed=1), 4.0**power  # the ninth after a change of gauge
    state = scaled = p.init(N, like=made[0][0])
    for v, h in made:
        state = on_device(p, host, state, v, h)
        scaled = on_device(p, host, scaled, v, (c * h).astype(dtype))
    root = 2.0**power
    assert scaled.damping == c * state.damping
    assert counters(scaled) == counters(state) == (False, 0, 9, 0)
    changed = scaled.q.blocks if hasattr(state, "q") else (scaled.d,)
    for x, y in zip(changed, state.q.blocks if hasattr(state, "q") else (state.d,), strict=True):
        np.testing.assert_array_equal(root * x, y)
    for x, y in zip(leaves((scaled.held,)), leaves((state.held,)), strict=True):
        np.testing.assert_array_equal(x, root * y)
    if not hasattr(state, "q"):
        np.testing.assert_array_equal(scaled.u, state.u)
        np.testing.assert_array_equal(scaled.v, state.v)


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [1e-12, 30.0, 1e9])
def test_lambda_is_relative_to_the_scale_of_the_first_pair(p, c, dtype, host):
    ((v, h),) = pairs(N, dtype, 1, seed=2)
    h = (c * h).astype(dtype)
    start = p.init(N, like=v)
    got = on_device(p, host, start, v, h)
    # Q starts at I, or near, and |h| P = |v|
    relative = (
        float(got.damping) * np.linalg.norm(v.astype(np.float64)) / np.linalg.norm(h.astype(np.float64))
    )
    near = 0.2 if isinstance(p, psgd.LowRank) else 1e-5
    np.testing.assert_allclose(relative, 1e-9 if dtype == "float32" else 1e-16, rtol=near)
    np.testing.assert_allclose(got.damping, plain(p, start, v, h, 0.2).damping, rtol=1e-5)


@pytest.mark.parametrize("p", [psgd.XMat(damping=0.3), psgd.LowRank(2, damping=0.3)])
def test_a_lambda_that_is_given_stays_and_is_not_heard_where_the_scale_is_set(p, host):
    made = pairs(N, "float64", 2, seed=3)
    without = type(p)(damping=0.0) if isinstance(p, psgd.XMat) else psgd.LowRank(2, damping=0.0)
    start = p.init(N, like=made[0][0])
    first = on_device(p, host, start, *made[0])
    undamped = on_device(without, host, without.init(N, like=made[0][0]), *made[0])
    assert first.damping == 0.3
    np.testing.assert_array_equal(matrix(p, first), matrix(without, undamped))
    second = on_device(p, host, first, *made[1])
    assert_on_one_path(p, second, plain(p, plain(p, start, *made[0], 0.2), *made[1], 0.2), 2)
    off = np.max(np.abs(matrix(p, second) - matrix(p, on_device(without, host, undamped, *made[1]))))
    assert off > 1e-3  # and here it is heard


# -- jumps of H ---------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_jump_up_and_back_ends_where_the_plain_code_ends(p, dtype, host):
    made = pairs(N, dtype, 100, seed=4)
    factors = [1.0] * 5 + [1e12] * 15 + [1.0] * 80
    state = expected = p.init(N, like=made[0][0])
    due = []
    for i, ((v, h), factor) in enumerate(zip(made, factors, strict=True)):
        pair = v, (factor * h).astype(dtype)
        state = on_device(p, host, state, *pair, inplace=i % 2 == 1)
        expected = plain(p, expected, *pair, 0.2)
        assert counters(state) == counters(expected), i
        due += [i] if state.pending else []
    assert due == [5 + 8 - 1, 20 + 64 - 1]
    assert_on_one_path(p, state, expected, 100)


def watched(p, host, state, factors, step=0.01):
    """Return `off_scale` and `pending` after each product ``factor v``; kernels and plain code agree."""
    found, expected, rng = [], state, np.random.default_rng(5)
    for factor in factors:
        v = rng.choice([-1.0, 1.0], N)
        h = factor * v
        state, expected = on_device(p, host, state, v, h, step), plain(p, expected, v, h, step)
        assert counters(state) == counters(expected)
        found.append((int(state.off_scale), bool(state.pending)))
    return found


UNIT = [psgd.XMat(), psgd.Diagonal(), psgd.LowRank(0)]


@pytest.mark.parametrize("p", UNIT)
def test_pairs_off_the_scale_are_counted_in_a_row(p, host):
    state = p.init(N, like=np.zeros(1), scale=1.0)
    factors = [20, 20, 3, 20, 0.01, 0.01, 0.0, 0.01, 20, np.nan, 0.2, 0.0, -20]
    expected = [1, 2, 0, 1, -1, -2, -2, -3, 1, 1, 0, 0, 1]  # NaN is skipped, and no end of a row
    assert watched(p, host, state, factors) == [(x, False) for x in expected]


@every_kind
@pytest.mark.parametrize("run", [7, -40])
@pytest.mark.parametrize("bad", [{"v": np.nan}, {"h": np.inf}, {"v": 0.0}, {"v": 0.0, "h": 0.0}])
def test_a_pair_that_is_unusable_leaves_a_row_alone(p, bad, run, host):
    ((v, h),) = pairs(N, "float64", 1, seed=11)
    state = p.init(N, like=v, scale=1.0)._replace(off_scale=np.asarray(run, np.int32))
    for name, value in bad.items():
        (v if name == "v" else h)[slice(None) if value == 0.0 else 5] = value
    got = on_device(p, host, state, v, h)
    assert counters(got) == counters(plain(p, state, v, h, 0.2))
    assert (got.count, got.skipped, got.pending, got.off_scale) == (0, 1, False, run)


@every_kind
@pytest.mark.parametrize("j", range(N))
def test_every_entry_of_a_pair_has_its_part_in_the_comparison(p, j, host):
    ones, one = np.ones(N), np.eye(N)[j]
    start = p.init(N, like=ones, scale=1.0)
    for size, found in ((50.0, 1), (25.0, 0)):  # sqrt(N - 1 + size^2) against 10 sqrt(N)
        bumped = ones + (size - 1) * one
        for v, h, expected in ((ones, bumped, found), (bumped, ones, -found)):
            got = on_device(p, host, start, v, h)
            assert counters(got) == counters(plain(p, start, v, h, 0.2)) == (False, expected, 1, 0)


@pytest.mark.parametrize(
    "p", [psgd.XMat(damping=30.0), psgd.Diagonal(damping=30.0), psgd.LowRank(0, damping=30.0)]
)
def test_the_damping_has_its_part_too(p, host):
    v = np.ones(N)
    start = p.init(N, like=v, scale=1.0)
    got = on_device(p, host, start, v, v)
    assert counters(got) == counters(plain(p, start, v, v, 0.2)) == (False, 1, 1, 0)


@pytest.mark.parametrize("p", UNIT)
def test_so_many_in_a_row_make_the_scale_due_again(p, host):
    state = p.init(N, like=np.zeros(1), scale=1.0)
    runs = watched(p, host, state, [1e6] * 9)
    assert runs == [(x, False) for x in range(1, 8)] + [(0, True), (0, False)]
    state = state._replace(off_scale=np.asarray(-62, np.int32))
    assert watched(p, host, state, [1e-6] * 3) == [(-63, False), (0, True), (0, False)]


@pytest.mark.parametrize("p", UNIT)
def test_zero_products_neither_set_a_scale_nor_count(p, host):
    state = p.init(N, like=np.zeros(1), scale=1.0)._replace(pending=np.asarray(True))
    assert watched(p, host, state, [0.0, 0.0, 1e6]) == [(0, True), (0, True), (0, False)]
    state = state._replace(off_scale=np.asarray(7, np.int32), pending=np.asarray(False))
    assert watched(p, host, state, [0.0, 1e6]) == [(7, False), (0, True)]


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_sizes_whose_squares_leave_float64_are_compared(size, host):
    p, v = psgd.XMat(damping=0.0), np.full(N, size)
    state = p.init(N, like=v, scale=1.0)
    for factor, expected in ((20.0, 1), (0.05, -1), (2.0, 0)):
        got = on_device(p, host, state, v, factor * v, 0.01)
        assert counters(got) == counters(plain(p, state, v, factor * v, 0.01)) == (False, expected, 1, 0)


@pytest.mark.parametrize(("probe", "product"), [(1e-15, 1e20), (1e19, 1e-18), (1e-30, 1e-3)])
@pytest.mark.parametrize("p", [psgd.XMat(), psgd.LowRank(3)])
def test_a_first_pair_of_any_proportion_sets_the_scale(p, probe, product, host):
    ((v, h),) = pairs(N, "float32", 1, seed=6)
    v, h = np.float32(probe) * v, np.float32(product) * h
    start = p.init(N, like=v)
    got, expected = on_device(p, host, start, v, h), plain(p, start, v, h, 0.2)
    assert counters(got) == (False, 0, 1, 0)
    assert_on_one_path(p, got, expected, 1)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_scale_beyond_the_floats_changes_nothing_as_in_the_plain_code(inplace, host):
    p, v = psgd.Diagonal(), np.full(N, 3e38, np.float32)
    state = p.init(N, like=v, scale=1.0)._replace(pending=np.asarray(True), held=(np.ones(N, np.float32),))
    got, expected = on_device(p, host, state, v, v, inplace=inplace), plain(p, state, v, v, 0.2)
    assert counters(got) == (True, 0, 0, 1)
    for x, y in zip(leaves(got), leaves(expected), strict=True):
        assert x.tobytes() == y.tobytes()


# -- steps on the device ------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("step", [0.0, -0.1, 1.0, 2.0, np.nan, np.inf])
def test_a_step_that_is_none_changes_nothing_and_is_counted(p, step, pending, inplace, host):
    made = pairs(N, "float32", 2, seed=7)
    state = on_device(p, host, p.init(N, like=made[0][0]), *made[0])
    state = state._replace(pending=np.asarray(pending))
    before = [np.array(x) for x in leaves(state)]
    got = on_device(p, host, state, *made[1], host.place(np.float64(step)), inplace=inplace)
    assert counters(got) == (pending, 0, 1, 1)
    for x, y in zip(leaves(got)[:-1], before[:-1], strict=True):
        np.testing.assert_array_equal(x, y)


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_on_the_device_is_the_number(p, dtype, host):
    made = pairs(N, "float64", 3, seed=8)
    state = expected = p.init(N, like=made[0][0])
    for v, h in made:
        state = on_device(p, host, state, v, h, host.place(np.asarray(0.25, dtype)))
        expected = on_device(p, host, expected, v, h, 0.25)
    tolerance = 1e-13  # their fourth roots may round differently
    for x, y in zip(leaves(state), leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), tolerance, tolerance)


@every_kind
def test_an_array_that_is_no_step_goes_the_ordinary_way(p, host):
    ((v, h),) = pairs(N, "float64", 1, seed=9)
    state = host.state(p.init(N, like=v))
    for step in (np.asarray(True), np.full(1, 0.5), np.asarray(1)):
        assert kernels.update(p._rule, state, host.place(v), host.place(h), host.place(step), False) is None
