"""What preconditioners leave of a Hessian, side by side: by the criterion, by κ, and in each tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import array_api_compat
import numpy as np

import psgd_core as psgd

from ..arrays import Array
from .checks import require_subgroup
from .exact import condition_number, spread
from .families import Families, Left, label_of, tails
from .operators import HessianOperator
from .results import Comparison


def compare(
    hessian: HessianOperator | Array,
    candidates: Mapping[str, Any] | Sequence[Any],
    *,
    rng: np.random.Generator | None = None,
    products: int = 300,
) -> Comparison:
    """Return what preconditioners leave of a Hessian's spectrum, by the criterion that they are fitted to.

    Parameters
    ----------
    hessian : HessianOperator, array, sparse matrix or LinearOperator, shape (n, n)
        Invertible; see `damped` for one that is not. Made dense.
    candidates : sequence, or mapping from labels
        A preconditioner such as ``psgd_core.LowRank(10)``, or a `PermutationSubgroup`, stands for the best P
        of its family; a pair (preconditioner, state) for what was fitted; an (n, n) array for P itself.
    rng : numpy.random.Generator, optional
        Only where a family's best is neither known in closed form nor searched for (`LowRank` above n = 256):
        there the family is fitted to products.
    products : int
        How many.

    Returns
    -------
    Comparison
        The first row is H itself, under the best multiple of the identity. O(n^3) for each.

    Raises
    ------
    ValueError, TypeError
        If H is singular, or a candidate is for another n, or none of these.
    """
    families = Families(hessian, rng, products)
    return comparison(families, named(candidates))


def named(candidates: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """Return the candidates by their labels, numbered where they repeat."""
    if isinstance(candidates, Mapping):
        return dict(candidates)
    if not isinstance(candidates, Sequence) or isinstance(candidates, str):
        raise TypeError(
            f"`candidates` must be a list of preconditioners, or a dict of them by label, got "
            f"{type(candidates).__name__}; give [psgd_core.XMat(), psgd_core.LowRank(10)]"
        )
    found: dict[str, Any] = {}
    for candidate in candidates:
        given = isinstance(candidate, tuple) and len(candidate) > 0
        label = f"{label_of(candidate[0])}, given" if given else label_of(candidate)
        label = "P" if array_api_compat.is_array_api_obj(candidate) else label
        count = sum(key == label or key.startswith(f"{label} #") for key in found)
        found[f"{label} #{count + 1}" if count else label] = candidate
    return found


def comparison(families: Families, candidates: Mapping[str, Any]) -> Comparison:
    """Return the comparison of candidates on a Hessian whose `Families` are known."""
    rows = [families.plain(), *(left(families, label, x) for label, x in candidates.items())]
    return Comparison(
        name=families.op.name,
        criterion_floor=families.floor,
        labels=("H", *candidates),
        values=tuple(row.values for row in rows),
        storage=np.array([row.numbers for row in rows]),
        how=tuple(row.how for row in rows),
        **columns(families, rows),
    )


def columns(families: Families, rows: Sequence[Left]) -> dict[str, np.ndarray]:
    """Return what tables of several P show of each."""
    ends = np.array([tails(row.values) for row in rows])
    return {
        "criteria": np.array([row.criterion for row in rows]) / families.floor,
        "condition_numbers": np.array([condition_number(row.values) for row in rows]),
        "spreads": np.array([spread(row.values) for row in rows]),
        "upper_tails": ends[:, 0],
        "lower_tails": ends[:, 1],
    }


def left(families: Families, label: str, candidate: Any) -> Left:
    """Return what a candidate leaves."""
    if isinstance(candidate, Left):
        return candidate
    if isinstance(candidate, psgd.PermutationSubgroup):
        require_subgroup(label, candidate, families.op.n)
        return families.best(psgd.Sparse(candidate))
    if isinstance(candidate, psgd.Preconditioner):
        return families.best(candidate)
    if isinstance(candidate, tuple) and len(candidate) == 2:
        return families.given(*candidate)
    if array_api_compat.is_array_api_obj(candidate):
        return families.given(candidate)
    raise TypeError(
        f"`candidates` must be preconditioners, pairs (preconditioner, state), subgroups or matrices P, got "
        f"{type(candidate).__name__} for {label!r}; make one such as psgd_core.XMat()"
    )
