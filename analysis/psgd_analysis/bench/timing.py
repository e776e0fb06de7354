"""Interleaved timing: rounds of one sample of each task, ratios within rounds, and limits of noise.

A machine's speed drifts. So what is compared is measured in turn, round by round, with a large copy before
and after each round, and compared within rounds; the median over rounds is reported. What neither rounds
nor medians can cancel is refused: samples whose quartiles lie far apart, or a bandwidth that changes under
way.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Clock = Callable[[], float]

COPY = "copy bandwidth"
"""The usual yardstick, in words."""


class Late(RuntimeError):
    """There is no time left for what is to be measured."""


def nothing(*_: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Limits:
    """How much is measured, and how much noise is allowed.

    Parameters
    ----------
    repeats : int
        Rounds to begin with; up to three times as many while something is too noisy.
    warmup : int
        Calls before the first that counts; the first one compiles.
    least : float
        Seconds that a sample lasts at least: short calls are repeated within one.
    budget : float
        Seconds that the rounds of a comparison take at most; `fewest` of them may take longer.
    total : float
        Seconds of the whole run, of which every comparison gets its share; see `budget`.
    fewest : int
        Rounds at least: where time is short, those of long samples, which are means of several calls.
    spread : float
        The largest interquartile range over the median that is reported.
    drift : float
        The largest relative change of the yardstick, first half of the rounds against the second.
    """

    repeats: int = 15
    warmup: int = 2
    least: float = 0.005
    budget: float = 60.0
    total: float = 300.0
    fewest: int = 3
    spread: float = 0.15
    drift: float = 0.10


@dataclass
class Task:
    """Something to time.

    Parameters
    ----------
    name : str
    call : callable
        One call, which may return before the device has finished.
    wait : callable
        Called with what the call returned; waits for the device.
    period : int
        A sample has a multiple of this many calls: not all calls cost the same.
    within : callable
        Returns the context in which samples are taken; the clock runs inside.
    """

    name: str
    call: Callable[[], Any]
    wait: Callable[[Any], Any] = nothing
    period: int = 1
    within: Callable[[], Any] = contextlib.nullcontext
    calls: int = field(default=1, init=False)  # per sample
    lasts: float | None = field(default=None, init=False)  # seconds of a sample, once it is prepared

    def sample(self, clock: Clock, cpu: Clock = time.process_time) -> tuple[float, float]:
        """Return seconds per call, and seconds of the processor."""
        with self.within():
            start, begin, out = clock(), cpu(), None
            for _ in range(self.calls):
                out = self.call()
            self.wait(out)
            used, seconds = cpu() - begin, clock() - start
            return seconds / self.calls, used / self.calls

    def prepare(self, clock: Clock, limits: Limits) -> float:
        """Warm up and choose the calls of a sample, unless that was done; return how long one lasts."""
        if self.lasts is None:
            with self.within():
                for _ in range(limits.warmup):
                    self.wait(self.call())
            self.calls = self.period
            seconds, _ = self.sample(clock)
            if seconds > 0:
                periods = math.ceil(limits.least / (seconds * self.period))
                self.calls = self.period * min(max(periods, 1), 100_000)
            self.lasts = seconds * self.calls
        return self.lasts


@dataclass(frozen=True)
class Samples:
    """Seconds per call, a number for each round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return float(np.median(self.values))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper one."""
        low, high = np.percentile(self.values, (25, 75))
        return float(low), float(high)

    @property
    def spread(self) -> float:
        """The interquartile range over the median."""
        low, high = self.quartiles
        return (high - low) / self.median if self.median > 0 else math.inf

    @property
    def drift(self) -> float:
        """The relative difference of the medians of both halves."""
        half = len(self.values) // 2
        if half == 0:
            return 0.0
        first, second = np.median(self.values[:half]), np.median(self.values[-half:])
        return float(abs(second - first)) / self.median if self.median > 0 else math.inf


@dataclass(frozen=True)
class Rounds:
    """The samples of tasks that were measured together, and of the yardstick between them."""

    samples: dict[str, Samples]
    copies: Samples  # one more than rounds
    cpu: Rounds | None = None  # the same in seconds of the processor
    yardstick: str = COPY

    def ratio(self, name: str, other: str) -> float:
        """Return the median over rounds of one task's seconds over another's."""
        return self.over(name, {other: 1.0})

    def over(self, name: str, parts: Mapping[str, float]) -> float:
        """Return the median over rounds of a task's seconds over a weighted sum of other tasks'."""
        values = self.samples[name].values
        sums = [
            sum(w * self.samples[part].values[i] for part, w in parts.items()) for i in range(len(values))
        ]
        return float(np.median([t / s if s > 0 else math.inf for t, s in zip(values, sums, strict=True)]))

    def over_copy(self, name: str) -> float:
        """Return the median over rounds of a task's seconds over those of the copies before and after it."""
        around = self.copies.values
        values = self.samples[name].values
        return float(np.median([2 * t / (around[i] + around[i + 1]) for i, t in enumerate(values)]))

    def noise(self, name: str, limits: Limits) -> str:
        """Return why a task's samples are too noisy to report, or an empty string."""
        spread, drift = self.samples[name].spread, self.copies.drift
        if spread > limits.spread:
            return f"quartiles {spread:.0%} of the median apart, limit {limits.spread:.0%}"
        if drift > limits.drift:
            return f"{self.yardstick} drifted by {drift:.0%}, limit {limits.drift:.0%}"
        return ""


