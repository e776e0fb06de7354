"""The running closed form: against dense matrix functions, from the first pair to the last."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import GROUPS as SUBGROUPS
from registry import arrays, draw_pairs

import psgd_core as psgd
from psgd_core import convergence
from psgd_core.arrays import symmetric
from psgd_core.groups import DiagonalGroup, GeneralLinear, SparseGroup, XMatGroup

N = 6
GROUPS = {
    "diagonal": DiagonalGroup(),
    "x": XMatGroup(),
    "three sizes": SparseGroup(SUBGROUPS["three orbit sizes"]),
    "GL(n)": GeneralLinear(),
}
all_groups = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS.keys())
ALL = 1e-9
"""The step that forgets nothing here."""


def orbits(group, n=N):
    return [orbit for members in group.subgroup(n).orbit_index for orbit in np.asarray(members).T]


def fitted(p, pairs, step, n=N):
    state = p.init(n, like=np.zeros(1))
    for v, h in pairs:
        state = p.update(state, v, h, step)
    return state


def in_group(group, rng, signs=False):
    """A symmetric H of the group, definite unless `signs`, with condition numbers of about 10 on orbits."""
    h = np.zeros((N, N))
    for orbit in orbits(group):
        q = np.linalg.qr(rng.standard_normal((orbit.size, orbit.size)))[0]
        w = np.geomspace(1, 10, orbit.size) * (rng.choice([-1, 1], orbit.size) if signs else 1)
        h[np.ix_(orbit, orbit)] = (q * w) @ q.T
    return (h + h.T) / 2


def power(a, exponent):
    return np.real(scipy.linalg.fractional_matrix_power(a, exponent))


@all_groups
@pytest.mark.parametrize("step", [ALL, 0.02])
def test_p_is_the_root_of_the_weighted_mean(group, step):
    """Weights of the pairs written out, roots by SciPy; so many pairs that the start has faded."""
    v, h = draw_pairs(N, 120, 1)
    p = psgd.ClosedForm(group, damping=0)
    found = p.matrix(fitted(p, zip(v, h, strict=True), step))
    weights = np.ones(1)
    for t in range(2, 121):  # pair t enters with weight 1 / min(t, 1 / step)
        new = max(1 / t, step)
        weights = np.append((1 - new) * weights, new)
    size = np.sqrt(np.sum(weights[:, None] * v**2) / N)
    # what is left of the start: nothing, but where 1 / step pairs are few for the orbit
    for orbit in orbits(group):
        share = np.exp(-4 * (min(120, 1 / step) - 1) / orbit.size)
        mean = np.einsum("t,ti,tj->ij", weights, h[:, orbit], h[:, orbit])
        mean = (1 - share) * mean + share * np.sum(weights[:, None] * h**2) / N * np.eye(orbit.size)
        np.testing.assert_allclose(
            found[np.ix_(orbit, orbit)], size * power(mean, -0.5), rtol=1e-8, atol=1e-9
        )


@all_groups
def test_the_sampled_one_minimises_the_criterion_on_the_pairs(group):
    """``P (mean h h^T) P = mean v v^T`` on each orbit, and no other P of the group does better."""
    v, h = draw_pairs(N, 120, 2)
    p = psgd.ClosedForm(group, probes="sampled", damping=0)
    found = p.matrix(fitted(p, zip(v, h, strict=True), ALL))
    for orbit in orbits(group):
        at, x, y = found[np.ix_(orbit, orbit)], h[:, orbit], v[:, orbit]
        np.testing.assert_allclose(at @ (x.T @ x) @ at, y.T @ y, rtol=1e-8, atol=1e-7)

    def criterion(p):
        return np.sum((h @ p) * h) + np.sum((v @ np.linalg.inv(p)) * v)

    rng, least = np.random.default_rng(3), criterion(found)
    for _ in range(20):
        q = np.eye(N) + 1e-3 * np.where(found != 0, rng.standard_normal((N, N)), 0)
        assert criterion(q.T @ found @ q) > least


@all_groups
def test_definite_hessians_in_the_group_are_found_exactly_by_the_sampled_one(group):
    rng = np.random.default_rng(4)
    h, v = in_group(group, rng), rng.standard_normal((80, N))
    target = convergence.target(h, group.subgroup(N).orbit_index)
    for probes, least, most in (("sampled", 0, 1e-10), ("expected", 0.01, 0.3)):
        p = psgd.ClosedForm(group, probes=probes)
        state = fitted(p, zip(v, v @ h, strict=True), ALL)
        assert least <= float(convergence.distance(p.apply(state, np.eye(N)), target)) < most


@all_groups
@pytest.mark.parametrize("probes", ["expected", "sampled"])
def test_its_limit_is_the_groups_minimiser(group, probes):
    """Exact expectations of an indefinite H outside the group: only the start has to fade."""
    rng = np.random.default_rng(5)
    q = np.linalg.qr(rng.standard_normal((N, N)))[0]
    h, v = (q * np.array([1.0, -2, 3, -4, 5, 6])) @ q.T, N**0.5 * np.eye(N)
    p = psgd.ClosedForm(group, probes=probes)
    state = fitted(p, [(v, h @ v)] * 12, ALL)
    expected = psgd.criterion.group_minimizer(h, group.subgroup(N).orbit_index)
    np.testing.assert_allclose(p.matrix(state), expected, rtol=1e-9, atol=1e-11)


def test_on_the_diagonal_it_is_the_estimator_of_adahessian():
    v, h = draw_pairs(N, 60, 6)
    v = np.sign(v)
    p = psgd.ClosedForm(DiagonalGroup())
    state = fitted(p, zip(v, v * h, strict=True), ALL)
    np.testing.assert_allclose(np.diag(p.matrix(state)), np.mean((v * h) ** 2, axis=0) ** -0.5, rtol=1e-12)


@pytest.mark.parametrize("probes", ["expected", "sampled"])
def test_before_there_are_enough_pairs_p_is_close_to_a_multiple_of_the_identity(probes):
    """From 1 pair to 40 of n = 20, P is well-conditioned, and its criterion falls."""
    rng, n = np.random.default_rng(7), 20
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    hessian = (q * np.geomspace(1, 30, n)) @ q.T
    p = psgd.ClosedForm(GeneralLinear(), probes=probes)
    state, values = p.init(n, like=np.zeros(1)), []
    for _ in range(40):
        v = rng.standard_normal(n)
        state = p.update(state, v, hessian @ v, ALL)
        dense = p.matrix(state)
        assert np.linalg.cond(dense) < 300
        values.append(np.trace(dense @ hessian @ hessian) + np.trace(np.linalg.inv(dense)))
    assert values[-1] < values[19] < values[9] < values[0]
    assert values[-1] < 1.2 * 2 * np.trace(hessian)


def test_a_jump_of_h_starts_it_anew():
    """By 1e6 up: after 8 pairs that say so what was before is forgotten, whatever the memory."""
    rng = np.random.default_rng(8)
    h, v = in_group(XMatGroup(), rng, signs=True), rng.standard_normal((400, N))
    p = psgd.ClosedForm(XMatGroup())
    state = fitted(p, zip(v[:200], 1e6 * v[:200] @ h, strict=True), ALL)
    for x in v[200:]:
        state = p.update(state, x, h @ x, ALL)
    assert float(state.held.pairs) < 200
    target = convergence.target(h, XMatGroup().subgroup(N).orbit_index)
    assert float(convergence.distance(p.apply(state, np.eye(N)), target)) < 0.2


def test_a_short_memory_follows_a_drift_that_a_long_one_averages():
    rng = np.random.default_rng(9)
    errors = {}
    for step in (ALL, 1 / 40):
        p, h = psgd.ClosedForm(DiagonalGroup()), np.geomspace(1, 10, N)
        state = p.init(N, like=np.zeros(1))
        for _ in range(1500):
            h = h * 1.003
            v = rng.standard_normal(N)
            state = p.update(state, v, h * v, step)
        errors[step] = np.sqrt(np.mean(np.log(np.diag(p.matrix(state)) * h) ** 2))
    assert errors[1 / 40] < 0.4 < 0.8 < errors[ALL]


@pytest.mark.parametrize("probes", ["expected", "sampled"])
def test_orbits_of_any_size_keep_apart_in_float32(probes):
    """Entries of 1e30 beside some of 1e-8: squares of neither are formed."""
    scales = np.array([1e30, 1e-8, 1e3, 1e3, 1e-8, 1e30], dtype=np.float32)
    rng, p = np.random.default_rng(10), psgd.ClosedForm(XMatGroup(), probes=probes, damping=0)
    state = p.init(N, like=scales)
    for _ in range(60):
        v = rng.standard_normal(N).astype(np.float32)
        state = p.update(state, v, scales * v, ALL)
    found = np.diag(np.asarray(p.matrix(state), dtype=float)) * scales.astype(float)
    np.testing.assert_allclose(found[[0, 2, 3, 5]], 1, rtol=0.5)
    p.check(state)


def test_orbits_whose_products_are_always_zero_stay_without_damping_and_end_at_its_bound_with_it():
    for damping, expected in ((0.0, None), (1e-3, 1e3)):
        p = psgd.ClosedForm(DiagonalGroup(), damping=damping)
        state, rng = p.init(N, like=np.zeros(1)), np.random.default_rng(11)
        for _ in range(400):
            v = rng.choice([-1.0, 1.0], N)
            state = p.update(state, v, np.where(np.arange(N) == 2, 0.0, 2 * v), ALL)
        found = np.diag(p.matrix(state))
        np.testing.assert_allclose(np.delete(found, 2), 0.5, rtol=1e-6)
        assert np.isfinite(found[2])
        if expected:
            assert found[2] == pytest.approx(expected, rel=1e-9)


@all_groups
def test_gradients_alone_give_the_root_of_their_covariance(group):
    rng = np.random.default_rng(12)
    root, z = rng.standard_normal((N, N)), rng.standard_normal((200, N))
    g = z @ root
    for probes in ("expected", "sampled"):
        p = psgd.ClosedForm(group, probes=probes)
        found = p.matrix(fitted(p, ((None, x) for x in g), ALL))
        for orbit in orbits(group):
            mean = g[:, orbit].T @ g[:, orbit] / 200
            np.testing.assert_allclose(found[np.ix_(orbit, orbit)], power(mean, -0.5), rtol=1e-8, atol=1e-9)


def test_a_memory_is_the_least_weight_of_a_pair():
    v, h = draw_pairs(N, 50, 15)
    for memory, step in (("all", ALL), (19, 0.1)):
        p = psgd.ClosedForm(XMatGroup())
        one, other = p.init(N, like=v), fitted(p, zip(v, h, strict=True), step)
        for x, y in zip(v, h, strict=True):
            one = p.update(one, x, y, memory=memory)
        np.testing.assert_allclose(p.matrix(one), p.matrix(other), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("probes", ["expected", "sampled"])
def test_the_first_pairs_are_learnt_like_any(probes):
    v, h = draw_pairs(N, 40, 16)
    p = psgd.ClosedForm(GROUPS["three sizes"], probes=probes)
    state = p.init(N, like=v, pairs=(v[:30].T, h[:30].T))
    assert not bool(state.pending)
    for x, y in zip(v[30:], h[30:], strict=True):
        state = p.update(state, x, y, ALL)
    expected = p.matrix(fitted(p, zip(v, h, strict=True), ALL))
    np.testing.assert_allclose(p.matrix(state), expected, rtol=1e-6, atol=1e-9)
    bad = p.init(N, like=v, pairs=(v[:30].T, h[:30].T * np.nan))
    assert bool(bad.pending)


def test_k_columns_are_k_pairs():
    v, h = draw_pairs(N, 60, 13)
    for probes in ("expected", "sampled"):
        p = psgd.ClosedForm(GROUPS["three sizes"], probes=probes)
        one = p.matrix(fitted(p, zip(v, h, strict=True), ALL))
        columns = [(v[i : i + 5].T, h[i : i + 5].T) for i in range(0, 60, 5)]
        np.testing.assert_allclose(p.matrix(fitted(p, columns, ALL)), one, rtol=1e-9, atol=1e-12)


def test_bad_configurations():
    with pytest.raises(TypeError, match=r"`group` must be a group of Theorem 3\.1, got str; make one of"):
        psgd.ClosedForm("diagonal")
    with pytest.raises(ValueError, match="`probes` must be"):
        psgd.ClosedForm(DiagonalGroup(), probes="drawn")
    with pytest.raises(ValueError, match="`damping` must be None or a finite number >= 0, got -1"):
        psgd.ClosedForm(DiagonalGroup(), damping=-1)


def test_a_state_of_another_configuration_is_refused():
    p = psgd.ClosedForm(DiagonalGroup())
    other = replace(p, probes="sampled")
    with pytest.raises(ValueError, match=r"`state.held.probes` must be"):
        other.matrix(p.init(N, like=np.zeros(1)))


def test_a_checkpoint_gives_the_same_bits(tmp_path):
    v, h = draw_pairs(N, 9, 14)
    p = psgd.ClosedForm(GROUPS["three sizes"], probes="sampled")
    state = fitted(p, zip(v[:8], h[:8], strict=True), 0.1)
    psgd.save(tmp_path / "state.npz", state, config=p)
    again = psgd.load(tmp_path / "state.npz", like=p.init(N, like=np.zeros(1)), config=p)
    one, other = (p.update(x, v[8], h[8], 0.1) for x in (state, again))
    for x, y in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(ValueError, match="config"):
        psgd.load(tmp_path / "state.npz", like=state, config=replace(p, group=XMatGroup()))


# -- eigenvalues of many small blocks ------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), s=st.integers(1, 5))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_eigh_takes_every_block_apart(seed, s):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((s, s, 7)) * 10.0 ** rng.integers(-8, 8, 7)
    a[:, :, 0], a[:, :, 1] = 0, np.eye(s)
    a = (a + a.transpose(1, 0, 2)) / 2
    w, e = symmetric.eigh(a)
    for i in range(7):
        size = max(np.max(np.abs(a[:, :, i])), 1e-300)
        np.testing.assert_allclose(
            (e[:, :, i] * w[:, i]) @ e[:, :, i].T / size, a[:, :, i] / size, atol=1e-13
        )
        np.testing.assert_allclose(e[:, :, i].T @ e[:, :, i], np.eye(s), atol=1e-13)
        np.testing.assert_allclose(w[:, i] / size, np.linalg.eigvalsh(a[:, :, i]) / size, atol=1e-13)


def test_eigh_keeps_the_small_eigenvalues_of_graded_pairs():
    a = np.array([[1.0, 1e-10], [1e-10, 4e-20]])[:, :, None]
    np.testing.assert_allclose(symmetric.eigh(a)[0][:, 0], [3e-20, 1.0], rtol=1e-10)


def test_every_library_takes_blocks_apart_alike(backend, rng):
    for s in (1, 2, 3):
        a = rng.standard_normal((s, s, 4))
        a = a + a.transpose(1, 0, 2)
        w, e = backend.jit(symmetric.eigh)(backend.asarray(a))
        w, e = backend.numpy(w), backend.numpy(e)
        np.testing.assert_allclose(np.einsum("isc,sc,jsc->ijc", e, w, e), a, atol=50 * backend.eps)
