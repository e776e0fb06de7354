"""Alternatives fitted to the same pairs: BFGS's inverse update, and the running closed form.

Both have the shape of a preconditioner, ``init / update / matrix / apply`` over an explicit state, and are
array-API code that traces under `jax.jit`. Neither has a step: the argument `step` is ignored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import array_api_compat

from psgd_core import convergence

from ..arrays import Array


class Baseline(ABC):
    """A method that fits P to pairs (v, h), of shape (n,) each.

    Attributes
    ----------
    sees_noise : bool
        Whether it aims at ``(H^2 + E[εε^T])^{-1/2}``, or at ``|H|^{-1}`` whatever the noise.
    """

    sees_noise: ClassVar[bool]

    @abstractmethod
    def init(self, n: int, like: Array) -> Any:
        """Return the state to start from, on the namespace, dtype and device of `like`."""

    @abstractmethod
    def update(self, state: Any, v: Array, h: Array, step: float | Array = 0.0) -> Any:
        """Return the state after one pair."""

    @abstractmethod
    def matrix(self, state: Any) -> Array:
        """Return P, (n, n)."""

    def apply(self, state: Any, x: Array) -> Array:
        """Return ``Q x`` for some Q with ``Q^T Q = P``; NaN where P is not positive definite."""
        return convergence.factor(self.matrix(state)) @ x


class BFGSState(NamedTuple):
    """State of `BFGS`."""

    p: Array  # (n, n)
    count: Array  # 0-d: updates made
    skipped: Array  # 0-d: pairs left out because v.h was not positive


@dataclass(frozen=True)
class BFGS(Baseline):
    """``P <- (I - ρ v h^T) P (I - ρ h v^T) + ρ v v^T``, ``ρ = 1/(v^T h)``: the secant condition ``P h = v``.

    As in practice, the first pair sets the scale, ``P = (v^T h / h^T h) I``, and a pair with
    ``v^T h <= 1e-8 |v||h|`` (a direction of negative curvature) is skipped: P would lose definiteness.
    Nocedal and Wright, Numerical Optimization, 2006, (6.17), (6.20). O(n^2).
    """

    threshold: float = 1e-8
    sees_noise: ClassVar[bool] = False

    def init(self, n: int, like: Array) -> BFGSState:
        """Return P = I."""
        xp, device = array_api_compat.array_namespace(like), array_api_compat.device(like)
        zero = xp.zeros((), dtype=like.dtype, device=device)
        return BFGSState(xp.eye(n, dtype=like.dtype, device=device), zero, zero)

    def update(self, state: BFGSState, v: Array, h: Array, step: float | Array = 0.0) -> BFGSState:
        """Return the state after one pair."""
        xp = array_api_compat.array_namespace(v)
        vh, hh, vv = xp.sum(v * h), xp.sum(h * h), xp.sum(v * v)
        usable = vh > self.threshold * xp.sqrt(vv) * xp.sqrt(hh)
        one = xp.ones_like(vh)
        rho = one / xp.where(usable, vh, one)
        first = xp.where(usable, vh, one) / xp.where(usable, hh, one)
        p = xp.where(state.count > 0, state.p, first * state.p)
        ph = p @ h
        outer = v[:, None] * ph[None, :]
        scale = rho * (1 + rho * xp.sum(h * ph))
        new = p - rho * (outer + outer.T) + scale * v[:, None] * v[None, :]
        taken = xp.astype(usable, v.dtype)
        return BFGSState(xp.where(usable, new, state.p), state.count + taken, state.skipped + (1 - taken))

    def matrix(self, state: BFGSState) -> Array:
        """Return P."""
        return state.p


class ClosedFormState(NamedTuple):
    """State of `ClosedForm`."""

    moment: Array  # (n, n): the mean of h h^T
    count: Array  # 0-d: pairs seen


@dataclass(frozen=True)
class ClosedForm(Baseline):
    """``P = (mean of h h^T)^{-1/2}`` over all pairs so far: the criterion's minimiser, with M estimated.

    It assumes ``E[v v^T] = I``. O(n^2) per update, O(n^3) for P; no P before n pairs.
    """

    sees_noise: ClassVar[bool] = True

    def init(self, n: int, like: Array) -> ClosedFormState:
        """Return an empty mean."""
        xp, device = array_api_compat.array_namespace(like), array_api_compat.device(like)
        return ClosedFormState(
            xp.zeros((n, n), dtype=like.dtype, device=device), xp.zeros((), dtype=like.dtype, device=device)
        )

    def update(
        self, state: ClosedFormState, v: Array, h: Array, step: float | Array = 0.0
    ) -> ClosedFormState:
        """Return the mean with one pair more."""
        count = state.count + 1
        return ClosedFormState(state.moment + (h[:, None] * h[None, :] - state.moment) / count, count)

    def matrix(self, state: ClosedFormState) -> Array:
        """Return P, NaN while the mean is singular to rounding."""
        xp = array_api_compat.array_namespace(state.moment)
        w, vectors = xp.linalg.eigh(state.moment)
        floor = xp.finfo(w.dtype).eps * w.shape[0] * xp.max(w)
        usable = w > floor
        root = xp.where(usable, xp.where(usable, w, xp.ones_like(w)) ** -0.25, xp.full_like(w, xp.nan))
        half = root[:, None] * vectors.T
        return half.T @ half


def best_below(magnitudes: Any, rank: int) -> float:
    """Return the least distance to ``|H|^{-1}`` that any ``P = ρ I + U U^T`` of a given rank can have.

    Such a P has n - r eigenvalues ρ and no smaller one. The affine-invariant distance is at least that of
    the logarithms of both spectra, each in order (with equality where P and H commute), so the best P meets
    the r largest eigenvalues of ``|H|^{-1}`` exactly and has for ρ the geometric mean of the others: what is
    left is their spread.

    Parameters
    ----------
    magnitudes : array-like, shape (n,)
        ``|λ_i(H)|``, on the host.
    rank : int
        r, below n.
    """
    import numpy as np

    logs = np.sort(-np.log(np.asarray(magnitudes, dtype=np.float64)))  # of |H|^{-1}, ascending
    rest = logs[: logs.size - rank]
    return float(np.sqrt(np.sum((rest - rest.mean()) ** 2) / logs.size))
