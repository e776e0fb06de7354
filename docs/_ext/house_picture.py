"""The directive ``architecture``: the picture that ``tools/architecture.py`` draws from the sources.

It is part of the page, so it follows the page's colours, and nothing is written that could become stale.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

TOOL = Path(__file__).parents[2] / "tools" / "architecture.py"


class Architecture(Directive):
    """Put the picture here."""

    def run(self) -> list[nodes.Node]:
        """Return the picture as HTML."""
        spec = importlib.util.spec_from_file_location("architecture", TOOL)
        assert spec is not None
        assert spec.loader is not None
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        environment = self.state.document.settings.env
        for path in (TOOL, *tool.modules().values()):  # the page is written anew when one of them changes
            environment.note_dependency(str(path))
        return [nodes.raw("", f'<div class="picture">{tool.picture()}</div>', format="html")]


def setup(app) -> dict:
    """Connect."""
    app.add_directive("architecture", Architecture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
