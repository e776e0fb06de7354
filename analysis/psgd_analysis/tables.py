"""Small tables, as results show them in notebooks and Markdown, and the numbers in them."""

from __future__ import annotations

import html
import math
from collections.abc import Container, Iterable, Sequence


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a small HTML table: first column left, all others right; everything escaped."""

    def line(tag: str, cells: Sequence[str]) -> str:
        aligned = (
            f'<{tag} style="text-align:{"right" if i else "left"}">{html.escape(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(aligned)}</tr>"

    head, body = line("th", header), "".join(line("td", row) for row in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"
    )


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
