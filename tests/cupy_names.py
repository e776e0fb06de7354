"""What the installed CuPy has: its names, and what its functions and methods take. Needs no device.

CuPy is asked in a process of its own, so that this one is free to have `cupy_standin` under its name.
"""

from __future__ import annotations

import ast
import importlib.machinery
import json
import re
import subprocess
import sys
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path

ASK = """
import inspect, json
import cupy

def taken(x):
    if not callable(x):
        return None
    try:
        found = inspect.signature(x).parameters.values()
        return [(p.name, p.kind.name, p.default is not p.empty) for p in found]
    except (TypeError, ValueError):  # Cython's and ufuncs' are in the first line of their documentation
        return (x.__doc__ or "").partition("\\n\\n")[0]

places = {"": cupy, "ndarray": cupy.ndarray, "linalg": cupy.linalg, "fft": cupy.fft, "random": cupy.random,
          "random.Generator": cupy.random.Generator, "cuda": cupy.cuda,
          "cuda.Device": cupy.cuda.Device, "RawModule": cupy.RawModule}
found = {place: {name: taken(getattr(x, name, None)) for name in dir(x)} for place, x in places.items()}
print(json.dumps(found))
"""


def missing() -> str | None:
    """Return why CuPy's names cannot be had, None if they can."""
    return None if importlib.machinery.PathFinder.find_spec("cupy") else "cupy is not installed"


@cache
def _found() -> dict[str, dict[str, list | str | None]]:
    """Return what is where in CuPy."""
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def names(place: str = "") -> list[str]:
    """Return the public names in a place: "" for ``cupy``, "ndarray", "linalg", "random.Generator"."""
    return [name for name in _found()[place] if not name.startswith("_")]


def has(place: str, name: str) -> bool:
    """Return whether CuPy has that name there."""
    return name in _found()[place]


@cache
def signature(place: str, name: str) -> Signature | None:
    """Return what a function or method takes, None if CuPy does not say."""
    found = _found()[place].get(name)
    if isinstance(found, str):
        return _documented(found)
    if found is None:
        return None
    # CuPy has no parameters that are required and given by keyword only
    return Signature(
        [
            Parameter(key, getattr(Parameter, kind), default=None if optional else Parameter.empty)
            for key, kind, optional in found
        ]
    )


def _documented(line: str) -> Signature | None:
    """Return the signature in a first line such as ``_ndarray_base.dot(self, _ndarray_base b, out=None)``."""
    line = " ".join(line.replace("\\*", "*").split())
    call = re.match(r"[\w.]+\((.*?)\)( ->.*)?$", line)
    if call is None:
        return None
    # Cython puts the type before the name
    parts = [re.sub(r"^\w+ (?=\w)", "", part.strip()) for part in call[1].split(",")]
    try:
        tree = ast.parse(f"def f({', '.join(parts)}): pass")
    except SyntaxError:
        return None
    return _of_definition(tree.body[0])


def _of_definition(node: ast.FunctionDef) -> Signature:
    """Return the signature of a definition that has been parsed."""
    taken, bare = node.args, Parameter.empty
    plain = [(x.arg, Parameter.POSITIONAL_ONLY) for x in taken.posonlyargs]
    plain += [(x.arg, Parameter.POSITIONAL_OR_KEYWORD) for x in taken.args]
    required = len(plain) - len(taken.defaults)
    found = [Parameter(x, kind, default=bare if i < required else None) for i, (x, kind) in enumerate(plain)]
    if taken.vararg:
        found.append(Parameter(taken.vararg.arg, Parameter.VAR_POSITIONAL))
    for x, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True):
        found.append(Parameter(x.arg, Parameter.KEYWORD_ONLY, default=bare if default is None else None))
    if taken.kwarg:
        found.append(Parameter(taken.kwarg.arg, Parameter.VAR_KEYWORD))
    return Signature(found)


@cache
def signature_in_file(module: str, name: str) -> Signature:
    """Return what a function takes whose module cannot be imported without CUDA's libraries: from its source.

    Parameters
    ----------
    module : str
        As a path below ``cupyx``: ``scipy/linalg/_solve_triangular.py``.
    """
    root = importlib.machinery.PathFinder.find_spec("cupyx").submodule_search_locations[0]
    tree = ast.parse((Path(root) / module).read_text(encoding="utf-8"))
    return _of_definition(next(x for x in tree.body if getattr(x, "name", None) == name))
