"""The best P of a family on one Hessian, and what it leaves: each found once, whichever study asks.

The criterion's least value over a family is what a fit of it tends to, so families can be compared before
anything is fitted. It is exact for the groups of Theorem 3.1 (``P*_O = ((H^2)_OO)^{-1/2}`` on every orbit
O), for Kronecker products, and for `Blocks` of these, of which each sees ``M_bb = H_bb^2 + sum_c H_bc
H_cb``. For ``Q = (I + U V^T) diag(d)`` it is searched for up to n = `SEARCH_LIMIT`. Everything else is fitted
to products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import array_api_compat
import numpy as np

import psgd_core as psgd
from psgd_core.preconditioners import OrbitPreconditioner

from ..arrays import Array, rounding, to_host
from ..checks import require_count
from ..factors import best_factors
from .checks import require_invertible
from .exact import eigenvalues
from .fitting import Pairs, draw, settle
from .operators import (
    HessianOperator,
    as_operator,
)
from .preconditioned import preconditioned

SEARCH_LIMIT = 256
"""Largest n at which the best ``(I + U V^T) diag(d)`` is searched for: a few seconds."""

STARTS, ITERATIONS, UPDATES = 1, 300, 60
"""Of L-BFGS, and of natural steps, in that search."""

_FREE: dict[str, Literal["dense", "diagonal"]] = {
    "dense": "dense",
    "triangular": "dense",
    "affine": "dense",
    "diagonal": "diagonal",
}
"""The factors of Kronecker products whose P has a closed form, and what it may be."""


class Left(NamedTuple):
    """What a P leaves of a Hessian."""

    values: np.ndarray  # (n,) eigenvalues of P H, ascending, on the host
    criterion: float  # tr(P H^2 + P^{-1})
    how: str  # "exact", "search", "given", or how many products it was fitted to
    numbers: int  # that Q holds; 0 where that is not known


class Families:
    """The best P of families on one Hessian.

    Parameters
    ----------
    hessian : HessianOperator or array, shape (n, n)
        Invertible; made dense.
    rng : numpy.random.Generator, optional
        For fits, all to the same pairs.
    products : int
        Hessian-vector products of a fit.
    updates : int
        Of a fit.
    """

    def __init__(
        self, hessian: HessianOperator | Array, rng: Any = None, products: int = 300, updates: int = 50
    ) -> None:
        self.op = as_operator(hessian).densified()
        self.values = to_host(eigenvalues(self.op)).astype(np.float64)
        require_invertible(self.op.name, self.values, rounding(self.op.like))
        self.products = require_count("products", products, 0)
        self._rng, self._updates = rng, require_count("updates", updates)
        self._pairs: Pairs | None = None
        self._best: dict[Any, Left] = {}
        self._fitted: dict[Any, Left] = {}

    @property
    def floor(self) -> float:
        """The criterion's minimum over all P, ``2 tr |H|``."""
        return 2 * float(np.sum(np.abs(self.values)))

    def plain(self) -> Left:
        """Return what the best multiple of the identity leaves: H itself."""
        unit = float(np.max(np.abs(self.values)))
        size = unit * float(np.sqrt(np.sum((self.values / unit) ** 2)))
        return Left(self.values, 2 * self.op.n**0.5 * size, "exact", 1)

    def best(self, family: psgd.Preconditioner) -> Left:
        """Return what the best P of a preconditioner's family leaves."""
        if family not in self._best:
            self._best[family] = self._find(family)._replace(numbers=numbers_of(family, self.op.n))
        return self._best[family]

    def fitted(self, family: psgd.Preconditioner) -> Left:
        """Return what a preconditioner leaves that is fitted to products; see `fit`."""
        if family not in self._fitted:
            if self._pairs is None:
                if self._rng is None:
                    raise TypeError(
                        f"`rng` must be a numpy.random.Generator where {label_of(family)} is fitted, got "
                        "None; pass numpy.random.default_rng(seed)"
                    )
                self._pairs = draw(self.op, self._rng, self.products)
            state = settle(family, self.op, self._pairs, updates=self._updates)
            found = self.given(family, state)
            self._fitted[family] = found._replace(how=f"{self.products} products")
        return self._fitted[family]

    def given(self, preconditioner: psgd.Preconditioner | Array, state: Any = None) -> Left:
        """Return what a fitted preconditioner, or a matrix P, leaves."""
        values = to_host(eigenvalues(preconditioned(self.op, preconditioner, state))).astype(np.float64)
        h = self.op.dense()
        xp = array_api_compat.array_namespace(h)
        if isinstance(preconditioner, psgd.Preconditioner):
            one = xp.eye(self.op.n, dtype=h.dtype, device=array_api_compat.device(h))
            q, back = preconditioner.apply(state, h), preconditioner.solve_transpose(state, one)
        else:
            root = psgd.convergence.factor(preconditioner)
            q, back = root @ h, xp.linalg.inv(root)
        numbers = numbers_of(preconditioner, self.op.n)
        return Left(values, float(xp.sum(q * q)) + float(xp.sum(back * back)), "given", numbers)

    def _find(self, family: psgd.Preconditioner) -> Left:
        h, n = self.op.dense(), self.op.n
        subgroup = subgroup_of(family, n)
        if subgroup is not None:
            return Left(*after_group(h, subgroup), "exact", 0)
        p = minimizer(family, h)
        if p is not None:
            return self.given(p)._replace(how="exact")
        if isinstance(family, psgd.LowRank):
            require_count("rank", family.rank, 0, n - 1)
            if family.diagonal == "right" and n <= SEARCH_LIMIT:
                return self._searched(family.rank)
            if family.diagonal == "right":
                family = psgd.LowRank(family.rank, geometry="natural")
        return self.fitted(family)

    def _searched(self, r: int) -> Left:
        """Return what the best ``(I + U V^T) diag(d)`` that is found leaves.

        By L-BFGS, and by natural steps on the exact expectation: each finds minima that the other misses.
        """
        n = self.op.n
        h, one = to_host(self.op.dense()).astype(np.float64), np.eye(n)
        found = best_factors(one, h, r, np.random.default_rng(0), starts=STARTS, maxiter=ITERATIONS)
        q, value = found.factors.apply(one), found.value
        p, v = psgd.LowRank(r, geometry="natural"), n**0.5 * one
        state = p.init(n, like=h, pairs=(v, h @ v))
        for _ in range(UPDATES):
            state = p.update(state, v, h @ v, 0.9)
        natural = float(p.criterion(state, v, h @ v))
        if natural < value:
            q, value = to_host(p.apply(state, one)), natural
        return Left(np.linalg.eigvalsh(q @ h @ q.T), value, "search", 0)


