"""Replay: which pairs are fitted again and in what order, against a list; and what it buys."""

from __future__ import annotations

import numpy as np
import pytest
from fitted_pairs import leaves, pairs
from registry import compiled_jax_only

import psgd_core as psgd
from psgd_core import Replay
from psgd_core.arrays.draws import picks

STEP = 0.3


def hashed(count, position):
    """Return the hash of a draw, in Python's integers."""
    word, turned = position, count
    for factor, shift in ((0x1F35B1D9, 16), (0x2C1B3C6D, 12), (0x297A2D39, 15)):
        word = ((word ^ turned) * factor) & 0xFFFFFFFF
        signed = word - 2**32 if word >= 2**31 else word
        word = (word ^ (signed >> shift)) & 0xFFFFFFFF
    return word & 0x7FFFFFFF


def by_the_list(p, state, replay, stream, step=STEP):
    """Fit each pair with those that `replay` should take, kept in a list, by the preconditioner's updates."""
    kept = []
    for t, pair in enumerate(stream):
        kept = [*kept, pair][-replay.size :]
        newest_first = kept[::-1]
        for i in range(replay.times):
            size = replay.size if replay.batch == "all" else replay.batch
            at = range(i * size, (i + 1) * size)
            if replay.batch == "all":
                ages = list(range(size))
            elif replay.order == "age":
                ages = [(replay.times - 1 - i) * size + j for j in range(size)]
            else:
                ages = [hashed(t + 1, j) % len(kept) for j in at]
            if i == 0 and replay.batch != "all":
                ages[0] = 0
            v, h = (np.stack([newest_first[a % len(kept)][which] for a in ages], 1) for which in (0, 1))
            state = p.update(state, v, h, step)
    return state


CASES = {
    "random": Replay(4, 3),
    "age": Replay(4, 6, order="age"),
    "age, fewer than there are": Replay(4, 2, order="age"),
    "batches": Replay(4, 3, 2),
    "batches by age": Replay(5, 3, 2, "age"),
    "all": Replay(3, 2, "all"),
    "the new pair alone": Replay(4, 1),
}


@pytest.mark.parametrize("replay", CASES.values(), ids=CASES.keys())
@compiled_jax_only
def test_it_is_updates_on_the_pairs_of_a_list(backend, replay):
    p, n = psgd.LowRank(1, damping=0), 4
    stream = pairs(n, "float64", 7, 0)
    start = backend.asarray(np.zeros(n))
    state, ring = p.init(n, start), replay.init(n, start)
    update = backend.jit(lambda state, ring, v, h: replay.update(p, state, ring, v, h, STEP))
    for v, h in stream:
        state, ring = update(state, ring, backend.asarray(v), backend.asarray(h))
    expected = by_the_list(p, p.init(n, np.zeros(n)), replay, stream)
    assert int(state.count) == replay.times * len(stream)
    assert int(ring.count) == len(stream)
    assert ring.v.shape == (replay.size, n)
    assert ring.v.dtype == start.dtype
    np.testing.assert_allclose(
        backend.numpy(p.matrix(state)), p.matrix(expected), rtol=0, atol=2e4 * backend.eps
    )


def test_eager_jax_compiles_the_old_pairs_once():
    jax = pytest.importorskip("jax")
    p, replay, n = psgd.Diagonal(), Replay(3, 4, order="age"), 3
    stream = pairs(n, "float32", 5, 1)
    like = jax.numpy.zeros(n)
    state, ring = p.init(n, like), replay.init(n, like)
    for v, h in stream:
        state, ring = replay.update(p, state, ring, jax.numpy.asarray(v), jax.numpy.asarray(h), STEP)
    expected = by_the_list(p, p.init(n, stream[0][0]), replay, stream)
    np.testing.assert_allclose(np.asarray(p.matrix(state)), p.matrix(expected), rtol=1e-4)


def test_old_pairs_are_one_loop_in_the_graph():
    jax = pytest.importorskip("jax")
    p, x = psgd.Diagonal(), jax.numpy.ones(3)

    def size(times):
        replay = Replay(5, times)
        state, ring = p.init(3, x), replay.init(3, x)
        return len(str(jax.make_jaxpr(lambda s, r: replay.update(p, s, r, x, x, STEP))(state, ring)))

    assert size(50) < 1.01 * size(5)


