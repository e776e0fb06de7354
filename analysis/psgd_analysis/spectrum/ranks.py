"""What a correction of rank r can make of a spectrum: Theorem 3.2, made exact.

``Q = ρ (I + U V^T)`` with r columns gives ``P/ρ^2 - I`` at most r positive and at most r negative
eigenvalues, and every positive definite P of that kind is such a ``Q^T Q`` (a positive and a negative
direction share one column). From it follows, for H with eigenvalues λ and ``h = |λ|`` in descending order:

**The criterion's minimiser.** ``tr(P M + P^{-1})`` with ``M = H^2`` is least for a P that commutes with H
and is ``1/h`` on the r largest h and on the r smallest, and ρ^2 on the rest, B: ``ρ^2 = sqrt(|B| / sum_B
h^2)``. Its value is ``2 sum_F h + 2 sqrt(|B| sum_B h^2)``, F the 2r others, and what is left of the
condition number is ``h_{r+1} / h_{n-r}``: r eigenvalues taken from either tail.

**All that can be reached.** ``Q H Q^T`` and ``ρ^2 H`` agree on the complement of U's columns. By Cauchy's
interlacing inequalities and, for the converse, Fan and Pall's and Witt's theorems, the spectra of ``Q H
Q^T`` over all Q with r columns are ρ^2 times those μ, with as many positive and negative ones as λ, that
satisfy

    λ_{i+r}  <=  μ_i  <=  λ_{i-r}      (values in descending order).

So the least condition number of any of them takes r eigenvalues from the top and r from the bottom of the
positive part *and* of the negative part. For a definite H that is the criterion's minimiser again; for an
indefinite one it is less: one column can shrink 10 and -10 together, through a P that does not commute with
H.

**One tail only.** ``P = ρ I + U U^T`` has no eigenvalue below ρ: it can lift the r smallest h, and is left
with ``h_1 / h_{n-r}``. (It stores half as many numbers: compare it at 2r for equal memory.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

import psgd_core as psgd

from ..arrays import Array, put, rounding, to_host
from ..checks import require_count
from .checks import require_invertible
from .exact import condition_number, spread
from .families import SEARCH_LIMIT, Families, Left
from .operators import HessianOperator, as_operator
from .results import RankStudy


def rank_study(
    hessian: HessianOperator | Array,
    ranks: Sequence[int] = (0, 1, 2, 5, 10),
    *,
    rng: np.random.Generator | None = None,
    products: int = 0,
    updates: int = 50,
) -> RankStudy:
    """Return what rank-r preconditioners leave of a spectrum: at best, with one tail only, and fitted.

    Parameters
    ----------
    hessian : HessianOperator or array, shape (n, n)
        Invertible; see `damped` for one that is not.
    ranks : sequence of int
        Those not below n are left out.
    rng : numpy.random.Generator, optional
        For the fits.
    products : int
        Fit `psgd_core.LowRank(r)` to so many Hessian-vector products, see `fit`. 0 leaves the fits out.
        LowRank has a whole diagonal in place of ρ, so it may end below the best with ρ; and where there are
        too few products to know it, above. The best with a whole diagonal, by L-BFGS, stands beside up to
        n = 256.
    updates
        As for `fit`.

    Returns
    -------
    RankStudy
        O(n^3) for the closed forms.
    """
    return study(Families(hessian, rng, products, updates), ranks)


def study(families: Families, ranks: Sequence[int]) -> RankStudy:
    """Return the study of ranks on a Hessian whose `Families` are known."""
    op, floor, products = families.op, families.floor, families.products
    chosen = usable_ranks(ranks, op.n)
    h = np.sort(np.abs(families.values))[::-1]
    # closed forms for both tails and for one, and fits
    best = [_after(h, min(r, (op.n + 1) // 2), min(r, op.n // 2)) for r in chosen]
    lifted = [_after(h, 0, r) for r in chosen]
    wanted = [psgd.LowRank(rank=r, geometry="natural") for r in chosen] if products else []
    fitted = [families.fitted(p) for p in wanted]
    diagonal = [families.best(psgd.LowRank(r)) for r in chosen if wanted and op.n <= SEARCH_LIMIT]
    columns = [np.array(column) for rows in (best, lifted) for column in zip(*rows, strict=True)]

    def each(rows: Sequence[Left], what: Callable[[Left], float]) -> np.ndarray:
        return np.array([what(row) for row in rows] or [np.nan] * len(chosen))

    return RankStudy(
        name=op.name,
        n=op.n,
        condition_number=float(h[0] / h[-1]),
        criterion_floor=floor,
        ranks=np.array(chosen),
        best_condition=columns[0],
        best_spread=columns[1],
        best_criterion=columns[2] / floor,
        reachable_condition=np.array([least_condition(families.values, r) for r in chosen]),
        diagonal_condition=each(diagonal, lambda row: condition_number(row.values)),
        diagonal_criterion=each(diagonal, lambda row: row.criterion / floor),
        one_tail_condition=columns[3],
        one_tail_spread=columns[4],
        one_tail_criterion=columns[5] / floor,
        fitted_condition=each(fitted, lambda row: condition_number(row.values)),
        fitted_spread=each(fitted, lambda row: spread(row.values)),
        fitted_criterion=each(fitted, lambda row: row.criterion / floor),
        products=products,
    )


def least_condition(values: Array, rank: int) -> float:
    """Return the least condition number of ``P H`` over all ``P = Q^T Q``, ``Q = ρ (I + U V^T)`` of the rank.

    Parameters
    ----------
    values : array, shape (n,)
        The eigenvalues of H, none of them 0.
    rank : int
    """
    w = to_host(values).astype(np.float64)
    require_count("rank", rank, 0)
    if not np.all(w):
        raise ValueError("`values` must not be 0, where no P makes the condition number finite; damp them")
    low, high = _levels(w, rank)
    return max(1.0, high / low)


def best_low_rank(
    hessian: HessianOperator | Array, rank: int, *, by: Literal["criterion", "condition"] = "criterion"
) -> psgd.groups.LowRankElement:
    """Return the best ``Q = ρ (I + U V^T)`` with r columns, by the criterion or by the condition number.

    It is what `rank_study` compares with, constructed. For a definite H the first is the best by either.

    Parameters
    ----------
    hessian : HessianOperator or array, shape (n, n)
        Invertible.
    rank : int
        In [0, n).

    Returns
    -------
    LowRankElement
        rho, u and v, (n, r), on the library of the Hessian; O(n^3).
    """
    op = as_operator(hessian)
    (r,) = usable_ranks([rank], op.n)
    w, vectors = np.linalg.eigh(to_host(op.dense()).astype(np.float64))
    require_invertible(op.name, w, rounding(op.like))
    if by == "criterion":
        rho, below, above = _criterion_directions(w, vectors, r)
    elif by == "condition":
        rho, below, above = _condition_directions(w, vectors, r)
    else:
        raise ValueError(f"`by` must be 'criterion' or 'condition', got {by!r}; choose one of these")
    u, v = _factors(below, above, op.n, r)
    return psgd.groups.LowRankElement(*(put(x, op.like) for x in (rho, u, v)))


_Direction = tuple[float, np.ndarray]  # an eigenvalue of P/ρ^2 other than 1, and its unit vector, (n,)


def _criterion_directions(
    w: np.ndarray, vectors: np.ndarray, r: int
) -> tuple[float, list[_Direction], list[_Direction]]:
    order = np.argsort(-np.abs(w))
    h, n = np.abs(w)[order], w.size
    top, bottom = min(r, (n + 1) // 2), min(r, n // 2)
    scale = _bulk_scale(h, top, bottom)
    directions = [(1 / (h[i] * scale), vectors[:, order[i]]) for i in (*range(top), *range(n - bottom, n))]
    return float(np.sqrt(scale)), directions[:top], directions[top:]


def _condition_directions(
    w: np.ndarray, vectors: np.ndarray, r: int
) -> tuple[float, list[_Direction], list[_Direction]]:
    """Return directions that bring every ``|λ|`` between the two levels.

    Where a positive eigenvalue a and a negative one -b both lie outside, one direction x of the plane of
    their eigenvectors serves both: ``P = I - c x x^T`` makes them s and -s if ``1 - c = s^2/(a b)``
    (determinants) and ``x^T H x = (a - b)/c`` (traces).
    """
    low, high = _levels(w, r)
    if low < high:
        targets = (high, low)
    else:  # all can be made equal
        middle = np.sqrt(low * high) if high > 0 and np.isfinite(low) else np.exp(np.mean(np.log(np.abs(w))))
        targets = (float(middle), float(middle))
    sides: list[list[_Direction]] = []
    for target, beyond in zip(targets, (np.greater, np.less), strict=True):
        outside = [np.flatnonzero((np.sign(w) == sign) & beyond(np.abs(w), target)) for sign in (1, -1)]
        directions: list[_Direction] = []
        for i in range(max(map(len, outside))):
            here = [members[i] for members in outside if i < len(members)]
            if len(here) == 1:
                directions.append((target / abs(w[here[0]]), vectors[:, here[0]]))
                continue
            a, b = w[here[0]], -w[here[1]]
            c = (a * b - target**2) / (a * b)
            cosine = np.clip(((a - b) / c + b) / (a + b), 0, 1)  # squared
            x = np.sqrt(cosine) * vectors[:, here[0]] + np.sqrt(1 - cosine) * vectors[:, here[1]]
            directions.append((1 - c, x))
        sides.append(directions)
    return 1.0, sides[0], sides[1]


def _factors(
    below: list[_Direction], above: list[_Direction], n: int, r: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return U and V, (n, r), with ``(I + U V^T)^T (I + U V^T)`` as the directions say.

    In the plane of a direction with ``σ_1^2 < 1`` and one with ``σ_2^2 > 1``, ``R diag(σ_1, σ_2)`` has the
    right P for any rotation R, and differs from I by rank 1 where ``cos = (1 + σ_1 σ_2)/(σ_1 + σ_2)``.
    """
    u, v = np.zeros((n, r)), np.zeros((n, r))
    for j in range(max(len(below), len(above))):
        plane = [side[j] for side in (below, above) if j < len(side)]
        q = np.diag(np.sqrt([value for value, _ in plane]))
        if len(plane) == 2:
            cosine = (1 + q[0, 0] * q[1, 1]) / (q[0, 0] + q[1, 1])
            sine = np.sqrt(max(0.0, (1 - cosine) * (1 + cosine)))
            q = np.array([[cosine, -sine], [sine, cosine]]) @ q
        left, size, right = np.linalg.svd(q - np.eye(len(plane)))
        basis = np.stack([vector for _, vector in plane], axis=1)
        u[:, j] = basis @ left[:, 0] * np.sqrt(size[0])
        v[:, j] = basis @ right[0] * np.sqrt(size[0])
    return u, v


