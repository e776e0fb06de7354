"""Orders of the parameters that suit a given subgroup K.

An X-matrix joins the parameters i and n-1-i whatever they are. Another order of the parameters joins
others, and how much that is worth is known exactly: putting i and j in one orbit of two lowers the
criterion's minimum by

    G_ij = 2 (sqrt(M_ii) + sqrt(M_jj) - sqrt(M_ii + M_jj + 2 sqrt(M_ii M_jj - M_ij^2))) >= 0,      M = H^2,

since ``tr X^{1/2} = sqrt(tr X + 2 sqrt(det X))`` for 2 x 2 matrices. So the best pairs are a matching of
maximum weight G. For larger orbits the sum of G over the pairs inside is used in place of the exact saving.

The search is a heuristic: a greedy start, then one member is taken out of every orbit and all of them are
put back in the best way, an assignment problem (`scipy.optimize.linear_sum_assignment`), again and again
for different choices of the member, until no choice improves. The choices, by the digits of the orbit's
number, are such that for pairs every exchange between two orbits is among them. What it found is then
evaluated exactly.
"""

from __future__ import annotations

import numpy as np

from psgd_core import PermutationSubgroup

from ..arrays import Array, rounding, to_host
from .checks import require_invertible, require_subgroup
from .exact import condition_number
from .families import after_group
from .operators import HessianOperator, as_operator
from .results import Ordering


def best_order(hessian: HessianOperator | Array, subgroup: PermutationSubgroup) -> Ordering:
    """Return an order of the parameters that suits the group of K, with its exact criterion.

    Parameters
    ----------
    hessian : HessianOperator or array, shape (n, n)
        Invertible.
    subgroup : PermutationSubgroup
        K.

    Returns
    -------
    Ordering
        Never worse, by the criterion, than the given order. Use it as ``Sparse(subgroup.conjugate(order))``
        on the parameters as they are, or reorder: ``H[order][:, order]``, ``g[order]``.
    """
    op = as_operator(hessian)
    require_subgroup("subgroup", subgroup, op.n)
    h = to_host(op.dense()).astype(np.float64)
    w = np.linalg.eigvalsh(h)
    require_invertible(op.name, w, rounding(op.like))
    gain = pair_gains(h)
    places = [column for members in subgroup.orbit_index for column in members.T]
    candidates = [np.arange(op.n), _greedy(gain, places)]
    found = [_improved(gain, places, order) for order in candidates]
    before = _evaluate(h, subgroup, candidates[0])
    after, order = before, candidates[0]
    for candidate in found:
        result = _evaluate(h, subgroup, candidate)
        if result[1] < after[1]:
            after, order = result, candidate
    floor = 2 * float(np.sum(np.abs(w)))
    return Ordering(op.name, op.n, order, before[1], after[1], floor, before[0], after[0])


def pair_gains(h: np.ndarray) -> np.ndarray:
    """Return G, (n, n), 0 on the diagonal: what putting i and j in one orbit takes off the minimum."""
    m = h @ h.T
    d = np.diagonal(m)
    product = d[:, None] * d[None, :]
    determinant = np.maximum(product - m * m, 0.0)
    alone = np.sqrt(d)[:, None] + np.sqrt(d)[None, :]
    gain = 2 * (alone - np.sqrt(d[:, None] + d[None, :] + 2 * np.sqrt(determinant)))
    np.fill_diagonal(gain, 0.0)
    return np.maximum(gain, 0.0)


def _evaluate(h: np.ndarray, subgroup: PermutationSubgroup, order: np.ndarray) -> tuple[float, float]:
    values, minimum = after_group(h[np.ix_(order, order)], subgroup)
    return condition_number(values), minimum


def _greedy(gain: np.ndarray, places: list[np.ndarray]) -> np.ndarray:
    """Return an order made by filling orbit after orbit, largest first, with what gains most."""
    n = gain.shape[0]
    free = np.ones(n, dtype=bool)
    pairs = np.argsort(-gain, axis=None, kind="stable")
    order, at = np.empty(n, dtype=np.int64), 0
    for orbit in sorted(places, key=len, reverse=True):
        if len(orbit) == 1:
            members = [int(np.argmax(free))]
        else:
            while not (free[pairs[at] // n] and free[pairs[at] % n] and pairs[at] // n != pairs[at] % n):
                at += 1
            members = [int(pairs[at] // n), int(pairs[at] % n)]
        free[members] = False
        total = np.sum(gain[:, members], axis=1)
        while len(members) < len(orbit):
            members.append(int(np.argmax(np.where(free, total, -1.0))))
            free[members[-1]] = False
            total = total + gain[:, members[-1]]
        order[orbit] = members
    return order


def _improved(gain: np.ndarray, places: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Return a better order, by taking one member out of every orbit and putting all back in the best way."""
    from scipy.optimize import linear_sum_assignment

    order = order.copy()
    count, largest = len(places), max(map(len, places))
    if count == 1 or largest == 1:
        return order
    by_orbit = np.concatenate(places)
    sizes = np.array([len(orbit) for orbit in places])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    choices = _choices(count, largest)
    since = 0
    while since < len(choices):  # until a whole round brings no improvement
        digit = choices[since % len(choices)] % sizes
        holes = np.array([orbit[d] for orbit, d in zip(places, digit, strict=True)])
        out = order[holes]
        rows = gain[out].copy()
        rows[:, out] = 0.0  # the others that are taken out do not count
        table = np.add.reduceat(rows[:, order[by_orbit]], starts, axis=1)
        _, best = linear_sum_assignment(table, maximize=True)
        improvement = float(np.sum(table[np.arange(count), best]) - np.trace(table))
        if improvement > 1e-12 * float(np.sum(np.abs(table))):
            order[holes[best]] = out
            choices = choices[since:] + choices[:since]
            since = 1
        else:
            since += 1
    return order


def _choices(count: int, largest: int) -> list[np.ndarray]:
    """Return which member of each orbit to take out, by round: multiples of the orbit number's digits."""
    number, choices, power = np.arange(count), [], 1
    while power < count:
        digit = number // power % largest
        choices += [(f * digit + offset) % largest for f in range(1, largest) for offset in range(largest)]
        power *= largest
    return choices
