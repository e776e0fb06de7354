"""Code in Markdown pages: blocks of a page run in order, each going on where the one before ended."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def blocks(path: Path, language: str = "python") -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S)


def run(path: Path) -> list[dict[str, Any]]:
    """Run a page's Python; return the variables as they are after each block.

    Line numbers in a traceback are those of the page.
    """
    text, scope, seen, at = path.read_text(encoding="utf-8"), {"__name__": "page"}, [], 0
    for block in blocks(path):
        at = text.index(block, at)
        exec(compile("\n" * text.count("\n", 0, at) + block, str(path), "exec"), scope)
        at += len(block)
        seen.append(dict(scope))
    return seen
