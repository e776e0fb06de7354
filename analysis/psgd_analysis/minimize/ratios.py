"""How fast f falls at the end: the ratios f_{k+1} / f_k, of runs and of Newton's limit.

While P is still being fitted, x converges with order 1: ``x - P g`` leaves ``(I - P H)(x - x*)``, and I - P H
is as small as the pairs seen so far made it; each pair takes off a factor, and so f - f* falls by factors as
well. With P fitted to convergence at every iterate, ``P = |H|^{-1}``, and the step is Newton's: the error
squares, ``|x_{k+1} - x*| <= C |x_k - x*|^2``.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

import psgd_core as psgd
from psgd_core.preconditioners.normalizers import Sample

from ..arrays import to_host
from ..problems import Problem

LARGEST = 100
"""The largest n for which P is fitted to convergence."""


class Newton(NamedTuple):
    """A descent with P fitted to convergence at each iterate."""

    errors: list[float]  # |x_k - x*|
    ratios: list[float]  # |x_{k+1} - x*| / |x_k - x*|^2
    values: list[float]  # f(x_k) - f*
    defects: list[float]  # |P H - I| at x_k, in the Frobenius norm


def last_ratios(values: list[float], minimum: float = 0.0, count: int = 8) -> list[float]:
    """Return the last `count` ratios ``(f_{k+1} - f*) / (f_k - f*)``, of steps that lowered f above f*."""
    gaps = [f - minimum for f in values]
    found = [b / a for a, b in itertools.pairwise(gaps) if b < a and a > 0 and b > 0]
    return found[-count:]


def fitted_newton_ratios(
    problem: Problem, distance: float = 0.1, iterations: int = 5, pairs: int = 4000, seed: int = 0
) -> Newton:
    """Return the errors of ``x <- x - P g`` from near x*, with P fitted to convergence at each x.

    Parameters
    ----------
    problem : Problem
        Deterministic, with a known solution, n <= 100, and a Hessian that is positive definite there.
    distance : float
        |x_0 - x*|.
    iterations : int
        At most; stops early where the error is down to rounding.
    pairs : int
        At most, for each fit; it ends when 50 pairs no longer bring P nearer to ``H^{-1}``.
    seed : int
        Of the direction of the start and of the probes.

    Raises
    ------
    ValueError
        If the problem is not of this kind.
    """
    if problem.solution is None or problem.stochastic or problem.n > LARGEST:
        raise ValueError(
            f"the ratios of fitted steps need a deterministic problem with a known solution and n <= "
            f"{LARGEST}, which {problem.name!r} (n = {problem.n}) is not; take rosenbrock"
        )
    # start at the given distance from the solution
    rng = np.random.default_rng(seed)
    solution = np.asarray(problem.solution, dtype=np.float64)
    minimum = float(problem.value(problem.solution))
    direction = rng.standard_normal(problem.n)
    x = solution + distance * direction / np.linalg.norm(direction)
    dense = psgd.Dense(normalizer=Sample())
    state = dense.init(problem.n, x)
    # a fit to convergence before each step
    newton = Newton([], [], [], [])
    for _ in range(iterations + 1):
        newton.errors.append(float(np.linalg.norm(x - solution)))
        newton.values.append(float(problem.value(x)) - minimum)
        if newton.errors[-1] < 1e-13 or len(newton.errors) > iterations:
            break
        state, defect = _fitted(problem, x, dense, state, rng, pairs)
        newton.defects.append(defect)
        x = x - to_host(dense.precondition(state, problem.gradient(x)))
    e = newton.errors
    newton.ratios.extend(b / a**2 for a, b in itertools.pairwise(e))
    return newton


def _fitted(
    problem: Problem, x: np.ndarray, dense: psgd.Dense, state: Any, rng: np.random.Generator, pairs: int
) -> tuple[Any, float]:
    """Return P fitted at x, and |P H - I|."""
    hessian, eye = np.asarray(problem.hessian(x)), np.eye(problem.n)

    def defect(state: Any) -> float:
        return float(np.linalg.norm(to_host(dense.matrix(state)) @ hessian - eye))

    best, held = defect(state), state
    for _ in range(0, pairs, 50):
        for _ in range(50):
            v = rng.standard_normal(problem.n)
            state = dense.update(state, v, hessian @ v, 0.9)
        now = defect(state)
        if now < best:
            best, held = now, state
        elif best < 1e-8:
            break
    return held, best
