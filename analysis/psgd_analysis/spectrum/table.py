"""The base of all results: a table as text and HTML, and a form for JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import array_api_compat

from psgd_core.display import html_table

from ..arrays import to_host
from ..documents import plain


class Table(NamedTuple):
    """A small table of text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Result:
    """The base of all results, which define `table` and `plot`."""

    def table(self) -> Table:
        """Return the result as a small table of text."""
        raise NotImplementedError(f"{type(self).__name__} has no table")

    def plot(self, ax: Any = None) -> Any:
        """Draw the result on matplotlib Axes (new ones by default) and return them."""
        raise NotImplementedError(f"{type(self).__name__} has no figure")

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as numbers, strings, lists and dicts, ready for `json.dump` with allow_nan=False.

        NaN and infinite numbers become None.
        """
        found = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            found[field.name] = plain(to_host(value) if array_api_compat.is_array_api_obj(value) else value)
        return found

    def __repr__(self) -> str:
        title, header, rows = self.table()
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (header, *rows)
        ]
        return "\n".join([title, *lines])

    def _repr_html_(self) -> str:
        return html_table(*self.table())


def number(x: float, digits: int = 4) -> str:
    """Return a number as short text; a dash for NaN."""
    x = float(x)
    if not math.isfinite(x):
        return "-" if math.isnan(x) else "inf" if x > 0 else "-inf"
    return f"{x:.0f}" if 10 ** (digits - 1) <= abs(x) < 1e6 else f"{x:.{digits}g}"
