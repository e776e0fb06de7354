"""Entry point of the `psgd` command, also as ``python -m psgd_analysis``."""

from __future__ import annotations

import sys

NEEDED = ("typer", "rich", "matplotlib")


def main() -> None:
    """Run the command line; say in one line what to install where the analysis extra is missing."""
    try:
        import matplotlib  # noqa: F401
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in NEEDED:
            raise
        sys.exit(f'psgd: {error.name} is not installed; the command needs: pip install "psgd-core[analysis]"')
    from .cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