def tails(values: np.ndarray) -> tuple[float, float]:
    """Return the largest ``|λ|`` over the median, and the median over the smallest; their product is κ."""
    magnitudes = np.abs(values)
    middle = float(np.exp(np.median(np.log(magnitudes))))
    return float(np.max(magnitudes)) / middle, middle / float(np.min(magnitudes))


def subgroup_of(family: psgd.Preconditioner, n: int) -> psgd.PermutationSubgroup | None:
    """Return K where the family is a group of Theorem 3.1, else None."""
    if isinstance(family, OrbitPreconditioner | psgd.ClosedForm):
        return family.group.subgroup(n)
    if isinstance(family, psgd.LowRank) and family.rank == 0:
        return psgd.PermutationSubgroup.trivial(n)
    return None


def minimizer(family: psgd.Preconditioner, h: Array, noise: Array | None = None) -> Array | None:
    """Return the criterion's exact minimiser over a family, dense; None where no closed form is known.

    Parameters
    ----------
    family : Preconditioner
    h : array, shape (n, n)
    noise : array, shape (n, n), optional
        What is added to ``H^2``.
    """
    n = h.shape[0]
    subgroup = subgroup_of(family, n)
    if subgroup is not None:
        return psgd.criterion.group_minimizer(h, subgroup.orbit_index, noise)
    if isinstance(family, psgd.Kronecker):
        factors = ["dense" if s == 1 else k for s, k in zip(family.shape, family.kinds, strict=True)]
        if not set(factors) <= set(_FREE):
            return None
        kinds = tuple(_FREE[kind] for kind in factors)
        return psgd.criterion.kronecker_minimizer(h, family.shape, kinds, noise)
    if isinstance(family, psgd.Blocks):
        return _of_blocks(family, h, noise)
    return None


