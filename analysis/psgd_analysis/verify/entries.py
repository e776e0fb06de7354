"""The preconditioners that are verified, by the names they have on the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

import psgd_core as psgd
from psgd_core.convergence import stable_step
from psgd_core.preconditioners import GEOMETRIES, GeometryName, OrbitPreconditioner

from ..arrays import to_host
from ..kinds import KINDS, Checked, Kind, Size


@dataclass(frozen=True)
class Entry:
    """A preconditioner in a geometry, and where it can be verified.

    Parameters
    ----------
    kind : Kind
    checked : Checked
        How it is verified.
    geometry : str
        How Q moves.
    settings : tuple of str
        What it is verified in; empty for everything that makes sense.
    kappa_limit : float
        The largest condition number it can be expected to converge on in reasonable time.
    """

    kind: Kind
    checked: Checked
    geometry: GeometryName = "EQ"
    settings: tuple[str, ...] = ()
    kappa_limit: float = np.inf

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        name = self.checked.name
        return name if self.geometry == "EQ" else f"{self.geometry.lower()}-{name}"

    @property
    def label(self) -> str:
        """What it is called in tables and figures."""
        label = self.kind.named(Size(self.least, self.checked.rank))
        return label if self.geometry == "EQ" else f"{label}, {self.geometry}"

    def make(self, n: int, **options: Any) -> psgd.Preconditioner:
        """Return the preconditioner for n, with other options if any are given."""
        if self.geometry != "EQ":
            options["geometry"] = self.geometry
        p = self.kind.make(Size(n, self.checked.rank))
        return replace(p, **options) if options else p  # type: ignore[type-var]

    @property
    def least(self) -> int:
        """The smallest n."""
        return max(self.checked.least, self.kind.smallest)

    def size(self, n: int) -> int:
        """Return the largest size up to n that the group has, or the least there is."""
        multiple, offset = self.kind.multiple, self.kind.offset
        return max(self.least, (n - offset) // multiple * multiple + offset)

    def fits(self, n: int) -> bool:
        """Return whether it can be verified at n."""
        return n >= self.least and self.kind.fits(n)

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
    def diagonal(self) -> Literal["right", "left"]:
        """Where diag(d) stands in a low-rank one."""
        return getattr(self.make(self.least), "diagonal", "right")

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
        kinds: list[Literal["dense", "diagonal"]] = [
            "diagonal" if kind == "diagonal" else "dense" for kind in p.kinds
        ]
        return to_host(psgd.criterion.kronecker_minimizer(hessian, p.shape, tuple(kinds), noise))

    def largest_step(self, kappa: float) -> float:
        """Return the step below which the geometry is stable, on the condition number of an orbit."""
        return stable_step(kappa, self.geometry)


BASES = {
    entry.name: entry for entry in (Entry(kind, kind.verify) for kind in KINDS if kind.verify is not None)
}
"""In the geometry EQ, by name."""


def _in_geometry(base: Entry, geometry: GeometryName) -> Entry:
    """Return the preconditioner in another geometry, on condition numbers that leave it a usable step."""
    limit = 100.0 if stable_step(100.0, geometry) > 0.1 else 10.0
    return replace(base, geometry=geometry, settings=("exact", "whitening"), kappa_limit=limit)


ENTRIES = BASES | {
    entry.name: entry
    for base in BASES.values()
    if base.checked.geometries
    for geometry, moves in GEOMETRIES.items()
    if geometry != "EQ" and not (base.kronecker is not None and moves.fits_p)
    for entry in (_in_geometry(base, geometry),)
}
"""By name."""
