"""How modules may depend on each other, read from their sources: every import, those within functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"psgd_core": ROOT / "psgd_core", "psgd_analysis": ROOT / "analysis" / "psgd_analysis"}

LOWEST = {"arrays", "kernels", "display"}
FITTED = LOWEST | {"groups", "criterion", "preconditioners"}
USED = FITTED | {"convergence", "curvature", "schedules"}
ARROWS: dict[str, set[str]] = {
    "display": set(),
    "arrays": {"display"},
    "kernels": {"arrays"},
    "schedules": {"arrays"},
    "checkpoint": {"arrays"},
    "groups": LOWEST,
    "criterion": LOWEST,
    "preconditioners": LOWEST | {"groups", "criterion"},
    "convergence": FITTED | {"curvature"},
    "curvature": FITTED,
    "descent": USED,
    "adapters": USED | {"descent", "checkpoint"},
}
"""What each room of psgd_core may import besides itself."""

OPTIONAL = {
    "torch": "psgd_core.adapters.torch",
    "jax": "psgd_core.adapters.jax",
    "optax": "psgd_core.adapters.jax",
    "numba": "psgd_core.kernels.cpu",
    "cupy": None,
    "dask": "psgd_core.adapters.dask",
    "distributed": "psgd_core.adapters.dask",
    "matplotlib": None,
}
"""What `import psgd_core` never imports, and the one room whose modules may import it at their top."""

NAMED_TUPLE = {"_asdict", "_fields", "_field_defaults", "_make", "_replace"}

MOST_LINES, MOST_ROOMS = 350, 12


class Import(NamedTuple):
    """One imported name: ``from target import name``; `name` is "" for ``import target``."""

    module: str
    target: str
    name: str
    line: int
    at_import: bool  # runs when the module is imported, rather than within a function
    typing_only: bool  # under ``if TYPE_CHECKING``

    def __str__(self) -> str:
        what = f"from {self.target} import {self.name}" if self.name else f"import {self.target}"
        return f"{self.module}:{self.line}: {what}"


@cache
def modules() -> dict[str, Path]:
    """Return the source file of each module, packages by the name of the package."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for module, path in modules().items() for found in _imports_of(module, path))


def _imports_of(module: str, path: Path) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, at_import: bool, typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, "", node.lineno, at_import, typing_only)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            target = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(module, target, alias.name, node.lineno, at_import, typing_only)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, at_import, True)
            for child in node.orelse:
                yield from visit(child, at_import, typing_only)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_import and not inside, typing_only)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True, False)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _module_of(found: Import) -> str:
    """Return the module that is imported: `target.name` where that is a module, else `target`."""
    whole = f"{found.target}.{found.name}"
    return whole if whole in modules() else found.target


def _private(name: str) -> bool:
    """Return whether a name is private; those of NamedTuples are not."""
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLE


