"""The peers' low-rank and dense preconditioners, from checkouts or where they are installed.

Each starts and updates as its own optimiser does, at its default step of 0.1, in float64.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..factors import Factors
from .contenders import Contender, Fit
from .tasks import Task

STEP = 0.1
NAMES = ("psgd_torch", "psgd-jax", "heavyball")


class LowRankPeer(Fit):
    """A peer whose P is (U, V, d)."""

    def factors(self) -> Factors:
        """Return its factors on the host."""
        raise NotImplementedError

    def precondition(self, x: np.ndarray) -> np.ndarray:
        """Return ``P x``."""
        return self.factors().precondition(x)

    def solve(self, x: np.ndarray) -> np.ndarray:
        """Return ``P^{-1} x``."""
        return self.factors().solve(x)


class PsgdTorchLRA(LowRankPeer):
    """`LRANewton`'s preconditioner: scale from the first pair, |U| = |V| = sqrt(0.1)."""

    def __init__(self, module: Any, task: Task, seed: int) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.module, self.d = module, None
        self.torch.manual_seed(seed)
        parts = [self.torch.randn(task.n, task.rank, dtype=self.torch.float64) for _ in range(2)]
        self.u, self.v = (0.1**0.5 * x / self.torch.linalg.vector_norm(x) for x in parts)
        self.bounds = [self.torch.zeros([], dtype=self.torch.float64) for _ in range(3)]

    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Learn from a pair."""
        v, h = (self.torch.asarray(x, dtype=self.torch.float64)[:, None] for x in (v, h))
        if self.d is None:
            scale = self.torch.mean(v * v) ** 0.25 * (self.torch.mean(h**4) + 1e-36) ** -0.125
            self.d = scale * self.torch.ones_like(v)
        self.module.update_precond_lra_newton([self.u, self.v, self.d], self.bounds, v, h, lr=STEP)

    def factors(self) -> Factors:
        """Return its factors."""
        assert self.d is not None
        return Factors(self.u.numpy(), self.v.numpy(), self.d[:, 0].numpy())


class PsgdTorchDense(Fit):
    """`DenseNewton`'s preconditioner with dQ = E Q."""

    def __init__(self, module: Any, task: Task, seed: int) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.torch.manual_seed(seed)
        self.module, self.n, self.q = module, task.n, None
        self.bound = self.torch.zeros([], dtype=self.torch.float64)

    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Learn from a pair."""
        v, h = (self.torch.asarray(x, dtype=self.torch.float64)[:, None] for x in (v, h))
        if self.q is None:
            scale = self.torch.mean(v * v) ** 0.25 * (self.torch.mean(h**4) + 1e-36) ** -0.125
            self.q = scale * self.torch.eye(self.n, dtype=self.torch.float64)
        self.module.update_precond_dense_eq(self.q, self.bound, v, h, lr=STEP)

    def precondition(self, x: np.ndarray) -> np.ndarray:
        """Return ``P x``."""
        q = self.q.numpy()  # type: ignore[attr-defined]
        return q.T @ (q @ x)

    def solve(self, x: np.ndarray) -> np.ndarray:
        """Return ``P^{-1} x``."""
        q = self.q.numpy()  # type: ignore[attr-defined]
        return np.linalg.solve(q, np.linalg.solve(q.T, x))


class PsgdJaxLRA(LowRankPeer):
    """`low_rank_approximation`'s preconditioner: automatic scale, U and V of its initial size."""

    def __init__(self, module: Any, task: Task, seed: int) -> None:
        self.jax: Any = importlib.import_module("jax")
        self.key = self.jax.random.PRNGKey(seed)
        self.step = self.jax.jit(module._update_precond_UVd_math, static_argnums=(7, 8))
        rng, size = np.random.default_rng((seed, 12)), (task.n * (task.rank + 10)) ** -0.5
        u, w = size * rng.standard_normal((2, task.n, task.rank))
        self.parts: tuple[Any, ...] = (u, w, None)

    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Learn from a pair."""
        u, w, d = self.parts
        if d is None:
            d = np.full((v.size, 1), (np.sum(v * v) / np.sum(h * h)) ** 0.25)
        with self.jax.enable_x64(True):
            self.key, sub = self.jax.random.split(self.key)
            self.parts = self.step(sub, u, w, d, v[:, None], h[:, None], STEP, "2nd", "float32")

    def factors(self) -> Factors:
        """Return its factors."""
        u, w, d = (np.asarray(x, dtype=np.float64) for x in self.parts)
        return Factors(u, w, d[:, 0])


class HeavyBallLRA(LowRankPeer):
    """`PSGDLRA`'s preconditioner, eager; U and V in turn."""

    def __init__(self, utils: Any, task: Task, seed: int) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.torch.manual_seed(seed)
        utils.compile_mode = utils.compile_mode_recommended_to_none = None
        self.utils, self.task, self.turn = utils, task, False
        self.parts: list[Any] | None = None

    def update(self, v: np.ndarray, h: np.ndarray) -> None:
        """Learn from a pair."""
        v, h = (self.torch.asarray(x, dtype=self.torch.float64) for x in (v, h))
        if self.parts is None:
            scale = float(self.torch.mean(v * v) ** 0.25 * self.torch.mean(h**4) ** -0.125)
            made = self.utils.init_lra(
                self.torch.zeros_like(v), self.task.n, scale, None, None, self.task.rank, None, None,
                dtype=v.dtype,
            )  # fmt: skip
            self.parts = list(made)
        self.turn = not self.turn
        u, w, d = self.parts
        self.utils.update_lra_precond_([u], [w], [d], v, h, 1e-8, STEP, False, self.turn)

    def factors(self) -> Factors:
        """Return its factors."""
        assert self.parts is not None
        return Factors(*(x.numpy().reshape(x.shape) for x in self.parts))


