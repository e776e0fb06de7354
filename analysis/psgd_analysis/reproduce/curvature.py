"""The Hessian where a training ended: its density, its largest eigenvalues, its trace."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..documents import plain

if TYPE_CHECKING:
    import torch

GRID = np.arange(-6.0, 3.01, 0.1)
"""log10 |λ| at which densities are evaluated, the same for all."""


@dataclass(frozen=True)
class Curvature:
    """How a Hessian is looked at; the same vectors are drawn for all.

    Parameters
    ----------
    top : int
        How many of the largest eigenvalues are computed, to four digits.
    trace : int
        Products for the trace (Hutch++), which comes with its standard error.
    probes, steps : int
        Of the density: Lanczos runs, and products in each.
    width : float
        Decades by which the density is broadened.
    seed : int
        Of the vectors.
    """

    top: int = 5
    trace: int = 30
    probes: int = 2
    steps: int = 40
    width: float = 0.2
    seed: int = 0

    def of(self, loss: Callable[[], torch.Tensor], model: torch.nn.Module) -> dict[str, Any]:
        """Return the numbers and the density of a loss's Hessian, in JSON's types; see `sharpness`.

        `negative` is the share of the eigenvalues below -`floor`, where `floor` is the least that so many
        steps tell from others, and `below` the share that lies within it; `least` is the smallest node of the
        Lanczos runs, within the spectrum and close to its end; `displaced` the share of eigenvalues that
        stopping at so many steps may displace.
        """
        from .. import spectrum

        hessian = spectrum.from_torch(loss, model)
        with warnings.catch_warnings():  # of a width too narrow for so many steps: "displaced" says so too
            warnings.simplefilter("ignore", UserWarning)
            found = spectrum.density(
                hessian,
                np.random.default_rng(self.seed),
                probes=self.probes,
                steps=self.steps,
                scale="log",
                width=self.width,
                grid=GRID,
                reorthogonalize=True,
            )
        resolved = np.log10(found.floor) <= GRID
        negative = np.where(resolved, found.negative, 0.0)
        numbers = {
            "negative": float(np.sum(negative) * (GRID[1] - GRID[0])),
            "least": found.extremes[0],
            "floor": found.floor,
            "below": found.below,
            "displaced": found.displaced,
        }
        lines = {"density": np.where(resolved, found.density, np.nan), "density_negative": negative}
        rounded: dict[str, Any] = plain({**numbers, **lines}, digits=5)
        return {**self.sharpness(loss, model), **rounded}

    def sharpness(self, loss: Callable[[], torch.Tensor], model: torch.nn.Module) -> dict[str, Any]:
        """Return the largest eigenvalues, largest first, and the trace with its standard error."""
        from .. import spectrum

        hessian, rng = spectrum.from_torch(loss, model), np.random.default_rng(self.seed)
        estimate = spectrum.hutch_plus_plus(hessian, rng, self.trace)
        tops = _largest(hessian, rng, min(self.top, hessian.n - 1))
        numbers = {"eigenvalue": tops[0], "eigenvalues": tops, "trace": estimate.value}
        rounded: dict[str, Any] = plain({**numbers, "trace_error": estimate.error}, digits=6)
        return rounded


def _largest(hessian: Any, rng: np.random.Generator, count: int) -> np.ndarray:
    """Return the largest eigenvalues, largest first, by implicitly restarted Lanczos."""
    from scipy.sparse.linalg import eigsh

    from .. import spectrum

    start = rng.standard_normal(hessian.n)
    basis = min(hessian.n, max(20, 4 * count + 1))
    found = eigsh(
        spectrum.linear_operator(hessian),
        k=count,
        which="LA",
        ncv=basis,
        tol=1e-4,
        v0=start,
        return_eigenvectors=False,
    )
    return np.sort(found.astype(np.float64))[::-1]
