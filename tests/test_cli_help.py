"""What users try first: versions, help, lists, completion, examples, silence."""

from __future__ import annotations

import inspect
import json
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from psgd_analysis import cli, installing
from psgd_analysis.commands import ABOUT, COMMANDS, plain_help, version
from psgd_analysis.installing import requirement

ROOT = Path(__file__).parent.parent
START = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'analysis')]!r}\n"


def python(code, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-c", START + code],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "100", **environment},
    )


def run(capsys, *words):
    code = cli.run([str(word) for word in words])
    return code, *capsys.readouterr()


def test_the_lines_of_the_help_are_those_of_the_functions():
    for name, about in COMMANDS.items():
        function = getattr(import_module(f"psgd_analysis.{name}.command"), name)
        assert " ".join(inspect.getdoc(function).split("\n\n")[0].split()) == about


def test_version_and_help_need_only_the_core():
    gone = "".join(
        f"sys.modules[{name!r}] = None\n" for name in ("typer", "click", "rich", "matplotlib", "joblib")
    )
    main = "from psgd_analysis.__main__ import main; main()"
    for word, told in (("--version", version()), ("--help", plain_help()), ("-h", requirement("analysis"))):
        done = python(f"{gone}sys.argv[1:] = [{word!r}]\n{main}")
        assert (done.returncode, done.stderr) == (0, "")
        assert told.strip() in done.stdout
    assert all(about in plain_help() for about in COMMANDS.values())


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_of_all_and_of_each(capsys, word):
    code, out, err = run(capsys, word)
    assert (code, err) == (0, "")
    assert all(name in out for name in (*COMMANDS, "--version", "--install-completion", ABOUT[:40]))
    for name in COMMANDS:
        code, out, err = run(capsys, name, word)
        assert (code, err) == (0, "")
        options = "--list", "--quiet", "--out", "-h", "Examples:"
        assert all(told in out for told in options), (name, out)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_valid(name):
    examples = import_module(f"psgd_analysis.{name}.command").EXAMPLES
    command = cli.command(name)
    assert examples
    for example in examples:
        program, given, *words = shlex.split(example)
        assert (program, given) == ("psgd", name)
        assert len(example) <= 78
        command.make_context(f"psgd {name}", words)  # raises what parsing raises


def test_version_of_the_command_line(capsys):
    assert run(capsys, "--version") == (0, f"{version()}\n", "")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "reproduce"])
def test_lists_have_names_in_sections_and_write_nothing(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, name, "--list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith(":")
    assert all(line.endswith(":") or line.startswith("  ") for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("psgd v", {"verify"}),
        ("psgd spectrum two", {"two_tails"}),
        ("psgd minimize rosen", {"rosenbrock", "rosenbrock_pairs"}),
        ("psgd verify --dtype float", {"float64", "float32"}),
        ("psgd reproduce len", {"lenet"}),
        ("psgd verify --hess", {"--hessian"}),
    ],
)
def test_completion(words, found):
    done = python(
        "sys.argv[1:] = []\nfrom psgd_analysis.cli import run; sys.exit(run())",
        _PSGD_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
    )
    assert {line.strip() for line in done.stdout.splitlines()} == found, done.stderr


def test_the_requirement_names_the_clone_or_what_was_installed(monkeypatch, tmp_path):
    assert requirement("jax") == f'pip install -e "{ROOT.resolve()}[jax]"'
    monkeypatch.setattr(installing, "CLONE", tmp_path)

    class Installed:
        def __init__(self, source):
            self.source = source

        def read_text(self, name):
            return self.source

    for source, told in (
        (None, 'pip install "psgd-core[jax]"'),
        ('{"url": "file:///a/clone", "dir_info": {}}', 'pip install "psgd-core[jax] @ file:///a/clone"'),
        ("broken", 'pip install "psgd-core[jax]"'),
    ):
        monkeypatch.setattr(installing.metadata, "distribution", lambda name, s=source: Installed(s))
        assert requirement("jax") == told


def test_scikit_learn_is_asked_for_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for name in ("minimize", "spectrum"):
        code, out, err = run(capsys, name, "digits", "--out", tmp_path)
        assert (code, out) == (2, "")
        assert err == (
            f"psgd {name}: the problem 'digits' needs the data of scikit-learn: pip install scikit-learn\n"
        )


