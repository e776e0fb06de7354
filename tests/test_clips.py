"""What the clips remember: against their definitions, not their recurrences."""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd
from psgd_core import PSGD
from psgd_core.descent import clips


def clipped(lengths, factor, decay):
    """Return what `AdaptiveNorm` leaves of steps of these lengths, from its definition: no recurrence."""
    held = []
    for t, length in enumerate(lengths):
        weights = decay ** np.arange(t - 1, -1, -1.0)
        mean = np.average(held, weights=weights) if t else 0.0
        held.append(min(length, factor * mean) if mean > 0 else length)
    return held


@pytest.mark.parametrize(("factor", "decay"), [(2.0, 0.9), (1.5, 0.5), (3.0, 0.0), (1.1, 0.99)])
def test_running_clip_is_the_mean_of_all_it_let_pass(backend, factor, decay):
    """Of steps of every size, zero among the first: bounded by `factor` times their weighted mean so far."""
    lengths = [0.0, 3.0, 1.0, 8.0, 0.0, 0.5, 0.4, 40.0, 40.0, 40.0, 0.01, 2.0, 7.0]
    clip, one = clips.AdaptiveNorm(factor, decay), backend.asarray(np.array([0.6, -0.8]))
    memory, got = clip.init(one), []
    for length in lengths:
        move, memory = clip.limit(memory, length * one)
        got.append(float(np.linalg.norm(backend.numpy(move))))
    np.testing.assert_allclose(got, clipped(lengths, factor, decay), rtol=100 * backend.eps, atol=1e-30)


def test_running_clip_remembers_no_step_that_was_not_made():
    """A gradient that is not finite is no step of length 0: the next one is bounded as if it had not been."""
    opt, x, one = PSGD(psgd.Diagonal(), clip=clips.AdaptiveNorm()), np.zeros(1), np.ones(1)
    state = opt.init(x, scale=1.0)
    for g in (1.0, 2.0, 1.5):
        _, state = opt.update(state, x, g * one)
    plain, _ = opt.update(state, x, 100 * one)
    for bad in (np.nan, np.inf, np.nan):
        _, state = opt.update(state, x, bad * one)
    after, _ = opt.update(state, x, 100 * one)
    np.testing.assert_array_equal(after, plain)
    np.testing.assert_allclose(plain, -2 * np.average([1.0, 2.0, 1.5], weights=[0.81, 0.9, 1.0]))


def test_trust_radius_halves_the_step_that_was_made_not_the_radius_or_the_wish(backend):
    """After a step inside the radius, and after one cut down to it, half its own length comes next."""
    clip, unit = clips.TrustRadius(), backend.asarray(np.array([0.6, 0.8]))
    yes = backend.asarray(np.float64(1.0)) > 0

    def judge(memory, at, f):
        return clip.judge(memory, clips.Point(at * unit, unit, backend.asarray(np.float64(f))), yes)[2]

    def step(memory, wish):
        move, memory = clip.limit(memory, wish * unit)
        return float(np.linalg.norm(backend.numpy(move))), memory

    memory = judge(clip.init(unit), 0, 9.0)
    for wish, makes, f in (
        (4.0, 4.0, 8.5),  # the first sets the radius, and reaches it: 8 from here on
        (7.0, 7.0, 8.0),  # inside, and down: the radius stays
        (3.0, 3.0, 9.5),  # inside, and up: half of 3, not of 8
        (20.0, 1.5, 7.0),  # at the limit, and down: 3
        (20.0, 3.0, 9.5),  # cut down to 3, and up: half of 3, not of 20
        (20.0, 1.5, 9.5),
        (0.5, 0.5, 9.5),  # inside 0.75, and up: half of 0.5
        (9.0, 0.25, 6.0),
        (9.0, 0.5, 5.0),
    ):
        made, memory = step(memory, wish)
        assert made == pytest.approx(makes, rel=16 * backend.eps)
        memory = judge(memory, 1, f)
    assert int(memory.rejected) == 4
