"""Hessians to draw pairs from, made for a seed; they are NumPy arrays in float64 unless said otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

import psgd_core as psgd
from psgd_core import convergence
from psgd_core.groups import OrbitGroup

from ..arrays import to_host
from ..kinds import KINDS, Size
from ..problems import digits, hessians
from ..problems import probes as draw_probes
from .networks import lenet, tanh_network

Probe = Literal["gaussian", "rademacher"]

MARKS = (10, 30, 100, 300, 1000)
"""Numbers of products after which P is measured, unless a task has others."""


@dataclass(frozen=True, eq=False)
class Task:
    """A Hessian, the preconditioner that is to learn it, and when to measure.

    Parameters
    ----------
    kind : str
        The preconditioner: one of `psgd_analysis.kinds`, by its class, or a group's label.
    n, rank : int
    product : callable
        ``product(v)`` returns H v for columns v.
    marks : tuple of int
    hessian : array, shape (n, n), optional
        H itself, where n is small enough.
    orbits : tuple of arrays, optional
        Of a group of Theorem 3.1.
    group : OrbitGroup, optional
    minimizer : array, shape (n, n), optional
        The criterion's minimiser, where distance is measured.
    inside : bool
        Whether ``|H|^{-1}`` is one of the P that can be reached.
    probe : str
    """

    kind: str
    n: int
    product: Callable[[np.ndarray], np.ndarray]
    marks: tuple[int, ...] = MARKS
    rank: int = 0
    hessian: np.ndarray | None = None
    orbits: tuple[np.ndarray, ...] | None = None
    group: OrbitGroup | None = None
    minimizer: np.ndarray | None = None
    inside: bool = True
    probe: Probe = "gaussian"

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `count` pairs as columns."""
        v = draw_probes(self.n, rng, count, kind=self.probe)
        return v, self.product(v)

    @cached_property
    def target(self) -> convergence.Target | None:
        """What distance is measured from."""
        return None if self.minimizer is None else convergence.target_at(self.minimizer)

    @property
    def whole(self) -> bool:
        """Whether P can be any positive definite matrix."""
        return self.orbits is not None and len(self.orbits) == 1 and self.orbits[0].shape[1] == 1


@dataclass(frozen=True)
class TaskKind:
    """A row of `TASKS`.

    Parameters
    ----------
    name, about : str
        As on the command line, and one line for ``--list``.
    family : str
        What tables put together.
    make : callable
        ``make(seed)`` returns a `Task`.
    measures : tuple of str
        Of "distance", "criterion" (over the least there is), "kappa" (of P H): those that tables show.
    usual : bool
        Whether the default run has it.
    """

    name: str
    about: str
    family: str
    make: Callable[[int], Task]
    measures: tuple[str, ...] = ("distance",)
    usual: bool = True


def of_matrix(kind: str, hessian: np.ndarray, **more: object) -> Task:
    """Return the task of a Hessian that is there as a matrix."""
    return Task(kind, hessian.shape[0], lambda v: hessian @ v, hessian=hessian, **more)  # type: ignore[arg-type]


# -- groups ------------------------------------------------------------------------------------------------

N, KAPPA = 16, 100.0
GROUP_MARKS = (30, 100, 300, 1000, 3000, 6000)


def _signed(h: np.ndarray, negative: int, rng: np.random.Generator) -> np.ndarray:
    """Return H with that many of its positive eigenvalues made negative, drawn at random."""
    w, e = np.linalg.eigh(h)
    w[rng.permutation(w.size)[:negative]] *= -1
    h = (e * w) @ e.T
    return (h + h.T) / 2


def _in_group(group: str, negative: int, probe: Probe, seed: int) -> Task:
    """Return an H with that many negative eigenvalues that lies in the group."""
    (rng, p, orbits) = _made(group, seed)
    h = hessians.in_group(orbits, N, KAPPA, rng)
    where = rng.permutation(N)[:negative]  # of the eigenvalues, orbit after orbit
    start = 0
    for orbit in (orbit for members in orbits for orbit in members.T):
        w, e = np.linalg.eigh(h[np.ix_(orbit, orbit)])
        w[np.isin(np.arange(start, start + orbit.size), where)] *= -1
        block = (e * w) @ e.T
        h[np.ix_(orbit, orbit)] = (block + block.T) / 2
        start += orbit.size
    return _of_group(group, p, orbits, h, probe, inside=True)


