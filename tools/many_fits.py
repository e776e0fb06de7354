"""What an update of 1,000 fits costs at once and in a loop, in processor time, as a table.

In each round both are measured, one after the other, and the table has medians over the rounds: of the
times, and of the ratios within rounds. The loop is as long as fits are few: `SOME` of them, scaled up.

    python tools/many_fits.py [numpy] [torch] [jax]
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import psgd_core as psgd
from psgd_core import kernels

COUNT, N, SOME, ROUNDS = 1000, 16, 50, 9

FITTED = {
    "Diagonal": psgd.Diagonal(),
    "XMat": psgd.XMat(),
    "Butterfly": psgd.Butterfly(),
    "Sparse, orbits of 4": psgd.Sparse(psgd.PermutationSubgroup.cyclic(N, 4)),
    "Dense": psgd.Dense(),
    "Dense, Lyapunov": psgd.Dense(geometry="Lyapunov"),
    "LowRank(2)": psgd.LowRank(2),
    "LowRank(2), natural": psgd.LowRank(2, geometry="natural"),
    "Kronecker, 4 x 4": psgd.Kronecker((4, 4)),
    "ClosedForm, GL(n)": psgd.ClosedForm(psgd.groups.GeneralLinear()),
}


def pairs(asarray: Callable[[np.ndarray], Any]) -> tuple[Any, Any]:
    """Return v and h, (COUNT, N), h of a definite Hessian for each fit."""
    rng = np.random.default_rng(0)
    a, v = rng.standard_normal((COUNT, N, N)), rng.standard_normal((COUNT, N))
    h = ((a @ np.swapaxes(a, 1, 2) / N + np.eye(N)) @ v[..., None])[..., 0]
    return asarray(v), asarray(h)


def seconds(function: Callable[[], Any]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def compared(
    p: psgd.Preconditioner[Any], v: Any, h: Any, jit: Callable[[Any], Any], loops: list[Any]
) -> tuple[float, list[float]]:
    """Return the milliseconds of an update of all, and how many times as long each loop takes."""
    many = psgd.Ensemble(p)
    update, one = jit(many.update), jit(p.update)
    states = many.init(COUNT, N, v)
    for _ in range(12):  # past the first scale
        states = update(states, v, h, 0.1)
    members = [many.member(states, i) for i in range(SOME)]
    rows = [(v[i, ...], h[i, ...]) for i in range(SOME)]

    def loop() -> None:
        done(one(state, *row, 0.1) for state, row in zip(members, rows, strict=True))

    def at_once() -> None:
        done([update(states, v, h, 0.1)])

    times: list[float] = []
    ratios: list[list[float]] = [[] for _ in loops]
    for turn in range(ROUNDS + 1):
        together = min(seconds(at_once) for _ in range(3))
        for ratio, context in zip(ratios, loops, strict=True):
            with context():
                apart = seconds(loop) * COUNT / SOME
            if turn:  # the first compiles
                ratio.append(apart / together)
        times.append(together)
    return 1e3 * statistics.median(times), [statistics.median(ratio) for ratio in ratios]


def done(states: Any) -> None:
    """Wait for states."""
    for state in states:
        for leaf in (state.count, state.skipped):
            getattr(leaf, "block_until_ready", lambda: None)()


def main(libraries: list[str]) -> None:
    """Print a table for each library."""
    for library in libraries:
        asarray: Callable[[np.ndarray], Any] = np.asarray
        jit: Callable[[Any], Any] = lambda function: function  # noqa: E731
        loops: dict[str, Any] = {"loop": kernels.off, "loop with kernels": kernels.on}
        if library == "torch":
            import torch

            asarray = torch.as_tensor
        elif library == "jax":
            import jax

            jax.config.update("jax_enable_x64", True)
            asarray, jit, loops = jax.numpy.asarray, jax.jit, {"loop under jit": contextlib.nullcontext}
        print(f"\n{library}, {COUNT} fits of n = {N}, float64\n")
        print("| | at once | " + " | ".join(loops) + " |")
        print("|---|---|" + "---|" * len(loops))
        for name, p in FITTED.items():
            took, ratios = compared(p, *pairs(asarray), jit, list(loops.values()))
            print(
                f"| {name} | {took:.2g} ms | " + " | ".join(f"{x:.3g} times" for x in ratios) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:] or ["numpy"])