def test_draws_are_the_same_everywhere_and_uniform(backend):
    count = backend.xp.asarray(12345, dtype=backend.xp.int32)
    limit = backend.xp.asarray(50, dtype=backend.xp.int32)
    drawn = backend.numpy(picks(count, 1000, 20, limit))
    assert drawn.tolist() == [hashed(12345, 1000 + i) % 50 for i in range(20)]


def test_draws_are_uniform_and_independent():
    # 1,000 steps of 30 draws each from 50: chi squared of single draws, and of pairs of neighbouring steps
    drawn = np.stack([picks(np.asarray(t, np.int32), 0, 30, np.asarray(50, np.int32)) for t in range(1000)])
    counts = np.bincount(drawn.ravel(), minlength=50)
    expected = drawn.size / 50
    assert np.sum((counts - expected) ** 2 / expected) < 49 + 5 * np.sqrt(2 * 49)
    for together in (drawn[1:] * 50 + drawn[:-1], drawn[:, 1:] * 50 + drawn[:, :-1]):
        counts = np.bincount(together.ravel(), minlength=2500)
        expected = together.size / 2500
        assert np.sum((counts - expected) ** 2 / expected) < 2499 + 5 * np.sqrt(2 * 2499)


@pytest.mark.parametrize("order", ["random", "age"])
@pytest.mark.parametrize("wrong", ["nan", "inf", "zero"])
@compiled_jax_only
def test_an_unusable_pair_changes_nothing_but_a_count(backend, wrong, order):
    p, replay, n = psgd.Dense(), Replay(3, 4, order=order), 3
    x = backend.asarray(np.zeros(n))
    state, ring = p.init(n, x), replay.init(n, x)
    update = backend.jit(lambda state, ring, v, h: replay.update(p, state, ring, v, h, STEP))
    for v, h in pairs(n, "float64", 2, 2):
        state, ring = update(state, ring, backend.asarray(v), backend.asarray(h))
    v, h = np.ones(n), np.ones(n)
    if wrong == "zero":
        v[:] = 0
    else:
        h[1] = float(wrong)
    after, ring_after = update(state, ring, backend.asarray(v), backend.asarray(h))
    assert int(after.skipped) == int(state.skipped) + 1
    for old, new in zip(
        leaves((state._replace(skipped=x), ring)),
        leaves((after._replace(skipped=x), ring_after)),
        strict=True,
    ):
        np.testing.assert_array_equal(backend.numpy(old), backend.numpy(new))


