"""Runs that are left in the middle of a part, and taken up there bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("sklearn", reason="needs scikit-learn's digits")
pytest.importorskip("pytorch_optimizer")

from psgd_analysis.reproduce import loop  # noqa: E402
from psgd_analysis.reproduce.experiment import Job, never  # noqa: E402
from psgd_analysis.reproduce.experiments import experiment  # noqa: E402
from psgd_analysis.reproduce.records import Record  # noqa: E402
from psgd_analysis.sweeps import Stopped  # noqa: E402

ABOUT = {"versions": {}, "revision": "", "command": "", "machine": "", "threads": 1}

CELLS = {
    "crops, batch normalisation, P": ("cifar", "PSGD LRA, cosine"),
    "stages, forgetting events": ("forgetting", "SGD"),
    "lanes that carry a state, dropout, P": ("lstm", "1 layer, PSGD"),
    "drawn pieces, masks": ("masked", "AdamW"),
    "phases": ("stubborn", "SGD, then PSGD LRA"),
    "environments": ("ppo", "HalfCheetah, Adam"),
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.delenv("PSGD_DATA", raising=False)


def job_of(name: str, cell: str) -> Job:
    if name == "ppo":
        pytest.importorskip("mujoco")
        pytest.importorskip("gymnasium")
    found = [job for job in experiment(name).jobs("smoke", [0], {}) if job.cell == cell]
    assert len(found) == 1, [job.cell for job in experiment(name).jobs("smoke", [0], {})]
    return found[0]


def run(job: Job, folder: Any, stopping: Callable[[], bool] = never, limit: float = math.inf) -> Record:
    start = experiment(job.experiment).start
    checkpoint = loop.Checkpoint(folder, job.key)
    return loop.run(job, lambda job: start(job, None), checkpoint, ABOUT, stopping=stopping, limit=limit)


def compared(record: Record) -> tuple[Any, ...]:
    """Return all of a record but times."""
    metrics = [{k: v for k, v in one.items() if k != "seconds"} for one in record.metrics]
    return record.status, record.error, record.skipped, record.final, metrics


class After:
    """Says yes from the n-th time on that it is asked."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_run_that_is_left_again_and_again_ends_the_same(cell, tmp_path):
    job = job_of(*cell)
    whole = run(job, tmp_path / "whole")
    parts = [0]  # that had ended whenever it was left
    while True:
        try:
            found = run(job, tmp_path / "left", After(3 if len(whole.metrics) < 3 else 7))
            break
        except Stopped:
            page = json.loads((tmp_path / "left" / f"{job.key}.json").read_text())
            parts.append(len(page["metrics"]))
    assert len(set(parts)) < len(parts)  # left within parts, not only between them
    assert whole.status == "done"
    assert compared(found) == compared(whole)


def test_a_limit_cuts_a_run_in_the_middle_of_a_part_and_it_goes_on(tmp_path):
    job = job_of(*CELLS["crops, batch normalisation, P"])
    cut = run(job, tmp_path, limit=1e-9)
    assert (cut.status, cut.metrics) == ("cut", [])
    assert compared(run(job, tmp_path)) == compared(run(job, tmp_path / "whole"))


def test_checkpoints_are_written_within_parts_for_runs_that_are_killed(tmp_path, monkeypatch):
    job = job_of(*CELLS["crops, batch normalisation, P"])
    monkeypatch.setattr(loop, "BETWEEN", 0.0)  # one after each iteration
    after = After(14)

    def dies() -> bool:
        if after():
            raise MemoryError
        return False

    with pytest.raises(MemoryError):
        run(job, tmp_path, dies)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 2  # the page, and the newest checkpoint alone
    found = run(job, tmp_path)
    assert found.error == ""
    assert compared(found) == compared(run(job, tmp_path / "whole"))
