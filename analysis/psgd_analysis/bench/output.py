"""What was measured: printed table by table as it comes, and written to files at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..documents import as_json
from ..files import write_figure, write_text
from ..terminal import console, show
from . import figures, pages, report
from .rows import Growth, Row, growth
from .steps import StepRow
from .timing import Limits

if TYPE_CHECKING:
    from rich.table import Table

ENDINGS = ("json", "md", "png")


@dataclass
class Found:
    """What was measured."""

    rows: list[Row] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    interrupted: bool = False

    @property
    def incomplete(self) -> bool:
        """Whether something could not be reported: too noisy, no time, or failed in psgd-core."""
        every: list[Row | StepRow] = [*self.rows, *self.steps]
        return any(r.status in ("too noisy", "no time") or (r.status == "failed" and r.own) for r in every)

    @property
    def growth(self) -> list[Growth]:
        """The slopes."""
        return growth(self.rows)


class Telling:
    """Prints each table when it is measured, and the rest at the end.

    Where nobody reads on, in a closed pipe, the run goes on, for its files.

    Parameters
    ----------
    shown : bool
        False to print nothing.
    """

    def __init__(self, *, shown: bool) -> None:
        self._shown, self._terminal = shown, console()
        self._told = (0, 0)

    def tables(self, found: Found) -> None:
        """Print what was measured since the last time."""
        rows, steps = found.rows[self._told[0] :], found.steps[self._told[1] :]
        self._told = (len(found.rows), len(found.steps))
        self._print([report.table(group) for _, group in report.titles(rows)])
        self._print([report.step_table(group) for _, group in report.step_titles(steps)])

    def end(self, found: Found, files: Sequence[Path]) -> None:
        """Print what is left: tables, slopes, legends, and the names of the files."""
        self.tables(found)
        if found.growth:
            self._print([report.growth_table(found.growth)])
        self._print(report.legends(found.rows, found.steps))
        if found.interrupted:
            self._print(["Interrupted: these are the results so far."])
        if found.incomplete:
            self._print(
                ["Not all could be reported: see the last column. --allow-noise reports what is noisy."]
            )
        self._print([f"Wrote {', '.join(map(str, files))}"], soft_wrap=True)

    def _print(self, parts: Sequence[Table | str], **style: Any) -> None:
        if not self._shown:
            return
        with contextlib.suppress(SystemExit):  # which rich makes of a closed pipe
            for part in parts:
                if isinstance(part, str):
                    self._terminal.print(part, markup=False, **style)
                else:
                    show(self._terminal, part)


def write(found: Found, limits: Limits, about: dict[str, Any], out: Path, name: str) -> str:
    """Write the three files, and return the JSON.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    slopes = found.growth
    text = as_json(pages.document(found.rows, slopes, found.steps, limits=limits, about=about))
    page = pages.markdown(found.rows, slopes, found.steps, about, f"{name}.png")
    figure = figures.draw(found.rows, found.steps)
    write_text(out / f"{name}.json", text)
    write_text(out / f"{name}.md", page)
    write_figure(out / f"{name}.png", figure, dpi=130)
    return text
