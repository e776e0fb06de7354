"""Where the time of a step of PyTorch's optimiser goes: LeNet5, batches of 64, one thread.

Medians over steps of what each part takes by itself, in microseconds of the clock, with kernels. What watches
adds some 0.3 microseconds to each call. Before each step caches are as a gradient leaves them.

    PYTHONPATH=analysis python tools/torch_step.py [hvp | whitening] [preconditioner ...]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import psgd_core as psgd
from psgd_analysis.reproduce import models
from psgd_core import descent
from psgd_core.adapters.torch import PSGD, flat, optimizer, pairs
from psgd_core.descent import psgd as loop
from psgd_core.preconditioners import Preconditioner

STEPS, WARM, BATCH = 300, 50, 64


class Watch:
    """How long parts take, each without the parts inside it."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def over(self, owner: Any, name: str, part: str) -> None:
        """Watch a function from now on."""
        function = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - start
                self.totals[part] += took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took

        setattr(owner, name, watched)


def watch() -> Watch:
    """Return a watch over the parts of a step."""
    found = Watch()
    for owner, name, part in (
        (PSGD, "step", "the rest of the step"),
        (PSGD, "_draw", "the probe, standard normal"),
        (pairs, "evaluate", "gradient and product"),
        (optimizer, "flat_of", "parameters, gradients, products as vectors"),
        (flat.Flat, "vector", "parameters, gradients, products as vectors"),
        (flat.Flat, "parts", "parameters, gradients, products as vectors"),
        (flat.Flat, "write", "parameters written"),
        (descent.PSGD, "update", "the rest of the loop: settings, checks, momentum"),
        (descent.PSGD, "accept", "new parameters, finite or not"),
        (loop, "fitted", "P fitted"),
        (descent.clips.AdaptiveNorm, "limit", "clip"),
        (Preconditioner, "precondition", "P m"),
    ):
        found.over(owner, name, part)
    return found


def measured(found: Watch, kind: str, curvature: str) -> dict[str, float]:
    """Return the medians of all parts of a step, in microseconds."""
    torch.manual_seed(0)
    model = models.make("lenet5", (1, 28, 28), 10, {}, 0)
    x, y = torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))
    own = PSGD(model.parameters(), kind, lr=1e-4, curvature=curvature)

    def loss() -> Any:
        return cross_entropy(model(x), y)

    steps: list[dict[str, float]] = []
    for _ in range(WARM + STEPS):
        closure: Callable[[], Any] | None = loss
        if curvature == "whitening":  # as most training loops have it
            own.zero_grad()
            loss().backward()
            closure = None
        found.totals.clear()
        own.step(closure)
        steps.append(dict(found.totals))
    parts = steps[-1]
    return {part: 1e6 * statistics.median(step[part] for step in steps[WARM:]) for part in parts}


def main(curvature: str = "hvp", *kinds: str) -> None:
    """Print a table for each preconditioner."""
    torch.set_num_threads(1)
    found = watch()
    for kind in kinds or ("diagonal", "lowrank"):
        with psgd.kernels.on():
            parts = measured(found, kind, curvature)
        print(f"\n{kind}, curvature={curvature!r}: {sum(parts.values()):.0f} us")
        for part, took in sorted(parts.items(), key=lambda item: -item[1]):
            print(f"{took:8.0f}  {part}")


if __name__ == "__main__":
    main(*sys.argv[1:])
