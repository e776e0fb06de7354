"""One job in whatever process it runs: here, a worker on this machine, or one on a cluster."""

from __future__ import annotations

import gc
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import psgd_core as psgd

from .. import machine
from ..documents import versions
from ..sweeps import Handle
from .experiment import Job
from .experiments import experiment
from .loop import Checkpoint, run
from .records import Record

PACKAGES = (
    *("torch", "jax", "optax", "numba", "scikit-learn", "pytorch_optimizer", "asdfghjkl"),
    *("gymnasium", "mujoco"),
)
"""Whose versions records carry, besides Python's, NumPy's, SciPy's and this package's."""


@dataclass(frozen=True)
class Place:
    """Where jobs find the user's data, keep checkpoints, and what they say of the command.

    Parameters
    ----------
    data : Path or None
    checkpoints : Path
    command, revision : str
    limit : float
        CPU-seconds after which a run is cut.
    """

    data: Path | None
    checkpoints: Path
    command: str
    revision: str
    limit: float = math.inf


def work(job: Job, place: Place, *, board: Handle) -> Record:
    """Run a job on one thread and return its record; see `loop.run`, and `sweeps` for `board`."""
    machine.set_threads(1)
    gc.collect()  # trainings and their measures hold each other, and the data: those of the job before
    about = {
        "versions": versions(PACKAGES),
        "revision": place.revision,
        "command": place.command,
        "machine": machine.processor(),
        "threads": 1,
    }
    with psgd.kernels.on():  # compiled once, for all runs
        return run(
            job,
            lambda job: experiment(job.experiment).start(job, place.data),
            Checkpoint(place.checkpoints, job.key),
            about,
            limit=place.limit,
            note=board.note,
            stopping=board.stopping,
        )


def revision(folder: Path = Path(__file__).parent) -> str:
    """Return the commit of the source, with "+" if it was changed since; "" if it is not in a clone."""

    def git(*words: str) -> str:
        found = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
        return found.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return ""


def compile_kernels() -> None:
    """Compile the kernels that float32 runs use, so that workers find them on the disk."""
    rng = np.random.default_rng(0)
    v, h = rng.standard_normal((2, 50_000), dtype=np.float32)
    groups: list[psgd.Preconditioner[Any]] = [psgd.LowRank(1), psgd.LowRank(5), psgd.Diagonal(), psgd.XMat()]
    with psgd.kernels.on():
        for group in groups:
            state = group.update(group.init(len(v), v), v, h, 0.1)
            group.precondition(state, h)
