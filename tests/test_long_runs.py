"""Long float32 runs stay finite, balanced, and as good as they were: 10^5 updates, 10^6 with PSGD_LONG=1."""

import os

import numpy as np
import pytest

import psgd_core as psgd
from psgd_analysis.problems import hessians
from psgd_core import PermutationSubgroup, convergence

N, KAPPA, STEP = 64, 30.0, 0.1
UPDATES = 1_000_000 if os.environ.get("PSGD_LONG") else 100_000
WINDOW = 10_000
EVERY = 200  # updates between two measurements

RUNS = {
    "Diagonal": psgd.Diagonal(),
    "XMat": psgd.XMat(),
    "Butterfly": psgd.Butterfly(),
    "Sparse, Klein": psgd.Sparse(PermutationSubgroup.klein(N)),
    "Dense": psgd.Dense(),
    "LowRank": psgd.LowRank(4),
    "LowRank, diagonal left": psgd.LowRank(4, diagonal="left"),
}


def problem(p):
    """A Hessian, its noise on the products, and the target: all leave an error that never vanishes."""
    rng = np.random.default_rng(7)
    if isinstance(p, psgd.LowRank):
        hessian = np.asarray(hessians.low_rank_target(N, p.rank, KAPPA, rng, diagonal=p.diagonal).hessian)
        return hessian, 0.05, convergence.target(hessian, noise=0.05**2 * np.eye(N))
    hessian = np.asarray(hessians.dense(N, KAPPA, rng, indefinite=True))
    return hessian, 0.0, convergence.target(hessian, p.group.subgroup(N).orbit_index)


@pytest.mark.slow
@pytest.mark.parametrize("p", RUNS.values(), ids=RUNS.keys())
def test_the_error_is_no_worse_at_the_end(p):
    jax = pytest.importorskip("jax", reason="the run is compiled with JAX: minutes become seconds")
    jnp = jax.numpy
    hessian, noise, target = problem(p)
    h32 = jnp.asarray(hessian, dtype=jnp.float32)
    eye = jnp.eye(N, dtype=jnp.float32)

    def update(state, key):
        k1, k2 = jax.random.split(key)
        v = jax.random.normal(k1, (N,), jnp.float32)
        h = h32 @ v + noise * jax.random.normal(k2, (N,), jnp.float32)
        return p.update(state, v, h, STEP), None

    @jax.jit
    def run(state, key):
        def block(state, key):
            state, _ = jax.lax.scan(update, state, jax.random.split(key, EVERY))
            return state, p.apply(state, eye)

        return jax.lax.scan(block, state, jax.random.split(key, WINDOW // EVERY))

    def errors(q):
        return np.median([float(convergence.distance(np.asarray(x, dtype=np.float64), target)) for x in q])

    state, medians = p.init(N, like=h32), []
    for i in range(UPDATES // WINDOW):
        state, q = run(state, jax.random.key(i))
        medians.append(errors(q))
    assert int(state.skipped) == 0
    assert int(state.count) == UPDATES
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state))
    # the first window holds the transient, the second is what the last is compared with
    assert medians[-1] < 2 * medians[1], medians
    if isinstance(p, psgd.LowRank):
        ratio = float(jnp.linalg.norm(state.u) / jnp.linalg.norm(state.v))
        assert 1 / 8 < ratio < 8
