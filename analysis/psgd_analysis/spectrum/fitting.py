"""Fitting a preconditioner to a Hessian, for the studies."""

from __future__ import annotations

from typing import Any

import numpy as np

import psgd_core as psgd

from ..arrays import Array
from ..checks import require_count, require_rng
from ..problems import probes as draw_probes
from .operators import HessianOperator, as_operator


def fit(
    hessian: HessianOperator | Array,
    preconditioner: psgd.Preconditioner,
    rng: np.random.Generator,
    *,
    updates: int = 2000,
    step: float = 0.3,
    probes: int = 8,
) -> Any:
    """Return the state of a preconditioner fitted online: Gaussian probes, the step annealed at the end.

    The step is constant for the first half and then falls linearly towards 0, so that the floor which
    samples leave where H is indefinite, or outside the group, is averaged away.

    Parameters
    ----------
    hessian : HessianOperator or array, shape (n, n)
    preconditioner : Preconditioner
    rng : numpy.random.Generator
    updates : int
    step : float
        In (0, 1).
    probes : int
        Products per update.
    """
    op = as_operator(hessian)
    require_rng(rng)
    require_count("updates", updates)
    require_count("probes", probes)
    state = preconditioner.init(op.n, like=op.like)
    for i in range(updates):
        v = draw_probes(op.n, rng, probes, like=op.like)
        state = preconditioner.update(state, v, op.hvp(v), step=step * min(1.0, 2 * (1 - i / updates)))
    return state