def _levels(w: np.ndarray, r: int) -> tuple[float, float]:
    """Return the levels (low, high) that rank r leaves: the (r+1)-th from either end, of both signs."""
    parts = [np.sort(np.abs(w[np.sign(w) == sign])) for sign in (1, -1)]
    high = max((part[-1 - r] for part in parts if part.size > r), default=0.0)
    low = min((part[r] for part in parts if part.size > r), default=np.inf)
    return float(low), float(high)


def _bulk_scale(h: np.ndarray, top: int, bottom: int) -> float:
    """Return ρ^2 for h descending with `top` and `bottom` of them taken out."""
    bulk = h[top : h.size - bottom]
    if bulk.size:
        return float(1 / np.sqrt(np.mean(bulk**2)))
    return float(1 / np.sqrt(h[top - 1] * h[min(top, h.size - 1)]))


def _after(h: np.ndarray, top: int, bottom: int) -> tuple[float, float, float]:
    """Return condition number, spread and criterion once `top` and `bottom` of h, descending, are made 1."""
    bulk = h[top : h.size - bottom]
    left = (
        np.concatenate([bulk * _bulk_scale(h, top, bottom), np.ones(top + bottom)])
        if bulk.size
        else np.ones(1)
    )
    criterion = 2 * (np.sum(h[:top]) + np.sum(h[h.size - bottom :]) + np.sqrt(bulk.size * np.sum(bulk**2)))
    return condition_number(left), spread(left), float(criterion)


def usable_ranks(ranks: Sequence[int], n: int) -> list[int]:
    """Return the ranks below n, ascending, each once, or raise ValueError if there are none."""
    for r in ranks:
        require_count("ranks", r, 0)
    chosen = sorted({int(r) for r in ranks if r < n})
    if not chosen:
        raise ValueError(f"`ranks` must hold a rank below n = {n}, got {list(ranks)}; choose smaller ones")
    return chosen
