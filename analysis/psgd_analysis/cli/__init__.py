"""The `psgd` command: each subcommand is the function of its name in ``psgd_analysis.NAME.command``.

Exit codes: 0 if all is well, 1 if a check failed, 2 for bad usage or bad input, 130 after Ctrl-C, 143 after
SIGTERM.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..commands import ABOUT, COMMANDS, HELP, version
from ..terminal import closest, one_line

OPTIONS: dict[str, Any] = {"help_option_names": list(HELP)}


class Commands(TyperGroup):
    """The commands: those in the help have a line each, and the one that is run is imported."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return name, command and the arguments left."""
        name = args[0]
        if name in COMMANDS:
            return name, command(name), args[1:]
        if not name.startswith("-"):
            ctx.fail(f"No such command {name!r}{closest(name, COMMANDS) or '; psgd --help lists them'}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="psgd",
    cls=Commands,
    help=ABOUT,
    epilog="psgd COMMAND --help has the options of a command, with examples.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=OPTIONS,
)

for _name, _about in COMMANDS.items():
    app.command(_name, help=_about)(lambda: None)


def command(name: str) -> Any:
    """Return a command, imported when first asked for."""
    module = import_module(f"psgd_analysis.{name}.command")
    one = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    function = getattr(module, name)
    epilog = "\n\n".join(("Examples:", *module.EXAMPLES))
    one.command(name, help=_help(function), epilog=epilog, context_settings=OPTIONS)(function)
    return typer.main.get_command(one)


def _help(function: Callable[..., object]) -> str:
    """Return the docstring with a line per paragraph, for the terminal to break."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(version())
        raise typer.Exit


@app.callback()
def _commands(
    show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


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
        message = _message(error)
        if message:  # empty if the help was shown instead
            print(f"psgd: {message}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return code if isinstance(code, int) else 0


def _message(error: Any) -> str:
    """Return what a usage error says, in one line, with the option that was meant if it is a wrong one."""
    wrong, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if wrong is None or context is None:
        return one_line(error.format_message())
    known = [name for parameter in context.command.get_params(context) for name in parameter.opts]
    rest = closest(wrong, [name for name in known if name.startswith("-")])
    return one_line(f"{error.message}{rest or f'; {context.command_path} --help lists them'}")
