"""The preconditioners that are verified, by the names they have on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import psgd_core as psgd
from psgd_core import PermutationSubgroup
from psgd_core.convergence import stable_step
from psgd_core.preconditioners import OrbitPreconditioner
from psgd_core.preconditioners.geometries import GEOMETRIES

S3 = ((1, 0, 2), (1, 2, 0))
"""Generators of S_3, all permutations of three blocks."""


@dataclass(frozen=True)
class Entry:
    """A preconditioner, and where it can be verified.

    Parameters
    ----------
    name, label : str
        On the command line, and in tables and figures.
    make : callable
        ``make(n)`` returns the preconditioner.
    multiple, offset : int
        n must be a multiple of `multiple`, plus `offset`.
    settings : tuple of str
        What it is verified in; empty for everything that makes sense.
    kappa_limit : float
        The largest condition number it can be expected to converge on in reasonable time.
    least : int
        The smallest n.
    usual : int
        The n it is verified at unless another one is asked for.
    patience : int
        Updates within which a low-rank one, whose rate no theory predicts, must have converged.
    """

    name: str
    label: str
    make: Callable[[int], psgd.Preconditioner]
    multiple: int = 1
    offset: int = 0
    settings: tuple[str, ...] = ()
    kappa_limit: float = np.inf
    least: int = 1
    usual: int = 16
    patience: int = 20_000

    def size(self, n: int) -> int:
        """Return the largest size up to n that the group has, or the least there is."""
        return max(self.least, (n - self.offset) // self.multiple * self.multiple + self.offset)

    def fits(self, n: int) -> bool:
        """Return whether the group exists for n."""
        return n >= self.least and (n - self.offset) % self.multiple == 0

    @property
    def low_rank(self) -> bool:
        """Whether it is low rank plus diagonal, rather than a group of Theorem 3.1."""
        return isinstance(self.make(self.least), psgd.LowRank)

    @property
    def kronecker(self) -> psgd.Kronecker | None:
        """The preconditioner, if it is a Kronecker product."""
        p = self.make(self.least)
        return p if isinstance(p, psgd.Kronecker) else None

    @property
    def free(self) -> bool:
        """Whether no theory predicts its rate."""
        return self.low_rank or self.kronecker is not None

    @property
    def rank(self) -> int:
        """The rank of a low-rank one."""
        return getattr(self.make(self.least), "rank", 0)

    @property
    def diagonal(self) -> str:
        """Where diag(d) stands in a low-rank one."""
        return getattr(self.make(self.least), "diagonal", "right")

    @property
    def geometry(self) -> str:
        """How Q moves."""
        return getattr(self.make(self.least), "geometry", "EQ")

    def orbits(self, n: int) -> tuple[np.ndarray, ...]:
        """Return the orbits' members, one (s, c) array per orbit size; GL(n)'s for low rank and products."""
        p = self.make(n)
        if isinstance(p, psgd.LowRank | psgd.Kronecker):
            return (np.arange(n)[:, None],)
        assert isinstance(p, OrbitPreconditioner)
        return tuple(np.array(members) for members in p.group.subgroup(n).orbit_index)

    def minimizer(self, n: int, hessian: np.ndarray, noise: np.ndarray | None) -> np.ndarray | None:
        """Return the criterion's minimiser over the products; None for all others."""
        p = self.make(n)
        if not isinstance(p, psgd.Kronecker):
            return None
        kinds = tuple("diagonal" if kind == "diagonal" else "dense" for kind in p.kinds)
        return psgd.criterion.kronecker_minimizer(hessian, p.shape, kinds, noise)

    def largest_step(self, kappa: float) -> float:
        """Return the step below which the geometry is stable, on the condition number of an orbit."""
        return stable_step(kappa, self.geometry)

    def variant(self, n: int, **changes: Any) -> psgd.Preconditioner:
        """Return the preconditioner with other options."""
        return replace(self.make(n), **changes)  # type: ignore[type-var]


def _sparse(subgroup: Callable[[int], PermutationSubgroup]) -> Callable[[int], psgd.Preconditioner]:
    return lambda n: psgd.Sparse(subgroup(n))


def _rectangle(n: int) -> tuple[int, int]:
    """Return (s, n / s) with the largest s up to the root of n."""
    s = next(s for s in range(int(n**0.5), 0, -1) if n % s == 0)
    return s, n // s


BASES = {
    entry.name: entry
    for entry in (
        Entry("diagonal", "Diagonal", lambda n: psgd.Diagonal()),
        Entry("xmat", "XMat", lambda n: psgd.XMat(), least=2),
        Entry("butterfly", "Butterfly", lambda n: psgd.Butterfly(), multiple=2, least=2),
        Entry("sparse-klein", "Sparse(Klein)", _sparse(PermutationSubgroup.klein), multiple=4, least=4),
        Entry(
            "sparse-s3",
            "Sparse(S3)",
            _sparse(lambda n: PermutationSubgroup.on_blocks(n, S3)),
            multiple=3,
            least=3,
        ),
        Entry(
            "sparse-dihedral",
            "Sparse(dihedral)",
            _sparse(lambda n: PermutationSubgroup.dihedral(n, 4)),
            multiple=8,
            least=8,
        ),
        Entry(
            "sparse-odd-flip",
            "Sparse(odd flip)",
            _sparse(PermutationSubgroup.flip),
            multiple=2,
            offset=1,
            least=3,
        ),
        Entry("dense", "Dense", lambda n: psgd.Dense(), least=2),
        Entry(
            "kronecker",
            "Kronecker",
            lambda n: psgd.Kronecker(_rectangle(n), "dense"),
            least=4,
            patience=2000,
        ),
        Entry(
            "kronecker-mixed",
            "Kronecker(dense, diagonal)",
            lambda n: psgd.Kronecker(_rectangle(n), ("triangular", "diagonal")),
            least=4,
            patience=6000,
        ),
        Entry("lowrank", "LowRank(2)", lambda n: psgd.LowRank(2), least=4, usual=20),
        Entry(
            "lowrank-left",
            "LowRank(2), left",
            lambda n: psgd.LowRank(2, diagonal="left"),
            least=4,
            usual=20,
            patience=60_000,
        ),
        Entry("lowrank-tails", "LowRank(1)", lambda n: psgd.LowRank(1), least=4, usual=20),
    )
}
"""In the geometry EQ, by name."""


def _in_geometry(base: Entry, geometry: str) -> Entry:
    """Return the preconditioner in another geometry, on condition numbers that leave it a usable step."""
    return replace(
        base,
        name=f"{geometry.lower()}-{base.name}",
        label=f"{base.label}, {geometry}",
        make=lambda n: replace(base.make(n), geometry=geometry),  # type: ignore[type-var]
        settings=("exact", "whitening"),
        kappa_limit=100.0 if stable_step(100.0, geometry) > 0.1 else 10.0,
    )


ENTRIES = BASES | {
    entry.name: entry
    for base in ("xmat", "sparse-klein", "dense", "kronecker")
    for geometry, moves in GEOMETRIES.items()
    if geometry != "EQ" and not (base == "kronecker" and moves.fits_p)
    for entry in (_in_geometry(BASES[base], geometry),)
}
"""By name."""
