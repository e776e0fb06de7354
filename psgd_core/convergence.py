"""Checks against the exact target: how far a preconditioner is from ``P*``, how fast it should get there.

`target` prepares the criterion's exact minimiser once; `measure` compares a factor Q of ``P = Q^T Q`` to it:

- `distance`, the affine-invariant ``||log(P*^{-1/2} P P*^{-1/2})||_F / sqrt(n)``: the typical relative error
  of P in any direction, of large or small curvature alike. It sees P only, never the rotation in Q;
- `residual`, ``||P P*^{-1} - I||_F / sqrt(n)``: over GL(n) without noise ``||P |H| - I||_F / sqrt(n)``;
- `criterion_gap`, ``(c(P) - c(P*)) / c(P*)``, about the square of a distance.

They come without cancellation from the singular values s_i of ``Q R``, ``R = P*^{-1/2}``. The distance is the
root mean square of ``2 log s_i``, with an error of about ``eps sqrt(κ(P))``, not ``eps κ(P)``, given R (whose
own small eigenvalues a dense H determines to ``eps κ(H)``). As only the blocks ``M_OO = P*_O^{-2}`` count,
``c(P) = tr((X + X^{-1}) P*^{-1})`` with ``X = R P R``, so that
``c(P) - c(P*) = sum_i (s_i - 1/s_i)^2 |R w_i|^2`` over the right singular vectors w_i. That holds for any P
against the target over GL(n), and for P in its group against a group's.

**Rates.** Let the fit run on exact expectations, ``Q <- (I - μ/N (E[a a^T] - E[b b^T])) Q``, and let h_i be
the eigenvalues of ``P*^{-1}`` (on one orbit). At the minimiser both expectations are ``D = diag(h)`` up to a
rotation. Put ``Q = (I + X) Q*`` and ``Y = X + X^T``, the relative error of P: the generator is ``Y D + D Y``
to first order, so ``Y_ij`` shrinks by ``1 - 2 μ (h_i + h_j) / N`` in every update. With N the largest
eigenvalue of ``E[a a^T + b b^T]``, ``2 h_max``, the slowest mode has ``1 - 2 μ / κ`` and the fastest
``1 - 2 μ``.

For the rules dQ = Q E, (5) and (6), the error of P itself, ``P = P* + Δ``, has the modes
``1 - μ (h_i + h_j)(h_i^2 + h_j^2) / (h_i h_j N)``. (6) moves P exactly as (5) does. Their slowest mode is
``1 - 2 μ / κ`` too, but the mode between the largest and the smallest eigenvalue is stable only below
`stable_step`, about ``4/κ``, so that they need about ``κ/4`` times as many updates as the left rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import array_api_compat

from ._array import Array, namespace, require_float
from ._minimizers import Orbits, require_same, spectral, square
from ._traces import Fit, Trace, fit_rate, level
from ._verdicts import Expectation, FallingFloor, LinearToRounding, Status, Tracks, Verdict, judge

__all__ = [
    "Errors",
    "Expectation",
    "FallingFloor",
    "Fit",
    "LinearToRounding",
    "Status",
    "Target",
    "Trace",
    "Tracks",
    "Verdict",
    "criterion_gap",
    "distance",
    "factor",
    "fit_rate",
    "judge",
    "level",
    "measure",
    "predicted_rate",
    "residual",
    "stable_step",
    "target",
]


class Target(NamedTuple):
    """What a preconditioner should converge to; made by `target`."""

    minimizer: Array  # P*, (n, n)
    inverse: Array  # P*^{-1}, (n, n): |H| over GL(n) without noise
    root: Array  # P*^{-1/2}, (n, n)
    spectra: tuple[Array, ...]  # eigenvalues of P*^{-1}: per orbit size an (s, c) array
    minimum: Array  # c(P*) = 2 tr(P*^{-1}), ()


class Errors(NamedTuple):
    """How far P is from the target: three 0-d arrays, 0 at the target."""

    distance: Array
    residual: Array
    gap: Array


def target(hessian: Array, orbits: Orbits | None = None, noise: Array | None = None) -> Target:
    """Return the exact target for a Hessian: over GL(n), or over the group of Theorem 3.1 with given orbits.

    Parameters
    ----------
    hessian : array, shape (n, n)
        Symmetric; definite or not.
    orbits : sequence of integer arrays, shape (s, c), optional
        As for `criterion.group_minimizer`; GL(n) by default.
    noise : array, shape (n, n), optional
        ``E[ε ε^T]``.

    Returns
    -------
    Target
        On the library, dtype and device of `hessian`; O(n^3), once.

    Raises
    ------
    ValueError, TypeError
        If the arguments do not go together.
    """
    solution = spectral(hessian, orbits, noise)
    inverse, xp = solution.power(1), namespace(hessian=hessian)
    return Target(
        solution.power(-1),
        inverse,
        solution.power(0.5),
        tuple(xp.matrix_transpose(values) for values in solution.values),
        2 * xp.linalg.trace(inverse),
    )


def measure(q: Array, target: Target) -> Errors:
    """Return distance, residual and criterion gap of ``P = Q^T Q``, from one singular value decomposition.

    Parameters
    ----------
    q : array, shape (n, n)
        Q, or any other factor of P: ``U Q`` with U orthogonal has the same errors; `factor` makes one from P.
    target : Target

    Returns
    -------
    Errors
        NaN where q holds NaN or Inf (no library's SVD is asked about those), Inf where q is singular.
    """
    xp, n = _require_factor(q, target)
    usable_q = xp.all(xp.isfinite(q))
    q = xp.where(usable_q, q, xp.zeros_like(q))
    relative = q @ target.root
    finite = usable_q & xp.all(xp.isfinite(relative))  # huge entries may overflow only here
    _, s, right = xp.linalg.svd(xp.where(finite, relative, xp.zeros_like(relative)))
    one, infinite = xp.ones_like(s), xp.full_like(s, xp.inf)
    usable = s > 0
    inside = xp.where(usable, s, one)
    logs = xp.where(usable, 2 * xp.log(inside), infinite)
    excess = xp.where(usable, (inside - 1) * (inside + 1) / inside, infinite)
    weight = xp.linalg.vector_norm(right @ target.root, axis=1)
    product = q.T @ (q @ target.inverse)
    eye = xp.eye(n, dtype=q.dtype, device=array_api_compat.device(q))
    errors = (
        xp.linalg.vector_norm(logs) / n**0.5,
        xp.linalg.matrix_norm(product - eye) / n**0.5,
        xp.sum((excess * weight) ** 2) / target.minimum,
    )
    return Errors(*(xp.where(finite, error, xp.full_like(error, xp.nan)) for error in errors))


def distance(q: Array, target: Target) -> Array:
    """Return ``||log(P*^{-1/2} P P*^{-1/2})||_F / sqrt(n)``, affine-invariant; see `measure`."""
    return measure(q, target).distance


def residual(q: Array, target: Target) -> Array:
    """Return ``||P P*^{-1} - I||_F / sqrt(n)``, with an error of about ``eps κ(P)``; see `measure`."""
    return measure(q, target).residual


def criterion_gap(q: Array, target: Target) -> Array:
    """Return ``(c(P) - c(P*)) / c(P*)``, accurate far below eps; see `measure`.

    P must lie in the target's group; against a target over GL(n) any P does.
    """
    return measure(q, target).gap


def factor(p: Array) -> Array:
    """Return some Q with ``Q^T Q = P``, for those who have P only, NaN where P is not positive definite.

    The small eigenvalues of a dense P are known to ``eps κ(P)`` only: measure Q itself where you have it.
    """
    xp, _ = square("p", p)
    finite = xp.all(xp.isfinite(p))
    w, vectors = xp.linalg.eigh(xp.where(finite, p, xp.zeros_like(p)))
    root = xp.where(w > 0, xp.sqrt(xp.where(w > 0, w, xp.ones_like(w))), xp.full_like(w, xp.nan))
    return root[:, None] * vectors.T


def predicted_rate(
    spectra: Sequence[Array],
    step: float | Array,
    *,
    rule: Literal["left", "right"] = "left",
    per_orbit: bool = True,
    normalizer: float | Array | None = None,
) -> Array:
    """Return the rate r of ``distance ~ exp(-r t)`` on exact expectations, r >= 0 where the fit is stable.

    Parameters
    ----------
    spectra : sequence of arrays, shape (s, c)
        Eigenvalues of ``P*_O^{-1}`` for every orbit: `Target.spectra` or `criterion.spectra`.
    step : float
        μ, in (0, 1).
    rule : {"left", "right"}
        ``dQ = E Q``, or ``dQ = Q E`` ((5) and (6)).
    per_orbit : bool
        A step per orbit, each normalised by its own ``N = 2 h_max``; or one for all, by the largest.
    normalizer : float, optional
        N, where it is another one. A bound that is too large by some factor makes the rate smaller by it.

    Returns
    -------
    array, shape ()
        ``-log`` of the slowest mode's factor, about ``2 step / κ``; negative if some mode grows; Inf if all
        modes vanish to first order in a single update (step 0.5, κ = 1).

    Raises
    ------
    ValueError, TypeError
        If `spectra` does not hold float arrays of shape (s, c), or `rule` is neither.
    """
    if rule not in ("left", "right"):
        raise ValueError(f"`rule` must be 'left' (dQ = E Q) or 'right' (dQ = Q E), got {rule!r}; choose one")
    if not spectra:
        raise ValueError("`spectra` must hold an array for every orbit size, got none; give `Target.spectra`")
    xp = namespace(**{f"spectra[{i}]": h for i, h in enumerate(spectra)})
    for i, h in enumerate(spectra):
        require_float(f"spectra[{i}]", h)
        if h.ndim != 2:
            raise ValueError(
                f"`spectra[{i}]` must have shape (s, c), an orbit per column, got {tuple(h.shape)}"
            )
    tops = [xp.max(h, axis=0) for h in spectra]
    overall = xp.max(xp.concat(tops))
    rates = []
    for h, top in zip(spectra, tops, strict=True):
        n = 2 * (top if per_orbit else xp.zeros_like(top) + overall)
        n = n if normalizer is None else xp.zeros_like(n) + normalizer
        x, y = h[:, None, :], h[None, :, :]
        # The left modes are 2 (x + y); written as quotients, so that the right ones do not overflow.
        speed = 2 * (x + y) if rule == "left" else (x + y) * (x / y + y / x)
        shrink = step * speed / n
        left = xp.where(shrink < 1, shrink, 2 - shrink)  # |1 - shrink| = 1 - left
        gone = left == 1
        rate = -xp.log1p(-xp.where(gone, xp.zeros_like(left), left))
        rates.append(xp.min(xp.where(gone, xp.full_like(rate, xp.inf), rate)))
    return xp.min(xp.stack(rates))


def stable_step(kappa: float) -> float:
    """Return the step below which the rules (5) and (6) converge: ``min(1, 4 κ²/((κ + 1)(κ² + 1)))``.

    κ is the largest quotient of the eigenvalues of ``P*^{-1}`` (of |H|) within an orbit, and the step is
    normalised by ``2 h_max``. Up to ``κ = 1 + sqrt(2)`` the bound is 1, as it is for the left rule whatever
    κ; for large κ it is about ``4/κ``.

    Raises
    ------
    ValueError
        If `kappa` is below 1.
    """
    if not kappa >= 1:
        raise ValueError(
            f"`kappa` must be a condition number, at least 1, got {kappa}; give max/min of |λ_i|"
        )
    return min(1.0, 4 / ((1 + 1 / kappa) * (kappa + 1 / kappa)))


def _require_factor(q: Array, target: Target):
    xp, n = square("q", q)
    require_same("q", q, "target.root", target.root)
    return xp, n
