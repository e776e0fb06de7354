"""Spectra of a given condition number, and the random signs and bases that Hessians are made of."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from ..checks import require_choice, require_count

Shape = Literal["log", "linear", "power", "clustered", "two_tails", "random"]
KINDS: tuple[str, ...] = get_args(Shape)
"""Shapes of spectra that `spectrum` knows."""


def spectrum(
    n: int, kappa: float, rng: np.random.Generator, *, kind: Shape = "log", indefinite: bool = False
) -> np.ndarray:
    """Return n eigenvalues, ascending in magnitude, with condition number `kappa` and geometric mean 1.

    Parameters
    ----------
    n : int
        How many; a single one is 1 (-1 if indefinite), whatever `kappa`.
    kappa : float
        Largest over smallest magnitude, at least 1.
    rng : numpy.random.Generator
        Used by the kinds "clustered" and "random" and for signs.
    kind : str
        "log": evenly spaced in logarithm; "linear": evenly spaced; "power": ``i^{-α}``; "clustered": four
        clusters, a tenth of their distance wide; "two_tails": a bulk of equal eigenvalues, and a tenth of
        them falling off on either side; "random": uniform in logarithm.
    indefinite : bool
        Give the eigenvalues random signs, both present if n > 1.

    Returns
    -------
    numpy.ndarray, shape (n,), float64, on the host

    Raises
    ------
    ValueError
        For an n below 1, a `kappa` below 1 or not finite, an unknown `kind`.
    """
    require_count("n", n)
    require_choice("kind", kind, KINDS)
    if not (np.isfinite(kappa) and kappa >= 1):
        raise ValueError(f"`kappa` must be a finite condition number of at least 1, got {kappa!r}; raise it")
    shape = np.sort(_log_shape(n, float(kappa), kind, rng))
    # An affine map of the logarithms makes both promises hold whatever the shape.
    width = shape[-1] - shape[0] if n > 1 else 1.0
    shape = (shape - shape.mean()) * (np.log(kappa) / width)
    return np.exp(shape) * (random_signs(n, rng) if indefinite else 1.0)


def random_signs(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n random signs, both present if n > 1; a single one is -1, or it would change nothing."""
    signs = rng.choice([-1.0, 1.0], n)
    if np.all(signs == signs[0]):
        signs[rng.integers(n)] *= -1.0
    return signs if n > 1 else -np.ones(1)


def haar(
    n: int, rng: np.random.Generator, columns: int | None = None, batch: tuple[int, ...] = ()
) -> np.ndarray:
    """Return Haar-distributed orthonormal columns, shape (*batch, n, columns), on the host.

    The QR factorisation of a Gaussian matrix is Haar-distributed once R's diagonal is made positive
    (Mezzadri, Notices of the AMS 54, 2007).
    """
    q, r = np.linalg.qr(rng.standard_normal((*batch, n, n if columns is None else columns)))
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def _log_shape(n: int, kappa: float, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return the logarithms of n eigenvalues up to an affine map."""
    if kind == "linear":
        return np.log(np.linspace(1.0, kappa, n)) if kappa > 1 else np.linspace(0.0, 1.0, n)
    if kind == "power":
        return -np.log(np.arange(1, n + 1))
    if kind == "clustered":
        centres = np.arange(n) * min(n, 4) // n
        return centres + rng.uniform(-0.05, 0.05, n)
    if kind == "two_tails":
        tail = np.arange(1, max(1, n // 10) + 1)
        return np.concatenate([-tail, np.zeros(max(0, n - 2 * tail.size)), tail])[:n].astype(float)
    if kind == "random":
        return rng.random(n)
    return np.linspace(0.0, 1.0, n)
