"""The `psgd` command: exit codes, one-line errors, what it writes; and that a check can fail."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import _missing

from psgd_analysis.cli import files, run
from psgd_analysis.cli import verify as command
from psgd_analysis.problems import hessians

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def verify(out, *arguments):
    return run(["verify", "--out", str(out), "--jobs", "1", *arguments])


def report(out):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((out / "verify.json").read_text(encoding="utf-8"), parse_constant=refuse)


# -- what it says and writes -----------------------------------------------------------------------------


def test_a_small_run_passes_and_writes_both_files(tmp_path, capsys):
    assert verify(tmp_path, "-p", "xmat", "--problem", "definite", "--steps", "600") == 0
    shown = capsys.readouterr().out
    assert "checks passed" in shown
    assert "XMat" in shown
    assert (tmp_path / "verify.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"verify.png", "verify.json"}
    data = report(tmp_path)
    assert data["command"][:2] == ["psgd", *sys.argv[1:2]] or data["command"][0] == "psgd"
    assert "numpy" in json.dumps(data["versions"])


def test_json_goes_to_stdout_on_request(tmp_path, capsys):
    assert verify(tmp_path, "-p", "diagonal", "--problem", "definite", "--steps", "900", "--json") == 0
    assert json.loads(capsys.readouterr().out) == report(tmp_path)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_every_library_passes(tmp_path, library):
    backend = type("B", (), {"library": library})
    if reason := _missing(backend):
        pytest.skip(reason)
    size = ("--n", "6", "--kappa", "4", "--steps", "60")
    assert verify(tmp_path, "-p", "diagonal", "--problem", "definite", "--backend", library, *size) == 0


def test_the_list_names_cases_and_runs_none(tmp_path, capsys):
    assert verify(tmp_path, "--list", "--all") == 0
    names = capsys.readouterr().out.split()
    assert len(names) == len(set(names)) > 50
    assert "dense/indefinite/exact" in names
    assert not list(tmp_path.iterdir())


def test_an_own_hessian(tmp_path):
    path = tmp_path / "h.npy"
    np.save(path, np.asarray(hessians.dense(8, 10.0, np.random.default_rng(0))))
    assert verify(tmp_path, "--hessian", str(path), "-p", "diagonal", "--steps", "3000") in (0, 1)
    assert {check["problem"] for check in report(tmp_path)["cases"]} == {"own"}


def test_a_check_that_should_fail_does(tmp_path, capsys):
    """Rule (5) diverges beyond its bound, 0.04 at kappa = 100."""
    beyond = ("--kappa", "100", "--step", "0.9", "--steps", "300")
    assert verify(tmp_path, "-p", "dense-right", "--problem", "definite", *beyond) == 1
    assert "of" in capsys.readouterr().out


# -- bad usage -------------------------------------------------------------------------------------------


def saved(path, array):
    np.save(path, array)
    return path


BAD_MATRICES = {
    "missing": lambda d: d / "missing.npy",
    "not a matrix file": lambda d: _text(d / "h.npy", "no"),
    "unknown kind": lambda d: _text(d / "h.csv", "1,2"),
    "not square": lambda d: saved(d / "h.npy", np.ones((2, 3))),
    "not symmetric": lambda d: saved(d / "h.npy", np.arange(9.0).reshape(3, 3)),
    "not finite": lambda d: saved(d / "h.npy", np.full((3, 3), np.nan)),
    "singular": lambda d: saved(d / "h.npy", np.ones((3, 3))),
    "pickled": lambda d: saved(d / "h.npy", np.array([[{}]], dtype=object)),
}


def _text(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("make", BAD_MATRICES.values(), ids=BAD_MATRICES.keys())
def test_bad_matrices_get_one_line_and_exit_code_2(tmp_path, capsys, make):
    assert verify(tmp_path, "--hessian", str(make(tmp_path))) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("psgd: ")
    assert "\n" not in said
    assert not (tmp_path / "verify.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--step", "1.5"], r"must lie in (0, 1), got 1.5"),
        (["-p", "nothing"], "must be among diagonal"),
        (["--problem", "nothing"], "must be among"),
        (["--backend", "nothing"], "nothing"),
        (["--dtype", "float16"], "float16"),
        (["--n", "1"], "--n"),
        (["--kappa", "0.5"], "--kappa"),
        (["--key", "h"], "give one"),
        (["-p", "diagonal", "--problem", "low-rank"], "do not go together"),
        (["--nothing"], "nothing"),
    ],
)
def test_bad_usage_gets_one_line_and_exit_code_2(tmp_path, capsys, arguments, said):
    assert verify(tmp_path, *arguments) == 2
    shown = capsys.readouterr().err.strip()
    assert said in shown
    assert "\n" not in shown


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert verify(tmp_path / "file" / "below", "-p", "diagonal") == 2
    assert "cannot be written to" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["verify", "minimize", "spectrum"])
def test_all_commands_are_there(capsys, name):
    assert run([name, "--help"]) == 0
    assert capsys.readouterr().out


def test_without_the_analysis_extra_one_line_says_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None\nfrom psgd_analysis.__main__ import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert 'pip install "psgd-core[analysis]"' in done.stderr


# -- interruptions ---------------------------------------------------------------------------------------


def test_ctrl_c_writes_what_there_is(tmp_path, monkeypatch):
    real = command.run_all

    def interrupted(cases, options, jobs, show, lengths):
        return real(cases[:1], options, jobs, show, lengths)._replace(interrupted=True)

    monkeypatch.setattr(command, "run_all", interrupted)
    assert verify(tmp_path, "-p", "diagonal", "--steps", "100") == 130
    assert len(report(tmp_path)["cases"]) == 1


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
