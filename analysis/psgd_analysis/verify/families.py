"""The Hessians that a preconditioner is verified on, made for the group at hand, on the host.

A family says how to make an `Instance` for given orbits; whether that lies in the group, is definite or
noisy is not declared but looked up in its matrix (`Situation`), so that one's own matrix is treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import psgd_core as psgd
from psgd_core import convergence

from ..arrays import to_host
from ..problems import hessians, rosenbrock_pairs
from ..problems.spectra import haar
from .entries import Entry

Orbits = Sequence[np.ndarray]


class Instance(NamedTuple):
    """What pairs are drawn from: host arrays in float64."""

    hessian: np.ndarray  # (n, n)
    noise_root: np.ndarray | None = None  # N, (n, n): h = H v + N w
    drift: float = 0.0  # H_{t+1} = H_t + u u^T with E|u|^2 = drift^2

    @property
    def noise(self) -> np.ndarray | None:
        """``E[ε ε^T] = N N^T``."""
        return None if self.noise_root is None else self.noise_root @ self.noise_root.T


class Made(NamedTuple):
    """What a family makes a Hessian for."""

    entry: Entry
    n: int
    orbits: Orbits
    kappa: float
    hessian: np.ndarray | None  # the user's own


@dataclass(frozen=True)
class Family:
    """A kind of Hessian.

    Parameters
    ----------
    name, about : str
        As on the command line, and one line for `--list`.
    make : callable
        ``make(made, rng)`` returns an `Instance`.
    suits : callable
        ``suits(entry, n)``: whether it suits a preconditioner of that size.
    place : "inside", "outside" or "any"
        Listed only where H lies inside (outside) the group.
    """

    name: str
    about: str
    make: Callable[[Made, np.random.Generator], Instance]
    suits: Callable[[Entry, int], bool]
    place: str = "any"


class Situation(NamedTuple):
    """A preconditioner with a Hessian, and what theory needs to know of them."""

    entry: Entry
    family: Family
    n: int
    instance: Instance
    orbits: Orbits | None  # None: GL(n), or low rank
    spectra: tuple[np.ndarray, ...]  # eigenvalues of P*^{-1}, per orbit size (s, c)
    inside: bool  # the group holds H, and so |H|^{-1}
    definite: bool

    @property
    def kappa(self) -> float:
        """The largest condition number of ``P*^{-1}`` within an orbit, all that the rate depends on."""
        return max(float(np.max(np.max(h, axis=0) / np.min(h, axis=0))) for h in self.spectra)

    @property
    def largest_orbit(self) -> int:
        """Size of the largest orbit."""
        return max(h.shape[0] for h in self.spectra)

    @property
    def still(self) -> bool:
        """Whether the target stands still."""
        return self.instance.drift == 0


def situation(
    entry: Entry, family: Family, n: int, kappa: float, hessian: np.ndarray | None, seed: Sequence[int]
) -> Situation | None:
    """Return the situation, or None where preconditioner, family and n do not go together."""
    n = entry.size(n) if hessian is None else n
    if not entry.fits(n) or not family.suits(entry, n):
        return None
    # make the Hessian
    orbits = entry.orbits(n)
    kappa = min(kappa, entry.kappa_limit)
    made = Made(entry, n, orbits, kappa, hessian)
    instance = family.make(made, np.random.default_rng(seed))
    # find out whether it lies in the group, and the target
    eigenvalues = np.linalg.eigvalsh(instance.hessian)
    product = entry.minimizer(n, instance.hessian, instance.noise)
    if product is None:
        inside = entry.low_rank or _holds(orbits, instance.hessian)
    else:
        inside = _is_root(product, instance.hessian, eigenvalues)
    if family.place not in ("any", "inside" if inside else "outside"):
        return None
    whole = entry.low_rank or (len(orbits) == 1 and orbits[0].shape[1] == 1)
    if product is None:
        aim = convergence.target(instance.hessian, None if whole else orbits, instance.noise)
    else:
        whole, aim = True, convergence.target_at(product)
    definite = bool(np.min(eigenvalues) > _rounding(eigenvalues))
    spectra = tuple(map(to_host, aim.spectra))
    return Situation(entry, family, n, instance, None if whole else orbits, spectra, inside, definite)


def _rounding(eigenvalues: np.ndarray) -> float:
    """Return the size up to which an eigenvalue may be rounding only, of accidental sign."""
    return eigenvalues.size * 2.0**-52 * float(np.max(np.abs(eigenvalues)))


def _is_root(product: np.ndarray, hessian: np.ndarray, eigenvalues: np.ndarray) -> bool:
    """Return whether a minimiser that was found from ``H^2``, to ``eps κ(H)^2``, is ``|H|^{-1}``."""
    least = max(_rounding(eigenvalues), float(np.min(np.abs(eigenvalues))))
    kappa = float(np.max(np.abs(eigenvalues))) / least
    found = product @ product @ hessian @ hessian
    tolerance = min(0.1, max(1e-6, 64 * eigenvalues.size * 2.0**-52 * kappa**2))
    return bool(np.allclose(found, np.eye(hessian.shape[0]), atol=tolerance))


def _holds(orbits: Orbits, hessian: np.ndarray) -> bool:
    """Return whether H is zero outside the orbits' blocks."""
    label = np.empty(hessian.shape[0], dtype=int)
    count = 0
    for members in orbits:
        label[members] = count + np.arange(members.shape[1])
        count += members.shape[1]
    outside = label[:, None] != label[None, :]
    return bool(np.max(np.abs(hessian), initial=0.0, where=outside) <= 1e-12 * np.max(np.abs(hessian)))


# -- the families ----------------------------------------------------------------------------------------


def _definite(made: Made, rng: np.random.Generator) -> Instance:
    return Instance(hessians.in_group(made.orbits, made.n, made.kappa, rng))


