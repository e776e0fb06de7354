"""Options that several commands have, declared once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from .files import require_folder
from .terminal import unknown

ENDINGS = ".npy, .npz, .mtx, .mtx.gz or .mtx.bz2"

Json = Annotated[bool, typer.Option("--json", help="Print the JSON in place of the tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors; write the files.")]
Hessian = Annotated[Path | None, typer.Option(metavar="FILE", help=f"A Hessian of your own: {ENDINGS}.")]
Key = Annotated[str | None, typer.Option(help="Which array of the .npz file.")]
Damping = Annotated[
    float, typer.Option(help="Take sqrt(H² + damping²) in place of |H|, as for a singular H.")
]


def listing(help: str) -> Any:
    """Return the option ``--list``."""
    return typer.Option("--list", help=help)


def among(known: Iterable[str], help: str, *flags: str, **more: Any) -> Any:
    """Return an option whose values, one or several, are among the known names."""
    names = list(known)

    def check(given: Any) -> Any:
        for name in [given] if isinstance(given, str) else given or ():
            if name not in names:
                raise typer.BadParameter(unknown(name, names))
        return given

    return typer.Option(*flags, callback=check, autocompletion=starting(lambda: names), help=help, **more)


def starting(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return the completion of a word by known names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in known() if name.startswith(incomplete)]

    return complete


def require_writable(out: Path) -> None:
    """Make the folder ``--out``, or end the command in a sentence."""
    try:
        require_folder(out)
    except OSError as error:
        raise typer.BadParameter(
            f"{out}: cannot be written to ({error.strerror or error})", param_hint="--out"
        ) from error
