"""The minimisers that are compared: PSGD with a preconditioner, three of SciPy's, plain gradient descent.

Each is run from the problem's start with tolerances far below SciPy's own, so that it stops at the target,
at `maxiter`, or where rounding stops it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import psgd_core as psgd

from ..kinds import Size, offered
from ..problems import Problem
from .counting import Counter


class Limits(NamedTuple):
    """When a contender stops."""

    level: float  # a value at or below which it is done, -Inf for never
    maxiter: int
    tick: Callable[[], None] = lambda: None  # called once per iteration

    def stop(self, counter: Counter) -> bool:
        """Return whether to stop; call it once per iteration."""
        self.tick()
        return counter.best <= self.level or counter.settled

    def status(self, counter: Counter, otherwise: str) -> str:
        """Return how a run ended: reaching the level counts, whatever stopped it."""
        if counter.best <= self.level:
            return "reached"
        return "settled" if counter.settled else otherwise


class End(NamedTuple):
    """How a run ended."""

    nit: int
    status: str  # "reached", "settled", "maxiter", "stopped", "failed" or "interrupted"
    message: str
    values: list[float]  # the function at each iterate, for PSGD on deterministic problems


@dataclass(frozen=True)
class Contender:
    """A minimiser with its names.

    Parameters
    ----------
    name, label : str
        On the command line and in files; in tables and figures.
    run : callable
        ``run(counter, limits, seed)`` returns the `End`.
    seeded : bool
        Whether the seed matters on a deterministic problem.
    about : str
        Settings, in words.
    """

    name: str
    label: str
    run: Callable[[Counter, Limits, int], End]
    seeded: bool
    about: str


# -- PSGD ------------------------------------------------------------------------------------------------


PRECONDITIONERS = offered("minimize")
"""By name."""

RANK = 10
"""Of `lowrank`, or n - 1 if that is less."""

SMALL = 500
"""The largest n for which `dense` is in the default set."""


def usual(n: int) -> list[str]:
    """Return the preconditioners compared by default: at n = 2 all groups with one orbit are the same."""
    if n == 1:
        return ["diagonal"]
    if n == 2:
        return ["dense", "lowrank", "diagonal"]
    chosen = ["dense"] if n <= SMALL else []
    if n % 2 == 0 and n <= SMALL:
        chosen.append("sparse-neighbours")
    return [*chosen, "xmat", "lowrank", "diagonal"]


def preconditioned(name: str, n: int) -> Contender:
    """Return PSGD with the preconditioner of that name.

    Raises
    ------
    ValueError
        If the name is unknown, or it does not exist for n.
    """
    if name not in PRECONDITIONERS:
        raise ValueError(
            f"`--preconditioner` must be one of {', '.join(PRECONDITIONERS)}, got {name!r}; "
            "choose one of these"
        )
    kind = PRECONDITIONERS[name]
    if not kind.fits(n):
        raise ValueError(f"`--preconditioner {name}` needs {kind.rule}, got n = {n}; choose another")
    size = Size(n, min(RANK, n - 1))
    preconditioner = kind.make(size)

    def run(counter: Counter, limits: Limits, seed: int) -> End:
        return _psgd(preconditioner, counter, limits, seed)

    about = "psgd.minimize, preset 'deterministic' ('stochastic' where there is noise), exact Hvps"
    return Contender(name, f"PSGD, {kind.named(size)}", run, True, about)


def _psgd(preconditioner: psgd.Preconditioner, counter: Counter, limits: Limits, seed: int) -> End:
    problem = counter.problem

    def callback(intermediate_result: Any) -> None:
        if limits.stop(counter):
            raise StopIteration

    result = psgd.minimize(
        None if problem.stochastic else counter.value,
        problem.start,
        grad=counter.gradient,
        hvp=counter.hvp,
        preset="stochastic" if problem.stochastic else "deterministic",
        preconditioner=preconditioner,
        sample=problem.draw if problem.stochastic else None,
        rng=seed,
        tol=0.0,
        maxiter=limits.maxiter,
        callback=callback,
    )
    values = [] if problem.stochastic else [float(f) for f in result.history["fun"]]
    return _end(result, counter, limits, {1: "maxiter", 4: "maxiter", 3: "failed"}, values)


# -- SciPy -----------------------------------------------------------------------------------------------

_TIGHT: dict[str, dict[str, Any]] = {
    "BFGS": {"gtol": 0.0},
    "L-BFGS-B": {"gtol": 0.0, "ftol": 0.0, "maxfun": 10**9, "maxls": 50},
    "Newton-CG": {"xtol": 0.0},
}
"""Tolerances so tight that only the target stops a run."""


def scipy_method(method: str) -> Contender:
    """Return one of SciPy's methods, with exact gradients (and products) and the tightest tolerances."""

    def run(counter: Counter, limits: Limits, seed: int) -> End:
        from scipy.optimize import minimize

        def callback(x: np.ndarray) -> None:
            if limits.stop(counter):
                raise StopIteration

        with np.errstate(all="ignore"):
            result = minimize(
                counter.value,
                np.asarray(counter.problem.start, dtype=np.float64),
                jac=counter.gradient,
                hessp=counter.hvp if method == "Newton-CG" else None,
                method=method,
                callback=callback,
                options={"maxiter": limits.maxiter, **_TIGHT[method]},
            )
        return _end(result, counter, limits, {1: "maxiter"}, [])

    given = ", ".join(f"{key}={value:g}" for key, value in _TIGHT[method].items())
    return Contender(method.lower(), method, run, False, f"scipy.optimize.minimize, {given}")


