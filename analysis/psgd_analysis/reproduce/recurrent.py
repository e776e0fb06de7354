"""Delayed XOR (section E.5): its sequences, and the recurrent networks that learn it.

Parameters are one vector, which PSGD and optax both take. A loss is a function of that vector and a batch, so
that one pass of ``jax.jvp`` through its gradient gives loss, gradient and Hessian-vector product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..checks import require_choice, require_count

Batch = tuple[jax.Array, jax.Array]
"""Sequences, (T, batch, 2), and labels -1 or 1, (batch,)."""

Weights = dict[str, jax.Array]

CellName = Literal["RNN", "LSTM"]

GATES = {"RNN": 1, "LSTM": 4}
"""How many matrices a cell has: its one, or input, forget and output gate and candidate."""

LANES = 16
"""Units are filled up with ones that stay 0 to a multiple of this, of whole vector registers."""


def delayed_xor(key: jax.Array, length: int, count: int) -> Batch:
    """Return a batch.

    A sequence of T random signs; two of them are marked, one in the first tenth and one between a tenth and
    half of it; the label says whether they differ.
    """
    signs, first, second = jax.random.split(key, 3)
    x = jax.random.rademacher(signs, (length, count), jnp.float32)
    at = (
        jnp.floor(0.1 * length * jax.random.uniform(first, (count,))).astype(int),
        jnp.floor(length * (0.1 + 0.4 * jax.random.uniform(second, (count,)))).astype(int),
    )
    each = jnp.arange(count)
    marks = jnp.zeros((length, count)).at[at[0], each].set(1.0).at[at[1], each].set(1.0)
    return jnp.stack([x, marks], axis=-1), -x[at[0], each] * x[at[1], each]


@dataclass(frozen=True)
class Network:
    """A cell that reads two numbers at a time, and one number read off its last state.

    Parameters
    ----------
    cell : {"RNN", "LSTM"}
        Tanh units; or those with gates (Hochreiter and Schmidhuber, with a forget gate).
    units : int
    """

    cell: CellName
    units: int = 30

    def __post_init__(self) -> None:
        require_choice("cell", self.cell, get_args(CellName))
        require_count("units", self.units)

    def start(self, seed: int) -> tuple[jax.Array, Callable[[jax.Array], Weights]]:
        """Return initial weights as a vector, and what makes them of a vector.

        Recurrent matrices are orthogonal, other weights normal with standard deviation 0.1, biases 0, but
        that of the forget gate 1.
        """
        rng, gates, n = np.random.default_rng(seed), GATES[self.cell], self.units
        bias = np.zeros((gates, n))
        bias[1:2] = 1.0
        weights = {
            "input": 0.1 * rng.standard_normal((2, gates, n)),
            "recurrent": np.stack(
                [np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(gates)], axis=1
            ),
            "bias": bias,
            "output": 0.1 * rng.standard_normal(n),
            "offset": np.zeros(()),
        }
        return ravel_pytree({name: jnp.asarray(w, jnp.float32) for name, w in weights.items()})

    def read(self, weights: Weights, x: jax.Array) -> jax.Array:
        """Return the outputs, (batch,), after sequences x."""
        gates, extra = GATES[self.cell], -self.units % LANES
        wide = self.units + extra

        def filled(w: jax.Array, *axes: int) -> jax.Array:
            return jnp.pad(w, [(0, extra if axis in axes else 0) for axis in range(w.ndim)])

        inputs = filled(weights["input"], 2).reshape(2, gates * wide)
        recurrent = filled(weights["recurrent"], 0, 2).reshape(wide, gates * wide)
        bias = filled(weights["bias"], 1).reshape(gates * wide)
        step = _lstm if self.cell == "LSTM" else _rnn

        def advance(state: tuple[jax.Array, ...], given: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
            return step(given @ inputs + bias + state[0] @ recurrent, state), None

        zero = jnp.zeros((x.shape[1], wide), x.dtype)
        first: tuple[jax.Array, ...] = (zero, zero) if self.cell == "LSTM" else (zero,)
        last, _ = jax.lax.scan(advance, first, x)
        return last[0] @ filled(weights["output"], 0) + weights["offset"]


def _rnn(total: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Return the state after what a step's units add up to."""
    return (jnp.tanh(total),)


def _lstm(total: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    enter, keep, leave, candidate = jnp.split(total, 4, axis=1)
    memory = jax.nn.sigmoid(keep) * state[1] + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    return jax.nn.sigmoid(leave) * jnp.tanh(memory), memory


def logistic(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean logistic loss; labels are -1 or 1."""
    return jnp.mean(jax.nn.softplus(-labels * outputs))
