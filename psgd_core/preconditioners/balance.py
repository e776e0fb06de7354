"""The scale of a Kronecker product, shared evenly among its factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arrays.library import Array, known, namespace, spread
from ..arrays.vectors import largest


def balanced(factors: Sequence[Array], lead: int) -> tuple[list[Array], list[Any]]:
    """Return factors with about equal largest entries, the same product, and what each was multiplied by.

    By powers of two, so that nothing is rounded, and what is fitted to a multiple of H is a multiple.

    Parameters
    ----------
    factors : sequence of arrays
    lead : int
        Axes before those of a factor: 1 where each array holds those of several products.
    """
    xp, even = namespace(*factors), [1.0] * len(factors)
    if len(factors) == 1:
        return list(factors), even
    sizes = [xp.max(xp.abs(q), axis=tuple(range(lead, q.ndim))) if lead else largest(q) for q in factors]
    logs = xp.log2(xp.stack(sizes))
    total = xp.sum(logs, axis=0)  # finite where all of them are
    off = total / len(factors) - logs
    if known(xp.max(xp.abs(off)) <= 0.5):  # nearly always
        return list(factors), even
    others = xp.where(xp.isfinite(total), xp.round(off), xp.zeros_like(off))[1:, ...]
    powers: list[Any] = [-xp.sum(others, axis=0), *(others[i, ...] for i in range(len(factors) - 1))]
    shifts = [2.0**power for power in powers]
    return [q * spread(shift, q.ndim) for q, shift in zip(factors, shifts, strict=True)], shifts
