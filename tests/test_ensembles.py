"""Many fits at once are the fits that they would be by themselves."""

import sys

import numpy as np
import pytest
from conftest import BACKENDS
from registry import PRECONDITIONERS, arrays, backends, core, every, to_numpy, without_jax

import psgd_core as psgd
from psgd_core import kernels
from psgd_core.curvature import Gaussian, Orthogonal, Rademacher, Seeds
from psgd_core.preconditioners import Blocks, Replay

COUNT = 4
NUMPY = next(b for b in BACKENDS if b.name == "numpy-f64")
STEPS = np.asarray([0.05, 0.2, 0.5, 0.9])


def draws(n, updates, seed=0, k=None):
    """Pairs (updates, COUNT, n[, k]) of a Hessian for each fit, indefinite and of another scale each."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((COUNT, n, n)))[0]
    w = np.geomspace(1, 4, n) * (-1) ** np.arange(n) * 10.0 ** np.arange(-1, COUNT - 1)[:, None]
    v = rng.standard_normal((updates, COUNT, n) if k is None else (updates, COUNT, n, k))
    hessian = (basis * w[:, None, :]) @ np.swapaxes(basis, 1, 2)
    return v, np.einsum("mij,tmj...->tmi...", hessian, v)


def paces(p, i=None):
    """The pace of fit i, or of all."""
    if p.takes_memory:
        return {"memory": 10 * STEPS + 3 if i is None else 10 * STEPS[i] + 3}
    return {"step": STEPS if i is None else float(STEPS[i])}


def alone(p, state, v, h, i, backend):
    """The state of fit i after updates of its own."""
    for t in range(v.shape[0]):
        state = p.update(state, backend.asarray(v[t, i]), backend.asarray(h[t, i]), **paces(p, i))
    return state


def assert_equal_to_rounding(got, expected, near, eps):
    """As far apart as rounding takes them: measured by fits whose pairs differ in their last digit."""
    for x, y, z in zip(got, expected, near, strict=True):
        assert x.shape == y.shape
        if np.issubdtype(y.dtype, np.floating):
            spread = np.max(np.abs(z - y), initial=0) + eps * np.max(np.abs(y), initial=0)
            np.testing.assert_allclose(x, y, rtol=0, atol=100 * spread)
        else:
            np.testing.assert_array_equal(x, y)


def compare(p, states, n, v, h, i, backend=NUMPY):
    """Compare fit i of many with the one by itself."""
    member = psgd.Ensemble(p).member(states, i)
    own = alone(p, p.init(n, backend.asarray(v)), v, h, i, backend)
    near = alone(p, p.init(n, backend.asarray(v)), v * (1 + 2 * backend.eps), h, i, backend)
    assert type(member) is type(own)
    leaves = ([np.asarray(x) for x in arrays(to_numpy(backend, s))] for s in (member, own, near))
    assert_equal_to_rounding(*leaves, backend.eps)


@every
def test_each_fit_is_the_one_that_it_would_be_by_itself(row):
    """With a step, a scale, and skipped pairs of its own."""
    p, n = row.preconditioner, row.n
    many = psgd.Ensemble(p)
    v, h = draws(n, 10)
    h[0, 1] = 0  # in the first update, which sets the scale of the others
    h[3, 2, 0], v[5, 0, 0] = np.nan, np.inf
    states = many.init(COUNT, n, v)
    for t in range(10):
        states = many.update(states, v[t], h[t], **paces(p))
    np.testing.assert_array_equal(states.skipped, [1, 0, 1, 0])
    with kernels.off():
        for i in range(COUNT):
            compare(p, states, n, v, h, i)
            expected = p.matrix(alone(p, p.init(n, v), v, h, i, NUMPY))
            np.testing.assert_allclose(
                many.matrix(states)[i], expected, rtol=0, atol=1e-11 * np.max(np.abs(expected))
            )


@core
@without_jax
def test_on_every_library(row, backend):
    compare_on(backend, row)


@backends(lambda b: b.jitted)
def test_under_jit(backend):
    compare_on(backend, PRECONDITIONERS["XMat"])


def compare_on(backend, row):
    """Fits together with fits by themselves, on a library."""
    p, n = row.preconditioner, row.n
    many = psgd.Ensemble(p)
    v, h = draws(n, 4, seed=1)
    h[2, 1, 0] = np.nan
    states = many.init(COUNT, n, backend.asarray(v))
    pace = {name: backend.asarray(x) for name, x in paces(p).items()}
    update = backend.jit(many.update)
    for t in range(4):
        states = update(states, backend.asarray(v[t]), backend.asarray(h[t]), **pace)
    for i in (0, 1):
        compare(p, states, n, v, h, i, backend)


OTHERS = {
    "Kronecker": (psgd.Kronecker((2, 3)), 6),
    "Kronecker, dense": (psgd.Kronecker((2, 3), "dense", geometry="QUAD"), 6),
    "Kronecker, affine": (psgd.Kronecker((3, 4), ("triangular", "affine")), 12),
    "Kronecker, scaling and normalisation": (psgd.Kronecker((3, 4), ("diagonal", "normalization")), 12),
    "Kronecker, of a vector": (psgd.Kronecker((6,)), 6),
    "Blocks": (Blocks(((4, psgd.Kronecker((2, 2))), (2, psgd.Diagonal()), (3, psgd.Dense()))), 9),
    "Kalman": (psgd.XMat(geometry="Lyapunov", normalizer=psgd.normalizers.Kalman()), 7),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_as_well(name):
    p, n = OTHERS[name]
    many, (v, h) = psgd.Ensemble(p), draws(n, 6, seed=2)
    h[3, 2, 0] = np.nan
    states = many.init(COUNT, n, v)
    for t in range(6):
        states = many.update(states, v[t], h[t], **paces(p))
    with kernels.off():
        for i in range(COUNT):
            compare(p, states, n, v, h, i)


@pytest.mark.parametrize("p", [psgd.XMat(), psgd.Dense(), psgd.LowRank(2)], ids=str)
def test_several_probes_and_gradients_without(p):
    many, (v, h) = psgd.Ensemble(p), draws(6, 3, k=3)
    states, expected = many.init(COUNT, 6, v), [p.init(6, v)] * COUNT
    whitened = not isinstance(p, psgd.LowRank)
    for t in range(3):
        states = many.update(states, v[t], h[t], 0.3)
        expected = [p.update(one, v[t, i], h[t, i], 0.3) for i, one in enumerate(expected)]
        if whitened:
            states = many.update(states, None, h[t, ..., 0], 0.3)
            expected = [p.update(one, None, h[t, i, :, 0], 0.3) for i, one in enumerate(expected)]
    got = many.matrix(states)
    np.testing.assert_allclose(
        got, np.stack([p.matrix(one) for one in expected]), rtol=0, atol=1e-11 * got.max()
    )


@every
def test_a_fit_knows_nothing_of_the_others(row):
    """Bit for bit: in another order, and whatever happens to the others."""
    p, n = row.preconditioner, row.n
    many, (v, h) = psgd.Ensemble(p), draws(n, 4)
    order = [2, 0, 3, 1]
    worse = h.copy()
    worse[1:, 3] = np.nan
    states, turned, beside = (many.init(COUNT, n, v) for _ in range(3))
    for t in range(4):
        states = (
            many.update(states, v[t], h[t], 0.3)
            if p.takes_step
            else many.update(states, v[t], h[t], memory=9)
        )
        pace = {"step": 0.3} if p.takes_step else {"memory": 9}
        turned = many.update(turned, v[t][order], h[t][order], **pace)
        beside = many.update(beside, v[t], worse[t], **pace)
    for x, y, z in zip(arrays(states), arrays(turned), arrays(beside), strict=True):
        np.testing.assert_array_equal(x[order], y)
        if row.geometry != "natural":  # whose conjugate gradients turn until the last is done
            np.testing.assert_array_equal(x[:3], z[:3])


@core
def test_verbs_are_those_of_each(row, rng):
    p, n = row.preconditioner, row.n
    many, (v, h) = psgd.Ensemble(p), draws(n, 3)
    states = many.init(COUNT, n, v)
    for t in range(3):
        states = many.update(states, v[t], h[t], **paces(p))
    members = [many.member(states, i) for i in range(COUNT)]
    x, g = rng.standard_normal((COUNT, n)), rng.standard_normal((COUNT, n, 2))
    for name in ("precondition", "apply", "apply_transpose", "solve", "solve_transpose"):
        for y in (x, g):
            expected = np.stack([getattr(p, name)(one, y[i]) for i, one in enumerate(members)])
            np.testing.assert_allclose(getattr(many, name)(states, y), expected, rtol=1e-10, atol=1e-10)
    for name, args in (("log_det", ()), ("matrix", ()), ("criterion", (v[0], h[0]))):
        expected = np.stack([getattr(p, name)(s, *(y[i] for y in args)) for i, s in enumerate(members)])
        np.testing.assert_allclose(getattr(many, name)(states, *args), expected, rtol=1e-10, atol=1e-10)
    assert many.count(states) == COUNT


def test_an_update_takes_as_many_calls_as_one():
    """Whatever the number of fits: that is what makes it fast."""

    def calls(p, count):
        rng, made = np.random.default_rng(0), []
        v, h = rng.standard_normal((2, count, 6))
        many = psgd.Ensemble(p)
        states = many.update(many.init(count, 6, v), v, h, 0.1)
        many.update(states, v, h, 0.1)
        sys.setprofile(lambda frame, event, arg: made.append(event) if event.endswith("call") else None)
        many.update(states, v, h, 0.1)
        sys.setprofile(None)
        return len(made)

    for p in (psgd.Diagonal(), psgd.XMat(), psgd.Dense(), psgd.LowRank(2)):
        assert calls(p, 60) < 1.01 * calls(p, 2)


@core
def test_an_ensemble_of_one(row):
    p, n = row.preconditioner, row.n
    many, (v, h) = psgd.Ensemble(p), draws(n, 3)
    states, state = many.init(1, n, v), p.init(n, v)
    with kernels.off():
        for t in range(3):
            states = many.update(states, v[t, :1], h[t, :1], **paces(p, 1))
            state = p.update(state, v[t, 0], h[t, 0], **paces(p, 1))
    np.testing.assert_allclose(many.matrix(states)[0], p.matrix(state), rtol=1e-9, atol=1e-12)


def test_starts_of_each_fit():
    n, (v, h) = 6, draws(6, 1, k=20)
    p = psgd.Dense()
    many = psgd.Ensemble(p)
    scaled = many.init(COUNT, n, v, scale=STEPS)
    np.testing.assert_allclose(many.matrix(scaled), STEPS[:, None, None] ** 2 * np.eye(n), rtol=1e-15)
    met = many.init(COUNT, n, v, pairs=(v[0], h[0]))
    expected = np.stack([p.matrix(p.init(n, v, pairs=(v[0, i], h[0, i]))) for i in range(COUNT)])
    np.testing.assert_allclose(many.matrix(met), expected, rtol=0, atol=1e-9 * expected.max())
    low = psgd.Ensemble(psgd.LowRank(2))
    drawn = low.init(COUNT, n, v, rng=map(np.random.default_rng, range(COUNT)), scale=STEPS)
    for i in range(COUNT):
        own = low.preconditioner.init(n, v, rng=np.random.default_rng(i), scale=float(STEPS[i]))
        for x, y in zip(arrays(low.member(drawn, i)), arrays(own), strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("probes", [Gaussian(), Gaussian(3), Rademacher(2), Orthogonal(4)], ids=str)
def test_seeds_draw_what_each_would_draw(probes):
    """However many numbers are drawn ahead."""
    seeds, like = [3, 1, 4], np.zeros(5)
    together, generators = Seeds(seeds), [np.random.default_rng(seed) for seed in seeds]
    for _ in range(4):
        got = probes.draw(together, like)
        expected = np.stack([probes.draw(generator, like) for generator in generators])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)


def test_seeds_go_on_where_what_is_drawn_ahead_ends(monkeypatch):
    monkeypatch.setattr("psgd_core.arrays.draws.AHEAD", 30)
    together, generators = Seeds([0, 1]), [np.random.default_rng(seed) for seed in (0, 1)]
    for size in (7, 7, 4, 11, 2):
        got = Gaussian().draw(together, np.zeros(size))
        np.testing.assert_array_equal(got, np.stack([g.standard_normal(size) for g in generators]))


def test_saved_and_loaded(tmp_path):
    many, (v, h) = psgd.Ensemble(psgd.XMat()), draws(6, 2)
    states = many.update(many.init(COUNT, 6, v), v[0], h[0], 0.2)
    psgd.save(tmp_path / "states.npz", states)
    again = psgd.load(tmp_path / "states.npz")
    for x, y in zip(
        arrays(many.update(again, v[1], h[1], 0.2)), arrays(many.update(states, v[1], h[1], 0.2)), strict=True
    ):
        np.testing.assert_array_equal(x, y)


def test_bad_input_is_refused_in_one_sentence():
    many, (v, h) = psgd.Ensemble(psgd.XMat()), draws(6, 1)
    states = many.init(COUNT, 6, v)
    cases = [
        (lambda: psgd.Ensemble(Replay()), "`preconditioner` must be a Preconditioner, got Replay"),
        (lambda: many.init(0, 6, v), "`count` must be a positive int, got 0"),
        (
            lambda: many.init(COUNT, 6, v, scale=STEPS[:2]),
            r"`scale` must have a leading axis over the 4 fits",
        ),
        (
            lambda: many.init(COUNT, 6, v, rng=[np.random.default_rng(0)]),
            "`rng` must hold a generator for each",
        ),
        (lambda: many.update(states, v[0, 0], h[0, 0], 0.1), r"`v` must have a leading axis over the 4 fits"),
        (lambda: many.update(states, v[0], h[0][:, :5], 0.1), r"`h` must have shape \(6,\) or \(6, k\)"),
        (lambda: many.update(states, v[0], h[0]), "exactly one of `step` and `memory` must be given"),
        (lambda: many.update(states, v[0], h[0], 1.5), r"`step` must lie in \(0, 1\), got 1.5"),
        (lambda: many.update(states, v[0], h[0], STEPS + 0.5), r"`step` must lie in \(0, 1\) for every fit"),
        (
            lambda: many.update(states, v[0], h[0], STEPS[:3]),
            "`step` must have a leading axis over the 4 fits",
        ),
        (lambda: many.update(states, v[0], h[0], memory=STEPS), "`memory` must be at least 1 for every fit"),
        (
            lambda: many.update(psgd.XMat().init(6, v), v[0], h[0], 0.1),
            "`states` must be arrays with one leading",
        ),
        (
            lambda: many.update(psgd.Ensemble(psgd.Dense()).init(COUNT, 6, v), v[0], h[0], 0.1),
            "`state.q.blocks",
        ),
        (
            lambda: many.update(states, v[0], h[0].astype(np.float32), 0.1),
            "`h` must have the dtype of `state`",
        ),
        (lambda: many.member(states, 4), "`i` must be the place of one of 4 fits, got 4"),
        (lambda: Seeds([]), "`seeds` must hold at least one seed"),
        (
            lambda: psgd.LowRank(1).init(6, v, rng=Seeds([0])),
            "`rng` must be one generator for one fit, got Seeds",
        ),
    ]
    for call, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            call()


def test_scales_are_looked_at():
    many, like = psgd.Ensemble(psgd.XMat()), np.zeros(4)
    for bad in (np.array([1.0, np.nan]), np.array([1.0, -1.0]), np.array([0.0, 1.0]), np.array(-1.0)):
        with pytest.raises(ValueError, match="`scale` must be positive and finite"):
            many.init(2, 4, like, scale=bad)
    one, all_alike = many.init(2, 4, like, scale=0.5), many.init(2, 4, like, scale=np.array(0.5))
    np.testing.assert_array_equal(one.q.blocks[0], all_alike.q.blocks[0])
