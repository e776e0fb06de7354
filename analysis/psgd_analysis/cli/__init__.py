"""The `psgd` command: a module per subcommand.

Exit codes: 0 if all is well, 1 if a check failed, 2 for bad usage or bad input, 130 after Ctrl-C, 143 after
SIGTERM.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence

import typer

from ..bench import command as bench_command
from ..minimize import command as minimize_command
from ..spectrum import command as spectrum_command
from . import verify

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


app.command("verify", help=_help(verify.verify))(verify.verify)
minimize_command.register(app)
spectrum_command.register(app)
bench_command.register(app)


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
        if not hasattr(error, "format_message"):  # what every usage error has, whichever click it is from
            raise
        message = " ".join(error.format_message().split())
        if message:  # there is none if the help was shown instead
            print(f"psgd: {message}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return code if isinstance(code, int) else 0
