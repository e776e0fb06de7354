"""Memory in place of a step: as much as pairs can teach, on every group, and no less when H moves or jumps."""

from __future__ import annotations

import numpy as np
import pytest
from registry import GROUPS, compiled_jax_only, to_numpy

import psgd_core as psgd
from psgd_core import normalizers
from psgd_core.checkpoint import load, save

OPTIONS = {"geometry": "Lyapunov", "normalizer": normalizers.Kalman(), "damping": 0}
N = 8

PRECONDITIONERS = {
    "Diagonal": psgd.Diagonal(**OPTIONS),
    "XMat": psgd.XMat(**OPTIONS),
    "Butterfly": psgd.Butterfly(**OPTIONS),
    "Sparse, Klein": psgd.Sparse(GROUPS["Klein"], **OPTIONS),
    "Sparse, cyclic": psgd.Sparse(GROUPS["conjugated cyclic"], **OPTIONS),
    "Dense": psgd.Dense(**OPTIONS),
}
every = pytest.mark.parametrize("p", PRECONDITIONERS.values(), ids=PRECONDITIONERS.keys())


# -- what pairs teach, in closed form -------------------------------------------------------------------------


def root(a):
    w, u = np.linalg.eigh(a)
    return (u * np.sqrt(w)) @ u.T


def orbits_of(p, n):
    """The orbits' indices, from where the group's matrices may be nonzero."""
    state = p.init(n, np.zeros(n))
    rng = np.random.default_rng(0)
    for _ in range(3):
        state = p.update(state, rng.standard_normal(n), rng.standard_normal(n), memory="all")
    mask = np.abs(p.matrix(state)) > 0
    return sorted({tuple(np.flatnonzero(row)) for row in mask})


def on_orbits(orbits, function, *matrices):
    """The block diagonal matrix of what `function` makes of each orbit's blocks."""
    found = np.zeros_like(matrices[0])
    for o in orbits:
        i = np.ix_(o, o)
        found[i] = function(*(m[i] for m in matrices))
    return found


def by_products(a, b):
    """``(mean h h^T)^{-1/2}``."""
    return np.linalg.inv(root(a))


def by_both(a, b):
    """The geometric mean of ``(mean h h^T)^{-1}`` and ``mean v v^T``: the P for which P a P = b."""
    inverse = np.linalg.inv(root(a))
    return inverse @ root(root(a) @ b @ root(a)) @ inverse


def distance(p, target):
    w = np.linalg.eigvals(np.linalg.solve(target, p)).real
    return np.sqrt(np.mean(np.log(w) ** 2))


def hessian(n, orbits, inside, negative, rng, kappa=100.0):
    """A symmetric matrix of this condition number; its eigenvectors stay on the orbits if it is `inside`."""
    values = rng.permutation(np.geomspace(1, kappa, n)) * np.where(np.arange(n) < negative, -1, 1)
    values, parts = rng.permutation(values), orbits if inside else [tuple(range(n))]
    found, used = np.zeros((n, n)), 0
    for o in parts:
        u = np.linalg.qr(rng.standard_normal((len(o), len(o))))[0]
        found[np.ix_(o, o)] = (u * values[used : used + len(o)]) @ u.T
        used += len(o)
    return found


def probes(kind, shape, rng):
    return rng.standard_normal(shape) if kind == "Gaussian" else rng.choice([-1.0, 1.0], shape)


def fitted(p, state, v, h, k=1, **pace):
    for t in range(0, len(v), k):
        pair = (v[t], h[t]) if k == 1 else (v[t : t + k].T, h[t : t + k].T)
        state = p.update(state, *pair, **(pace or {"memory": "all"}))
    return state


def mean_square(errors):
    return np.sqrt(np.mean(np.square(errors)))


