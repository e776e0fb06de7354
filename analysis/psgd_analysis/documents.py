"""JSON documents of the commands: strictly valid, with the versions that results depend on."""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import numpy as np

import psgd_core


def plain(x: Any, digits: int | None = None) -> Any:
    """Return x in JSON's types: arrays as lists, numbers that are not finite as None.

    Parameters
    ----------
    x : nested dicts, lists, tuples, arrays, numbers, texts
    digits : int, optional
        Significant digits that floats are rounded to; all by default.
    """
    if isinstance(x, np.ndarray):
        x = x.tolist()
    if isinstance(x, dict):
        return {str(key): plain(value, digits) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [plain(value, digits) for value in x]
    if isinstance(x, float | np.floating):
        if not math.isfinite(x):
            return None
        return float(x) if digits is None else float(f"{x:.{digits}g}")
    return int(x) if isinstance(x, np.integer) else x


def as_json(content: dict[str, Any]) -> str:
    """Return strictly valid JSON; see `plain`."""
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python, this package, NumPy and SciPy, and of others that are installed."""
    found = {"python": platform.python_version(), "psgd-core": psgd_core.__version__}
    for name in ("numpy", "scipy", *more):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
