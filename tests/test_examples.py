"""Every example runs by itself to its end, with its own assertions, and opens and executes in Jupyter."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
OPTIONAL = {"dask", "distributed", "jax", "optax", "sklearn", "torch"}


def needs(path: Path) -> list[str]:
    """The optional libraries that an example imports."""
    imported = set(re.findall(r"^(?:import|from) (\w+)", path.read_text(encoding="utf-8"), flags=re.M))
    return sorted(imported & OPTIONAL)


def skip_what_is_missing(path: Path) -> None:
    for library in needs(path):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"MPLBACKEND": "Agg", "JAX_PLATFORMS": "cpu"} | more


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_to_its_end(path, tmp_path):
    """In a process and a folder of its own, so that nothing is hidden: no state, no files."""
    skip_what_is_missing(path)
    roots = os.pathsep.join([str(FOLDER.parent), str(FOLDER.parent / "analysis")])
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", str(path)],
        cwd=tmp_path,
        env=environment(PYTHONPATH=roots),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_a_notebook(path):
    """Percent format, read by Jupytext: prose first with one title, code after, and back without loss."""
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    text = path.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    nbformat.validate(notebook)
    first, *others = notebook.cells
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert not any(cell.source.startswith("# ") for cell in others if cell.cell_type == "markdown")
    assert sum(cell.cell_type == "code" for cell in others) >= 3
    again = jupytext.reads(jupytext.writes(notebook, fmt="py:percent"), fmt="py:percent")
    assert [cell.source for cell in again.cells] == [cell.source for cell in notebook.cells]


def test_a_notebook_executes_in_jupyter(monkeypatch):
    """The shortest one, converted and executed headless; figures and tables come out as pictures and HTML."""
    for library in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    import jupytext
    from nbclient import NotebookClient

    for name, value in environment(MPLBACKEND="module://matplotlib_inline.backend_inline").items():
        monkeypatch.setenv(name, value)
    roots = os.pathsep.join([str(FOLDER.parent), str(FOLDER.parent / "analysis")])
    monkeypatch.setenv("PYTHONPATH", roots)
    notebook = jupytext.read(FOLDER / "03_both_tails.py")
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    assert any("image/png" in data for data in shown)
    assert any("<table>" in data.get("text/html", "") for data in shown)
