"""Where an iteration stands."""

from __future__ import annotations

from typing import NamedTuple

from ..arrays.brief import brief
from ..arrays.library import Array
from .clips import Point
from .state import PSGDState


@brief
class Progress(NamedTuple):
    """Where a run stands: what `minimize(resume=...)` goes on from, as if it had not stopped."""

    x: Array  # (n,) the next point to evaluate
    state: PSGDState
    nit: int
    nfev: int
    njev: int
    nhev: int
    best: Point | None = None  # the last point with finite value and gradient; None before the first
