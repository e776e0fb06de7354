"""The best ``Q = (I + U V^T) diag(d)`` for given pairs, or for H itself: what fitting low rank tends to.

With pairs as columns, the criterion is ``|Q H|^2 + |Q^{-T} V|^2``; over all pairs that can be drawn it is the
same with H itself and ``V = I``. L-BFGS on (U, V, log d) finds its minimum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize


class Factors(NamedTuple):
    """``Q = (I + U V^T) diag(d)``, on the host."""

    u: np.ndarray  # (n, r)
    v: np.ndarray  # (n, r)
    d: np.ndarray  # (n,)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Return ``Q x`` for columns x."""
        y = self.d[:, None] * x
        return y + self.u @ (self.v.T @ y)

    def precondition(self, x: np.ndarray) -> np.ndarray:
        """Return ``P x`` for columns x."""
        y = self.apply(x)
        return self.d[:, None] * (y + self.v @ (self.u.T @ y))

    def solve(self, x: np.ndarray) -> np.ndarray:
        """Return ``P^{-1} x`` for columns x."""
        d, small = self.d[:, None], np.eye(self.u.shape[1]) + self.v.T @ self.u
        y = x / d
        y = y - self.v @ np.linalg.solve(small.T, self.u.T @ y)
        return (y - self.u @ np.linalg.solve(small, self.v.T @ y)) / d


class Found(NamedTuple):
    """A minimum of the criterion."""

    factors: Factors
    value: float  # of the criterion
    values: tuple[float, ...]  # what each start led to


def criterion(x: np.ndarray, rank: int, v: np.ndarray, h: np.ndarray) -> tuple[float, np.ndarray]:
    """Return ``|Q h|^2 + |Q^{-T} v|^2`` for columns v, h, and its derivative by x = (U, V, log d), flat.

    O(n m r) for m columns.
    """
    n = v.shape[0]
    u, w = x[: 2 * n * rank].reshape(2, n, rank)
    d = np.exp(x[2 * n * rank :])[:, None]
    small = np.eye(rank) + w.T @ u
    # the products
    p = d * h
    a = p + u @ (w.T @ p)
    # the probes
    q = v / d
    b = q - w @ np.linalg.solve(small.T, u.T @ q)
    z = b - u @ np.linalg.solve(small, w.T @ b)
    value = np.sum(a * a) + np.sum(b * b)
    by_u = a @ (p.T @ w) - b @ (z.T @ w)
    by_w = p @ (a.T @ u) - z @ (b.T @ u)
    by_d = np.sum((a + w @ (u.T @ a)) * p - z * q, axis=1)
    return float(value), 2 * np.concatenate([by_u.ravel(), by_w.ravel(), by_d])


def best_factors(
    v: np.ndarray,
    h: np.ndarray,
    rank: int,
    rng: np.random.Generator,
    *,
    starts: int = 1,
    maxiter: int = 3000,
) -> Found:
    """Return the Q that minimises the criterion on some pairs, by L-BFGS from random starts near I.

    Parameters
    ----------
    v, h : array, shape (n, m)
        Probes and products as columns: ``I`` and H for the exact criterion.
    rank : int
    rng : numpy.random.Generator
    starts, maxiter : int

    Returns
    -------
    Found
        The best of all starts; where they end alike, the landscape is benign.
    """
    n, m = v.shape
    v, h = v / m**0.5, h / m**0.5
    unit = np.linalg.norm(h) / np.linalg.norm(v)  # Q = I is then the best multiple of I
    best: tuple[float, np.ndarray] | None = None
    values = []
    for _ in range(starts):
        x = rng.standard_normal(2 * n * rank) * (0.1 / n / max(rank, 1)) ** 0.5
        x = np.concatenate([x, np.zeros(n)])
        options = {"maxiter": maxiter, "maxfun": 2 * maxiter, "ftol": 1e-15, "gtol": 1e-10, "maxcor": 30}
        end = minimize(criterion, x, (rank, v, h / unit), jac=True, method="L-BFGS-B", options=options)
        values.append(float(end.fun) * unit * m)
        if best is None or end.fun < best[0]:
            best = float(end.fun), end.x
    assert best is not None
    u, w = best[1][: 2 * n * rank].reshape(2, n, rank)
    factors = Factors(u, w, np.exp(best[1][2 * n * rank :]) / unit**0.5)
    return Found(factors, min(values), tuple(values))
