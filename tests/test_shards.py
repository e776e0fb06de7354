"""Sums over shards in the core: threads stand for processes, each with a part of the vector."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import psgd_core as psgd
from psgd_core.arrays import shards, sums, vectors
from psgd_core.arrays.draws import ByPlace, signs
from psgd_core.curvature import Forward, Functions, Gaussian, Rademacher
from psgd_core.descent import clips

N = 23
PARTS = {"even": [0, 12, 23], "uneven": [0, 1, 4, 22, 23], "one": [0, 23]}


class Threads:
    """`Shards` among threads: a barrier, a slot for each, and sums in their order."""

    def __init__(self, edges):
        self.edges, self.world = edges, len(edges) - 1
        self.slots = [None] * self.world
        self.barrier = threading.Barrier(self.world, timeout=60)
        self.sent = []  # the sizes of what the first of them sent

    def run(self, task):
        """Return what ``task(slice)`` returns in each thread."""
        found, errors = [None] * self.world, []

        def one(rank):
            try:
                with shards.over(Seen(self, rank)):
                    found[rank] = task(slice(*self.edges[rank : rank + 2]))
            except BaseException as error:
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        real = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
        if real:
            raise real[0]
        return found


class Seen:
    """What one of the threads sees."""

    def __init__(self, threads, rank):
        self.threads, self.rank, self.n = threads, rank, threads.edges[-1]

    def total(self, x):
        first, *others = self._all(x)
        return sum(others, start=first)

    def most(self, x):
        return np.stack(self._all(x)).max(axis=0)

    def places(self, start, stop, like):
        first = self.threads.edges[self.rank]
        return np.arange(first + start, first + stop)

    def _all(self, x):
        self.threads.slots[self.rank] = np.array(x)
        if self.rank == 0:
            self.threads.sent.append(np.size(x))
        self.threads.barrier.wait()
        found = list(self.threads.slots)
        self.threads.barrier.wait()
        return found


@pytest.fixture(params=PARTS)
def threads(request):
    return Threads(PARTS[request.param])


def along_n(parts):
    """Return the states of the shards as one: arrays of their own length are joined."""
    first = parts[0]
    if isinstance(first, tuple):
        joined = [along_n(list(row)) for row in zip(*parts, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else tuple(joined)
    sizes = {np.shape(x)[-1:] for x in parts}
    if np.ndim(first) and (len(sizes) > 1 or len(parts) == 1):
        return np.concatenate(parts, axis=-1)
    for other in parts[1:]:
        np.testing.assert_array_equal(other, first)  # what is not along n is the same, bit for bit
    return first


def assert_alike(got, expected, tolerance=1e-11):
    if isinstance(expected, tuple):
        for a, b in zip(got, expected, strict=True):
            assert_alike(a, b, tolerance)
    else:
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


CASES = {
    "Diagonal": psgd.Diagonal(),
    "group": psgd.Diagonal(steps="group", geometry="QUAD"),
    "right": psgd.LowRank(3),
    "gradient": psgd.LowRank(3, normalizer=psgd.normalizers.Gradient()),
    "left": psgd.LowRank(3, diagonal="left"),
    "natural": psgd.LowRank(3, geometry="natural"),
    "damped": psgd.LowRank(3, damping=0.1),
    "rank 0": psgd.LowRank(0),
}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_shards_are_fitted_as_the_whole(threads, name, k):
    p, rng = CASES[name], np.random.default_rng(0)
    a = rng.standard_normal((N, N))
    h = a + a.T
    vs = rng.standard_normal((25, N, k))
    hs = h @ vs
    hs[7, 3] = np.nan  # skipped by all, though only one of them sees it
    hs[9:19] *= 1e4  # H jumps: the scale is set anew
    x = rng.standard_normal((N, 2))

    def fitted(here):
        state = p.init(len(vs[0, here]), like=vs[0, here])
        for v, h in zip(vs[:, here], hs[:, here], strict=True):
            state = p.update(state, v, h, 0.3)
        verbs = "precondition", "apply", "apply_transpose", "solve", "solve_transpose"
        products = [getattr(p, verb)(state, x[here]) for verb in verbs]
        return state, p.log_det(state), p.criterion(state, vs[0, here], hs[0, here]), products

    with psgd.kernels.off():
        whole = fitted(slice(None))
    found = threads.run(fitted)
    assert_alike(along_n([state for state, *_ in found]), whole[0])
    for _, log_det, criterion, _ in found:
        np.testing.assert_allclose([log_det, criterion], whole[1:3], rtol=1e-11)
    for i, expected in enumerate(whole[3]):
        got = np.concatenate([products[i] for *_, products in found])
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * abs(expected).max())
    assert whole[0].skipped == 1
    assert whole[0].count == 24


@pytest.mark.parametrize("name", ["Diagonal", "right"])
def test_pairs_start_shards_as_the_whole(threads, name):
    p, rng = CASES[name], np.random.default_rng(1)
    v = rng.standard_normal((N, 10))
    h = np.linspace(1, 9, N)[:, None] * v

    def begun(here):
        return p.init(len(v[here]), like=v[here], pairs=(v[here], h[here]))

    assert_alike(along_n(threads.run(begun)), begun(slice(None)))


def test_steps_of_shards_are_those_of_the_whole(threads):
    """The loop with momentum, replay, clips and differences; where one gradient is not finite none moves."""
    loop = psgd.PSGD(
        psgd.LowRank(2),
        lr=0.3,
        momentum=0.5,
        clip=(clips.Norm(3.0), clips.AdaptiveNorm(1.2)),
        replay=psgd.Replay(size=4, times=3),
        source=Forward(),
    )
    rng = np.random.default_rng(2)
    scales, x0, vs = np.linspace(1, 30, N), rng.standard_normal(N), rng.standard_normal((12, N))

    def run(here):
        x, state = x0[here], loop.init(x0[here])
        for t, v in enumerate(vs[:, here]):
            bad = np.where(np.arange(N)[here] == 20, np.nan if t == 5 else 0.0, 0.0)
            functions = Functions(gradient=lambda x, bad=bad: scales[here] * x + bad)
            x, state = loop.step(state, x, functions, v)
        return x, state.skipped, state.preconditioner.skipped

    with psgd.kernels.off():
        whole = run(slice(None))
    found = threads.run(run)
    np.testing.assert_allclose(np.concatenate([x for x, *_ in found]), whole[0], rtol=1e-6)
    assert {(int(a), int(b)) for _, a, b in found} == {(1, 1)} == {(int(whole[1]), int(whole[2]))}


@pytest.mark.parametrize("probes", [Gaussian(), Gaussian(3), Rademacher(2)])
def test_numbers_by_place_are_those_of_the_whole(threads, probes):
    whole = ByPlace(5)
    expected = [probes.draw(whole, np.zeros(N)) for _ in range(2)]
    signed = (
        signs(np.asarray(4, np.int32), np.zeros((N, 3))),
        signs(np.asarray(4, np.int32), np.zeros((2, N))),
    )

    def drawn(here):
        rng, like = ByPlace(5), np.zeros(N)[here]
        two = [probes.draw(rng, like) for _ in range(2)]
        count = np.asarray(4, np.int32)
        return *two, signs(count, np.zeros((len(like), 3))), signs(count, np.zeros((2, len(like))), axis=1)

    for got, want, axis in zip(
        zip(*threads.run(drawn), strict=True), (*expected, *signed), (0, 0, 0, 1), strict=True
    ):
        np.testing.assert_allclose(np.concatenate(got, axis=axis), want, rtol=1e-14)


def test_numbers_by_place_are_normal_and_independent():
    """Moments, distribution, and correlations with the next place, the next draw and the next seed."""
    stats = pytest.importorskip("scipy.stats")
    n = 200_000
    rng, other = ByPlace(0), ByPlace(1)
    x, y = (rng.normal((n, 1), np.zeros(1))[:, 0] for _ in range(2))
    z = other.normal((n, 1), np.zeros(1))[:, 0]
    assert stats.kstest(x, "norm").statistic < 1.95 / n**0.5  # exceeded by chance once in 1,000 seeds
    for a, b in ((x[:-1], x[1:]), (x, y), (x, z), (x[:-1] ** 2 - 1, x[1:] ** 2 - 1)):
        assert abs(np.mean(a * b)) < 5 * 2 / n**0.5
    state = rng.get_state()
    after = rng.normal((5, 2), np.zeros(1))
    again = ByPlace(9)
    again.set_state(state)
    np.testing.assert_array_equal(again.normal((5, 2), np.zeros(1)), after)


def test_what_is_sent_for_low_rank_is_one_gram_matrix_and_scalars():
    """(2 r + 2 k)^2 numbers per update, 2 r k per product P g; all else is scalars."""
    r, k = 3, 2
    threads, p, rng = Threads(PARTS["even"]), psgd.LowRank(3), np.random.default_rng(0)
    v, h, g = rng.standard_normal((3, N, k))

    def task(here):
        state = p.init(len(v[here]), like=v, scale=1.0)
        state = p.update(state, v[here], h[here], 0.1)
        return p.precondition(state, g[here])

    threads.run(task)
    assert [size for size in threads.sent if size > 1] == [(2 * r + 2 * k) ** 2, r * k, r * k]


def test_outside_of_shards_nothing_changes():
    x = np.arange(5.0)
    assert shards.active() is None
    assert shards.length(5) == 5
    assert shards.total(x) is x
    with shards.over(None):
        assert sums.norm(x) == np.sqrt(30)
        assert vectors.finite(x)
    assert shards.active() is None
