"""The settings of a check: what theory expects of a fit, given how its pairs come.

1. *exact*: averages over the columns of one pair are the expectations themselves. Linear convergence to
   rounding for any invertible H, to the group's own minimiser where H lies outside.
2. *online*: one random probe per update, no noise, H definite and in the group. Then ``a = b`` at the
   minimiser, and convergence is linear to rounding again.
3. *floor*: one probe per update, H indefinite or noisy. ``a ≠ b`` at the minimiser: a constant step leaves a
   floor that is proportional to it, an annealed one takes the floor along.
4. *outside*: one probe per update, H outside the group: the same around the group's own minimiser, unless
   the step is normalised by the sample's own size, which is shown beside.
5. *tracking*: H drifts, and a constant step has to keep up.
6. *whitening*, *whitening-floor*: 1 and 3 again, for gradients with ``E[g g^T] = H^2`` in the products' place
   and v integrated out, or drawn apart from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from psgd_core import convergence
from psgd_core.convergence import Expectation, FallingFloor, Trace, Tracks, level
from psgd_core.preconditioners.normalizers import Sample

from .baselines import BFGS, ClosedForm
from .families import Situation
from .stops import Below, GapBelow, LinearDescent, Settled
from .theory import (
    MEMORY,
    Asked,
    lag,
    lengths,
    measurable,
    needed,
    online_rate,
    reachable,
    rounding,
    tolerance,
    uneven,
)

TARGET_GAP = 1e-4
"""The criterion's gap that annealed runs outside the group must reach."""

CONSTANT = "constant step"
"""Label of the run whose step stays as it is."""

SAMPLE = "sample's own normaliser"
"""Label of the run whose step is divided by each sample's own size."""


@dataclass(frozen=True)
class Steps:
    """The step of update t, ``start / (1 + t / half)``; constant for an infinite `half`.

    Errors of a stochastic fit fall as fast as they can with steps proportional to 1/t.
    """

    start: float
    half: float = math.inf

    def __call__(self, t: np.ndarray) -> np.ndarray:
        """Return the steps of the updates t."""
        return self.start / (1 + np.asarray(t, dtype=np.float64) / self.half)