def module_at(folder: Path, name: str) -> Any:
    """Return a module of a checkout; of a package that one module alone, without what its package imports."""
    package, _, inner = name.rpartition(".")
    sys.path.insert(0, str(folder))
    try:
        if inner and package and package not in sys.modules:
            shell = types.ModuleType(package)
            shell.__path__ = [str(folder / package)]
            sys.modules[package] = shell
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def found(paths: Mapping[str, Path]) -> tuple[list[Contender], dict[str, str]]:
    """Return the peers that are there, and why the others are not.

    Parameters
    ----------
    paths : mapping
        The folders of checkouts, by the peer's name.
    """
    rows: list[Contender] = []
    absent: dict[str, str] = {}
    for name, inner, makes in PEERS:
        try:
            folder = paths.get(name)
            module = importlib.import_module(inner) if folder is None else module_at(folder, inner)
        except ImportError as error:
            lost = isinstance(error, ModuleNotFoundError) and error.name == inner.partition(".")[0]
            absent[name] = "not there" if lost else f"cannot be imported ({error})"
            continue
        rows += [_row(f"{name} {what}", make, module) for what, make in makes.items()]
    return rows, absent


def _row(name: str, make: Callable[[Any, Task, int], Fit], module: Any) -> Contender:
    kind = "Dense" if name.endswith("Dense") else "LowRank"
    return Contender(
        name, lambda task, seed: make(module, task, seed), lambda task: task.kind == kind, "peer"
    )


PEERS: tuple[tuple[str, str, dict[str, Callable[[Any, Task, int], Fit]]], ...] = (
    ("psgd_torch", "psgd", {"LRA": PsgdTorchLRA, "Dense": PsgdTorchDense}),
    ("psgd-jax", "psgd_jax.low_rank_approximation", {"LRA": PsgdJaxLRA}),
    ("heavyball", "heavyball.utils", {"LRA": HeavyBallLRA}),
)
"""Name, the module that has its functions, and what it offers for "LowRank" and for "Dense"."""
