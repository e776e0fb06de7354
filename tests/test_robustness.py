"""Bad input gets one clear sentence, extremes leave a usable state, and nothing given is written to."""

from dataclasses import replace

import numpy as np
import pytest
from registry import core, every

import psgd_core as psgd
from psgd_core import PermutationSubgroup, normalizers

DAMPED = 1e-3


def fitted(p, n, updates=5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    h = rng.uniform(0.5, 2.0, n)
    state = p.init(n, like=np.zeros(n, dtype=dtype))
    for _ in range(updates):
        v = rng.standard_normal(n).astype(dtype)
        state = p.update(state, v, (h * v).astype(dtype), 0.1)
    return state


def finite(state):
    if isinstance(state, tuple):
        return all(finite(part) for part in state)
    return bool(np.all(np.isfinite(state)))


def same(a, b):
    if isinstance(a, tuple):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b)


# -- bad input -----------------------------------------------------------------------------------------------

V = np.ones(6)

BAD_PAIRS = {
    "too short": (V[:5], V[:5], ValueError, r"`v` must have shape \(6,\) or \(6, k\), got \(5,\)"),
    "3-D": (np.ones((6, 1, 1)), np.ones((6, 1, 1)), ValueError, "`v` must have shape"),
    "0-D": (np.asarray(1.0), V, ValueError, "`v` must have shape"),
    "shapes differ": (V, np.ones((6, 1)), ValueError, "`h` must have the shape of `v`"),
    "no probe": (np.ones((6, 0)), np.ones((6, 0)), ValueError, "`v` must hold at least one probe"),
    "float32 in float64": (V.astype(np.float32), V, TypeError, "`v` must have the dtype of `state`"),
    "integers": (V, np.ones(6, dtype=int), TypeError, "`h` must have the dtype of `state`"),
    "complex": (V.astype(complex), V, TypeError, "`v` must have the dtype of `state`"),
    "list": ([1.0] * 6, V, TypeError, "`v` must be an array"),
}


@core
@pytest.mark.parametrize(("v", "h", "error", "match"), BAD_PAIRS.values(), ids=BAD_PAIRS.keys())
def test_bad_pairs(row, v, h, error, match):
    state = fitted(row.preconditioner, row.n)
    with pytest.raises(error, match=match):
        row.preconditioner.update(state, v, h, 0.1)


@core
def test_bad_vectors_of_the_verbs(row):
    p, state = row.preconditioner, fitted(row.preconditioner, row.n)
    for verb in (p.precondition, p.apply, p.apply_transpose, p.solve, p.solve_transpose):
        with pytest.raises(ValueError, match="must have shape"):
            verb(state, np.ones(row.n + 1))
        with pytest.raises(TypeError, match="must have the dtype of `state`"):
            verb(state, np.ones(row.n, dtype=np.float32))


