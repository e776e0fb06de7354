"""Entry point of the `psgd` command, also as ``python -m psgd_analysis``."""

from __future__ import annotations

import sys

from . import interrupts
from .commands import HELP, plain_help, version
from .installing import requirement

NEEDED = ("typer", "rich", "matplotlib")


def main() -> None:
    """Run the command line; if the analysis extra is missing, say in one line what to install."""
    try:
        interrupts.listen()
        code = _run(sys.argv[1:])
    except (KeyboardInterrupt, Exception) as error:  # during imports, or a second signal
        if not (isinstance(error, KeyboardInterrupt) or interrupts.noted()):  # extensions turn it into others
            raise
        code = interrupts.CTRL_C
    interrupts.leave()
    code = interrupts.code(code)
    if code in (interrupts.CTRL_C, interrupts.TERMINATED):
        print("psgd: interrupted", file=sys.stderr)
    sys.exit(code)


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        print(version())
        return 0
    try:
        import matplotlib  # noqa: F401
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in NEEDED:
            raise
        needs = f"{error.name} is not installed; the commands need: {requirement('analysis')}"
        if len(words) == 1 and words[0] in HELP:
            print(f"{plain_help()}\n{needs}")
            return 0
        sys.exit(f"psgd: {needs}")
    from .cli import run

    return run()


if __name__ == "__main__":
    main()
