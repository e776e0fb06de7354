"""The scale of a fit: c H gives what H gives, the damping is relative to it, and a jump of H is followed."""

from dataclasses import replace

import numpy as np
import pytest
from registry import core, without_jax

import psgd_core as psgd
from psgd_core import PermutationSubgroup, kernels

N = 12
KINDS = {
    "Diagonal": psgd.Diagonal(),
    "XMat": psgd.XMat(),
    "Butterfly": psgd.Butterfly(),
    "Klein": psgd.Sparse(PermutationSubgroup.klein(N)),
    "Dense": psgd.Dense(),
    "Dense, Lyapunov": psgd.Dense(geometry="Lyapunov"),
    "XMat, step per group": psgd.XMat(steps="group"),
    "LowRank": psgd.LowRank(3),
    "LowRank, left": psgd.LowRank(3, diagonal="left"),
    "Kronecker": psgd.Kronecker((3, 4)),
    "Kronecker, dense": psgd.Kronecker((2, 3, 2), "dense"),
    "Blocks": psgd.Blocks(((5, psgd.XMat()), (7, psgd.LowRank(2)))),
}
EXACT = KINDS | {
    "Dense, QEQ": psgd.Dense(geometry="QEQ"),
    "Kronecker, QUAD": psgd.Kronecker((3, 4), "dense", geometry="QUAD"),
}
FITS_P = {"XMat, QUAD4P": psgd.XMat(geometry="QUAD4P"), "Dense, PRO4P": psgd.Dense(geometry="PRO4P")}


def hessian(rng, n=N):
    a = rng.standard_normal((n, n))
    return a @ a.T / n + np.eye(n)


def pairs(count, dtype, seed=0):
    rng = np.random.default_rng(seed)
    h = hessian(rng)
    v = rng.standard_normal((count, N)).astype(dtype)
    return [(x, (h @ x).astype(dtype)) for x in v]


def fitted(p, made, c, dtype, step=0.2):
    state = p.init(N, like=np.zeros(1, dtype))
    for v, h in made:
        state = p.update(state, v, h * dtype(c), step)
    return state


def log_scale(p, state):
    """The logarithm of the geometric mean of P's eigenvalues."""
    return np.linalg.slogdet(np.asarray(p.matrix(state), np.float64))[1] / N


# -- c H gives what H gives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("power", [-48, -6, 2, 40])
@pytest.mark.parametrize("engine", ["plain", "kernels"])
def test_fitting_a_power_of_four_times_h_gives_the_same_bits(kind, power, engine):
    p, made, c = EXACT[kind], pairs(40, np.float32), 2.0**power
    if engine == "plain":
        with kernels.off():
            one, other = fitted(p, made, 1, np.float32), fitted(p, made, c, np.float32)
    else:
        one, other = fitted(p, made, 1, np.float32), fitted(p, made, c, np.float32)
    np.testing.assert_array_equal(p.matrix(other) * np.float32(c), p.matrix(one))


@pytest.mark.parametrize("kind", FITS_P)
@pytest.mark.parametrize("power", [-31, 1, 17])
def test_where_the_block_is_p_any_power_of_two_does(kind, power):
    p, made, c = FITS_P[kind], pairs(40, np.float32), 2.0**power
    one, other = fitted(p, made, 1, np.float32), fitted(p, made, c, np.float32)
    for x, y in zip(other.q.blocks, one.q.blocks, strict=True):
        np.testing.assert_array_equal(x * np.float32(c), y)


@pytest.mark.parametrize("kind", EXACT | FITS_P)
@pytest.mark.parametrize("c", [3e-25, 7e-4, 1.7e22])
def test_fitting_any_multiple_gives_the_same_to_rounding(kind, c):
    p, made = (EXACT | FITS_P)[kind], pairs(25, np.float64)
    one, other = fitted(p, made, 1, np.float64), fitted(p, made, c, np.float64)
    np.testing.assert_allclose(p.matrix(other) * c, p.matrix(one), rtol=1e-9, atol=1e-9)


