"""The peers, one class each.

Each gets the same pair and dtype, runs on the same device, and is called as its documentation or its own
optimiser calls it: in place in torch, jitted with donated state in JAX. A
preconditioner that a peer lacks becomes a row that says so. The plain-torch ones are in `plain_torch`, and
what the peers have for tensors, on which psgd-core's `Kronecker` is measured, in `kronecker_peers`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import kronecker_peers
from .contenders import STEP, Absent, Calls, Setting
from .libraries import Library
from .peer import Peer, factors, in_torch, jitted, torch_pair
from .plain_torch import CompiledTorch, PlainTorch

TINY = 1.2e-38
SOLVE_LIMIT = 2048
"""The largest n for the yardstick `numpy.linalg.solve`."""


class PsgdJax(Peer):
    """`psgd-jax`: its bare functions, jitted with donated state."""

    name = "psgd-jax"
    package = "psgd-jax"
    kinds = ("diagonal", "xmat", "lowrank", "kronecker")

    def _calls(self, setting: Setting) -> Calls:
        if setting.library.dtype != "float32":
            raise Absent("psgd-jax: holds its state in float32 whatever the parameters are")
        if setting.kind == "kronecker":
            return kronecker_peers.psgd_jax(setting)
        jax: Any = importlib.import_module("jax")
        xp, library = jax.numpy, Library("jax", "float32", setting.library.device)
        v, h = (library.asarray(x) for x in setting.pair())
        key = jax.random.PRNGKey(setting.seed)
        if setting.kind == "xmat":
            xmat: Any = importlib.import_module("psgd_jax.xmat")
            state: tuple[Any, ...] = (xp.ones_like(v), xp.zeros_like(v))

            def step(s: Any, v: Any, h: Any) -> Any:
                return xmat._update_precond_Xmat_math_(*s, v, h, STEP, "2nd", "float32")

            def apply(s: Any, g: Any) -> Any:
                return xmat._precond_grad_Xmat_math(*s, g)

        else:  # the diagonal is its low rank at rank 0
            lra: Any = importlib.import_module("psgd_jax.low_rank_approximation")
            rank, columns = setting.rank, [x[:, None] for x in (v, h)]
            size = (setting.n * (rank + 10)) ** -0.5
            u, w = size * jax.random.normal(key, (2, setting.n, rank), v.dtype)
            state, (v, h) = (key, u, w, xp.ones_like(v)[:, None]), columns

            def step(s: Any, v: Any, h: Any) -> Any:
                key, sub = jax.random.split(s[0])
                return key, *lra._update_precond_UVd_math(sub, *s[1:], v, h, STEP, "2nd", "float32")

            def apply(s: Any, g: Any) -> Any:
                return lra._precond_grad_UVd_math(*s[1:], g)

        return jitted(library, state, step, apply, v, h)


class HeavyBall(Peer):
    """`heavyball`: its low rank, and its Kronecker preconditioner (of vectors: diagonal or triangular)."""

    name = "heavyball"
    package = "heavyball"
    kinds = ("diagonal", "lowrank", "dense", "kronecker")

    def _calls(self, setting: Setting) -> Calls:
        if setting.kind != "lowrank":
            return kronecker_peers.heavyball(setting)
        torch, library, (v, h) = torch_pair(setting)
        utils: Any = importlib.import_module("heavyball.utils")
        utils.compile_mode = utils.compile_mode_recommended_to_none = None  # eager, as peers without compiler
        parts = utils.init_lra(
            torch.zeros_like(v), setting.n, 1.0, None, None, setting.rank, None, None, dtype=v.dtype
        )
        state, turn = list(parts), [False]

        def update() -> None:
            turn[0] = not turn[0]
            utils.update_lra_precond_([state[0]], [state[1]], [state[2]], v, h, 1e-8, STEP, False, turn[0])

        calls = in_torch(setting, library, state, update, lambda: utils.lra_precond(*state, v))
        return calls._replace(period=2, note="eager")


class KronTorch(Peer):
    """`kron-torch`, whitening: on vectors a diagonal or triangular factor; it draws its own probe."""

    name = "kron-torch"
    package = "kron-torch"
    kinds = ("diagonal", "dense", "kronecker")

    def _calls(self, setting: Setting) -> Calls:
        return kronecker_peers.kron_torch(setting)


class PytorchOptimizer(Peer):
    """`pytorch_optimizer`: on vectors a diagonal or triangular factor."""

    name = "pytorch_optimizer"
    package = "pytorch-optimizer"
    kinds = ("diagonal", "dense", "kronecker")

    def _calls(self, setting: Setting) -> Calls:
        return kronecker_peers.pytorch_optimizer(setting)


class PsgdTorch(Peer):
    """`psgd_torch` from a checkout: XMat from its older module, the rest from ``psgd.py``; eager."""

    name = "psgd_torch"
    kinds = ("diagonal", "xmat", "lowrank", "dense", "kronecker")

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def _module(self, name: str) -> Any:
        if self.folder is None:
            raise Absent("psgd_torch: not on PyPI; give --peer-path psgd_torch=DIR with a checkout of it")
        sys.path.insert(0, str(self.folder))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(str(self.folder))

    def _calls(self, setting: Setting) -> Calls:
        old = setting.kind == "xmat"
        module = self._module("preconditioned_stochastic_gradient_descent" if old else "psgd")
        if setting.kind == "kronecker":
            return kronecker_peers.psgd_torch(setting, module)
        torch, library, (v, h) = torch_pair(setting)
        if old:
            state = [torch.ones_like(v), torch.zeros_like(v)]

            def update() -> None:
                module.update_precond_Xmat_math_(*state, v, h, STEP, "2nd", TINY)

            return in_torch(setting, library, state, update, lambda: module.precond_grad_Xmat_math(*state, v))
        v, h = v[:, None], h[:, None]
        zero = torch.zeros([], dtype=v.dtype, device=v.device)
        if setting.kind == "dense":
            q = torch.eye(setting.n, dtype=v.dtype, device=v.device)
            bound = zero.clone()
            return in_torch(
                setting,
                library,
                [q],
                lambda: module.update_precond_dense_eq(q, bound, v, h, lr=STEP),
                lambda: q.T @ (q @ v),
            )
        state = factors(torch, setting, v[:, 0])
        state[2] = state[2][:, None]
        bounds = [zero.clone() for _ in range(3)]
        return in_torch(
            setting,
            library,
            state,
            lambda: module.update_precond_lra_newton(state, bounds, v, h, lr=STEP),
            lambda: module.precond_grad_lra(state, v),
        )


class NumpySolve(Peer):
    """One ``numpy.linalg.solve`` of size n, the yardstick for small n; it has no P to apply."""

    name = "numpy.linalg.solve"
    package = "numpy"
    kinds = ("diagonal", "xmat", "butterfly", "klein", "cyclic", "lowrank", "dense")

    def _calls(self, setting: Setting) -> Calls:
        if setting.n > SOLVE_LIMIT:
            raise Absent(f"{self.name}: a yardstick for n up to {SOLVE_LIMIT}")
        v, h = setting.pair()
        matrix = np.random.default_rng(setting.seed).standard_normal((setting.n, setting.n))
        matrix = matrix.astype(v.dtype)
        return Calls(lambda: np.linalg.solve(matrix, h), None, note="the yardstick: no update")


def registry(paths: dict[str, Path] | None = None) -> dict[str, Peer]:
    """Return the peers by name.

    Parameters
    ----------
    paths : dict, optional
        Where the checkouts of those that are not installed lie.
    """
    folder = (paths or {}).get("psgd_torch")
    made = (
        PlainTorch(), CompiledTorch(), PsgdTorch(folder), PsgdJax(), HeavyBall(), KronTorch(),
        PytorchOptimizer(), NumpySolve(),
    )  # fmt: skip
    return {peer.name: peer for peer in made}
