"""The table of checks: every preconditioner with every Hessian and setting that suits it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from ..kinds import ORBIT_CASES
from .entries import BASES, ENTRIES, Entry
from .families import FAMILIES, OWN, Family, Situation, situation
from .settings import SETTINGS


@dataclass(frozen=True)
class Case:
    """One check, by the names of its parts; see `entries`, `families` and `settings`."""

    preconditioner: str
    problem: str
    setting: str
    probe: str | None = None
    replica: int = 0

    @property
    def name(self) -> str:
        """The parts, as `--list` prints them and `CHOSEN` matches them."""
        probe = () if self.probe is None else (self.probe,)
        replica = () if self.replica == 0 else (f"#{self.replica}",)
        return "/".join((self.preconditioner, self.problem, self.setting, *probe, *replica))


class Sizes(NamedTuple):
    """Size, condition number, seed and user's Hessian of the cases."""

    n: int | None = None  # None: as usual for the preconditioner
    kappa: float = 100.0
    seed: int = 0
    hessian: np.ndarray | None = None


CHOSEN = (
    *(
        f"{name}/{case}"
        for name, entry in BASES.items()
        for case in (*(ORBIT_CASES if entry.kind.orbit else ()), *entry.checked.cases)
    ),
    "qe-dense/definite/exact",
    "qe-symmetric-dense/definite/exact",
    "lyapunov-*/definite/exact",
    "lyapunov-kronecker/kronecker/exact",
    "q0.5eq1.5-dense/definite/exact",
    # of --hessian
    *(f"{name}/{OWN.name}/exact" for name in BASES),
    f"lyapunov-*/{OWN.name}/exact",
    f"diagonal/{OWN.name}/outside/rademacher",
    f"dense/{OWN.name}/online/*",
    f"dense/{OWN.name}/floor/*",
    f"xmat/{OWN.name}/whitening",
)
"""The default run, as patterns of case names: those of `kinds` in the geometry EQ, and a few in others."""

LOW_RANK_SEEDS = 10
"""Number of Hessians that a low-rank preconditioner is fitted to; local minima would show in some."""


def situation_of(case: Case, sizes: Sizes) -> Situation:
    """Return the situation of a case.

    Raises
    ------
    ValueError
        If the case does not exist.
    """
    family = OWN if case.problem == OWN.name else FAMILIES[case.problem]
    found = _situation(ENTRIES[case.preconditioner], family, sizes, case.replica)
    if found is None:
        raise ValueError(f"`case` must go together, got {case.name}; take one of `table`")
    return found


def table(
    sizes: Sizes, preconditioners: Iterable[str] | None = None, problems: Iterable[str] | None = None
) -> list[Case]:
    """Return all cases for these preconditioners and problems, all of them by default."""
    entries = [ENTRIES[name] for name in (ENTRIES if preconditioners is None else preconditioners)]
    families = [
        OWN if name == OWN.name else FAMILIES[name] for name in (FAMILIES if problems is None else problems)
    ]
    return [case for entry in entries for family in families for case in _cases(entry, family, sizes)]


def chosen(cases: Iterable[Case]) -> list[Case]:
    """Return the cases of the default run."""
    return [case for case in cases if any(fnmatchcase(case.name, pattern) for pattern in CHOSEN)]


def _cases(entry: Entry, family: Family, sizes: Sizes) -> Iterator[Case]:
    found = _situation(entry, family, sizes, 0)
    if found is None:
        return
    for setting in SETTINGS.values():
        if (entry.settings and setting.name not in entry.settings) or not setting.accepts(found):
            continue
        for probe in setting.probes:
            for replica in range(LOW_RANK_SEEDS if entry.low_rank and setting.name == "online" else 1):
                yield Case(entry.name, family.name, setting.name, probe, replica)


def _situation(entry: Entry, family: Family, sizes: Sizes, replica: int) -> Situation | None:
    if sizes.hessian is not None and family is OWN:
        n = sizes.hessian.shape[0]
    else:
        n = entry.checked.usual if sizes.n is None else sizes.n
    own = sizes.hessian if family is OWN else None
    return situation(entry, family, n, sizes.kappa, own, (sizes.seed, replica))
