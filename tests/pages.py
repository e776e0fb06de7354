"""Code in Markdown pages: blocks of a page run in order, each going on where the one before ended."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OPTIONAL = re.compile(
    r"^(?:import|from) (?:psgd_core\.adapters\.)?(torch|jax|optax|dask|distributed|mpi4py)\b", flags=re.M
)


def blocks(path: Path, language: str = "python") -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S)


def run(path: Path) -> list[dict[str, Any]]:
    """Run a page's Python; return the variables as they are after each block.

    Blocks that import an optional library are left out where it is not installed.
    Line numbers in a traceback are those of the page.
    """
    text, scope, seen, at = path.read_text(encoding="utf-8"), {"__name__": "page"}, [], 0
    for block in blocks(path):
        at = text.index(block, at)
        if all(find_spec(library) for library in OPTIONAL.findall(block)):
            exec(compile("\n" * text.count("\n", 0, at) + block, str(path), "exec"), scope)
        at += len(block)
        seen.append(dict(scope))
    return seen
