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
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from psgd_core import convergence
from psgd_core.convergence import Expectation, FallingFloor, Trace, Tracks, level
from psgd_core.preconditioners.normalizers import Sample

from ..problems import probes
from .baselines import BFGS, ClosedForm
from .families import Situation
from .stops import Below, GapBelow, LinearDescent, Settled

LONGEST = 100_000
"""Updates that a run may take of its own accord."""

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
        At most, or exactly if `settled` is None.
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
    """What a case does: the run that is judged, those beside it, and what theory says.

    `expect` gets the traces of all runs by label: what is expected may be relative to one beside.
    """

    judged: Run
    beside: tuple[Run, ...]
    expect: Callable[[Mapping[str, Trace]], Expectation | LinearDescent]
    column: str = "distance"
    rate: float | None = None
    probe: str | None = None  # None: exact pairs


@dataclass(frozen=True)
class Asked:
    """What the user fixed, None where theory decides, and the rounding unit."""

    steps: int | None = None
    step: float | None = None
    eps: float = 2.0**-52


@dataclass(frozen=True)
class Setting:
    """How pairs come, where that makes sense, and what a case is then to do.

    Parameters
    ----------
    name, title : str
    accepts : callable
        ``accepts(situation)``.
    plan : callable
        ``plan(situation, asked, probe)`` returns a `Plan`.
    probes : tuple
        Kinds of probes, a case for each; None for exact pairs.
    """

    name: str
    title: str
    accepts: Callable[[Situation], bool]
    plan: Callable[[Situation, Asked, str | None], Plan]
    probes: tuple[str | None, ...] = field(default=("gaussian",))


def rounding(situation: Situation, asked: Asked) -> float:
    """Return the distance that counts as converged: 1e-10, 1e-8 outside the group, or what the dtype allows.

    The Hessian's own rounding moves its smallest eigenvalues by about ``eps κ``.
    """
    return max(1e-10 if situation.inside else 1e-8, 64 * asked.eps * situation.kappa)


def _reachable(bound: float, rate: float, updates: int) -> float:
    """Return the bound, or where so few updates cannot reach it, ten times what theory predicts for them."""
    return max(bound, 10 * math.exp(-0.75 * max(rate, 0.0) * updates)) if rate > 0 else bound


