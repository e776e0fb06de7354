"""A Hessian of the user's own, as `psgd verify --hessian` reads and describes it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays import rounding
from ..problems import load_hessian
from ..spectrum import damped


class Own(NamedTuple):
    """A matrix that is checked against, divided by its largest entry: no check depends on the scale of H."""

    name: str
    hessian: np.ndarray  # (n, n)
    kappa: float

    def __str__(self) -> str:
        return f"{self.name}, n = {len(self.hessian)}, kappa {self.kappa:.3g}"


def own(path: Path, key: str | None = None, damping: float = 0.0) -> Own:
    """Return the matrix of a file.

    Parameters
    ----------
    path, key
        See `psgd_analysis.problems.load_hessian`.
    damping : float
        See `psgd_analysis.spectrum.damped`.

    Raises
    ------
    ValueError
        One sentence that begins with the path.
    """
    h, name = load_hessian(path, key=key, singular_ok=True), path.name
    try:
        if damping:
            h, name = damped(h, damping).dense(), f"{name}, damped by {damping:g}"
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    scale = float(np.max(np.abs(h))) or 1.0
    h = h / scale
    magnitudes = np.abs(np.linalg.eigvalsh(h))
    low, high = float(np.min(magnitudes)), float(np.max(magnitudes))
    if low <= len(h) * rounding(h) * high:
        raise ValueError(
            f"{path}: is singular to rounding, got |λ| from {low * scale:.2g} to {high * scale:.2g}, so "
            f"|H|^{{-1}} does not exist; give --damping, such as {1e-6 * (high * scale or 1.0):.0e}"
        )
    return Own(name, h, high / low)