def _room(module: str) -> str:
    """Return the room of psgd_core that a module is in; "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


@cache
def graph() -> dict[str, set[str]]:
    """Return what each module imports at run time, among the modules of both packages.

    A package imports its parts to list them; what imports a part by ``from . import part`` depends on the
    part, not on the list.
    """
    arrows: dict[str, set[str]] = {module: set() for module in modules()}
    for found in imports():
        target = _module_of(found)
        if target in arrows and target != found.module and not found.typing_only:
            arrows[found.module].add(target)
    return arrows


def circles() -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for target in sorted(graph()[module]):
            if target not in order:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], order[target])
        if low[module] == order[module]:
            part = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(part) > 1:
                found.append(sorted(part))

    for module in graph():
        if module not in order:
            visit(module)
    return found


def public(module: str, name: str) -> bool:
    """Return whether `name` is part of the interface of psgd_core: reached by `__all__` from the top."""
    parts = module.split(".")
    for i in range(1, len(parts)):
        above = ".".join(parts[:i])
        if parts[i] not in _exported(above):
            return False
    return not name or name in _exported(module)


@cache
def _exported(module: str) -> frozenset[str]:
    """Return the public names of a module, read from its source: `__all__`, or what it defines."""
    if module not in modules():
        return frozenset()
    body = ast.parse(modules()[module].read_text(encoding="utf-8")).body
    defined: set[str] = set()
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value)) | {"__version__"}  # of the package itself
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {ast.unparse(target) for target in targets}
    return frozenset(name for name in defined if not name.startswith("_"))


def listing(found: list[Import]) -> str:
    return "\n" + "\n".join(map(str, found))


@pytest.mark.parametrize("package", FOLDERS)
def test_no_import_circle(package):
    found = [part for part in circles() if any(_package(module) == package for module in part)]
    assert not found, found


@pytest.mark.parametrize("package", FOLDERS)
def test_no_private_name_is_imported(package):
    found = [
        i
        for i in imports()
        if _package(i.module) == package and _package(i.target) in FOLDERS and _private(i.name)
    ]
    assert not found, listing(found)


@pytest.mark.parametrize("package", FOLDERS)
def test_no_private_attribute_of_an_import_is_used(package):
    found = []
    for module, path in modules().items():
        ours = {i.name or i.target for i in imports() if i.module == module and _package(i.target) in FOLDERS}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ours and _private(node.attr):
                found.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
    assert not [line for line in found if _package(line) == package], found


@pytest.mark.parametrize("package", FOLDERS)
def test_no_module_is_private(package):
    found = [
        module
        for module in modules()
        if _package(module) == package
        and any(part.startswith("_") and part != "__main__" for part in module.split("."))
    ]
    assert not found, found


@pytest.mark.parametrize("package", FOLDERS)
def test_no_file_is_long(package):
    lines = {
        module: len(path.read_text(encoding="utf-8").splitlines())
        for module, path in modules().items()
        if _package(module) == package
    }
    found = {module: count for module, count in lines.items() if count > MOST_LINES}
    assert not found, found


def test_optional_libraries_are_imported_where_they_are_used():
    found = [
        i
        for i in imports()
        if _package(i.module) == "psgd_core"
        and (library := _package(i.target)) in OPTIONAL
        and i.at_import
        and not i.typing_only
        and not i.module.startswith(OPTIONAL[library] or "nothing")
    ]
    assert not found, listing(found)


def test_importing_psgd_core_reaches_no_optional_library():
    waiting, reached = ["psgd_core"], {"psgd_core"}
    found = []
    while waiting:
        module = waiting.pop()
        for i in imports():
            if i.module == module and i.at_import and not i.typing_only:
                if _package(i.target) in OPTIONAL:
                    found.append(i)
                target = _module_of(i)
                if target in modules() and target not in reached:
                    reached.add(target)
                    waiting.append(target)
    assert not found, listing(found)


def test_psgd_core_does_not_know_psgd_analysis():
    found = [
        i for i in imports() if i.module.startswith("psgd_core") and i.target.startswith("psgd_analysis")
    ]
    assert not found, listing(found)


def test_psgd_analysis_uses_public_names_of_psgd_core():
    found = [
        i
        for i in imports()
        if i.module.startswith("psgd_analysis")
        and _package(i.target) == "psgd_core"
        and not public(i.target, i.name)
    ]
    assert not found, listing(found)


def test_every_room_has_its_arrows():
    rooms = {_room(module) for module in modules() if module.startswith("psgd_core.")}
    assert rooms == set(ARROWS)


def test_psgd_analysis_uses_public_attributes_of_psgd_core():
    found = []
    for module, path in modules().items():
        if _package(module) != "psgd_analysis":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                first, *names = ast.unparse(node).split(".")
                above = ".".join(["psgd_core", *names[:-1]])
                if first in ("psgd", "psgd_core") and above in modules() and not public(above, names[-1]):
                    found.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
    assert not found, found


@pytest.mark.parametrize("room", ARROWS)
def test_no_arrow_runs_up(room):
    found = [
        i
        for i in imports()
        if i.module.startswith("psgd_core.")
        and _room(i.module) == room
        and _module_of(i).startswith("psgd_core.")
        and _room(_module_of(i)) not in {room, *ARROWS[room]}
    ]
    assert not found, listing(found)


def test_the_top_of_psgd_core_has_few_rooms():
    assert len(ARROWS) <= MOST_ROOMS


def test_every_folder_with_a_command_is_gathered():
    pytest.importorskip("typer")
    from psgd_analysis.cli import COMMANDS

    folders = {path.parent.name for path in FOLDERS["psgd_analysis"].glob("*/command.py")}
    assert set(COMMANDS) == folders
