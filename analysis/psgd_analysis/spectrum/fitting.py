"""Fitting a preconditioner to a Hessian, for the studies."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

import psgd_core as psgd

from ..arrays import Array
from ..checks import require_count, require_rng
from ..problems import probes as draw_probes
from .operators import HessianOperator, as_operator

CHUNK = 16
"""Products asked for at a time."""


def fit(
    hessian: HessianOperator | Array,
    preconditioner: psgd.Preconditioner,
    rng: np.random.Generator,
    *,
    products: int = 300,
    updates: int = 50,
    step: float = 0.7,
) -> Any:
    """Return the state of a preconditioner fitted to Gaussian probes, all of them in every update.

    H stays, so no pair is ever out of date: P starts where they point (`init` with `pairs`), and goes on to
    the minimiser of the criterion on them. How far that is from the minimiser on H is a matter of how many
    there are. ``psgd_core.LowRank(r, geometry="natural")`` gets there within some tens of updates.

    Parameters
    ----------
    hessian : HessianOperator or array, shape (n, n)
    preconditioner : Preconditioner
    rng : numpy.random.Generator
    products : int
        Hessian-vector products; they and the probes are kept, ``2 n products`` numbers.
    updates : int
    step : float
        In (0, 1).
    """
    op = as_operator(hessian)
    require_rng(rng)
    require_count("products", products)
    require_count("updates", updates)
    parts = []
    for start in range(0, products, CHUNK):
        v = draw_probes(op.n, rng, min(CHUNK, products - start), like=op.like)
        parts.append((v, op.hvp(v)))
    xp = array_api_compat.array_namespace(parts[0][0])
    v, h = (xp.concat(columns, axis=1) for columns in zip(*parts, strict=True))
    state = preconditioner.init(op.n, like=op.like, pairs=(v, h))
    for _ in range(updates):
        state = preconditioner.update(state, v, h, step=step)
    return state
