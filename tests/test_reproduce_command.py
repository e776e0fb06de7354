"""`psgd reproduce` as users call it: records, interruptions, dead workers, clusters, bad options."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psgd_analysis.cli import run
from psgd_analysis.reproduce.experiment import SCALES
from psgd_analysis.reproduce.experiments import NAMES, experiment
from psgd_analysis.reproduce.records import Book, Record

pytest.importorskip("torch")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parent.parent
PATIENCE = 600.0
"""Seconds until a process is taken to hang; on a busy machine workers take minutes to start."""

LENET = ("reproduce", "lenet", "--scale", "smoke", "--seeds", "0-2", "-c", "SGD", "-c", "PSGD LowRank(5)")


def content(folder: Path, name: str = "lenet") -> dict[str, dict[str, object]]:
    """Return the records by key, without what depends on time, machine and command."""
    found = {}
    for record in Book(folder / f"{name}.jsonl").records():
        held = dataclasses.asdict(record)
        for clock in ("seconds", "cpu_seconds", "command", "machine"):
            del held[clock]
        held["metrics"] = [{k: x for k, x in m.items() if k != "seconds"} for m in record.metrics]
        found[record.key] = held
    return found


def started(*words: str) -> subprocess.Popen[str]:
    """Start the command in a process group of its own."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "analysis"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "psgd_analysis", *words],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(what: object, process: subprocess.Popen[str]) -> None:
    """Wait until `what()` is true, while the process runs."""
    limit = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sweep that nothing disturbed, in one process."""
    folder = tmp_path_factory.mktemp("whole")
    assert run([*LENET, "--jobs", "1", "--out", str(folder)]) == 0
    return folder


def test_a_sweep_leaves_records_and_pages(whole: Path) -> None:
    records = Book(whole / "lenet.jsonl").records()
    assert [(r.cell, r.seed, r.status) for r in records] == [
        (cell, seed, "done") for seed in range(3) for cell in ("SGD", "PSGD LowRank(5)")
    ]
    first = records[1]
    assert list(first.data) == ["digits"]  # the stand-in, by its own name
    assert first.final["products"] == first.final["iterations"] == 2 * 1024 / 64
    assert first.versions["numpy"]
    assert first.threads == 1
    assert str(whole) not in first.line()
    assert (whole / "lenet.md").read_text(encoding="utf-8").startswith("# ")
    assert not (whole / ".unfinished").exists()


def test_what_is_recorded_is_not_run_again(whole: Path) -> None:
    before = (whole / "lenet.jsonl").read_bytes()
    assert run([*LENET, "--jobs", "1", "--out", str(whole)]) == 0
    assert (whole / "lenet.jsonl").read_bytes() == before


def test_a_sweep_that_was_ended_goes_on(whole: Path, tmp_path: Path) -> None:
    command = (*LENET, "--jobs", "1", "--out", str(tmp_path))
    process = started(*command)
    wait_for(lambda: len(content(tmp_path)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, err
    assert err == "psgd: interrupted\n"
    assert 2 <= len(content(tmp_path)) < 6 or "PSGD" in out
    assert (tmp_path / "lenet.md").exists()
    assert run(command) == 0
    assert content(tmp_path) == content(whole)


def test_a_sweep_whose_worker_is_killed_ends_the_same(whole: Path, tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    process = started(*LENET, "--jobs", "2", "--quiet", "--out", str(tmp_path))

    def workers() -> list[object]:
        children = psutil.Process(process.pid).children(recursive=True)
        return [c for c in children if "popen_loky" in " ".join(c.cmdline())]

    wait_for(lambda: content(tmp_path), process)
    for worker in workers()[:1]:
        worker.kill()
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, ""), out
    assert content(tmp_path) == content(whole)


def test_a_cluster_whose_worker_is_killed_ends_the_same(whole: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        process = started(*LENET, "--scheduler", address, "--quiet", "--out", str(tmp_path))
        wait_for(lambda: content(tmp_path), process)
        worker = next(iter(cluster.workers.values()))
        os.kill(worker.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, ""), out
    assert content(tmp_path) == content(whole)


def test_runs_that_fail_are_recorded_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object, board: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr("psgd_analysis.reproduce.command.work", fails)
    words = [*LENET, "--jobs", "1", "--out", str(tmp_path)]
    assert run(words) == 1
    assert "runs that failed: 6; ValueError: no such thing" in capsys.readouterr().err
    assert {r.status for r in Book(tmp_path / "lenet.jsonl").records()} == {"cut"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "`NAME` must be an experiment, got none"),
        (("lenett",), "got 'lenett'"),
        (("lenet", "--seeds", "9-0"), "got '9-0'"),
        (("lenet", "--seeds", "a"), "got 'a'"),
        (("lenet", "--seeds", ""), "got ''"),
        (("lenet", "--cell", "nothing"), "`--cell` must match a cell of lenet, got 'nothing'"),
        (("lenet", "--data", "/nowhere"), "`--data` must be a folder"),
        (("lenet", "--limit", "0"), "`--limit` must be positive, got 0"),
        (("lenet", "--limit", "nan"), "`--limit` must be positive, got nan"),
        (("lenet", "--scheduler", "nowhere", "--jobs", "1"), "scheduler"),
    ],
)
def test_bad_options_get_one_sentence_and_change_nothing(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["reproduce", *words, "--scale", "smoke", "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.glob("new/*.jsonl"))


@pytest.mark.parametrize("inside", ["lenet.jsonl", "lenet.md", "overview.md"])
@pytest.mark.parametrize("words", [("lenet", "--jobs", "0"), ("--list",)])
def test_a_folder_of_no_use_gets_one_sentence(
    inside: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / inside).mkdir()
    bad = inside == "lenet.jsonl" or "--list" not in words
    assert run(["reproduce", *words, "--out", str(tmp_path)]) == (2 if bad else 0)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == int(bad)
    assert not bad or "cannot be read or written" in error


def test_the_list_names_everything_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["reproduce", "--list", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert name in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_complete(name: str) -> None:
    e = experiment(name)
    assert e.name == name
    assert set(e.plans) == set(SCALES)
    assert e.claims, "a claim decides something"
    for scale in SCALES:
        plan = e.plans[scale]
        names = [cell.name for cell in plan.cells]
        assert len(set(names)) == len(names)
        assert len({job.key for job in e.jobs(scale, [0, 1], {})}) == len(e.jobs(scale, [0, 1], {}))
    assert not e.plans["faithful"].departs
    every = {cell.name for scale in SCALES for cell in e.plans[scale].cells}
    for column in e.columns:
        assert set(column.paper) <= every
    for contest in e.contests:
        assert set(contest.psgd) | set(contest.baselines) <= {c.name for c in e.plans["faithful"].cells}
    # every claim has words for no runs at all
    for claim in e.claims:
        assert claim.judge([]).verdict == "not tested at this scale"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("lenet",)])
def test_every_experiment_runs_at_the_smoke_scale(name: str, tmp_path: Path) -> None:
    for package in experiment(name).needs:
        pytest.importorskip(package)
    words = ["reproduce", name, "--scale", "smoke", "--seeds", "0", "--jobs", "1", "--out", str(tmp_path)]
    assert run(words) == 0
    e = experiment(name)
    records: list[Record] = Book(tmp_path / f"{name}.jsonl").records()
    assert [r.cell for r in records] == [c.name for c in e.plans["smoke"].cells]
    assert {r.status for r in records} <= {"done", "diverged"}, [r.error for r in records]
    for record in records:
        missing = {c.key for c in e.columns} - {"seconds", "cpu_seconds"} - set(record.final)
        assert not {key for key in missing if key != "seconds_to_loss" and not key.startswith("level_")}
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {e.title}")
    assert max(line.count("|") for line in text.splitlines()) < 30
    assert list(tmp_path.glob(f"{name}*.png"))
