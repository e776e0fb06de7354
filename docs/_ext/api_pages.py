"""Reference pages from docstrings: one for each module that ``api/index.md`` lists, with a line there.

Every name of a module's ``__all__`` is documented once, on the page of the first module (after the top one)
that has it; other modules that export it link there. In docstrings `name` links to what it names where that
is documented, and is set as code otherwise.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.directives.other import TocTree

ALIAS = re.compile(r"Alias for field number \d+")
NO_TYPE = "(no type)"
ZERO_WIDTH_SPACE = "\u200b"


def listed(folder: Path) -> list[str]:
    """Return the modules that the index lists, in its order."""
    text = (folder / "index.md").read_text(encoding="utf-8")
    return re.findall(r"^(psgd_\w+(?:\.\w+)*)$", text, flags=re.M)


def names(module: ModuleType) -> list[str]:
    """Return what a module offers: its ``__all__``, or else what it defines without an underscore."""
    given = getattr(module, "__all__", None)
    if given is not None:
        return list(given)
    own = {k: v for k, v in vars(module).items() if not k.startswith("_")}
    return [k for k, v in own.items() if getattr(v, "__module__", None) == module.__name__]


def homes(modules: list[str]) -> dict[str, str]:
    """Return where each public thing is documented, by where it is defined (``module.qualified name``)."""
    found: dict[str, str] = {}
    for name in sorted(modules, key=lambda m: "." not in m):  # the top packages last: they only re-export
        module = importlib.import_module(name)
        for item in names(module):
            value = getattr(module, item)
            if not inspect.ismodule(value):
                found.setdefault(defined(value, name, item), f"{name}.{item}")
    return found


def defined(value: Any, module: str, item: str) -> str:
    """Return where a thing is defined; of constants, which do not know it, the module that assigns them."""
    if not is_constant(value):
        return f"{value.__module__}.{value.__qualname__}"
    for name, other in sorted(sys.modules.items()):
        if (
            name.startswith(f"{module}.")
            and vars(other).get(item) is value
            and assigns(other, item) is not None
        ):
            return f"{name}.{item}"
    return f"{module}.{item}"


def is_constant(value: Any) -> bool:
    """Return whether a thing is neither a class nor a function."""
    return not (inspect.isclass(value) or inspect.isfunction(value))


def assigns(module: ModuleType, item: str) -> str | None:
    """Return the docstring below the line where a module gives a name its value; None without such a line."""
    body = ast.parse(inspect.getsource(module)).body
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == item for target in targets):
            said = after.value if isinstance(after, ast.Expr) else None
            return str(said.value) if isinstance(said, ast.Constant) else ""
    return None


def write_pages(app) -> None:
    """Write a page for each listed module; leave alone those that would not change."""
    folder = Path(app.srcdir) / "api"
    modules = listed(folder)
    app.psgd_homes = homes(modules)
    for name in modules:
        text = page(importlib.import_module(name), name, app.psgd_homes, modules)
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.glob("*.rst"):
        if path.stem not in modules:
            path.unlink()


def page(module: ModuleType, name: str, places: dict[str, str], listed_now: list[str]) -> str:
    """Return a module's page: its docstring, what it offers in a table, then each in full."""
    rows, full = [], []
    for item in sorted(names(module), key=str.lower):
        value = getattr(module, item)
        if inspect.ismodule(value):
            link = f":py:mod:`{item} <{value.__name__}>`" if value.__name__ in listed_now else f"``{item}``"
            rows.append((link, value))
            continue
        home = places[defined(value, name, item)]
        rows.append((f":py:obj:`{item} <{home}>`", value))
        if home == f"{name}.{item}":
            full.append(directive(home, value, defined(value, name, item)))
    table = [".. list-table::", "   :widths: 30 70", "   :class: summary", ""]
    for link, value in rows:
        table += [f"   * - {link}", f"     - {first_line(value)}"]
    parts = [name, "=" * len(name), "", f".. automodule:: {name}", "   :no-members:", "", *table, "", *full]
    return "\n".join(parts) + "\n"


class Modules(TocTree):
    """List modules, each with the first line of its docstring, and put their pages into the site's tree."""

    def run(self) -> list[nodes.Node]:
        """Return a hidden toctree, and a table in Markdown."""
        self.options["hidden"] = None
        lines = ["| module | what it is for |", "|---|---|"]
        for name in self.content:
            lines.append(f"| {{py:mod}}`{name}` | {first_line(importlib.import_module(name))} |")
        table = self.parse_text_to_nodes("\n".join(lines))
        for node in table:
            node["classes"] += ["summary"]
        # long names may break behind a dot in the sidebar too
        for i, name in enumerate(self.content):
            self.content[i] = f"{name.replace('.', '.' + ZERO_WIDTH_SPACE)} <{name}>"
        return [*super().run(), *table]


