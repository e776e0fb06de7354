"""From quadrature nodes to a curve: Gaussian broadening, its width, and the grid that shows it.

The broadened density at t is a sum of Gaussians of width σ at the nodes, each with its node's weight. How
narrow σ may be is decided by two rules for the same probes, a Gauss and an anti-Gauss rule: where their
curves differ, the nodes are too few.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from .recurrence import Rule

Scale = Literal["linear", "log"]
"""The axis of a density: λ, or log10 |λ|."""

_UNRESOLVED = 0.02
"""Truncation error, integrated over t, that the automatic width aims at: 2 % of all eigenvalues."""

_NARROWEST, _WIDEST = 64, 8
"""Bounds of the automatic width, as parts of what holds the middle 90 % of the spectrum."""

_REACH = 5
"""Widths beyond which a Gaussian counts as 0 when the grid is laid."""


class Nodes(NamedTuple):
    """The rules of all probes, on the axis that the density is drawn over."""

    position: np.ndarray  # (N, m): θ, or log10 |θ|
    weights: np.ndarray  # (N, m)
    negative: np.ndarray  # (N, m) bool: θ < 0


def floor_of(gauss: Rule, anti: Rule, zero: float) -> float:
    """Return the ``|λ|`` below which the rules do not resolve eigenvalues on a logarithmic scale.

    The node nearest to 0 is located if the other rule has it too; if not, eigenvalues may be anywhere
    between 0 and the two.
    """
    floor = zero
    for nodes, others in zip(gauss.nodes, anti.nodes, strict=True):
        for here, there in ((nodes, others), (others, nodes)):
            seen = here[np.abs(here) > zero]
            if seen.size:
                nearest = seen[np.argmin(np.abs(seen))]
                apart = float(np.min(np.abs(there - nearest)))
                if apart > 0.02 * abs(nearest):
                    floor = max(floor, abs(nearest) + apart)
    return float(floor)


def place(rule: Rule, scale: Scale, zero: float) -> Nodes:
    """Return the nodes on the axis of the density; a logarithmic one leaves out zeros to rounding."""
    if scale == "linear":
        return Nodes(rule.nodes, rule.weights, rule.nodes < 0)
    seen = np.abs(rule.nodes) > zero
    position = np.log10(np.where(seen, np.abs(rule.nodes), 1.0))
    return Nodes(position, np.where(seen, rule.weights, 0.0), rule.nodes < 0)


def evaluate(a: Nodes, b: Nodes, t: np.ndarray, width: float) -> tuple[np.ndarray, ...]:
    """Return φ, the mean of g^2, the truncation error, and the negative eigenvalues' part of φ, at each t."""
    value, second, truncation, negative = (np.zeros(t.size) for _ in range(4))
    step = max(1, 2**19 // a.position.size)
    for start in range(0, t.size, step):
        block = slice(start, start + step)
        g = _gaussian(t[block, None, None] - a.position, width)
        by_probe = np.sum(g * a.weights, axis=2)
        other = np.sum(_gaussian(t[block, None, None] - b.position, width) * b.weights, axis=2)
        value[block] = np.mean(by_probe, axis=1)
        second[block] = np.mean(np.sum(g * g * a.weights, axis=2), axis=1)
        truncation[block] = np.mean(np.abs(by_probe - other), axis=1)
        negative[block] = np.mean(np.sum(g * a.weights * a.negative, axis=2), axis=1)
    return value, second, truncation, negative


def _gaussian(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-0.5 * (distance / width) ** 2) / (width * np.sqrt(2 * np.pi))


def smoothed(eigenvalues: np.ndarray, grid: np.ndarray, width: float, scale: Scale = "linear") -> np.ndarray:
    """Return the exact density of known eigenvalues, broadened in the same way: what `density` estimates.

    On a logarithmic scale zeros are left out (they count in n).
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if scale == "log":
        values = np.log10(np.abs(values[values != 0]))
    total = np.zeros(len(grid))
    for part in np.array_split(values, -(-values.size // 4096) or 1):
        total += np.sum(_gaussian(np.asarray(grid)[:, None] - part, width), axis=1)
    return total / np.size(eigenvalues)


def narrowest(a: Nodes, b: Nodes) -> float:
    """Return the narrowest width at which the truncation error, integrated, is below `_UNRESOLVED`."""
    seen = a.weights.reshape(-1) > 0
    position, weights = a.position.reshape(-1)[seen], a.weights.reshape(-1)[seen]
    if position.size == 0:
        return 1.0
    order = np.argsort(position)
    position, mass = position[order], np.cumsum(weights[order])
    ends = position[np.searchsorted(mass, [0.05 * mass[-1], 0.95 * mass[-1]])]
    magnitude = float(np.max(np.abs(position))) or 1.0
    extents = (float(ends[1] - ends[0]), float(position[-1] - position[0]))
    extent = next((x for x in extents if x > 1e-6 * magnitude), magnitude)
    low, high = extent / _NARROWEST, extent / _WIDEST

    def unresolved(width: float) -> bool:
        t = grid_for(a, b, width)
        return bool(np.sum(cells(t, width) * evaluate(a, b, t, width)[2]) > _UNRESOLVED)

    if not unresolved(low):
        return low
    for _ in range(6):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if unresolved(middle) else (low, middle)
    return high


def cells(t: np.ndarray, width: float) -> np.ndarray:
    """Return the length that each point of a grid stands for; gaps between clusters are empty."""
    return np.minimum(np.gradient(t), width) if t.size > 1 else np.full(t.size, width)


def grid_for(a: Nodes, b: Nodes, width: float) -> np.ndarray:
    """Return every multiple of width/2 within reach of a node that has weight."""
    seen = np.concatenate([x.position[x.weights > 1e-12] for x in (a, b)])
    steps = np.unique(np.round(seen / (width / 2)))
    reach = np.arange(-2 * _REACH, 2 * _REACH + 1)
    return np.unique(steps[:, None] + reach) * (width / 2)
