"""Test functions that couple every variable with all others, or with its neighbours, for any n.

From Moré, Garbow, Hillstrom (ACM TOMS 7(1), 1981; numbers in brackets are theirs). Where all variables meet
in one sum, the Hessian is a diagonal plus a matrix of rank one or two: dense, but cheap to multiply with, and
what `LowRank` is made for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from ..arrays import Array, put
from ..checks import require_count
from .base import Problem
from .least_squares import LeastSquares, Residual, Windows


class VariablyDimensioned(Problem):
    """``f = Σ (x_j - 1)^2 + s^2 + s^4`` with ``s = Σ j (x_j - 1)``; made by `variably_dimensioned`."""

    def _sum(self, x: Array) -> tuple[Any, Array, Array]:
        xp = array_api_compat.array_namespace(x)
        j = xp.arange(1, self.n + 1, dtype=x.dtype, device=array_api_compat.device(x))
        return xp, j, xp.sum(j * (x - 1.0))

    def _value(self, x: Array, sample: Any) -> Array:
        xp, _, s = self._sum(x)
        return xp.sum((x - 1.0) * (x - 1.0)) + s * s + (s * s) * (s * s)

    def _gradient(self, x: Array, sample: Any) -> Array:
        _, j, s = self._sum(x)
        return 2.0 * (x - 1.0) + (2.0 * s + 4.0 * s * s * s) * j

    def _hvp(self, x: Array, v: Array, sample: Any) -> Array:
        _, j, s = self._sum(x)
        return 2.0 * v + (2.0 + 12.0 * s * s) * j[:, None] * (j[None, :] @ v)


def variably_dimensioned(n: int = 10, *, like: Array | None = None) -> VariablyDimensioned:
    """Return the variably dimensioned function (25): minimum 0 at (1, ..., 1), where κ is about n^3 / 3."""
    start = 1.0 - np.arange(1, require_count("n", n) + 1) / n
    return VariablyDimensioned(
        name="variably_dimensioned", start=put(start, like), minimum=0.0, solution=put(np.ones(n), like)
    )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Penalty(Problem):
    """``f = a Σ (x_j - 1)^2 + (Σ x_j^2 - 1/4)^2``; made by `penalty_1`."""

    weight: float

    def _value(self, x: Array, sample: Any) -> Array:
        xp = array_api_compat.array_namespace(x)
        excess = xp.sum(x * x) - 0.25
        return self.weight * xp.sum((x - 1.0) * (x - 1.0)) + excess * excess

    def _gradient(self, x: Array, sample: Any) -> Array:
        xp = array_api_compat.array_namespace(x)
        return 2.0 * self.weight * (x - 1.0) + 4.0 * (xp.sum(x * x) - 0.25) * x

    def _hvp(self, x: Array, v: Array, sample: Any) -> Array:
        xp = array_api_compat.array_namespace(x)
        along = 8.0 * x[:, None] * (x[None, :] @ v)
        return (2.0 * self.weight + 4.0 * (xp.sum(x * x) - 0.25)) * v + along


def penalty_1(n: int = 10, *, like: Array | None = None) -> Penalty:
    """Return penalty function I (23), with a = 1e-5.

    The gradient vanishes on the diagonal, ``x_j = t`` with ``4 n t^3 + (2a - 1) t - 2a = 0``; the largest
    root is the minimum (2.24997e-5 for n = 4, 7.08765e-5 for n = 10).
    """
    a = 1e-5
    start = np.arange(1.0, require_count("n", n) + 1)
    t = float(np.max(np.real(np.roots([4.0 * n, 0.0, 2.0 * a - 1.0, -2.0 * a]))))
    minimum = a * n * (t - 1.0) ** 2 + (n * t * t - 0.25) ** 2
    return Penalty(
        name="penalty_1",
        start=put(start, like),
        minimum=minimum,
        solution=put(np.full(n, t), like),
        weight=a,
    )


class Trigonometric(Problem):
    """``f_i = n - Σ_j cos x_j + i (1 - cos x_i) - sin x_i``; made by `trigonometric`."""

    def _parts(self, x: Array) -> tuple[Any, Array, Array, Array, Array]:
        """Return the namespace, i, cos x, sin x and the residuals."""
        xp = array_api_compat.array_namespace(x)
        i = xp.arange(1, self.n + 1, dtype=x.dtype, device=array_api_compat.device(x))
        # 1 - cos x without cancellation: at the solution x = 0 it decides how small f can get.
        half = xp.sin(0.5 * x)
        versine = 2.0 * half * half
        return xp, i, xp.cos(x), xp.sin(x), xp.sum(versine) + i * versine - xp.sin(x)

    def _value(self, x: Array, sample: Any) -> Array:
        xp, *_, r = self._parts(x)
        return xp.sum(r * r)

    def _gradient(self, x: Array, sample: Any) -> Array:
        xp, i, cosine, sine, r = self._parts(x)
        return 2.0 * (sine * xp.sum(r) + (i * sine - cosine) * r)

    def _hvp(self, x: Array, v: Array, sample: Any) -> Array:
        xp, i, cosine, sine, r = self._parts(x)
        own, s = (i * sine - cosine)[:, None], sine[:, None]  # J = 1 s^T + diag(own)
        change = s.T @ v + own * v
        bend = cosine * xp.sum(r) + (i * cosine + sine) * r
        return 2.0 * (s * xp.sum(change, axis=0) + own * change + bend[:, None] * v)


def trigonometric(n: int = 10, *, like: Array | None = None) -> Trigonometric:
    """Return the trigonometric function (26): minimum 0, among others at the origin.

    From the standard start (1/n, ..., 1/n) many methods end in a local minimum (2.79506e-5 for n = 10).
    """
    start = np.full(require_count("n", n), 1.0 / n)
    return Trigonometric(
        name="trigonometric", start=put(start, like), minimum=0.0, solution=put(np.zeros(n), like)
    )


def broyden_tridiagonal(n: int = 10, *, like: Array | None = None) -> LeastSquares:
    """Return the Broyden tridiagonal function (30), ``f_i = (3 - 2 x_i) x_i - x_{i-1} - 2 x_{i+1} + 1``.

    Its minimum is 0; where it is attained has no closed form, so `solution` is None.
    """
    return LeastSquares(
        name="broyden_tridiagonal",
        start=put(-np.ones(require_count("n", n)), like),
        minimum=0.0,
        residuals=_broyden,
        layout=Windows(3, pad=1),
    )


def _broyden(left: Array, x: Array, right: Array) -> list[Residual]:
    value = (3.0 - 2.0 * x) * x - left - 2.0 * right + 1.0
    return [Residual(value, {0: -1.0, 1: 3.0 - 4.0 * x, 2: -2.0}, {(1, 1): -4.0})]