def test_a_zero_column_does_not_enter_the_ring():
    p, replay = psgd.Dense(), Replay(4, 2)
    v = np.array([[0.0, 1.0], [0.0, 2.0]])
    _, ring = replay.update(p, p.init(2, v), replay.init(2, v), v, 3 * v, STEP)
    assert int(ring.count) == 1
    np.testing.assert_array_equal(ring.v, [[1, 2], [0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(ring.h, 3 * ring.v)


@compiled_jax_only
def test_a_jump_of_the_hessian_drops_the_old_pairs(backend, rng):
    # with one update per pair the jump shows after 8 pairs; those are dropped too, and none sets the scale
    p, replay, n = psgd.Diagonal(), Replay(50, 1, order="age"), 3
    state, ring = p.init(n, backend.asarray(np.zeros(n))), replay.init(n, backend.asarray(np.zeros(n)))
    update = backend.jit(lambda state, ring, v, h: replay.update(p, state, ring, v, h, 0.1))
    for _ in range(20):
        v = backend.asarray(rng.standard_normal(n))
        state, ring = update(state, ring, v, v)
    for t in range(8):
        assert int(ring.count) == 20 + t
        v = backend.asarray(rng.standard_normal(n))
        state, ring = update(state, ring, v, 1e6 * v)
    assert bool(state.pending)
    assert int(ring.count) == 0
    v = backend.asarray(rng.standard_normal(n))
    state, ring = update(state, ring, v, 1e6 * v)
    assert int(ring.count) == 1
    np.testing.assert_allclose(np.diag(backend.numpy(p.matrix(state))), 1e-6, rtol=0.2)


def test_after_a_jump_among_old_pairs_no_more_of_them_are_fitted():
    # eight of the old pairs in a row say that H has jumped: the rest of the call leaves P as it is
    p, replay = psgd.Diagonal(), Replay(20, 30, order="age")
    x = np.ones(2)
    state, ring = p.init(2, x), replay.init(2, x)
    ring = ring._replace(v=np.ones((20, 2)), h=np.full((20, 2), 1e9), count=np.asarray(20, np.int32))
    state, ring = replay.update(p, state, ring, x, x, 1e-6)
    assert bool(state.pending)
    assert int(ring.count) == 0
    assert int(state.count) == 1 + 8  # the new pair, which set the scale, and the eight
    np.testing.assert_allclose(p.matrix(state), np.eye(2), rtol=0.1, atol=1e-12)  # and not 1e-9


def test_blocks_replay_too():
    p = psgd.Blocks(((2, psgd.Dense()), (1, psgd.Diagonal())))
    replay, stream = Replay(4, 5, order="age"), pairs(3, "float64", 6, 3)
    state, ring = p.init(3, stream[0][0]), replay.init(3, stream[0][0])
    for v, h in stream:
        state, ring = replay.update(p, state, ring, v, h, STEP)
    expected = by_the_list(p, p.init(3, stream[0][0]), replay, stream)
    np.testing.assert_allclose(p.matrix(state), p.matrix(expected), rtol=1e-12)


def test_nothing_is_written_to():
    p, replay = psgd.LowRank(1), Replay(3, 4)
    stream = pairs(4, "float64", 4, 4)
    state, ring = p.init(4, stream[0][0]), replay.init(4, stream[0][0])
    for v, h in stream:
        before = [x.copy() for x in leaves((state, ring, (v, h)))]
        new_state, new_ring = replay.update(p, state, ring, v, h, STEP)
        for x, y in zip(leaves((state, ring, (v, h))), before, strict=True):
            np.testing.assert_array_equal(x, y)
        state, ring = new_state, new_ring


def test_it_learns_more_from_each_pair():
    """LowRank(2), n = 20, target in the group: what 100 pairs teach, median of five problems."""
    found = {1: [], 50: []}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        d = np.exp(rng.uniform(-0.5, 0.5, 20) * np.log(10) / 2)
        u, w = rng.standard_normal((2, 20, 2)) / np.sqrt(20)
        q = (np.eye(20) + u @ w.T) * d
        target = np.linalg.inv(q.T @ q)
        stream = rng.standard_normal((100, 20))
        for times, distances in found.items():
            p, replay = psgd.LowRank(2), Replay(50, times)
            state, ring = p.init(20, stream[0]), replay.init(20, stream[0])
            for v in stream:
                state, ring = replay.update(p, state, ring, v, target @ v, 0.2)
            values = np.linalg.eigvals(p.matrix(state) @ target).real
            distances.append(np.sqrt(np.mean(np.log(values) ** 2)))
    assert np.median(found[1]) > 0.1
    assert np.median(found[50]) < 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "`size` must be a positive int"),
        ({"times": 0}, "`times` must be a positive int"),
        ({"size": 4, "batch": 5}, "`batch` must be a positive int, at most 4"),
        ({"batch": "every"}, "`batch` must be"),
        ({"order": "newest"}, "`order` must be one of 'random', 'age'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Replay(**settings)


def test_what_does_not_go_together_is_refused():
    p, replay, x = psgd.Dense(), Replay(3, 2), np.ones(2)
    state, ring = p.init(2, x), replay.init(2, x)
    with pytest.raises(ValueError, match="`v` must be given for replay"):
        replay.update(p, state, ring, None, x, 0.1)
    with pytest.raises(ValueError, match="`h` must have the shape of `v`"):
        replay.update(p, state, ring, x, np.ones((2, 2)), 0.1)
    with pytest.raises(ValueError, match=r"`ring` must hold vectors of shape \(3, 2\), got \(4, 2\)"):
        replay.update(p, state, Replay(4).init(2, x), x, x, 0.1)
    with pytest.raises(ValueError, match="`v` must have shape"):
        replay.update(p, state, ring, np.ones(3), np.ones(3), 0.1)
    with pytest.raises(TypeError, match="`p` must be a Preconditioner"):
        replay.update(None, state, ring, x, x, 0.1)
    with pytest.raises(ValueError, match=r"`step` must lie in \(0, 1\)"):
        replay.update(p, state, ring, x, x, 1.5)
