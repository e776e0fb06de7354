"""Theory's predictions of a run: its accuracy, its rate and its length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psgd_core import convergence

from ..problems import probes
from .families import Situation

LONGEST = 100_000
"""Most updates of a run whose length is not given."""

MEMORY = 100
"""Updates for which the default normaliser remembers the start, and steps are smaller."""

FEWEST = 20
"""Updates from 1 to rounding below which second-order terms matter as much as first-order ones."""

UNEVEN = 1100.0
"""Ratio of the orbits' scales above which they are uneven; a little above 1,000, a usual kappa."""


@dataclass(frozen=True)
class Asked:
    """The user's choices, None where theory decides, and the rounding unit."""

    steps: int | None = None
    step: float | None = None
    eps: float = 2.0**-52


def rounding(situation: Situation, asked: Asked) -> float:
    """Return the distance that counts as converged: 1e-10, 1e-8 outside the group, or what the dtype allows.

    The Hessian's own rounding moves its smallest eigenvalues by about ``eps κ``.
    """
    return max(1e-10 if situation.inside else 1e-8, 64 * asked.eps * situation.kappa)


def reachable(bound: float, rate: float, updates: int) -> float:
    """Return the bound, or where so few updates cannot reach it, ten times what theory predicts for them.

    The updates in which the normaliser still remembers the start do not count.
    """
    if rate <= 0:
        return bound
    left = max(0, updates - MEMORY)
    return max(bound, 10 * (math.exp(-0.75 * rate * left) if left else 1.0))  # the rate may be Inf


def uneven(situation: Situation) -> bool:
    """Return whether the orbits differ much in scale.

    One scale starts them all, and most of a run is then the normaliser's way to theirs: at no constant rate.
    """
    tops = np.concatenate([np.max(h, axis=0) for h in situation.spectra])
    return bool(np.max(tops) > UNEVEN * np.min(tops))


def measurable(asked: Asked, rate: float) -> bool:
    """Return whether a run takes long enough for its rate to be that of first order.

    Where all modes vanish in an update or a few (step 1/2 on orbits of one element), what is left is of
    second order, and at no constant rate.
    """
    return needed(asked, rate) >= FEWEST


def lengths(asked: Asked, rate: float) -> tuple[int, int]:
    """Return updates and checkpoint distance for linear convergence: to rounding and somewhat further."""
    count = needed(asked, rate)
    updates = asked.steps or min(LONGEST, max(3000, round(1.5 * count)))
    return updates, max(1, round(min(count, updates) / 100))


def tolerance(base: float, asked: Asked, rate: float) -> float:
    """Return how much slower than `rate` a fit may be: more if the normaliser remembers much of the run."""
    return base + 0.25 * min(1.0, MEMORY / min(needed(asked, rate), asked.steps or LONGEST))


def needed(asked: Asked, rate: float) -> float:
    """Return how many updates take the error from 1 to rounding at a rate; 1000 at a rate of 0."""
    return max(1.0, math.log(1 / asked.eps) / rate) if rate > 0 else 1000.0


def _sizes(spectra: Sequence[np.ndarray], probe: str, draws: int = 4096) -> list[np.ndarray]:
    """Return what `Running` divides the step by at the minimiser, per orbit, (c,) for each orbit size.

    It holds the mean of the sample's size ``(|a|^2 + |b|^2)^{1/2} = (2 Σ h_i z_i^2)^{1/2}``, z the probe in
    H's eigenbasis on the orbit. That mean, of many draws, is squared.
    """
    sizes = []
    for h in spectra:
        z = probes(h.shape[0], np.random.default_rng(0), draws, kind=probe)
        sizes.append(np.mean(np.sqrt(2 * (h.T @ (z * z))), axis=1) ** 2)
    return sizes


def online_rate(spectra: Sequence[np.ndarray], step: float, probe: str) -> float:
    """Return the rate of convergence from single probes, to first order in the step.

    Where ``a = b`` at the minimiser the error shrinks as it does in expectation; elsewhere this is the rate
    at which the start is forgotten.
    """
    return min(
        float(convergence.predicted_rate((h[:, c : c + 1],), step, normalizer=float(sizes[c])))
        for h, sizes in zip(spectra, _sizes(spectra, probe), strict=True)
        for c in range(h.shape[1])
    )


def lag(situation: Situation, step: float, probe: str, updates: int) -> float:
    """Return about how far a constant step stays behind, after `updates`.

    The mean of H moves as ``H_0 + t c I``, ``c = drift^2/n``: P*'s eigenvalues ``1/h_i`` by ``c/h_i`` of
    themselves per update, while the fit closes ``4 step h_i / N`` of what it is behind. The drift's random
    part, ``c sqrt(t)`` in every entry of H, is outside the group but for an orbit's s columns and leaves a
    floor proportional to ``sqrt(step)``.
    """
    c, n = situation.instance.drift**2 / situation.n, situation.n
    now = [h + c * updates for h in situation.spectra]
    behind = [
        ((c / h) * sizes / (4 * step * h)).reshape(-1)
        for h, sizes in zip(now, _sizes(now, probe), strict=True)
    ]
    typical = np.exp(np.mean(np.log(np.concatenate([h.reshape(-1) for h in now]))))
    floor = c * np.sqrt(step * updates * (n - situation.largest_orbit)) / typical
    return float(np.sqrt(np.mean(np.concatenate(behind) ** 2)) + floor)
