"""The families that `psgd spectrum` compares, by the names it has for them on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

import psgd_core as psgd

from ..terminal import UsageError, unknown
from .families import label_of
from .groups import named_families

USUAL = ("diagonal", "xmat", "kronecker", "lowrank")
"""What is compared unless others are asked for."""

LARGEST_ORBIT = 8
"""Of the groups that are studied by default."""

FORMS = {
    "lowrank": "low rank, with the largest of --ranks columns; lowrank-R with R",
    "kronecker": "Kronecker products for a matrix as square as n allows; kronecker-SxT for S x T",
    "cyclic-S": "cyclic shifts with orbits of S",
    "dihedral-S": "dihedral groups with orbits of S",
    "dense": "GL(n)",
}
"""What names stand for that are not those of a group."""


def default_groups(n: int, rank: int) -> dict[str, Any]:
    """Return the families of the group study, without GL(n), whose criterion is 1."""
    found = named_families(n, LARGEST_ORBIT, rank)
    return {name: k for name, k in found.items() if name != "GL(n)" or n == 1}


def by_slug(n: int, rank: int) -> dict[str, tuple[str, Any]]:
    """Return label and family of all that have a name at this n, by their names on the command line."""
    found = {}
    for label, family in named_families(n, n, rank).items():
        plain = isinstance(family, psgd.LowRank | psgd.Kronecker)
        found[slug(label.partition("(")[0] if plain else label)] = (label, family)
    return found | {"dense": ("GL(n)", psgd.Dense())}


def slug(label: str) -> str:
    """Return a label as one word for the command line: "Klein four" is klein-four, "cyclic(4)" cyclic-4."""
    return "-".join(re.findall(r"[a-z0-9]+", label.lower()))


def best_of(names: Sequence[str], n: int, rank: int) -> dict[str, Any]:
    """Return families by label.

    Parameters
    ----------
    names : sequence of str
        From the command line; `USUAL`, as far as they exist at this n, if there are none.
    n : int
    rank : int
        Of lowrank without a number.

    Raises
    ------
    UsageError
        For a name that is unknown, or does not exist at this n.
    """
    known = by_slug(n, rank)
    if not names:
        names = [name for name in USUAL if name in known]
    found: dict[str, Any] = {}
    for name in names:
        chosen = f"lowrank-{rank}" if name == "lowrank" else name
        label, family = known.get(name) or _with_numbers(chosen, n, list(known))
        found[label] = family
    return found


def _with_numbers(name: str, n: int, known: Sequence[str]) -> tuple[str, Any]:
    """Return label and family of ``lowrank-R`` or ``kronecker-SxT``."""
    try:
        if found := re.fullmatch(r"lowrank-(\d{1,9})", name):
            family: psgd.Preconditioner = psgd.LowRank(int(found[1]))
            family.init(n, like=np.zeros(1))
        elif found := re.fullmatch(r"kronecker-(\d{1,9}(?:x\d{1,9})*)", name):
            family = psgd.Kronecker(tuple(int(s) for s in found[1].split("x")))
            family.init(n, like=np.zeros(1))
        else:
            raise UsageError(f"`--compare` {unknown(name, known)}")
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"`--compare {name}`: {error}") from error
    return label_of(family), family
