"""One table of preconditioners and one of subgroups K: adding a row buys a new one all properties.

Tests take the rows through `every`, `core`, `equivariant` and `all_groups`. Sizes are few and small on
purpose: JAX compiles once per shape.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import BACKENDS, _parameter

import psgd_core as psgd
from psgd_core import PermutationSubgroup, normalizers


def backends(wanted):
    """Parametrise a test over the array libraries for which `wanted` is true, as `backend`."""
    return pytest.mark.parametrize("backend", [_parameter(b) for b in BACKENDS if wanted(b)], indirect=True)


without_jax = backends(lambda b: b.library != "jax.numpy")
compiled_jax_only = backends(lambda b: b.jitted or b.library != "jax.numpy")
"""Every library, but JAX under jit alone: run op by op it compiles every operation for every shape."""

# -- subgroups K ---------------------------------------------------------------------------------------------

SHUFFLE_6, SHUFFLE_8 = (4, 0, 5, 2, 1, 3), (3, 6, 0, 7, 5, 1, 4, 2)

GROUPS = {
    "n = 1": PermutationSubgroup.trivial(1),
    "trivial": PermutationSubgroup.trivial(5),
    "flip": PermutationSubgroup.flip(6),
    "odd flip, not free": PermutationSubgroup.flip(7),
    "half shift": PermutationSubgroup.half_shift(6),
    "neighbour swap": PermutationSubgroup.neighbour_swap(6),
    "cyclic": PermutationSubgroup.cyclic(6, 3),
    "all shifts, n prime": PermutationSubgroup.all_shifts(5),
    "trivial, n prime": PermutationSubgroup.trivial(7),
    "Klein": PermutationSubgroup.klein(8),
    "Klein, not free": PermutationSubgroup.klein(6),
    "dihedral, not abelian": PermutationSubgroup.dihedral(12, 3),
    "dihedral, not free": PermutationSubgroup.dihedral(9, 3),
    "dihedral, transitive": PermutationSubgroup.dihedral(5),
    "S_3 on three blocks": PermutationSubgroup.on_blocks(6, [(1, 0, 2), (1, 2, 0)]),
    "three orbit sizes": PermutationSubgroup.from_generators([(1, 0, 2, 3, 4, 5), (0, 1, 3, 4, 2, 5)]),
    "conjugated flip": PermutationSubgroup.flip(6).conjugate(SHUFFLE_6),
    "conjugated cyclic": PermutationSubgroup.cyclic(8, 4).conjugate(SHUFFLE_8),
}
"""Subgroups K by name: free or not, abelian or not, with orbits of one or of several sizes."""

all_groups = pytest.mark.parametrize("subgroup", GROUPS.values(), ids=GROUPS.keys())


def dense_mask(subgroup: PermutationSubgroup) -> np.ndarray:
    """Where matrices of the Theorem 3.1 group may be nonzero: (i, j) with j = σ(i) for some σ in K."""
    mask = np.zeros((subgroup.n, subgroup.n), dtype=bool)
    for sigma in subgroup.elements():
        mask[np.arange(subgroup.n), sigma] = True
    return mask


# -- preconditioners -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A preconditioner with its options, and the n to test it at."""

    preconditioner: psgd.Preconditioner
    n: int = 6
    core: bool = field(default=False, kw_only=True)
    """One of those that run on every array library; the others differ from one of these in an option."""

    @property
    def subgroup(self) -> PermutationSubgroup | None:
        """K, or None for a preconditioner that is not on a group of Theorem 3.1."""
        group = getattr(self.preconditioner, "group", None)
        return None if group is None else group.subgroup(self.n)

    @property
    def geometry(self) -> str:
        return getattr(self.preconditioner, "geometry", "none")


def example(number: str, heading: str) -> ModuleType:
    """What an example defines before a heading, as a module: its classes can be pickled like any other."""
    path = next((Path(__file__).parents[1] / "examples").glob(f"{number}_*.py"))
    source, found, _ = path.read_text(encoding="utf-8").partition(f"# %% [markdown]\n# ## {heading}")
    assert found, f"{path.name} has no heading {heading!r}"
    module = ModuleType(f"example_{number}")
    sys.modules[module.__name__] = module
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


S_3 = GROUPS["S_3 on three blocks"]
Triangular = example("10", "Is it what it says?").Triangular