def _outside(group: str, negative: int, probe: Probe, seed: int) -> Task:
    """Return an H with that many negative eigenvalues that lies in GL(n) only."""
    (rng, p, orbits) = _made(group, seed)
    h = _signed(hessians.dense(N, KAPPA, rng), negative, rng)
    return _of_group(group, p, orbits, h, probe, inside=False)


def _made(group: str, seed: int) -> tuple[np.random.Generator, psgd.Preconditioner, tuple[np.ndarray, ...]]:
    p = preconditioner(group, N, 0)
    orbits = p.group.subgroup(N).orbit_index  # type: ignore[attr-defined]
    return np.random.default_rng((seed, 1)), p, tuple(np.asarray(members) for members in orbits)


def _of_group(
    group: str,
    p: psgd.Preconditioner,
    orbits: tuple[np.ndarray, ...],
    h: np.ndarray,
    probe: Probe,
    inside: bool,
) -> Task:
    return of_matrix(
        group,
        h,
        marks=GROUP_MARKS,
        orbits=orbits,
        group=p.group,  # type: ignore[attr-defined]
        minimizer=to_host(psgd.criterion.group_minimizer(h, orbits)),
        inside=inside,
        probe=probe,
    )


def preconditioner(label: str, n: int, rank: int) -> psgd.Preconditioner:
    """Return a preconditioner of `psgd_analysis.kinds` by its label."""
    kind = next(kind for kind in KINDS if kind.label.split("({rank}")[0] == label)
    return kind.make(Size(n, rank))


GROUPS = ("Diagonal", "XMat", "Sparse(Klein)", "Dense")
"""Of `psgd_analysis.kinds`, by label: orbits of 1, 2, 4 and n."""


def _group_task(group: str, place: str, negative: int, probe: Probe) -> TaskKind:
    inside = place == "inside"

    def make(seed: int) -> Task:
        return (_in_group if inside else _outside)(group, negative, probe, seed)

    where = "in the group" if inside else "outside the group"
    about = f"n = {N}, kappa {KAPPA:g}, {negative} negative eigenvalues, {where}, {probe} probes"
    name = f"{group.lower()}/{place}/{negative}/{probe}"
    return TaskKind(name, about, "groups", make, usual=probe == "gaussian" and negative != 4)


def _groups() -> Iterator[TaskKind]:
    probes: tuple[Probe, ...] = ("gaussian", "rademacher")
    for group, probe, place in itertools.product(GROUPS, probes, ("inside", "outside")):
        if group != "Dense" or place == "inside":
            yield from (_group_task(group, place, negative, probe) for negative in (0, 4, 8))


# -- Kronecker products ------------------------------------------------------------------------------------