def default_stop(problem: Problem) -> tuple[float, int]:
    """Return the loss at which L-BFGS-B stops with SciPy's default tolerances, and its count of gradients."""
    from scipy.optimize import minimize

    counter = Counter(problem)
    minimize(
        counter.value,
        np.asarray(problem.start, dtype=np.float64),
        jac=counter.gradient,
        method="L-BFGS-B",
    )
    return counter.best, counter.njev


def _end(result: Any, counter: Counter, limits: Limits, names: dict[int, str], values: list[float]) -> End:
    """Return how a run ended."""
    status = limits.status(counter, names.get(int(result.status), "stopped"))
    return End(int(result.nit), status, str(result.message), values)


# -- gradient descent ------------------------------------------------------------------------------------

RATES = (1.9, 1.0, 0.5, 0.2, 0.1, 0.03, 0.01)
"""Learning rates tried, times 1 / L, L the largest |eigenvalue| of the Hessian at the start."""


def gradient_descent() -> Contender:
    """Return ``x <- x - lr g`` with the best lr of a grid; tuning is not counted.

    Each lr of `RATES` gets a quarter of the iterations, and the best the whole run. An iteration is one
    gradient, so it is given twice `maxiter`: as many gradient-equivalents as PSGD has. On stochastic
    problems lr falls to 0 by cosine.
    """

    def run(counter: Counter, limits: Limits, seed: int) -> End:
        problem, length = counter.problem, 2 * limits.maxiter
        scale = 1 / _curvature(problem)
        trial = max(1, length // 4)
        silent = limits._replace(tick=lambda: None)
        tried = {}
        for rate in RATES:
            rng = np.random.default_rng([seed, 1])
            tried[rate] = _descend(Counter(problem, rng), rate * scale, trial, silent)
        best = min(RATES, key=lambda rate: tried[rate])
        counter.restart_clock()
        final, nit = _descend(counter, best * scale, length, limits)
        status = limits.status(counter, "maxiter" if math.isfinite(final) else "failed")
        return End(nit, status, f"lr = {best:g} / L = {best * scale:.3g}", [])

    about = f"x - lr g, the best lr of {RATES} / L (L at the start); tuning not counted"
    return Contender("gradient-descent", "gradient descent", run, False, about)


def _descend(counter: Counter, lr: float, length: int, limits: Limits) -> tuple[float, int]:
    """Return the final value, or the level where that was reached, or Inf, and the number of steps."""
    problem, t = counter.problem, 0
    x = problem.start
    with np.errstate(all="ignore"):
        while t < length:
            if not problem.stochastic:
                counter.value(x)
            rate = lr * 0.5 * (1 + math.cos(math.pi * t / length)) if problem.stochastic else lr
            g = counter.gradient(x)
            if not np.all(np.isfinite(g)):
                return math.inf, t
            if counter.best <= limits.level or counter.settled:
                return max(limits.level, counter.best), t
            x, t = x - np.asarray(rate, dtype=x.dtype) * g, t + 1
            if t % 2 == 0:
                limits.tick()
        final = float(problem.value(x))
    return (final if math.isfinite(final) else math.inf), t


def _curvature(problem: Problem, rounds: int = 30) -> float:
    """Return the largest |eigenvalue| of the Hessian at the start, by the power method."""
    v = np.random.default_rng(0).standard_normal(problem.n).astype(problem.start.dtype)
    size = 0.0
    for _ in range(rounds):
        v = v / np.linalg.norm(v)
        v = np.asarray(problem.hvp(problem.start, v))
        size = float(np.linalg.norm(v))
        if not (math.isfinite(size) and size > 0):
            return 1.0
    return size


def others() -> list[Contender]:
    """Return the minimisers that PSGD is compared with."""
    return [*(scipy_method(method) for method in _TIGHT), gradient_descent()]
