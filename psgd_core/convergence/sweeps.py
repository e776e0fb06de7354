"""Sweeps: many small fits to known targets in one call, over seeds, steps and problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import array_api_compat
import numpy as np

from ..arrays.arguments import described, require_count
from ..arrays.lanes import vmap
from ..arrays.library import Array, is_array, require_arrays, require_float, to_host
from ..arrays.matrices import eye
from ..curvature import Gaussian, Probes, Seeds
from ..display import curves
from ..preconditioners import Ensemble, OrbitPreconditioner, Preconditioner
from ..preconditioners.pace import Memory, pace_of
from .targets import Target, measure
from .targets import target as exact_target
from .traces import Trace

CHECKPOINTS = 12
"""How often a sweep measures, by default, at numbers of updates that grow evenly in their logarithm."""

MEASURED = ("distance", "residual", "gap", "criterion", "step")


@dataclass(frozen=True, repr=False)
class Sweep:
    """What became of m fits: how far each was from its target at c checkpoints, on the host in float64."""

    states: Any
    """The states at the end, of the preconditioner's `Ensemble`."""
    updates: np.ndarray
    """(c,): updates made before each checkpoint."""
    distance: np.ndarray
    """(m, c): see `measure`; NaN where P is not finite."""
    residual: np.ndarray
    """(m, c)."""
    gap: np.ndarray
    """(m, c)."""
    criterion: np.ndarray
    """(m, c): ``tr(P M + P^{-1})``, for P in the group of the target."""
    step: np.ndarray
    """(m, c): of the last update before it; NaN where a memory was given."""

    def __len__(self) -> int:
        return len(self.distance)

    def trace(self, i: int, name: str = "") -> Trace:
        """Return the trace of fit i."""
        columns = {column: getattr(self, column)[i].tolist() for column in MEASURED}
        return Trace(name or f"fit {i}", self.updates.tolist(), **columns)

    def plot(self, ax: Any = None) -> Any:
        """Draw the distances, as the median, tenth and ninetieth percentile of the fits; return the axes.

        A fit that is not finite any more counts as infinitely far.

        Parameters
        ----------
        ax : Axes, optional
            matplotlib's; new ones by default.
        """
        far = np.where(np.isnan(self.distance), np.inf, self.distance)
        lines = {}
        for share, label in ((0.9, "90 %"), (0.5, "median"), (0.1, "10 %")):
            at = np.quantile(far, share, axis=0, method="nearest")
            lines[label] = (self.updates, np.where(np.isfinite(at), at, np.nan))
        return curves(ax, lines, title=f"{len(self)} fits", xlabel="updates", ylabel="distance")

    def __repr__(self) -> str:
        last, made = self.distance[:, -1], self.updates[-1]
        ends = (
            f"distance {np.nanmin(last):.2g} to {np.nanmax(last):.2g}" if not np.isnan(last).all() else "NaN"
        )
        return f"Sweep({len(self)} fits, {made} updates, {ends})"


