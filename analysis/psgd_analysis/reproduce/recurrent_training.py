"""Recurrent networks trained in JAX, thousands of iterations at a time under one ``jit``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import IO, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import require_count
from .experiment import Settings, never
from .recurrent import Network, delayed_xor
from .recurrent_optimizers import Loss, Optimizer, optimizer


class Carry(NamedTuple):
    """All that the next iteration depends on; arrays only."""

    x: jax.Array  # (n,) parameters
    state: Any  # the optimiser's
    seed: jax.Array  # 0-d: with `count` it gives the keys of batch and probe
    count: jax.Array  # type: ignore[assignment]  # 0-d: iterations done
    value: jax.Array  # 0-d: loss of the last batch
    total: jax.Array  # 0-d: losses of this part, summed up


@cache
def _compiled(
    network: Network, optimizer: Optimizer, length: int, batch: int, solved: float
) -> Callable[[Carry, int], Carry]:
    """Return what takes a run to an iteration, or as far as it goes; compiled once for all seeds."""
    _, weights_of = network.start(0)

    def going(carry: Carry) -> jax.Array:
        return jnp.isfinite(carry.value) & (carry.value >= solved)

    def iterate(carry: Carry) -> Carry:
        data, probe = jax.random.split(jax.random.fold_in(jax.random.key(carry.seed), carry.count))
        sequences, labels = delayed_xor(data, length, batch)

        loss = Loss(lambda x: network.read(weights_of(x), sequences), labels)
        value, x, state = optimizer.step(carry.state, carry.x, loss, probe)
        return Carry(x, state, carry.seed, carry.count + 1, value, carry.total + value)

    @jax.jit
    def advance(carry: Carry, until: int) -> Carry:
        start = carry._replace(total=jnp.zeros_like(carry.total))
        return jax.lax.while_loop(lambda now: going(now) & (now.count < until), iterate, start)

    return advance


class XorTraining:
    """A run of delayed XOR: until a batch's loss is below `solved`, or the iterations are used up.

    Parameters
    ----------
    settings : dict
        "cell", "units", "length", "batch", "solved", "iterations", "part" (iterations from one checkpoint to
        the next), "optimizer", "lr", "clip", and for PSGD "rank" and "step".
    seed : int
        Of the weights, the batches and the probes: with one seed, all cells of a length see the same batches.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self._most = require_count("iterations", settings["iterations"])
        self._part = require_count("part", settings["part"])
        self.parts = -(-self._most // self._part)
        self._solved = float(settings["solved"])
        self._optimizer = optimizer(settings)
        network = Network(settings["cell"], settings["units"])
        self._advance = _compiled(
            network, self._optimizer, settings["length"], settings["batch"], self._solved
        )
        x, _ = network.start(seed)
        # the value stands for a batch that was not solved
        self._carry = Carry(
            x=x,
            state=self._optimizer.init(x),
            seed=jnp.asarray(seed, jnp.uint32),
            count=jnp.asarray(0, jnp.int32),
            value=jnp.asarray(jnp.finfo(x.dtype).max, x.dtype),
            total=jnp.asarray(0.0, x.dtype),
        )

    @property
    def status(self) -> Literal["going", "done", "diverged"]:
        """Whether more parts are needed."""
        value = float(self._carry.value)
        if not np.isfinite(value):
            return "diverged"
        return "done" if value < self._solved or int(self._carry.count) >= self._most else "going"

    @property
    def skipped(self) -> int:
        """How many gradients and pairs were refused so far because they were not finite."""
        return self._optimizer.skipped(self._carry.state)

    def advance(self, pause: Callable[[], bool] = never) -> dict[str, Any]:
        """Run the next part, and return iterations done and the mean loss in it."""
        before = int(self._carry.count)
        until = min((before // self._part + 1) * self._part, self._most)
        self._carry = jax.block_until_ready(self._advance(self._carry, until))
        after = int(self._carry.count)
        return {"iterations": after, "loss": float(self._carry.total) / (after - before)}

    def final(self) -> dict[str, Any]:
        """Return whether it was solved, after how many iterations and products, and the last batch's loss."""
        count, value = int(self._carry.count), float(self._carry.value)
        return {
            "solved": value < self._solved,
            "iterations": count,
            "products": count * self._optimizer.products,
            "loss": value,
        }

    def save(self, file: IO[bytes]) -> None:
        """Write all arrays, as an npz."""
        np.savez(file, *(np.asarray(leaf) for leaf in jax.tree.leaves(self._carry)))

    def load(self, file: IO[bytes]) -> None:
        """Take up what `save` wrote."""
        leaves, structure = jax.tree.flatten(self._carry)
        with np.load(file, allow_pickle=False) as stored:
            found = [jnp.asarray(stored[f"arr_{i}"]) for i in range(len(leaves))]
        for leaf, new in zip(leaves, found, strict=True):
            if (leaf.shape, leaf.dtype) != (new.shape, new.dtype):
                raise ValueError(
                    f"`file` must hold a run with these settings, got {new.dtype} {new.shape} in place of "
                    f"{leaf.dtype} {leaf.shape}; remove the checkpoint"
                )
        self._carry = jax.tree.unflatten(structure, found)
