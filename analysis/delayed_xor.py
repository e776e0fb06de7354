"""Delayed XOR (section E.5, Table 8): the iterations a recurrent network needs, P fitted in several ways.

    python analysis/delayed_xor.py --seeds 10 --out analysis/results/delayed_xor.md

A sequence of T random signs; two of them are marked, one in the first tenth and one between a tenth and half
of it; the label says whether they differ. The network has 30 tanh units, an orthogonal recurrent matrix to
begin with, and reads the label off its last state: 1,021 parameters. A run is solved when a batch of 128 has
a loss below 0.1. lr 0.01 and a clip of 1 are the paper's, without momentum; each iteration draws a batch and,
where P is fitted, a Hessian-vector product. Needs jax.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import psgd_core as psgd
from psgd_core.curvature import Functions

BATCH, UNITS, SOLVED, CHUNK = 128, 30, 0.1, 100

METHODS: dict[str, tuple[float, psgd.Replay | None]] = {
    "step 0.01": (0.01, None),
    "step 0.1": (0.1, None),
    "step 0.3": (0.3, None),
    "step 0.1, each pair with 4 of the last 20": (0.1, psgd.Replay(20, 5)),
    "step 0.01, each pair with 9 of the last 50": (0.01, psgd.Replay(50, 10)),
}
"""Step and ring of pairs, of `LowRank(10)`."""


def batch(key: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """Return sequences (T, batch, 2) and labels -1 or 1."""
    signs, first, second = jax.random.split(key, 3)
    x = jax.random.rademacher(signs, (length, BATCH), jnp.float32)
    at = (
        jnp.floor(0.1 * length * jax.random.uniform(first, (BATCH,))).astype(int),
        jnp.floor(length * (0.1 + 0.4 * jax.random.uniform(second, (BATCH,)))).astype(int),
    )
    each = jnp.arange(BATCH)
    marks = jnp.zeros((length, BATCH)).at[at[0], each].set(1.0).at[at[1], each].set(1.0)
    return jnp.stack([x, marks], axis=-1), -x[at[0], each] * x[at[1], each]


def loss(w: dict[str, jax.Array], sample: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return the mean logistic loss."""
    x, y = sample

    def cell(state: jax.Array, given: jax.Array) -> tuple[jax.Array, None]:
        return jnp.tanh(given @ w["input"] + state @ w["recurrent"] + w["bias"]), None

    last, _ = jax.lax.scan(cell, jnp.zeros((BATCH, UNITS)), x)
    return jnp.mean(jax.nn.softplus(-y * (last @ w["output"] + w["offset"])))


def start(seed: int) -> dict[str, jax.Array]:
    """Return initial weights."""
    rng = np.random.default_rng(seed)
    weights = {
        "input": 0.1 * rng.standard_normal((2, UNITS)),
        "recurrent": np.linalg.qr(rng.standard_normal((UNITS, UNITS)))[0],
        "bias": np.zeros(UNITS),
        "output": 0.1 * rng.standard_normal(UNITS),
        "offset": np.zeros(()),
    }
    return {name: jnp.asarray(w, jnp.float32) for name, w in weights.items()}


gradient = jax.grad(loss)


def product(w: Any, v: Any, sample: Any) -> Any:
    """Return the Hessian of the batch's loss times v."""
    return jax.jvp(lambda at: gradient(at, sample), (w,), (v,))[1]


FUNCTIONS = Functions(gradient=gradient, hvp=product)


@functools.partial(jax.jit, static_argnums=(0, 1))
def advance(optimizer: psgd.PSGD, length: int, key: jax.Array, w: Any, state: Any) -> Any:
    """Return (key, weights, state, losses) after `CHUNK` iterations."""

    def body(carry: Any, _: None) -> tuple[Any, jax.Array]:
        key, w, state = carry
        key, data, probe = jax.random.split(key, 3)
        sample = batch(data, length)
        n = sum(leaf.size for leaf in jax.tree.leaves(w))
        v = jax.random.normal(probe, (n,))
        value = loss(w, sample)
        w, state = optimizer.step(state, w, FUNCTIONS.at(sample), v)
        return (key, w, state), value

    carry, values = jax.lax.scan(body, (key, w, state), None, length=CHUNK)
    return *carry, values


def run(method: str, seed: int, length: int, most: int) -> int | None:
    """Return the iteration that solved it, None if there was none."""
    step, replay = METHODS[method]
    optimizer = psgd.PSGD(psgd.LowRank(10), lr=0.01, step_size=step, clip=1.0, replay=replay)
    key, w = jax.random.key(seed), start(seed)
    state = optimizer.init(w)
    for done in range(0, most, CHUNK):
        key, w, state, values = advance(optimizer, length, key, w, state)
        below = np.flatnonzero(np.asarray(values) < SOLVED)
        if below.size:
            return done + int(below[0]) + 1
    return None


def main() -> None:
    """Run the methods and write a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--method", action="append", choices=list(METHODS))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    lines = [
        f"| T = {chosen.length} | solved | iterations, ascending | median | ms each |",
        "|---|---|---|---|---|",
    ]
    for method in chosen.method or METHODS:
        began, found = time.process_time(), []
        for seed in range(chosen.seeds):
            found.append(run(method, seed, chosen.length, chosen.iterations))
            print(method, seed, found[-1], flush=True)
        took = 1e3 * (time.process_time() - began) / sum(x or chosen.iterations for x in found)
        solved = sorted(x for x in found if x is not None)
        median = float(np.median([x or np.inf for x in found]))
        shown = ", ".join(f"{x:,}" for x in solved)
        lines.append(f"| {method} | {len(solved)} of {chosen.seeds} | {shown} | {median:,.0f} | {took:.1f} |")
        print(lines[-1], flush=True)
        if chosen.out:
            chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
