"""The command `psgd bench`, under a clock that makes every sample last the same."""

from __future__ import annotations

import json
import random

import pytest

from psgd_analysis import cli
from psgd_analysis.bench import command, figures, options, output, report
from psgd_analysis.bench.contenders import Own
from psgd_analysis.bench.model import PAIRS


class Steady:
    """A clock that moves on at each look: every sample lasts the same; with `noise`, it does not."""

    def __init__(self, noise=0.0):
        self.now, self.rng, self.noise = 0.0, random.Random(0), noise

    def __call__(self):
        self.now += 0.001 * (1 + self.noise * self.rng.random())
        return self.now


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """Run the command under a steady clock and return (exit code, stdout, stderr)."""
    monkeypatch.setattr(command, "CLOCK", Steady())

    def call(*words):
        code = cli.run(["bench", *map(str, words), "--out", str(tmp_path)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


SMALL = ("--quick", "--copy-mib", 1, "--n", 64)


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_it_writes_three_files(bench, tmp_path):
    code, out, _ = bench(
        *SMALL, "--n", "1e3", "-p", "xmat", "-p", "lowrank", "--rank", 2, "--rank", 4,
        "--peers", "numpy.linalg.solve,psgd_torch", "--name", "bench-try", "--seed", 5,
    )  # fmt: skip
    assert code == 0, out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bench-try.json", "bench-try.md", "bench-try.png"]
    assert (tmp_path / "bench-try.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "bench-try.json").read_text(encoding="utf-8")
    data = strict(text)
    assert data["schema"] == "psgd-bench/2"
    assert data["seed"] == 5
    assert data["command"].startswith("psgd bench --quick --copy-mib 1 --n 64")
    assert {"processor", "cores", "memory_bytes"} <= set(data["machine"])
    assert {"numpy", "psgd-core", "python"} <= set(data["versions"])
    assert data["copy"]["bytes"] == 2**20
    keys = {(row["label"], row["n"], row["contender"], row["operation"]) for row in data["rows"]}
    assert len(keys) == len(data["rows"])
    assert {(label, n) for label, n, _, _ in keys} == {
        (label, n) for label in ("XMat", "LowRank(2)", "LowRank(4)") for n in (64, 1000)
    }
    missing = [row for row in data["rows"] if row["contender"] == "psgd_torch"]
    assert {row["status"] for row in missing} == {"absent"}
    assert all("--peer-path" in row["reason"] for row in missing)
    variables = {(one["label"], one["variable"]) for one in data["growth"]}
    assert {("XMat", "n"), ("LowRank(4)", "n"), ("LowRank, n = 64", "rank")} <= variables
    page = (tmp_path / "bench-try.md").read_text(encoding="utf-8")
    assert "](bench-try.png)" in page
    assert "## LowRank(4), n = 1e3, float32, numpy on cpu" in page
    assert "psgd_torch: not on PyPI" in page
    assert "XMat, n = 64" in out
    for content in (text, page):
        assert str(tmp_path) not in content
        assert str(cli.__file__) not in content


def test_kronecker_is_measured_by_shapes_and_the_others_by_n(bench, tmp_path):
    code, out, _ = bench(
        *SMALL, "-p", "kronecker", "-p", "diagonal", "--shape", "4x3", "--shape", "2x1x2x3",
        "--peers", "none",
    )  # fmt: skip
    assert code == 0, out
    rows = strict((tmp_path / "bench.json").read_text(encoding="utf-8"))["rows"]
    assert {(row["label"], row["n"], tuple(row["shape"])) for row in rows} == {
        ("Kronecker(4x3)", 12, (4, 3)), ("Kronecker(2x1x2x3)", 12, (2, 1, 2, 3)), ("Diagonal", 64, ()),
    }  # fmt: skip
    assert all((row["flops_per_second"] is None) == (row["label"] == "Diagonal") for row in rows)
    assert "## Kronecker(4x3), n = 12" in (tmp_path / "bench.md").read_text(encoding="utf-8")


def test_a_shape_alone_is_kronecker_alone(bench, tmp_path):
    code, _, _ = bench("--quick", "--copy-mib", 1, "--shape", "3x2", "--peers", "none")
    assert code == 0
    rows = strict((tmp_path / "bench.json").read_text(encoding="utf-8"))["rows"]
    assert {row["label"] for row in rows} == {"Kronecker(3x2)"}


def test_json_goes_to_stdout_and_nothing_else(bench, tmp_path):
    code, out, _ = bench(*SMALL, "-p", "diagonal", "--peers", "none", "--json")
    assert code == 0
    assert strict(out) == strict((tmp_path / "bench.json").read_text(encoding="utf-8"))


def test_too_noisy_is_not_reported(bench, monkeypatch, tmp_path):
    words = (*SMALL, "-p", "diagonal", "--peers", "none")
    monkeypatch.setattr(command, "CLOCK", Steady(3.0))
    code, out, _ = bench(*words)
    assert code == 1
    assert "too noisy" in out
    rows = strict((tmp_path / "bench.json").read_text(encoding="utf-8"))["rows"]
    assert {row["status"] for row in rows} == {"too noisy"}
    assert all(row["seconds"] is row["samples"] is row["times_floor"] is None for row in rows)
    assert "nothing to show" in figures._title([], [])
    code, out, _ = bench(*words, "--allow-noise")
    assert code == 0
    assert "noisy: " in out
    rows = strict((tmp_path / "bench.json").read_text(encoding="utf-8"))["rows"]
    assert all(row["status"] == "ok" and row["reason"] and row["seconds"] > 0 for row in rows)


def test_steps_of_a_model(bench, tmp_path):
    words = ("--quick", "--copy-mib", 1, "--model", "logistic", "--batch", 16)
    code, out, _ = bench(*words, "-p", "diagonal", "-p", "xmat", "--peers", "none")
    assert code == 0, out
    data = strict((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert data["rows"] == []
    found = {(row["contender"], row["besides_a_gradient"]) for row in data["steps"]}
    assert {(label, pairs.name) for label in ("Diagonal", "XMat") for pairs in PAIRS} < found
    assert ("SGD", "") in found
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "softmax regression" in page
    assert "÷ SGD" in page
    assert "GB/s" not in page
    # with a size, updates are measured too; with both kernels, plain code has rows
    code, _, _ = bench(*words, "-p", "diagonal", "--n", 64, "--peers", "none", "--kernels", "both")
    data = strict((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert code == 0
    assert {row["n"] for row in data["rows"]} == {64}
    assert any(row["contender"].startswith("Diagonal, plain code") for row in data["steps"])


def test_tables_come_one_by_one(bench, monkeypatch):
    """When a setting is measured, the tables of all before it are on the terminal."""
    seen = []
    original = command.run

    def watched(plan, setting, *more):
        seen.append(len(shown))
        return original(plan, setting, *more)

    shown = []
    monkeypatch.setattr(output, "show", lambda terminal, table: shown.append(table))
    monkeypatch.setattr(command, "run", watched)
    code, _, _ = bench(
        *SMALL, "--n", 128, "--n", 256, "-p", "diagonal", "--peers", "none", "--model", "logistic"
    )
    assert code == 0
    assert seen == [0, 1, 2]
    assert len(shown) == 3 + 1 + 1  # those of the settings, of the model, of the slopes


def test_nothing_is_printed_on_the_way_to_json(bench, monkeypatch):
    monkeypatch.setattr(output, "show", lambda *_: pytest.fail("a table"))
    for word in ("--json", "--quiet"):
        code, _, _ = bench(*SMALL, "-p", "diagonal", "--peers", "none", word)
        assert code == 0


def test_a_closed_pipe_does_not_cost_the_files(bench, monkeypatch, tmp_path):
    def closed(terminal, table):
        raise SystemExit(1)  # what rich does

    monkeypatch.setattr(output, "show", closed)
    code, _, _ = bench(*SMALL, "-p", "diagonal", "--peers", "none")
    assert code == 0
    assert (tmp_path / "bench.json").is_file()


def test_where_time_is_out_rows_say_so(bench, tmp_path):
    """The clock moves a millisecond at each look: 0.1 s is enough for the first size alone."""
    code, out, _ = bench(
        *SMALL, "--n", 128, "--n", 256, "-p", "diagonal", "--kernels", "off", "--total", 0.1,
        "--peers", "numpy.linalg.solve,torch,heavyball",
    )  # fmt: skip
    assert code == 1
    rows = strict((tmp_path / "bench.json").read_text(encoding="utf-8"))["rows"]
    by = {(row["n"], row["contender"]): row["status"] for row in rows}
    assert by[64, "psgd-core, plain code"] == "ok"
    assert by[256, "psgd-core, plain code"] == by[256, "torch"] == by[256, "numpy.linalg.solve"] == "no time"
    assert {n for n, _ in by} == {64, 128, 256}
    assert "raise --total" in out


def test_ctrl_c_writes_what_there_is(bench, monkeypatch, tmp_path):
    asked = []

    def stop(self, setting):
        asked.append(setting.n)
        if len(asked) > 2:
            raise KeyboardInterrupt
        return original(self, setting)

    original = Own.set_up
    monkeypatch.setattr(Own, "set_up", stop)
    code, out, _ = bench(
        *SMALL, "--n", 128, "--n", 256, "-p", "diagonal", "--peers", "none", "--kernels", "off"
    )
    assert code == 130
    assert "Interrupted" in out
    data = strict((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert data["interrupted"] is True
    assert {row["n"] for row in data["rows"]} == {64, 128}


def test_failures_of_one_s_own_are_rows_and_exit_with_1(bench, monkeypatch, tmp_path):
    def fail(self, setting):
        raise MemoryError("cannot allocate")

    monkeypatch.setattr(Own, "set_up", fail)
    code, out, _ = bench(*SMALL, "-p", "diagonal", "--peers", "numpy.linalg.solve")
    assert code == 1
    assert "cannot allocate" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-p", "kron"), "--preconditioner"),
        (("--n", "0"), "--n"),
        (("--n", "1.5"), "--n"),
        (("--n", "many"), "--n"),
        (("-p", "butterfly", "--n", 7), "divisible by 2"),
        (("-p", "dense", "--n", "1e6"), "dense"),
        (("-p", "lowrank", "--n", 8, "--rank", 8), "--rank"),
        (("--rank", -1), "--rank"),
        (("-p", "kronecker", "--shape", "4x0"), "--shape"),
        (("-p", "kronecker", "--shape", "4 by 3"), "--shape"),
        (("-p", "xmat", "--shape", "4x3"), "-p kronecker"),
        (("-p", "kronecker", "--n", 12), "--n"),
        (("--shape", "4x3", "--n", 12), "--n"),
        (("-p", "kronecker", "--model", "logistic"), "tensor"),
        (("--dtype", "float16"), "--dtype"),
        (("--backend", "tensorflow"), "--backend"),
        (("--kernels", "fast"), "--kernels"),
        (("--peers", "adamm"), "'adam'"),
        (("--total", -1), "--total"),
        (("--peer-path", "heavyball=x"), "--peer-path"),
        (("--peer-path", "psgd_torch=nowhere"), "--peer-path"),
        (("--model", "vgg"), "--model"),
        (("--model", "lenet5"), "--backend torch"),
        (("--model", "logistic", "-p", "klein"), "divisible by 4"),
        (("--repeats", 2), "--repeats"),
        (("--budget", -1), "--budget"),
        (("--spread", -1), "--spread"),
        (("--threads", 0), "--threads"),
        (("--batch", 0), "--batch"),
        (("--copy-mib", 0), "--copy-mib"),
        (("--seed", -1), "--seed"),
        (("--name", "a/b"), "--name"),
        (("--frobnicate",), "frobnicate"),
    ],
)
def test_bad_usage_is_one_line_and_exit_status_2(bench, tmp_path, words, says):
    code, out, err = bench("--peers", "none", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("psgd")
    assert says in err
    assert not list(tmp_path.iterdir())


def test_kernels_cannot_be_asked_for_where_there_are_none(bench, monkeypatch):
    monkeypatch.setattr(options, "have_kernels", lambda device="cpu": False)
    code, _, err = bench("--kernels", "on")
    assert code == 2
    assert "no kernels" in err


def test_sizes_and_times_read_well():
    assert [report.size(n) for n in (32, 1000, 10**7, 2_500_000, 4097)] == [
        "32",
        "1e3",
        "1e7",
        "2.5e6",
        "4097",
    ]
    assert [report.seconds(t) for t in (2.0, 0.0123, 4.5e-5)] == ["2 s", "12.3 ms", "45 µs"]
    assert options.sizes(["1e7", "10000000", "32"]) == [10**7, 32]
