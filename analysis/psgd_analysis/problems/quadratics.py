"""Quadratics ``f(x) = (x - x*)^T H (x - x*) / 2`` with a prescribed spectrum, exact or stochastic.

The stochastic family is one of functions, so that a sample stands for a mini-batch:

    F(x; b, s) = f(x) + b^T (x - x*) + σ (x - x*)^T diag(s) (x - x*) / 2,

b Gaussian with covariance ``τ^2 I`` (gradient noise τ) and s random signs (Hessian noise σ). Then ``E F =
f``; a Hessian-vector product on a sample is ``(H + σ diag(s)) v``, so for probes with ``E[vv^T] = I`` the
criterion's M (eq. (4)) is exactly ``E[hh^T] = H^2 + σ^2 I``. Two gradients on the same sample differ by
exactly that product; on different samples also by the noise in b.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import array_api_compat
import numpy as np

from ..arrays import Array, put
from ..checks import require_choice, require_count
from . import hessians
from .base import Problem
from .spectra import Shape


class QuadraticSample(NamedTuple):
    """One random function of the family."""

    slope: Array  # (n,) b
    signs: Array  # (n,) s


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Quadratic(Problem):
    """A quadratic around `solution`.

    Attributes
    ----------
    multiply : callable
        H times (n, k).
    gradient_noise, hessian_noise : float
        τ and σ; both 0 for a deterministic function.
    """

    multiply: Callable[[Array], Array]
    gradient_noise: float = 0.0
    hessian_noise: float = 0.0

    @property
    def stochastic(self) -> bool:
        """Whether any noise is set."""
        return self.gradient_noise > 0 or self.hessian_noise > 0

    def draw(self, rng: np.random.Generator) -> QuadraticSample | None:
        """Return a sample (b, s), or None without noise."""
        if not self.stochastic:
            return None
        slope = self.gradient_noise * rng.standard_normal(self.n)
        return QuadraticSample(put(slope, self.start), put(rng.choice([-1.0, 1.0], self.n), self.start))

    def _data(self) -> Array:
        return self.start

    def _value(self, x: Array, sample: QuadraticSample | None) -> Array:
        offset = x - self.solution
        xp = array_api_compat.array_namespace(x)
        linear = 0.0 if sample is None else xp.sum(sample.slope * offset)
        return 0.5 * xp.sum(offset * self._hvp(x, offset[:, None], sample)[:, 0]) + linear

    def _gradient(self, x: Array, sample: QuadraticSample | None) -> Array:
        product = self._hvp(x, (x - self.solution)[:, None], sample)[:, 0]
        return product if sample is None else product + sample.slope

    def _hvp(self, x: Array, v: Array, sample: QuadraticSample | None) -> Array:
        product = self.multiply(v)
        return product if sample is None else product + self.hessian_noise * sample.signs[:, None] * v


def quadratic(
    n: int = 100,
    kappa: float = 1e3,
    *,
    kind: Shape = "log",
    mixing: Literal["haar", "reflections"] = "haar",
    gradient_noise: float = 0.0,
    hessian_noise: float = 0.0,
    rng: np.random.Generator | int = 0,
    like: Array | None = None,
) -> Quadratic:
    """Return a convex quadratic with a `hessians.spectrum` of condition number `kappa`, minimum 0.

    Parameters
    ----------
    kind : str
        Shape of the spectrum.
    mixing : "haar" or "reflections"
        Eigenvectors: Haar-distributed, H a dense matrix; or the product W of three random Householder
        reflections, ``H = W diag(λ) W^T``, O(n) memory and time for any n (but diagonal up to low rank).
    gradient_noise, hessian_noise : float
        τ and σ of the module's stochastic family, not negative.
    rng : numpy.random.Generator or int
        Draws H and the solution (Gaussian; the start is 0).

    Raises
    ------
    ValueError
        For negative noise, an unknown `mixing`, or as in `hessians.spectrum`.
    """
    require_choice("mixing", mixing, ("haar", "reflections"))
    generator = np.random.default_rng(rng)
    if mixing == "haar":
        multiply = _matrix(hessians.dense(n, kappa, generator, kind=kind, like=like))
    else:
        eigenvalues = put(hessians.spectrum(n, kappa, generator, kind=kind), like)
        axes = generator.standard_normal((3, n))
        multiply = _reflected(eigenvalues, put(axes / np.linalg.norm(axes, axis=1, keepdims=True), like))
    return _around(
        "quadratic", generator.standard_normal(n), multiply, gradient_noise, hessian_noise, like=like
    )


def quadratic_of(
    hessian: Array,
    *,
    gradient_noise: float = 0.0,
    hessian_noise: float = 0.0,
    rng: np.random.Generator | int = 0,
) -> Quadratic:
    """Return the quadratic with a given positive definite (n, n) Hessian, where that lives."""
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1]:
        raise ValueError(
            f"`hessian` must have shape (n, n), got {tuple(hessian.shape)}; pass a square matrix"
        )
    solution = np.random.default_rng(rng).standard_normal(hessian.shape[0])
    return _around("quadratic_of", solution, _matrix(hessian), gradient_noise, hessian_noise, like=hessian)


def hilbert(n: int = 10, *, like: Array | None = None) -> Quadratic:
    """Return the quadratic of the Hilbert matrix ``1 / (i + j - 1)``, minimum 0 at (1, ..., 1).

    Its condition number grows as ``e^{3.5 n}``: 1.6e13 for n = 10, so in float32 rounding makes it
    indefinite.
    """
    i = np.arange(1, require_count("n", n) + 1)
    matrix = put(1.0 / (i[:, None] + i[None, :] - 1.0), like)
    return _around("hilbert", np.ones(n), _matrix(matrix), like=like)


def _around(
    name: str,
    solution: np.ndarray,
    multiply: Callable[[Array], Array],
    gradient_noise: float = 0.0,
    hessian_noise: float = 0.0,
    *,
    like: Array | None,
) -> Quadratic:
    for argument, noise in (("gradient_noise", gradient_noise), ("hessian_noise", hessian_noise)):
        if not (np.isfinite(noise) and noise >= 0):
            raise ValueError(f"`{argument}` must be finite and at least 0, got {noise!r}; it is a deviation")
    return Quadratic(
        name=name,
        start=put(np.zeros(solution.size), like),
        minimum=0.0,
        solution=put(solution, like),
        multiply=multiply,
        gradient_noise=float(gradient_noise),
        hessian_noise=float(hessian_noise),
    )


def _matrix(h: Array) -> Callable[[Array], Array]:
    return lambda v: h @ v


def _reflected(eigenvalues: Array, axes: Array) -> Callable[[Array], Array]:
    """Return the product with ``W diag(λ) W^T``, W the product of the reflections ``I - 2 a a^T``."""

    def reflect(v: Array, i: int) -> Array:
        axis = axes[i : i + 1, :]
        return v - 2.0 * axis.T * (axis @ v)

    def multiply(v: Array) -> Array:
        for i in range(axes.shape[0]):
            v = reflect(v, i)
        v = eigenvalues[:, None] * v
        for i in reversed(range(axes.shape[0])):
            v = reflect(v, i)
        return v

    return multiply