def _patient(fitter: Any, asked: Asked, step: float, updates: int, bound: float) -> Run:
    """Return a run whose rate no theory predicts: until it is well below the bound."""
    stops = () if asked.steps else (Below(bound / 100), Settled(bound))
    every = max(1, min(100, updates // 100))
    return Run("PSGD", fitter, Steps(asked.step or step), updates, every, stops)


def _uneven(situation: Situation) -> bool:
    """Return whether the orbits differ much in scale.

    One scale starts them all, and most of a run is then the normaliser's way to theirs: at no constant rate.
    """
    tops = np.concatenate([np.max(h, axis=0) for h in situation.spectra])
    return bool(np.max(tops) > 1e3 * np.min(tops))


def _lengths(asked: Asked, rate: float) -> tuple[int, int]:
    """Return updates and checkpoint distance for linear convergence: to rounding and somewhat further."""
    needed = _needed(asked, rate)
    updates = asked.steps or min(LONGEST, max(3000, round(1.5 * needed)))
    return updates, max(1, round(min(needed, updates) / 100))


def _needed(asked: Asked, rate: float) -> float:
    """Return how many updates take the error from 1 to rounding, at a rate; some, if it never gets there."""
    return math.log(1 / asked.eps) / rate if rate > 0 else 1000.0


def _expected(bound: float, rate: float | None, asked: Asked, tolerance: float) -> LinearDescent:
    """Expect linear convergence, slower while the normaliser remembers the start: for about 100 updates."""
    if rate is None:
        return LinearDescent(bound)
    return LinearDescent(bound, rate, tolerance + 0.25 * min(1.0, 100 / _needed(asked, rate)))


# -- 1: exact expectation --------------------------------------------------------------------------------


def _exact(situation: Situation, asked: Asked, probe: str | None) -> Plan:
    entry, n = situation.entry, situation.n
    bound = rounding(situation, asked)
    p = entry.make(n)
    if entry.low_rank:
        updates = asked.steps or entry.patience
        run = _patient(entry.make(n), asked, 0.5, updates, bound)
        return Plan(run, (), lambda traces: LinearDescent(bound))
    step = asked.step or 0.9 * entry.largest_step(situation.kappa)
    predicted = float(
        convergence.predicted_rate(situation.spectra, step, rule="left" if entry.rule == "left" else "right")
    )
    updates, every = _lengths(asked, predicted)
    bound = _reachable(bound, predicted, updates)
    run = Run("PSGD", p, Steps(step), updates, every, () if asked.steps else (Settled(bound),))
    rate = None if _uneven(situation) else predicted
    return Plan(run, (), lambda traces: _expected(bound, rate, asked, 0.25), rate=rate)


# -- 2: online, definite, in the group -------------------------------------------------------------------


def _sizes(spectra: Sequence[np.ndarray], probe: str, draws: int = 4096) -> list[np.ndarray]:
    """Return what `Running` divides the step by at the minimiser, per orbit, (c,) for each orbit size.

    It holds the mean of the sample's size ``(|a|^2 + |b|^2)^{1/2} = (2 Σ h_i z_i^2)^{1/2}``, z the probe in
    H's eigenbasis on the orbit. That mean, of many draws, is squared.
    """
    sizes = []
    for h in spectra:
        z = probes(h.shape[0], np.random.default_rng(0), draws, kind=probe)
        sizes.append(np.mean(np.sqrt(2 * (h.T @ (z * z))), axis=1) ** 2)
    return sizes


def online_rate(spectra: Sequence[np.ndarray], step: float, probe: str) -> float:
    """Return the rate of convergence from single probes, to first order in the step.

    Where ``a = b`` at the minimiser the error shrinks as it does in expectation; elsewhere this is the rate
    at which the start is forgotten.
    """
    return min(
        float(convergence.predicted_rate((h[:, c : c + 1],), step, normalizer=float(sizes[c])))
        for h, sizes in zip(spectra, _sizes(spectra, probe), strict=True)
        for c in range(h.shape[1])
    )


def _baselines(run: Run) -> tuple[Run, ...]:
    return (
        Run("BFGS", BFGS(), run.steps, run.updates, run.every),
        Run("closed form", ClosedForm(), run.steps, run.updates, run.every),
    )


def _online(situation: Situation, asked: Asked, probe: str | None) -> Plan:
    assert probe is not None
    entry, n = situation.entry, situation.n
    bound = rounding(situation, asked)
    p = entry.make(n)
    if entry.low_rank:
        updates = asked.steps or entry.patience
        run = _patient(entry.make(n), asked, 0.2, updates, bound)
        return Plan(run, _baselines(run), lambda traces: LinearDescent(bound), probe=probe)
    step = asked.step or (0.5 if situation.largest_orbit > 1 else 0.05)
    predicted = online_rate(situation.spectra, step, probe)
    updates, every = _lengths(asked, predicted)
    bound = _reachable(bound, predicted, updates)
    run = Run("PSGD", p, Steps(step), updates, every, () if asked.steps else (Settled(bound),))
    # The slowest orbit's own luck stays in the mean over a run of this length.
    rate = None if _uneven(situation) else predicted
    return Plan(
        run, _baselines(run), lambda traces: _expected(bound, rate, asked, 0.4), rate=rate, probe=probe
    )


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
    # An average over t samples of s (s + 1) / 2 unknowns per orbit is known to (s + 1) / t or so.
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
    # By its symmetry a Gaussian pair hides the bias within single orbits: one step for all shows it.
    changes = {"normalizer": Sample()} | ({"steps": "group"} if gaussian else {})
    own = replace(annealed, label=SAMPLE, fitter=situation.entry.variant(situation.n, **changes), stops=())
    return Plan(
        annealed,
        (constant, own),
        lambda traces: FallingFloor(level(traces[constant.label].gap), TARGET_GAP, ratio=10.0),
        column="gap",
        probe=probe,
    )


# -- 5: a moving target ----------------------------------------------------------------------------------


def lag(situation: Situation, step: float, probe: str, updates: int) -> float:
    """Return about how far a constant step stays behind, after `updates`.

    The mean of H moves as ``H_0 + t c I``, ``c = drift^2/n``: P*'s eigenvalues ``1/h_i`` by ``c/h_i`` of
    themselves per update, while the fit closes ``4 step h_i / N`` of what it is behind. The drift's random
    part, ``c sqrt(t)`` in every entry of H, is outside the group but for an orbit's s columns and leaves a
    floor proportional to ``sqrt(step)``.
    """
    c, n = situation.instance.drift**2 / situation.n, situation.n
    now = [h + c * updates for h in situation.spectra]
    behind = [
        ((c / h) * sizes / (4 * step * h)).reshape(-1)
        for h, sizes in zip(now, _sizes(now, probe), strict=True)
    ]
    typical = np.exp(np.mean(np.log(np.concatenate([h.reshape(-1) for h in now]))))
    floor = c * np.sqrt(step * updates * (n - situation.largest_orbit)) / typical
    return float(np.sqrt(np.mean(np.concatenate(behind) ** 2)) + floor)


def _tracking(situation: Situation, asked: Asked, probe: str | None) -> Plan:
    assert probe is not None
    updates, step = asked.steps or 4000, asked.step or 0.3
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
        Setting("exact", "exact expectation", lambda s: s.still, _exact, (None,)),
        Setting("online", "online, noise-free, definite", _converges_online, _online),
        Setting(
            "floor",
            "online, annealed",
            lambda s: s.inside and s.still and not _converges_online(s) and not s.entry.low_rank,
            _floor,
        ),
        Setting(
            "outside",
            "online, annealed, outside the group",
            lambda s: not s.inside and s.still,
            _outside,
            ("gaussian", "rademacher"),
        ),
        Setting("tracking", "online, moving target", lambda s: not s.still, _tracking),
    )
}
"""By name."""
