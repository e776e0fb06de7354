"""What this project asks of CuPy, read off its source, against what the installed CuPy has. Needs no device.

`xp` is the name of an array library's namespace throughout; on CuPy it is ``array_api_compat.cupy``, which
adds to CuPy's names and puts functions of its own over some of them.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cupy_names
import cupy_standin
import pytest
from cupy_names import has, signature

ROOT = Path(__file__).parents[1]
SOURCES = sorted(x for top in ("psgd_core", "analysis/psgd_analysis") for x in (ROOT / top).rglob("*.py"))

pytestmark = pytest.mark.skipif(cupy_names.missing() is not None, reason=cupy_names.missing() or "")


OF_PYTORCH = {("linalg", "solve_ex"), ("linalg", "solve_triangular")}
"""Called where the namespace is PyTorch's only."""


class Call(NamedTuple):
    """A call of ``root.path(...)``; `arguments` is None where it is only named, or takes ``*`` or ``**``."""

    where: str
    path: tuple[str, ...]
    arguments: tuple[int, tuple[str, ...]] | None


def dotted(node: ast.AST) -> tuple[str, ...] | None:
    """Return the names of ``a.b.c``, None for what is no such chain."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return (*before, node.attr)
    return None


def calls(source: Path, root: str) -> Iterator[Call]:
    """Yield what is called or named under a root, outermost first."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    inner: set[int] = set()
    for node in ast.walk(tree):
        function = node.func if isinstance(node, ast.Call) else node
        path = dotted(function) if isinstance(function, ast.Attribute) else None
        if id(node) in inner or path is None or path[0] != root:
            continue
        inner.update(id(x) for x in ast.walk(function))
        arguments = None
        if isinstance(node, ast.Call):
            keys = [x.arg for x in node.keywords]
            if None not in keys and not any(isinstance(x, ast.Starred) for x in node.args):
                arguments = (len(node.args), tuple(keys))
        yield Call(f"{source.relative_to(ROOT)}:{node.lineno}", path[1:], arguments)


def fits(call: Call, takes: inspect.Signature | None) -> bool:
    """Return whether a function takes what a call gives it."""
    if takes is None or call.arguments is None:
        return True
    count, keys = call.arguments
    try:
        takes.bind(*[0] * count, **dict.fromkeys(keys, 0))
    except TypeError:
        return False
    return True


def test_every_function_of_a_namespace_is_there_and_takes_what_it_is_given():
    with cupy_standin.in_place():
        import array_api_compat.cupy as xp
    found = [call for source in SOURCES for call in calls(source, "xp")]
    assert len(found) > 500
    wrong = []
    for call in found:
        if call.path[0].startswith("__") or call.path in OF_PYTORCH:
            continue
        *place, name = call.path
        top = getattr(xp, place[0], None) if place else xp
        if len(place) > 1 or not hasattr(top, name):
            wrong.append((call, "missing"))
            continue
        function = getattr(top, name)
        own = getattr(function, "__module__", "").startswith("array_api_compat")
        plain = inspect.signature(function) if own else signature(".".join(place), name)
        if not fits(call, plain):
            wrong.append((call, str(plain)))
    assert not wrong


def test_every_name_under_cupy_is_there_and_takes_what_it_is_given():
    found = [call for source in SOURCES for call in calls(source, "cupy")]
    assert {call.path for call in found} >= {("RawModule",), ("cuda", "ExternalStream"), ("empty",)}
    wrong = []
    for call in found:
        place, name = ("cuda", call.path[1]) if call.path[0] == "cuda" else ("", call.path[0])
        if not has(place, name) or not fits(call, signature(place, name)):
            wrong.append((call, str(signature(place, name))))
    assert not wrong
    assert has("RawModule", "get_function")
    assert has("cuda.Device", "attributes")


def test_every_method_that_kernels_ask_of_an_array_is_there():
    source = ROOT / "psgd_core/kernels/gpu/cuda_library.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (library,) = (x for x in tree.body if getattr(x, "name", "") == "_Cupy")
    named, wrong = set(), []
    for node in ast.walk(library):
        called = isinstance(node, ast.Call)
        path = dotted(node.func if called else node)
        if path is None or path[0] != "x" or len(path) < 2:
            continue
        named.add(path[1])
        keys = tuple(k.arg for k in node.keywords) if called else ()
        call = Call(path[1], path, (len(node.args) + 1, keys) if called else None)
        if not has("ndarray", path[1]) or not fits(call, signature("ndarray", path[1])):
            wrong.append(call)
    assert {"astype", "view", "flags", "data", "device", "dtype", "shape"} <= named
    assert not wrong


@pytest.mark.parametrize(
    ("place", "name", "count", "keys"),
    [
        ("", "sqrt", 3, ("device",)),
        ("", "where", 4, ()),
        ("ndarray", "astype", 1, ()),
        ("", "sum", 1, ("over",)),
    ],
)
def test_what_does_not_fit_is_found(place, name, count, keys):
    assert not fits(Call("", (name,), (count, keys)), signature(place, name))