@core
@without_jax
def test_every_library_scales_alike(backend, row):
    p, rng = row.preconditioner, np.random.default_rng(3)
    made = [rng.standard_normal((2, row.n)) for _ in range(8)]

    def run(c):
        state = p.init(row.n, like=backend.asarray(np.zeros(1)))
        for v, h in made:
            state = p.update(state, backend.asarray(v), backend.asarray(h) * c, 0.2)
        return backend.numpy(p.matrix(state))

    np.testing.assert_array_equal(run(2.0**-20) * 2.0**-20, run(1.0))


def test_the_scale_is_part_of_a_traced_update():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    p = psgd.XMat()
    update = jax.jit(lambda *args: p.update(*args, 0.2))
    found = []
    for c in (1.0, 2.0**-40):
        state = p.init(N, like=jax.numpy.zeros(1))
        for v, h in pairs(10, np.float32):
            state = update(state, v, h * np.float32(c))
        found.append(np.asarray(p.matrix(state)) * c)
        found[-1] = np.append(found[-1], state.damping / c)
    np.testing.assert_array_equal(*found)


# -- the damping --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [1e-20, 1.0, 1e20])
def test_the_default_damping_is_relative_to_the_first_pair(dtype, c):
    """From the identity the first pair sets P = |v| / |h|, and lambda P keeps its size."""
    relative = {np.float32: 1e-9, np.float64: 1e-16}[dtype]
    for kind in ("Diagonal", "Dense", "LowRank", "Kronecker"):
        p, (v, h) = KINDS[kind], pairs(1, dtype)[0]
        before = p.init(N, like=v)
        assert float(before.damping) == pytest.approx(-relative, rel=1e-6, abs=0)
        after = p.update(before, v, h * dtype(c), 0.2)
        assert not after.pending
        expected = relative * c * np.linalg.norm(h) / np.linalg.norm(v)
        near = 0.2 if kind == "LowRank" else 1e-5  # which starts near the identity only
        assert float(after.damping) == pytest.approx(expected, rel=near, abs=0)
        assert after.damping.dtype == dtype
        # what comes later does not change it
        assert p.update(after, v, h * dtype(50 * c), 0.2).damping == after.damping


def test_a_scale_that_is_given_sets_it_and_a_damping_that_is_given_stays():
    v, h = pairs(1, np.float64)[0]
    for kind in ("XMat", "LowRank", "Kronecker"):
        p = KINDS[kind]
        assert float(p.init(N, like=v, scale=10.0).damping) == pytest.approx(1e-18, rel=1e-9, abs=0)
        absolute = replace(p, damping=0.25)
        state = absolute.init(N, like=v)
        for c in (1.0, 1e9):
            assert float(absolute.update(state, v, c * h, 0.1).damping) == 0.25


@pytest.mark.parametrize(
    "kind", ["Diagonal", "XMat", "Klein", "Dense", "LowRank", "LowRank, left", "Kronecker"]
)
@pytest.mark.parametrize("c", [1e-6, 1e6])
def test_zero_products_after_the_first_pair_end_at_the_bound_of_its_scale(kind, c):
    """P tends to 1 / lambda, and single probes leave it near: a factor of 2.4 was seen at this step."""
    p, rng = KINDS[kind], np.random.default_rng(1)
    state = p.init(N, like=np.zeros(1, np.float32))
    v, h = pairs(1, np.float32)[0]
    state = p.update(state, v, h * np.float32(c), 0.1)
    zero, top = np.zeros(N, np.float32), 0.0
    for t in range(2000):
        step = 0.5 if t < 1000 else 0.1
        state = p.update(state, rng.standard_normal(N).astype(np.float32), zero, step)
        if t > 1000 and t % 50 == 49:
            w = np.linalg.eigvalsh(np.asarray(p.matrix(state), np.float64)) * float(state.damping)
            top = max(top, w[-1])
    assert not state.pending  # a product of nothing is no jump
    assert top < 3
    assert w[0] > (1e-3 if "LowRank" in kind else 0.3)  # it gets there more slowly