@core
@pytest.mark.parametrize("step", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_bad_steps(row, step):
    state = fitted(row.preconditioner, row.n)
    with pytest.raises(ValueError, match=r"`step` must lie in \(0, 1\), got"):
        row.preconditioner.update(state, np.ones(row.n), np.ones(row.n), step)


@core
def test_a_mix_of_libraries_is_refused(row):
    torch = pytest.importorskip("torch", reason="a second library is needed to mix two")
    state = fitted(row.preconditioner, row.n)
    with pytest.raises(TypeError, match="all arrays must come from one library"):
        row.preconditioner.update(state, torch.ones(row.n, dtype=torch.float64), np.ones(row.n), 0.1)


@core
def test_bad_starts(row):
    p = row.preconditioner
    for n in (0, -1, 2.0, True, "6"):
        with pytest.raises(ValueError, match="`n` must be a positive int"):
            p.init(n, like=V)
    for scale in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`scale` must be positive and finite"):
            p.init(row.n, like=V, scale=scale)
    for like in (np.ones(3, dtype=int), np.ones(3, dtype=np.float16), np.ones(3, dtype=complex)):
        with pytest.raises(TypeError, match="`like` must be float32 or float64"):
            p.init(row.n, like=like)
    with pytest.raises(TypeError, match="`like` must be an array"):
        p.init(row.n, like=[1.0])


def test_bad_settings():
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`damping` must be None or a finite number >= 0"):
            psgd.XMat(damping=bad)
        with pytest.raises(ValueError, match="`damping` must be None or a finite number >= 0"):
            psgd.LowRank(2, damping=bad)
    for bad in (-1, 1.5, True):
        with pytest.raises(ValueError, match="`rank` must be an int >= 0"):
            psgd.LowRank(bad)
    with pytest.raises(ValueError, match="`rank` must be below n = 3, got 3"):
        psgd.LowRank(3).init(3, like=V)
    with pytest.raises(ValueError, match="`diagonal` must be one of 'right', 'left'"):
        psgd.LowRank(1, diagonal="middle")
    with pytest.raises(ValueError, match="`steps` must be one of 'orbit'"):
        psgd.XMat(steps="each")
    with pytest.raises(ValueError, match="`geometry` must be one of"):
        psgd.Dense(geometry="up")
    with pytest.raises(TypeError, match="`normalizer` must be a Normalizer"):
        psgd.Dense(normalizer="sample")
    with pytest.raises(TypeError, match="`normalizer` must be a Normalizer"):
        psgd.LowRank(1, normalizer=normalizers.Sample)
    with pytest.raises(ValueError, match=r"`decay` must lie in \[0, 1\)"):
        normalizers.Running(1.0)
    with pytest.raises(TypeError, match="`subgroup` must be a PermutationSubgroup"):
        psgd.Sparse([(1, 0)])
    with pytest.raises(ValueError, match="`n` must be the subgroup's, 4, got 6"):
        psgd.Sparse(PermutationSubgroup.flip(4)).init(6, like=V)
    with pytest.raises(ValueError, match="`n` must be even"):
        psgd.Butterfly().init(5, like=V)


@core
def test_check_names_what_is_wrong(row):
    p, state = row.preconditioner, fitted(row.preconditioner, row.n)
    p.check(state)
    broken = p._scaled(state, np.asarray(np.nan))
    with pytest.raises(ValueError, match="must be finite, got NaN or Inf"):
        p.check(broken)
    with (
        np.errstate(divide="ignore", invalid="ignore"),
        pytest.raises(ValueError, match="must hold an invertible Q"),
    ):
        p.check(p._scaled(state, np.asarray(0.0)))


@core
@pytest.mark.parametrize("flag", [1, None, "yes", np.asarray([1, 2])])
def test_a_flag_is_a_truth_value(row, flag):
    state = fitted(row.preconditioner, row.n)
    with pytest.raises(TypeError, match="`inplace` must be True or False, got"):
        row.preconditioner.update(state, np.ones(row.n), np.ones(row.n), 0.1, inplace=flag)


@core
@pytest.mark.parametrize(
    "scale", [1e-200, 1e200, 10**400, 10**5000], ids=["1e-200", "1e200", "10^400", "10^5000"]
)
def test_a_scale_whose_square_is_no_float_is_refused(row, scale):
    with pytest.raises(ValueError, match="`scale` must be positive and finite, and its square"):
        row.preconditioner.init(row.n, like=V, scale=scale)


@core
def test_a_damping_that_the_dtype_cannot_hold_is_refused(row):
    with pytest.raises(ValueError, match="`damping` must be finite in float32, got 1e\\+300"):
        replace(row.preconditioner, damping=1e300).init(row.n, like=np.ones(1, dtype=np.float32))


@core
@pytest.mark.parametrize("pending", [True, False])
def test_a_read_only_state_is_read_and_never_written(row, pending):
    """As one comes from a memory map; with its scale due, kernels name what they read as what they write."""
    p, state = row.preconditioner, fitted(row.preconditioner, row.n)
    state = state._replace(pending=np.asarray(pending))
    v, h = np.linspace(1.0, 2.0, row.n), np.linspace(3.0, 1.0, row.n)
    expected = p.update(state, v, h, 0.1)

    def locked(tree):
        if isinstance(tree, tuple):
            parts = [locked(part) for part in tree]
            return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
        tree = np.array(tree)
        tree.flags.writeable = False
        return tree

    got = p.update(locked(state), v, h, 0.1)
    np.testing.assert_allclose(p.matrix(got), p.matrix(expected), rtol=1e-10)
    with pytest.raises(ValueError, match="must be an array that can be written to for `inplace`"):
        p.update(locked(state), v, h, 0.1, inplace=True)


@core
def test_states_that_are_none(row):
    p, state = row.preconditioner, fitted(row.preconditioner, row.n)
    for bad in (None, tuple(state), [*state], state._asdict(), type(state)):
        for verb in (p.size, p.matrix, p.log_det, p.check):
            with pytest.raises(TypeError, match="`state` must be a"):
                verb(bad)
    for field in ("count", "pending", "damping"):
        for value in (None, 1.5, np.ones(2), np.float16(1)):
            with pytest.raises((TypeError, ValueError), match="`state"):
                p.precondition(state._replace(**{field: value}), np.ones(row.n))


# -- pairs that teach nothing, or too much -----------------------------------------------------------------


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["v", "h"])
def test_a_pair_with_nan_or_inf_is_counted_and_changes_nothing(row, bad, where):
    p, n = row.preconditioner, row.n
    state = fitted(p, n)
    v, h = np.ones(n), np.ones(n)
    (v if where == "v" else h)[n // 2] = bad
    after = p.update(state, v, h, 0.1)
    assert int(after.skipped) == int(state.skipped) + 1
    assert same(after._replace(skipped=state.skipped), state)


@every
def test_a_zero_probe_is_counted_and_changes_nothing(row):
    state = fitted(row.preconditioner, row.n)
    after = row.preconditioner.update(state, np.zeros(row.n), np.ones(row.n), 0.1)
    assert int(after.skipped) == int(state.skipped) + 1
    assert same(after._replace(skipped=state.skipped), state)


@core
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thousands_of_zero_products_end_at_the_bound(row, dtype):
    """P of M + damping^2 I with M = 0 is I / damping, around which the probes' randomness leaves it."""
    p = replace(row.preconditioner, damping=DAMPED)
    rng = np.random.default_rng(0)
    steps = [0.1] * 1500 + [0.01] * 2000
    state = p.init(row.n, like=np.zeros(row.n, dtype=dtype))
    zero = np.zeros(row.n, dtype=dtype)
    for step in steps:
        state = p.update(state, rng.standard_normal(row.n).astype(dtype), zero, step)
    assert finite(state)
    eigenvalues = np.linalg.eigvalsh(np.asarray(p.matrix(state), dtype=np.float64))
    assert eigenvalues[-1] < 1.3 / DAMPED
    assert eigenvalues[0] > 0.7 / DAMPED


@core
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_first_products_then_real_ones(row, dtype):
    """The default damping bounds what the zeros do, and the scale is taken from the first real product."""
    p, n, rng = row.preconditioner, row.n, np.random.default_rng(1)
    state = p.init(n, like=np.zeros(n, dtype=dtype))
    for _ in range(50):
        state = p.update(state, rng.standard_normal(n).astype(dtype), np.zeros(n, dtype=dtype), 0.1)
    assert finite(state)
    assert bool(state.pending)
    for _ in range(300):
        v = rng.standard_normal(n).astype(dtype)
        state = p.update(state, v, (np.linspace(1, 2, n) * v).astype(dtype), 0.1)
    assert not bool(state.pending)
    assert finite(state)
    assert int(state.skipped) == 0
    eigenvalues = np.linalg.eigvalsh(np.asarray(p.matrix(state), dtype=np.float64))
    assert eigenvalues[0] > 0.1
    assert eigenvalues[-1] < 10


@core
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_products_near_the_ends_of_float32(row, size):
    p, n, rng = row.preconditioner, row.n, np.random.default_rng(2)
    p = replace(p, damping=0)
    state = p.init(n, like=np.zeros(n, dtype=np.float32))
    for _ in range(200):
        v = rng.standard_normal(n).astype(np.float32)
        state = p.update(state, v, (np.linspace(1, 2, n) * v).astype(np.float32) * np.float32(size), 0.05)
    assert finite(state)
    assert int(state.skipped) == 0
    q = np.asarray(p.apply(state, np.eye(n, dtype=np.float32)), dtype=np.float64)
    eigenvalues = np.linalg.eigvalsh(q.T @ q) * size
    assert eigenvalues[0] > 0.1
    assert eigenvalues[-1] < 10


@core
@pytest.mark.parametrize("ratio", [1e-6, 1e6])
def test_a_badly_scaled_start_is_left_and_never_rounds_to_zero(row, ratio):
    """h/v >= 1e4 at unit scale in float32 is what turns a peer's Q into exactly 0 at the first step."""
    p, n, rng = row.preconditioner, row.n, np.random.default_rng(3)
    state = p.init(n, like=np.zeros(n, dtype=np.float32), scale=1.0)
    for _ in range(10):
        v = rng.standard_normal(n).astype(np.float32)
        state = p.update(state, v, np.float32(ratio) * v, 0.9 if row.geometry in ("EQ", "none") else 0.3)
        assert finite(state)
        q = np.asarray(p.apply(state, np.eye(n, dtype=np.float32)), dtype=np.float64)
        assert np.linalg.svd(q, compute_uv=False)[-1] > 0
    assert int(state.skipped) == 0


@core
def test_products_that_are_mostly_zero(row):
    """One entry of h at a time: the rest of the diagonal grows to its bound, and stays there."""
    p, n, rng = row.preconditioner, row.n, np.random.default_rng(4)
    state = p.init(n, like=np.zeros(n, dtype=np.float32))
    for _ in range(2000):
        v, h = rng.standard_normal(n).astype(np.float32), np.zeros(n, dtype=np.float32)
        h[0] = 3 * v[0]
        state = p.update(state, v, h, 0.05)
    assert finite(state)
    p.check(state)


# -- what is given stays as it is ------------------------------------------------------------------------


@core
@pytest.mark.parametrize("layout", ["read-only", "strided", "Fortran", "negative stride"])
def test_any_layout_is_read_and_none_is_written(row, layout):
    p, n, rng = row.preconditioner, row.n, np.random.default_rng(5)
    state = fitted(p, n)
    plain = rng.standard_normal((n, 2)), rng.standard_normal((n, 2))

    def laid_out(x):
        if layout == "read-only":
            x = x.copy()
            x.flags.writeable = False
            return x
        if layout == "strided":
            return np.repeat(x, 2, axis=0)[::2]
        if layout == "Fortran":
            return np.asfortranarray(x)
        return np.ascontiguousarray(x[::-1])[::-1]

    v, h = (laid_out(x) for x in plain)
    before = v.copy(), h.copy()
    expected = p.update(state, *plain, 0.1)
    got = p.update(state, v, h, 0.1)
    np.testing.assert_allclose(p.matrix(got), p.matrix(expected), rtol=1e-10)
    p.precondition(state, v)
    assert np.array_equal(v, before[0])
    assert np.array_equal(h, before[1])


@pytest.mark.parametrize("p", [psgd.Dense(), psgd.XMat(damping=0.0), psgd.Butterfly(damping=0.0)], ids=str)
@pytest.mark.parametrize("k", [1, 2])
def test_a_pair_whose_move_overflows_leaves_the_state_finite(p, k):
    rng = np.random.default_rng(0)
    state = p.init(6, np.zeros(1, np.float32))
    with psgd.kernels.off(), np.errstate(all="ignore"):
        for size in (1e-25, 1e-25, 1e25, 1e-25):
            v = rng.standard_normal((6, k)).astype(np.float32)
            state = p.update(state, v, v * np.float32(size), 0.3)
    assert all(np.isfinite(block).all() for block in state.q.blocks)
    assert int(state.count) + int(state.skipped) == 4
    assert int(state.count) >= 3  # the last one goes on
