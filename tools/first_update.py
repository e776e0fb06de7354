"""What the first update costs where nothing has been compiled yet, in seconds of processor time, as a table.

Each preconditioner has a process of its own with an empty cache. "First result": import, `init`, an update
and `P g`. "Kernels": the same update and product by kernels from the start (``PSGD_KERNELS=on``), which is
what the update costs that makes them worth their while.

    python tools/first_update.py [n ...]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

NAMES = {
    "Diagonal": "psgd.Diagonal()",
    "XMat": "psgd.XMat()",
    "Sparse, orbits of 4": "psgd.Sparse(psgd.PermutationSubgroup.klein(n))",
    "Dense": "psgd.Dense()",
    "LowRank(10)": "psgd.LowRank(10)",
    "LowRank(10, geometry='natural')": "psgd.LowRank(10, geometry='natural')",
    "Kronecker": "psgd.Kronecker((n // 4, 4))",
}
MEASURED = """
import time
start = time.process_time()
import numpy as np
import psgd_core as psgd
imported = time.process_time() - start
n = {n}
v, h = np.random.default_rng(0).standard_normal((2, n)).astype(np.float32)
p = {made}
state = p.init(n, like=v)
for _ in range({updates}):
    before = time.process_time()
    state = p.update(state, v, h, 0.1)
    took = time.process_time() - before
before = time.process_time()
p.precondition(state, h)
print(imported, took, time.process_time() - before, time.process_time() - start)
"""


def measured(made: str, n: int, kernels: str, updates: int) -> list[float]:
    """Return the seconds of the import, of the last of so many updates, of P g, and of all."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED.format(n=n, made=made, updates=updates)],
            env={**os.environ, "PSGD_KERNELS": kernels, "NUMBA_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=True,
        )
    if done.stderr:
        raise RuntimeError(f"it said on stderr: {done.stderr}")
    return [float(x) for x in done.stdout.split()]


def main(sizes: list[int]) -> None:
    """Print the table."""
    print("| n | preconditioner | first update | first result | kernels: update | P g |")
    print("|---|---|---|---|---|---|")
    for n in sizes:
        for name, made in NAMES.items():
            if n > 2_000 and name == "Dense":
                continue
            _, first, _, everything = measured(made, n, "auto", 1)
            # a dense one's first update, which sets the scale, has no kernel
            _, update, product, _ = measured(made, n, "on", 2 if name == "Dense" else 1)
            print(
                f"| {n:,} | `{name}` | {first:.2f} | {everything:.2f} | {update:.1f} | {product:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main([int(float(x)) for x in sys.argv[1:]] or [100, 100_000])
