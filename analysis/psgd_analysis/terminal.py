"""The commands' terminal: consoles, progress bars, and one-line errors."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import Progress, ProgressColumn


class UsageError(ValueError):
    """The options are invalid or do not fit together."""


def fail(command: str, message: str, status: int = 2) -> NoReturn:
    """Print a message in one line on stderr, and end the command."""
    typer.echo(f"psgd {command}: {' '.join(message.split())}", err=True)
    raise typer.Exit(status)


def console(width: int, *, highlight: bool = True) -> Console:
    """Return the console of stdout, of the given width where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=highlight)


def progress(*columns: str | ProgressColumn, shown: bool = True) -> Progress:
    """Return a progress bar on stderr that vanishes at the end; none if that is not a terminal."""
    stderr = Console(stderr=True)
    return Progress(*columns, console=stderr, transient=True, disable=not (shown and stderr.is_terminal))
