"""Lie groups as values: Theorems 3.1, 3.2, 3.3 and Corollary B.0.1 of the paper, all with the same verbs."""

from .affine import AffineElement, AffineNormalization
from .layouts import OrbitLayout
from .lie import LieGroup
from .low_rank import LowRankElement, LowRankFixedU, LowRankFixedV, Spectrum
from .orbits import (
    ButterflyGroup,
    DiagonalGroup,
    GeneralLinear,
    OrbitBlocks,
    OrbitGroup,
    SparseGroup,
    XMatGroup,
)
from .permutation import Permutation
from .subgroup import PermutationSubgroup

__all__ = [
    "AffineElement",
    "AffineNormalization",
    "ButterflyGroup",
    "DiagonalGroup",
    "GeneralLinear",
    "LieGroup",
    "LowRankElement",
    "LowRankFixedU",
    "LowRankFixedV",
    "OrbitBlocks",
    "OrbitGroup",
    "OrbitLayout",
    "Permutation",
    "PermutationSubgroup",
    "SparseGroup",
    "Spectrum",
    "XMatGroup",
]
