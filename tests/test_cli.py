"""The `psgd` command: exit codes, one line for each bad input, files in full or not at all."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from psgd_analysis import cli
from psgd_analysis.files import write_atomically
from psgd_analysis.installing import requirement
from psgd_analysis.verify.pool import Results

ROOT = Path(__file__).parent.parent
TINY = ["-p", "xmat", "--problem", "definite", "--setting", "exact", "--setting", "online"]
TINY += ["--n", "4", "--kappa", "3", "--jobs", "1"]


@pytest.fixture
def psgd(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder and return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def symmetric(n=4, seed=0):
    a = np.random.default_rng(seed).standard_normal((n, n))
    return a + a.T


# -- what goes well --------------------------------------------------------------------------------------


def test_a_passing_run(psgd, tmp_path):
    code, out, _ = psgd("verify", *TINY)
    assert code == 0, out
    assert re.search(r"2 of 2 checks passed in \d+ s; verify\.png, verify\.json\s*$", out)
    assert "XMat" in out
    assert "BFGS" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["verify.json", "verify.png"]
    assert (tmp_path / "verify.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "verify.json").read_text(encoding="utf-8"))
    assert data["command"] == ["psgd", "verify", *TINY]
    assert data["settings"]["n"] == 4
    assert (data["passed"], data["total"], data["interrupted"]) == (2, 2, False)


def test_json_goes_to_stdout_and_nothing_else(psgd, tmp_path):
    code, out, _ = psgd("verify", *TINY, "--json", "--out", "new/folder", "--seed", "5")
    assert code == 0
    data = json.loads(out)
    assert data["seed"] == 5
    assert json.loads((tmp_path / "new/folder/verify.json").read_text(encoding="utf-8")) == data


def test_the_seed_decides(psgd):
    distances = []
    for seed in (1, 1, 2):
        data = json.loads(psgd("verify", *TINY, "--json", "--seed", seed)[1])
        distances.append([case["traces"][0]["distance"] for case in data["cases"]])
    assert distances[0] == distances[1] != distances[2]


def test_list(psgd, tmp_path):
    code, out, _ = psgd("verify", "--list")
    assert code == 0
    assert "xmat/definite/exact" in out
    assert "rosenbrock" in out
    everything = psgd("verify", "--list", "--all")[1]
    assert everything.count("\n") > out.count("\n")
    assert "lowrank/low-rank/online/gaussian/#9" in everything
    some = psgd("verify", "--list", "-p", "sparse", "--problem", "noisy")[1]
    assert "sparse-klein/noisy/exact" in some
    assert "sparse-s3/noisy/floor/gaussian" in some
    assert not any(tmp_path.iterdir())


def test_a_family_name_takes_all_of_it_and_an_exact_name_only_that(psgd):
    checks = psgd("verify", "--list", "-p", "dense", "--problem", "definite")[1].split("checks", 1)[1]
    assert "dense/definite/exact" in checks
    assert "qe-dense" not in checks
    assert "qe-dense/definite/exact" in psgd("verify", "--list", "-p", "*dense")[1]


def test_the_comparison_of_geometries_writes_its_figure_and_its_numbers(psgd, tmp_path, monkeypatch):
    from psgd_analysis.verify import comparison

    monkeypatch.setattr(comparison, "KAPPAS", (1e2,))
    monkeypatch.setattr(comparison, "UPDATES", 10)
    code, out, _ = psgd("verify", "--compare-geometries", "--seed", "3")
    assert code == 0
    assert re.search(r"runs in \d+ s; geometries\.png, geometries\.json\s*$", out)
    assert (tmp_path / "geometries.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "geometries.json").read_text(encoding="utf-8"))
    assert data["seed"] == 3
    assert {run["kappa"] for run in data["runs"]} == {100.0}


@pytest.mark.parametrize("ending", ["npy", "npz", "mtx"])
def test_a_matrix_of_ones_own(psgd, tmp_path, ending):
    h, path = symmetric() + 6 * np.eye(4), tmp_path / f"own.{ending}"
    if ending == "npy":
        np.save(path, h)
    elif ending == "npz":
        np.savez(path, other=np.zeros(3), mine=h)
    else:
        scipy.io.mmwrite(path, scipy.sparse.coo_array(h))
    extra = ["--key", "mine"] if ending == "npz" else []
    code, out, err = psgd("verify", "--hessian", path, *extra, "-p", "dense", "--jobs", "1", "--json")
    assert code == 0, err
    data = json.loads(out)
    assert {case["problem"] for case in data["cases"]} == {"own"}
    assert {case["n"] for case in data["cases"]} == {4}


def test_help_says_what_there_is(psgd):
    code, out, _ = psgd("verify", "--help")
    assert code == 0
    for option in ("--hessian", "--backend", "--all", "--out"):
        assert option in out
    code, out, err = psgd()
    assert "verify" in out + err
    assert code == 2


# -- what does not ---------------------------------------------------------------------------------------


def test_a_failed_check_gives_1_and_says_why(psgd, tmp_path):
    code, out, _ = psgd(
        *("verify", "-p", "qe-dense", "--problem", "definite", "--setting", "exact"),
        *("--n", "4", "--step", "0.8", "--steps", "300"),
    )
    assert code == 1
    assert "0 of 1 checks passed" in out
    assert "qe-dense/definite/exact: distance" in out
    verdict = json.loads((tmp_path / "verify.json").read_text())["cases"][0]["verdict"]
    assert verdict["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "--n", "1"], r"--n'?: .*2"),
        (["verify", "--n", "x"], "--n"),
        (["verify", "--kappa", "0.5"], r"--kappa'?: .*1"),
        (["verify", "--kappa", "inf"], "--kappa'?: must be finite"),
        (["verify", "--step", "1.5"], r"--step'?: must lie in \(0, 1\), got 1.5"),
        (["verify", "--steps", "3"], r"--steps'?: .*10"),
        (["verify", "--seed", "-1"], r"--seed'?: .*0"),
        (["verify", "--dtype", "float16"], r"--dtype'?: .*float64.*float16"),
        (["verify", "--backend", "fortran"], r"--backend'?: .*numpy.*fortran"),
        (
            ["verify", "-p", "xnat"],
            "--preconditioner'?: must be one that .*, got 'xnat'; did you mean 'xmat'",
        ),
        (["verify", "--problem", "easy"], "--problem'?: must be one of definite, .*, got 'easy'"),
        (["verify", "-p", "lowrank", "--problem", "definite"], "do not go together; see --list"),
        (["verify", "--key", "a"], "--key'?: goes with --hessian, got a"),
        (["verify", "--hessian", "none.npy"], r"--hessian'?: none.npy: cannot be read \(No such file"),
        (["verify", "--out", "file/below"], "--out'?: file/below: cannot be written to"),
        (["verify", "--bogus"], "No such option: --bogus"),
        (["bogus"], "No such command 'bogus'"),
        (["verfiy"], "No such command 'verfiy'; did you mean 'verify'?"),
        (["verify", "--hesian", "x.npy"], "No such option: --hesian; did you mean '--hessian'?"),
        (["minimize", "rosenbrock", "-p", "densé"], "--preconditioner'.*: .*; did you mean 'dense'"),
        (["minimize", "rosenbrock", "--dtype", "float16"], "--dtype'?: must be one of float64, float32"),
        (["reproduce", "xor", "--scale", "smok"], "--scale'?: .*; did you mean 'smoke'"),
        (["reproduce", "lenett"], "`NAME` must be one that --list shows, .*; did you mean 'lenet'"),
        (["bench", "-p", "xmatt"], "--preconditioner` must .*; did you mean 'xmat'"),
        (["efficiency", "lowrank/26"], "`TASK` must .*; did you mean 'lowrank/25'"),
        (["verify", "--damping", "1"], "--damping'?: goes with --hessian, got 1"),
    ],
)
def test_bad_usage_gives_2_and_one_line(psgd, tmp_path, arguments, message):
    (tmp_path / "file").write_text("not a folder")
    code, out, err = psgd(*arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((3, 4)), r"must hold a square matrix, got shape \(3, 4\)"),
        (np.arange(9.0).reshape(3, 3), "must be symmetric"),
        (np.diag([1.0, np.nan, 2.0]), "must be finite, got 1 NaN or infinite entries of 9"),
        (np.diag([1.0, np.inf, 2.0]), "must be finite"),
        (np.zeros((3, 3)), "singular"),
        (np.eye(3) * 1j, "must hold real numbers"),
    ],
)
def test_bad_matrices_give_2_and_one_line(psgd, tmp_path, matrix, message):
    np.save(tmp_path / "h.npy", matrix)
    code, _, err = psgd("verify", "--hessian", "h.npy")
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(r"--hessian'?: h\.npy: .*" + message, err), err


def test_unreadable_and_ambiguous_files(psgd, tmp_path):
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "h.txt").write_text("1 0\n0 1\n")
    np.savez(tmp_path / "two.npz", a=np.eye(2), b=np.eye(3))
    for path, message in (
        ("torn.npy", "is not a valid .npy file"),
        ("h.txt", "must end in .npy, .npz, .mtx"),
        ("two.npz", "choose one"),
    ):
        code, _, err = psgd("verify", "--hessian", path)
        assert code == 2
        assert err.count("\n") == 1
        assert message in err


def test_a_missing_library_gives_2_and_what_to_install(psgd, monkeypatch):
    from psgd_analysis import backends

    monkeypatch.setitem(backends.LIBRARIES, "torch", ("no_such_library", "torch"))
    code, _, err = psgd("verify", *TINY, "--backend", "torch")
    assert code == 2
    assert err.count("\n") == 1
    assert "pip install torch" in err


def test_ctrl_c_gives_130_and_writes_what_there_is(psgd, tmp_path, monkeypatch):
    from psgd_analysis.verify import command as verify

    real = verify.run_all

    def stopped(cases, *args):
        return Results(real(cases[:1], *args).outcomes, True)

    monkeypatch.setattr(verify, "run_all", stopped)
    code, out, _ = psgd("verify", *TINY)
    assert code == 130
    assert "1 of 1 checks passed" in out
    assert "interrupted with 1 to go" in out
    data = json.loads((tmp_path / "verify.json").read_text())
    assert data["interrupted"] is True
    assert data["total"] == 1


def test_ctrl_c_elsewhere_gives_130(psgd, monkeypatch):
    from psgd_analysis.verify import command as verify

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "table", stopped)
    code, _, err = psgd("verify")
    assert code == 130
    assert "Traceback" not in err


@pytest.mark.parametrize("missing", ["typer", "rich", "matplotlib"])
def test_without_the_analysis_extra_one_line_says_what_to_install(missing):
    paths = [str(ROOT), str(ROOT / "analysis")]
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.path[:0] = {paths!r}\n"
        "from psgd_analysis.__main__ import main; sys.argv[1:] = ['verify']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"psgd: {missing} is not installed; the commands need: {requirement('analysis')}\n"


# -- files -----------------------------------------------------------------------------------------------


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "data.json"
    path.write_text("old")

    def torn(file):
        file.write(b"half of")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, torn)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["data.json"]
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_text() == "new"


def test_a_written_file_has_usual_permissions(tmp_path):
    write_atomically(tmp_path / "a", lambda file: None)
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_the_figure_that_fails_does_not_cost_the_numbers(psgd, tmp_path, monkeypatch):
    from psgd_analysis.verify import command as verify

    def broken(*args):
        raise RuntimeError("no figure")

    monkeypatch.setattr(verify, "page", broken)
    with pytest.raises(RuntimeError, match="no figure"):
        psgd("verify", *TINY)
    assert json.loads((tmp_path / "verify.json").read_text())["passed"] == 2
