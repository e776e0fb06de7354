"""What a contender offers, and the limits: what the same pairs can say at most, of one kind or another."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

import psgd_core as psgd

from ..arrays import to_host
from ..factors import Factors, best_factors
from .tasks import Task, preconditioner


class Fit(ABC):
    """A P that learns from pairs; vectors are NumPy's, (n,), columns (n, k)."""

    @abstractmethod
    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Learn from a pair."""

    @abstractmethod
    def precondition(self, x: np.ndarray) -> np.ndarray:
        """Return ``P x`` for columns x."""

    @abstractmethod
    def solve(self, x: np.ndarray) -> np.ndarray:
        """Return ``P^{-1} x`` for columns x."""


class Moments(Fit):
    """P from the means of ``h h^T``, ``v v^T`` and ``h v^T`` over all pairs, when asked."""

    def __init__(self, task: Task) -> None:
        self.n, self.pairs = task.n, 0
        index = task.orbits or (np.arange(task.n)[:, None],)
        self.orbits = [members for block in index for members in block.T]
        self.hh, self.vv, self.hv = np.zeros((3, task.n, task.n))
        self._p: np.ndarray | None = None

    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Learn from a pair."""
        self.pairs += 1
        self.hh += (np.outer(h, h) - self.hh) / self.pairs
        self.vv += (np.outer(v, v) - self.vv) / self.pairs
        self.hv += (np.outer(h, v) - self.hv) / self.pairs
        self._p = None

    @abstractmethod
    def block(self, hh: np.ndarray, vv: np.ndarray, hv: np.ndarray) -> np.ndarray:
        """Return P on an orbit."""

    @property
    def p(self) -> np.ndarray:
        """P, (n, n)."""
        if self._p is None:
            self._p = np.zeros((self.n, self.n))
            for orbit in self.orbits:
                at = np.ix_(orbit, orbit)
                self._p[at] = self.block(self.hh[at], self.vv[at], self.hv[at])
        return self._p

    def precondition(self, x: np.ndarray) -> np.ndarray:
        """Return ``P x``."""
        return self.p @ x

    def solve(self, x: np.ndarray) -> np.ndarray:
        """Return ``P^{-1} x``."""
        return np.linalg.solve(self.p, x)


class Expected(Moments):
    """``(mean h h^T)^{-1/2}`` per orbit; there is none while the mean is singular."""

    def block(self, hh: np.ndarray, vv: np.ndarray, hv: np.ndarray) -> np.ndarray:
        """Return P on an orbit."""
        return power(hh, -0.5)


class ExpectedKronecker(Moments):
    """The product that minimises the criterion, with ``mean h h^T`` for ``H^2``."""

    def block(self, hh: np.ndarray, vv: np.ndarray, hv: np.ndarray) -> np.ndarray:
        """Return P."""
        p = preconditioner("Kronecker", self.n, 0)
        assert isinstance(p, psgd.Kronecker)
        return to_host(psgd.criterion.kronecker_minimizer(power(hh, 0.5), p.shape))


class Sampled(Moments):
    """``(mean h h^T)^{-1} # (mean v v^T)`` per orbit, the minimiser of the criterion on these pairs."""

    def block(self, hh: np.ndarray, vv: np.ndarray, hv: np.ndarray) -> np.ndarray:
        """Return P on an orbit."""
        root, inverse = power(hh, 0.5), power(hh, -0.5)
        p = inverse @ power(root @ vv @ root, 0.5) @ inverse
        return (p + p.T) / 2


class LeastSquares(Moments):
    """``|H|^{-1}`` for the symmetric H that fits the pairs best: exact from n pairs on.

    The normal equations of ``min |H V - h|^2`` over symmetric H are ``H S + S H = h V^T + V h^T``,
    ``S = V V^T``. Before n pairs what they leave open is a multiple of I.
    """

    def block(self, hh: np.ndarray, vv: np.ndarray, hv: np.ndarray) -> np.ndarray:
        """Return P on an orbit."""
        s, e = np.linalg.eigh(vv)
        sums = s[:, None] + s[None, :]
        some = sums > 1e-12 * max(float(s[-1]), 1e-300)
        found = np.where(some, e.T @ (hv + hv.T) @ e, 0.0) / np.where(some, sums, 1.0)
        w, turned = np.linalg.eigh(e @ found @ e.T)
        size = (np.trace(hh) / np.trace(vv)) ** 0.5
        w = np.where(np.abs(w) > 1e-9 * np.max(np.abs(w)), np.abs(w), size)
        return (turned / w) @ turned.T


class BestLowRank(Fit):
    """The (U, V, d) that minimises the criterion on all pairs so far, by L-BFGS, when asked.

    Where they are few it fits them too well: then its P is far worse than that of a fit stopped early.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.rank, self.rng = task.rank, np.random.default_rng((seed, 10))
        self.v: list[np.ndarray] = []
        self.h: list[np.ndarray] = []
        self._found: Factors | None = None
        self._at = 0

    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Learn from a pair."""
        self.v.append(v)
        self.h.append(h)

    @property
    def factors(self) -> Factors:
        """Return the best factors."""
        if self._found is None or self._at < len(self.v):
            v, h = np.stack(self.v, 1), np.stack(self.h, 1)
            self._found = best_factors(v, h, self.rank, self.rng, maxiter=1000).factors
            self._at = len(self.v)
        return self._found

    def precondition(self, x: np.ndarray) -> np.ndarray:
        """Return ``P x``."""
        return self.factors.precondition(x)

    def solve(self, x: np.ndarray) -> np.ndarray:
        """Return ``P^{-1} x``."""
        return self.factors.solve(x)


class ExactLowRank(Fit):
    """The (U, V, d) that minimises the criterion on H itself, whatever the pairs: the end of every fit."""

    def __init__(self, task: Task, seed: int) -> None:
        assert task.hessian is not None
        rng = np.random.default_rng((seed, 11))
        self.factors = best_factors(np.eye(task.n), task.hessian, task.rank, rng, starts=2).factors

    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Do nothing."""

    def precondition(self, x: np.ndarray) -> np.ndarray:
        """Return ``P x``."""
        return self.factors.precondition(x)

    def solve(self, x: np.ndarray) -> np.ndarray:
        """Return ``P^{-1} x``."""
        return self.factors.solve(x)


def power(a: np.ndarray, exponent: float) -> np.ndarray:
    """Return the power of a positive semidefinite matrix; eigenvalues that are rounding count as rounding."""
    w, e = np.linalg.eigh(a)
    w = np.maximum(w, 2.0**-52 * w.size * w[-1])
    return (e * w**exponent) @ e.T
