"""What each group of Theorem 3.1 leaves of a spectrum, before anything is fitted.

The criterion's exact minimiser over the group of a subgroup K is known for any H, definite or not, inside
the group or not: ``P*_O = ((H^2)_OO)^{-1/2}`` on every orbit O of K (`psgd_core.criterion`). So the
eigenvalues of ``P* H``, and the criterion's least value ``c(P*) = 2 sum_O tr (M_OO)^{1/2}``, can be had
from the matrix alone, and a K can be chosen before training. ``c(P*)`` over the ``2 tr |H|`` of GL(n) is 1
where the group holds ``|H|``, and above otherwise. It is what fitting minimises; the condition number
usually follows it, but not always: the best diagonal by the criterion may leave a worse condition number
than none at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import array_api_compat
import numpy as np

import psgd_core as psgd
from psgd_core import PermutationSubgroup

from ..arrays import Array, rounding, to_host
from ..kinds import offered
from .checks import require_invertible, require_subgroup
from .exact import condition_number, eigenvalues, spread
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


def group_study(
    hessian: HessianOperator | Array, subgroups: Mapping[str, PermutationSubgroup] | None = None
) -> GroupStudy:
    """Return what the exact minimiser over each group leaves of a Hessian's spectrum.

    Parameters
    ----------
    hessian : HessianOperator or array, shape (n, n)
        Invertible; see `damped` for one that is not.
    subgroups : mapping, optional
        From a label to a `PermutationSubgroup` K; `named_subgroups` by default. To see a K of your own among
        them, pass ``{**named_subgroups(n), "mine": K}``.

    Returns
    -------
    GroupStudy
        The first row is the best multiple of the identity, no group at all. O(n^3) for each group.

    Raises
    ------
    ValueError, TypeError
        If a subgroup is for another n, or H is singular.
    """
    op = as_operator(hessian)
    h = op.dense()
    w = to_host(eigenvalues(h)).astype(np.float64)
    require_invertible(op.name, w, rounding(op.like))
    chosen = named_subgroups(op.n) if subgroups is None else dict(subgroups)
    floor = 2 * float(np.sum(np.abs(w)))
    plain = 2 * float(np.sqrt(op.n * np.sum(w**2)))
    # a row per group; the first is the best multiple of the identity
    rows = [(condition_number(w), spread(w), plain, 1, 1)]
    for name, subgroup in chosen.items():
        require_subgroup(f"subgroups[{name!r}]", subgroup, op.n)
        values, minimum = after_group(h, subgroup)
        sizes = subgroup.orbit_sizes
        rows.append(
            (condition_number(values), spread(values), minimum, int(np.max(sizes)), int(np.sum(sizes**2)))
        )
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return GroupStudy(
        name=op.name,
        n=op.n,
        condition_number=rows[0][0],
        criterion_floor=floor,
        groups=("none (P = ρ²I)", *chosen),
        condition_numbers=columns[0],
        spreads=columns[1],
        criteria=columns[2] / floor,
        largest_orbit=columns[3],
        storage=columns[4],
    )


def after_group(h: Array, subgroup: PermutationSubgroup) -> tuple[np.ndarray, float]:
    """Return the eigenvalues of ``P* H`` for the best P on the group of K, on the host; and ``c(P*)``."""
    xp = array_api_compat.array_namespace(h)
    target = psgd.convergence.target(h, subgroup.orbit_index)
    half = _solved(target.root, subgroup.orbit_index, h)  # root = P*^{-1/2}
    both = _solved(target.root, subgroup.orbit_index, half.T)
    return to_host(xp.linalg.eigvalsh((both + both.T) / 2)).astype(np.float64), float(target.minimum)


def _solved(root: Array, orbits: Sequence[np.ndarray], x: Array) -> Array:
    """Return ``root^{-1} x``, (n, n), for a matrix that is zero outside the orbits' blocks: O(n^2 s)."""
    xp, device, n = array_api_compat.array_namespace(x), array_api_compat.device(x), x.shape[0]
    flat, parts, places = xp.reshape(root, (-1,)), [], []
    for members in orbits:
        index = np.asarray(members).T  # (c, s)
        count, size = index.shape
        cells = xp.asarray((index[:, :, None] * n + index[:, None, :]).reshape(-1), device=device)
        rows = xp.asarray(index.reshape(-1), device=device)
        blocks = xp.reshape(xp.take(flat, cells), (count, size, size))
        right = xp.reshape(xp.take(x, rows, axis=0), (count, size, n))
        parts.append(xp.reshape(xp.linalg.solve(blocks, right), (count * size, n)))
        places.append(index.reshape(-1))
    back = xp.asarray(np.argsort(np.concatenate(places)), device=device)
    return xp.take(xp.concat(parts, axis=0), back, axis=0)
