"""Lines of code, without comments, docstrings and blank lines: for each room, and in all.

    python tools/lines.py                         # psgd_core and psgd_analysis
    python tools/lines.py psgd_core/descent       # a folder, by its files and packages
    python tools/lines.py --files psgd_core       # every file, longest first, by all its lines

The last column is the share of the lines that are comments.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
"""Tokens that do not make a line a line of code."""


class Lines(NamedTuple):
    """Lines of one or several files."""

    code: int = 0
    comments: int = 0  # lines that hold a comment
    physical: int = 0
    files: int = 0

    def plus(self, other: Lines) -> Lines:
        """Return the sum."""
        return Lines(*(x + y for x, y in zip(self, other, strict=True)))


def docstrings(source: str) -> set[int]:
    """Return the lines of all strings that stand alone: docstrings, and those below a constant."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if alone and isinstance(node.value.value, str):
            found |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


def counted(path: Path) -> Lines:
    """Return the lines of a file."""
    source = path.read_text(encoding="utf-8")
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in LAYOUT:
            code |= set(range(token.start[0], token.end[0] + 1))
    return Lines(len(code - docstrings(source)), len(comments), len(source.splitlines()), 1)


def by_room(folder: Path) -> dict[str, Lines]:
    """Return the lines of every package and module right below a folder."""
    found: dict[str, Lines] = {}
    for path in sorted(folder.rglob("*.py")):
        room = path.relative_to(folder).parts[0]
        found[room] = found.get(room, Lines()).plus(counted(path))
    return found


def total(parts: Iterable[Lines]) -> Lines:
    """Return the sum of several."""
    whole = Lines()
    for part in parts:
        whole = whole.plus(part)
    return whole


def row(name: str, lines: Lines) -> str:
    """Return a row of the table."""
    share = 100 * lines.comments / max(lines.physical, 1)
    return f"{name:28} {lines.files:6} {lines.code:7} {lines.physical:9} {share:9.1f} %"


def main(argv: list[str]) -> None:
    """Print the tables."""
    files = "--files" in argv
    given = [x for x in argv if x != "--files"] or ["psgd_core", "analysis/psgd_analysis"]
    for folder in (ROOT / x for x in given):
        if files:
            for path in sorted(folder.rglob("*.py"), key=lambda x: -counted(x).physical):
                print(f"{counted(path).physical:6} {path.relative_to(ROOT)}")
            continue
        rooms = by_room(folder)
        print(f"{folder.name:28} {'files':>6} {'code':>7} {'all lines':>9} {'comments':>11}")
        for name, lines in rooms.items():
            print(row(f"  {name}", lines))
        print(row("in all", total(rooms.values())))
        if "kernels" in rooms:
            print(row("without kernels", total(x for name, x in rooms.items() if name != "kernels")))
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
