"""The surface: what is exported exists and is documented, and importing it stays light."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import psgd_core

PUBLIC = [
    "psgd_core",
    *sorted(
        f"psgd_core.{m.name}"
        for m in pkgutil.iter_modules(psgd_core.__path__)
        if not m.name.startswith("_") and m.name != "adapters"
    ),
]


def names(module):
    """What a module offers: its `__all__`, or else what it defines without an underscore."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_offered_exists_and_says_what_it_is(name):
    module = importlib.import_module(name)
    assert inspect.getdoc(module), f"{name} has no docstring"
    for item in names(module):
        value = getattr(module, item)
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), f"{name}.{item} has no docstring"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_methods_are_documented(name):
    module = importlib.import_module(name)
    for item in names(module):
        value = getattr(module, item)
        if not inspect.isclass(value):
            continue
        for method, function in inspect.getmembers(value, inspect.isfunction):
            if not method.startswith("_") and function.__module__.startswith("psgd_core"):
                assert inspect.getdoc(function), f"{name}.{item}.{method} has no docstring"


def imported(statement: str) -> set[str]:
    code = f"{statement}; import sys; print('\\n'.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_importing_the_core_imports_nothing_heavy():
    modules = imported("import psgd_core")
    heavy = {"torch", "jax", "matplotlib", "numba", "cupy", "psgd_analysis", "rich", "typer"}
    assert not heavy & modules
    assert not {m for m in modules if m.startswith(("scipy.linalg", "scipy.sparse", "scipy.optimize"))}
