"""One problem, one set of settings and probes, through every library: the same 200 steps."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scipy import optimize

import psgd_core as psgd
from psgd_core.curvature import Functions, Probes
from psgd_core.descent import clips

STEPS, TOLERANCE = 200, 1e-6
SETTINGS = {"step": 0.3, "momentum": 0.5, "clip": clips.AdaptiveNorm()}


@dataclass(frozen=True)
class Problem:
    """A function in NumPy, with its derivatives, and in the operations that PyTorch and JAX share."""

    name: str
    x0: np.ndarray
    lr: float
    preconditioner: psgd.Preconditioner
    value: Callable  # (x, noise)
    gradient: Callable
    hvp: Callable  # (x, v, noise)
    loss: Callable  # (xp, x, noise), for automatic differentiation
    noise: float

    def draws(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the noise and the probe of each step."""
        rng, shape = np.random.default_rng(7), (STEPS, self.x0.size)
        return self.noise * rng.standard_normal(shape), rng.standard_normal(shape)


def quadratic() -> Problem:
    n, rng = 12, np.random.default_rng(3)
    basis, _ = np.linalg.qr(rng.standard_normal((n, n)))
    hessian = (basis * np.geomspace(0.1, 10, n)) @ basis.T
    return Problem(
        name="noisy quadratic",
        x0=rng.standard_normal(n),
        lr=0.1,
        preconditioner=psgd.XMat(),
        value=lambda x, e: 0.5 * x @ hessian @ x - e @ x,
        gradient=lambda x, e: hessian @ x - e,
        hvp=lambda x, v, e: hessian @ v,
        loss=lambda xp, x, e: 0.5 * x @ (xp.asarray(hessian) @ x) - e @ x,
        noise=0.1,
    )


def rosenbrock() -> Problem:
    def loss(xp: Any, x: Any, e: Any) -> Any:
        return xp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2) - e @ x

    return Problem(
        name="Rosenbrock",
        x0=np.tile([-1.2, 1.0], 3),
        lr=1.0,
        preconditioner=psgd.LowRank(2),
        value=lambda x, e: optimize.rosen(x),
        gradient=lambda x, e: optimize.rosen_der(x),
        hvp=lambda x, v, e: optimize.rosen_hess_prod(x, v),
        loss=loss,
        noise=0.0,
    )


# -- the routes: each returns the points after each step, (STEPS, n) ---------------------------------------


def by_core(problem: Problem) -> np.ndarray:
    noise, probes = problem.draws()
    settings = {("step_size" if k == "step" else k): v for k, v in SETTINGS.items()}
    optimizer = psgd.PSGD(problem.preconditioner, lr=problem.lr, **settings)
    functions = Functions(gradient=problem.gradient, value=problem.value, hvp=problem.hvp)
    x, state, path = problem.x0, optimizer.init(problem.x0), []
    for e, v in zip(noise, probes, strict=True):
        x, state = optimizer.step(state, x, functions.at(e), v)
        path.append(x)
    return np.stack(path)


@dataclass(frozen=True)
class Handed(Probes):
    """Probes that are there already."""

    rows: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))

    def _draw(self, rng: Any, like: np.ndarray) -> np.ndarray:
        return next(self.rows)[:, None]


def by_scipy(problem: Problem) -> np.ndarray:
    noise, probes = problem.draws()
    samples, path = iter(np.concatenate([noise, noise[-1:]])), []  # the last point is evaluated too
    optimize.minimize(
        problem.value,
        problem.x0,
        jac=problem.gradient,
        hessp=problem.hvp,
        method=psgd.adapters.scipy.psgd_method,
        callback=lambda xk: path.append(xk.copy()),
        options={
            "preset": psgd.PSGD(problem.preconditioner, lr=problem.lr),
            "maxiter": STEPS,
            "tol": 0.0,
            "sample": lambda rng: next(samples),
            "probes": Handed(rows=iter(probes)),
            **SETTINGS,
        },
    )
    return np.stack(path)


def by_torch(engine: str, device: str = "cpu") -> Callable[[Problem], np.ndarray]:
    def run(problem: Problem) -> np.ndarray:
        import torch

        noise, probes = (torch.asarray(x, device=device) for x in problem.draws())
        x = torch.asarray(problem.x0.copy(), device=device).requires_grad_()
        xp = _on(torch, device)
        optimizer = psgd.adapters.torch.PSGD(
            [x], problem.preconditioner, lr=problem.lr, engine=engine, **SETTINGS
        )
        path = []
        for e, v in zip(noise, probes, strict=True):
            optimizer.step(lambda e=e: problem.loss(xp, x, e), v=v)
            path.append(x.detach().cpu().numpy().copy())
        return np.stack(path)

    return run


