"""Settings of `PSGD` that belong together, for functions without noise and with it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from ..preconditioners import Dense, Preconditioner
from ..preconditioners.normalizers import Running as RunningBound
from ..preconditioners.normalizers import Sample
from ..schedules import WarmUp
from .clips import Running, TrustRadius
from .psgd import PSGD


def deterministic(preconditioner: Preconditioner | None = None, **settings: Any) -> PSGD:
    """Return settings for functions without noise: fitting and moving as boldly as they may.

    - P is fitted with step 0.9, each update divided by its own curvature bound (`normalizers.Sample`, put in
      where the preconditioner has its default normaliser). That follows H at once, in 3.5 times fewer steps
      than the running bound on Rosenbrock's valley. The bias for which it is not the default vanishes where H
      is positive definite and in the group, because there a = b at the minimiser.
    - lr is 1, Newton's step once P is fitted.
    - `TrustRadius` says how far a step may go, and takes back those that raise f.

    Parameters
    ----------
    preconditioner : Preconditioner, optional
        `Dense` by default.
    **settings
        Anything else that `PSGD` takes, in place of the above.
    """
    chosen = Dense() if preconditioner is None else preconditioner
    if any(f.name == "normalizer" for f in fields(chosen)) and chosen.normalizer == RunningBound():  # type: ignore[arg-type,attr-defined]
        chosen = replace(chosen, normalizer=Sample())  # type: ignore[type-var]
    return PSGD(**{"preconditioner": chosen, "lr": 1.0, "step_size": 0.9, "clip": TrustRadius(), **settings})


def stochastic(preconditioner: Preconditioner | None = None, **settings: Any) -> PSGD:
    """Return settings for functions with noise: everything is averaged over many samples.

    - P is fitted with step 0.1, divided by a running bound (the preconditioner's default), which leaves the
      fixed point where it is.
    - lr is 0.1, and rises to it over the first 100 steps, in which P finds its scale. Lower it towards the
      end (`schedules.Cosine`, `schedules.Exponential`) to average the noise of the gradients out.
    - `clips.Running` allows no step beyond twice their running mean.

    Parameters
    ----------
    preconditioner : Preconditioner, optional
        `Dense` by default.
    **settings
        Anything else that `PSGD` takes, in place of the above.
    """
    chosen = Dense() if preconditioner is None else preconditioner
    return PSGD(
        **{
            "preconditioner": chosen,
            "lr": WarmUp(0.1, over=100),
            "step_size": 0.1,
            "clip": Running(),
            **settings,
        }
    )


PRESETS = {"deterministic": deterministic, "stochastic": stochastic}
"""By name, for `minimize`."""
