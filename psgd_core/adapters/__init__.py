"""Bridges to other libraries, each imported when first asked for, such as ``psgd_core.adapters.scipy``."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["dask", "dlpack", "jax", "scipy", "torch"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