PRECONDITIONERS = {
    "Diagonal": Row(psgd.Diagonal(), core=True),
    "Diagonal, n = 1": Row(psgd.Diagonal(), 1),
    "Diagonal, step per group": Row(psgd.Diagonal(steps="group")),
    "Diagonal, Gradient": Row(psgd.Diagonal(normalizer=normalizers.Gradient())),
    "XMat": Row(psgd.XMat(), core=True),
    "XMat, odd n": Row(psgd.XMat(), 7),
    "XMat, Sample": Row(psgd.XMat(normalizer=normalizers.Sample())),
    "XMat, no damping": Row(psgd.XMat(damping=0)),
    "XMat, QE-symmetric": Row(psgd.XMat(geometry="QE-symmetric")),
    "Butterfly": Row(psgd.Butterfly()),
    "Sparse, S_3": Row(psgd.Sparse(S_3)),
    "Sparse, three orbit sizes": Row(psgd.Sparse(GROUPS["three orbit sizes"]), core=True),
    "Sparse, step per group": Row(psgd.Sparse(GROUPS["three orbit sizes"], steps="group")),
    "Sparse, dihedral": Row(psgd.Sparse(GROUPS["dihedral, not free"]), 9),
    "Dense": Row(psgd.Dense(), core=True),
    "Dense, n = 1": Row(psgd.Dense(), 1),
    "Dense, Gradient": Row(psgd.Dense(normalizer=normalizers.Gradient())),
    "Dense, QE": Row(psgd.Dense(geometry="QE")),
    "Dense, QE-symmetric": Row(psgd.Dense(geometry="QE-symmetric"), core=True),
    "XMat, Lyapunov": Row(psgd.XMat(geometry="Lyapunov"), 7),
    "XMat, PRO4P": Row(psgd.XMat(geometry="PRO4P")),
    "Butterfly, Q0.5EQ1.5": Row(psgd.Butterfly(geometry="Q0.5EQ1.5")),
    "Sparse, QEQ": Row(psgd.Sparse(S_3, geometry="QEQ")),
    "Sparse, QEP": Row(psgd.Sparse(GROUPS["three orbit sizes"], geometry="QEP")),
    "Dense, QUAD": Row(psgd.Dense(geometry="QUAD")),
    "Dense, Q0.5EQ1.5": Row(psgd.Dense(geometry="Q0.5EQ1.5")),
    "Dense, QUAD4P": Row(psgd.Dense(geometry="QUAD4P")),
    "Dense, Lyapunov": Row(psgd.Dense(geometry="Lyapunov")),
    "LowRank": Row(psgd.LowRank(rank=2), core=True),
    "LowRank, diagonal left": Row(psgd.LowRank(rank=2, diagonal="left"), core=True),
    "LowRank, natural": Row(psgd.LowRank(rank=2, geometry="natural"), core=True),
    "LowRank, natural, rank 0": Row(psgd.LowRank(rank=0, geometry="natural")),
    "LowRank, rank 0": Row(psgd.LowRank(rank=0)),
    "LowRank, rank 0, n = 1": Row(psgd.LowRank(rank=0), 1),
    "LowRank, highest rank": Row(psgd.LowRank(rank=5)),
    "LowRank, Sample": Row(psgd.LowRank(rank=2, normalizer=normalizers.Sample())),
    "LowRank, left, Gradient": Row(
        psgd.LowRank(rank=2, diagonal="left", normalizer=normalizers.Gradient(), damping=0)
    ),
    "Closed form, Diagonal": Row(psgd.ClosedForm(psgd.groups.DiagonalGroup()), core=True),
    "Closed form, X": Row(psgd.ClosedForm(psgd.groups.XMatGroup()), core=True),
    "Closed form, three orbit sizes": Row(
        psgd.ClosedForm(psgd.groups.SparseGroup(GROUPS["three orbit sizes"]), damping=0)
    ),
    "Closed form, GL(n)": Row(psgd.ClosedForm(psgd.groups.GeneralLinear()), 5),
    "Closed form, sampled": Row(
        psgd.ClosedForm(psgd.groups.SparseGroup(GROUPS["three orbit sizes"]), probes="sampled"), core=True
    ),
    "Triangular, of the examples": Row(Triangular(), core=True),
}
"""Preconditioners by name."""


def rows(wanted):
    """Parametrise a test over the rows for which `wanted` is true, as `row`."""
    chosen = {name: row for name, row in PRECONDITIONERS.items() if wanted(row)}
    return pytest.mark.parametrize("row", chosen.values(), ids=chosen.keys())


every = rows(lambda row: True)
core = rows(lambda row: row.core)
equivariant = rows(lambda row: row.geometry == "EQ")


def draw_pairs(n, count, seed, k=None, kappa=4.0):
    """`count` NumPy pairs (v, h), h of a fixed indefinite Hessian of condition number `kappa`, with noise."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    hessian = (basis * np.geomspace(1, kappa, n) * (-1) ** np.arange(n)) @ basis.T
    v = rng.standard_normal((count, n) if k is None else (count, n, k))
    noise = 0.1 * rng.standard_normal(v.shape)
    return v, np.einsum("ij,tj...->ti...", hessian, v) + noise


def to_numpy(backend, tree):
    """A nested NamedTuple of arrays as (nested) tuples of NumPy arrays."""
    if isinstance(tree, tuple):
        return tuple(to_numpy(backend, part) for part in tree)
    return backend.numpy(tree)


def arrays(tree):
    """The arrays of a nested NamedTuple."""
    return [leaf for part in tree for leaf in arrays(part)] if isinstance(tree, tuple) else [tree]