@every
@pytest.mark.parametrize("kind", ["Gaussian", "Rademacher"])
@pytest.mark.parametrize("inside", [True, False], ids=["in the group", "outside"])
@pytest.mark.parametrize("negative", [0, 4])
def test_the_fit_learns_what_the_better_closed_form_does(p, kind, inside, negative):
    orbits, errors, others = orbits_of(p, N), [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        m = hessian(N, orbits, inside, negative, rng)
        target = on_orbits(orbits, lambda a: np.linalg.inv(root(a)), m @ m)
        v = probes(kind, (800, N), rng)
        h = v @ m
        errors.append(distance(p.matrix(fitted(p, p.init(N, v[0]), v, h)), target))
        moments = h.T @ h / len(h), v.T @ v / len(v)
        others.append([distance(on_orbits(orbits, f, *moments), target) for f in (by_products, by_both)])
    best = min(mean_square(column) for column in np.transpose(others))
    assert mean_square(errors) < max(1.25 * best, 1e-12)


@every
def test_convergence_is_exponential_where_pairs_agree(p):
    rng = np.random.default_rng(3)
    orbits = orbits_of(p, N)
    m = hessian(N, orbits, True, 0, rng)
    v = rng.standard_normal((500, N))
    state, found = p.init(N, v[0]), []
    for part in np.split(v, 5):
        state = fitted(p, state, part, part @ m)
        found.append(distance(p.matrix(state), np.linalg.inv(m)))
    assert found[-1] < 1e-12
    assert found[2] < 1e-3 * found[0] or found[2] < 1e-12


@pytest.mark.parametrize("name", ["Diagonal", "Dense"])
def test_k_probes_count_as_k_pairs(name):
    p, errors = PRECONDITIONERS[name], {1: [], 5: []}
    orbits = orbits_of(p, N)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        m = hessian(N, orbits, False, 4, rng)
        target = on_orbits(orbits, lambda a: np.linalg.inv(root(a)), m @ m)
        v = rng.standard_normal((1500, N))
        for k, found in errors.items():
            found.append(distance(p.matrix(fitted(p, p.init(N, v[0]), v, v @ m, k)), target))
    assert 0.85 < mean_square(errors[5]) / mean_square(errors[1]) < 1.15


@pytest.mark.parametrize("k", [1, 4])
def test_a_memory_of_t_pairs_is_an_average_over_t_pairs(k):
    """The spread about the target is that of ``(mean h h^T)^{-1/2}`` over T pairs."""
    n, pairs, length = 400, 100, 100 * 40
    p, rng = psgd.Diagonal(**OPTIONS), np.random.default_rng(0)
    # products that do not depend on the probe: then nothing can be subtracted, and the closed form is best
    h = rng.standard_normal((length, n))
    state, found = p.init(n, h[0]), []
    for t in range(0, length, k):
        state = p.update(state, None, h[t] if k == 1 else h[t : t + k].T, memory=pairs)
        if t >= 2000 and (t // k) % (100 // k) == 0:
            found.append(np.log(p.precondition(state, np.ones(n))))
    expected = [-0.5 * np.log(np.mean(part**2, axis=0)) for part in np.split(h, length // pairs)]
    assert 0.85 < np.std(found) / np.std(expected) < 1.15


def test_whitening_learns_from_gradients_alone():
    rng = np.random.default_rng(1)
    root_m = np.linalg.qr(rng.standard_normal((N, N)))[0] * np.geomspace(1, 10, N)
    g = rng.standard_normal((1500, N)) @ root_m.T
    p = psgd.Dense(**OPTIONS)
    state = p.init(N, g[0])
    for x in g:
        state = p.update(state, None, x, memory="all")
    target = np.linalg.inv(root(root_m @ root_m.T))
    assert distance(p.matrix(state), target) < 1.2 * distance(by_products(g.T @ g / len(g), None), target)


# -- H that moves ---------------------------------------------------------------------------------------------


def test_a_memory_follows_a_drifting_hessian():
    """At its best memory it is closer to H than the same geometry at any constant step."""
    n, rng = 8, np.random.default_rng(0)
    u, values = np.linalg.qr(rng.standard_normal((n, n)))[0], np.geomspace(1, 30, n) * (-1) ** np.arange(n)
    skew = rng.standard_normal((n, n)) / n
    turn = np.linalg.solve(np.eye(n) + 2e-3 * (skew - skew.T), np.eye(n) - 2e-3 * (skew - skew.T))
    bases = [u]
    for _ in range(1500):
        bases.append(bases[-1] @ turn)
    v = rng.standard_normal((1500, n))
    h = [(b * values) @ (b.T @ x) for b, x in zip(bases, v, strict=False)]

    def error(p, **pace):
        state, found = p.init(n, v[0]), []
        for t, (x, y) in enumerate(zip(v, h, strict=True)):
            state = p.update(state, x, y, **pace)
            if t > 500 and t % 20 == 0:
                found.append(distance(p.matrix(state), (bases[t] / np.abs(values)) @ bases[t].T))
        return mean_square(found)

    ours = min(error(psgd.Dense(**OPTIONS), memory=t) for t in (20, 60, 200))
    plain = psgd.Dense(geometry="Lyapunov")
    assert ours < min(error(plain, step=s) for s in (0.05, 0.1, 0.2, 0.4, 0.8))
    assert error(psgd.Dense(**OPTIONS), memory="all") > 2 * ours


@pytest.mark.parametrize("name", ["Diagonal", "XMat", "Dense"])
def test_a_jump_of_the_hessian_is_noticed(name):
    """All pairs are remembered, but those before a jump are given up, though the scale is not reset."""
    p, rng = PRECONDITIONERS[name], np.random.default_rng(2)
    orbits = orbits_of(p, N)
    before, after = (hessian(N, orbits, True, 0, rng, kappa=20.0) for _ in range(2))
    v = rng.standard_normal((1600, N))
    state = fitted(p, p.init(N, v[0]), v[:800], v[:800] @ before)
    state = fitted(p, state, v[800:], v[800:] @ after)
    assert distance(p.matrix(state), np.linalg.inv(after)) < 1e-6


# -- invariances ----------------------------------------------------------------------------------------------


def test_dense_turns_with_the_coordinates():
    rng = np.random.default_rng(4)
    u = np.linalg.qr(rng.standard_normal((N, N)))[0]
    m = hessian(N, [tuple(range(N))], True, 4, rng)
    v = rng.standard_normal((60, N))
    p = psgd.Dense(**OPTIONS)
    plain, turned = p.init(N, v[0], scale=0.5), p.init(N, v[0], scale=0.5)
    plain = fitted(p, plain, v, v @ m)
    # a start of Q u^T is one of Q, up to a rotation from the left: that Q is the same P
    turned = fitted(p, turned, v @ u.T, v @ m @ u.T)
    logs = [np.sort(np.linalg.eigvalsh(p.matrix(s))) for s in (plain, turned)]
    np.testing.assert_allclose(logs[0], logs[1], rtol=0.2)


@every
def test_fitting_a_multiple_of_h_is_fitting_h(p):
    rng = np.random.default_rng(5)
    v = rng.standard_normal((40, N))
    h = v @ hessian(N, [tuple(range(N))], True, 4, rng)
    one, other = (fitted(p, p.init(N, v[0]), v, c * h) for c in (1.0, 4.0**7))
    np.testing.assert_array_equal(p.matrix(one), 4.0**7 * p.matrix(other))


# -- on every library -----------------------------------------------------------------------------------------


@compiled_jax_only
@pytest.mark.parametrize("name", ["Diagonal", "XMat", "Sparse, cyclic", "Dense"])
@pytest.mark.parametrize("k", [None, 2])
def test_every_library_makes_the_same_of_it(backend, name, k):
    p, rng = PRECONDITIONERS[name], np.random.default_rng(6)
    v = rng.standard_normal((12, N) if k is None else (12, N, k))
    h = np.einsum("ij,tj...->ti...", hessian(N, [tuple(range(N))], True, 4, rng, 10.0), v)
    h[5] = np.nan
    expected = p.init(N, np.zeros(N))
    state = p.init(N, backend.asarray(np.zeros(N)))
    update = backend.jit(lambda s, x, y, m: p.update(s, x, y, memory=m))
    for t, (x, y) in enumerate(zip(v, h, strict=True)):
        memory = 30.0 + t
        expected = p.update(expected, x, y, memory=memory)
        state = update(state, backend.asarray(x), backend.asarray(y), backend.asarray(memory))
    assert int(state.skipped) == int(expected.skipped) == 1
    for x, y in zip(to_numpy(backend, state.q.blocks), expected.q.blocks, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e4 * backend.eps * np.max(np.abs(y)))
    for x, y in zip(to_numpy(backend, state.held), expected.held, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e5 * backend.eps * np.max(np.abs(y)))


@every
def test_in_place_and_after_a_restart_it_is_the_same_bit_for_bit(p, tmp_path):
    rng = np.random.default_rng(7)
    v = rng.standard_normal((20, N))
    h = v @ hessian(N, [tuple(range(N))], True, 4, rng)
    whole = fitted(p, p.init(N, v[0]), v, h)
    state = fitted(p, p.init(N, v[0]), v[:10], h[:10])
    save(tmp_path / "state.npz", state, config=p)
    state = load(tmp_path / "state.npz", like=p.init(N, v[0]), config=p)
    for x, y in zip(v[10:], h[10:], strict=True):
        state = p.update(state, x, y, memory="all", inplace=True)
    for x, y in zip((*whole.q.blocks, *whole.held), (*state.q.blocks, *state.held), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every
def test_extremes_leave_a_usable_state(p, dtype):
    big = 1e30 if dtype is np.float32 else 1e150
    rng = np.random.default_rng(8)
    state = p.init(N, np.zeros(N, dtype))
    for t in range(300):
        v = rng.standard_normal(N)
        h = v * np.geomspace(1, 10, N)
        scale = {0: 0.0, 40: big, 41: 1 / big, 80: 0.0, 120: np.nan, 160: 1e6}.get(t, 1.0)
        state = p.update(state, v.astype(dtype), (h * scale).astype(dtype), memory="all")
        p.check(state)
    assert int(state.skipped) == 1
    assert distance(p.matrix(state).astype(float), np.diag(1 / np.geomspace(1, 10, N))) < 0.05


def test_a_single_outlier_moves_little_of_what_was_learnt():
    p, rng = psgd.Dense(**OPTIONS), np.random.default_rng(9)
    m = hessian(N, [tuple(range(N))], True, 4, rng, 10.0)
    v = rng.standard_normal((1000, N))
    state = fitted(p, p.init(N, v[0]), v, v @ m)
    hit = p.update(state, v[0], 1e6 * m @ v[0], memory="all")
    assert distance(p.matrix(hit), p.matrix(state)) < 0.1


# -- first contact --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["EQ", "PRO4P", "Lyapunov"])
@pytest.mark.parametrize("cls", [psgd.Diagonal, psgd.XMat, psgd.Dense])
def test_first_pairs_of_a_definite_hessian_in_the_group_give_its_inverse(cls, geometry):
    p, rng = cls(geometry=geometry), np.random.default_rng(10)
    m = hessian(N, orbits_of(PRECONDITIONERS[cls.__name__], N), True, 0, rng)
    v = rng.standard_normal((N, 2 * N + 4))
    state = p.init(N, v[:, 0], pairs=(v, m @ v))
    assert distance(p.matrix(state), np.linalg.inv(m)) < 1e-11
    assert not state.pending


@every
@pytest.mark.parametrize("inside", [True, False], ids=["in the group", "outside"])
def test_first_pairs_are_as_good_as_the_better_closed_form(p, inside):
    orbits, errors, others = orbits_of(p, N), [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        m = hessian(N, orbits, inside, 4, rng)
        target = on_orbits(orbits, lambda a: np.linalg.inv(root(a)), m @ m)
        v = rng.standard_normal((40, N))
        h = v @ m
        errors.append(distance(p.matrix(p.init(N, v[0], pairs=(v.T, h.T))), target))
        moments = h.T @ h / len(h), v.T @ v / len(v)
        others.append([distance(on_orbits(orbits, f, *moments), target) for f in (by_products, by_both)])
    assert mean_square(errors) < 1.15 * min(mean_square(column) for column in np.transpose(others))


@every
def test_first_pairs_are_remembered(p):
    """Those at the start count like those that follow: fewer of them, more error."""
    orbits, errors = orbits_of(p, N), {0: [], 100: []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        m = hessian(N, orbits, False, 4, rng)
        target = on_orbits(orbits, lambda a: np.linalg.inv(root(a)), m @ m)
        v = rng.standard_normal((400, N))
        h = v @ m
        for first, found in errors.items():
            pairs = None if first == 0 else (v[:first].T, h[:first].T)
            state = fitted(p, p.init(N, v[0], pairs=pairs), v[first:], h[first:])
            found.append(distance(p.matrix(state), target))
    assert mean_square(errors[100]) < 1.1 * mean_square(errors[0])


ANY = {
    "Dense": (psgd.Dense(), 6),
    "Sparse, three orbit sizes": (psgd.Sparse(GROUPS["three orbit sizes"], steps="group"), 6),
    "LowRank": (psgd.LowRank(2), 6),
    "Kronecker": (psgd.Kronecker((2, 3)), 6),
    "Blocks": (psgd.Blocks(((2, psgd.Diagonal()), (4, psgd.Dense()))), 6),
}


@compiled_jax_only
@pytest.mark.parametrize(("p", "n"), ANY.values(), ids=ANY.keys())
def test_few_pairs_set_the_scale_and_unusable_ones_nothing(backend, p, n):
    rng = np.random.default_rng(11)
    v = rng.standard_normal((n, 2))
    h = 1e6 * v
    like = backend.asarray(np.zeros(n))
    state = p.init(n, like, pairs=(backend.asarray(v), backend.asarray(h)))
    np.testing.assert_allclose(
        backend.numpy(p.log_det(state)), -n * np.log(1e6), rtol=0.02, atol=0.5 if n > 1 else 0
    )
    h[0, 0] = np.nan
    left = p.init(n, like, pairs=(backend.asarray(v), backend.asarray(h)))
    for x, y in zip(to_numpy(backend, left), to_numpy(backend, p.init(n, like)), strict=True):
        for a, b in zip(leaves(x), leaves(y), strict=True):
            np.testing.assert_array_equal(a, b)


def leaves(tree):
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, tuple) else [tree]


def test_wrong_first_pairs_are_refused():
    p, x = psgd.Dense(), np.ones(4)
    with pytest.raises(ValueError, match="`scale` must be left out where `pairs` are given"):
        p.init(4, x, scale=1.0, pairs=(x, x))
    for wrong in (x, (x,), (None, x), 3):
        with pytest.raises(TypeError, match=r"`pairs` must be two arrays \(v, h\)"):
            p.init(4, x, pairs=wrong)
    with pytest.raises(ValueError, match="`h` must have the shape of `v`"):
        p.init(4, x, pairs=(x, np.ones((4, 2))))


# -- one of both ----------------------------------------------------------------------------------------------


def test_exactly_one_of_step_and_memory_is_given():
    x = np.ones(4)
    for p in (psgd.Dense(), psgd.Dense(**OPTIONS), psgd.Kronecker((2, 2)), psgd.LowRank(1)):
        state = p.init(4, x)
        for wrong in ({}, {"step": 0.1, "memory": "all"}):
            with pytest.raises(TypeError, match="exactly one of `step` and `memory` must be given"):
                p.update(state, x, x, **wrong)


@pytest.mark.parametrize("p", [psgd.Dense(), psgd.Diagonal(geometry="Lyapunov"), psgd.LowRank(1)])
def test_without_the_normalizer_there_is_no_memory(p):
    with pytest.raises(ValueError, match=r"`memory` must not be given .* normalizer=Kalman\(\)"):
        p.update(p.init(4, np.ones(4)), np.ones(4), np.ones(4), memory="all")


def test_with_it_there_is_no_step():
    p = psgd.Dense(**OPTIONS)
    with pytest.raises(ValueError, match="`step` must not be given .* memory='all'"):
        p.update(p.init(4, np.ones(4)), np.ones(4), np.ones(4), 0.1)


@pytest.mark.parametrize("memory", [0, 0.5, -3.0, float("nan"), True, "everything", [3]])
def test_wrong_memories_are_refused(memory):
    p = psgd.Dense(**OPTIONS)
    with pytest.raises((TypeError, ValueError), match="`memory` must"):
        p.update(p.init(4, np.ones(4)), np.ones(4), np.ones(4), memory=memory)


def test_kalman_goes_with_the_newton_geometry_alone():
    kalman = normalizers.Kalman()
    for make in (
        lambda: psgd.Dense(normalizer=kalman),
        lambda: psgd.XMat(normalizer=kalman, geometry="PRO4P"),
        lambda: psgd.Diagonal(normalizer=kalman, geometry="Lyapunov", steps="group"),
    ):
        with pytest.raises(ValueError, match="`geometry` must be 'Lyapunov' and `steps` 'orbit'"):
            make()
    for make in (lambda: psgd.LowRank(1, normalizer=kalman), lambda: psgd.Kronecker((2,), normalizer=kalman)):
        with pytest.raises(ValueError, match=r"`normalizer` must not be Kalman\(\)"):
            make()
    with pytest.raises(ValueError, match="`parts` must all take a step, or all a memory"):
        psgd.Blocks(((2, psgd.Diagonal()), (2, psgd.Diagonal(**OPTIONS))))


def test_blocks_pass_a_memory_on():
    rng = np.random.default_rng(12)
    parts = ((3, psgd.Dense(**OPTIONS)), (2, psgd.Diagonal(**OPTIONS)))
    p, v = psgd.Blocks(parts), rng.standard_normal((30, 5))
    h = v * np.geomspace(1, 9, 5)
    state = fitted(p, p.init(5, v[0]), v, h, memory=20)
    first = fitted(parts[0][1], parts[0][1].init(3, v[0]), v[:, :3], h[:, :3], memory=20)
    np.testing.assert_array_equal(state.parts[0].q.blocks[0], first.q.blocks[0])
