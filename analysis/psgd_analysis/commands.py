"""The commands of `psgd` in a line each, for the help that needs no other package."""

from __future__ import annotations

import psgd_core

COMMANDS = {
    "verify": "Check every preconditioner against its exact target.",
    "minimize": "Minimise a test problem with PSGD beside BFGS, L-BFGS-B, Newton-CG and gradient descent.",
    "spectrum": "Look at the spectrum of a Hessian, and at what preconditioners make of it.",
    "bench": "Measure what updates and P g cost, beside the memory bandwidth and beside the peers.",
    "efficiency": "Measure how good each preconditioner is after so many Hessian-vector products.",
    "reproduce": (
        "Train what the paper trains, with its baselines, and put its numbers beside what was measured."
    ),
}
"""In the order of the help; each name is a package of psgd_analysis, and the function in its `command`."""

ABOUT = "Curvature-informed SGD with Lie-group preconditioners: checks and studies."

HELP = ("-h", "--help")


def version() -> str:
    """Return the line of `psgd --version`."""
    return f"psgd-core {psgd_core.__version__}"


def plain_help() -> str:
    """Return the help of `psgd` without Typer, which draws a nicer one."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {about}" for name, about in COMMANDS.items())
    return (
        f"Usage: psgd [OPTIONS] COMMAND [ARGS]...\n\n{ABOUT}\n\n"
        f"Options:\n  --version   Show the version and exit.\n  -h, --help  Show this message and exit.\n\n"
        f"Commands:\n{lines}\n"
    )
