"""Groups fitted online: `init`, `update`, `precondition`, and the verbs on Q and P."""

from . import normalizers
from ._base import Preconditioner
from ._orbit import OrbitPreconditioner, OrbitState
from .low_rank import LowRank, LowRankState
from .sparse import Butterfly, Dense, Diagonal, Sparse, XMat

__all__ = [
    "Butterfly",
    "Dense",
    "Diagonal",
    "LowRank",
    "LowRankState",
    "OrbitPreconditioner",
    "OrbitState",
    "Preconditioner",
    "Sparse",
    "XMat",
    "normalizers",
]
