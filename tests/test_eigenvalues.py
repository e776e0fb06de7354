"""Eigenvalues of P from its structure, against those of the dense matrix; and their figure."""

from __future__ import annotations

import numpy as np
import pytest
from registry import GROUPS, backends, core, draw_pairs, every

import psgd_core as psgd

KRONECKER = {
    "two dense": psgd.Kronecker((3, 4), "dense"),
    "triangular and affine": psgd.Kronecker((3, 4), ("triangular", "affine")),
    "diagonal and normalization": psgd.Kronecker((4, 5), ("diagonal", "normalization")),
    "normalization of two": psgd.Kronecker((2, 2), "normalization"),
    "one left out": psgd.Kronecker((3, 2, 2), ("dense", "identity", "diagonal")),
    "none": psgd.Kronecker((3, 2), "identity"),
    "scalar": psgd.Kronecker(()),
}


def moved(p, n, seed=0, dtype="float64"):
    """A NumPy state some updates from the start."""
    v, h = draw_pairs(n, 4, seed)
    state = p.init(n, like=np.zeros(1, dtype=dtype))
    for i in range(4):
        pace = {"memory": 4} if p.takes_memory and not p.takes_step else {"step": 0.3}
        state = p.update(state, v[i].astype(dtype), h[i].astype(dtype), **pace)
    return state


def assert_eigenvalues(p, state, eps=2.0**-52):
    found = np.asarray(p.eigenvalues(state))
    expected = np.linalg.eigvalsh(np.asarray(p.matrix(state)).astype(complex))
    assert found.shape == expected.shape
    assert np.all(np.diff(found) >= 0)
    np.testing.assert_allclose(found, expected, atol=500 * eps * expected[-1], rtol=500 * eps)


@every
def test_eigenvalues_are_those_of_the_dense_matrix(row):
    assert_eigenvalues(row.preconditioner, moved(row.preconditioner, row.n))


@pytest.mark.parametrize("p", KRONECKER.values(), ids=KRONECKER.keys())
def test_eigenvalues_of_kronecker_products(p):
    assert_eigenvalues(p, moved(p, p.n))


def test_eigenvalues_of_a_complex_kronecker_product():
    p, rng = psgd.Kronecker((3, 2), ("triangular", "dense")), np.random.default_rng(0)
    state = p.init(6, like=np.zeros(1, dtype=complex))
    v, h = rng.standard_normal((2, 6, 2)) + 1j * rng.standard_normal((2, 6, 2))
    state = p.update(state, v, h, step=0.5)
    found = p.eigenvalues(state)
    assert found.dtype == np.float64
    assert_eigenvalues(p, state)


def test_eigenvalues_of_blocks_are_those_of_the_parts():
    parts = ((6, psgd.Kronecker((2, 3))), (3, psgd.Dense(geometry="QUAD4P")), (2, psgd.Diagonal()))
    p = psgd.Blocks(parts)
    assert_eigenvalues(p, moved(p, 11))


@backends(lambda b: not b.jitted)
@core
def test_eigenvalues_on_every_library(row, backend):
    """Of the library and dtype of the state, and as accurate."""
    start = moved(row.preconditioner, row.n)
    state = on(backend, start)
    found = row.preconditioner.eigenvalues(state)
    assert found.dtype == backend.dtype
    expected = np.linalg.eigvalsh(row.preconditioner.matrix(start))
    np.testing.assert_allclose(backend.numpy(found), expected, atol=500 * backend.eps * expected[-1])


def on(backend, state):
    if isinstance(state, tuple):
        parts = [on(backend, x) for x in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return backend.asarray(state)


def test_eigenvalues_can_be_traced():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    for p in (psgd.XMat(), psgd.LowRank(2), psgd.Kronecker((3, 2), "dense")):
        state = p.init(6, like=jax.numpy.ones(1), scale=2.0)
        traced = jax.jit(p.eigenvalues)(state)
        np.testing.assert_allclose(traced, p.eigenvalues(state), rtol=1e-5)


def test_small_eigenvalues_are_resolved_to_the_square_of_rounding():
    """Squared singular values: an eigenvalue of P a 1e-20th of the largest has digits of its own."""
    p = psgd.XMat()
    state = p.init(4, like=np.zeros(1), scale=1.0)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    block = turn @ np.diag([1.0, 1e-10])
    blocks = (np.stack([block, np.diag([2.0, 3.0])], axis=2),)
    state = state._replace(q=state.q._replace(blocks=blocks))
    np.testing.assert_allclose(p.eigenvalues(state), [1e-20, 1, 4, 9], rtol=1e-5)


def test_large_states_with_structure_need_no_dense_matrix():
    n = 100_000
    rng = np.random.default_rng(0)
    d = 0.1 + rng.random(n)
    p = psgd.Diagonal()
    state = p.init(n, like=d, scale=1.0)
    state = state._replace(q=state.q._replace(blocks=(d.reshape(1, 1, n),)))
    np.testing.assert_allclose(p.eigenvalues(state), np.sort(d**2), rtol=1e-14)
    p = psgd.Kronecker((400, 250), "diagonal")
    state = p.init(n, like=d, scale=3.0)
    np.testing.assert_allclose(p.eigenvalues(state), np.full(n, 9.0), rtol=1e-13)


def test_what_has_no_structure_and_is_large_says_what_to_do():
    p, n = psgd.LowRank(2), 2100
    state = p.init(n, like=np.zeros(1), scale=2.0)
    assert p.eigenvalues(state).shape == (n,)  # the diagonal is constant
    state = state._replace(d=np.linspace(1, 2, n))
    with pytest.raises(NotImplementedError, match=r"up to 2048 rows, got 2100; .*preconditioner_eigenvalues"):
        p.eigenvalues(state)


def test_states_that_are_not_finite_are_refused():
    p = psgd.Dense()
    state = p.init(3, like=np.zeros(1), scale=1.0)
    state.q.blocks[0][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"`OrbitState\.q\.blocks\.0` must be finite"):
        p.plot(state)
    with pytest.raises(TypeError, match="`state` must be a LowRankState"):
        psgd.LowRank(1).eigenvalues(state)


def test_singular_values_of_an_element_of_a_group():
    subgroup = GROUPS["three orbit sizes"]
    group = psgd.groups.SparseGroup(subgroup)
    element = group.project(np.random.default_rng(0).standard_normal((6, 6)))
    found = np.sort(group.singular_values(element))
    np.testing.assert_allclose(found, np.sort(np.linalg.svd(group.matrix(element), compute_uv=False)))


def test_the_figure_shows_the_eigenvalues_over_their_index():
    pytest.importorskip("matplotlib")
    p = psgd.XMat()
    state = moved(p, 7)
    ax = p.plot(state)
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 8))
    np.testing.assert_array_equal(line.get_ydata(), p.eigenvalues(state))
    assert ax.get_yscale() == "log"
    values = p.eigenvalues(state)
    assert f"n = 7, largest / smallest = {values[-1] / values[0]:.3g}" in ax.get_title()
    assert p.plot(state, ax) is ax
