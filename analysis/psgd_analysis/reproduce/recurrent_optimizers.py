"""Optimisers of recurrent networks in JAX, behind one interface that traces under ``jit``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import optax

import psgd_core as psgd

from ..checks import require_choice
from ..spectrum.jax_sources import gauss_newton
from .experiment import Settings
from .recurrent import logistic


@dataclass(frozen=True)
class Loss:
    """The mean logistic loss of an iteration's batch, a function of the parameters, which are a vector.

    Parameters
    ----------
    outputs : callable
        The network's, of the parameters.
    labels : array
        -1 or 1.
    """

    outputs: Callable[[jax.Array], jax.Array]
    labels: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the loss at x."""
        return logistic(self.outputs(x), self.labels)


class Optimizer(Protocol):
    """How an iteration moves; hashable, as what is compiled for it is kept by it."""

    @property
    def products(self) -> int:
        """Products with the Hessian, or the Gauss-Newton matrix, in each iteration."""

    def __hash__(self) -> int: ...

    def init(self, x: jax.Array) -> Any:
        """Return the state to start with."""

    def step(self, state: Any, x: jax.Array, loss: Loss, key: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        """Return (loss at x, x, state) after an iteration."""

    def skipped(self, state: Any) -> int:
        """Return how many iterations were refused so far."""


@dataclass(frozen=True)
class Preconditioned:
    """PSGD with a pair in each iteration."""

    psgd: psgd.PSGD
    products = 1

    def init(self, x: jax.Array) -> Any:
        """Return the state to start with."""
        return self.psgd.init(x)

    def step(self, state: Any, x: jax.Array, loss: Loss, key: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        """Return (loss at x, x, state): loss, gradient and product come from one pass."""
        v = jax.random.normal(key, x.shape, x.dtype)
        value, g, h = _with_product(loss, x, v)
        x, state = self.psgd.update(state, x, g, pair=(v, h))
        return value, x, state

    def skipped(self, state: Any) -> int:
        """Return how many gradients and pairs were not finite."""
        return int(state.skipped) + int(state.preconditioner.skipped)


OptaxName = Literal["SGD", "Adam", "AdaBelief", "Adan"]


@dataclass(frozen=True)
class Optax:
    """An optimiser of optax, the gradient clipped; without clip for ``clip=None``."""

    name: OptaxName
    lr: float
    clip: float | None
    products = 0

    def _transformation(self) -> optax.GradientTransformation:
        make = {"SGD": optax.sgd, "Adam": optax.adam, "AdaBelief": optax.adabelief, "Adan": optax.adan}
        found = make[self.name](self.lr)
        return found if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), found)

    def init(self, x: jax.Array) -> Any:
        """Return the state to start with."""
        return self._transformation().init(x)

    def step(self, state: Any, x: jax.Array, loss: Loss, key: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        """Return (loss at x, x, state)."""
        value, g = jax.value_and_grad(loss)(x)
        updates, state = self._transformation().update(g, state, x)
        return value, optax.apply_updates(x, updates), state

    def skipped(self, state: Any) -> int:
        """Return 0: what is not finite ends the run."""
        return 0


class AdaHessianState(NamedTuple):
    """State of `AdaHessian`."""

    gradient: jax.Array  # (n,) mean of gradients
    square: jax.Array  # (n,) mean of squared estimates of the Hessian's diagonal
    count: jax.Array  # type: ignore[assignment]  # 0-d: iterations done


@dataclass(frozen=True)
class AdaHessian:
    """Adam with Hutchinson's estimate of the Hessian's diagonal in place of the gradient's square.

    As `pytorch_optimizer.AdaHessian`, whose constants these are; the gradient is clipped.
    """

    lr: float
    clip: float
    products = 1

    def init(self, x: jax.Array) -> AdaHessianState:
        """Return the state to start with."""
        return AdaHessianState(jnp.zeros_like(x), jnp.zeros_like(x), jnp.asarray(0, jnp.int32))

    def step(
        self, state: AdaHessianState, x: jax.Array, loss: Loss, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, AdaHessianState]:
        """Return (loss at x, x, state)."""
        v = jax.random.rademacher(key, x.shape, x.dtype)
        value, g, h = _with_product(loss, x, v)
        g = g / jnp.maximum(jnp.linalg.norm(g) / self.clip, 1)
        count = state.count + 1
        mean = 0.9 * state.gradient + 0.1 * g
        square = 0.999 * state.square + 0.001 * (v * h) ** 2
        size = jnp.sqrt(square / (1 - 0.999**count))
        x = x - self.lr * mean / (1 - 0.9**count) / (size + 1e-16)
        return value, x, AdaHessianState(mean, square, count)

    def skipped(self, state: AdaHessianState) -> int:
        """Return 0: what is not finite ends the run."""
        return 0


@dataclass(frozen=True)
class HessianFree:
    """Conjugate gradients on Gauss-Newton products, damped as Levenberg and Marquardt do (Martens 2010).

    The damping falls by 2/3 where the loss of the batch falls as the model says, and rises by 3/2 where it
    does not; a step that raises the loss is not taken. Structural damping is left out.

    Parameters
    ----------
    products : int
        Of each iteration: the most that conjugate gradients get, which start at 0.
    damping : float
        At first.
    """

    products: int = 20
    damping: float = 1.0

    def init(self, x: jax.Array) -> jax.Array:
        """Return the damping to start with."""
        return jnp.asarray(self.damping, x.dtype)

    def step(
        self, state: jax.Array, x: jax.Array, loss: Loss, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return (loss at x, x, damping)."""
        value, g = jax.value_and_grad(loss)(x)
        product = gauss_newton(loss.outputs, lambda z: logistic(z, loss.labels), x)

        def damped(v: jax.Array) -> jax.Array:
            return product(v) + state * v

        move, _ = jax.scipy.sparse.linalg.cg(damped, -g, maxiter=self.products)
        expected = move @ g + move @ product(move) / 2
        change = loss(x + move) - value
        right = change / expected
        state = jnp.where(right > 0.75, state * (2 / 3), jnp.where(right < 0.25, state * 1.5, state))
        return value, jnp.where(change < 0, x + move, x), state

    def skipped(self, state: jax.Array) -> int:
        """Return 0: steps that are not taken cost an iteration, which is counted."""
        return 0


def _with_product(loss: Loss, x: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (loss, gradient, Hessian times v) at x, in one pass."""
    (value, g), (_, h) = jax.jvp(jax.value_and_grad(loss), (x,), (v,))
    return value, g, h


def optimizer(settings: Settings) -> Optimizer:
    """Return the optimiser of a cell."""
    name, lr, clip = settings["optimizer"], settings["lr"], settings["clip"]
    require_choice("optimizer", name, ("PSGD", "AdaHessian", "Hessian-free", *get_args(OptaxName)))
    if name == "PSGD":
        p = psgd.LowRank(settings["rank"])
        return Preconditioned(psgd.PSGD(p, lr=lr, step_size=settings["step"], clip=clip))
    if name == "AdaHessian":
        return AdaHessian(lr, clip)
    return HessianFree() if name == "Hessian-free" else Optax(name, lr, clip)
