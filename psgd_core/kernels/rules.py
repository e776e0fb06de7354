"""What kernels are told about a preconditioner: how it is fitted, in their own terms.

A preconditioner makes its rule once; `dispatch` passes it on with every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays.library import Array

Layout = tuple[tuple[int, int, str, int], ...]
"""Per orbit size (size, count, how, start): where the members of the orbits are in a vector of length n.

Member i of orbit j is at ``start + j`` ("direct", orbits of one), ``start + i count + j`` ("shifted"), j or
``n - 1 - j`` ("mirrored", orbits of two), or where ``order[start + i count + j]`` says ("gathered").
"""


class Jump(NamedTuple):
    """When the scale of Q is set anew, because H has jumped."""

    far: float  # the ratio of |a| and |b| beyond which a pair says that Q is off its scale
    shrink: int  # so many pairs in a row with Q too large
    grow: int  # so many with Q too small


class OrbitRule(NamedTuple):
    """How a preconditioner on a Theorem 3.1 group is fitted, by the left generator and a step per orbit."""

    layout: Callable[[int], Layout]  # for n; empty where the group has a layout that kernels do not know
    decay: float | None  # of the normaliser `Running`, -1 for `Sample`; None: only `precondition` has kernels
    exact_damping: bool  # damping in expectation, or by noise on h
    jump: Jump


class LowRankRule(NamedTuple):
    """How ``Q = (I + U V^T) diag(d)`` is fitted; of ``diag(d) (I + U V^T)`` only ``P g`` has kernels."""

    rank: int
    diagonal_first: bool  # whether Q x begins with d x
    measure: (
        Literal["curvature", "gradient"] | None
    )  # for the normaliser; None: only `precondition` has kernels
    scale: Callable[[Any, Any, Any], tuple[Any, Any]]  # the normaliser: (held, size, step) to (N, held)
    gauge_every: int  # updates from one change of gauge to the next
    jump: Jump
    counted: Callable[..., dict[str, Array]]
    """For a GPU: (state, growth of P, (|a|, |b|), complete, seen, due) to the counters by name."""


Rule = OrbitRule | LowRankRule


def float_of(step: Any) -> float | None:
    """Return a step as a float; None if it is not a floating-point number whose value is on the host."""
    if isinstance(step, np.ndarray | np.floating) and step.ndim == 0 and step.dtype.kind == "f":
        return float(step)
    return step if type(step) is float else None
