"""The iteration ``x <- x - lr P g``, eq. (1): `PSGD` one step at a time, and `minimize` around it."""

from . import clips
from .clips import Clip, TrustRadius
from .minimizer import Nonfinite, Preset, minimize
from .presets import deterministic, stochastic
from .psgd import PSGD, Decay
from .state import PSGDState

__all__ = [
    "PSGD",
    "Clip",
    "Decay",
    "Nonfinite",
    "PSGDState",
    "Preset",
    "TrustRadius",
    "clips",
    "deterministic",
    "minimize",
    "stochastic",
]
