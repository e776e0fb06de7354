"""From any array library to the host: numbers per example, checked; and how results are shown."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import array_api_compat
import numpy as np

Array = Any
"""An array of any library that follows the array API standard."""


def namespace(**arrays: Any) -> ModuleType:
    """Return the array API namespace that all the named arrays share, or raise TypeError."""
    for name, x in arrays.items():
        if not array_api_compat.is_array_api_obj(x):
            raise TypeError(
                f"`{name}` must be an array (NumPy, CuPy, PyTorch, JAX, ...), got {type(x).__name__}; "
                "convert it with the `asarray` of your array library"
            )
    try:
        return array_api_compat.array_namespace(*arrays.values())
    except TypeError:
        listed = ", ".join(f"`{name}`: {type(x).__module__}.{type(x).__name__}" for name, x in arrays.items())
        raise TypeError(f"all arrays must come from one library, got {listed}; convert them first") from None


def detached(x: Array) -> Array:
    """Return a PyTorch tensor without its history of derivatives; any other array as it is."""
    return x.detach() if array_api_compat.is_torch_array(x) else x


def to_host(x: Any) -> np.ndarray:
    """Return an array of any library, or what NumPy makes one of, as a NumPy array: the only copy home."""
    if array_api_compat.is_torch_array(x):
        x = detached(x).cpu()
    elif array_api_compat.is_cupy_array(x):
        x = x.get()
    return np.asarray(x)


def per_example(name: str, x: Any, *, infinite: bool = False) -> np.ndarray:
    """Return one number per example as a float64 NumPy array of shape (n,).

    Raises
    ------
    ValueError, TypeError
        If `x` is not one real number per example, holds NaN, or (unless `infinite`) an infinity.
    """
    values = to_host(x)
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise (ValueError if values.ndim != 1 else TypeError)(
            f"`{name}` must hold one real number per example, shape (n,), got {values.dtype} of shape "
            f"{values.shape}; flatten or convert it"
        )
    values = values.astype(np.float64)
    bad = np.isnan(values) if infinite else ~np.isfinite(values)
    if np.any(bad):
        first = int(np.argmax(bad))
        raise ValueError(
            f"`{name}` must {'not be NaN' if infinite else 'be finite'}, got {values[first]} for example "
            f"{first}; {_NAN_HINT if np.isnan(values[first]) else _INF_HINT}"
        )
    return values


_NAN_HINT = "leave such examples out, or look for divergence in the training"
_INF_HINT = "scores of examples never learned have finite stand-ins in `Forgetting.finite_scores`"


def frozen(x: np.ndarray) -> np.ndarray:
    """Return a read-only view of `x`, for results that are values."""
    view = x.view()
    view.flags.writeable = False
    return view


# -- showing ---------------------------------------------------------------------------------------------


def encode(x: float | None) -> float | None:
    """Return a float as JSON has it: None where it is not finite."""
    return float(x) if x is not None and math.isfinite(x) else None


def short(x: float | None, digits: int = 3) -> str:
    """Return a number as people read it; a dash for what is not there."""
    return "–" if x is None or math.isnan(x) else f"{x:.{digits}g}"


def percent(part: float, whole: float) -> str:
    """Return a share in per cent, a dash of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a small HTML table: first column left, all others right; everything escaped."""

    def row(cells: Sequence[str], tag: str) -> str:
        styled = (
            f'<{tag} style="text-align:{"right" if i else "left"}">{html.escape(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(styled)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption>"
        f"<thead>{row(header, 'th')}</thead><tbody>{body}</tbody></table>"
    )