def _on(torch: Any, device: str) -> Any:
    """Return torch with constants on the device."""

    class Namespace:
        sum = staticmethod(torch.sum)

        @staticmethod
        def asarray(x: Any) -> Any:
            return torch.asarray(x, device=device)

    return Namespace


def by_jax(engine: str) -> Callable[[Problem], np.ndarray]:
    def run(problem: Problem) -> np.ndarray:
        import jax
        import jax.numpy as jnp
        import optax

        optimizer = psgd.adapters.jax.psgd(problem.lr, problem.preconditioner, engine=engine, **SETTINGS)

        def gradient(x: Any, e: Any) -> Any:
            return jax.grad(lambda x: problem.loss(jnp, x, e))(x)

        def ask(x: Any, e: Any, v: Any) -> Any:
            return jax.jvp(lambda x: gradient(x, e), (x,), (v,))

        def step(carry: Any, drawn: Any, ask: Callable = ask) -> Any:
            (x, state), (e, v) = carry, drawn
            g, h = ask(x, e, v)
            updates, state = optimizer.update(g, state, x, hvp=h, probe=v)
            x = optax.apply_updates(x, updates)
            return (x, state), x

        with jax.enable_x64(True):
            noise, probes = map(jnp.asarray, problem.draws())
            x = jnp.asarray(problem.x0)
            carry = x, optimizer.init(x)
            if engine == "jax":  # all the steps in one compiled scan
                return np.asarray(jax.jit(lambda c: jax.lax.scan(step, c, (noise, probes)))(carry)[1])
            path, ask = [], jax.jit(ask)
            for drawn in zip(noise, probes, strict=True):
                carry, x = step(carry, drawn, ask)
                path.append(np.asarray(x))
            return np.stack(path)

    return run


ROUTES = {
    "SciPy method": (by_scipy, ()),
    "torch, engine torch": (by_torch("torch"), ("torch",)),
    "torch, engine numpy": (by_torch("numpy"), ("torch",)),
    "jax, one scan": (by_jax("jax"), ("jax", "optax")),
    "jax, engine numpy": (by_jax("numpy"), ("jax", "optax")),
}
GPU = {
    "torch on CUDA": (by_torch("torch", "cuda"), ("torch",)),
    "torch, engine cupy": (by_torch("cupy", "cuda"), ("torch", "cupy")),
}


def compare(routes: dict[str, tuple[Callable, tuple[str, ...]]]) -> dict[tuple[str, str], float | str]:
    """Print how far each route strays from the core, at most over the steps; return it."""
    problems, table = [quadratic(), rosenbrock()], {}
    paths = {problem.name: by_core(problem) for problem in problems}
    print(f"\nlargest |x - x of the NumPy core| in {STEPS} steps, float64")
    print(f"{'':24}" + "".join(f"{problem.name:>18}" for problem in problems))
    for name, (run, needs) in routes.items():
        missing = [library for library in needs if importlib.util.find_spec(library) is None]
        for problem in problems:
            if missing:
                table[name, problem.name] = f"no {missing[0]}"
                continue
            path = run(problem)
            assert path.shape == (STEPS, problem.x0.size)
            table[name, problem.name] = float(np.max(np.abs(path - paths[problem.name])))
        cells = (table[name, problem.name] for problem in problems)
        print(f"{name:24}" + "".join(f"{c:18.1e}" if isinstance(c, float) else f"{c:>18}" for c in cells))
    ends = [(problem, paths[problem.name][-1]) for problem in problems]
    print(f"{'distance gone':24}" + "".join(f"{np.max(np.abs(x - p.x0)):18.1e}" for p, x in ends))
    return table


def test_the_same_trajectory_in_every_library():
    table = compare(ROUTES)
    for cell, strayed in table.items():
        assert isinstance(strayed, str) or strayed < TOLERANCE, cell
    if missing := {strayed for strayed in table.values() if isinstance(strayed, str)}:
        pytest.skip(f"the others agree, but {', '.join(sorted(missing))} here")


@pytest.mark.gpu
def test_the_same_trajectory_on_a_gpu():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for cell, strayed in compare(GPU).items():
        assert isinstance(strayed, str) or strayed < TOLERANCE, cell


def test_the_comparison_can_fail():
    """A probe that differs a little in one step is seen, and the paths lead somewhere."""
    problem = rosenbrock()
    path = by_core(problem)
    noise, probes = problem.draws()
    probes[3, 0] += 1e-3
    object.__setattr__(problem, "draws", lambda: (noise, probes))
    assert np.max(np.abs(by_core(problem) - path)) > TOLERANCE
    assert optimize.rosen(path[-1]) < 1e-3 * optimize.rosen(problem.x0)