def sweep(
    preconditioner: Preconditioner[Any],
    hessian: Array,
    *,
    updates: int,
    seeds: Iterable[Any],
    step: float | Array | Callable[[int], float | Array] | None = None,
    memory: Memory | None = None,
    probes: Probes | None = None,
    at: Sequence[int] | None = None,
    target: Target | None = None,
    states: Any = None,
) -> Sweep:
    """Fit a preconditioner to exact products many times at once, and follow each fit to its target.

    Fit i is the loop ``v = probes.draw(rng, x); state = p.update(state, v, H_i @ v, step_i)`` with
    ``rng = numpy.random.default_rng(seeds[i])``, to rounding. All of them are one `Ensemble`: for small n an
    update of all costs about what one costs by itself.

    Parameters
    ----------
    preconditioner : Preconditioner
    hessian : array, shape (n, n) or (m, n, n)
        Symmetric: one for all fits, or a problem for each. Sets the library, dtype and device.
        (``d[:, :, None] * numpy.eye(n)`` makes a stack of diagonal ones.)
    updates : int
        How many updates each fit makes.
    seeds : iterable of int
        m of them, one for each fit. Generators in their place are read ahead of what is used.
    step : float, array (m,), or callable, optional
        One for all fits or one for each; a callable of the iteration, such as those of
        `psgd_core.schedules`, returns either.
    memory : float, array (m,) or "all", optional
        In place of a step, for preconditioners that take it.
    probes : Probes, optional
        `Gaussian` by default.
    at : sequence of int, optional
        After how many updates to measure, increasing; the last must be `updates`. By default `CHECKPOINTS` of
        them. To measure a fit costs O(n^3), as much as tens of updates.
    target : Target, optional
        Of all fits (each array with a leading axis of m); by default the minimiser over the preconditioner's
        group of Theorem 3.1, over GL(n) for all others.
    states : State, optional
        To start from, of the `Ensemble`; by default what its `init` makes.

    Raises
    ------
    ValueError, TypeError
        If the arguments do not match.
    """
    many, rng = Ensemble(preconditioner), Seeds(seeds)
    xp, count = require_arrays(hessian=hessian), len(rng)
    require_float("hessian", hessian)
    if hessian.ndim not in (2, 3) or hessian.shape[-1] != hessian.shape[-2]:
        raise ValueError(
            f"`hessian` must have shape (n, n), or (m, n, n) for m fits, got {tuple(hessian.shape)}; "
            "stack diagonal ones as d[:, :, None] * eye(n)"
        )
    n = hessian.shape[-1]
    if hessian.ndim == 2:
        hessian = xp.broadcast_to(hessian, (count, n, n))
    elif hessian.shape[0] != count:
        raise ValueError(
            f"`hessian` must be one for all, or one for each of the {count} seeds, got {hessian.shape[0]}"
        )
    updates = require_count("updates", updates, "it is how often each fit is updated")
    checkpoints = _checkpoints(updates, at)
    if target is None:
        index = None
        if isinstance(preconditioner, OrbitPreconditioner):
            index = preconditioner.group.subgroup(n).orbit_index
        target = vmap(lambda h: exact_target(h, index))(hessian)
    elif not isinstance(target, Target):
        raise TypeError(f"`target` must be a Target, got {described(target)}; make one with `target`")
    like, drawn = hessian[0, 0, ...], Gaussian() if probes is None else probes
    states = many.init(count, n, like) if states is None else states

    def advance(states: Any, v: Array, h: Array, pace: Any) -> Any:
        return many.update(states, v, h, pace, memory=memory)

    compiled: Callable[..., Any] = advance
    if array_api_compat.is_jax_array(hessian):
        import jax

        compiled = jax.jit(advance)
    made, rows = 0, []
    for stop in checkpoints:
        for t in range(made, stop):
            pace = step(t) if callable(step) else step
            v = drawn.draw(rng, like)
            h = hessian @ v if v.ndim == 3 else (hessian @ v[..., None])[..., 0]
            if not (is_array(pace) or is_array(memory)):  # before it is traced
                pace_of(preconditioner, pace, memory, like)
            states = compiled(states, v, h, pace)
        made = stop
        rows.append(_measured(preconditioner, states, target, n, pace, count))
    columns = {name: np.stack([row[i] for row in rows], axis=1) for i, name in enumerate(MEASURED)}
    return Sweep(states, np.asarray(checkpoints), **columns)


def _checkpoints(updates: int, at: Sequence[int] | None) -> list[int]:
    """Return after how many updates to measure."""
    if at is None:
        return sorted({round(x) for x in np.geomspace(1, updates, CHECKPOINTS)})
    found = [require_count("at", t, "it is a number of updates", most=updates) for t in at]
    if not found or found[-1] != updates or any(b <= a for a, b in pairwise(found)):
        raise ValueError(f"`at` must increase and end at `updates`, {updates}, got {described(at)}")
    return found


def _measured(
    p: Preconditioner[Any], states: Any, target: Target, n: int, pace: Any, count: int
) -> list[np.ndarray]:
    """Return what `MEASURED` names, (m,) each."""
    errors = vmap(lambda s, to: measure(p.apply(s, eye(n, to.root)), to))(states, target)
    distance, residual, gap = (to_host(x).astype(np.float64) for x in errors)
    criterion = to_host(target.minimum).astype(np.float64) * (1 + gap)
    step = np.nan if pace is None else to_host(pace) if is_array(pace) else float(pace)
    return [distance, residual, gap, criterion, np.broadcast_to(np.asarray(step, np.float64), (count,))]