@dataclass(frozen=True)
class Run:
    """One fit: what is fitted, with which steps, for how long and measured how often.

    Parameters
    ----------
    label : str
    fitter : Preconditioner or Baseline
    steps : Steps
    updates : int
        How many at most.
    every : int
        Updates between measurements.
    stops : tuple of callables
        The run ends early once ``stop(trace)`` is true for one of them.
    """

    label: str
    fitter: Any
    steps: Steps
    updates: int
    every: int
    stops: tuple[Callable[[Trace], bool], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a case does: the run that is judged, those beside it, and theory's prediction.

    `expect` gets the traces of all runs by label, as expectations may be relative to a run beside.
    """

    judged: Run
    beside: tuple[Run, ...]
    expect: Callable[[Mapping[str, Trace]], Expectation | LinearDescent]
    column: str = "distance"
    rate: float | None = None
    probe: str | None = None  # None: exact pairs
    whiten: bool = False  # whether h is a gradient, with v integrated out or drawn apart from it


@dataclass(frozen=True)
class Setting:
    """How pairs come, in which situations, and what a case then does.

    Parameters
    ----------
    name, about : str
        As in names of cases, and one line for `--list`.
    accepts : callable
        ``accepts(situation)``.
    plan : callable
        ``plan(situation, asked, probe)`` returns a `Plan`.
    probes : tuple
        Kinds of probes, a case for each; None for exact pairs.
    """

    name: str
    about: str
    accepts: Callable[[Situation], bool]
    plan: Callable[[Situation, Asked, str | None], Plan]
    probes: tuple[str | None, ...] = field(default=("gaussian",))


def _patient(fitter: Any, asked: Asked, step: float, updates: int, bound: float) -> Run:
    """Return a run whose rate no theory predicts; it ends well below the bound."""
    stops = () if asked.steps else (Below(bound / 100), Settled(bound))
    every = max(1, min(100, updates // 100))
    return Run("PSGD", fitter, Steps(asked.step or step), updates, every, stops)


# -- 1: exact expectation --------------------------------------------------------------------------------


def _exact(situation: Situation, asked: Asked, probe: str | None) -> Plan:
    entry, bound = situation.entry, rounding(situation, asked)
    p = entry.make(situation.n)
    if entry.free:
        updates = asked.steps or entry.checked.patience
        step = 0.5 if entry.low_rank else 0.9 * entry.largest_step(situation.kappa)
        run = _patient(p, asked, step, updates, bound)
        return Plan(run, (), lambda traces: LinearDescent(bound))
    step = asked.step or 0.9 * entry.largest_step(situation.kappa)
    predicted = float(convergence.predicted_rate(situation.spectra, step, geometry=entry.geometry))
    updates, every = lengths(asked, predicted)
    bound = reachable(bound, predicted, updates)
    run = Run("PSGD", p, Steps(step), updates, every, () if asked.steps else (Settled(bound),))
    # in all geometries but EQ, N is another far from the minimiser, and the normaliser remembers it
    short = entry.geometry != "EQ" and needed(asked, predicted) < 3 * MEMORY
    rate = None if uneven(situation) or short or not measurable(asked, predicted) else predicted
    expected = LinearDescent(bound, rate, tolerance(0.25, asked, predicted))
    return Plan(run, (), lambda traces: expected, rate=rate)


def _whitening(situation: Situation, asked: Asked, probe: str | None) -> Plan:
    """Return the plan of `_exact` without v: gradients with the moment H^2 have the same target."""
    return replace(_exact(situation, asked, probe), whiten=True)


# -- 2: online, definite, in the group -------------------------------------------------------------------


def _baselines(run: Run) -> tuple[Run, ...]:
    return (
        Run("BFGS", BFGS(), run.steps, run.updates, run.every),
        Run("closed form", ClosedForm(), run.steps, run.updates, run.every),
    )


def _online(situation: Situation, asked: Asked, probe: str | None) -> Plan:
    assert probe is not None
    entry, bound = situation.entry, rounding(situation, asked)
    p = entry.make(situation.n)
    if entry.free:
        updates = asked.steps or entry.checked.patience
        run = _patient(p, asked, 0.2, updates, bound)
        return Plan(run, _baselines(run), lambda traces: LinearDescent(bound), probe=probe)
    step = asked.step or (0.5 if situation.largest_orbit > 1 else 0.05)
    predicted = online_rate(situation.spectra, step, probe)
    updates, every = lengths(asked, predicted)
    bound = reachable(bound, predicted, updates)
    run = Run("PSGD", p, Steps(step), updates, every, () if asked.steps else (Settled(bound),))
    # the slowest orbit's own luck does not average out over a run of this length
    rate = None if uneven(situation) or not measurable(asked, predicted) else predicted
    expected = LinearDescent(bound, rate, tolerance(0.4, asked, predicted))
    return Plan(run, _baselines(run), lambda traces: expected, rate=rate, probe=probe)


# -- 3 and 4: a floor that falls with the step -----------------------------------------------------------


def _annealed(
    situation: Situation, asked: Asked, updates: int, probe: str, enough: float | None = None
) -> tuple[Run, Run]:
    """Return the annealed run, and the same with a constant step, a quarter as long.

    The step falls as 1/t once the slowest mode has had time to settle. With a gap that is `enough` the run
    takes up to four times `updates`, but no more than it needs.
    """
    p, start, s = situation.entry.make(situation.n), asked.step or 0.3, situation.largest_orbit
    half = max(0.8 * s / start, 0.7 / online_rate(situation.spectra, start, probe))
    updates = asked.steps or updates
    every = max(1, updates // 100)
    annealed = Run("PSGD", p, Steps(start, half), updates, every)
    if enough is not None and asked.steps is None:
        annealed = replace(annealed, updates=4 * updates, stops=(GapBelow(enough),))
    constant = Run(CONSTANT, p, Steps(start), max(4 * every, updates // 4), every)
    return annealed, constant


def _floor(situation: Situation, asked: Asked, probe: str | None) -> Plan:
    assert probe is not None
    s = situation.largest_orbit
    annealed, constant = _annealed(situation, asked, 2000 + 250 * s, probe)
    # t samples determine s (s + 1) / 2 unknowns per orbit to about (s + 1) / t
    bound = 4 * (s + 1) / annealed.updates
    return Plan(
        annealed,
        (constant, *_baselines(annealed)),
        lambda traces: FallingFloor(level(traces[constant.label].gap), bound, ratio=4.0),
        column="gap",
        probe=probe,
    )


def _outside(situation: Situation, asked: Asked, probe: str | None) -> Plan:
    assert probe is not None
    s, gaussian = situation.largest_orbit, probe == "gaussian"
    updates = (1100 * (s + 3) if gaussian else 800 * (s + 2)) * (s + 1)
    annealed, constant = _annealed(situation, asked, updates, probe, 0.7 * TARGET_GAP)
    # a Gaussian pair, by its symmetry, hides the bias within single orbits: one step for all shows it
    changes = {"normalizer": Sample()} | ({"steps": "group"} if gaussian else {})
    own = replace(annealed, label=SAMPLE, fitter=situation.entry.make(situation.n, **changes), stops=())
    return Plan(
        annealed,
        (constant, own),
        lambda traces: FallingFloor(level(traces[constant.label].gap), TARGET_GAP, ratio=10.0),
        column="gap",
        probe=probe,
    )


# -- 5: a moving target ----------------------------------------------------------------------------------


def _whitening_floor(situation: Situation, asked: Asked, probe: str | None) -> Plan:
    """Return the plan of `_floor` for gradients ``g = H z``, v drawn apart from z or integrated out."""
    plan = _floor(situation, asked, "gaussian")
    # a and b do not cancel even where H is definite, so that slow modes have a floor as well, and must settle
    run = plan.judged
    if asked.steps is None and not math.isinf(run.steps.half):
        run = replace(run, updates=max(run.updates, math.ceil(12 * run.steps.half)))
    # nor does the sum of their variances shrink: it is twice that of the pairs of one probe
    return replace(plan, judged=run, probe=probe, whiten=True, beside=(plan.beside[0],), expect=_twice(plan))


def _twice(plan: Plan) -> Callable[[Mapping[str, Trace]], Expectation | LinearDescent]:
    def expect(traces: Mapping[str, Trace]) -> Expectation | LinearDescent:
        expected = plan.expect(traces)
        assert isinstance(expected, FallingFloor)
        return replace(expected, bound=2 * expected.bound)

    return expect


def _tracking(situation: Situation, asked: Asked, probe: str | None) -> Plan:
    assert probe is not None
    updates, step = asked.steps or 3000, asked.step or 0.3
    p = situation.entry.make(situation.n)
    run = Run("PSGD", p, Steps(step), updates, max(1, updates // 100))
    bound = 3 * max(lag(situation, step, probe, t) for t in (updates // 2, updates))
    return Plan(run, _baselines(run), lambda traces: Tracks(bound), probe=probe)


def _converges_online(situation: Situation) -> bool:
    """Return whether a = b at the minimiser: H definite, or every orbit of one element (|a| = |b| then)."""
    agree = situation.definite or situation.largest_orbit == 1
    return situation.inside and situation.still and situation.instance.noise is None and agree


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("exact", "exact expectation: linear to rounding", lambda s: s.still, _exact, (None,)),
        Setting("online", "one probe a time, a = b at the minimiser: the same", _converges_online, _online),
        Setting(
            "floor",
            "one probe a time, indefinite or noisy: a floor that falls with the annealed step",
            lambda s: s.inside and s.still and not _converges_online(s) and not s.entry.free,
            _floor,
        ),
        Setting(
            "outside",
            "one probe a time, outside the group: the same, to the group's minimiser",
            lambda s: not s.inside and s.still and not s.entry.free,
            _outside,
            ("gaussian", "rademacher"),
        ),
        Setting(
            "whitening",
            "exact expectation, v integrated out: linear to rounding",
            lambda s: s.still and not s.entry.low_rank,
            _whitening,
            (None,),
        ),
        Setting(
            "whitening-floor",
            "one gradient a time: a floor that falls with the annealed step",
            lambda s: s.inside and s.still and not s.entry.free and s.instance.noise is None,
            _whitening_floor,
            ("drawn", "integrated"),
        ),
        Setting("tracking", "one probe a time, a moving target: keeps up", lambda s: not s.still, _tracking),
    )
}
"""By name."""
