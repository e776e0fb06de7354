"""Running a case: the fits it consists of, on the same pairs, measured against their targets, and judged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from psgd_core import convergence
from psgd_core.convergence import Trace, Verdict, fit_rate

from ..backends import Backend
from ..problems import exact_pairs, hessians, pairs
from .baselines import Baseline
from .cases import Case, Sizes, situation_of
from .entries import ENTRIES
from .families import Instance, Situation
from .settings import SETTINGS, Plan, Run
from .stops import descent
from .theory import Asked

Tick = Callable[[int], None]
"""Called with the number of updates just made; may raise `psgd_analysis.sweeps.Stopped`."""


@dataclass(frozen=True)
class Options:
    """What all cases of a run share."""

    sizes: Sizes = field(default_factory=Sizes)
    backend: Backend = field(default_factory=Backend)
    steps: int | None = None
    step: float | None = None

    @property
    def asked(self) -> Asked:
        """The options that concern the settings."""
        return Asked(self.steps, self.step, self.backend.eps)


@dataclass
class Outcome:
    """The result of a case."""

    case: Case
    n: int
    label: str
    column: str
    step: float
    predicted: float | None
    fitted: float | None
    passed: bool
    status: str
    reason: str
    seconds: float
    traces: dict[str, Trace] = field(default_factory=dict)
    judged: str = "PSGD"

    @property
    def updates(self) -> int:
        """Updates of the run that was judged."""
        trace = self.traces.get(self.judged)
        return trace.updates[-1] if trace and trace.updates else 0

    @property
    def made(self) -> int:
        """Updates of all runs together."""
        return sum(trace.updates[-1] for trace in self.traces.values())

    @property
    def final(self) -> float:
        """Last distance, or the level of the gap at the end, as judged."""
        trace = self.traces.get(self.judged)
        if not trace or not trace.updates:
            return float("nan")
        return trace.distance[-1] if self.column == "distance" else convergence.level(trace.gap)


def failed(case: Case, reason: str) -> Outcome:
    """Return the outcome of a case that raised an exception, or whose process died."""
    label = ENTRIES[case.preconditioner].label
    return Outcome(case, 0, label, "distance", 0.0, None, None, False, "ERROR", reason, 0.0)


class Source:
    """Pairs of an instance, a segment at a time: the same ones for the same seed, whatever the segments."""

    def __init__(
        self, instance: Instance, probe: str | None, seed: tuple[int, ...], whiten: bool = False
    ) -> None:
        self._instance, self._probe, self._whiten = instance, probe, whiten
        self._rng = np.random.default_rng(seed)
        self._drifting = hessians.drifting(
            instance.hessian, np.random.default_rng((*seed, 1)), scale=instance.drift
        )
        self.hessian = next(self._drifting)

    def take(self, count: int) -> tuple[np.ndarray | None, np.ndarray]:
        """Return v and h, (count, n), v None where it is integrated out; or (1, n, k), exact, for all."""
        instance = self._instance
        if self._probe is None:
            exact = exact_pairs(self.hessian, noise_root=instance.noise_root)
            return None if self._whiten else exact.v[None, ...], exact.h[None, ...]
        if self._whiten:
            z, v = self._rng.standard_normal((2, count, self.hessian.shape[0]))
            return (v if self._probe == "drawn" else None), z @ self.hessian
        if instance.drift == 0:
            drawn = pairs(self.hessian, self._rng, count, probe=self._probe, noise_root=instance.noise_root)
            return drawn.v.T, drawn.h.T
        rows = []
        for _ in range(count):
            rows.append(pairs(self.hessian, self._rng, probe=self._probe))
            self.hessian = next(self._drifting)
        return np.stack([pair.v for pair in rows]), np.stack([pair.h for pair in rows])


def planned(case: Case, options: Options) -> Plan:
    """Return the plan of a case."""
    return SETTINGS[case.setting].plan(situation_of(case, options.sizes), options.asked, case.probe)


def run_case(case: Case, options: Options, tick: Tick = lambda updates: None) -> Outcome:
    """Return the outcome of a case; what `tick` raises ends it."""
    start = time.perf_counter()
    # the judged run first: those beside are as long
    with options.backend.active():
        situation = situation_of(case, options.sizes)
        plan = SETTINGS[case.setting].plan(situation, options.asked, case.probe)
        seed = (options.sizes.seed, case.replica, 1)
        judged = fit(situation, plan.judged, plan, seed, options.backend, tick)
        traces = {plan.judged.label: judged}
        for beside in plan.beside:
            length = min(beside.updates, judged.updates[-1])
            traces[beside.label] = fit(situation, beside, plan, seed, options.backend, tick, most=length)
    verdict: Verdict = plan.expect(traces).judge(judged)
    return Outcome(
        case=case,
        n=situation.n,
        label=situation.entry.label,
        column=plan.column,
        step=plan.judged.steps.start,
        predicted=plan.rate,
        fitted=_fitted(judged) if plan.rate is not None else None,
        passed=verdict.passed,
        status=verdict.status.name,
        reason=verdict.reason,
        seconds=time.perf_counter() - start,
        traces=traces,
        judged=plan.judged.label,
    )


def fit(
    situation: Situation,
    run: Run,
    plan: Plan,
    seed: tuple[int, ...],
    backend: Backend,
    tick: Tick,
    most: int | None = None,
) -> Trace:
    """Return the trace of one run."""
    source = Source(situation.instance, plan.probe, seed, plan.whiten)
    eye = backend.asarray(np.eye(situation.n))
    state = run.fitter.init(situation.n, eye)
    target = _target(situation, run.fitter, source, backend)
    trace, made = Trace(run.label), 0
    updates = run.updates if most is None else most
    # baselines may overflow, which is a result; a warning from PSGD would be a defect
    quiet: Any = {"over": "ignore", "invalid": "ignore"} if isinstance(run.fitter, Baseline) else {}
    with np.errstate(**quiet):
        _record(trace, 0, run, backend.measure(run.fitter, state, eye, target))
        while made < updates and not any(stop(trace) for stop in run.stops):
            count = min(run.every, updates - made)
            v, h = source.take(count)
            steps = run.steps(np.arange(made, made + count))
            v = None if v is None else backend.asarray(v)
            state = backend.advance(run.fitter, state, v, backend.asarray(h), steps)
            made += count
            if not situation.still:
                target = _target(situation, run.fitter, source, backend)
            _record(trace, made, run, backend.measure(run.fitter, state, eye, target))
            tick(count)
    return trace


def _target(situation: Situation, fitter: Any, source: Source, backend: Backend) -> convergence.Target:
    """Return the target of a fit: for PSGD the minimiser over its group, for the others over GL(n).

    BFGS aims at the inverse of H, whatever the noise.
    """
    instance = situation.instance
    orbits = None if isinstance(fitter, Baseline) else situation.orbits
    noise = None if isinstance(fitter, Baseline) and not fitter.sees_noise else instance.noise
    if not isinstance(fitter, Baseline):
        product = situation.entry.minimizer(situation.n, source.hessian, noise)
        if product is not None:
            return convergence.target_at(backend.asarray(product))
    return convergence.target(
        backend.asarray(source.hessian), orbits, None if noise is None else backend.asarray(noise)
    )


def _record(trace: Trace, made: int, run: Run, errors: convergence.Errors) -> None:
    trace.record(
        made,
        distance=errors.distance,
        residual=errors.residual,
        gap=errors.gap,
        step=float(run.steps(np.asarray(made))),
    )


def _fitted(trace: Trace) -> float | None:
    try:
        way = descent(trace)
        return fit_rate(way.updates, way.distance).rate
    except ValueError:  # fewer than 4 usable points
        return None
