"""The program for MPI in the documentation, on two processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import blocks

ROOT = Path(__file__).parents[1]
pytest.importorskip("mpi4py", reason="mpi4py is not installed")
if shutil.which("mpiexec") is None:
    pytest.skip("there is no mpiexec", allow_module_level=True)


def run(tmp_path, text):
    """Run a program on two processes."""
    (tmp_path / "script.py").write_text(text, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        ["mpiexec", "-n", "2", sys.executable, "-m", "mpi4py", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


PROGRAM = next(b for b in blocks(ROOT / "docs" / "guides" / "beyond.md") if "mpi4py" in b)


def test_the_program_runs_on_two_processes(tmp_path):
    done = run(tmp_path, PROGRAM + "\nprint(world.size, result.success)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "True"] * 2


def test_an_exception_in_one_process_ends_both(tmp_path):
    done = run(
        tmp_path, PROGRAM.replace("result =", "if world.rank:\n    raise OSError('no data')\nresult =")
    )
    assert done.returncode != 0
    assert "no data" in done.stderr
