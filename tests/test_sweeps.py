"""Sweeps: the same results wherever they run, whoever dies, and what a signal leaves."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sweep_tasks

from psgd_analysis import interrupts, sweeps
from psgd_analysis.machine import set_threads
from psgd_analysis.sweeps import Failure, Task, run

ROOT = Path(__file__).parent.parent
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")

PLAIN = [Task(f"square {i}", sweep_tasks.square, (i,), float(i + 1)) for i in range(5)]
PLAIN.insert(2, Task("fails", sweep_tasks.fails))


def waited(condition, seconds=90.0):
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.05)
    return condition()


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two processes on this machine."""
    distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")
    dask = pytest.importorskip("dask")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "3s"}),  # to workers that have died
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as found,
    ):
        yield found.scheduler_address


@pytest.fixture(params=["processes", "dask"])
def places(request):
    """The options of `run` for each place that is not this process."""
    if request.param == "processes":
        return {"jobs": 2}
    return {"scheduler": request.getfixturevalue("cluster")}


def checked(found):
    """Return results without tracebacks, which name the place."""
    return {name: x._replace(trace="") if isinstance(x, Failure) else x for name, x in found.items()}


def test_results_are_the_same_wherever_they_are_found(places):
    expected = {f"square {i}": i * i for i in range(5)} | {"fails": Failure("fails", "ValueError: no luck")}
    for options in ({}, places):
        shown, ended = [], []
        found = run(
            PLAIN,
            **options,
            show=lambda done, total, shown=shown: shown.append((done, total)),
            finished=lambda task, result, ended=ended: ended.append((task.name, result)),
        )
        assert not found.interrupted
        assert checked(found.found) == expected
        assert list(found.found) == [task.name for task in PLAIN]
        assert sorted(name for name, _ in ended) == sorted(expected)
        assert dict(ended) == found.found
        assert shown[-1] == (16.0, 16.0)
        assert "in fails" in found.found["fails"].trace


def test_a_process_that_dies_costs_only_its_task(places, tmp_path):
    """One that dies once comes again; one that always does is found."""
    tasks = [
        *PLAIN,
        Task("dies once", sweep_tasks.dies_once, (tmp_path / "marker",)),
        Task("dies", sweep_tasks.dies),
    ]
    found = run(tasks, **places)
    dead = found.found.pop("dies")
    assert isinstance(dead, Failure)
    assert dead.error.startswith("its process died 3 times")
    assert found.found.pop("dies once") == "survived"
    assert checked(found.found) == checked(run(PLAIN).found)


def test_a_cluster_tells_of_each_task_that_it_gives_up(cluster, tmp_path):
    """However many, and in whatever order beside others: all that is told of a task counts once."""
    from psgd_analysis.sweeps import pools

    pool, messages = pools.Dask(cluster), queue.SimpleQueue()
    given_up = {2, 3, 5, 6}
    calls = [
        (sweep_tasks.given_up if i in given_up else sweep_tasks.answers, (i, b"", None)) for i in range(8)
    ]
    try:
        pool.start(iter(calls), len(calls), messages)
        told = [messages.get(timeout=90.0) for _ in range(9)]
    finally:
        pool.close()
    assert told.pop() == pools.Ended(None)
    assert {m.number for m in told if isinstance(m, pools.Lost)} == given_up
    assert {m.number: m.result for m in told if isinstance(m, pools.Found)} == {0: 0, 1: 10, 4: 40, 7: 70}
    errors = {m.number: m.error for m in told if isinstance(m, pools.Lost)}
    assert errors.pop(2) is None
    assert errors.pop(3) is None
    assert {type(error) for error in errors.values()} == {OSError}


def test_what_cannot_be_pickled_fails_alone(places):
    tasks = [
        Task("argument", sweep_tasks.square, (threading.Lock(),)),
        Task("result", sweep_tasks.unpicklable),
        Task("good", sweep_tasks.square, (3,)),
    ]
    found = run(tasks, **places).found
    assert "pickle" in found["argument"].error
    assert "pickle" in found["result"].error
    assert found["good"] == 9


def test_workers_use_one_thread(places):
    assert run([Task("threads", sweep_tasks.threads)], **places).found["threads"] == ("1", 1)


def test_one_thread_in_this_process_leaves_numba_able_to_compile():
    numba = pytest.importorskip("numba")
    before = numba.get_num_threads(), os.environ.get("NUMBA_NUM_THREADS")
    try:
        set_threads(1)
        assert numba.njit(lambda x: x + 1)(1.5) == 2.5  # it looks at its variables again
        assert os.environ.get("NUMBA_NUM_THREADS") == before[1]
    finally:
        set_threads(before[0])