def directive(home: str, value: Any, definition: str) -> str:
    """Return the directive that documents a thing."""
    if inspect.isclass(value):
        options = "   :members:\n   :show-inheritance:"
        if inspect.isabstract(value) or value.__name__ == "OrbitPreconditioner":
            options += "\n   :inherited-members: ABC, tuple"
        return f".. autoclass:: {home}\n{options}\n"
    if is_constant(value) and definition != home:  # autodoc would show the docstring of its class
        module, _, item = definition.rpartition(".")
        said = inspect.cleandoc(assigns(sys.modules[module], item) or "").replace("\n", "\n   ")
        return f".. py:data:: {item}\n   :module: {home.rpartition('.')[0]}\n\n   {escaped(said)}\n"
    kind = "autofunction" if inspect.isfunction(value) else "autodata"
    return f".. {kind}:: {home}\n"


def first_line(value: Any) -> str:
    """Return the first line of a docstring; of a constant its value."""
    if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
        return escaped((inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " "))
    return f"``{value!r}``"


# -- docstrings --------------------------------------------------------------------------------------------


def prepare(app, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Make a docstring reStructuredText: say what a NamedTuple's field holds, and leave |x| as it is."""
    if lines and lines[0].strip() == NO_TYPE:
        del lines[0]
    describe_field(name, lines)
    block = -1  # the indentation of a literal block's introduction
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block >= 0 and line.strip() and indent <= block:
            block = -1
        if block < 0:
            lines[i] = escaped(line)
            block = indent if line.rstrip().endswith("::") else -1


def plain(app, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep Napoleon from taking the words before a property's first colon for its type."""
    if what in ("attribute", "data", "property"):
        lines.insert(0, NO_TYPE)


def escaped(line: str) -> str:
    """Return a line in which bars outside of code are no substitutions."""
    parts = re.split(r"(``.*?``|`.*?`)", line)
    return "".join(p if p.startswith("`") else p.replace("|", r"\|") for p in parts)


def describe_field(name: str, lines: list[str]) -> None:
    """Put the comment behind a NamedTuple's field, which says its shape, in the place of Python's filler."""
    if not (lines and ALIAS.match(lines[0])):
        return
    module, _, owner = name.rpartition(".")[0].rpartition(".")
    source = inspect.getsource(getattr(importlib.import_module(module), owner))
    comment = re.search(rf"^    {name.rpartition('.')[2]}: .*?#\s*(.*)$", source, flags=re.M)
    lines[:] = [comment.group(1)] if comment else [""]


def name_role(role, rawtext, text, lineno, inliner, options=None, content=None):
    """Read a `name` in a docstring: code, and perhaps a link."""
    code = nodes.literal(rawtext, text, classes=["xref"])
    scope = inliner.document.settings.env.ref_context
    where = {key: scope.get(key) for key in ("py:module", "py:class")}
    target = text.strip().removesuffix("()")
    node = pending_xref(rawtext, code, reftype="name", refdomain="", reftarget=target, **where)
    node["refdoc"] = inliner.document.settings.env.docname
    return [node], []


def resolve(app, env, node, content) -> nodes.Node | None:
    """Link a name to where it is documented; otherwise leave it as code."""
    if node.get("refdomain") not in ("py", ""):
        return None
    target = node["reftarget"]
    places: dict[str, str] = app.psgd_homes
    objects = env.domains.python_domain.objects
    candidates = [places.get(target), *(f"{m}.{target}" for m in around(node)), short(target, places)]
    for home in candidates:
        if home in objects:
            page = objects[home].docname
            uri = app.builder.get_relative_uri(node["refdoc"], page)
            return nodes.reference("", "", content, internal=True, refuri=f"{uri}#{objects[home].node_id}")
    return content if node["reftype"] in ("name", "obj", "class") else None


def around(node) -> list[str]:
    """Return the class, the module and the packages that a docstring's names are to be looked up in."""
    scopes = [s for s in (node.get("py:class"), node.get("py:module")) if s]
    both = ".".join(reversed(scopes)) if len(scopes) == 2 else None
    return [both, *scopes] if both else scopes


def short(target: str, places: dict[str, str]) -> str | None:
    """Return the one documented class that is called like this (or its member), if there is exactly one."""
    root, dot, rest = target.partition(".")
    if not root[:1].isupper():
        return None
    found = {home for home in places.values() if home.endswith(f".{root}")}
    return f"{found.pop()}{dot}{rest}" if len(found) == 1 else None


def breakable(app, doctree, docname: str) -> None:
    """Let long names in tables break behind underscores and dots, and copy as they are."""
    for entry in doctree.findall(nodes.entry):
        for code in list(entry.findall(nodes.literal)):
            parts = re.split(r"(?<=[_.:])(?=\w)", code.astext())
            if len(parts) > 1 and all(isinstance(child, nodes.Text) for child in code):
                code.clear()
                for i, part in enumerate(parts):
                    code.extend([nodes.raw("", "<wbr>", format="html")] if i else [])
                    code.append(nodes.Text(part))


def setup(app) -> dict:
    """Connect."""
    app.connect("doctree-resolved", breakable)
    app.add_role("name", name_role)
    app.add_directive("modules", Modules)
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", plain, priority=400)  # Napoleon has 500
    app.connect("autodoc-process-docstring", prepare, priority=600)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
