"""Curvature matrices of a model's loss besides the Hessian: Gauss-Newton and Fisher, all as ``J^T B J``.

A loss ``L(θ) = ℓ(z(θ), y)`` has the Hessian ``J^T ℓ'' J + sum_k ℓ'_k ∇² z_k``, J the Jacobian of the
outputs z. The matrices here leave the second term out, and differ in B, which is block-diagonal over the
examples:

- Gauss-Newton (GGN): ``B = ℓ''``, positive semidefinite where the loss is convex in the outputs.
- Fisher, with targets drawn from the model's own distribution: ``B = E[s s^T]`` per example, s the gradient
  of its negative log-likelihood in z. Where z are natural parameters (those of `Likelihood`) that is ``ℓ''``
  whatever the targets: the exact (type-2) Fisher matrix is the GGN. Monte Carlo takes a few s instead.
- The empirical Fisher matrix: s from the targets that are there. It is not an estimate of the Fisher matrix.

**Scale.** All are those of the loss as given: with a mean over N examples ``(1/N) sum_i J_i^T B_i J_i``, with
a sum the same without 1/N, and a loss that is half or twice a negative log-likelihood scales them likewise.
Over batches, means are weighted by the number of examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import array_api_compat
import numpy as np

from ..arrays import Array, put, rounding
from ..checks import require_choice, require_count

Likelihood = Literal["categorical", "bernoulli", "normal"]
"""What outputs are natural parameters of: logits of classes along the last axis (cross-entropy), logits of
independent yes and no, or means of independent normal numbers (squared error)."""


class Head(NamedTuple):
    """A loss as a function of the outputs of one batch."""

    gradient: Callable[[Array], Array]  # of z, in the shape of z
    product: Callable[[Array, Array], Array]  # of the second derivative at z with u
    mean: bool  # whether it is a mean over the examples of the batch, else a sum


@dataclass(frozen=True)
class Hessian:
    """The Hessian of the loss."""


@dataclass(frozen=True)
class GaussNewton:
    """The generalised Gauss-Newton matrix, ``J^T ℓ'' J``."""

    def directions(self, z: Array, head: Head, batch: int) -> None:
        """Return None: B is the second derivative of the loss itself."""


@dataclass(frozen=True)
class Fisher:
    """The Fisher matrix: exact, or by Monte Carlo.

    Parameters
    ----------
    likelihood : {"categorical", "bernoulli", "normal"}
        Whose negative log, times any constant, the loss is; that is checked.
    samples : int, optional
        Draw so many targets for each example, from the model's distribution. None is exact.
    seed : int
        Of the draws, which are the same in every product.
    """

    likelihood: Likelihood
    samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("likelihood", self.likelihood, get_args(Likelihood))
        if self.samples is not None:
            require_count("samples", self.samples)
        require_count("seed", self.seed, 0)

    def directions(self, z: Array, head: Head, batch: int) -> Array | None:
        """Return the scaled gradients of drawn targets, (samples, examples, ...); None where it is exact."""
        rng = np.random.default_rng([self.seed, batch])
        factor = self._factor(z, head, put(rng.standard_normal(z.shape), z))
        if self.samples is None:
            return None
        xp = array_api_compat.array_namespace(z)
        scores = xp.stack([self._score(z, rng) for _ in range(self.samples)])
        return (factor / self.samples) ** 0.5 * scores

    def _factor(self, z: Array, head: Head, u: Array) -> float:
        """Return what multiple of the negative log-likelihood the loss is, by their second derivatives."""
        xp = array_api_compat.array_namespace(z)
        own, found = self._metric(z, u), head.product(z, u)
        size = float(xp.max(xp.abs(own)))
        unit = own / size if size > 0 else own
        factor = float(xp.sum(found * unit)) / float(xp.sum(unit * unit)) / size if size > 0 else 0.0
        off, largest = float(xp.max(xp.abs(found - factor * own))), float(xp.max(xp.abs(found)))
        if factor < 0 or off > rounding(z) ** 0.5 * largest:
            raise ValueError(
                f"`loss` must be the negative log-likelihood of likelihood={self.likelihood!r}, times a "
                "constant, for its Fisher matrix, got one with another second derivative in the outputs; "
                "take GaussNewton()"
            )
        return factor

    def _metric(self, z: Array, u: Array) -> Array:
        """Return the Fisher matrix in z times u."""
        xp = array_api_compat.array_namespace(z)
        if self.likelihood == "normal":
            return u
        if self.likelihood == "bernoulli":
            p = _sigmoid(xp, z)
            return p * (1 - p) * u
        p = _softmax(xp, z)
        return p * (u - xp.sum(p * u, axis=-1, keepdims=True))

    def _score(self, z: Array, rng: np.random.Generator) -> Array:
        """Return the gradient of the negative log-likelihood of drawn targets in z."""
        xp = array_api_compat.array_namespace(z)
        if self.likelihood == "normal":
            return put(rng.standard_normal(z.shape), z)
        if self.likelihood == "bernoulli":
            p = _sigmoid(xp, z)
            return p - xp.astype(put(rng.random(z.shape), z) < p, z.dtype)
        p = _softmax(xp, z)
        below = xp.cumulative_sum(p, axis=-1) <= put(rng.random((*z.shape[:-1], 1)), z)
        drawn = xp.sum(xp.astype(below, xp.int32), axis=-1, keepdims=True)
        last = z.shape[-1] - 1  # a sum of probabilities may round to less than 1
        classes = xp.reshape(
            xp.arange(last + 1, device=array_api_compat.device(z)), (1,) * (z.ndim - 1) + (-1,)
        )
        return p - xp.astype(classes == xp.minimum(drawn, xp.full_like(drawn, last)), z.dtype)


@dataclass(frozen=True)
class EmpiricalFisher:
    """The mean (or sum) of ``g_i g_i^T``, g_i the gradient of an example's loss, with its own target."""

    def directions(self, z: Array, head: Head, batch: int) -> Array:
        """Return the scaled gradients of the examples, (1, examples, ...)."""
        c = head.gradient(z)
        return (z.shape[0] if head.mean else 1) ** 0.5 * c[None, ...]


Curvature = Hessian | GaussNewton | Fisher | EmpiricalFisher
"""What `from_torch_model` and `from_jax_model` make an operator of."""


def require_curvature(curvature: Any) -> None:
    """Raise TypeError unless it is one of `Curvature`."""
    if not isinstance(curvature, Curvature):
        raise TypeError(
            "`curvature` must be Hessian(), GaussNewton(), Fisher(likelihood) or EmpiricalFisher() of "
            f"psgd_analysis.spectrum, got {curvature!r}; choose one of these"
        )


def half_squares(z: Array, directions: Array) -> Array:
    """Return ``0.5 sum_{k, i} (s_ki · z_i)^2``, whose second derivative is ``sum s s^T``; 0-d.

    Parameters
    ----------
    z : array, shape (examples, ...)
    directions : array, shape (samples, examples, ...)
    """
    xp = array_api_compat.array_namespace(z)
    rows = (directions.shape[1], -1)
    inner = xp.sum(xp.reshape(directions, (directions.shape[0], *rows)) * xp.reshape(z, rows)[None], axis=-1)
    return 0.5 * xp.sum(inner * inner)


def _sigmoid(xp, z: Array) -> Array:
    small = xp.exp(-xp.abs(z))
    return xp.where(z >= 0, 1 / (1 + small), small / (1 + small))


def _softmax(xp, z: Array) -> Array:
    p = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
    return p / xp.sum(p, axis=-1, keepdims=True)
