"""The help of a command of `psgd` on a page, made from the command itself: ``{command} verify``."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from psgd_analysis import cli


class Command(Directive):
    """What ``psgd NAME --help`` says: what the command does, its examples, arguments and options."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        command = cli.command(self.arguments[0])
        made: list[nodes.Node] = [nodes.paragraph("", text) for text in command.help.split("\n\n")]
        _, *examples = command.epilog.split("\n\n")
        text = "\n".join(examples)
        made.append(nodes.literal_block(text, text, language="sh"))
        shown = [p for p in command.params if not getattr(p, "hidden", False)]
        return [*made, nodes.definition_list("", *map(_item, shown))]


def _item(parameter: Any) -> nodes.definition_list_item:
    argument = parameter.param_type_name == "argument"
    flag = getattr(parameter, "is_flag", False)
    stands = parameter.metavar or parameter.opts[0].strip("-").upper()
    value = "" if argument or flag else f" {stands}"
    names = [parameter.name.upper()] if argument else [f"{name}{value}" for name in parameter.opts]
    term = nodes.term()
    for i, name in enumerate(names):
        term += [nodes.Text(", ")] * (i > 0) + [nodes.literal("", name)]
    told = parameter.help or ""
    default = parameter.default
    if not flag and default is not None and not callable(default) and "default" not in told.lower():
        told += f" [default: {default}]"
    return nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", told)))


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command", Command)
    return {"parallel_read_safe": True}
