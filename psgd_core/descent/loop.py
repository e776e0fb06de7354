"""One run of `minimize`: what it evaluates, what it remembers, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat
import numpy as np

from ..arrays.arguments import require_number
from ..arrays.library import Array, eps, namespace, numbers
from ..arrays.trees import Tree, owned
from ..arrays.vectors import finite
from ..curvature import Functions
from ..schedules import value_at
from .clips import Point
from .inputs import Function, Objective
from .progress import Progress
from .psgd import PSGD
from .state import PSGDState

if TYPE_CHECKING:
    from .result import MinimizeResult

MESSAGES = {
    0: "Optimization terminated successfully: max|gradient| <= {tol:g}.",
    1: "Maximum number of {what} has been exceeded.",
    2: "The step no longer changes {what} in this precision.",
    3: "{what} at iteration {nit}; {where}.",
    4: "All {nit} iterations done.",
    99: "`callback` raised `StopIteration`.",
}
"""Status of a result, and its message."""

FLAT = 30
"""Iterations without a lower value after which differences of values say no more."""

COLUMNS = ("nit", "fun", "grad", "lr", "step", "nfev", "njev", "nhev")
"""What `history` holds."""


class _Look(NamedTuple):
    """What the host has to know of a point."""

    what: str
    """What was not finite, "" if all was."""
    here: Point
    """Where to step from."""
    flag: Array
    """Whether to step from there, as the clip says."""
    usable: bool
    judged: bool
    """Whether the clip was asked."""
    value: float
    size: float
    """max|gradient|, as the value: there."""
    state: PSGDState


@dataclass
class Run:
    """The mutable side of `minimize`; all the mathematics is in `PSGD`."""

    optimizer: PSGD
    objective: Objective
    sample: Function | None
    args: tuple[Any, ...]
    rng: int | np.random.Generator
    tol: float
    maxiter: int
    maxfun: float
    stop_nonfinite: bool
    nit: int = 0
    state: PSGDState = field(init=False)
    here: Point = field(init=False)  # where to step from
    best: Point | None = None
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    def __post_init__(self) -> None:
        self.x: Array = self.objective.x
        self.asked: bool = self.sample is None or self.tol > 0
        functions = self.objective.functions
        self.has_value: bool = functions.value is not None or functions.both is not None
        self._observe, self._advance = _compiled(self.x, self.optimizer)

    def start(self, resume: Progress | None) -> None:
        """Begin, or continue where another run stopped."""
        if resume is not None:
            self.x, self.state, self.nit, *counts, self.best = resume
            self.objective.counts = dict(zip(self.objective.counts, counts, strict=True))
        elif self.optimizer.source.starts_with_gradient:
            generator, functions = self._draw()
            v = self.optimizer.probes.draw(generator, self.x)
            self.state = self.optimizer.init(self.x, functions=functions, v=v)
        else:
            self.state = self.optimizer.init(self.x)

    def iterate(self, report: Callable[[Run], object] | None) -> MinimizeResult:
        """Run to the end."""
        first = True
        while True:
            # evaluate
            generator, functions = self._draw()
            value, g = functions.value_and_gradient(self.x)
            trial = self.optimizer.point(self.x, g, value)
            seen = self._look(trial)
            self.here, what = seen.here, seen.what
            if what and (self.stop_nonfinite or (self.best is None and self.sample is None)):
                self.here = trial if self.best is None else self.best
                return self.result(3, what)
            self.best = seen.here if seen.judged else self.best
            # report
            self._record(seen)
            if not first and report is not None:
                try:
                    report(self)
                except StopIteration:
                    return self.result(99)
            # stop?
            if self.asked and seen.usable and seen.size <= self.tol:
                return self.result(0)
            if self.objective.noise is not None and self._is_flat():
                return self.result(2, "the function")
            if spent := self._spent():
                end = 1 if self.asked else 4
                return self.result(3, what) if self.best is None else self.result(end, spent)
            # fit P, where that is due, and move; from an unusable point, go half-way back to a finite one
            state = seen.state
            if seen.usable:
                pair, optimizer = None, self.optimizer
                if optimizer.due(self.nit, generator):
                    asked = optimizer.source.asks(self.nit)
                    v = optimizer.probes.draw(generator, self.x) if asked else None
                    pair, state = optimizer.ask(state, trial, self.here, functions, v)
                self.x, self.state = self._advance(state, self.here, seen.flag, pair)
            else:
                self.x = self.x if self.best is None else 0.5 * self.x + 0.5 * self.best.x
                self.state = state
            self.nit, first = self.nit + 1, False
            if self.sample is None and self._stuck(trial):
                return self.result(3, what) if what else self.result(2, "x")

    def result(self, status: int, what: str = "iterations") -> MinimizeResult:
        """Return the result as it stands."""
        from .result import MinimizeResult

        where = "start where the function and its gradient are finite"
        if self.best is not None:
            where = "x is the last point where both were finite"
        counts = self.objective.counts
        return MinimizeResult(
            x=self.point(),
            fun=float(self.here.value),
            jac=self.objective.layout.unflatten(owned(self.here.g)),
            nit=self.nit,
            **counts,
            success=status in (0, 4),
            status=status,
            message=MESSAGES[status].format(nit=self.nit, tol=self.tol, what=what, where=where),
            state=self.state.preconditioner,
            progress=Progress(self.x, self.state, self.nit, **counts, best=self.best),
            optimizer=self.optimizer,
            history={name: np.asarray(values) for name, values in self.history.items()},
        )

    def _is_flat(self) -> bool:
        """Whether the function has not fallen by more than its rounding for long."""
        values = self.history["fun"][-FLAT - 1 :]
        if self.sample is not None or len(values) <= FLAT:
            return False
        return min(values[1:]) >= values[0] - 10 * eps(self.x) * abs(values[0])

    def _spent(self) -> str:
        """Return what there have been enough of, "" if nothing."""
        if self.nit >= self.maxiter:
            return "iterations"
        evaluated = self.objective.counts["nfev" if self.has_value else "njev"]
        return "function evaluations" if evaluated >= self.maxfun else ""

    def point(self) -> Tree:
        """Return a copy of x as it stands, in its shape."""
        return self.objective.layout.unflatten(owned(self.here.x))

    def so_far(self) -> MinimizeResult:
        """Return a copy of the result as it stands, for a callback to keep, and to write into."""
        found = self.result(1)
        found.progress = owned(found.progress)
        found.state = found.progress.state.preconditioner
        return found

    def _look(self, trial: Point) -> _Look:
        """Return what the host has to know of a point, asked for at once.

        A clip that compares values goes back itself, with a shorter step. With any other, no step starts from
        a point that is not finite: x goes half-way back to the last one that was.
        """
        here, flag, state = self._observe(self.state, trial)
        trial_value, fine, usable, value, size = numbers(
            trial.value, finite(trial.g), flag, here.value, _largest(here.g)
        )
        what = self._not_finite(trial, trial_value, bool(fine))
        if not what or self.optimizer.needs_value:
            return _Look(what, here, flag, bool(usable), True, value, size, state)
        here, state = trial if self.best is None else self.best, self.state
        value, size = numbers(here.value, _largest(here.g))
        state = state._replace(count=state.count + 1, skipped=state.skipped + 1)
        return _Look(what, here, flag, False, False, value, size, state)

    def _stuck(self, trial: Point) -> bool:
        """Whether the last step changed nothing, or led back to where it came from."""
        xp = namespace(self.x)
        return any(numbers(xp.all(self.x == self.here.x), xp.all(self.x == trial.x)))

    def _draw(self) -> tuple[np.random.Generator, Functions]:
        """Return this iteration's generator, and the functions of its sample."""
        rng = self.rng
        generator = rng if isinstance(rng, np.random.Generator) else np.random.default_rng([rng, self.nit])
        bound = () if self.sample is None else (self.sample(generator),)
        return generator, self.objective.functions.at(*bound, *self.args)

    def _record(self, seen: _Look) -> None:
        """Note this iteration."""
        nit, optimizer = self.nit, self.optimizer
        hint = f"it is what the schedule returned at iteration {nit}"
        lr = require_number("lr", value_at(optimizer.lr, nit), "[0, inf)", hint)
        step = require_number("step", value_at(optimizer.step_size, nit), "[0, 1)", hint)
        row = (nit, seen.value, seen.size, lr, step, *self.objective.counts.values())
        for name, number in zip(COLUMNS, row, strict=True):
            self.history[name].append(number)

    def _not_finite(self, trial: Point, value: float, fine: bool) -> str:
        """Return what was not finite, "" if all was; `fine` is whether the gradient was."""
        xp = namespace(trial.x)
        if self.has_value and not math.isfinite(value):
            return f"`fun` returned {value}"
        if fine:
            return ""
        wrong = int(xp.sum(xp.astype(xp.logical_not(xp.isfinite(trial.g)), xp.int32)))
        return f"The gradient had {wrong} of {trial.g.shape[0]} elements that were not finite"


def _largest(g: Array) -> Array:
    """Return max|g|, 0-d."""
    xp = namespace(g)
    return xp.max(xp.abs(g))


def _compiled(x: Array, optimizer: PSGD) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return `observe` and `advance`, compiled by JAX for its arrays."""
    if not array_api_compat.is_jax_array(x):
        return optimizer.observe, optimizer.advance
    import jax

    observe, advance = (jax.jit(f, static_argnums=0) for f in (PSGD.observe, PSGD.advance))
    return (lambda *a: observe(optimizer, *a)), (lambda *a: advance(optimizer, *a))
