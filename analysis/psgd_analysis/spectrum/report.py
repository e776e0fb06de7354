"""All the studies of one Hessian at once: what `psgd spectrum` runs, draws and writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import psgd_core as psgd

from ..arrays import rounding, to_host
from ..documents import as_json, versions
from .broadening import Scale
from .checks import require_invertible, require_squares
from .exact import compare, eigenvalues
from .fitting import fit
from .groups import group_study, named_subgroups
from .operators import HessianOperator
from .ordering import best_order
from .quadrature import density
from .ranks import rank_study, usable_ranks
from .results import Density
from .table import Result

DENSE_LIMIT = 2048
"""Default largest n for the studies that need all eigenvalues: about a minute."""

STUDIES = ("density", "groups", "order_for_xmat", "ranks", "before_after")
"""Their names, in the order in which they are made; only the first needs no eigenvalues."""

_LARGEST_ORBIT = 8


def studies(
    hessian: HessianOperator,
    seed: int,
    *,
    ranks: Sequence[int],
    products: int,
    probes: int,
    steps: int,
    scale: Scale,
    dense_limit: int = DENSE_LIMIT,
) -> Iterator[tuple[str, Result]]:
    """Yield the name and the result of each study, one after the other as they are done.

    Above `dense_limit` only the density, which needs products alone.
    """
    n, small = hessian.n, hessian.n <= dense_limit
    # check before anything is computed
    if small:
        ranks = usable_ranks(ranks, n)
        hessian = hessian.densified()
        matrix = hessian.dense()
        require_squares(hessian.name, matrix)
        require_invertible(hessian.name, to_host(eigenvalues(matrix)), rounding(matrix))
    rng = np.random.default_rng([seed, 0])
    yield "density", density(hessian, rng, probes=probes, steps=steps, scale=scale)
    if not small:
        return
    groups = {name: k for name, k in named_subgroups(n, _LARGEST_ORBIT).items() if name != "GL(n)" or n == 1}
    yield "groups", group_study(hessian, groups)
    # an order of the parameters for XMat
    flip = psgd.PermutationSubgroup.flip(n)
    order = best_order(hessian, flip)
    yield "order_for_xmat", order
    yield "ranks", rank_study(hessian, ranks, rng=np.random.default_rng([seed, 1]), products=products)
    # the best P of some groups, and a fitted one
    best: dict[str, Any] = {
        "Diagonal": psgd.criterion.group_minimizer(matrix, psgd.PermutationSubgroup.trivial(n).orbit_index),
        "XMat": psgd.criterion.group_minimizer(matrix, flip.orbit_index),
        "XMat, best order": psgd.criterion.group_minimizer(matrix, flip.conjugate(order.order).orbit_index),
    }
    rank = ranks[-1]
    if products and rank:
        p = psgd.LowRank(rank=rank, geometry="natural")
        state = fit(hessian, p, np.random.default_rng([seed, 2]), products=products)
        best[f"LowRank({rank}), fitted"] = (p, state)
    yield "before_after", compare(hessian, best)


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
    return as_json(content)
