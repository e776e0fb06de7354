"""The commands' terminal: tables that keep every digit, and one-line errors that name what was meant."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

MOST_NAMES = 12
"""More names than this are left to `--list`."""

PIPED = 110
"""Columns of paragraphs in a file or a pipe."""


class UsageError(ValueError):
    """The options are invalid or do not fit together."""


def one_line(message: str) -> str:
    """Return a message in one line."""
    return " ".join(message.split())


def fail(command: str, message: str, status: int = 2) -> NoReturn:
    """Print a message in one line on stderr, and end the command."""
    typer.echo(f"psgd {command}: {one_line(message)}", err=True)
    raise typer.Exit(status)


def closest(given: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'name'?" for the known name that is closest; nothing if none is close."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(given.lower(), names, 1, cutoff=0.7)
    if not found and len(given) > 2:
        found = [name for name in names if name.startswith(given.lower())]
    return f"; did you mean {names[found[0]]!r}?" if found else ""


def unknown(given: str, known: Iterable[str]) -> str:
    """Return what a wrong name must be: one of the known ones, the closest of them first."""
    names = list(known)
    rule = f"one of {', '.join(names)}" if len(names) <= MOST_NAMES else "one that --list shows"
    return f"must be {rule}, got {given!r}{closest(given, names) or '; choose one of these'}"


def print_names(sections: Mapping[str, Mapping[str, str]]) -> None:
    """Print what `--list` shows: names with a line about each, in sections."""
    width = max((len(name) for names in sections.values() for name in names), default=0)
    for title, names in sections.items():
        print(f"{title}:")
        for name, about in names.items():
            print(f"  {name:{width}}  {about}".rstrip())


# -- tables ------------------------------------------------------------------------------------------------


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str | Text]], *, words: Iterable[int] = (0,), **style: Any
) -> Table:
    """Return a table to `show`.

    Parameters
    ----------
    heads : sequence of str
    rows : iterable of sequences of str or Text
        Taken as they are, without markup.
    words : iterable of int
        Columns of words, flush left; the others have numbers, flush right.
    **style
        Of `rich.table.Table`.
    """
    made, left = Table(**style), set(words)
    for i, head in enumerate(heads):
        made.add_column(Text(head), justify="left" if i in left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made


def console() -> Console:
    """Return the console of stdout."""
    return Console(width=None if sys.stdout.isatty() else PIPED, highlight=False)


def show(terminal: Console, drawn: Table) -> None:
    """Print a table with every digit of it.

    In a file or a pipe each row is one line, however long. On a terminal cells are broken where it is narrow,
    but only between words: where these do not fit either, the table is wider than the terminal. Its title and
    its caption are printed above and below it, as paragraphs.
    """
    title, caption, drawn.title, drawn.caption = drawn.title, drawn.caption, None, None
    if title is not None:
        terminal.print(title, style="bold", markup=False, soft_wrap=not terminal.is_terminal)
    wide = Console(width=10_000)
    cells = [
        [Measurement.get(wide, wide.options, cell) for cell in (c.header, *c.cells)] for c in drawn.columns
    ]
    least, widths = ([max(m[i] for m in column) for column in cells] for i in (0, 1))
    total = Measurement.get(wide, wide.options, drawn).maximum
    if terminal.is_terminal:
        while total > terminal.width and widths != least:
            i = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
            widths[i], total = widths[i] - 1, total - 1
    for column, width in zip(drawn.columns, widths, strict=True):
        column.width = width
    before, terminal.width = terminal.width, max(total, terminal.width)
    try:
        terminal.print(drawn, crop=False)
    finally:
        terminal.width = before
    if caption is not None:
        terminal.print(caption, style="dim", markup=False, soft_wrap=not terminal.is_terminal)
