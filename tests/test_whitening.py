"""Whitening: P tends to ``E[g g^T]^{-1/2}``, v drawn or integrated out, of gradients and of momentum."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from registry import GROUPS, backends

import psgd_core as psgd
from psgd_core import convergence, criterion, curvature
from psgd_core.preconditioners.geometries import GEOMETRIES

N, SAMPLES = 6, 9
FLIP, SIZES = GROUPS["flip"], GROUPS["three orbit sizes"]


def gradients(seed=0, n=N):
    """A few gradients, dense in their directions, as columns."""
    rng = np.random.default_rng(seed)
    return (np.eye(n) + 0.5 * rng.standard_normal((n, n))) @ rng.standard_normal((n, SAMPLES))


def root_of(g):
    """``E[g g^T]^{1/2}``, in the Hessian's place."""
    return scipy.linalg.sqrtm(g @ g.T / g.shape[1]).real


def white(g):
    """What P should be for each preconditioner that the tests take."""
    root, shape = root_of(g), (3, 2)
    leaf = np.ix_(range(2), range(2)), np.ix_(range(2, N), range(2, N))
    moment = root @ root
    tree = scipy.linalg.block_diag(
        np.diag(np.diag(moment[leaf[0]]) ** -0.5), np.linalg.inv(scipy.linalg.sqrtm(moment[leaf[1]]).real)
    )
    return {
        "Diagonal": (psgd.Diagonal(), np.diag(np.diag(moment) ** -0.5)),
        "XMat": (psgd.XMat(), criterion.group_minimizer(root, FLIP.orbit_index)),
        "Sparse": (psgd.Sparse(SIZES), criterion.group_minimizer(root, SIZES.orbit_index)),
        "Dense": (psgd.Dense(), np.linalg.inv(root)),
        "Kronecker": (psgd.Kronecker(shape, "dense"), criterion.kronecker_minimizer(root, shape)),
        "Kronecker, diagonal": (
            psgd.Kronecker(shape, "diagonal"),
            criterion.kronecker_minimizer(root, shape, ("diagonal", "diagonal")),
        ),
        "Kronecker, triangular": (
            psgd.Kronecker(shape, "triangular"),
            criterion.kronecker_minimizer(root, shape),
        ),
        "Blocks": (psgd.Blocks(((2, psgd.Kronecker((2,))), (4, psgd.Dense()))), tree),
    }


NAMES = list(white(gradients()))


def settled(p, g, target, step):
    """The state that is within 1e-9 of the target, which it must reach within 2,500 updates."""
    state = p.init(N, g)
    for _ in range(50):
        for _ in range(50):
            state = p.update(state, None, g, step)
        if float(convergence.distance(p.apply(state, np.eye(N)), target)) < 1e-9:
            return state
    raise AssertionError("not within 1e-9 of the target")


@pytest.mark.parametrize("name", NAMES)
def test_integrated_whitening_ends_at_the_groups_own_root(name):
    """All gradients in one update: their mean is the expectation."""
    g = gradients()
    p, best = white(g)[name]
    state = settled(p, g, convergence.target_at(best), 0.9)
    assert int(state.skipped) == 0


@pytest.mark.parametrize("geometry", list(GEOMETRIES))
def test_integrated_whitening_in_every_geometry(geometry):
    g = gradients()
    best = convergence.target_at(np.linalg.inv(root_of(g)))
    kappa = float(np.linalg.cond(best.minimizer))
    p = psgd.Dense(geometry=geometry)
    settled(p, g, best, 0.9 * convergence.stable_step(kappa, geometry))


@pytest.mark.parametrize("name", ["XMat", "Kronecker"])
def test_drawn_probes_end_there_as_the_step_is_annealed(name):
    """One gradient and one probe a time: the distance falls with the step, far below where it began."""
    g, rng = gradients(), np.random.default_rng(1)
    p, best = white(g)[name]
    target, state = convergence.target_at(best), p.init(N, g)
    for t in range(2500):
        v, h = rng.standard_normal(N), g[:, t % SAMPLES]
        state = p.update(state, v, h, 0.3 / (1 + t / 100))
    assert float(convergence.distance(p.apply(state, np.eye(N)), target)) < 0.2


