"""`psgd bench` ends in time: shares of what is left, the fewest rounds, and rows for what found no time."""

from __future__ import annotations

import dataclasses
import math

import pytest

from psgd_analysis.bench import budget, run
from psgd_analysis.bench.budget import RESERVE, Budget
from psgd_analysis.bench.contenders import Calls, Own, Setting
from psgd_analysis.bench.libraries import Library
from psgd_analysis.bench.peer import Peer
from psgd_analysis.bench.timing import Late, Limits, Task

DOUBLE = Library("numpy", "float64")
KINDS = ("diagonal", "xmat", "butterfly")


class Told:
    """A clock that moves only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Pretended(Peer):
    """A peer that takes its time."""

    kinds = KINDS

    def __init__(self, clock, name, set_up, update):
        self.clock, self.name, self._set_up, self._update = clock, name, set_up, update

    def _calls(self, setting):
        self.clock.now += self._set_up
        return lasting(self.clock, self._update)


def lasting(clock, seconds):
    def call():
        clock.now += seconds

    return Calls(call, call)


@pytest.fixture
def clock(monkeypatch):
    """A clock by which psgd-core is set up in a second, and a call and a copy take a tenth."""
    told = Told()

    def set_up(self, setting):
        told.now += 1.0
        return lasting(told, 0.1)

    monkeypatch.setattr(Own, "set_up", set_up)
    monkeypatch.setattr(Library, "copy_task", lambda *_: Task("copy", lasting(told, 0.1).update))
    return told


def measured(clock, peers, total, **limits):
    plan = run.Plan(
        [Setting(kind, 16, DOUBLE) for kind in KINDS],
        kernels="off",
        peers=peers,
        limits=Limits(least=0.0, total=total, **limits),
    )
    shared = plan.budget(clock)
    rows = [row for setting in plan.settings for row in run.run(plan, setting, shared)]
    everyone = {Own(False).name, *(peer.name for peer in peers)}
    assert {(row.setting.kind, row.contender) for row in rows} == {
        (k, name) for k in KINDS for name in everyone
    }
    return rows


@pytest.mark.parametrize("total", [0.0, 3.0, 20.0, 60.0, 300.0, 3000.0])
@pytest.mark.parametrize("update", [0.01, 0.5, 4.0])
def test_the_run_ends_in_time(clock, total, update):
    peers = [Pretended(clock, "quick", 0.5, update / 10), Pretended(clock, "slow", 2.0, update)]
    rows = measured(clock, peers, total)
    # what cannot be cut short: a set-up and its first calls, three of an update and three of P g
    assert clock.now <= (1 - RESERVE) * total + 2.0 + 6 * update + 0.6
    for row in rows:
        if row.status == "ok":
            assert len(row.samples.values) >= Limits().fewest
        else:
            assert (row.status, row.reason) == ("no time", budget.NO_TIME)
    if total == 0:
        assert {row.status for row in rows} == {"no time"}
    if total == 3000:
        assert {row.status for row in rows} == {"ok"}


def test_more_seconds_buy_more_rounds_and_nothing_else(clock):
    counts = []
    for total in (100.0, 200.0, 1000.0):
        clock.now = 0.0
        rows = measured(clock, [Pretended(clock, "other", 1.0, 0.5)], total, budget=math.inf)
        assert {row.status for row in rows} == {"ok"}
        counts.append(sum(len(row.samples.values) for row in rows))
    assert counts[0] < counts[1] <= counts[2] == len(rows) * Limits().repeats


def test_a_comparison_takes_no_more_than_its_own_limit(clock):
    for most in (10.0, 20.0):
        clock.now = 0.0
        measured(clock, [], 10_000.0, budget=most, spread=-1.0)  # never quiet
        assert clock.now <= len(KINDS) * (most + 2.0)  # a second to set up, and the first calls


def test_shares_are_in_proportion_and_what_is_left_goes_to_the_others(monkeypatch):
    monkeypatch.setattr(budget, "SET_UP", 2.0)
    clock = Told()
    shared = Budget(Limits(total=100.0, budget=1e9), clock, ahead=[4.0, 2.0, 2.0, 2.0])
    assert shared.end == 90.0
    assert shared.share() == pytest.approx((90.0 - 4 * 2.0) * 4 / 10)
    clock.now = 10.0  # less than its share
    assert shared.share() == pytest.approx((80.0 - 3 * 2.0) * 2 / 6)
    clock.now = 80.0  # more
    assert shared.share() == pytest.approx((10.0 - 2 * 2.0) * 2 / 4)
    clock.now = 95.0
    assert shared.share() == 0.0
    assert Budget(Limits(budget=5.0), clock, ahead=[1.0]).share() == 5.0


def test_what_took_longer_to_set_up_than_is_left_is_not_begun():
    clock = Told()
    shared = Budget(Limits(total=100.0), clock, ahead=[1.0])
    for _ in range(2):
        with shared.setting_up("torch.compile"):
            clock.now += 40.0
    with pytest.raises(Late), shared.setting_up("torch.compile"):
        pytest.fail("begun")
    with shared.setting_up("torch"):
        clock.now += 40.0
    with pytest.raises(Late), shared.setting_up("numpy"):
        pytest.fail("begun")


def test_costly_preconditioners_are_expected_to_take_longer():
    limits = Limits(budget=math.inf)
    one = Setting("diagonal", 10**7, DOUBLE)
    low = Setting("lowrank", 10**7, DOUBLE, 10)
    assert budget.expected(low, limits) > 10 * budget.expected(one, limits)
    assert budget.expected(low, Limits(budget=50.0)) == 50.0
    small = dataclasses.replace(one, n=10)
    assert budget.expected(small, limits) == pytest.approx(budget.expected(one, limits) / 10**6)
