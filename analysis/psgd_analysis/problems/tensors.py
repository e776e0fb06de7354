"""Tensor rank decomposition: fit a tensor of order three by R rank-one terms.

    f(A, B, C) = |S|^2 / 2,    S_ijk = Σ_r A_ir B_jr C_kr - T_ijk,

x holds A (I, R), B (J, R) and C (K, R), flattened in C order one after another. With the Khatri-Rao product
``B ⊙ C``, rows b_j * c_k, the gradient with respect to A is ``S_(1) (B ⊙ C)``, and so on. At a minimum the
Hessian has at least 2 R zero eigenvalues, because a, b, c of one term can be rescaled against each other, and
many tiny ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from ..arrays import Array, put
from ..checks import require_count
from .base import Problem

_MODES = ((0, 1, 2), (1, 0, 2), (2, 0, 1))
"""For each mode, the axes of its matricisation: the mode, then the other two."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TensorRank(Problem):
    """Rank decomposition of `tensor`; made by `tensor_rank`.

    Attributes
    ----------
    tensor : array, shape (I, J, K)
    rank : int
    """

    tensor: Array
    rank: int

    def _factors(self, x: Array) -> list[Array]:
        """Return A, B, C of x of shape (n,), or of probes of shape (k, n) with a leading axis k."""
        xp = array_api_compat.array_namespace(x)
        factors, start = [], 0
        for size in self.tensor.shape:
            stop = start + size * self.rank
            factors.append(xp.reshape(x[..., start:stop], (*x.shape[:-1], size, self.rank)))
            start = stop
        return factors

    def _residual(self, factors: list[Array]) -> Array:
        return _outer_sum(factors, 0, factors[0]) - self.tensor

    def _data(self) -> Array:
        return self.tensor

    def _value(self, x: Array, sample: Any) -> Array:
        residual = self._residual(self._factors(x))
        return 0.5 * array_api_compat.array_namespace(x).sum(residual * residual)

    def _gradient(self, x: Array, sample: Any) -> Array:
        xp = array_api_compat.array_namespace(x)
        factors = self._factors(x)
        residual = self._residual(factors)
        slopes = [_unfold(residual, mode) @ _khatri_rao(*_others(factors, mode)) for mode in range(3)]
        return xp.concat([xp.reshape(slope, (-1,)) for slope in slopes])

    def _hvp(self, x: Array, v: Array, sample: Any) -> Array:
        xp = array_api_compat.array_namespace(x)
        factors, moves = self._factors(x), self._factors(v.T)
        # change of the tensor along each direction, then the product rule by mode
        residual = self._residual(factors)
        change = sum(_outer_sum(factors, mode, moves[mode]) for mode in range(3))  # (k, I, J, K)
        parts = []
        for mode in range(3):
            (b, c), (db, dc) = _others(factors, mode), _others(moves, mode)
            product = _unfold(change, mode) @ _khatri_rao(b, c)
            product = product + _unfold(residual, mode) @ (_khatri_rao(db, c) + _khatri_rao(b, dc))
            parts.append(xp.reshape(product, (v.shape[1], -1)))
        return xp.concat(parts, axis=1).T


def tensor_rank(
    shape: tuple[int, int, int] = (10, 15, 20),
    rank: int = 5,
    *,
    noise: float = 0.0,
    rng: np.random.Generator | int = 0,
    like: Array | None = None,
) -> TensorRank:
    """Return the decomposition of a random tensor of the given rank, with Gaussian factors.

    Parameters
    ----------
    shape : three ints
        I, J, K; n = (I + J + K) rank.
    rank : int
        R, of the tensor and of the fit.
    noise : float
        Deviation of the Gaussian noise added to the tensor. With 0 the minimum is 0, at the factors that it
        was made from (and their rescalings and permutations); otherwise it is not known.
    rng : numpy.random.Generator or int
        Draws the factors, the noise and the Gaussian start.

    Raises
    ------
    ValueError
        For a shape that is not three positive integers, a rank below 1, or negative noise.
    """
    if len(shape) != 3:
        raise ValueError(
            f"`shape` must have three sizes, got {len(shape)}; matrices and higher orders are left out"
        )
    sizes = [require_count("shape", size) for size in shape]
    require_count("rank", rank)
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"`noise` must be finite and at least 0, got {noise!r}; it is a deviation")
    generator = np.random.default_rng(rng)
    factors = [generator.standard_normal((size, rank)) for size in sizes]
    tensor = np.einsum("ir,jr,kr->ijk", *factors) + noise * generator.standard_normal(sizes)
    solution = np.concatenate([factor.ravel() for factor in factors])
    return TensorRank(
        name="tensor_rank",
        start=put(generator.standard_normal(solution.size), like),
        minimum=None if noise else 0.0,
        solution=None if noise else put(solution, like),
        tensor=put(tensor, like),
        rank=rank,
    )


def _others(factors: list[Array], mode: int) -> tuple[Array, Array]:
    _, second, third = _MODES[mode]
    return factors[second], factors[third]


def _khatri_rao(b: Array, c: Array) -> Array:
    """Return the rows ``b_j * c_k``: (..., J, R) and (..., K, R) to (..., J K, R)."""
    xp = array_api_compat.array_namespace(b)
    product = b[..., :, None, :] * c[..., None, :, :]
    return xp.reshape(product, (*product.shape[:-3], -1, product.shape[-1]))


def _unfold(tensor: Array, mode: int) -> Array:
    """Return the matricisation of a (batch of) tensor(s), (..., I, J, K) to (..., size of mode, the rest)."""
    xp = array_api_compat.array_namespace(tensor)
    batch = tensor.ndim - 3
    axes = (*range(batch), *(batch + axis for axis in _MODES[mode]))
    moved = xp.permute_dims(tensor, axes)
    return xp.reshape(moved, (*moved.shape[: batch + 1], -1))


def _outer_sum(factors: list[Array], mode: int, instead: Array) -> Array:
    """Return ``Σ_r a_r ∘ b_r ∘ c_r`` with `instead` (perhaps a batch) for the factor of `mode`."""
    xp = array_api_compat.array_namespace(instead)
    second, third = _others(factors, mode)
    flat = instead @ _khatri_rao(second, third).T
    folded = xp.reshape(flat, (*flat.shape[:-1], second.shape[0], third.shape[0]))
    batch = folded.ndim - 3
    back = [_MODES[mode].index(axis) for axis in range(3)]
    return xp.permute_dims(folded, (*range(batch), *(batch + axis for axis in back)))
