"""The preconditioners on the groups of Theorem 3.1; they differ in the subgroup K alone.

The exact minimiser over the group is, on each orbit O and for any H, ``P_O = ((H^2 + E[ee^T])_OO)^{-1/2}``
(see `psgd_core.criterion`). One `update` moves O(n s) numbers for orbits of size s. The options
of all of them are those of `OrbitPreconditioner`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..arrays.library import Array
from ..groups.orbits import ButterflyGroup, DiagonalGroup, GeneralLinear, OrbitGroup, SparseGroup, XMatGroup
from ..groups.subgroup import PermutationSubgroup
from .geometries import GEOMETRIES
from .orbit import OrbitPreconditioner, OrbitState


@dataclass(frozen=True, repr=False)
class Diagonal(OrbitPreconditioner):
    """Q diagonal: K = {e} (Theorem 3.1, example 1); its limit is ESGD's ``1 / sqrt(diag(H^2))``."""

    group: ClassVar[OrbitGroup] = DiagonalGroup()
    """Invertible diagonal matrices."""

    def _precondition(self, state: OrbitState, x: Array) -> Array:
        q = state.q.blocks[0][0, 0, :, None]
        return q * x if GEOMETRIES[self.geometry].fits_p else q * (q * x)


@dataclass(frozen=True, repr=False)
class XMat(OrbitPreconditioner):
    """Q with a diagonal and an anti-diagonal: K = {e, flip} (Theorem 3.1, example 2); any n."""

    group: ClassVar[OrbitGroup] = XMatGroup()
    """X-shaped matrices."""


@dataclass(frozen=True, repr=False)
class Butterfly(OrbitPreconditioner):
    """Q a butterfly matrix: K = {e, shift by n/2} (Theorem 3.1, example 3); even n."""

    group: ClassVar[OrbitGroup] = ButterflyGroup()
    """Butterfly matrices."""


@dataclass(frozen=True, repr=False)
class Sparse(OrbitPreconditioner):
    """Q on the group of Theorem 3.1 over any permutation subgroup K.

    Parameters
    ----------
    subgroup : PermutationSubgroup
        K; only its orbits matter.
    """

    subgroup: PermutationSubgroup

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.subgroup, PermutationSubgroup):
            raise TypeError(
                f"`subgroup` must be a PermutationSubgroup, got {type(self.subgroup).__name__}; "
                "make one with PermutationSubgroup.from_generators"
            )

    @property
    def group(self) -> OrbitGroup:
        """The group over the subgroup K."""
        return SparseGroup(self.subgroup)


@dataclass(frozen=True, repr=False)
class Dense(OrbitPreconditioner):
    """Q on GL+(n): one orbit (Theorem 3.1, example 4); its limit is ``|H|^{-1}``.

    An update costs O(n^2) and one LU factorisation; O(n^2) alone under the geometries without inverses (QEQ,
    Q0.5EQ1.5, QUAD, QEP), and O(n^3) under those that decompose Q (QE, QE-symmetric, Lyapunov). The damping
    enters as noise of its size on h, since in expectation it would cost O(n^3).
    """

    exact_damping: ClassVar[bool] = False

    group: ClassVar[OrbitGroup] = GeneralLinear()
    """The general linear group."""
