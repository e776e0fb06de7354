"""The mean of past gradients that a step takes in place of the last one."""

from __future__ import annotations

from ..arrays.library import Array, namespace


def averaged(past: Array, g: Array, count: Array, momentum: float | Array) -> Array:
    """Return the mean of the gradients after g, where `past` is the mean of the `count` before."""
    xp = namespace(g)
    t = xp.astype(count, g.dtype)
    weight = xp.minimum(t / (t + 1), 0 * t + momentum)
    return weight * past + (1 - weight) * g
