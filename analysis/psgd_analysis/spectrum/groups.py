"""What each family leaves of a spectrum, before anything is fitted: groups of Theorem 3.1, and others.

The criterion's exact minimiser over the group of a subgroup K is known for any H, definite or not, inside
the group or not: ``P*_O = ((H^2)_OO)^{-1/2}`` on every orbit O of K (`psgd_core.criterion`). So the
eigenvalues of ``P* H``, and the criterion's least value ``c(P*) = 2 sum_O tr (M_OO)^{1/2}``, can be had
from the matrix alone, and a K can be chosen before training. ``c(P*)`` over the ``2 tr |H|`` of GL(n) is 1
where the group holds ``|H|``, and above otherwise. It is what fitting minimises; the condition number
usually follows it, but not always: the best diagonal by the criterion may leave a worse condition number
than none at all. Kronecker products and low rank stand beside the groups, each at its best (`families`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

import psgd_core as psgd
from psgd_core import PermutationSubgroup

from ..arrays import Array
from ..kinds import Size, offered, rectangle
from .checks import require_subgroup
from .comparing import columns, left
from .families import SEARCH_LIMIT, Families, subgroup_of
from .operators import HessianOperator, as_operator
from .results import GroupStudy


def named_subgroups(n: int, largest: int = 16) -> dict[str, PermutationSubgroup]:
    """Return the subgroups of Theorem 3.1 that have a name and exist at this n, by name.

    Those of `psgd_analysis.kinds`, cyclic shifts and dihedral groups of every order that divides n, and all
    shifts (GL(n)). Of several with the same orbits the first is kept.

    Parameters
    ----------
    n : int
    largest : int
        Leave out those with larger orbits, other than GL(n).
    """
    # those of the table, then the families, by size
    found: dict[str, PermutationSubgroup] = {}
    for name, kind in offered("spectrum").items():
        if kind.subgroup is not None:
            with contextlib.suppress(ValueError):  # there is none at this n
                found[name] = kind.subgroup(n)
    divisors = [d for d in range(3, min(n, largest + 1)) if n % d == 0]
    found |= {f"cyclic({d})": PermutationSubgroup.cyclic(n, d) for d in divisors}
    found |= {f"dihedral({d})": PermutationSubgroup.dihedral(n, d) for d in divisors}
    # drop large orbits and repetitions
    kept: dict[str, PermutationSubgroup] = {}
    for name, subgroup in found.items():
        small = int(np.max(subgroup.orbit_sizes)) <= largest
        if small and not any(subgroup.same_orbits(other) for other in kept.values()):
            kept[name] = subgroup
    if not any(subgroup.is_transitive for subgroup in kept.values()):
        kept["GL(n)"] = PermutationSubgroup.all_shifts(n)
    return kept


def named_families(n: int, largest: int = 16, rank: int = 10) -> dict[str, Any]:
    """Return `named_subgroups`, and with them a Kronecker product and low rank, where they hold less than n².

    The Kronecker product is that of the matrix of n elements that is nearest to a square.

    Parameters
    ----------
    n, largest : int
        As for `named_subgroups`.
    rank : int
        Of `LowRank`.
    """
    found: dict[str, Any] = dict(named_subgroups(n, largest))
    shape = rectangle(n)
    size = Size(n, rank, shape)
    chosen = {"Kronecker": min(shape) > 1, "LowRank": rank > 0 and 2 * rank + 1 < n}
    for name, there in chosen.items():
        kind = offered("spectrum")[name]
        if there:
            found[kind.named(size)] = kind.make(size)
    return found


def group_study(
    hessian: HessianOperator | Array,
    groups: Mapping[str, Any] | None = None,
    *,
    rng: np.random.Generator | None = None,
    products: int = 300,
) -> GroupStudy:
    """Return what the best P of each family leaves of a Hessian's spectrum.

    Parameters
    ----------
    hessian : HessianOperator, array, sparse matrix or LinearOperator, shape (n, n)
        Invertible; see `damped` for one that is not.
    groups : mapping, optional
        From a label to a `PermutationSubgroup` K or a preconditioner; `named_families` by default (low rank
        up to n = 256, or with `rng`). To see a K of your own among them, pass
        ``{**named_families(n), "mine": K}``.
    rng, products
        As for `compare`.

    Returns
    -------
    GroupStudy
        The first row is the best multiple of the identity, no group at all. O(n^3) for each group.

    Raises
    ------
    ValueError, TypeError
        If a subgroup is for another n, or H is singular.
    """
    families = Families(as_operator(hessian), rng, products)
    n = families.op.n
    if groups is None:
        groups = named_families(n, rank=10 if n <= SEARCH_LIMIT or rng is not None else 0)
    return study(families, groups)


def study(families: Families, groups: Mapping[str, Any]) -> GroupStudy:
    """Return the study of groups on a Hessian whose `Families` are known."""
    n = families.op.n
    for name, group in groups.items():
        if not isinstance(group, psgd.Preconditioner):
            require_subgroup(f"groups[{name!r}]", group, n)
    rows = [families.plain(), *(left(families, name, group) for name, group in groups.items())]
    found = columns(families, rows)
    return GroupStudy(
        name=families.op.name,
        n=n,
        condition_number=float(found["condition_numbers"][0]),
        criterion_floor=families.floor,
        groups=("none (P = ρ²I)", *groups),
        largest_orbit=np.array([1, *(_largest_orbit(group, n) for group in groups.values())]),
        storage=np.array([row.numbers for row in rows]),
        how=tuple(row.how for row in rows),
        **found,
    )


def _largest_orbit(group: Any, n: int) -> int:
    """Return the size of the largest orbit, 0 for what is no group of Theorem 3.1."""
    subgroup = group if isinstance(group, PermutationSubgroup) else subgroup_of(group, n)
    return 0 if subgroup is None else int(np.max(subgroup.orbit_sizes))
