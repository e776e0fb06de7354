"""The `psgd` command: each subcommand is the function of its name in ``psgd_analysis.NAME.command``.

Exit codes: 0 if all is well, 1 if a check failed, 2 for bad usage or bad input, 130 after Ctrl-C, 143 after
SIGTERM.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import typer

COMMANDS = ("verify", "minimize", "spectrum", "bench", "efficiency", "reproduce")
"""In the order of the help; each name is a package of psgd_analysis."""

app = typer.Typer(
    name="psgd",
    help="Curvature-informed SGD with Lie-group preconditioners: checks and studies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _help(function: Callable[..., object]) -> str:
    """Return the docstring with a line per paragraph, for the terminal to break."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


for _name in COMMANDS:
    _function = getattr(import_module(f"psgd_analysis.{_name}.command"), _name)
    app.command(_name, help=_help(_function))(_function)


@app.callback()
def _commands() -> None:
    """Curvature-informed SGD with Lie-group preconditioners: checks and studies."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(args=given, prog_name="psgd", standalone_mode=False, obj=given)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except typer.Exit as stop:
        code = stop.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):  # which every usage error of click has, vendored or not
            raise
        message = " ".join(error.format_message().split())
        if message:  # empty if the help was shown instead
            print(f"psgd: {message}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return code if isinstance(code, int) else 0