def test_progress_within_tasks_is_shown_and_an_exception_in_this_process_ends_all(places):
    """The tasks end because they are asked to, and would not otherwise."""

    class Seen(Exception):
        pass

    def show(done, total):
        if done > 0:
            raise Seen(done)

    start = time.monotonic()
    with pytest.raises(Seen) as caught:
        run([Task(f"notes {i}", sweep_tasks.notes, (60.0,)) for i in range(2)], **places, show=show)
    assert caught.value.args[0] in (0.5, 1.0)
    assert time.monotonic() - start < 59


def test_no_cluster_is_said_in_one_sentence(monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra `cluster`")
    monkeypatch.setattr("psgd_analysis.sweeps.pools.WAIT", 0.5)
    with pytest.raises(sweeps.Unreachable, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        run(PLAIN, scheduler="tcp://127.0.0.1:9")


def test_without_dask_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(sweeps.Unreachable, match="pip install"):
        run(PLAIN, scheduler="tcp://127.0.0.1:9")


def test_bad_arguments():
    with pytest.raises(ValueError, match="'fails' twice"):
        run([PLAIN[2], PLAIN[2]])
    with pytest.raises(ValueError, match="`jobs` must be at least 1, got 0"):
        run(PLAIN, jobs=0)
    assert run([], jobs=2).found == {}


# -- signals ---------------------------------------------------------------------------------------------


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def pids(folder):
    return [int(path.stem) for path in folder.glob("*.pid")]


@pytest.fixture
def sweep(tmp_path):
    """Return a function that starts a sweep in another process, and waits until two tasks wait there."""
    started = []

    def start(stops):
        paths = os.pathsep.join(map(str, [ROOT, ROOT / "analysis", ROOT / "tests"]))
        (tmp_path / "tmp").mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", "import sweep_tasks; sweep_tasks.command()", tmp_path, stops],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path / "tmp")},
        )
        started.append(process)
        assert waited(lambda: len(pids(tmp_path)) == 2)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@posix
@pytest.mark.parametrize("stops", ["stops", "hangs"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_results_and_nothing_else(sweep, tmp_path, number, code, stops):
    process = sweep(stops)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    # loky's own process may hear twice of a folder that is gone; anything else is seen
    errors = re.sub(
        r"Traceback[^\n]*\n  File [^\n]*resource_tracker\.py[^\n]*\n(  .*\n)*KeyError: .*\n", "", errors
    )
    assert (process.returncode, errors) == (code, "")
    found, interrupted = json.loads((tmp_path / "found.json").read_text())
    assert interrupted
    assert found == {f"quick {i}": i * i for i in range(3)}
    assert len(list(tmp_path.glob("*.stopped"))) == (2 if stops == "stops" else 0)
    assert waited(lambda: not any(map(alive, pids(tmp_path))))
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not list(Path("/dev/shm").glob(f"*{process.pid}*"))


@posix
def test_workers_end_when_their_parent_is_killed(sweep, tmp_path):
    process = sweep("hangs")
    process.kill()
    _, errors = process.communicate(timeout=120)
    assert errors == ""
    assert waited(lambda: not any(map(alive, pids(tmp_path))))
    assert waited(lambda: list((tmp_path / "tmp").iterdir()) == [])
    assert len(list(tmp_path.glob("quick*"))) == 3


@posix
def test_a_signal_waits_until_a_result_is_kept(monkeypatch):
    monkeypatch.setattr(interrupts, "_noted", [])
    monkeypatch.setattr(interrupts, "_finishing", [])
    kept = []

    def finished(task, result):
        interrupts._handle(signal.SIGTERM, None)
        kept.append(task.name)

    found = run(PLAIN, finished=finished)
    assert found.interrupted
    assert kept == list(found.found) == ["square 0"]
    assert interrupts.code(0) == 143


def test_a_task_that_gives_up_unasked_has_failed():
    found = run([Task("gives up", sweep_tasks.gives_up)], jobs=2)
    assert not found.interrupted
    assert found.found["gives up"].error == "Stopped"


def test_verify_finds_the_same_on_a_cluster(cluster):
    from psgd_analysis.verify import pool
    from psgd_analysis.verify.cases import Case, Sizes
    from psgd_analysis.verify.run import Options

    cases = [Case("xmat", "definite", "exact"), Case("diagonal", "definite", "exact")]
    options = Options(Sizes(n=4), steps=50)
    here, there = (
        pool.run_all(cases, options, scheduler=scheduler).outcomes for scheduler in (None, cluster)
    )
    assert [outcome.case for outcome in there] == cases
    assert [outcome.traces["PSGD"].distance for outcome in there] == [
        outcome.traces["PSGD"].distance for outcome in here
    ]
