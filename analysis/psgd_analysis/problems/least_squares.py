"""Sums of squares ``f(x) = Σ r_i(x)^2`` of residuals that depend on a few variables each.

A function is written down once, as its residuals with their first and second derivatives, in the letters of
the literature; value, gradient and exact Hessian-vector product follow:

    f = Σ r_i^2,    ∇f = 2 J^T r,    ∇^2 f v = 2 (J^T (J v) + Σ r_i ∇^2 r_i v).

Residuals come in families (`Residual`): all of one formula, over copies of the variables and over data
points. The p variables of a formula are columns of shape (copies, 1), data have shape (m,), and so a
family has shape (copies, 1) or (copies, m). `Blocks` cuts x into consecutive groups of p variables (the
"extended" functions of the literature), `Windows` lets p neighbours overlap (chained and banded functions).
Nothing takes more memory than O(n m k) for k probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import array_api_compat

from ..arrays import Array
from .base import Problem


class Residual(NamedTuple):
    """A family of residuals of p variables, with the derivatives that are not zero."""

    value: Array  # (copies, m)
    first: Mapping[int, Array | float]  # j: dr/dx_j, numbers or arrays that broadcast to `value`
    second: Mapping[tuple[int, int], Array | float] = {}  # (j, k), j <= k: d2r/dx_j dx_k


class Layout(Protocol):
    """How variables are grouped: a map of axis 0 of an array to p arrays, and its adjoint."""

    def split(self, x: Array) -> list[Array]:
        """Return the p arrays of shape (copies, ...) that x of shape (n, ...) holds."""
        ...

    def join(self, parts: list[Array]) -> Array:
        """Return the adjoint of `split`: sums over all occurrences of each variable."""
        ...


@dataclass(frozen=True)
class Blocks:
    """Consecutive groups of `p` variables; n is a multiple of p."""

    p: int

    def split(self, x: Array) -> list[Array]:
        """Return the first, second, ... variables of all groups."""
        xp = array_api_compat.array_namespace(x)
        grouped = xp.reshape(x, (x.shape[0] // self.p, self.p, *x.shape[1:]))
        return [grouped[:, j, ...] for j in range(self.p)]

    def join(self, parts: list[Array]) -> Array:
        """Return the groups interleaved again."""
        xp = array_api_compat.array_namespace(parts[0])
        return xp.reshape(xp.stack(parts, axis=1), (-1, *parts[0].shape[1:]))


@dataclass(frozen=True)
class Windows:
    """All runs of `p` neighbours, after `pad` zeros are added at both ends."""

    p: int
    pad: int = 0

    def split(self, x: Array) -> list[Array]:
        """Return the first, second, ... variables of all windows."""
        padded = _extend(x, self.pad, self.pad)
        copies = padded.shape[0] - self.p + 1
        return [padded[j : j + copies, ...] for j in range(self.p)]

    def join(self, parts: list[Array]) -> Array:
        """Return the sum over the windows that hold each variable."""
        total = _extend(parts[0], 0, self.p - 1)
        for j in range(1, self.p):
            total = total + _extend(parts[j], j, self.p - 1 - j)
        return total[self.pad : total.shape[0] - self.pad, ...]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LeastSquares(Problem):
    """A sum of squares of families of residuals.

    Attributes
    ----------
    residuals : callable
        ``residuals(x_1, ..., x_p)`` gives the list of `Residual`, each x_j of shape (copies, 1).
    layout : Layout
        `Blocks` or `Windows`.
    """

    residuals: Callable[..., list[Residual]]
    layout: Layout

    def _families(self, x: Array) -> list[Residual]:
        return self.residuals(*[part[:, None] for part in self.layout.split(x)])

    def _value(self, x: Array, sample: Any) -> Array:
        xp = array_api_compat.array_namespace(x)
        total = 0.0
        for r, _, _ in self._families(x):
            total = total + xp.sum(r * r)
        return total

    def _gradient(self, x: Array, sample: Any) -> Array:
        xp = array_api_compat.array_namespace(x)
        parts = [xp.zeros_like(part) for part in self.layout.split(x)]
        for r, first, _ in self._families(x):
            for j, slope in first.items():
                parts[j] = parts[j] + xp.sum(2.0 * r * slope, axis=1)
        return self.layout.join(parts)

    def _hvp(self, x: Array, v: Array, sample: Any) -> Array:
        xp = array_api_compat.array_namespace(x)
        directions = [part[:, None, :] for part in self.layout.split(v)]  # (copies, 1, k)
        parts = [xp.zeros_like(part[:, 0, :]) for part in directions]
        for r, first, second in self._families(x):
            full = {j: (slope + xp.zeros_like(r))[:, :, None] for j, slope in first.items()}
            change: Any = 0.0  # J v, (copies, m, k)
            for j, slope in full.items():
                change = change + slope * directions[j]
            for j, slope in full.items():
                parts[j] = parts[j] + xp.sum(2.0 * slope * change, axis=1)
            for (j, k), bend in second.items():
                weight = (2.0 * r * bend)[:, :, None]
                parts[j] = parts[j] + xp.sum(weight * directions[k], axis=1)
                if k != j:
                    parts[k] = parts[k] + xp.sum(weight * directions[j], axis=1)
        return self.layout.join(parts)


def _extend(x: Array, before: int, after: int) -> Array:
    """Return x with zeros added at both ends of axis 0."""
    if before == after == 0:
        return x
    xp = array_api_compat.array_namespace(x)

    def zeros(count: int) -> Array:
        return xp.zeros((count, *x.shape[1:]), dtype=x.dtype, device=array_api_compat.device(x))

    return xp.concat([zeros(before), x, zeros(after)], axis=0)
