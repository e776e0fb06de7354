"""Delayed XOR (section E.5): iterations until a plain RNN solves it, with and without replay.

    python analysis/delayed_xor.py --length 32 --seeds 10 --size 50 --times 10

Each input is a row of signs; two are marked, the first within the first tenth of the row, the second between
there and its middle. The label is their product. A tanh RNN of 30 units, orthogonal to begin with, reads the
row and answers at its end. P is fitted to exact products on each batch of 128; learning rate and step are
0.01, ``|P g|`` at most 1, no momentum. Solved: the loss of one batch is below 0.1. Needs jax.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import psgd_core as psgd
from psgd_core.adapters.jax import psgd as optimizer_of
from psgd_core.adapters.jax import value_grad_hvp

UNITS, BATCH, SOLVED, CHUNK = 30, 128, 0.1, 100


def start(seed: int) -> dict[str, jax.Array]:
    """Return the weights to start from."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((UNITS, UNITS)))[0]
    first = np.concatenate([0.1 * rng.standard_normal((2, UNITS)), turn, np.zeros((1, UNITS))])
    second = np.concatenate([0.1 * rng.standard_normal((UNITS, 1)), np.zeros((1, 1))])
    return {"hidden": jnp.asarray(first, jnp.float32), "out": jnp.asarray(second, jnp.float32)}


def batch(key: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """Return inputs (length, BATCH, 2) and labels (BATCH,)."""
    keys = jax.random.split(key, 3)
    signs = jax.random.rademacher(keys[0], (length, BATCH), jnp.float32)
    early, late = (jax.random.uniform(key, (BATCH,)) for key in keys[1:])
    at = jnp.floor(length * jnp.stack([0.1 * early, 0.1 + 0.4 * late])).astype(int)
    each = jnp.arange(BATCH)
    marks = jnp.zeros((length, BATCH)).at[at[0], each].set(1.0).at[at[1], each].set(1.0)
    return jnp.stack([signs, marks], axis=2), -signs[at[0], each] * signs[at[1], each]


def loss(w: dict[str, jax.Array], rows: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean logistic loss."""
    one = jnp.ones((BATCH, 1))

    def read(state: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
        return jnp.tanh(jnp.concatenate([x, state, one], axis=1) @ w["hidden"]), None

    state, _ = jax.lax.scan(read, jnp.zeros((BATCH, UNITS)), rows)
    answer = jnp.concatenate([state, one], axis=1) @ w["out"]
    return jnp.mean(jax.nn.softplus(-labels * answer[:, 0]))


def solved_after(
    seed: int, length: int, rank: int, step: float, replay: psgd.Replay | None, most: int
) -> int | None:
    """Return the iterations until one batch is solved, None if that takes more than `most`."""
    settings: dict[str, Any] = {"momentum": 0.0, "clip": 1.0, "per_leaf": False, "replay": replay}
    optimizer = optimizer_of(0.01, psgd.LowRank(rank), step, **settings)
    ask = value_grad_hvp(loss)

    def iteration(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        w, state = carry
        data, probe = jax.random.split(key)
        value, g, h, v = ask(w, probe, *batch(data, length))
        moves, state = optimizer.update(g, state, w, hvp=h, probe=v)
        return (optax.apply_updates(w, moves), state), value

    run = jax.jit(partial(jax.lax.scan, iteration))
    w = start(seed)
    carry = w, optimizer.init(w)
    for t in range(0, most, CHUNK):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), t), CHUNK)
        carry, values = run(carry, keys)
        if bool(jnp.any(values < SOLVED)):
            return t + 1 + int(jnp.argmax(values < SOLVED))
    return None


def main() -> None:
    """Print the iterations of each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("length", 32), ("rank", 10), ("seeds", 10), ("most", 20_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--step", type=float, default=0.01)
    parser.add_argument("--size", type=int, default=50, help="of the ring; 0 without replay")
    parser.add_argument("--times", type=int, default=10)
    given = parser.parse_args()
    replay = psgd.Replay(given.size, given.times) if given.size else None
    for seed in range(given.seeds):
        began = time.perf_counter()
        found = solved_after(seed, given.length, given.rank, given.step, replay, given.most)
        seconds = time.perf_counter() - began
        print(f"seed {seed}: {found or 'not solved'}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
