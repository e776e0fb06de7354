"""Options of the command line, checked and turned into a plan of what to measure."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from ..backends import LIBRARIES
from ..terminal import UsageError, unknown
from .contenders import Setting, have_kernels, require_fit
from .costs import KINDS
from .libraries import DTYPES, Library
from .peer import Peer
from .peers import registry
from .run import Plan
from .steps import NAMES as OTHERS
from .timing import Limits

USUAL = ("diagonal", "xmat", "butterfly", "klein", "lowrank")
"""Measured by default; so is dense where n is small."""

QUICK_PEERS = ("torch", "numpy.linalg.solve", "adam")
"""Peers that need no compiler."""

DENSE_USUAL = 1024
KERNELS = ("on", "off", "both")


def chosen(option: str, given: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the names given, without duplicates; raise unless all are known."""
    for name in given:
        if name not in known:
            raise UsageError(f"`{option}` {unknown(name, known)}")
    return list(dict.fromkeys(given))


def sizes(given: Sequence[str]) -> list[int]:
    """Return numbers of parameters, parsed from text such as 10000000 or 1e7.

    Raises
    ------
    UsageError
        If a text is not a positive whole number.
    """
    found = []
    for text in given:
        try:
            number = float(text)
        except ValueError:
            number = 0.5
        if not (1 <= number <= 1e12 and number == int(number)):
            raise UsageError(f"`--n` must be a positive whole number, got {text!r}; 1e7 for example")
        found.append(int(number))
    return list(dict.fromkeys(found))


def shapes_of(
    given: Sequence[str], preconditioners: Sequence[str], n: Sequence[str]
) -> list[tuple[int, ...]]:
    """Return the shapes of ``kronecker``, parsed from text such as 64x32x3x3.

    Raises
    ------
    UsageError
        If a text is not a shape, or if sizes do not go with what is measured: `--shape` is for kronecker,
        `--n` for all others.
    """
    found = []
    for text in given:
        parts = text.split("x")
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise UsageError(
                f"`--shape` must be sizes with x between them, got {text!r}; 1024x1024 for example"
            )
        found.append(tuple(map(int, parts)))
    if given and preconditioners and "kronecker" not in preconditioners:
        raise UsageError("`--shape` must come with `-p kronecker`, which alone has one; the others take --n")
    if n and (set(preconditioners) == {"kronecker"} or (given and not preconditioners)):
        raise UsageError("`--n` must be left out for kronecker, whose n is that of its shape; give --shape")
    return list(dict.fromkeys(found))


def peers_of(given: str | None, paths: Sequence[str], *, quick: bool) -> tuple[list[Peer], list[str]]:
    """Return the peers of updates, and the optimisers whose steps are measured beside PSGD's.

    Parameters
    ----------
    given : str, optional
        "all", "none" or names of both kinds with commas.
    paths : sequence of str
        "NAME=FOLDER" of the peers that are not installed.
    quick : bool
        Only `QUICK_PEERS` unless others are named.
    """
    folders: dict[str, Path] = {}
    for pair in paths:
        name, equals, folder = pair.partition("=")
        if name != "psgd_torch" or not equals:
            raise UsageError(f"`--peer-path` must be psgd_torch=DIR, got {pair!r}; the others come from PyPI")
        if not (Path(folder) / "psgd.py").is_file():
            raise UsageError(
                f"`--peer-path` must name a checkout of psgd_torch, got {folder!r} without psgd.py"
            )
        folders[name] = Path(folder).resolve()
    known = registry(folders)
    names: Sequence[str] = (*known, *OTHERS)
    if given == "none":
        names = ()
    elif given is not None and given != "all":
        names = chosen("--peers", [p.strip() for p in given.split(",")], names)
    elif given is None and quick:
        names = QUICK_PEERS
    return [known[name] for name in names if name in known], [name for name in names if name in OTHERS]


def plan_of(
    *,
    preconditioners: Sequence[str],
    n: Sequence[str],
    ranks: Sequence[int],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[str],
    backends: Sequence[str],
    kernels: str,
    peers: list[Peer],
    limits: Limits,
    seed: int,
) -> Plan:
    """Return the plan, with default copies and threads.

    Raises
    ------
    UsageError, ValueError
        If options are invalid or do not fit together.
    Unavailable
        If a backend cannot be used here.
    """
    if kernels not in KERNELS:
        raise UsageError(f"`--kernels` {unknown(kernels, KERNELS)}")
    at_least("--seed", seed, 0)
    counts = sizes(n)
    kinds = chosen("--preconditioner", preconditioners, KINDS)
    ranks = list(dict.fromkeys(ranks))
    for rank in ranks:
        at_least("--rank", rank, 0)
    # all combinations of what was given
    libraries = [
        Library.of(backend, dtype)
        for backend in chosen("--backend", backends, LIBRARIES)
        for dtype in chosen("--dtype", dtypes, DTYPES)
    ]
    if kernels == "on" and not all(have_kernels(library.device) for library in libraries):
        raise UsageError("`--kernels` must be off or both, got 'on'; this psgd-core has no kernels")
    settings = [
        Setting(kind, math.prod(shape) if kind == "kronecker" else count, library, rank, seed, shape)
        for library in libraries
        for kind in kinds or (*USUAL, "dense")
        for count in (counts if kind != "kronecker" else (0,))
        for rank in (ranks if kind == "lowrank" else (0,))
        for shape in (shapes if kind == "kronecker" else ((),))
        if kinds or _usual(kind, count, rank)
    ]
    for setting in settings:
        require_fit(setting)
    return Plan(settings, kernels, peers, limits)


def _usual(kind: str, n: int, rank: int) -> bool:
    """Return whether a preconditioner is measured at n by default."""
    if kind == "dense":
        return n <= DENSE_USUAL
    if kind == "lowrank":
        return rank < n
    return KINDS[kind].fits(n)


def at_least(option: str, number: float | None, least: float) -> None:
    """Raise if a number is given and too small."""
    if number is not None and not number >= least:
        raise UsageError(f"`{option}` must be at least {least}, got {number}; raise it")