def measure(
    tasks: Sequence[Task],
    copy: Task,
    limits: Limits,
    clock: Clock = time.perf_counter,
    cpu: Clock = time.process_time,
    *,
    until: float = math.inf,
    by_cpu: bool = False,
) -> Rounds:
    """Return the samples of all tasks, taken in turn.

    Each round starts with another task, so that none always follows the same one. Rounds are added while
    something is too noisy: all that was measured counts, nothing is thrown away.

    Parameters
    ----------
    tasks : sequence of Task
    copy : Task
        The yardstick, between all rounds: a copy, or what else shows a drift of the machine's speed.
    limits : Limits
    clock, cpu : callable
        Return seconds, and seconds of the processor.
    until : float
        When the whole run must end, on the clock.
    by_cpu : bool
        Seconds of the processor decide whether it is too noisy.

    Raises
    ------
    Late
        If there is no time for the fewest rounds.
    """
    with _no_collection():
        begin = clock()
        lasts = sum(task.prepare(clock, limits) for task in (copy, *tasks))
        if clock() + limits.fewest * lasts > until:
            raise Late
        end = min(begin + limits.budget, until)
        values: dict[str, list[tuple[float, float]]] = {task.name: [] for task in tasks}
        copies = [copy.sample(clock, cpu)]
        while True:
            done = len(copies) - 1
            found = _rounds(values, copies, copy.name)
            judged = found.cpu if by_cpu and found.cpu else found
            late = clock() + lasts > end and done >= limits.fewest
            quiet = done > 0 and not any(judged.noise(name, limits) for name in values)
            if late or done >= 3 * limits.repeats or (done >= limits.repeats and quiet):
                return found
            # a round: each starts with another task
            first = done % max(len(tasks), 1)
            for task in (*tasks[first:], *tasks[:first]):
                values[task.name].append(task.sample(clock, cpu))
            copies.append(copy.sample(clock, cpu))


def _rounds(
    values: dict[str, list[tuple[float, float]]], copies: list[tuple[float, float]], yardstick: str
) -> Rounds:
    """Return the samples so far, on the clock and of the processor."""

    def of(i: int, cpu: Rounds | None = None) -> Rounds:
        samples = {name: Samples(tuple(taken[i] for taken in v)) for name, v in values.items()}
        return Rounds(samples, Samples(tuple(taken[i] for taken in copies)), cpu, yardstick)

    return of(0, of(1))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from running in the middle of a sample."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
