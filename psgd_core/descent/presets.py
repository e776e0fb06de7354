"""Settings of `PSGD` that belong together, for functions without noise and with it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from ..preconditioners import Dense, LowRank, Preconditioner
from ..preconditioners.normalizers import Running as RunningBound
from ..preconditioners.normalizers import Sample
from ..schedules import Cosine, Exponential, WarmUp
from .clips import Running, TrustRadius
from .psgd import PSGD


def deterministic(preconditioner: Preconditioner | None = None, **settings: Any) -> PSGD:
    """Return settings for functions without noise: fitting and moving as boldly as they may.

    - P is fitted with step 0.9 (`LowRank`, whose factors move together, with 0.2: on Rosenbrock's valley that
      takes a quarter of the steps), each update divided by its own curvature bound (`normalizers.Sample`, put
      in where the preconditioner has its default normaliser). That follows H at once, in 3.5 times fewer
      steps than the running bound on Rosenbrock's valley. The bias for which it is not the default vanishes
      where H is positive definite and in the group, because there a = b at the minimiser.
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
    is_one = isinstance(chosen, Preconditioner)  # anything else `PSGD` refuses
    if is_one and any(f.name == "normalizer" for f in fields(chosen)) and chosen.normalizer == RunningBound():  # type: ignore[arg-type,attr-defined]
        chosen = replace(chosen, normalizer=Sample())  # type: ignore[type-var]
    step = 0.2 if isinstance(chosen, LowRank) else 0.9
    return PSGD(**{"preconditioner": chosen, "lr": 1.0, "step_size": step, "clip": TrustRadius(), **settings})


def stochastic(preconditioner: Preconditioner | None = None, iterations: int = 1000, **settings: Any) -> PSGD:
    """Return settings for functions with noise: bold at first, averaging towards the end.

    - P is fitted with a step falling from 0.9 to 0.1, divided by a running bound (the preconditioner's
      default), which leaves the fixed point where it is; the smaller the step, the less noise is left in P.
      In every iteration at first, in 3 % of them from the middle on: what a pair costs buys a gradient then.
    - lr falls from 0.5 to 0 by cosine, which averages the noise of the gradients out of x, and rises to that
      over the first twentieth of the iterations, in which P finds its scale.
    - `clips.Running` allows no step beyond twice their running mean, so that no outlier does harm.

    Parameters
    ----------
    preconditioner : Preconditioner, optional
        `Dense` by default.
    iterations : int
        How many there will be: the length of the schedules.
    **settings
        Anything else that `PSGD` takes, in place of the above.
    """
    chosen = Dense() if preconditioner is None else preconditioner
    own: dict[str, Any] = {
        "lr": WarmUp(Cosine(0.5, over=iterations), over=max(1, iterations // 20)),
        "step_size": Exponential(0.9, 0.1, over=iterations),
        "probability": Exponential(1.0, 0.03, over=max(1, iterations // 2)),
        "clip": Running(),
    }
    return PSGD(**{"preconditioner": chosen, **own, **settings})
