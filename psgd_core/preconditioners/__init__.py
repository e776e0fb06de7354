"""Groups fitted online: `init`, `update`, `precondition`, and the verbs on Q and P."""

from . import normalizers
from .base import Preconditioner
from .blocks import Blocks, BlocksState
from .closed_form import ClosedForm, ClosedFormState
from .counters import Counters, Fitted, Given
from .ensemble import Ensemble
from .geometries import GEOMETRIES, Geometry, GeometryName
from .kronecker import Kronecker, KroneckerState
from .low_rank import LowRank, LowRankState
from .orbit import OrbitPreconditioner, OrbitState
from .replay import Replay, Ring
from .sparse import Butterfly, Dense, Diagonal, Sparse, XMat

__all__ = [
    "GEOMETRIES",
    "Blocks",
    "BlocksState",
    "Butterfly",
    "ClosedForm",
    "ClosedFormState",
    "Counters",
    "Dense",
    "Diagonal",
    "Ensemble",
    "Fitted",
    "Geometry",
    "GeometryName",
    "Given",
    "Kronecker",
    "KroneckerState",
    "LowRank",
    "LowRankState",
    "OrbitPreconditioner",
    "OrbitState",
    "Preconditioner",
    "Replay",
    "Ring",
    "Sparse",
    "XMat",
    "normalizers",
]
