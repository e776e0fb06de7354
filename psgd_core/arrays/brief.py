"""Short reprs: of a configuration what differs from its defaults, of a state shapes in place of arrays.

Of arrays of one element the value is read, which waits for a device; norms are of what the host has at hand.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

from ..display import html_table
from .library import at_hand, is_array, namespace, to_host
from .trees import leaves_with_names

Class = TypeVar("Class", bound=type)

MOST = 6
"""The longest tuple that is shown whole."""

MOST_ROWS = 40
"""The longest table."""


class Brief:
    """A dataclass, decorated with ``repr=False``, whose repr leaves out fields that have their defaults."""

    def __repr__(self) -> str:
        if not is_dataclass(self):
            return object.__repr__(self)
        own: tuple[Field[Any], ...] = fields(self)
        required = [f for f in own if f.init and f.default is MISSING and f.default_factory is MISSING]
        try:  # settings are kept as they were converted to, and so are defaults
            usual: Any = type(self)(**{f.name: getattr(self, f.name) for f in required})
        except (TypeError, ValueError):  # they do not fit what is required
            usual = None
        parts = []
        for f in own:
            value = getattr(self, f.name)
            if f in required and not f.kw_only:
                parts.append(_text(value))
            elif f.repr and (usual is None or value != getattr(usual, f.name)):
                parts.append(f"{f.name}={_text(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"


def brief(state_type: Class) -> Class:
    """Give a NamedTuple of arrays the repr that `shown` returns, and in notebooks `table`."""
    state_type.__repr__ = shown  # type: ignore[method-assign,assignment]
    state_type._repr_html_ = table  # type: ignore[attr-defined]
    return state_type


def shown(state: Any) -> str:
    """Return a NamedTuple of arrays as text: shapes and dtypes, single values, and what is not empty."""
    if is_array(state):
        return _array(state)
    if not isinstance(state, tuple):
        return repr(state)
    names = getattr(state, "_fields", None)
    if names is None:
        parts = [shown(x) for x in state[:MOST]]
        rest = [f"... {len(state) - MOST} more"] if len(state) > MOST else []
        return f"({', '.join([*parts, *rest])}{',' if len(state) == 1 else ''})"
    there = [(name, x) for name, x in zip(names, state, strict=True) if not (type(x) is tuple and not x)]
    return f"{type(state).__name__}({', '.join(f'{name}={shown(x)}' for name, x in there)})"


def table(state: Any) -> str:
    """Return a NamedTuple of arrays as HTML: a row for each array, with its norm where that is at hand."""
    leaves = [(name.removeprefix("."), x) for name, x in leaves_with_names(state, "")]
    rows = [(name, shown(x), size(x)) for name, x in leaves[:MOST_ROWS]]
    if len(leaves) > MOST_ROWS:
        rows.append((f"... {len(leaves) - MOST_ROWS} more", "", ""))
    return html_table(type(state).__name__, ("", "array or value", "norm"), rows)


def size(x: Any) -> str:
    """Return the Euclidean norm of an array of floats that has dimensions and is at hand, else ""."""
    if not is_array(x) or x.ndim == 0 or not at_hand(x):
        return ""
    xp = namespace(x)
    if not xp.isdtype(x.dtype, ("real floating", "complex floating")):
        return ""
    host = to_host(xp.astype(xp.abs(x), xp.float64))
    top = np.max(host, initial=0.0)
    return f"{top * np.linalg.norm(host / top):.4g}" if 0 < top < np.inf else f"{top:.4g}"


def _array(x: Any) -> str:
    """Return dtype and shape, "float64[2, 3]", of a single element its value."""
    kind = str(x.dtype).rpartition(".")[2]
    if x.ndim == 0:
        try:
            return f"{float(x):.6g}" if "float" in kind else str((bool if kind == "bool" else int)(x))
        except Exception:  # traced arrays, and those without memory, have no values
            return f"{kind}[]"
    return f"{kind}[{', '.join(map(str, x.shape))}]"


def _text(value: Any) -> str:
    """Return the repr of a setting, the first entries of a long tuple."""
    if type(value) is tuple and len(value) > MOST:
        return f"({', '.join(_text(x) for x in value[:MOST])}, ... {len(value) - MOST} more)"
    if type(value) is tuple:
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    return repr(value)
