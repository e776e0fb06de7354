"""How much memory an optimiser's state takes, and how much its steps, in a process of their own."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..resident import resident_peak

if TYPE_CHECKING:
    from .optimizers import Steps


def state_bytes(state: Any) -> int:
    """Return the bytes of all floating-point tensors and arrays in nested containers, shared ones once.

    Parameters
    ----------
    state : dict, list, tuple, tensor, array or anything else
        Such as `Steps.state_dict` returns; states of generators, which are integers, count nothing.
    """
    found: dict[tuple[int, int], int] = {}
    _collect(state, found)
    return sum(found.values())


def _collect(x: Any, found: dict[tuple[int, int], int]) -> None:
    if isinstance(x, Mapping):
        for value in x.values():
            _collect(value, found)
    elif isinstance(x, list | tuple):
        for value in x:
            _collect(value, found)
    elif hasattr(x, "is_floating_point"):
        if x.is_floating_point():
            size = x.numel() * x.element_size()
            found[(x.data_ptr(), size)] = size
    elif hasattr(x, "nbytes") and x.dtype.kind == "f":
        found[(id(x), x.nbytes)] = int(x.nbytes)


def step_bytes(settings: Mapping[str, Any], shape: tuple[int, ...], classes: int) -> int | None:
    """Return by how much making an optimiser, and steps of it, raise a process's resident memory at most.

    That is the gradient, the graphs of first and second derivatives, the optimiser's state and its temporary
    arrays; parameters and data are there before. A new Python process measures it, on random images, so that
    nothing of this one is in the way.

    Parameters
    ----------
    settings : dict
        "model", "optimizer" by name, "batch"; "model_settings" and "optimizer_settings" besides; and "steps",
        how many are done, 12 by default.
    shape : tuple of int
        Of an example.
    classes : int

    Returns
    -------
    int or None
        None off Linux.

    Raises
    ------
    RuntimeError
        If the process failed, with its last words.
    """
    about = json.dumps({"settings": dict(settings), "shape": shape, "classes": classes})
    # large arrays are given back to the system at once, so that the peak counts what is in use
    own = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(
        command, input=about, capture_output=True, text=True, env={**os.environ, **own}, check=False
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]
        raise RuntimeError(f"the process that measures memory failed: {words[0]}")
    found: int | None = json.loads(done.stdout)
    return found


def _measured(settings: Mapping[str, Any], shape: tuple[int, ...], classes: int) -> int | None:
    """Return `step_bytes` of this process."""
    import torch

    from . import models

    torch.set_num_threads(1)
    model = models.make(settings["model"], shape, classes, settings.get("model_settings", {}), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.rand(settings["batch"], *shape)
        y = torch.randint(classes, (settings["batch"],))

    def steps() -> Steps:
        from .optimizers import make

        optimizer = make(settings["optimizer"], model, settings.get("optimizer_settings", {}), 0)
        for _ in range(settings.get("steps", 12)):
            optimizer.step(lambda: (torch.nn.functional.cross_entropy(model(x), y), None))
        return optimizer

    # once for what is loaded and compiled on the way
    steps()
    model.zero_grad(set_to_none=True)
    gc.collect()
    return resident_peak(steps)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(_measured(given["settings"], tuple(given["shape"]), given["classes"])))
