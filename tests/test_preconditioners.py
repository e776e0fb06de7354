"""Every preconditioner: its verbs against dense matrices, its updates against dense algebra written out."""

from __future__ import annotations

from dataclasses import replace

import array_api_compat
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import (
    PRECONDITIONERS,
    arrays,
    backends,
    compiled_jax_only,
    core,
    draw_pairs,
    equivariant,
    every,
    without_jax,
)

import psgd_core as psgd
from psgd_core import kernels, normalizers
from psgd_core.arrays.draws import signs
from psgd_core.groups import OrbitBlocks
from psgd_core.preconditioners import OrbitState

EPS = 2.0**-52
NUMPY = np.zeros(1)


def fitted(row, updates=8, seed=0, step=0.3, like=NUMPY):
    """A NumPy state some way from the start, and from every symmetry."""
    p, state = row.preconditioner, row.preconditioner.init(row.n, like)
    for v, h in zip(*draw_pairs(row.n, updates, seed), strict=True):
        state = p.update(state, v.astype(like.dtype), h.astype(like.dtype), step)
    return state


def factor(p, state):
    """Q as a dense NumPy matrix, by applying it to the identity."""
    return p.apply(state, np.eye(p.size(state)))


def near(actual, expected, rounding):
    """Equal up to `rounding` relative to the largest entry."""
    actual, expected = np.asarray(actual, dtype=float), np.asarray(expected, dtype=float)
    assert actual.shape == expected.shape
    largest_entry = np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rounding * largest_entry)


def inner_condition(state):
    """The condition of what low-rank verbs solve with, I + V^T U, which no condition of Q bounds; else 1."""
    rank = len(getattr(state, "u", ()))
    return np.linalg.cond(np.eye(rank) + state.v @ state.u.T) if rank else 1.0


# -- the verbs -----------------------------------------------------------------------------------------------


@every
@given(seed=st.integers(0, 10**6), k=st.sampled_from([None, 0, 1, 3]))
@settings(deadline=None, derandomize=True, max_examples=6)
def test_verbs_are_those_of_the_matrices(row, seed, k):
    p, n = row.preconditioner, row.n
    state = fitted(row, seed=seed)
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, n) if k is None else (2, n, k))
    q = factor(p, state)
    dense = q.T @ q
    rounding = 1000 * EPS * max(np.linalg.cond(q) ** 2, inner_condition(state))
    near(p.matrix(state), dense, rounding)
    if k != 0:
        near(p.apply(state, x), q @ x, rounding)
        near(p.apply_transpose(state, x), q.T @ x, rounding)
        near(p.solve(state, x), np.linalg.solve(q, x), rounding)
        near(p.solve_transpose(state, x), np.linalg.solve(q.T, x), rounding)
        near(p.precondition(state, x), dense @ x, rounding)
        near(np.sum(y * p.precondition(state, x)), np.sum(x * p.precondition(state, y)), 10 * rounding)
        value = np.sum(x * (dense @ x)) + np.sum(y * np.linalg.solve(dense, y))
        near(p.criterion(state, y, x), value / (k or 1), 10 * rounding)
    else:
        for verb in (p.apply, p.apply_transpose, p.solve, p.solve_transpose, p.precondition):
            assert verb(state, x).shape == (n, 0)
    near(p.log_det(state), np.linalg.slogdet(dense)[1], rounding + 100 * EPS * n)
    assert p.size(state) == n
    p.check(state)


@every
def test_the_start_is_close_to_a_multiple_of_the_identity(row):
    p, n = row.preconditioner, row.n
    for scale in (1.0, 1e-3, 7.0):
        near(p.matrix(p.init(n, NUMPY, scale=scale)), scale**2 * np.eye(n), 0.5)
    state = p.init(n, NUMPY)
    assert bool(state.pending)
    assert not bool(p.init(n, NUMPY, scale=2.0).pending)
    assert int(state.count) == int(state.skipped) == 0


