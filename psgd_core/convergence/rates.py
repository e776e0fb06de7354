"""Rates of convergence on exact expectations, for every geometry; see `convergence`."""

from __future__ import annotations

from collections.abc import Sequence

from ..arrays.arguments import described, require_number
from ..arrays.library import Array, require_arrays, require_float
from ..preconditioners.geometries import GeometryName, geometry_of


def predicted_rate(
    spectra: Sequence[Array],
    step: float | Array,
    *,
    geometry: GeometryName = "EQ",
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
    geometry : str
        As for the preconditioners; those that turn Q symmetric are taken to do so exactly.
    per_orbit : bool
        A step per orbit, each normalised by its own N, or one for all, by the largest.
    normalizer : float, optional
        N, if it is another one. A bound that is too large by some factor makes the rate smaller by it.

    Returns
    -------
    array, shape ()
        ``-log`` of the slowest mode's factor, about ``2 step / κ`` for "EQ"; negative if some mode grows; Inf
        if all modes vanish to first order in a single update ("EQ", step 0.5, κ = 1).

    Raises
    ------
    ValueError, TypeError
        If `spectra` does not hold float arrays of shape (s, c), or `geometry` is not one.
    """
    kind = geometry_of(geometry)
    if not isinstance(spectra, tuple | list) or not spectra:
        raise ValueError(
            f"`spectra` must hold an array for every orbit size, got {described(spectra)}; "
            "give `Target.spectra`"
        )
    xp = require_arrays(**{f"spectra[{i}]": h for i, h in enumerate(spectra)})
    for i, h in enumerate(spectra):
        require_float(f"spectra[{i}]", h)
        if h.ndim != 2:
            raise ValueError(
                f"`spectra[{i}]` must have shape (s, c), an orbit per column, got {tuple(h.shape)}"
            )
    lows, tops = [xp.min(h, axis=0) for h in spectra], [xp.max(h, axis=0) for h in spectra]
    bounds = [kind.bound(low, top) for low, top in zip(lows, tops, strict=True)]
    overall = xp.max(xp.concat(bounds))
    rates = []
    for h, low, top, bound in zip(spectra, lows, tops, bounds, strict=True):
        n = bound if per_orbit else xp.zeros_like(bound) + overall
        n = n if normalizer is None else xp.zeros_like(n) + normalizer
        shrink = step * kind.speed(h[:, None, :], h[None, :, :], low, top) * (bound / n)
        left = xp.where(shrink < 1, shrink, 2 - shrink)  # |1 - shrink| = 1 - left
        gone = left >= 1
        rate = -xp.log1p(-xp.where(gone, xp.zeros_like(left), left))
        rates.append(xp.min(xp.where(gone, xp.full_like(rate, xp.inf), rate)))
    return xp.min(xp.stack(rates))


def stable_step(kappa: float, geometry: GeometryName = "QE") -> float:
    """Return the step below which a geometry converges on exact expectations; at most 1.

    κ is the largest quotient of the eigenvalues of ``P*^{-1}`` (of |H|) within an orbit. "EQ", "QEP",
    "PRO4P" and "Lyapunov" converge for every step below 1. The others have a mode, that between the largest
    and the smallest eigenvalue, whose speed grows with κ:

    - "QE" and "QE-symmetric", (5) and (6): ``4 κ²/((κ + 1)(κ² + 1))``, about 4/κ; 1 up to ``κ = 1 + √2``;
    - "QEQ": ``4 κ/(κ + 1)²``, about 4/κ; "QUAD4P": twice that;
    - "QUAD": ``8 κ/((√κ + 1)² (κ + 1))``, about 8/κ;
    - "Q0.5EQ1.5": ``2 √κ/(κ + 1)``, about 2/√κ.

    Raises
    ------
    ValueError
        If `kappa` is below 1, or `geometry` is not one.
    """
    kind = geometry_of(geometry)
    if not require_number("kappa", kappa) >= 1:
        raise ValueError(
            f"`kappa` must be a condition number, at least 1, got {kappa}; give max/min of |λ_i|"
        )
    low = 1 / float(kappa)
    return min(1.0, float(2 / kind.speed(1.0, low, low, 1.0)))
