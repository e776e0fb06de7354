"""Fitting a preconditioner to a Hessian, for the studies."""

from __future__ import annotations

from typing import Any, NamedTuple

import array_api_compat
import numpy as np

import psgd_core as psgd

from ..arrays import Array
from ..checks import require_count, require_rng
from ..problems import probes as draw_probes
from .operators import HessianOperator, as_operator

CHUNK = 16
"""Products asked for at a time."""


class Pairs(NamedTuple):
    """Probes and their products, as columns."""

    v: Array  # (n, products)
    h: Array  # (n, products)


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
    return settle(preconditioner, op, draw(op, rng, products), updates=updates, step=step)


def draw(op: HessianOperator, rng: np.random.Generator, products: int) -> Pairs:
    """Return so many Gaussian probes and their products."""
    require_rng(rng)
    require_count("products", products)
    parts = []
    for start in range(0, products, CHUNK):
        v = draw_probes(op.n, rng, min(CHUNK, products - start), like=op.like)
        parts.append((v, op.hvp(v)))
    xp = array_api_compat.array_namespace(parts[0][0])
    return Pairs(*(xp.concat(columns, axis=1) for columns in zip(*parts, strict=True)))


def settle(
    preconditioner: psgd.Preconditioner,
    op: HessianOperator,
    pairs: Pairs,
    *,
    updates: int,
    step: float = 0.7,
) -> Any:
    """Return the state after so many updates, each with all pairs."""
    require_count("updates", updates)
    state = preconditioner.init(op.n, like=op.like, pairs=(pairs.v, pairs.h))
    for _ in range(updates):
        state = preconditioner.update(state, pairs.v, pairs.h, step=step)
    return state