def test_the_page_of_the_command_line_has_all_commands():
    page = (ROOT / "docs" / "guides" / "commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"## psgd {name}\n\n```{{command}} {name}\n" in page


# -- a Hessian of one's own ----------------------------------------------------------------------------------

SHORT = ("-p", "dense", "--setting", "exact", "--jobs", "1")


def test_quiet_prints_nothing_and_writes_the_files(capsys, tmp_path):
    words = {
        "verify": ("-p", "diagonal", "--problem", "definite", "--setting", "exact", "--n", 4, "--jobs", 1),
        "spectrum": ("--n", 8, "--products", 0),
        "minimize": ("rosenbrock", "-p", "diagonal", "--maxiter", 3, "--seeds", 1),
    }
    for name, more in words.items():
        code, out, err = run(capsys, name, *more, "--quiet", "--json", "--out", tmp_path)
        assert (code, out, err) == (0, "", "")
        assert (tmp_path / f"{name}.json").is_file()
        assert (tmp_path / f"{name}.png").is_file()


def test_own_hessians_have_a_chosen_subset_and_all_adds_the_rest(capsys, tmp_path):
    a = np.random.default_rng(0).standard_normal((12, 12))
    np.save(tmp_path / "h.npy", a + a.T)
    code, few, _ = run(capsys, "verify", "--hessian", tmp_path / "h.npy", "--list")
    assert code == 0
    every = run(capsys, "verify", "--hessian", tmp_path / "h.npy", "--list", "--all")[1]
    few_names, all_names = (
        {line.strip() for line in text.splitlines() if "/own/" in line} for text in (few, every)
    )
    assert few_names < all_names
    assert f"checks, {len(few_names)} ({len(all_names) - len(few_names)} more with --all):" in few
    assert {
        "xmat/own/exact",
        "dense/own/exact",
        "kronecker/own/exact",
        "lyapunov-dense/own/exact",
    } <= few_names
    assert len(few_names) < len(all_names) / 3


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e200])
def test_the_scale_of_an_own_hessian_does_not_matter(capsys, tmp_path, size):
    a = np.random.default_rng(0).standard_normal((6, 6))
    h = a + a.T
    w = np.abs(np.linalg.eigvalsh(h))
    np.save(tmp_path / "h.npy", h * size)
    code, out, err = run(capsys, "verify", "--hessian", tmp_path / "h.npy", *SHORT, "--out", tmp_path)
    assert (code, err) == (0, "")
    kappa = max(w) / min(w)
    assert out.startswith(f"h.npy, n = 6, kappa {kappa:.3g}\n")
    data = json.loads((tmp_path / "verify.json").read_text())
    assert data["hessian"]["name"] == "h.npy"
    assert data["hessian"]["kappa"] == pytest.approx(kappa, rel=1e-5)


def test_singular_ones_need_damping_and_one_row_is_enough(capsys, tmp_path):
    np.save(tmp_path / "h.npy", np.diag([4.0, 0.0, -3.0]))
    code, _, err = run(capsys, "verify", "--hessian", tmp_path / "h.npy", *SHORT)
    assert code == 2
    assert "give --damping, such as 4e-06" in err
    words = ("--damping", 0.5, "--out", tmp_path)
    code, out, err = run(capsys, "verify", "--hessian", tmp_path / "h.npy", *SHORT, *words)
    assert (code, err) == (0, "")
    assert f"h.npy, damped by 0.5, n = 3, kappa {np.hypot(4, 0.5) / 0.5:.3g}" in out
    np.save(tmp_path / "one.npy", [[-3.0]])
    code, out, _ = run(capsys, "verify", "--hessian", tmp_path / "one.npy", *SHORT, "--out", tmp_path)
    assert code == 0
    assert "one.npy, n = 1, kappa 1\n" in out


@pytest.mark.parametrize(("size", "fits"), [(1e-30, True), (1e30, True), (1e200, False), (1e-200, False)])
def test_spectra_of_any_scale_or_why_not(capsys, tmp_path, size, fits):
    a = np.random.default_rng(0).standard_normal((6, 6))
    np.save(tmp_path / "h.npy", (a + a.T) * size)
    words = ("--products", 40, "--ranks", "1", "--out", tmp_path, "--quiet")
    code, _, err = run(capsys, "spectrum", "--hessian", tmp_path / "h.npy", *words)
    if fits:
        assert (code, err) == (0, "")
        return
    assert code == 2
    assert err.count("\n") == 1
    factor = float(err.rpartition("multiply it by ")[2])
    np.save(tmp_path / "h.npy", (a + a.T) * size * factor)
    assert run(capsys, "spectrum", "--hessian", tmp_path / "h.npy", *words)[0] == 0


def test_a_figure_of_one_panel_holds_its_caption(capsys, tmp_path):
    from psgd_analysis.verify import page
    from psgd_analysis.verify.run import Options

    caption = (
        f"psgd verify, {'a-long-name-' * 3}.npy, n = 40, kappa 49.9, on numpy, float64, seed 0: 1 of 1 passed"
    )
    figure = page.page([], Options(), caption)
    figure.canvas.draw()
    box, whole = figure._suptitle.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
