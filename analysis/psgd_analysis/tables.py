"""Small tables in Markdown, and the numbers in tables; `psgd_core.display` has those of notebooks."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: Container[int] = ()
) -> list[str]:
    """Return the lines of a table in Markdown; bars are escaped, columns whose number is in `right` flush."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "|" + "".join("--:|" if i in right else "---|" for i in range(len(header)))
    return [line(header), rule, *map(line, rows)]


def short(x: float | None, digits: int = 3) -> str:
    """Return a number with few digits; a dash for None and NaN."""
    return "–" if x is None or math.isnan(x) else f"{x:.{digits}g}"


def percent(part: float, whole: float) -> str:
    """Return ``part / whole`` in per cent; a dash if `whole` is 0."""
    return f"{100 * part / whole:.1f} %" if whole else "–"
