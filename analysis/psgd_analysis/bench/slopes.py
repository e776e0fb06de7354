"""How cost grows: the slope of log seconds against log n, or log rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Slope(NamedTuple):
    """A power law fitted to measurements: seconds ~ size^slope."""

    slope: float
    error: float  # standard error; NaN for two points
    smallest: float
    largest: float
    points: int


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Slope | None:
    """Return the least-squares slope of log seconds against log size; None for fewer than two sizes."""
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(seconds, dtype=float))
    if len(np.unique(x)) < 2:
        return None
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    error = float("nan")
    if len(x) > 2:
        left = y - y.mean() - slope * centred
        error = float(np.sqrt(left @ left / (len(x) - 2) / (centred @ centred)))
    return Slope(slope, error, float(min(sizes)), float(max(sizes)), len(x))
