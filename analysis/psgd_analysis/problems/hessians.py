"""Hessians of known structure, to check that a preconditioner fitted on them finds its exact target.

Without noise the criterion's minimiser over GL(n) is ``P* = |H|^{-1}`` (appendix A); a smaller group reaches
it only if it holds H. The families here differ in which group that is: `dense` needs all of GL(n),
`in_group` fits one group of Theorem 3.1, `low_rank_target` one product of diagonal and ``I + U V^T``
(section D), `two_tails` the scalar times ``I + U V^T`` of Theorem 3.2, and `drifting` moves while it is
being fitted.

Matrices are built on the host in float64 from a `numpy.random.Generator`, then converted once to the
library, dtype and device of ``like`` (NumPy float64 without it). Cost O(n^3) at most, memory O(n^2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays import Array, put
from ..checks import require_choice, require_count
from .spectra import Shape, haar, random_signs, spectrum


class LowRankTarget(NamedTuple):
    """A Hessian and the factors of a Q with ``Q^T Q = |H|^{-1}``."""

    hessian: Array  # (n, n)
    u: Array  # (n, r)
    v: Array  # (n, r)
    d: Array  # (n,)


def dense(
    n: int,
    kappa: float,
    rng: np.random.Generator,
    *,
    kind: Shape = "log",
    indefinite: bool = False,
    like: Array | None = None,
) -> Array:
    """Return an (n, n) Hessian with a `spectrum` and Haar-distributed eigenvectors.

    It lies in no group smaller than GL(n). In float32 the rounding of the entries, about 6e-8 of the largest
    eigenvalue, perturbs the smallest ones: keep `kappa` below 1e5 there.
    """
    eigenvalues = spectrum(n, kappa, rng, kind=kind, indefinite=indefinite)
    return put(_assemble(haar(n, rng), eigenvalues), like)


def in_group(
    orbit_index: Sequence[Any],
    n: int,
    kappa: float,
    rng: np.random.Generator,
    *,
    kind: Shape = "log",
    indefinite: bool = False,
    like: Array | None = None,
) -> Array:
    """Return a Hessian that lies in the group of Theorem 3.1 whose permutation subgroup has these orbits.

    That group is the direct product of GL(|O|) over the orbits O, so H has one dense symmetric block per
    orbit and zeros elsewhere. The blocks share one `spectrum` of condition number `kappa`, dealt out so that
    each block spans as much of it as its size allows: with the kind "log", one of s elements has a condition
    number of about ``kappa^(1 - 1/s)``. No block of several elements is diagonal.

    Parameters
    ----------
    orbit_index : sequence of int arrays of shape (s, count)
        The orbits' members, one orbit per column, one array per orbit size s.
    n : int
        Number of parameters; the orbits partition ``range(n)``.
    indefinite : bool
        Both signs occur within each block of more than one element, and across those of one.

    Raises
    ------
    ValueError
        If the orbits do not partition ``range(n)``, or as in `spectrum`.
    """
    orbits = [np.asarray(index) for index in orbit_index]
    members = np.concatenate([index.ravel() for index in orbits]) if orbits else np.zeros(0, dtype=int)
    if not np.array_equal(np.sort(members), np.arange(n)):
        raise ValueError(
            f"`orbit_index` must hold each of 0 ... {n - 1} exactly once, got {members.size} members; "
            "pass the orbits of a permutation group on n elements"
        )
    # A slot is one eigenvalue of one block. Sorting the slots by their place within the block spreads the
    # spectrum over every block; blocks at the same place come in one random order, the same at every place,
    # so that the distance between two eigenvalues of a block is about the same for all blocks.
    shapes = [index.shape for index in orbits]
    place = np.concatenate([np.repeat((np.arange(s) + 0.5) / s, count) for s, count in shapes])
    priority = np.concatenate([np.tile(rng.random(count), s) for s, count in shapes])
    order = np.lexsort((priority, place))
    dealt = np.empty(n)
    dealt[order] = spectrum(n, kappa, rng, kind=kind)
    # fill in the blocks
    h = np.zeros((n, n))
    start = 0
    for index in orbits:
        s, count = index.shape
        eigenvalues = dealt[start : start + s * count].reshape(s, count).T
        start += s * count
        if indefinite:
            flips = [random_signs(count, rng)] if s == 1 else [random_signs(s, rng) for _ in range(count)]
            eigenvalues = eigenvalues * np.stack(flips).reshape(count, s)
        columns = index.T
        h[columns[:, :, None], columns[:, None, :]] = _assemble(_rotations(s, count, rng), eigenvalues)
    return put(h, like)


def low_rank_target(
    n: int,
    r: int,
    kappa: float,
    rng: np.random.Generator,
    *,
    diagonal: Literal["right", "left"] = "right",
    like: Array | None = None,
) -> LowRankTarget:
    """Return a positive definite H whose inverse is exactly ``Q^T Q`` for a low-rank Q of section D or E.1.

    Parameters
    ----------
    n, r : int
        Size and rank, ``0 <= r < n``.
    kappa : float
        Condition number of H, met exactly: diag(d) is given half of it (in logarithm; all if r = 0) and the
        size of U and V is then found by bisection.
    diagonal : "right" or "left"
        ``Q = (I + U V^T) diag(d)`` (section D) or ``Q = diag(d) (I + U V^T)`` (section E.1).

    Raises
    ------
    ValueError
        For r outside 0 ... n - 1, an unknown `diagonal`, or as in `spectrum`.
    """
    require_choice("diagonal", diagonal, ("right", "left"))
    if require_count("r", r, 0) >= require_count("n", n):
        raise ValueError(f"`r` must be below `n`, {n}, got {r}; lower it")
    # the factors, of a size that gives H its condition number
    d = rng.permutation(np.sqrt(spectrum(n, float(kappa) ** (0.5 if r else 1.0), rng)))
    u, v = haar(n, rng, r), haar(n, rng, r)

    def factor(size: float) -> np.ndarray:
        q = np.eye(n) + size * (u @ v.T)
        return q * d if diagonal == "right" else d[:, None] * q

    size = _first_crossing(lambda t: float(np.linalg.cond(factor(t))) ** 2, kappa) if r else 0.0
    inverse = np.linalg.inv(factor(size))
    u, v = np.sqrt(size) * u, np.sqrt(size) * v
    return LowRankTarget(put(_symmetric(inverse @ inverse.T), like), put(u, like), put(v, like), put(d, like))


def two_tails(
    n: int,
    leading: int,
    trailing: int,
    rng: np.random.Generator,
    *,
    gap: float = 100.0,
    rho: float = 1.0,
    indefinite: bool = False,
    like: Array | None = None,
) -> LowRankTarget:
    """Return a Hessian with a flat bulk and both tails, whose ``|H|^{-1}`` is exactly ``Q^T Q``, Theorem 3.2.

    ``|H|`` has the eigenvalue ``1/rho^2``, except for `leading` ones up to `gap` times larger and `trailing`
    ones up to `gap` times smaller (geometrically spaced), on random directions. ``Q = rho (I + U V^T)`` needs
    only rank ``max(leading, trailing)``, because a rank-1 term moves one eigenvalue of P up and one down. The
    form ``rho^2 I + U U^T`` cannot hold it: its eigenvalues are never below ``rho^2``, so it misses every
    leading one.

    In a plane where P should have the eigenvalues ``σ1^2 > 1 > σ2^2``, ``Q = R(θ) diag(σ1, σ2)`` has the
    right P for any rotation R, and differs from I by rank 1 when ``det(Q - I) = σ1 σ2 + 1 - (σ1 + σ2) cos θ``
    is 0.

    Parameters
    ----------
    leading, trailing : int
        Numbers of eigenvalues of |H| above and below the bulk; together at most n.
    gap : float
        How far the outermost are from the bulk, above 1.
    rho : float
        Scale, positive.
    indefinite : bool
        Give the tails (not the bulk) random signs.

    Returns
    -------
    LowRankTarget
        With `d` constant, equal to `rho`.

    Raises
    ------
    ValueError
        For counts that do not fit in n, a `gap` not above 1, or a `rho` not above 0.
    """
    require_count("n", n)
    tails = require_count("leading", leading, 0) + require_count("trailing", trailing, 0)
    if tails > n:
        raise ValueError(f"`leading` + `trailing` must be at most `n`, {n}, got {tails}; lower them")
    if not (np.isfinite(gap) and gap > 1):
        raise ValueError(f"`gap` must be finite and above 1, got {gap!r}; raise it")
    if not (np.isfinite(rho) and rho > 0):
        raise ValueError(f"`rho` must be finite and positive, got {rho!r}; raise it")
    # H: the bulk, with other eigenvalues on random directions
    up = float(gap) ** (np.arange(1, leading + 1) / max(leading, 1))
    down = float(gap) ** (-np.arange(1, trailing + 1) / max(trailing, 1))
    basis = haar(n, rng, tails)
    magnitudes = np.concatenate([up, down])
    signs = random_signs(tails, rng) if indefinite and tails else np.ones(tails)
    hessian = np.eye(n) + (basis * (signs * magnitudes - 1.0)) @ basis.T

    # Q: a column per pair of directions, one of either tail
    rank = max(leading, trailing)
    u, v = np.zeros((n, rank)), np.zeros((n, rank))
    sigma = 1.0 / np.sqrt(magnitudes)
    for j in range(rank):
        plane = [i for i, there in ((j, j < leading), (leading + j, j < trailing)) if there]
        q = np.diag(sigma[plane])
        if len(plane) == 2:
            cosine = (1.0 + q[0, 0] * q[1, 1]) / (q[0, 0] + q[1, 1])
            sine = np.sqrt((1.0 - cosine) * (1.0 + cosine))
            q = np.array([[cosine, -sine], [sine, cosine]]) @ q
        left, size, right = np.linalg.svd(q - np.eye(len(plane)))
        u[:, j] = basis[:, plane] @ left[:, 0] * np.sqrt(size[0])
        v[:, j] = basis[:, plane] @ right[0] * np.sqrt(size[0])
    h = _symmetric(hessian) / rho**2
    return LowRankTarget(put(h, like), put(u, like), put(v, like), put(np.full(n, rho), like))


def drifting(hessian: Array, rng: np.random.Generator, *, scale: float = 0.1) -> Iterator[Array]:
    """Yield ``H_0``, ``H_1``, ... with ``H_{t+1} = H_t + u u^T``, endlessly, on the library of `hessian`.

    u is Gaussian with ``E|u|^2 = scale^2``. The target moves, so a preconditioner must keep up: a running
    mean of all the past, such as the closed form ``(E[hh^T])^{-1/2}``, cannot.
    """
    n = hessian.shape[0]
    while True:
        yield hessian
        u = put(rng.standard_normal(n) * (scale / np.sqrt(n)), hessian)
        hessian = hessian + u[:, None] * u[None, :]


def _rotations(s: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` random orthogonal (s, s) matrices, of size 2 at least 22.5 degrees off the axes."""
    if s != 2:
        return haar(s, rng, batch=(count,))
    angle = rng.choice([-1.0, 1.0], count) * rng.uniform(np.pi / 8, 3 * np.pi / 8, count)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)


def _assemble(vectors: np.ndarray, eigenvalues: np.ndarray) -> np.ndarray:
    return _symmetric((vectors * eigenvalues[..., None, :]) @ np.swapaxes(vectors, -1, -2))


def _symmetric(h: np.ndarray) -> np.ndarray:
    return 0.5 * (h + np.swapaxes(h, -1, -2))


def _first_crossing(function: Callable[[float], float], level: float) -> float:
    """Return where a continuous function that starts below `level` at 0 first reaches it, to rounding."""
    low, high = 0.0, 0.01
    while function(high) < level:
        low, high = high, high * 1.1
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if function(middle) < level else (low, middle)
    return high
