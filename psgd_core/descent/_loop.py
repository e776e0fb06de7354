"""One run of `minimize`: what it evaluates, what it remembers, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat
import numpy as np

from .._array import Array
from .._trees import Structure
from ..curvature import Functions
from ..schedules import value_at
from ._inputs import Counted
from .clips import Point
from .psgd import PSGD, PSGDState

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

MESSAGES = {
    0: "Optimization terminated successfully: max|gradient| <= {tol:g}.",
    1: "Maximum number of iterations has been exceeded.",
    2: "The step no longer changes x in this precision.",
    3: "{what} at iteration {nit}; x is the last point where both were finite.",
    4: "All {nit} iterations done.",
    99: "`callback` raised `StopIteration`.",
}
"""Status of a result, and its message."""

COLUMNS = ("nit", "fun", "grad", "lr", "step", "nfev", "njev", "nhev")
"""What `history` holds."""


class Progress(NamedTuple):
    """Where a run stands: what `minimize(resume=...)` goes on from, as if it had not stopped."""

    x: Array  # (n,) the next point to evaluate
    state: PSGDState
    nit: int
    nfev: int
    njev: int
    nhev: int


@dataclass
class Run:
    """The mutable side of `minimize`; all the mathematics is in `PSGD`."""

    optimizer: PSGD
    known: Counted
    layout: Structure
    x: Array
    sample: Callable | None
    args: tuple
    rng: int | np.random.Generator
    tol: float
    maxiter: int
    stop_nonfinite: bool
    has_value: bool
    nit: int = 0
    state: PSGDState = None  # type: ignore[assignment]
    best: Point = None  # type: ignore[assignment]
    history: dict[str, list] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    def __post_init__(self) -> None:
        xp = array_api_compat.array_namespace(self.x)
        self.best = Point(self.x, xp.zeros_like(self.x), xp.full_like(self.x[0], float("nan")))
        self.asked = self.sample is None or self.tol > 0
        self._observe, self._advance = _compiled(xp, self.optimizer)

    def start(self, resume: Progress | None) -> None:
        """Begin, or go on from where another run stopped."""
        if resume is not None:
            self.x, self.state, self.nit, known = resume[0], resume[1], resume[2], self.known
            known.nfev, known.njev, known.nhev = resume[3:]
        elif self.optimizer.source.at_trial:
            generator, here = self._draw()
            v = self.optimizer.probes.draw(generator, self.x)
            self.state = self.optimizer.init(self.x, functions=here, v=v)
        else:
            self.state = self.optimizer.init(self.x)

    def iterate(self, report: Callable | None) -> OptimizeResult:
        """Run to the end."""
        first = True
        while True:
            generator, functions = self._draw()
            value, g = functions.value_and_gradient(self.x)
            trial = Point(self.x, g, self.optimizer._value(value, self.x[0]))
            if self.stop_nonfinite and (what := self._not_finite(trial)):
                return self.result(3, what=what)
            here, usable, state = self._observe(self.state, trial)
            self.best = here
            size = self._record()
            if not first and report is not None:
                try:
                    report(lambda: self.result(1))
                except StopIteration:
                    return self.result(99)
            if self.asked and bool(usable) and size <= self.tol:
                return self.result(0)
            if self.nit >= self.maxiter:
                return self.result(1 if self.asked else 4)
            pair = None
            if self.optimizer.due(self.nit, generator):
                asked = self.optimizer.source.needs_probes
                v = self.optimizer.probes.draw(generator, self.x) if asked else None
                pair, state = self.optimizer.ask(state, trial, here, functions, v)
            self.x, self.state = self._advance(state, here, usable, pair)
            self.nit, first = self.nit + 1, False
            if self.sample is None and bool(usable) and self._stuck(here):
                return self.result(2)

    def result(self, status: int, **found: Any) -> OptimizeResult:
        """Return what there is."""
        from scipy.optimize import OptimizeResult

        known = self.known
        return OptimizeResult(
            x=self.layout.unflatten(self.best.x),
            fun=float(self.best.value),
            jac=self.layout.unflatten(self.best.g),
            nit=self.nit,
            nfev=known.nfev,
            njev=known.njev,
            nhev=known.nhev,
            success=status in (0, 4),
            status=status,
            message=MESSAGES[status].format(nit=self.nit, tol=self.tol, **found),
            state=self.state.preconditioner,
            progress=Progress(self.x, self.state, self.nit, known.nfev, known.njev, known.nhev),
            optimizer=self.optimizer,
            history={name: np.asarray(values) for name, values in self.history.items()},
        )

    def _draw(self) -> tuple[np.random.Generator, Functions]:
        """Return this iteration's generator, and the functions of its sample."""
        rng = self.rng
        generator = rng if isinstance(rng, np.random.Generator) else np.random.default_rng([rng, self.nit])
        bound = () if self.sample is None else (self.sample(generator),)
        return generator, self.known.functions.at(*bound, *self.args)

    def _record(self) -> float:
        """Note this iteration; return max|gradient|."""
        xp = array_api_compat.array_namespace(self.x)
        size, nit = float(xp.max(xp.abs(self.best.g))), self.nit
        lr, step = (float(value_at(s, nit)) for s in (self.optimizer.lr, self.optimizer.step_size))
        known = self.known
        row = (nit, float(self.best.value), size, lr, step, known.nfev, known.njev, known.nhev)
        for name, number in zip(COLUMNS, row, strict=True):
            self.history[name].append(number)
        return size

    def _stuck(self, here: Point) -> bool:
        """Whether the last step changed nothing."""
        xp = array_api_compat.array_namespace(self.x)
        return bool(xp.all(self.x == here.x))

    def _not_finite(self, trial: Point) -> str:
        """Return what was not finite, "" if all was."""
        xp = array_api_compat.array_namespace(trial.x)
        if self.has_value and not math.isfinite(value := float(trial.value)):
            return f"`fun` returned {value}"
        wrong = int(xp.sum(xp.astype(~xp.isfinite(trial.g), xp.int32)))
        return (
            f"The gradient had {wrong} of {trial.g.shape[0]} elements that were not finite" if wrong else ""
        )


def _compiled(xp: Any, optimizer: PSGD) -> tuple[Callable, Callable]:
    """Return `observe` and `advance`, compiled for JAX."""
    if not array_api_compat.is_jax_namespace(xp):
        return optimizer.observe, optimizer.advance
    import jax

    observe, advance = (jax.jit(f, static_argnums=0) for f in (PSGD.observe, PSGD.advance))
    return (lambda *a: observe(optimizer, *a)), (lambda *a: advance(optimizer, *a))