def test_integrating_out_is_the_mean_over_probes():
    """``basis`` probes, whose mean ``v v^T`` is I, move `Dense` and `Kronecker` as no probe does."""
    g = gradients()[:, :1]
    for p in (psgd.Dense(damping=0), psgd.Kronecker((3, 2), ("dense", "diagonal"), damping=0)):
        state = p.init(N, g, scale=0.7)
        v = N**0.5 * np.eye(N)
        h = N**0.5 * np.concatenate([g, np.zeros((N, N - 1))], axis=1)
        for _ in range(3):
            one, two = p.update(state, None, g, 0.3), p.update(state, v, h, 0.3)
            np.testing.assert_allclose(p.matrix(one), p.matrix(two), atol=1e-12)
            state = one


@backends(lambda b: b.library != "jax.numpy" or b.name == "jax-jit-f32")
@pytest.mark.parametrize("name", ["Sparse", "Kronecker, triangular", "Blocks"])
def test_every_library_whitens_alike(backend, name):
    g = gradients()
    p, _ = white(g)[name]
    expected = p.matrix(p.update(p.init(N, g), None, g, 0.3))
    run = backend.jit(lambda s, g: p.matrix(p.update(s, None, g, 0.3)))
    got = backend.numpy(run(p.init(N, backend.asarray(g)), backend.asarray(g)))
    np.testing.assert_allclose(got, expected, atol=300 * backend.eps * abs(expected).max())


@pytest.mark.parametrize("of_momentum", [False, True])
@pytest.mark.parametrize("integrated", [False, True])
def test_the_loop_whitens_gradients_or_momentum(of_momentum, integrated):
    """f(x, z) = z.x has gradient z; m averages them, with covariance ``(1 - β) / (1 + β) E[z z^T]``."""
    beta, rng = 0.5, np.random.default_rng(2)
    factor = np.array([[1.0, 0.0], [0.6, 0.5]])
    opt = psgd.PSGD(
        psgd.Dense(),
        lr=1e-9,
        momentum=beta,
        source=curvature.Whitening(of_momentum=of_momentum, integrated=integrated),
        step_size=psgd.schedules.Exponential(0.3, 0.002, over=2000),
    )
    x = np.zeros(2)
    state = opt.init(x)
    for _ in range(2000):
        z = factor @ rng.standard_normal(2)
        functions = curvature.Functions(gradient=lambda x, z=z: z)
        v = None if integrated else opt.probes.draw(rng, x)
        x, state = opt.step(state, x, functions, v)
    moment = factor @ factor.T * ((1 - beta) / (1 + beta) if of_momentum else 1.0)
    target = convergence.target_at(np.linalg.inv(scipy.linalg.sqrtm(moment).real))
    q = opt.preconditioner.apply(state.preconditioner, np.eye(2))
    assert float(convergence.distance(q, target)) < 0.15


def test_minimize_with_integrated_whitening_draws_no_probes():
    rng = np.random.default_rng(3)
    a = rng.standard_normal((30, 4))
    result = psgd.minimize(
        lambda x: 0.5 * np.sum((a @ x - 1) ** 2),
        np.zeros(4),
        grad=lambda x: a.T @ (a @ x - 1),
        preconditioner=psgd.Kronecker((4,)),
        source=curvature.Whitening(integrated=True),
        maxiter=300,
    )
    best = np.linalg.lstsq(a, np.ones(30), rcond=None)[0]
    assert result.fun < 1.01 * 0.5 * np.sum((a @ best - 1) ** 2)


def test_what_cannot_be_integrated_out_says_so():
    p = psgd.LowRank(rank=2)
    with pytest.raises(ValueError, match="`v` must be given to LowRank, got None"):
        p.update(p.init(N, np.zeros(1)), None, np.ones(N), 0.1)
    d = psgd.Dense()
    with pytest.raises(ValueError, match="`v` must be given for the criterion"):
        d.criterion(d.init(N, np.zeros(1)), None, np.ones(N))
    with pytest.raises(ValueError, match="`h` must hold at least one gradient"):
        d.update(d.init(N, np.zeros(1)), None, np.ones((N, 0)), 0.1)
    same = d.update(d.init(N, np.zeros(1)), None, np.full(N, np.nan), 0.1)
    assert int(same.skipped) == 1
