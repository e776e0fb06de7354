"""Options that fitted preconditioners share, checked when one is made."""

from __future__ import annotations

from typing import Any

from ..arrays.arguments import described, require_number
from .counters import DAMPING
from .normalizers import Normalizer


def settle_options(p: Any) -> None:
    """Raise unless a preconditioner's damping and normaliser are such; the damping becomes a Python float."""
    if not isinstance(p.normalizer, Normalizer):
        raise TypeError(
            f"`normalizer` must be a Normalizer, got {described(p.normalizer)}; "
            "use one of psgd_core.normalizers: Running(), Sample(), Gradient()"
        )
    if p.damping is None:
        return
    damping, given = require_number("damping", p.damping), p.damping
    object.__setattr__(p, "damping", damping)
    if not 0 <= damping < float("inf"):
        raise ValueError(
            f"`damping` must be None or a finite number >= 0, got {described(given)}; None takes "
            f"{DAMPING['float32']} in float32 and {DAMPING['float64']} in float64 of the first "
            "pair's scale, 0 none"
        )