def _kronecker(place: str, negative: int, seed: int) -> Task:
    """Return ``H_1 ⊗ H_2``, 4 x 4 each with condition number 10, or an H in GL(n) only."""
    rng = np.random.default_rng((seed, 1))
    p = preconditioner("Kronecker", N, 0)
    assert isinstance(p, psgd.Kronecker)
    s = p.shape[0]
    if place == "inside":
        first = _signed(hessians.dense(s, KAPPA**0.5, rng), negative // (N // s), rng)
        h = np.kron(first, hessians.dense(N // s, KAPPA**0.5, rng))
    else:
        h = _signed(hessians.dense(N, KAPPA, rng), negative, rng)
    best = to_host(psgd.criterion.kronecker_minimizer(h, p.shape))
    return of_matrix("Kronecker", h, marks=GROUP_MARKS, minimizer=best, inside=place == "inside")


def _kronecker_task(place: str, negative: int) -> TaskKind:
    where = "a product of two" if place == "inside" else "no product"
    return TaskKind(
        f"kronecker/{place}/{negative}/gaussian",
        f"n = {N}, kappa {KAPPA:g}, {negative} negative eigenvalues, {where}, gaussian probes",
        "groups",
        lambda seed: _kronecker(place, negative, seed),
        usual=False,
    )


KRONECKER = tuple(_kronecker_task(*row) for row in itertools.product(("inside", "outside"), (0, 4, 8)))

# -- low rank ----------------------------------------------------------------------------------------------


def low_rank_family(n: int, r: int, g: float, rng: np.random.Generator) -> np.ndarray:
    """Return H with ``H^{-1} = Q^T Q``, ``Q = (I + g U V^T) diag(d)``, d within a factor of 10.

    Columns of U and V are Gaussian, of length about 1; g = 1 gives condition numbers around 25, g = 3 from
    100 to 4,000.
    """
    d = np.exp(rng.uniform(-0.5, 0.5, n) * np.log(10.0) / 2)
    u, v = rng.standard_normal((2, n, r)) / np.sqrt(n)
    q = (np.eye(n) + g * u @ v.T) * d
    h = np.linalg.inv(q.T @ q)
    return (h + h.T) / 2


def _low_rank(n: int, r: int, g: float, low: float, high: float, marks: tuple[int, ...], seed: int) -> Task:
    """Return the first of the family, from a seed on, whose condition number lies between two numbers."""
    rng = np.random.default_rng((seed, 2))
    while True:
        h = low_rank_family(n, r, g, rng)
        if low <= np.linalg.cond(h) <= high:
            return of_matrix(
                "LowRank", h, rank=r, marks=marks, minimizer=to_host(psgd.criterion.absolute_inverse(h))
            )


SMALL_MARKS = (50, 100, 200, 300, 500, 1000, 2000)
LARGE_MARKS = (50, 100, 200, 300, 500)

LOW_RANK = (
    TaskKind(
        "lowrank/25", "n = 20, r = 2, kappa 20 to 30, |H|^{-1} can be reached", "low rank",
        lambda seed: _low_rank(20, 2, 1.0, 20.0, 30.0, SMALL_MARKS, seed), ("distance",),
    ),
    TaskKind(
        "lowrank/600", "n = 20, r = 2, kappa 400 to 800, |H|^{-1} can be reached", "low rank",
        lambda seed: _low_rank(20, 2, 3.0, 400.0, 800.0, SMALL_MARKS, seed), ("distance",),
    ),
    TaskKind(
        "lowrank/200", "n = 200, r = 10, kappa 20 to 40, |H|^{-1} can be reached", "low rank",
        lambda seed: _low_rank(200, 10, 1.0, 20.0, 40.0, LARGE_MARKS, seed), ("distance",), usual=False,
    ),
    TaskKind(
        "spectrum", "n = 40, indefinite, kappa 1,000, as `psgd spectrum indefinite` makes them", "real",
        lambda seed: of_matrix(
            "LowRank", hessians.dense(40, 1000.0, np.random.default_rng((seed, 3)), indefinite=True),
            rank=10, inside=False,
        ),
        ("criterion", "kappa"),
    ),
)  # fmt: skip

# -- real Hessians -----------------------------------------------------------------------------------------


def _digits(seed: int) -> Task:
    problem = digits()
    h = problem.hessian(problem.start)
    return of_matrix("LowRank", (h + h.T) / 2, rank=10, inside=False)


def _network(seed: int) -> Task:
    return of_matrix("LowRank", tanh_network(np.random.default_rng((seed, 5))), rank=10, inside=False)


def real(data: Path | None) -> tuple[TaskKind, ...]:
    """Return the tasks with real Hessians; LeNet5 needs a folder with MNIST's training images."""
    found = (
        TaskKind(
            "digits", "softmax regression on digits at its start, n = 650, definite", "real", _digits,
            ("criterion", "kappa"), usual=False,
        ),
        TaskKind(
            "network", "a tanh network on iris at random weights, n = 171, indefinite", "real", _network,
            ("criterion", "kappa"),
        ),
    )  # fmt: skip
    if data is None:
        return found

    def large(seed: int) -> Task:
        n, product = lenet(data, seed)
        return Task("LowRank", n, product, rank=10, inside=False)

    about = "LeNet5 on 2,000 MNIST images at random weights, n = 44,426, float32, by held-out products"
    return (*found, TaskKind("lenet5", about, "real", large, ("criterion",), usual=False))


TASKS = {kind.name: kind for kind in (*_groups(), *KRONECKER, *LOW_RANK, *real(None))}
"""By name, without those that need a folder of data."""
