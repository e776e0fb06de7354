"""The checks that several studies make, each with its one-sentence error."""

from __future__ import annotations

from typing import Any

import numpy as np

from psgd_core import PermutationSubgroup


def require_rng(rng: np.random.Generator | None) -> np.random.Generator:
    """Return `rng`, or raise TypeError unless it is a numpy.random.Generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"`rng` must be a numpy.random.Generator, got {type(rng).__name__}; "
            "make one with numpy.random.default_rng(seed)"
        )
    return rng


def require_count(name: str, count: Any, least: int = 1, most: int | None = None) -> None:
    """Raise ValueError unless `count` is an int of at least `least` and at most `most`."""
    inside = isinstance(count, int | np.integer) and not isinstance(count, bool) and count >= least
    if not inside or (most is not None and count > most):
        rule = f"of at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"`{name}` must be an int {rule}, got {count!r}; choose one")


def require_invertible(name: str, values: np.ndarray, unit: float) -> None:
    """Raise ValueError if the eigenvalues are those of a matrix that is singular to the rounding `unit`."""
    magnitudes = np.abs(values)
    low, high = float(np.min(magnitudes)), float(np.max(magnitudes))
    if low <= values.size * unit * high:
        raise ValueError(
            f"`hessian`, {name}, must be invertible, got |λ| from {low:.2g} to {high:.2g}; "
            "study `damped(hessian, λ)` in its place"
        )


def require_subgroup(name: str, subgroup: PermutationSubgroup, n: int) -> None:
    """Raise unless `subgroup` is a subgroup of the permutations of range(n)."""
    if not isinstance(subgroup, PermutationSubgroup):
        raise TypeError(
            f"`{name}` must be a PermutationSubgroup, got {type(subgroup).__name__}; "
            "make one with PermutationSubgroup.from_generators"
        )
    if subgroup.n != n:
        raise ValueError(f"`{name}` must permute range({n}), got a subgroup for n = {subgroup.n}; rebuild it")
