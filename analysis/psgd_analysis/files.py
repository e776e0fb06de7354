"""Files that are written in full or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from psgd_core.checkpoint.replacing import replacing


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside `path` and rename it onto `path` when it is complete.

    Parameters
    ----------
    path : Path
        A regular file, whose mode is kept, or a link to one, or nothing yet.
    write : callable
        Gets the open binary file.

    Raises
    ------
    OSError
        If `path` is something else, or its folder cannot be written to; `path` is then as it was.
    """
    with replacing(path) as file:
        write(file)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; see `write_atomically`."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def require_folder(folder: Path) -> None:
    """Make a folder and see that files can be written there, or raise OSError; what is in it stays."""
    folder.mkdir(parents=True, exist_ok=True)
    trial = folder / ".try"
    write_text(trial, "")
    trial.unlink()


def write_figure(path: Path, figure: Any, dpi: int | None = None) -> None:
    """Write a matplotlib figure as PNG; see `write_atomically`."""
    options = {} if dpi is None else {"dpi": dpi}
    write_atomically(path, lambda file: figure.savefig(file, format="png", **options))
