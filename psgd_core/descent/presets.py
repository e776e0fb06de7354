"""Settings of `PSGD` that belong together, for functions without noise and with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..curvature import Along, Whitening
from ..preconditioners import Dense, Diagonal, LowRank, OrbitPreconditioner, Preconditioner, Replay
from ..preconditioners.naming import named
from ..preconditioners.normalizers import Running, Sample
from ..schedules import Cosine, Exponential, WarmUp
from .clips import AdaptiveNorm, TrustRadius
from .psgd import PSGD

RING = 20
"""Pairs that a descent without noise keeps, at most."""


def deterministic(
    preconditioner: Preconditioner[Any] | None = None, n: int | None = None, **settings: Any
) -> PSGD:
    """Return settings for functions without noise: fit and move as boldly as possible.

    - `LowRank` and groups with orbits get pairs along the steps taken, which costs nothing, and from a probe
      in every tenth step (`Dense`) or fifth (`curvature.Along`): probes alone say little of where the descent
      goes, and steps alone bias P where H is indefinite, or not in the group. Each pair is fitted together
      with the last 20, three times over from the oldest to the newest (`Replay`), or the last ``3 n / 2`` if
      that is less: H moves, and P should follow.
    - `Diagonal`, `Kronecker` and the others get a probe in every step: an element of a diagonal that moves
      little would make itself move less, down to 0, where H is not diagonal (measured). So do natural steps,
      whose metric is that of white probes.
    - P is fitted with step 0.9 (`LowRank`, whose factors move together, with 0.5). Each update is divided by
      its own curvature bound (`normalizers.Sample`, in place of a default normaliser), which follows H at
      once. It is not the default elsewhere because of its bias, which vanishes where H is positive definite
      and in the group: there a = b at the minimiser.
    - lr is 1, Newton's step once P is fitted.
    - `TrustRadius` says how far a step may go, and takes back those that raise f.

    Parameters
    ----------
    preconditioner : Preconditioner, optional
        `Dense` by default.
    n : int, optional
        The number of parameters, if it is small: the ring of pairs is shorter then.
    **settings
        Any other setting of `PSGD`, in place of the above.
    """
    chosen: Any = Dense() if preconditioner is None else named(preconditioner)
    natural = getattr(chosen, "geometry", "") == "natural"
    if getattr(chosen, "normalizer", None) == Running() and not natural:
        chosen = replace(chosen, normalizer=Sample())
    size = RING if n is None else min(RING, (3 * n + 1) // 2)
    own: dict[str, Any] = {
        "preconditioner": chosen,
        "lr": 1.0,
        "step_size": 0.5 if isinstance(chosen, LowRank) else 0.9,
        "clip": TrustRadius(),
    }
    source = settings.get("source")
    integrated = isinstance(source, Whitening) and source.integrated  # then there is no v to keep
    learns = isinstance(chosen, LowRank | OrbitPreconditioner) and not isinstance(chosen, Diagonal)
    if learns and chosen.takes_step and not natural:
        own["source"] = Along(every=10 if isinstance(chosen, Dense) else 5, reuse=True)
        own["replay"] = None if integrated else Replay(size, times=3 * size, order="age")
    return PSGD(**{**own, **settings})


def stochastic(
    preconditioner: Preconditioner[Any] | None = None, iterations: int = 1000, **settings: Any
) -> PSGD:
    """Return settings for functions with noise: bold at first, averaging towards the end.

    - P is fitted with a step that falls from 0.9 to 0.1, divided by a running bound (the preconditioner's
      default), which does not bias the fixed point; the smaller the step, the less noise is left in P. It is
      fitted in every iteration at first, and in 3 % of them from the middle on, where a gradient is worth
      more than a pair.
    - lr falls from 0.5 to 0 by cosine, which averages the noise of the gradients out of x. It rises to 0.5
      over the first twentieth of the iterations, in which P finds its scale.
    - `clips.AdaptiveNorm` limits steps to twice their running mean, against outliers.

    Parameters
    ----------
    preconditioner : Preconditioner, optional
        `Dense` by default.
    iterations : int
        How many there will be: the length of the schedules.
    **settings
        Any other setting of `PSGD`, in place of the above.
    """
    own: dict[str, Any] = {
        "preconditioner": Dense() if preconditioner is None else preconditioner,
        "lr": WarmUp(Cosine(0.5, over=iterations), over=max(1, iterations // 20)),
        "step_size": Exponential(0.9, 0.1, over=iterations),
        "probability": Exponential(1.0, 0.03, over=max(1, iterations // 2)),
        "clip": AdaptiveNorm(),
    }
    return PSGD(**{**own, **settings})
