"""What is fitted to the pairs: a row for each, with a name, the tasks that it suits, and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

import psgd_core as psgd

from ..arrays import to_host
from .limits import BestLowRank, ExactLowRank, Expected, ExpectedKronecker, Fit, LeastSquares, Sampled
from .tasks import Task, preconditioner

Side = Literal["psgd-core", "limit", "peer"]


@dataclass(frozen=True)
class Contender:
    """A row of `CONTENDERS`.

    Parameters
    ----------
    name : str
    make : callable
        ``make(task, seed)`` returns a `Fit`.
    suits : callable
        ``suits(task)``: whether it is for that task.
    side : "psgd-core", "limit" or "peer"
        Ours; what the same pairs can say at most, of one kind or another; or another project's.
    """

    name: str
    make: Callable[[Task, int], Fit]
    suits: Callable[[Task], bool]
    side: Side = "psgd-core"


# -- psgd-core -----------------------------------------------------------------------------------------------


class Online(Fit):
    """A preconditioner of psgd-core, fitted on NumPy in float64.

    Parameters
    ----------
    p : Preconditioner
    n : int
    step : callable
        ``step(t)`` is the step of pair t, counted from 1.
    seed : int
    """

    def __init__(self, p: psgd.Preconditioner, n: int, step: Callable[[int], float], seed: int) -> None:
        self.p, self.step, self.pairs = p, step, 0
        self.state = p.init(n, like=np.zeros(1), rng=np.random.default_rng((seed, 9)))

    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Learn from a pair."""
        self.pairs += 1
        self.state = self.p.update(self.state, v, h, self.step(self.pairs), inplace=True)

    def precondition(self, x: np.ndarray) -> np.ndarray:
        """Return ``P x``."""
        return to_host(self.p.precondition(self.state, x))

    def solve(self, x: np.ndarray) -> np.ndarray:
        """Return ``P^{-1} x``."""
        return to_host(self.p.solve(self.state, self.p.solve_transpose(self.state, x)))


class Averaged(Online):
    """One that takes a memory, and averages over all pairs."""

    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Learn from a pair."""
        self.state = self.p.update(self.state, v, h, memory="all", inplace=True)


class Natural(Online):
    """`LowRank` by natural steps on a ring of pairs, begun anew at a sketch of the first 2 r.

    Parameters
    ----------
    task : Task
    seed : int
    size, times : int
        Pairs in the ring, and updates per pair.
    """

    def __init__(self, task: Task, seed: int, size: int, times: int) -> None:
        super().__init__(psgd.LowRank(task.rank, geometry="natural"), task.n, lambda t: 0.7, seed)
        self.replay, self.first = psgd.Replay(size, times, "all"), max(4, 2 * task.rank)
        self.ring = self.replay.init(task.n, np.zeros(1))

    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Learn from a pair."""
        self.pairs += 1
        self.state, self.ring = self.replay.update(self.p, self.state, self.ring, v, h, self.step(self.pairs))
        if self.pairs == self.first:
            rows = slice(0, self.pairs)
            self.state = self.p.init(len(v), like=v, pairs=(self.ring.v[rows, :].T, self.ring.h[rows, :].T))


def _online(step: Callable[[Task], Callable[[int], float]], **options: Any) -> Callable[[Task, int], Fit]:
    def make(task: Task, seed: int) -> Fit:
        p = replace(preconditioner(task.kind, task.n, task.rank), **options)  # type: ignore[type-var]
        return Online(p, task.n, step(task), seed)

    return make


def _kalman(task: Task) -> psgd.Preconditioner:
    p = preconditioner(task.kind, task.n, task.rank)
    options: dict[str, Any] = {"geometry": "Lyapunov", "normalizer": psgd.normalizers.Kalman()}
    return replace(p, **options)  # type: ignore[type-var]


def _constant(step: float) -> Callable[[Task], Callable[[int], float]]:
    return lambda task: lambda t: step


def _largest(task: Task) -> int:
    """Return the size of the largest orbit."""
    return max(members.shape[0] for members in task.orbits or ())


def _closed_form(probes: Literal["expected", "sampled"]) -> Callable[[Task, int], Fit]:
    def make(task: Task, seed: int) -> Fit:
        assert task.group is not None
        return Online(psgd.ClosedForm(task.group, probes=probes), task.n, lambda t: 1e-9, seed)

    return make


def of_group(task: Task) -> bool:
    """Return whether P is to be on a group of Theorem 3.1."""
    return task.group is not None


def of_kronecker(task: Task) -> bool:
    """Return whether P is to be a Kronecker product."""
    return task.kind == "Kronecker"


def of_low_rank(task: Task) -> bool:
    """Return whether P is to be diagonal plus low rank."""
    return task.kind == "LowRank"


def _has_hessian(task: Task) -> bool:
    return task.hessian is not None


# -- the table -----------------------------------------------------------------------------------------------

CONTENDERS: tuple[Contender, ...] = (
    Contender("EQ, step 0.1", _online(_constant(0.1)), of_group),
    Contender("EQ, step s/t", _online(lambda task: lambda t: min(0.5, _largest(task) / t)), of_group),
    Contender(
        "Lyapunov, step s/t",
        _online(lambda task: lambda t: min(0.5, _largest(task) / t), geometry="Lyapunov"),
        of_group,
    ),
    Contender(
        "Lyapunov, all pairs",
        lambda task, seed: Averaged(_kalman(task), task.n, lambda t: 0.0, seed),
        of_group,
    ),
    Contender("ClosedForm", _closed_form("expected"), of_group),
    Contender("ClosedForm, sampled", _closed_form("sampled"), of_group),
    Contender("(mean hh')^-1/2", lambda task, seed: Expected(task), of_group, "limit"),
    Contender("minimiser on the pairs", lambda task, seed: Sampled(task), of_group, "limit"),
    Contender("EQ, step 0.1", _online(_constant(0.1)), of_kronecker),
    Contender("EQ, step s/t", _online(lambda task: lambda t: min(0.5, task.n**0.5 / t)), of_kronecker),
    Contender(
        "Lyapunov, step s/t",
        _online(lambda task: lambda t: min(0.5, task.n**0.5 / t), geometry="Lyapunov"),
        of_kronecker,
    ),
    Contender("(mean hh')^-1/2", lambda task, seed: ExpectedKronecker(task), of_kronecker, "limit"),
    Contender("LowRank, step 0.2", _online(_constant(0.2)), of_low_rank),
    Contender("LowRank, step 0.5", _online(_constant(0.5)), of_low_rank),
    Contender("natural, ring of 100", lambda task, seed: Natural(task, seed, 100, 1), of_low_rank),
    Contender("natural, ring of 300", lambda task, seed: Natural(task, seed, 300, 1), of_low_rank),
    Contender("minimiser on the pairs", BestLowRank, lambda t: of_low_rank(t) and t.n <= 1000, "limit"),
    Contender("minimiser on H", ExactLowRank, lambda t: of_low_rank(t) and _has_hessian(t), "limit"),
    Contender(
        "least squares on H",
        lambda task, seed: LeastSquares(task),
        lambda t: _has_hessian(t) and (t.inside or of_low_rank(t)),
        "limit",
    ),
)
"""In the order that tables have them; the peers come after, see `peers`."""
