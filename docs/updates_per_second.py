"""Measure updates per second, on one core, and print a table: ``python docs/updates_per_second.py [n ...]``.

Processor time of this process, the best of three rounds, on NumPy in float32: so that other work on the
machine counts as little as it can.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import time

import numpy as np

import psgd_core as psgd


def seconds(p: psgd.Preconditioner, n: int, budget: float) -> tuple[float, float]:
    """Return the processor time of one update and of one preconditioning."""
    rng = np.random.default_rng(0)
    v = rng.standard_normal(n, dtype=np.float32)
    h = 2 * v
    state = p.update(p.init(n, like=v), v, h, step=0.1)
    times = []
    for call in (lambda s: p.update(s, v, h, step=0.1), lambda s: p.precondition(s, h)):
        best = float("inf")
        for _ in range(3):
            count, start = 0, time.process_time()
            while time.process_time() - start < budget / 6:
                call(state)
                count += 1
            best = min(best, (time.process_time() - start) / count)
        times.append(best)
    return times[0], times[1]


def short(rate: float) -> str:
    """Return a rate in two digits, which is what such a measurement is good for."""
    return f"{float(f'{rate:.2g}'):,g}"


def main(sizes: list[int], budget: float = 3.0) -> None:
    """Print a Markdown table."""
    print("| | n | updates per second | P g per second |\n|---|---|---|---|")
    for p in (psgd.Diagonal(), psgd.XMat(), psgd.Butterfly(), psgd.LowRank(10), psgd.Dense()):
        name = f"LowRank({p.rank})" if isinstance(p, psgd.LowRank) else type(p).__name__
        for n in sizes:
            if isinstance(p, psgd.Dense) and n > 1000:
                continue
            update, use = seconds(p, n, budget)
            print(f"| {name} | {n:,} | {short(1 / update)} | {short(1 / use)} |", flush=True)


if __name__ == "__main__":
    main([int(x) for x in sys.argv[1:]] or [100, 10_000, 1_000_000])