def _of_blocks(family: psgd.Blocks, h: Array, noise: Array | None) -> Array | None:
    """Return the minimiser over a direct product: each block's own, the others being noise to it."""
    xp, device = array_api_compat.array_namespace(h), array_api_compat.device(h)
    if family.n != h.shape[0]:
        raise ValueError(f"`Blocks` must be of {h.shape[0]} parameters as the Hessian, got {family.n}")
    rows, start = [], 0
    for size, part in family.parts:
        here = slice(start, start + size)
        others = xp.concat([h[here, :start], h[here, start + size :]], axis=1)
        around = others @ others.T
        p = minimizer(part, h[here, here], around if noise is None else around + noise[here, here])
        if p is None:
            return None
        left, right = (
            xp.zeros((size, columns), dtype=h.dtype, device=device)
            for columns in (start, h.shape[0] - start - size)
        )
        rows.append(xp.concat([left, p, right], axis=1))
        start += size
    return xp.concat(rows, axis=0)


def after_group(h: Array, subgroup: psgd.PermutationSubgroup) -> tuple[np.ndarray, float]:
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
        index = np.array(members).T  # (c, s), a copy: torch warns of read-only arrays
        count, size = index.shape
        cells = xp.asarray((index[:, :, None] * n + index[:, None, :]).reshape(-1), device=device)
        rows = xp.asarray(index.reshape(-1), device=device)
        blocks = xp.reshape(xp.take(flat, cells), (count, size, size))
        right = xp.reshape(xp.take(x, rows, axis=0), (count, size, n))
        parts.append(xp.reshape(xp.linalg.solve(blocks, right), (count * size, n)))
        places.append(index.reshape(-1))
    back = xp.asarray(np.argsort(np.concatenate(places)), device=device)
    return xp.take(xp.concat(parts, axis=0), back, axis=0)


def numbers_of(family: psgd.Preconditioner | Array, n: int) -> int:
    """Return how many numbers Q holds, n^2 for a matrix; 0 where that is not known."""
    if not isinstance(family, psgd.Preconditioner):
        return n * n
    subgroup = subgroup_of(family, n)
    if subgroup is not None:
        return int(np.sum(subgroup.orbit_sizes**2))
    if isinstance(family, psgd.Blocks):
        return sum(numbers_of(part, size) for size, part in family.parts)
    if isinstance(family, psgd.LowRank):
        return n * (2 * family.rank + 1)
    if isinstance(family, psgd.Kronecker):
        return sum(int(np.prod(x.shape)) for x in family.init(n, like=np.zeros(1)).factors)
    return 0


def label_of(candidate: Any) -> str:
    """Return what a family is called in tables."""
    if isinstance(candidate, psgd.LowRank):
        return f"LowRank({candidate.rank})"
    if isinstance(candidate, psgd.Kronecker):
        return f"Kronecker({'x'.join(map(str, candidate.shape))})"
    if isinstance(candidate, psgd.Blocks):
        names = [type(part).__name__ for _, part in candidate.parts]
        return f"Blocks({', '.join(f'{names.count(name)} {name}' for name in dict.fromkeys(names))})"
    if isinstance(candidate, psgd.Sparse):
        return f"Sparse(orbits of {int(np.max(candidate.subgroup.orbit_sizes))})"
    return type(candidate).__name__
