"""All the studies of one Hessian at once: what `psgd spectrum` runs, draws and writes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import psgd_core as psgd

from ..arrays import to_host
from ..documents import as_json, versions
from .broadening import Scale
from .checks import require_squares
from .choosing import best_of, default_groups
from .comparing import comparison
from .exact import extreme_eigenvalues
from .families import SEARCH_LIMIT, Families
from .groups import study as group_study
from .operators import HessianOperator
from .ordering import best_order
from .quadrature import density
from .ranks import study as rank_study
from .ranks import usable_ranks
from .results import Density, Extremes
from .table import Result

DENSE_LIMIT = 2048
"""Default largest n for the studies that need all eigenvalues: about a minute."""

STUDIES = ("density", "ends", "groups", "order_for_xmat", "ranks", "before_after")
"""Their names, in the order in which they are made; only the first two need no dense matrix."""

VECTORS = "spectrum.npz"
"""Where eigenvectors are written: they are too long for JSON."""

TOLERANCE, RESTARTS = 1e-6, 30
"""Of the ends of a spectrum that is known by products alone."""


def studies(
    hessian: HessianOperator,
    seed: int,
    *,
    ranks: Sequence[int],
    products: int,
    probes: int,
    steps: int,
    scale: Scale,
    compared: Sequence[str] = (),
    eigenvectors: int = 3,
    dense_limit: int = DENSE_LIMIT,
) -> Iterator[tuple[str, Result | None]]:
    """Yield the name and the result of each study, one after the other as they are done.

    Above `dense_limit` only the density and the ends, which need products alone. None stands for ends that
    were not asked for, or did not converge.
    """
    n, small = hessian.n, hessian.n <= dense_limit
    # check before anything is computed
    if small:
        ranks = usable_ranks(ranks, n)
        hessian = hessian.densified()
        require_squares(hessian.name, hessian.dense())
        families = Families(hessian, np.random.default_rng([seed, 1]), products)
        candidates = best_of(compared, n, ranks[-1] if products or compared else 0)
    rng = np.random.default_rng([seed, 0])
    yield "density", density(hessian, rng, probes=probes, steps=steps, scale=scale)
    yield "ends", _ends(hessian, np.random.default_rng([seed, 2]), min(eigenvectors, n))
    if not small:
        return
    yield "groups", group_study(families, default_groups(n, ranks[-1] if products else 0))
    # an order of the parameters for XMat
    flip = psgd.PermutationSubgroup.flip(n)
    order = best_order(hessian, flip)
    yield "order_for_xmat", order
    yield "ranks", rank_study(families, ranks)
    # those that were asked for, and a fitted one
    if not compared:
        candidates["XMat, best order"] = flip.conjugate(order.order)
    if products and ranks[-1] and n <= SEARCH_LIMIT:  # above it the best is a fit already
        fitted = families.fitted(psgd.LowRank(ranks[-1], geometry="natural"))
        candidates[f"LowRank({ranks[-1]}), fitted"] = fitted
    yield "before_after", comparison(families, candidates)


def _ends(hessian: HessianOperator, rng: np.random.Generator, k: int) -> Extremes | None:
    """Return the ends of the spectrum; None, with a warning, where they do not converge."""
    if k == 0:
        return None
    try:
        return extreme_eigenvalues(hessian, rng, k, tol=TOLERANCE, maxiter=RESTARTS)
    except RuntimeError as error:
        warnings.warn(str(error), stacklevel=2)
        return None


def draw(results: dict[str, Result], exact: np.ndarray | None = None) -> Any:
    """Return a matplotlib Figure with a panel for each study that has one; pyplot is not involved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [name for name in ("density", "before_after", "ranks", "groups") if name in results]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(7.2 * columns, 4.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for name, ax in zip(shown, axes, strict=False):
        result = results[name]
        if isinstance(result, Density):
            result.plot(ax, exact)
        else:
            result.plot(ax)
    return figure


def document(results: dict[str, Result], about: dict[str, Any]) -> str:
    """Return everything as strictly valid JSON, with its origin."""
    content = {"format": "psgd-spectrum", "version": 1, **about, "versions": versions()}
    content["studies"] = {name: result.as_dict() for name, result in results.items()}
    if "ends" in results:
        for name in ("smallest_vectors", "largest_vectors"):
            content["studies"]["ends"][name] = f"in {VECTORS}"
    return as_json(content)


def vectors(ends: Extremes) -> dict[str, np.ndarray]:
    """Return eigenvalues, their residuals and their vectors, (n, 2 k), as arrays to write; ascending."""
    parts = {
        "values": (ends.smallest, ends.largest),
        "residuals": (ends.smallest_error, ends.largest_error),
        "vectors": (to_host(ends.smallest_vectors), to_host(ends.largest_vectors)),
    }
    return {name: np.concatenate(part, axis=-1) for name, part in parts.items()}


def write_vectors(file: Any, ends: Extremes) -> None:
    """Write them as an `.npz` file."""
    arrays: dict[str, Any] = vectors(ends)
    np.savez(file, **arrays)
