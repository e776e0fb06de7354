"""The affine normalisation group of Corollary B.0.1, which Theorem 3.1 does not cover.

Batch, layer and group normalisation transform n features by

    T(x | μ, σ) = (x - μ) / σ,        σ ≠ 0,

and these maps form a group: ``T(μ_1, σ_1) ∘ T(μ_2, σ_2) = T(μ_2 + σ_2 μ_1, σ_1 σ_2)``. In homogeneous
coordinates [x; 1] the map is a matrix of size n + 1 that is zero except on its diagonal and last column,

    [ diag(1/σ)   -μ/σ ]
    [     0         1  ],

a sparse subgroup of the affine group. No choice of permutations in Theorem 3.1 gives it.

**It is not a black-box preconditioner**, and no preconditioner of this package uses it. It acts on x, the
features that enter a layer, through a coordinate that is constantly 1; in terms of the parameters it
transforms one layer's weights *together with its bias*, as one affine matrix [W, b]. An optimiser that is
given a flat vector of n parameters knows neither which of them multiply which feature nor which are the bias,
and no coordinate of the vector is constantly 1: without the model's structure μ has nothing to act on. The
group is here to calculate with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..arrays.arguments import require_count
from ..arrays.brief import brief
from ..arrays.library import (
    Array,
    Namespace,
    device_of,
    namespace,
    require_alike,
    require_arrays,
    require_float,
)
from ..arrays.matrices import eye
from ..arrays.sums import inner
from .lie import LieGroup, require_element, require_like, require_vectors


@brief
class AffineElement(NamedTuple):
    """``T(x) = (x - μ) / σ``, or a direction of the Lie algebra: a small change of (μ, σ) at the identity."""

    mu: Array  # (n,), or 0-d: the same for all features
    sigma: Array  # (n,), or 0-d


@dataclass(frozen=True)
class AffineNormalization(LieGroup[AffineElement]):
    """The group of the maps ``T(x) = (x - μ) / σ`` of n features (Corollary B.0.1).

    μ and σ are vectors or 0-d arrays. The elements whose σ is 0-d form a subgroup, and so do those whose μ
    and σ both are; `compose` turns other mixtures into vectors.

    `apply` and `solve` take features, n rows, or homogeneous coordinates, n + 1 rows. `apply_transpose` and
    `solve_transpose` act on affine functionals ``x -> w^T x + c``, as the n + 1 numbers [w; c]: the transpose
    of T carries a functional of T(x) to one of x.

    Parameters
    ----------
    n : int
        Number of features, at least 1.
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", require_count("n", self.n, "it counts the features"))

    def identity(self, like: Array) -> AffineElement:
        """Return ``T(x | 0, 1)`` as vectors, with the namespace, dtype and device of `like`."""
        require_like(like)
        xp, device = namespace(like), device_of(like)
        ones = xp.ones(self.n, dtype=like.dtype, device=device)
        return AffineElement(xp.zeros_like(ones), ones)

    def check(self, a: AffineElement) -> None:
        """Raise ValueError unless μ and σ are finite and no σ is 0; looks at the values."""
        xp = self._checked(a)
        for name, x in zip(a._fields, a, strict=True):
            if not bool(xp.all(xp.isfinite(x))):
                raise ValueError(f"`{name}` must be finite, got NaN or Inf; leave such features out")
        if not bool(xp.all(xp.abs(a.sigma) > 0)):
            raise ValueError("`sigma` must not be 0, got a zero; add a small constant to the deviations")

    def compose(self, a: AffineElement, b: AffineElement) -> AffineElement:
        """Return ``a ∘ b``, first b, then a: ``T(μ_b + σ_b μ_a, σ_a σ_b)``."""
        self._checked(a, "a")
        self._checked(b, "b")
        require_alike("b.mu", b.mu, "a.mu", a.mu)
        return AffineElement(b.mu + b.sigma * a.mu, a.sigma * b.sigma)

    def inverse(self, a: AffineElement) -> AffineElement:
        """Return ``T(-μ/σ, 1/σ)``, the map ``y -> σ y + μ``."""
        self._checked(a)
        return AffineElement(-a.mu / a.sigma, 1 / a.sigma)

    def apply(self, a: AffineElement, x: Array) -> Array:
        """Return ``(x - μ)/σ`` for features (n,) or (n, k); for [x; t], n + 1 rows, ``[(x - μ t)/σ; t]``."""
        return self._act(a, x, lambda mu, sigma, y, t: ((y - mu * t) / sigma, t))

    def solve(self, a: AffineElement, x: Array) -> Array:
        """Return ``T^{-1}(x) = σ x + μ`` for features; for [x; t], n + 1 rows, ``[σ x + μ t; t]``."""
        return self._act(a, x, lambda mu, sigma, y, t: (sigma * y + mu * t, t))

    def apply_transpose(self, a: AffineElement, x: Array) -> Array:
        """Return ``[w/σ; c - μ^T (w/σ)]`` for x = [w; c] of shape (n + 1,) or (n + 1, k)."""
        return self._act(a, x, lambda mu, sigma, w, c: (w / sigma, c - _dots(mu, w / sigma)), functional=True)

    def solve_transpose(self, a: AffineElement, x: Array) -> Array:
        """Return ``[σ w; c + μ^T w]`` for x = [w; c] of shape (n + 1,) or (n + 1, k)."""
        return self._act(a, x, lambda mu, sigma, w, c: (sigma * w, c + _dots(mu, w)), functional=True)

    def matrix(self, a: AffineElement) -> Array:
        """Return T in homogeneous coordinates, dense (n + 1, n + 1): the diagonal and the last column."""
        self._checked(a)
        unit = eye(self.n + 1, a.mu)
        return self._dense(-a.mu / a.sigma, 1 / a.sigma, unit[self.n :, :])

    def log_det(self, a: AffineElement) -> Array:
        """Return ``log |det T| = -sum_i log |σ_i|``, a 0-d array."""
        xp = self._checked(a)
        logs = xp.log(xp.abs(a.sigma))
        if logs.ndim == 0:
            return -self.n * logs
        return -xp.astype(inner(logs[None, :], xp.ones_like(logs)[None, :])[0, 0], logs.dtype)

    def generator(self, direction: AffineElement) -> Array:
        """Return the generator ``[[-diag(dσ), -dμ], [0, 0]]`` of a direction (dμ, dσ), (n + 1, n + 1)."""
        self._checked(direction, "direction")
        return self._dense(-direction.mu, -direction.sigma, 0 * eye(self.n + 1, direction.mu)[self.n :, :])

    def bracket(self, a: AffineElement, b: AffineElement) -> AffineElement:
        """Return the Lie bracket of two directions: ``dμ = dσ_b dμ_a - dσ_a dμ_b``, dσ = 0."""
        self._checked(a, "a")
        xp = self._checked(b, "b")
        require_alike("b.mu", b.mu, "a.mu", a.mu)
        mu = b.sigma * a.mu - a.sigma * b.mu
        return AffineElement(mu, xp.zeros_like(mu))

    def project(self, generator: Array) -> AffineElement:
        """Return the orthogonal projection of a dense (n + 1, n + 1) matrix on the algebra, as (dμ, dσ).

        It keeps the diagonal and the last column, without their common last entry.
        """
        xp, n = require_arrays(generator=generator), self.n
        require_float("generator", generator)
        if generator.shape != (n + 1, n + 1):
            raise ValueError(
                f"`generator` must have shape ({n + 1}, {n + 1}), got {tuple(generator.shape)}; "
                "the group acts on n features and the constant 1"
            )
        return AffineElement(-generator[:n, n], -xp.linalg.diagonal(generator)[:n])

    def _act(
        self,
        a: AffineElement,
        x: Array,
        action: Callable[[Array, Array, Array, Array], tuple[Array, Array]],
        functional: bool = False,
    ) -> Array:
        """Apply `action` to the n rows and to the last one, which is 1 where `x` holds features only."""
        xp, n = self._checked(a), self.n
        require_alike("x", x, "a.mu", a.mu)
        homogeneous = functional or (x.ndim > 0 and x.shape[0] == n + 1)
        require_vectors("x", x, n + 1 if homogeneous else n)
        columns = x[:, None] if x.ndim == 1 else x
        mu, sigma = (p[:, None] if p.ndim else p for p in a)
        if homogeneous:
            result = xp.concat(action(mu, sigma, columns[:n, :], columns[n:, :]), axis=0)
        else:
            result, _ = action(mu, sigma, columns, xp.ones_like(columns[:1, :]))
        return result[:, 0] if x.ndim == 1 else result

    def _dense(self, column: Array, diagonal: Array, last: Array) -> Array:
        xp = namespace(column)
        unit = eye(self.n, column)
        column = xp.broadcast_to(column, (self.n,))[:, None]
        top = xp.concat([unit * (diagonal[:, None] if diagonal.ndim else diagonal), column], axis=1)
        return xp.concat([top, last], axis=0)

    def _checked(self, a: AffineElement, name: str = "a") -> Namespace:
        require_element(name, a, AffineElement)
        xp = require_arrays(**{f"{name}.{field}": x for field, x in zip(a._fields, a, strict=True)})
        require_float(f"{name}.mu", a.mu)
        require_alike(f"{name}.sigma", a.sigma, f"{name}.mu", a.mu)
        for field, x in zip(a._fields, a, strict=True):
            if x.shape not in ((), (self.n,)):
                raise ValueError(
                    f"`{name}.{field}` must be a 0-d array or have shape ({self.n},), "
                    f"got {tuple(x.shape)}; one number for all features, or one each"
                )
        return xp


def _dots(mu: Array, w: Array) -> Array:
    """Return ``μ^T w``, (1, k), for μ of shape (n, 1) or 0-d."""
    xp, n = namespace(w), w.shape[0]
    row = xp.broadcast_to(xp.reshape(mu, (1, -1)), (1, n))
    return xp.astype(inner(row, w.T), w.dtype, copy=False)
