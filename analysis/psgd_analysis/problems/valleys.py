"""Rosenbrock's banana valley ``100 (x_2 - x_1^2)^2 + (1 - x_1)^2``, in 2 and in n dimensions.

Its Hessian ``[[1200 x_1^2 - 400 x_2 + 2, -400 x_1], [-400 x_1, 200]]`` has determinant ``80000 (x_1^2 - x_2)
+ 400``: it is indefinite above the parabola ``x_2 = x_1^2 + 0.005``, at (0, 1) for example, and has condition
number 2508 at the minimum (1, 1).

Two functions of n variables go by this name. The *chained* one couples all neighbours, its Hessian is
tridiagonal, and it is `scipy.optimize.rosen`. The one in *pairs* is n/2 copies of the plane one, so its
Hessian lies in the group of Theorem 3.1 whose subgroup swaps ``{2i, 2i + 1}``.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Array, put
from ..checks import require_count
from .least_squares import Blocks, LeastSquares, Residual, Windows


def rosenbrock(n: int = 2, *, like: Array | None = None) -> LeastSquares:
    """Return the chained Rosenbrock function of n >= 2 variables, `scipy.optimize.rosen`.

    The global minimum is 0 at (1, ..., 1); from n = 4 on there is a local one near (-1, 1, ..., 1).
    """
    require_count("n", n, 2)
    return _make("rosenbrock", n, Windows(2), like)


def rosenbrock_pairs(n: int = 100, *, like: Array | None = None) -> LeastSquares:
    """Return n/2 uncoupled Rosenbrock functions, the extended one of Moré, Garbow, Hillstrom (21).

    ``permuted(rosenbrock_pairs(n), pairs_to_flip(n))`` moves the pairs to where an X-matrix couples them.
    """
    if require_count("n", n, 2) % 2:
        raise ValueError(f"`n` must be even, got {n}; add or drop a variable")
    return _make("rosenbrock_pairs", n, Blocks(2), like)


def _make(name: str, n: int, layout: Blocks | Windows, like: Array | None) -> LeastSquares:
    start = np.ones(n)
    start[0::2] = -1.2
    return LeastSquares(
        name=name,
        start=put(start, like),
        minimum=0.0,
        solution=put(np.ones(n), like),
        residuals=_valley,
        layout=layout,
    )


def _valley(x1: Array, x2: Array) -> list[Residual]:
    return [
        Residual(10.0 * (x2 - x1 * x1), {0: -20.0 * x1, 1: 10.0}, {(0, 0): -20.0}),
        Residual(1.0 - x1, {0: -1.0}),
    ]
