"""`psgd spectrum`: tables, figure and JSON; one line and exit code 2 for bad input."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import typer
from matplotlib.figure import Figure
from typer.testing import CliRunner

from psgd_analysis import spectrum
from psgd_analysis.spectrum.command import spectrum as spectrum_command

app = typer.Typer()
app.command("spectrum")(spectrum_command)


@app.callback()
def _commands() -> None:
    """Make `spectrum` a subcommand, as under `psgd`."""


QUICK = ["--products", "10", "--ranks", "0,1", "--probes", "3", "--steps", "10"]


def run(out, *arguments, quick=QUICK):
    return CliRunner().invoke(app, ["spectrum", *map(str, arguments), *quick, "--out", str(out)])


def refuse(token):
    raise AssertionError(f"{token} is not JSON")


def read(out):
    return json.loads((out / "spectrum.json").read_text(), parse_constant=refuse)


def some_hessian(n=8):
    a = np.random.default_rng(0).standard_normal((n, n))
    return a + a.T


def test_default_run(tmp_path):
    result = run(tmp_path, "--n", 16)
    assert result.exit_code == 0, result.output
    titles = (
        "Spectral density",
        "Ends of the spectrum",
        "Group study",
        "Order of the parameters",
        "Rank study",
    )
    for title in (*titles, "Preconditioners"):
        assert f"{title} of two_tails" in result.stdout
    assert (tmp_path / "spectrum.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spectrum.json", "spectrum.npz", "spectrum.png"]
    data = read(tmp_path)
    assert data["format"] == "psgd-spectrum"
    assert set(data["versions"]) == {"psgd-core", "numpy", "scipy", "python"}
    assert data["seed"] == 0
    assert data["n"] == 16
    assert set(data["studies"]) == {"density", "ends", "groups", "order_for_xmat", "ranks", "before_after"}
    assert data["studies"]["ranks"]["ranks"] == [0, 1]
    assert data["studies"]["before_after"]["labels"][0] == "H"


def test_the_command_in_the_json_does_the_same_again(tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    assert run(first, "indefinite", "--n", 10, "--seed", 3, "--log").exit_code == 0
    words = shlex.split(read(first)["command"])
    assert words[:3] == ["psgd", "spectrum", "indefinite"]
    words[words.index("--out") + 1] = str(again)
    assert CliRunner().invoke(app, words[1:]).exit_code == 0
    one, other = read(first), read(again)
    del one["command"], other["command"]
    assert one == other
    assert one["studies"]["density"]["scale"] == "log"
    assert run(again, "indefinite", "--n", 10, "--seed", 4).exit_code == 0
    assert read(again)["studies"]["density"] != one["studies"]["density"]


@pytest.mark.parametrize("kind", ["npy", "npz", "mtx"])
def test_own_hessian(kind, tmp_path):
    h, path = some_hessian(), tmp_path / f"own.{kind}"
    if kind == "npy":
        np.save(path, h)
    elif kind == "npz":
        np.savez(path, other=np.zeros(3), h=h)
    else:
        scipy.io.mmwrite(path, scipy.sparse.coo_array(h))
    extra = ["--key", "h"] if kind == "npz" else []
    result = run(tmp_path / "out", "--hessian", path, *extra)
    assert result.exit_code == 0, result.output
    data = read(tmp_path / "out")
    assert data["name"] == path.name
    np.testing.assert_allclose(
        data["studies"]["before_after"]["values"][0], np.linalg.eigvalsh(h), atol=1e-12
    )
    expected = spectrum.group_study(h)
    np.testing.assert_allclose(
        data["studies"]["groups"]["condition_numbers"][1], expected.condition_numbers[1], rtol=1e-9
    )


def test_json_alone_on_standard_output(tmp_path):
    result = run(tmp_path, "outliers", "--n", 8, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout, parse_constant=refuse) == read(tmp_path)
    assert result.stdout == (tmp_path / "spectrum.json").read_text()


def test_a_problem_without_fits(tmp_path):
    result = run(tmp_path, "wood", quick=["--products", "0"])
    assert result.exit_code == 0, result.output
    data = read(tmp_path)
    assert data["name"] == "Hessian of wood"
    assert data["studies"]["ranks"]["fitted_condition"] == [None] * 3
    assert data["studies"]["ranks"]["ranks"] == [0, 1, 2]  # those below n = 4
    assert "fitted" not in result.stdout


def test_above_the_dense_limit_products_alone(tmp_path):
    result = run(tmp_path, "rosenbrock", "--n", 40, "--dense-limit", 39)
    assert result.exit_code == 0, result.output
    assert set(read(tmp_path)["studies"]) == {"density", "ends"}
    assert (tmp_path / "spectrum.png").exists()


def test_singular_hessians_need_damping(tmp_path):
    np.save(tmp_path / "h.npy", np.diag([1.0, 2.0, 0.0, -3.0]))
    result = run(tmp_path / "out", "--hessian", tmp_path / "h.npy")
    assert result.exit_code == 2
    assert "must be invertible, got |λ| from 0 to 3; give `--damping`" in result.stderr
    result = run(tmp_path / "out", "--hessian", tmp_path / "h.npy", "--damping", 0.5)
    assert result.exit_code == 0, result.output
    study = read(tmp_path / "out")["studies"]["groups"]
    assert study["condition_number"] == pytest.approx(np.sqrt(9.25) / 0.5)


def test_too_few_steps_get_a_warning(tmp_path):
    np.save(tmp_path / "h.npy", np.diag(np.linspace(1, 2, 60)))
    quick = ["--steps", "2", "--products", "0"]
    result = run(tmp_path / "out", "--hessian", tmp_path / "h.npy", quick=quick)
    assert result.exit_code == 0, result.output
    assert "psgd spectrum: warning: a width of" in result.stderr


def test_list(tmp_path):
    result = run(tmp_path, "--list")
    assert result.exit_code == 0
    assert {"two_tails", "rosenbrock", "digits"} <= {line.split()[0] for line in result.stdout.splitlines()}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "`PROBLEM` must be one that --list shows, got 'nothing'"),
        (["rosenbrok"], "`PROBLEM` .*; did you mean 'rosenbrock'?"),
        (["--n", "3"], "`--n` must be at least 8, got 3"),
        (["--ranks", "1;2"], "`--ranks` must be numbers with commas, such as 0,1,2,5,10, got '1;2'"),
        (["--ranks", "99", "--n", "16"], "`ranks` must hold a rank below n = 16"),
        (["--seed", "-1"], "`--seed` must be at least 0, got -1"),
        (["--products", "-1"], "`--products` must be at least 0, got -1"),
        (["--probes", "0", "--n", "8"], "`probes` must be an integer of at least 1, got 0"),
        (["--damping", "-1", "--n", "8"], "`damping` must be a finite number >= 0, got -1"),
        (["--key", "h"], "`--key` must be given with --hessian only, got h"),
        (["dense", "--hessian", "x.npy"], "`PROBLEM` must be left out with --hessian, got dense"),
        (["--hessian", "x.npy", "--n", "9"], "`--n` must be left out with --hessian"),
        (["--hessian", "missing.npy"], r"missing.npy: cannot be read \(No such file or directory\)"),
        (["--hessian", "h.txt"], "must end in .npy, .npz, .mtx, .mtx.gz or .mtx.bz2"),
        (["wood", "--n", "9"], "`n` must be a multiple of 4 for 'wood', got 9"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(arguments, message, tmp_path):
    quick = [] if {"--ranks", "--products", "--probes"} & set(arguments) else QUICK
    result = run(tmp_path / "out", *arguments, quick=quick)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("psgd spectrum: ")
    assert re.search(message, lines[0]), lines[0]
    assert not result.stdout
    assert not list(tmp_path.glob("out/*"))


def test_a_file_in_the_place_of_a_problem_is_told_where_it_goes(tmp_path):
    path = tmp_path / "h.npy"
    np.save(path, np.eye(3))
    result = run(tmp_path / "out", path)
    assert result.exit_code == 2
    assert f"give it as --hessian {path}" in result.stderr
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("matrix", [np.ones((2, 3)), np.triu(np.ones((3, 3))), np.full((2, 2), np.nan)])
def test_unusable_files(matrix, tmp_path):
    np.save(tmp_path / "h.npy", matrix)
    result = run(tmp_path / "out", "--hessian", tmp_path / "h.npy")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    result = run(tmp_path / "file" / "out", "--n", 8)
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    assert run(tmp_path, "--n", 8).exit_code == 0
    old = (tmp_path / "spectrum.png").read_bytes()

    def broken(self, file, **options):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", broken)
    assert run(tmp_path, "--n", 8, "--seed", 1).exit_code != 0
    assert (tmp_path / "spectrum.png").read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 3