def test_signs_as_probes_never_carry_a_diagonal_beyond_the_bound():
    """With v of ones and minus ones the criterion of a diagonal has no noise: P stays below 1 / lambda."""
    p, rng = psgd.Diagonal(damping=1e-3), np.random.default_rng(2)
    state = p.init(N, like=np.zeros(1), scale=1.0)
    for _ in range(400):
        v = rng.choice([-1.0, 1.0], N)
        state = p.update(state, v, 0 * v, 0.5)
        assert np.max(np.diag(p.matrix(state))) <= 1e3 * (1 + 1e-12)
    assert np.min(np.diag(p.matrix(state))) > 999


# -- a jump -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c", [1e12, 1e-6, 1e4])
@pytest.mark.parametrize("step", [0.1, 0.02])
def test_a_jump_and_the_way_back_are_followed_within_some_hundreds_of_updates(kind, c, step):
    p, rng = KINDS[kind], np.random.default_rng(4)  # the default damping allows P to grow by 1e9
    h_matrix = hessian(rng).astype(np.float32)
    state = p.init(N, like=np.zeros(1, np.float32))
    found = []
    for t in range(1500):
        v = rng.standard_normal(N).astype(np.float32)
        state = p.update(state, v, h_matrix @ v * np.float32(c if 300 <= t < 900 else 1), step)
        if t in (299, 899, 1499):
            found.append(log_scale(p, state))
    assert abs(found[1] + np.log(c) - found[0]) < 0.7
    assert abs(found[2] - found[0]) < 0.7


@pytest.mark.parametrize("kind", ["XMat", "Dense", "LowRank", "Kronecker"])
def test_some_outliers_do_not_change_the_scale(kind):
    """Seven pairs far too large, or 63 far too small, are no jump yet; and none is one that ends it."""
    p, made = KINDS[kind], pairs(60, np.float64)
    state = fitted(p, made, 1.0, np.float64)
    for c, count in ((1e3, 7), (1e-3, 63)):
        here = state
        for i in range(count):
            v, h = made[i % len(made)]
            here = p.update(here, v, c * h, 0.01)
            assert not here.pending
        assert abs(int(here.off_scale)) == count
        assert int(p.update(here, *made[-1], 0.01).off_scale) == 0
        v, h = made[-1]
        assert bool(p.update(here, v, c * h, 0.01).pending)


@pytest.mark.parametrize("kind", KINDS)
def test_quiet_times_never_set_the_scale_anew(kind):
    """Indefinite, outside every group, with single probes: the scale is set once."""
    p, rng = KINDS[kind], np.random.default_rng(5)
    basis = np.linalg.qr(rng.standard_normal((N, N)))[0]
    h_matrix = (basis * (np.geomspace(1, 1e3, N) * (-1.0) ** np.arange(N))) @ basis.T
    state = p.init(N, like=np.zeros(1))
    for t in range(800):
        v = rng.standard_normal(N)
        state = p.update(state, v, h_matrix @ v, 0.1)
        if kind != "Blocks":
            assert not state.pending
            assert abs(int(state.off_scale)) < 30 or t < 100


@pytest.mark.parametrize("kind", ["Diagonal", "XMat", "Klein", "Dense", "LowRank"])
def test_kernels_follow_a_jump_as_the_plain_code_does(kind):
    p, made = KINDS[kind], pairs(60, np.float64)
    state = expected = p.init(N, like=np.zeros(1))
    for i in range(120):
        v, h = made[i % len(made)]
        h = h * (1e6 if 20 <= i < 40 else 1.0)
        with kernels.off():
            expected = p.update(expected, v, h, 0.1)
        state = p.update(state, v, h, 0.1)
        for name in ("pending", "off_scale", "count", "skipped"):
            assert getattr(state, name) == getattr(expected, name), (i, name)
    np.testing.assert_allclose(p.matrix(state), p.matrix(expected), rtol=1e-7, atol=1e-12)
