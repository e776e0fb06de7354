"""`psgd bench`: rounds, ratios and refusals under clocks of our own; slopes."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest

from psgd_analysis.bench import slopes, timing
from psgd_analysis.bench.timing import Limits, Rounds, Samples, Task


class Script:
    """A clock that moves when a task is called, by what that task's script says."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self):
        return self.now

    def task(self, name, lasts, **settings):
        """Return a task; `lasts` is seconds, or a function of (how often it was called, the time)."""
        count = [0]

        def call():
            self.log.append(name)
            self.now += lasts(count[0], self.now) if callable(lasts) else lasts
            count[0] += 1

        return Task(name, call, **settings)


QUIET = Limits(repeats=6, warmup=1, least=0.0, budget=1e9, fewest=5)


def test_everything_is_measured_in_turn_with_copies_between():
    script = Script()
    tasks = [script.task("a", 1.0), script.task("b", 3.0)]
    found = timing.measure(tasks, script.task("copy", 0.5), QUIET, script)
    assert found.samples["a"] == Samples((1.0,) * 6)
    assert found.samples["b"].quartiles == (3.0, 3.0)
    assert found.copies == Samples((0.5,) * 7)
    assert found.ratio("b", "a") == 3.0
    assert found.over_copy("b") == 6.0
    warm = ["copy"] * 2 + ["a"] * 2 + ["b"] * 2
    assert script.log[:6] == warm
    assert script.log[6:] == ["copy"] + ["a", "b", "copy", "b", "a", "copy"] * 3


def test_ratios_survive_a_machine_that_slows_down_and_medians_do_not():
    script = Script()
    slower = lambda seconds: lambda _, now: seconds * (1 + 0.003 * now)  # noqa: E731
    tasks = [script.task("a", slower(1.0)), script.task("b", slower(4.0))]
    limits = dataclasses.replace(QUIET, spread=9, drift=9, repeats=20)
    found = timing.measure(tasks, script.task("copy", slower(1.0)), limits, script)
    assert found.copies.drift > 0.15
    assert found.samples["a"].median > 1.1
    np.testing.assert_allclose(found.ratio("b", "a"), 4.0, rtol=0.02)
    np.testing.assert_allclose(found.over_copy("b"), 4.0, rtol=0.02)


def test_noise_is_given_more_rounds_and_then_refused():
    script = Script()
    task = script.task("a", lambda i, _: 1.0 if i % 2 else 2.0)
    found = timing.measure([task], script.task("copy", 1.0), QUIET, script)
    assert len(found.samples["a"].values) == 18
    assert found.noise("a", QUIET) == "quartiles 67% of the median apart, limit 15%"


def test_noise_that_ends_is_waited_for_and_nothing_is_thrown_away():
    script = Script()
    task = script.task("a", lambda i, _: 2.0 if 2 <= i < 5 else 1.0)  # two calls come before the first round
    found = timing.measure([task], script.task("copy", 1.0), QUIET, script)
    assert 6 < len(found.samples["a"].values) < 18
    assert found.samples["a"].values[:3] == (2.0,) * 3
    assert found.noise("a", QUIET) == ""


def test_a_drifting_bandwidth_is_refused():
    script = Script()
    copy = script.task(timing.COPY, lambda i, _: 1.03**i)
    found = timing.measure([script.task("a", 1.0)], copy, QUIET, script)
    assert found.noise("a", QUIET).startswith("copy bandwidth drifted by")


def test_the_budget_ends_rounds_after_the_fewest():
    script = Script()
    limits = dataclasses.replace(QUIET, repeats=50, budget=0.1)
    found = timing.measure([script.task("a", 1.0)], script.task("copy", 1.0), limits, script)
    assert len(found.samples["a"].values) == 5


def test_short_calls_are_repeated_within_a_sample_by_whole_periods():
    script = Script()
    alternating = script.task("a", lambda i, _: 0.01 if i % 2 else 0.03, period=2)
    limits = dataclasses.replace(QUIET, least=0.1, warmup=2)
    found = timing.measure([alternating], script.task("copy", 0.2), limits, script)
    assert alternating.calls == 6
    np.testing.assert_allclose(found.samples["a"].values, 0.02)
    np.testing.assert_allclose(found.copies.values, 0.2)


def test_samples_are_taken_within_the_task_s_context_and_after_waiting():
    script, inside, waited = Script(), [], []

    @contextlib.contextmanager
    def within():
        inside.append(True)
        yield
        inside.pop()

    task = script.task("a", lambda *_: 1.0 if inside else 100.0, within=within, wait=waited.append)
    found = timing.measure([task], script.task("copy", 1.0), QUIET, script)
    assert found.samples["a"] == Samples((1.0,) * 6)
    assert len(waited) == 1 + 1 + 6  # after each warm-up call, and once in each sample
    assert not inside


def test_medians_and_quartiles_are_the_textbook_s():
    found = Samples((4.0, 1.0, 3.0, 2.0, 10.0))
    assert (found.median, found.quartiles, found.spread) == (3.0, (2.0, 4.0), 2 / 3)
    assert Samples((1.0, 1.0, 9.0, 2.0, 2.0)).drift == 0.5
    rounds = Rounds({"a": Samples((2.0, 4.0)), "b": Samples((1.0, 1.0))}, Samples((1.0, 3.0, 1.0)))
    assert rounds.ratio("a", "b") == 3.0
    assert rounds.over_copy("a") == 1.5


def test_slopes():
    n = np.array([1e5, 1e6, 1e7, 1e8])
    found = slopes.fit(n, 3e-9 * n**0.97)
    np.testing.assert_allclose(found.slope, 0.97, rtol=1e-12)
    assert found[1:] == (pytest.approx(0, abs=1e-12), 1e5, 1e8, 4)
    noisy = 3e-9 * n * np.array([1.1, 0.9, 1.0, 1.05])
    fitted, covariance = np.polyfit(np.log(n), np.log(noisy), 1, cov=True)
    found = slopes.fit(n, noisy)
    np.testing.assert_allclose([found.slope, found.error], [fitted[0], covariance[0, 0] ** 0.5], rtol=1e-9)
    assert slopes.fit([10, 10], [1, 2]) is None
    assert np.isnan(slopes.fit([10, 100], [1, 10]).error)
