"""The preconditioners that the commands offer, a row for each with all that the commands need.

A new group is one new row. `psgd verify` then checks it, `psgd minimize` and `psgd bench` take its name after
``-p``, and `psgd spectrum` says what the best P of its group leaves of a spectrum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import psgd_core as psgd
from psgd_core import PermutationSubgroup, groups
from psgd_core.preconditioners import OrbitPreconditioner

from . import look

Command = Literal["minimize", "bench", "spectrum"]

ORBIT_CASES = ("definite/exact", "indefinite/exact", "outside/exact")
"""What the default run of `psgd verify` checks of every group with an `orbit`."""


class Size(NamedTuple):
    """What a preconditioner is made for."""

    n: int
    rank: int = 0  # of low-rank ones
    shape: tuple[int, ...] = ()  # of the tensor of Kronecker products


@dataclass(frozen=True)
class Checked:
    """How `psgd verify` checks a preconditioner.

    Parameters
    ----------
    name : str
        On the command line.
    cases : tuple of str
        What the default run checks, besides `ORBIT_CASES` of groups with an `orbit`: patterns of
        ``problem/setting`` or ``problem/setting/probe``.
    rank : int
        Of a low-rank one.
    least, usual : int
        The smallest n, and the n it is checked at unless another one is asked for.
    patience : int
        Updates within which one whose rate no theory predicts must have converged.
    geometries : bool
        Whether it is checked in all geometries.
    in_figure : bool
        Whether it has a curve of its own among the exact expectations.
    """

    name: str
    cases: tuple[str, ...] = ()
    rank: int = 0
    least: int = 1
    usual: int = 16
    patience: int = 20_000
    geometries: bool = False
    in_figure: bool = True


@dataclass(frozen=True)
class Kind:
    """A preconditioner, where it exists, and what the commands call it.

    Parameters
    ----------
    label : str
        In tables and figures; "{rank}" and "{shape}" stand for those of the `Size`.
    make : callable
        ``make(size)`` returns the preconditioner.
    marker : str
        In figures; its colour is that of its family.
    verify : Checked, optional
        How it is verified. None: not at all.
    minimize, bench, spectrum : str, optional
        What these commands call it. None: they do not offer it.
    multiple, offset, least : int
        n must be at least `least`, and a multiple of `multiple`, plus `offset`.
    orbit : int, optional
        Of a group of Theorem 3.1 other than GL(n), the size of its orbits; what is left over of n are orbits
        of size 1.
    subgroup : callable, optional
        Of a group of Theorem 3.1, ``subgroup(n)`` returns K.
    """

    label: str
    make: Callable[[Size], psgd.Preconditioner]
    marker: str
    verify: Checked | None = None
    minimize: str | None = None
    bench: str | None = None
    spectrum: str | None = None
    multiple: int = 1
    offset: int = 0
    least: int = 1
    orbit: int | None = None
    subgroup: Callable[[int], PermutationSubgroup] | None = None

    def fits(self, n: int) -> bool:
        """Return whether it exists for n."""
        return n >= self.least and (n - self.offset) % self.multiple == 0

    @property
    def color(self) -> str:
        """In figures."""
        return look.color_of(self.label) or look.COLORS["grey"]

    @property
    def rule(self) -> str:
        """What n must be, in words."""
        if self.multiple == 2:
            return "an odd n" if self.offset else "an even n"
        if self.multiple > 1:
            return f"n divisible by {self.multiple}"
        return f"n >= {self.least}" if self.least > 1 else "any n"

    def named(self, size: Size) -> str:
        """Return the label at a size."""
        return self.label.format(rank=size.rank, shape="x".join(map(str, size.shape)))

    @property
    def indexed(self) -> bool:
        """Whether its orbits are gathered by index."""
        p = self.make(Size(self.smallest, 1, (1,)))
        return isinstance(p, OrbitPreconditioner) and p.group.layout(self.smallest)[0].how == "gathered"

    @property
    def smallest(self) -> int:
        """The smallest n that it exists for."""
        return next(n for n in itertools.count(1) if self.fits(n))


def offered(command: Command) -> dict[str, Kind]:
    """Return the preconditioners that a command offers, by the names it has for them."""
    return {name: kind for kind in KINDS if (name := getattr(kind, command)) is not None}


def _group(
    label: str,
    subgroup: Callable[[int], PermutationSubgroup],
    orbit: int,
    marker: str,
    own: Callable[[], psgd.Preconditioner] | None = None,
    **more: Any,
) -> Kind:
    """Return the row of a group of Theorem 3.1: of its `own` class, or of `Sparse` over the subgroup."""

    def make(size: Size) -> psgd.Preconditioner:
        return psgd.Sparse(subgroup(size.n)) if own is None else own()

    return Kind(label, make, marker, orbit=orbit, subgroup=subgroup, **more)


def _s3(n: int) -> PermutationSubgroup:
    """Return all permutations of three blocks."""
    return PermutationSubgroup.on_blocks(n, ((1, 0, 2), (1, 2, 0)))


def _cyclic(n: int) -> PermutationSubgroup:
    return PermutationSubgroup.cyclic(n, 4)


def _dihedral(n: int) -> PermutationSubgroup:
    return PermutationSubgroup.dihedral(n, 4)


def rectangle(n: int) -> tuple[int, int]:
    """Return (s, n / s) with the largest s up to the root of n."""
    s = next(s for s in range(int(n**0.5), 0, -1) if n % s == 0)
    return s, n // s


GROUPS = (
    _group(
        "Diagonal", PermutationSubgroup.trivial, 1, "o", psgd.Diagonal,
        verify=Checked("diagonal", ("*/online/*", "outside/outside/*")),
        minimize="diagonal", bench="diagonal", spectrum="Diagonal",
    ),
    _group(
        "XMat", PermutationSubgroup.flip, 2, "s", psgd.XMat, least=2,
        verify=Checked(
            "xmat",
            ("ill-conditioned/exact", "rosenbrock/exact", "definite/online/*", "indefinite/floor/*",
             "outside/outside/rademacher", "indefinite/whitening"),
            geometries=True,
        ),
        minimize="xmat", bench="xmat", spectrum="XMat",
    ),
    _group(
        "Butterfly", PermutationSubgroup.half_shift, 2, "^", psgd.Butterfly, multiple=2,
        verify=Checked("butterfly", ("definite/online/*",), in_figure=False),
        minimize="butterfly", bench="butterfly", spectrum="Butterfly",
    ),
    _group(
        "Sparse(neighbours)", PermutationSubgroup.neighbour_swap, 2, "p", multiple=2,
        minimize="sparse-neighbours", spectrum="neighbour swap",
    ),
    _group(
        "Sparse(Klein)", PermutationSubgroup.klein, 4, "D", multiple=4,
        verify=Checked("sparse-klein", ("noisy/exact", "definite/online/*"), geometries=True),
        bench="klein", spectrum="Klein four",
    ),
    _group("Sparse(cyclic 4)", _cyclic, 4, "d", multiple=4, bench="cyclic"),
    _group(
        "Sparse(S3)", _s3, 3, "v", multiple=3,
        verify=Checked("sparse-s3", ("definite/online/*",)),
    ),
    _group("Sparse(dihedral)", _dihedral, 8, "P", multiple=8, verify=Checked("sparse-dihedral")),
    _group(
        "Sparse(odd flip)", PermutationSubgroup.flip, 2, "X", multiple=2, offset=1, least=3,
        verify=Checked("sparse-odd-flip", in_figure=False),
    ),
)  # fmt: skip
"""The groups of Theorem 3.1 with small orbits."""

KINDS = (
    *GROUPS,
    Kind(
        "Dense", lambda size: psgd.Dense(), "h",
        verify=Checked(
            "dense",
            ("definite/exact", "indefinite/exact", "noisy/exact", "rosenbrock/exact", "definite/online/*",
             "indefinite/floor/*", "noisy/floor/*", "drifting/tracking/*"),
            geometries=True,
        ),
        minimize="dense", bench="dense",
    ),
    Kind(
        "Kronecker", lambda size: psgd.Kronecker(rectangle(size.n), "dense"), "H",
        verify=Checked(
            "kronecker", ("outside/exact", "kronecker/exact", "outside/whitening"),
            least=4, patience=2000, geometries=True,
        ),
    ),
    Kind(
        "Kronecker(dense, diagonal)",
        lambda size: psgd.Kronecker(rectangle(size.n), ("triangular", "diagonal")), "8",
        verify=Checked("kronecker-mixed", ("outside/exact", "kronecker/exact"), least=4, patience=6000),
    ),
    Kind(
        "Kronecker({shape})", lambda size: psgd.Kronecker(size.shape), "H",
        bench="kronecker", spectrum="Kronecker",
    ),
    Kind(
        "LowRank({rank})", lambda size: psgd.LowRank(size.rank), "*", least=2,
        verify=Checked("lowrank", ("low-rank/exact", "low-rank/online/gaussian"), rank=2, least=4, usual=20),
        minimize="lowrank", bench="lowrank", spectrum="LowRank",
    ),
    Kind(
        "LowRank({rank}), left", lambda size: psgd.LowRank(size.rank, diagonal="left"), "p",
        verify=Checked("lowrank-left", rank=2, least=4, usual=20, patience=60_000),
    ),
    Kind(
        "LowRank({rank})", lambda size: psgd.LowRank(size.rank), "d",
        verify=Checked("lowrank-tails", ("two-tails/exact",), rank=1, least=4, usual=20),
    ),
    Kind(
        "ClosedForm, diagonal", lambda size: psgd.ClosedForm(groups.DiagonalGroup()), "o",
        minimize="closed-form-diagonal",
    ),
    Kind(
        "ClosedForm, GL(n)", lambda size: psgd.ClosedForm(groups.GeneralLinear()), "h",
        minimize="closed-form-dense",
    ),
)  # fmt: skip
"""In the order that tables have them."""
