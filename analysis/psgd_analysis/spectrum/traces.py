"""Traces and diagonals from products alone, with standard errors: Hutchinson's estimators and Hutch++."""

from __future__ import annotations

from typing import NamedTuple

import array_api_compat
import numpy as np

from ..arrays import Array, to_host
from ..checks import require_count, require_rng
from ..problems import probes as draw_probes
from .operators import HessianOperator, as_operator


class Estimate(NamedTuple):
    """An unbiased estimate and its standard error."""

    value: Array  # a float for a trace, (n,) for a diagonal
    error: Array  # like `value`


def trace(hessian: HessianOperator | Array, rng: np.random.Generator, probes: int = 30) -> Estimate:
    """Return Hutchinson's estimate of the trace, ``E[v^T H v]`` for v of random signs.

    Its variance is twice the sum of the squared off-diagonal entries, over the number of probes.
    """
    op = _checked(hessian, rng, probes, 2)
    xp = array_api_compat.array_namespace(op.like)
    v = draw_probes(op.n, rng, probes, kind="rademacher", like=op.like)
    return _mean(to_host(xp.sum(v * op.hvp(v), axis=0)).astype(np.float64))


def hutch_plus_plus(hessian: HessianOperator | Array, rng: np.random.Generator, probes: int = 30) -> Estimate:
    """Return the estimate of Hutch++ (Meyer, Musco, Musco, Woodruff 2021) from `probes` products.

    A third of them finds a basis of the dominant eigenspace, on which the trace is exact (a third); the
    rest estimate the trace on its complement. For a decaying spectrum the error falls as 1/probes, not as
    its root.

    Raises
    ------
    ValueError
        If `probes` is below 6.
    """
    op = _checked(hessian, rng, probes, 6)
    xp = array_api_compat.array_namespace(op.like)
    third = min(probes // 3, op.n)
    basis = xp.linalg.qr(op.hvp(draw_probes(op.n, rng, third, kind="rademacher", like=op.like))).Q
    inside = float(xp.sum(basis * op.hvp(basis)))
    if third == op.n:
        return Estimate(inside, 0.0)
    v = draw_probes(op.n, rng, probes - 2 * third, kind="rademacher", like=op.like)
    v = v - basis @ (basis.T @ v)
    rest = _mean(to_host(xp.sum(v * op.hvp(v), axis=0)).astype(np.float64))
    return Estimate(inside + rest.value, rest.error)


def diagonal(hessian: HessianOperator | Array, rng: np.random.Generator, probes: int = 30) -> Estimate:
    """Return Hutchinson's estimate of the diagonal, ``E[v ⊙ H v]`` for v of random signs.

    On the library, dtype and device of the operator; the products are not kept, only two sums of them.
    """
    op = _checked(hessian, rng, probes, 2)
    xp = array_api_compat.array_namespace(op.like)
    mean = square = xp.zeros(op.n, dtype=op.like.dtype, device=array_api_compat.device(op.like))
    for count in range(1, probes + 1):  # Welford's recurrence: no cancellation
        v = draw_probes(op.n, rng, kind="rademacher", like=op.like)
        sample = v * op.hvp(v)
        change = sample - mean
        mean = mean + change / count
        square = square + change * (sample - mean)
    return Estimate(mean, xp.sqrt(square / (probes - 1) / probes))


def _mean(samples: np.ndarray) -> Estimate:
    return Estimate(float(np.mean(samples)), float(np.std(samples, ddof=1) / np.sqrt(samples.size)))


def _checked(hessian, rng, probes: int, least: int) -> HessianOperator:
    require_rng(rng)
    require_count("probes", probes, least)
    return as_operator(hessian)