def _indefinite(made: Made, rng: np.random.Generator) -> Instance:
    return Instance(hessians.in_group(made.orbits, made.n, made.kappa, rng, indefinite=True))


def _outside(made: Made, rng: np.random.Generator) -> Instance:
    return Instance(hessians.dense(made.n, made.kappa, rng, indefinite=True))


def _ill_conditioned(made: Made, rng: np.random.Generator) -> Instance:
    """Condition numbers of 10^8 kappa across orbits, of kappa within; of 10 kappa if there is one orbit."""
    count = sum(members.shape[1] for members in made.orbits)
    if count == 1:
        return Instance(hessians.in_group(made.orbits, made.n, 10 * made.kappa, rng))
    h = hessians.in_group(made.orbits, made.n, made.kappa, rng)
    scales = iter(rng.permutation(np.geomspace(1e-4, 1e4, count)))
    unit = np.empty(made.n)
    for members in made.orbits:
        for orbit in members.T:
            unit[orbit] = np.sqrt(next(scales))
    return Instance(unit[:, None] * h * unit[None, :])


def _noisy(made: Made, rng: np.random.Generator) -> Instance:
    h = hessians.in_group(made.orbits, made.n, made.kappa, rng)
    return Instance(h, 0.3 * hessians.in_group(made.orbits, made.n, min(made.kappa, 10.0), rng))


def _drifting(made: Made, rng: np.random.Generator) -> Instance:
    return Instance(hessians.in_group(made.orbits, made.n, made.kappa, rng), drift=0.1)


ROSENBROCK_POINTS = (
    (-1.2, 1.0), (0.0, 1.0), (0.5, 1.0), (-0.5, 0.5), (1.0, 0.5), (-1.0, 1.5), (0.8, 0.2), (1.2, 1.0),
)  # fmt: skip
"""The classic start and seven more; at (0, 1), (0.5, 1), (-0.5, 0.5), (-1, 1.5) H is indefinite."""


def _rosenbrock(made: Made, rng: np.random.Generator) -> Instance:
    """n/2 copies of Rosenbrock's function, each at another point, pairs within orbits if those are even."""
    points = np.array([ROSENBROCK_POINTS[i % len(ROSENBROCK_POINTS)] for i in range(made.n // 2)])
    h = rosenbrock_pairs(made.n).hessian(points.reshape(-1))
    order = np.concatenate([members.T.reshape(-1) for members in made.orbits])
    back = np.argsort(order)
    return Instance(h[back][:, back])


def _low_rank(made: Made, rng: np.random.Generator) -> Instance:
    side = made.entry.diagonal
    return Instance(hessians.low_rank_target(made.n, 2, min(made.kappa, 10.0), rng, diagonal=side).hessian)


TAILS_GAP = 4.0
"""How far both tails of `two-tails` are from the bulk: one eigenvalue 4 times larger, one 4 times smaller."""


def _two_tails(made: Made, rng: np.random.Generator) -> Instance:
    return Instance(hessians.two_tails(made.n, 1, 1, rng, gap=TAILS_GAP).hessian)


def _kronecker(made: Made, rng: np.random.Generator) -> Instance:
    p = made.entry.make(made.n)
    assert isinstance(p, psgd.Kronecker)
    h: np.ndarray = np.eye(1)
    kappa = min(made.kappa, 100.0)
    for s, kind in zip(p.shape, p.kinds, strict=True):
        values = np.geomspace(1, kappa ** (1 / len(p.shape)), s)
        part: np.ndarray = np.diag(rng.permutation(values))
        if kind != "diagonal":
            turn = haar(s, rng, s)
            part = turn @ part @ turn.T
        h = np.kron(h, part)
    return Instance((h + h.T) / 2)


def _own(made: Made, rng: np.random.Generator) -> Instance:
    assert made.hessian is not None
    return Instance(made.hessian)


def _on_orbits(entry: Entry, n: int) -> bool:
    return not entry.free


def _not_low_rank(entry: Entry, n: int) -> bool:
    return not entry.low_rank


def _unlimited(entry: Entry, n: int) -> bool:
    return not entry.free and entry.kappa_limit == np.inf


FAMILIES = {
    family.name: family
    for family in (
        Family("definite", "positive definite, in the group", _definite, _on_orbits),
        Family("indefinite", "indefinite, in the group", _indefinite, _on_orbits),
        Family("outside", "dense and indefinite, outside the group", _outside, _not_low_rank, "outside"),
        Family("ill-conditioned", "orbits of scales 1e-4 to 1e4; or 10 kappa", _ill_conditioned, _unlimited),
        Family("noisy", "noise on the products, covariance in the group", _noisy, _unlimited),
        Family("drifting", "H_{t+1} = H_t + u u^T", _drifting, _unlimited),
        Family(
            "rosenbrock",
            "Rosenbrock's Hessian at eight points, four of them indefinite",
            _rosenbrock,
            lambda entry, n: _unlimited(entry, n) and n % 2 == 0,
        ),
        Family(
            "kronecker",
            "H_1 ⊗ H_2, positive definite",
            _kronecker,
            lambda entry, n: entry.kronecker is not None,
        ),
        Family(
            "low-rank",
            "|H|^{-1} = Q^T Q of rank 2 plus diagonal exactly",
            _low_rank,
            lambda entry, n: entry.low_rank and entry.checked.rank == 2,
        ),
        Family(
            "two-tails",
            "one leading and one trailing eigenvalue, Theorem 3.2",
            _two_tails,
            lambda entry, n: entry.low_rank and entry.checked.rank == 1,
        ),
    )
}
"""By name."""

OWN = Family("own", "the matrix of --hessian", _own, _not_low_rank)