@every
def test_the_first_pair_sets_the_scale_to_the_best_multiple(row):
    """The criterion over multiples of the start is least at the scale taken: no other one does better."""
    p, n = row.preconditioner, row.n
    v, h = (x[0] * s for x, s in zip(draw_pairs(n, 1, 3), (1e-2, 1e4), strict=True))
    step = 1e-12  # so that the update does nothing but set the scale
    state = p.update(p.init(n, NUMPY), v, h, step)
    start = factor(p, p.init(n, NUMPY, scale=1.0))
    # (`LowRank` leaves its small U V^T out: the best multiple of diag(d) = I)
    scaled = np.eye(n) if isinstance(p, psgd.LowRank) else start
    c4 = np.sum(np.linalg.solve(scaled.T, v) ** 2) / np.sum((scaled @ h) ** 2)
    near(p.matrix(state), c4**0.5 * start.T @ start, 1e-9)
    assert not bool(state.pending)
    assert int(state.count) == 1


def test_ranks_and_draws_of_the_low_rank_start():
    for n in (2, 3, 8, 33):
        for rank in {1, n // 2, n - 1}:
            state = psgd.LowRank(rank=rank).init(n, NUMPY)
            for factors in (state.u, state.v):
                assert factors.shape == (rank, n)
                assert np.linalg.matrix_rank(factors) >= rank - 1
            assert max(np.linalg.matrix_rank(state.u), np.linalg.matrix_rank(state.v)) == rank
    p = psgd.LowRank(rank=2)
    same, again, other = (p.init(6, NUMPY, rng=np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(same.u, again.u)
    assert not np.allclose(same.u, other.u)
    assert not np.allclose(same.u, same.v)


def test_the_low_rank_start_from_a_jax_key():
    jax = pytest.importorskip("jax")
    like = jax.numpy.zeros(1)
    start = jax.jit(lambda key: psgd.LowRank(rank=2).init(6, like, rng=key))
    state, other = start(jax.random.key(0)), start(jax.random.key(1))
    assert state.u.shape == (2, 6)
    assert not np.allclose(state.u, other.u)
    assert not np.allclose(state.u, state.v)


# -- updates, densely ----------------------------------------------------------------------------------------


def largest(s):
    """The bound that steps are normalised with: exact up to size 2, ``tr(S^64)^(1/64)`` above."""
    w = np.maximum(np.linalg.eigvalsh(s), 0)
    return w[-1] if len(s) <= 2 else w[-1] * np.sum((w / w[-1]) ** 64) ** (1 / 64)


def norm(x):
    return largest(x @ x.T) ** 0.5


def dense_orbit_update(p, subgroup, q, held, v, h, step):
    """Section 3 on dense matrices, orbit by orbit: (Q, what the normaliser holds), damping in expectation."""
    k = v.shape[1]
    lam = p.damping or 0.0
    p_matrix = q.T @ q
    a, b = q @ h, np.linalg.solve(q.T, v)
    aa, bb = a @ a.T / k + lam**2 * q @ q.T, b @ b.T / k
    ph, pv = p_matrix @ h, np.linalg.solve(p_matrix, v)
    orbits = [np.flatnonzero(subgroup.orbits == i) for i in range(subgroup.orbits.max() + 1)]
    sizes = []
    for o in orbits:
        at = np.ix_(o, o)
        if p.geometry == "EQ" and p.normalizer.measure == "curvature":
            sizes.append(np.trace(aa[at] + bb[at]) if k == 1 else largest(aa[at] + bb[at]))
        elif p.geometry == "EQ":
            exact = k == 1 and not lam
            sizes.append(np.linalg.norm((aa - bb)[at], 2) if exact else norm((aa - bb)[at]))
        else:
            parts = [x[o] @ y[o].T / k for x, y in ((ph, h), (v, pv))]
            sizes.append(
                norm(parts[0] - parts[1]) if p.normalizer.measure == "gradient" else sum(map(norm, parts))
            )
    sizes = np.sqrt(sizes if p.steps == "orbit" else [max(sizes)] * len(sizes))
    if isinstance(p.normalizer, normalizers.Running):
        before = np.where(held > 0, held, sizes)
        n_root = np.maximum(before, step**0.25 * sizes)
        held = 0.99 * before + 0.01 * np.minimum(sizes, 10 * before)
    else:
        n_root = held = sizes
    new = q.copy()
    for o, scale in zip(orbits, n_root, strict=True):
        at = np.ix_(o, o)
        if p.geometry == "EQ":
            new[at] = q[at] - step / scale**2 * (aa - bb)[at] @ q[at]
        else:
            g = (ph[o] @ h[o].T - v[o] @ pv[o].T) / k
            new[at] = q[at] - step / scale**2 * q[at] @ g
    return new, held


ORBIT_ROWS = {
    name: row
    for name, row in PRECONDITIONERS.items()
    if row.subgroup is not None and row.geometry in ("EQ", "QE")
}


@pytest.mark.parametrize("row", ORBIT_ROWS.values(), ids=ORBIT_ROWS.keys())
@pytest.mark.parametrize("normalizer", [normalizers.Running(), normalizers.Sample(), normalizers.Gradient()])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_updates_on_orbits_are_section_3_written_out(row, normalizer, k):
    p = replace(row.preconditioner, normalizer=normalizer, damping=0)
    n, subgroup = row.n, row.subgroup
    state = p.init(n, NUMPY, scale=0.8)
    q, held = 0.8 * np.eye(n), np.zeros(subgroup.orbits.max() + 1)
    step = 0.2
    for v, h in zip(*draw_pairs(n, 4, 5, k), strict=True):
        q, held = dense_orbit_update(p, subgroup, q, held, v, h, step)
        state = p.update(state, v, h, step)
        near(factor(p, state), q, 1e-12)


DAMPED = ["Diagonal", "XMat", "Sparse, three orbit sizes", "Sparse, step per group"]


@pytest.mark.parametrize("name", DAMPED)
@pytest.mark.parametrize("k", [1, 3])
def test_damping_on_orbits_is_the_expectation(name, k):
    """A large λ against M + λ² I written out."""
    row = PRECONDITIONERS[name]
    p = replace(row.preconditioner, damping=0.7)
    state, q = p.init(row.n, NUMPY, scale=1.0), np.eye(row.n)
    held = np.zeros(row.subgroup.orbits.max() + 1)
    for v, h in zip(*draw_pairs(row.n, 3, 6, k), strict=True):
        q, held = dense_orbit_update(p, row.subgroup, q, held, v, h, 0.2)
        state = p.update(state, v, h, 0.2)
        near(factor(p, state), q, 1e-12)


@pytest.mark.parametrize("p", [psgd.Dense(damping=0.7), psgd.LowRank(rank=2, damping=0.7)])
def test_damping_elsewhere_is_noise_on_h(p):
    undamped = replace(p, damping=0)
    state = plain = p.init(6, NUMPY, scale=1.0)
    for t, (v, h) in enumerate(zip(*draw_pairs(6, 3, 6, 2), strict=True)):
        noise = signs(np.asarray(t, np.int32), h)
        state, plain = p.update(state, v, h, 0.2), undamped.update(plain, v, h + 0.7 * noise, 0.2)
        np.testing.assert_array_equal(factor(p, state), factor(p, plain))


def dense_low_rank_update(p, u, v_factor, d, held, turn_u, v, h, step):
    """The moves of d and of U or V on dense matrices, on one pair of a and b, as `_low_rank_moves` says."""
    n, k, gradient = len(d), v.shape[1], p.normalizer.measure == "gradient"
    a_matrix = np.eye(n) + u @ v_factor.T
    q = a_matrix * d if p.diagonal == "right" else d[:, None] * a_matrix
    p_matrix = q.T @ q
    a, b = q @ h, np.linalg.solve(q.T, v)
    ph, pv = p_matrix @ h, np.linalg.solve(p_matrix, v)
    if p.diagonal == "right":  # A is the left factor: left generator; d the right one: right generator
        terms = a @ a.T / k, b @ b.T / k
        plus, minus = np.mean(ph * h, axis=1), np.mean(v * pv, axis=1)
    else:
        terms = ph @ h.T / k, v @ pv.T / k
        plus, minus = np.mean(a * a, axis=1), np.mean(b * b, axis=1)

    frozen = v_factor if turn_u else u
    onto = frozen @ np.linalg.pinv(frozen)  # the orthogonal projection on its columns
    parts = [t @ onto if turn_u else onto @ t for t in terms]
    generator = parts[0] - parts[1]
    seen = parts if p.diagonal == "right" else [q @ t @ np.linalg.inv(q) for t in parts]
    if gradient:
        sizes = np.max(np.abs(plus - minus)), np.linalg.norm(seen[0] - seen[1])
    else:
        sizes = np.max(np.abs(plus)) + np.max(np.abs(minus)), sum(map(np.linalg.norm, seen))
    size = max(sizes) + step * min(sizes)

    root, turn = size**0.5, 0 if turn_u else 1
    scale = root
    if isinstance(p.normalizer, normalizers.Running):
        before = held[turn] or root
        scale, held[turn] = max(before, step**0.25 * root), 0.99 * before + 0.01 * min(root, 10 * before)
    mu = step / scale**2
    moved = a_matrix - mu * (generator @ a_matrix if p.diagonal == "right" else a_matrix @ generator)
    if u.shape[1]:  # split I + U V^T again: the frozen factor stays
        if turn_u:
            u = (moved - np.eye(n)) @ np.linalg.pinv(v_factor).T
        else:
            v_factor = (moved - np.eye(n)).T @ np.linalg.pinv(u).T
    return u, v_factor, d * (1 - mu * (plus - minus))


@pytest.mark.parametrize("diagonal", ["right", "left"])
@pytest.mark.parametrize("normalizer", [normalizers.Running(), normalizers.Sample(), normalizers.Gradient()])
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("k", [1, 4])
def test_low_rank_updates_are_the_dense_formulas(diagonal, normalizer, rank, k):
    """Both turns, from the Gram matrix and from dense matrices; U and V from a start far from balanced."""
    n, step = 7, 0.2
    p = psgd.LowRank(rank=rank, diagonal=diagonal, normalizer=normalizer, damping=0)
    rng = np.random.default_rng(rank)
    u, v_factor = 0.5 * rng.standard_normal((n, rank)), 0.3 * rng.standard_normal((n, rank))
    d, held = rng.uniform(0.5, 2.0, n), [0.0, 0.0]
    state = p.init(n, NUMPY, scale=1.0)._replace(u=u.T.copy(), v=v_factor.T.copy(), d=d.copy())
    for t, (v, h) in enumerate(zip(*draw_pairs(n, 10, 7, k), strict=True)):
        u, v_factor, d = dense_low_rank_update(p, u, v_factor, d, held, t % 2 == 0, v, h, step)
        state = p.update(state, v, h, step)
        near(state.d, d, 1e-11)
        near(state.u.T @ state.v, u @ v_factor.T, 1e-11)
        if normalizer == normalizers.Running():
            near(state.held, held, 1e-11)


@pytest.mark.parametrize("diagonal", ["right", "left"])
def test_the_freedom_in_u_and_v_is_taken_out_and_p_is_not_moved_by_it(diagonal, rng):
    """U -> G U, V -> G^{-T} V gives the same fit; after a while U is near orthogonal, and |U| near |V|."""
    p = psgd.LowRank(rank=2, diagonal=diagonal)
    state = fitted(PRECONDITIONERS["LowRank"])
    mix = 1e6 * np.array([[1.0, 2.0], [0.5, 1.03]])  # condition number 200, far from balanced
    skewed = state._replace(u=mix @ state.u, v=np.linalg.inv(mix).T @ state.v)
    near(p.matrix(skewed), p.matrix(state), 1e-12)
    for v, h in zip(*draw_pairs(6, 160, 8), strict=True):
        state, skewed = p.update(state, v, h, 0.1), p.update(skewed, v, h, 0.1)
        near(p.matrix(skewed), p.matrix(state), 1e-8)
    assert np.linalg.cond(skewed.u) < 1.2
    assert 1 / 3 < np.linalg.norm(skewed.u) / np.linalg.norm(skewed.v) < 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("diagonal", ["right", "left"])
def test_u_and_v_do_not_drift_into_parallel_columns(diagonal, dtype):
    """At a large step, with a scalar balance alone, cond(U) went beyond 1e4 here and the criterion to 1e5."""
    n, rng, p = 6, np.random.default_rng(2), psgd.LowRank(rank=2, diagonal=diagonal)
    eigenvalues = np.geomspace(1, 4, n) * (-1) ** np.arange(n)
    state, worst = p.init(n, np.zeros(1, dtype)), 0.0
    for t in range(4000):
        v = rng.standard_normal(n)
        state = p.update(state, v.astype(dtype), (eigenvalues * v).astype(dtype), 0.3)
        if t > 300 and t % 5 == 0:
            dense = np.asarray(p.matrix(state), dtype=float)
            value = np.sum(np.diag(dense) * eigenvalues**2) + np.trace(np.linalg.inv(dense))
            worst = max(worst, value / (2 * np.sum(abs(eigenvalues))))
    assert worst < 1.5
    assert np.linalg.cond(state.u) < 10
    assert int(state.skipped) == 0


# -- laws ----------------------------------------------------------------------------------------------------


def element_of(row, rng):
    """A well-conditioned dense matrix of the row's group."""
    mask = row.subgroup.orbits[:, None] == row.subgroup.orbits[None, :]
    return np.eye(row.n) + 0.4 * np.where(mask, rng.uniform(-1, 1, (row.n, row.n)), 0)


@equivariant
@given(seed=st.integers(0, 10**6))
@settings(deadline=None, derandomize=True, max_examples=4)
def test_eq_is_equivariant(row, seed):
    """Fitting from Q B^T with pairs (B v, B^{-T} h) gives Q_t B^T for B in the group, update for update."""
    p, rng = replace(row.preconditioner, damping=0), np.random.default_rng(seed)
    b = element_of(row, rng)
    start = p.init(row.n, NUMPY, scale=0.7)
    q0 = p.group.compose(start.q, p.group.project(element_of(row, rng)))
    state = start._replace(q=q0)
    other = start._replace(q=p.group.compose(q0, p.group.project(b.T.copy())))
    for v, h in zip(*draw_pairs(row.n, 12, seed), strict=True):
        state = p.update(state, v, h, 0.4)
        other = p.update(other, b @ v, np.linalg.solve(b.T, h), 0.4)
    near(factor(p, other), factor(p, state) @ b.T, 1e-11)


@pytest.mark.parametrize("name", ["Dense", "XMat", "Sparse, three orbit sizes"])
def test_qe_moves_p_alike_symmetric_or_not(name):
    row = PRECONDITIONERS[name]
    right, symmetric = (replace(row.preconditioner, geometry=g) for g in ("QE", "QE-symmetric"))
    a, b = (p.init(row.n, NUMPY) for p in (right, symmetric))
    for v, h in zip(*draw_pairs(row.n, 30, 9), strict=True):
        a, b = right.update(a, v, h, 0.2), symmetric.update(b, v, h, 0.2)
        near(symmetric.matrix(b), right.matrix(a), 1e-11)
        q = factor(symmetric, b)
        near(q, q.T, 1e-14)
        assert np.all(np.linalg.eigvalsh((q + q.T) / 2) > 0)
    assert np.max(np.abs(factor(right, a) - factor(right, a).T)) > 1e-3 or row.n == 1


@every
def test_probes_in_one_update_have_no_order(row):
    p = replace(row.preconditioner, damping=0)
    (v,), (h,) = draw_pairs(row.n, 1, 10, 4)
    state = p.init(row.n, NUMPY, scale=1.0)
    one, two = p.update(state, v, h, 0.2), p.update(state, v[:, ::-1], h[:, ::-1], 0.2)
    near(factor(p, two), factor(p, one), 1e-13)
    if not isinstance(p, psgd.ClosedForm):  # which counts pairs
        twice = p.update(state, np.tile(v, 2), np.tile(h, 2), 0.2)  # the same average, so the same update
        near(factor(p, twice), factor(p, one), 1e-12)


@every
def test_one_probe_as_vector_and_as_column(row):
    p = row.preconditioner
    (v,), (h,) = draw_pairs(row.n, 1, 10)
    state = p.init(row.n, NUMPY)
    pairs = (v, h), (v[:, None], h[:, None])
    with kernels.off():
        vector, column = (p.update(state, *pair, 0.2) for pair in pairs)
    for x, y in zip(arrays(vector), arrays(column), strict=True):
        np.testing.assert_array_equal(x, y)
    for pair in pairs:
        for x, y in zip(arrays(vector), arrays(p.update(state, *pair, 0.2)), strict=True):
            near(y, x, 1e-13)


@every
def test_an_array_as_step_is_the_same_step(row):
    p = row.preconditioner
    (v,), (h,) = draw_pairs(row.n, 1, 10)
    state = p.init(row.n, NUMPY)
    one, two = p.update(state, v, h, 0.25), p.update(state, v, h, np.asarray(0.25))
    near(factor(p, two), factor(p, one), 1e-15)


@every
def test_the_same_update_twice_gives_the_same_bits(row):
    for x, y in zip(arrays(fitted(row)), arrays(fitted(row)), strict=True):
        np.testing.assert_array_equal(x, y)


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_in_place_gives_the_same_bits_in_the_same_buffers(row, dtype):
    p, like = row.preconditioner, np.zeros(1, dtype=dtype)
    pure, mine = p.init(row.n, like), p.init(row.n, like)
    buffers = [x for x in arrays(mine) if x.ndim]
    for v, h in zip(*(x.astype(dtype) for x in draw_pairs(row.n, 5, 11)), strict=True):
        pure, mine = p.update(pure, v, h, 0.3), p.update(mine, v, h, 0.3, inplace=True)
        for x, y in zip(arrays(pure), arrays(mine), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    for x, y in zip((x for x in arrays(mine) if x.ndim), buffers, strict=True):
        assert np.shares_memory(x, y) or x.size == 0


@every
@pytest.mark.parametrize("bad", [False, True], ids=["usable", "skipped"])
def test_updates_write_to_nothing_but_the_state_given_in_place(row, bad):
    """A pure update shares no buffer with its input, so consuming the new state leaves the old one alone."""
    p, states = row.preconditioner, [fitted(row, 3)]
    saved = []
    for v, h in zip(*draw_pairs(row.n, 4, 12), strict=True):
        saved.append([x.copy() for x in arrays(states[-1])])
        states.append(p.update(states[-1], v * np.nan if bad else v, h, 0.3))
        copies = [x.copy() for x in arrays(states[-1])]
        p.update(states[-1], v, h, 0.3, inplace=True)
        states[-1] = rebuild(states[-1], iter(copies))
    for state, before in zip(states, saved, strict=False):
        for x, y in zip(arrays(state), before, strict=True):
            np.testing.assert_array_equal(x, y)


def rebuild(tree, leaves):
    if not isinstance(tree, tuple):
        return next(leaves)
    parts = [rebuild(part, leaves) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


# -- every library -------------------------------------------------------------------------------------------


def verbs(p, state, v, h, g):
    """Every verb on one state."""
    return {
        "matrix": p.matrix(state),
        "precondition": p.precondition(state, g),
        "precondition one": p.precondition(state, g[:, 0]),
        "apply": p.apply(state, g),
        "apply_transpose": p.apply_transpose(state, g),
        "solve": p.solve(state, g),
        "solve_transpose": p.solve_transpose(state, g),
        "log_det": p.log_det(state),
        "criterion": p.criterion(state, v, h),
    }


def life(row, v, h, g, jit=lambda f: f):
    """A few updates, then every verb: what a run on one library computes."""
    p, update = row.preconditioner, jit(row.preconditioner.update)
    state = p.init(row.n, g)
    for t in range(3):
        state = update(state, v[t, ...], h[t, ...], 0.3)
    return state, jit(lambda *x: verbs(p, *x))(state, v[0, ...], h[0, ...], g)


def check_life(backend, row, k=None):
    """The library's run agrees with NumPy's in float64, and stays on the library."""
    rng = np.random.default_rng(1)
    rounded = [backend.asarray(x) for x in (*draw_pairs(row.n, 3, 13, k), rng.standard_normal((row.n, 2)))]
    state, found = life(row, *rounded, backend.jit)
    expected_state, expected = life(row, *(np.asarray(backend.numpy(x), dtype=float) for x in rounded))
    for leaf in [*arrays(state), *found.values()]:
        assert array_api_compat.array_namespace(leaf) is array_api_compat.array_namespace(rounded[0])
        assert array_api_compat.device(leaf) == array_api_compat.device(rounded[0])
    for name, value in found.items():
        assert value.dtype == backend.dtype, name
        near(backend.numpy(value), expected[name], 500 * backend.eps)
    start = row.preconditioner.init(row.n, rounded[0])
    # the default damping differs by dtype; what it is relative to does not
    if row.preconditioner.damping is None:
        wide = row.preconditioner.init(row.n, np.zeros(1))
        by = float(backend.numpy(start.damping)) / float(wide.damping)
        expected_state = expected_state._replace(damping=expected_state.damping * by)
    for x, y, z in zip(arrays(state), arrays(start), arrays(expected_state), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape == z.shape
        near(backend.numpy(x), z, 500 * backend.eps)
    assert type(state) is row.preconditioner.state_type


@core
@compiled_jax_only
def test_every_library_computes_the_same(backend, row):
    check_life(backend, row)


@pytest.mark.parametrize("name", ["XMat", "Dense", "LowRank, diagonal left"])
@without_jax
def test_every_library_computes_the_same_with_several_probes(backend, name):
    check_life(backend, PRECONDITIONERS[name], 3)


@backends(lambda b: b.name == "jax-f32")
def test_jax_op_by_op(backend):
    check_life(backend, PRECONDITIONERS["Diagonal"])


def test_states_live_where_like_does(backend):
    """init follows `like`: its library, dtype and device; groups with index arrays hold them there."""
    row = PRECONDITIONERS["Sparse, three orbit sizes"]
    like = backend.asarray(np.zeros(2))
    state = row.preconditioner.init(row.n, like)
    for leaf in arrays(state):
        assert array_api_compat.array_namespace(leaf) is array_api_compat.array_namespace(like)
        assert array_api_compat.device(leaf) == array_api_compat.device(like)
        assert leaf.dtype == backend.dtype or not backend.xp.isdtype(leaf.dtype, "real floating")


# -- JAX's transformations -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jax64():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        yield jax


TRACED = ["XMat", "Dense", "LowRank", "LowRank, diagonal left"]


@pytest.mark.parametrize("name", TRACED)
def test_scan_over_updates_and_vmap_over_seeds_are_separate_runs(jax64, name):
    row = PRECONDITIONERS[name]
    p, n, runs = row.preconditioner, row.n, 3
    pairs = [draw_pairs(n, 4, seed) for seed in range(runs)]
    v, h = (jax64.numpy.asarray(np.stack(x)) for x in zip(*pairs, strict=True))
    start = p.init(n, v)

    def fit(v, h):
        def body(state, pair):
            return p.update(state, *pair, 0.3), None

        return jax64.lax.scan(body, start, (v, h))[0]

    together = jax64.jit(jax64.vmap(fit))(v, h)
    for i, (vs, hs) in enumerate(pairs):
        state = p.init(n, vs[0])
        for pair in zip(vs, hs, strict=True):
            state = p.update(state, *pair, 0.3)
        for x, y in zip(arrays(together), arrays(state), strict=True):
            near(x[i], y, 1e-12)


def test_a_traced_step_and_donated_buffers(jax64):
    p = psgd.XMat()
    v, h = draw_pairs(6, 3, 0)
    update = jax64.jit(p.update, donate_argnums=0)
    state, expected = p.init(6, jax64.numpy.asarray(v)), p.init(6, v)
    for t in range(3):
        step = 0.5 / (t + 1)
        state = update(state, jax64.numpy.asarray(v[t]), jax64.numpy.asarray(h[t]), jax64.numpy.asarray(step))
        expected = p.update(expected, v[t], h[t], step)
    near(p.matrix(state), p.matrix(expected), 1e-13)


def test_jax_refuses_to_work_in_place(jax64):
    p = psgd.Diagonal()
    x = jax64.numpy.ones(3)
    with pytest.raises(ValueError, match="`inplace` must be False for JAX arrays, got True; donate"):
        p.update(p.init(3, x), x, x, 0.1, inplace=True)


# -- PyTorch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Diagonal", "XMat", "LowRank"])
def test_torch_in_place_and_pure(name):
    torch = pytest.importorskip("torch")
    row = PRECONDITIONERS[name]
    p, like = row.preconditioner, torch.zeros(1)
    pure, mine = p.init(row.n, like), p.init(row.n, like)
    pointers = [x.data_ptr() for x in arrays(mine) if x.ndim]
    for v, h in zip(*draw_pairs(row.n, 4, 11), strict=True):
        pair = torch.asarray(v, dtype=torch.float32), torch.asarray(h, dtype=torch.float32)
        pure, mine = p.update(pure, *pair, 0.3), p.update(mine, *pair, 0.3, inplace=True)
        for x, y in zip(arrays(pure), arrays(mine), strict=True):
            assert torch.equal(x, y)
    assert pointers == [x.data_ptr() for x in arrays(mine) if x.ndim]


@pytest.mark.parametrize("name", ["XMat", "LowRank"])
@pytest.mark.filterwarnings("ignore:Dynamo detected")
def test_torch_compile_traces_an_update(name):
    """Through TorchDynamo and AOTAutograd, which need no compiler; code generation is PyTorch's own."""
    torch = pytest.importorskip("torch")
    row = PRECONDITIONERS[name]
    p = row.preconditioner
    v, h = (torch.asarray(x) for x in draw_pairs(row.n, 2, 11))
    torch._dynamo.reset()
    compiled = torch.compile(lambda s, v, h: p.update(s, v, h, 0.3), backend="aot_eager")
    state, expected = p.init(row.n, v), p.init(row.n, v)
    for t in range(2):
        state, expected = compiled(state, v[t], h[t]), p.update(expected, v[t], h[t], 0.3)
    assert type(state) is type(expected)
    near(p.matrix(state), p.matrix(expected), 1e-13)


def test_a_preconditioner_is_a_light_hashable_value():
    for row in PRECONDITIONERS.values():
        assert replace(row.preconditioner) == row.preconditioner
        assert hash(replace(row.preconditioner)) == hash(row.preconditioner)
    assert len({row.preconditioner for row in PRECONDITIONERS.values()}) < len(PRECONDITIONERS)
    assert psgd.XMat() != psgd.XMat(damping=1e-3)


def test_states_hold_arrays_only():
    for row in PRECONDITIONERS.values():
        state = row.preconditioner.init(row.n, NUMPY)
        assert all(isinstance(x, np.ndarray) for x in arrays(state))
        assert all(x.dtype.kind in "fib" for x in arrays(state))
        if isinstance(state, OrbitState):
            assert isinstance(state.q, OrbitBlocks)
