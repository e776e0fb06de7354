"""A least-squares problem whose population jumps or turns, and how P and the loss follow it.

A batch has b rows a ~ N(0, H) and targets y = a^T x* + noise. So the gradient at x is ``W (x - x*)`` plus
noise, and the product is ``W v``, with ``W = A^T A / b``. The expectation of W is H, and that of ``W^2`` is
``M = (1 + 1/b) H^2 + tr(H) H / b``: the criterion's minimiser over GL(n) is ``M^{-1/2}``, the loss's is x*.
The eigenvalues of H stay, while its eigenvectors move, and x* with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Literal

import numpy as np
import torch
from scipy.linalg import expm

import psgd_core as psgd
from psgd_core import checkpoint, convergence, curvature, groups
from psgd_core.descent import clips
from psgd_core.preconditioners import normalizers

from ..problems.spectra import haar
from . import optimizers
from .experiment import Settings, never

NOISE = 0.1
"""Standard deviation of the targets' noise."""

NEAR = 0.5
"""P has recovered where its distance is at most this: off by a factor of 1.65 in a typical direction."""


# -- the problem ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drift:
    """Where the population is in each iteration, in closed form.

    Parameters
    ----------
    seed : int
    n : int
    kappa : float
        Condition number of H, whose eigenvalues are log-spaced from 1 to 1 / kappa.
    batch : int
        Rows of a batch.
    period : int
        Iterations from one jump to the next, each to eigenvectors drawn anew.
    speed : float
        Of turning, in place of jumps: the root mean square angle, in radians, by which a vector turns in an
        iteration. 0 jumps.
    """

    seed: int
    n: int
    kappa: float
    batch: int
    period: int
    speed: float = 0.0

    @property
    def values(self) -> np.ndarray:
        """Eigenvalues of H, largest first."""
        return np.geomspace(1, 1 / self.kappa, self.n)

    def basis(self, t: int) -> np.ndarray:
        """Return the eigenvectors of H in iteration t, as columns."""
        if self.speed:
            found: np.ndarray = _drawn(self.n, self.seed, 0) @ expm(t * self.speed * _skew(self.n, self.seed))
            return found
        return _drawn(self.n, self.seed, t // self.period)

    def hessian(self, t: int) -> np.ndarray:
        """Return H in iteration t."""
        u = self.basis(t)
        return (u * self.values) @ u.T

    def optimum(self, t: int) -> np.ndarray:
        """Return x* in iteration t: always at the same place between the eigenvectors."""
        found: np.ndarray = self.basis(t) @ np.random.default_rng([self.seed, 1]).standard_normal(self.n)
        return found

    def target(self, t: int) -> convergence.Target:
        """Return the criterion's minimiser over GL(n) in iteration t."""
        h = self.hessian(t)
        return convergence.target(h, noise=(h @ h + np.trace(h) * h) / self.batch)

    def excess(self, t: int, x: np.ndarray) -> float:
        """Return the expected loss at x, less its minimum."""
        away = self.basis(t).T @ (x - self.optimum(t))
        return float(0.5 * np.sum(self.values * away**2))

    def sample(self, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a batch (A, y), and a probe: the same for all optimisers."""
        rng, u = np.random.default_rng([self.seed, 2, t]), self.basis(t)
        a = rng.standard_normal((self.batch, self.n)) * np.sqrt(self.values) @ u.T
        y = a @ self.optimum(t) + NOISE * rng.standard_normal(self.batch)
        return a, y, rng.standard_normal(self.n)


@lru_cache(maxsize=8)
def _drawn(n: int, seed: int, number: int) -> np.ndarray:
    return haar(n, np.random.default_rng([seed, 3, number]))


@lru_cache(maxsize=8)
def _skew(n: int, seed: int) -> np.ndarray:
    """Return a skew matrix S with ``E|S u|^2 = 1`` for random unit vectors u."""
    found = np.random.default_rng([seed, 4]).standard_normal((n, n))
    skew = found - found.T
    return skew * (n**0.5 / np.linalg.norm(skew))


# -- optimisers ----------------------------------------------------------------------------------------------


def gradient(x: np.ndarray, a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the gradient of ``|A x - y|^2 / 2 b``."""
    return a.T @ (a @ x - y) / len(y)


def product(x: np.ndarray, v: np.ndarray, a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the Hessian of ``|A x - y|^2 / 2 b`` times v."""
    return a.T @ (a @ v) / len(y)


FUNCTIONS = curvature.Functions(gradient, hvp=product)


class Preconditioned:
    """`psgd_core.PSGD` with P in GL(n).

    Parameters
    ----------
    settings : dict
        "fit": "memory" (Kalman's gains), "closed form" (the running one, whose least weight is the step) or
        "step"; "memory" or "step" accordingly; "lr".
    x : array, shape (n,)
    """

    def __init__(self, settings: Settings, x: np.ndarray) -> None:
        fits: dict[str, psgd.Preconditioner[Any]] = {
            "memory": psgd.Dense(geometry="Lyapunov", normalizer=normalizers.Kalman()),
            "closed form": psgd.ClosedForm(groups.GeneralLinear()),
            "step": psgd.Dense(),
        }
        self.p = fits[settings["fit"]]
        pace = {"step_size": settings["step"]} if "step" in settings else {"memory": settings["memory"]}
        self._psgd = psgd.PSGD(self.p, lr=settings["lr"], clip=clips.AdaptiveNorm(), **pace)
        self.state = self._psgd.init(x)

    @property
    def skipped(self) -> int:
        """Steps and pairs that were refused."""
        return int(self.state.skipped) + int(self.state.preconditioner.skipped)

    def step(self, x: np.ndarray, a: np.ndarray, y: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return x after a step on a batch, with the product of its Hessian and v."""
        new, self.state = self._psgd.step(self.state, x, FUNCTIONS.at(a, y), v)
        return np.asarray(new)

    def distance(self, target: convergence.Target) -> float:
        """Return the distance of P from a target; see `psgd_core.convergence`."""
        q = self.p.apply(self.state.preconditioner, np.eye(target.minimizer.shape[0]))
        return float(convergence.distance(q, target))

    def save(self, path: Path) -> None:
        """Write the state."""
        checkpoint.save(path, self.state)

    def load(self, path: Path) -> None:
        """Take up what `save` wrote."""
        self.state = checkpoint.load(path, like=self.state)


class Baseline:
    """SGD or Adam in float64; it has no P."""

    def __init__(self, settings: Settings, x: np.ndarray) -> None:
        self._model = torch.nn.Linear(len(x), 1, bias=False).double()
        self._steps = optimizers.make(settings["optimizer"], self._model, {}, 0)
        self._steps.rates(settings["lr"])

    @property
    def skipped(self) -> int:
        """Steps that were refused."""
        return self._steps.skipped

    def step(self, x: np.ndarray, a: np.ndarray, y: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return x after a step on a batch."""
        rows, wanted = torch.from_numpy(a), torch.from_numpy(y)

        def loss() -> tuple[torch.Tensor, None]:
            return 0.5 * (self._model(rows)[:, 0] - wanted).square().mean(), None

        with torch.no_grad():
            self._model.weight[0] = torch.from_numpy(x)
        self._steps.step(loss)
        return self._model.weight[0].detach().numpy().copy()

    def distance(self, target: convergence.Target) -> float | None:
        """Return None."""
        return None

    def save(self, path: Path) -> None:
        """Write the state."""
        torch.save(self._steps.state_dict(), path)

    def load(self, path: Path) -> None:
        """Take up what `save` wrote."""
        self._steps.load_state_dict(torch.load(path, weights_only=True))


# -- the run -------------------------------------------------------------------------------------------------


class DriftTraining:
    """A `Training` on a problem that moves.

    Parameters
    ----------
    settings : dict
        Those of `Drift`, and of an optimiser: "optimizer", "lr" and, for "psgd", see `Preconditioned`;
        "periods", how many there are; "part", iterations from one look at P to the next, a divisor of
        "period".
    seed : int
        Of the problem and its batches: all optimisers see the same.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        names = ("n", "kappa", "batch", "period", "speed")
        self.drift = Drift(seed, **{name: settings[name] for name in names if name in settings})
        self._part = settings["part"]
        if self.drift.period % self._part:
            raise ValueError(f"`part` must divide the period {self.drift.period}, got {self._part}")
        self.parts = settings["periods"] * self.drift.period // self._part
        self._x = np.zeros(self.drift.n)
        kind = Preconditioned if settings["optimizer"] == "psgd" else Baseline
        self._optimizer: Preconditioned | Baseline = kind(settings, self._x)
        self._losses: list[float] = []
        self._distances: list[float | None] = []

    @property
    def status(self) -> Literal["going", "done", "diverged"]:
        """Diverged if the last loss was not finite."""
        if self._losses and not math.isfinite(self._losses[-1]):
            return "diverged"
        return "done" if len(self._losses) == self.parts else "going"

    @property
    def skipped(self) -> int:
        """Steps and pairs that were refused."""
        return self._optimizer.skipped

    def advance(self, pause: Callable[[], bool] = never) -> dict[str, Any]:
        """Run the next part; return its mean excess loss, and the distance of P at its end."""
        first, total = len(self._losses) * self._part, 0.0
        for t in range(first, first + self._part):
            self._x = self._optimizer.step(self._x, *self.drift.sample(t))
            total += self.drift.excess(t, self._x)
        self._losses.append(total / self._part)
        self._distances.append(self._optimizer.distance(self.drift.target(first + self._part - 1)))
        done = first + self._part
        return {"iterations": done, "excess": self._losses[-1], "distance": self._distances[-1]}

    def final(self) -> dict[str, Any]:
        """Return `summary`, of the losses and of the distances, and how many products there were."""
        each = self.drift.period // self._part
        found = summary(self._distances, each, self._part)
        losses = self._losses[each:]
        known = {"excess": float(np.mean(losses)) if losses else None}
        products = len(self._losses) * self._part if isinstance(self._optimizer, Preconditioned) else 0
        return {**found, **known, "products": products}

    def save(self, file: IO[bytes]) -> None:
        """Write x, the optimiser and what was seen."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "optimizer"
            self._optimizer.save(path)
            own = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        seen = [self._losses, self._distances]
        torch.save({"x": torch.from_numpy(self._x), "optimizer": own, "seen": seen}, file)

    def load(self, file: IO[bytes]) -> None:
        """Take up what `save` wrote."""
        held = torch.load(file, weights_only=True)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "optimizer"
            path.write_bytes(held["optimizer"].numpy().tobytes())
            self._optimizer.load(path)
        self._x = held["x"].numpy()
        self._losses, self._distances = held["seen"]


def summary(distances: Sequence[float | None], each: int, part: int) -> dict[str, Any]:
    """Return how P follows, from its distances after each part.

    Parameters
    ----------
    distances : sequence of float or None
        None where there is no P.
    each : int
        Parts of a period. The first one, the start, is left out.
    part : int
        Pairs in a part.

    Returns
    -------
    dict
        "error", the root mean square over all; "rest", that over the last halves of the periods; "recovery",
        the mean number of pairs after a jump until P is `NEAR`, a whole period where it is not in time. None
        where unknown.
    """
    usable = len(distances) // each * each
    if usable <= each or any(x is None or not math.isfinite(x) for x in distances[:usable]):
        return dict.fromkeys(("error", "rest", "recovery"))
    rows = np.array(distances[each:usable], dtype=float).reshape(-1, each)
    there = rows <= NEAR
    parts = np.where(there.any(axis=1), there.argmax(axis=1) + 1, each)
    return {
        "error": float(np.sqrt(np.mean(rows**2))),
        "rest": float(np.sqrt(np.mean(rows[:, each // 2 :] ** 2))),
        "recovery": float(part * parts.mean()),
    }
