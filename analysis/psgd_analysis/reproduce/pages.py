"""Pages in Markdown with tables and figures, the same on the terminal, and the list of experiments."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import write_figure, write_text
from . import tables
from .claims import OPPOSITE, REFUTED, judge
from .contests import among, comparisons, standing
from .data import MADE
from .experiment import SCALES, Experiment, Scale
from .records import Book, Record
from .samples import of_scale, stand_ins
from .statistics import FEWEST
from .tables import Table

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.padding import Padding


def scales(experiment: Experiment, records: Sequence[Record]) -> list[Scale]:
    """Return the scales that were asked for, those that can decide first, the paper's first of them.

    Smoke runs, and scales of which no cell has enough seeds yet, count only where there is nothing else.
    """
    runs = {scale: of_scale(experiment, records, scale) for scale in SCALES if scale in experiment.plans}
    asked = [scale for scale in reversed(runs) if any(r.scale == scale for r in runs[scale])]

    ended = {scale: Counter(r.cell for r in runs[scale] if r.status != "cut") for scale in asked}

    def worth(scale: Scale) -> tuple[bool, int]:
        complete = all(ended[scale][cell.name] >= FEWEST for cell in experiment.plans[scale].cells)
        return complete, 0 if complete else ended[scale].total()

    found = sorted(asked, key=worth, reverse=True)
    found = [s for s in found if s != "smoke"] or found
    return [s for s in found if max(ended[s].values(), default=0) >= FEWEST] or found


def page(experiment: Experiment, records: Sequence[Record]) -> str:
    """Return an experiment's page, from all records of its book."""
    shown = scales(experiment, records)
    lines = [f"# {experiment.title}", "", f"{experiment.claim} ({', '.join(experiment.sources)})", ""]
    if not shown:
        return "\n".join([*lines, "Not run yet.", "", *_command(experiment, [], "reduced")])
    for scale in shown:
        lines += [*first(experiment, of_scale(experiment, records, scale), scale), ""]
    if experiment.claims:
        lines += ["## Verdicts", "", *verdicts(experiment, records, shown).markdown(), ""]
    for scale in shown:
        mine = of_scale(experiment, records, scale)
        lines += [f"## Results at the {scale} scale", ""]
        lines += [*(f"- {text}" for text in tables.about(experiment, mine, scale)), ""]
        lines += [*tables.results(experiment, mine, scale).markdown(), "", LEGEND, ""]
        planned = among(experiment.contests, [cell.name for cell in experiment.plans[scale].cells])
        if planned and scale != "smoke":
            lines += [f"## PSGD against the baselines at the {scale} scale", ""]
            lines += [*comparisons(planned, mine).markdown(), ""]
    lines += [
        f"![{experiment.title}{f', {end}' if end else ''}]({figure_name(experiment, end)})\n"
        for end in experiment.figures
    ]
    if experiment.notes:
        lines += ["## What is known to differ", "", *(f"- {note}" for note in experiment.notes), ""]
    lines += ["## Run it", ""]
    for scale in shown:
        lines += _command(experiment, of_scale(experiment, records, scale), scale)
    return "\n".join(lines)


LEGEND = (
    "±: standard deviation over the seeds; k/n: in how many of the runs it is true, one that diverged "
    "counting as false. Other numbers are of the runs that ended; those that diverged or were cut are "
    "counted beside."
)


def first(experiment: Experiment, mine: Sequence[Record], scale: Scale) -> list[str]:
    """Return what a page begins with: where PSGD does not beat a baseline, and which claims fail."""
    if scale == "smoke":
        return ["Smoke runs only show that it runs: they decide nothing."]
    lines = standing(experiment.contests, mine) if experiment.contests else []
    failed = [(c, j) for c, j in judge(experiment, mine, scale) if j.verdict == REFUTED]
    lines += [""] if lines and failed else []
    for claim, judged in failed:
        wrong = f"; {OPPOSITE}" if judged.measured.startswith(OPPOSITE) else ""
        lines.append(f"- **not confirmed** ({claim.source}): {claim.text.rstrip('.')}{wrong}")
    return [f"At the {scale} scale:", "", *lines] if lines else []


def verdicts(experiment: Experiment, records: Sequence[Record], shown: Sequence[Scale]) -> Table:
    """Return the table of claims, in the order of the experiment, at each scale."""
    heads = ("claim", "source", "paper", "measured", "verdict", "scale")
    judged = {scale: judge(experiment, records, scale) for scale in shown}
    places = {scale: place(experiment, records, scale) for scale in shown}
    rows = tuple(
        (claim.text, claim.source, claim.paper, found.measured, f"**{found.verdict}**", places[scale])
        for i in range(len(experiment.claims))
        for scale, (claim, found) in ((scale, judged[scale][i]) for scale in shown)
    )
    return Table(heads, rows, frozenset(range(len(heads))))


def place(experiment: Experiment, records: Sequence[Record], scale: Scale) -> str:
    """Return the scale, and the data if it is not the paper's."""
    return ", ".join([scale, *stand_ins(experiment, of_scale(experiment, records, scale))])


def figure_name(experiment: Experiment, ending: str) -> str:
    """Return the name of a figure's file."""
    return f"{experiment.name}{f'-{ending}' if ending else ''}.png"


def write(experiment: Experiment, records: Sequence[Record], folder: Path) -> None:
    """Write an experiment's page and its figures, of the scale that comes first, into a folder."""
    write_text(folder / f"{experiment.name}.md", page(experiment, records))
    for scale in scales(experiment, records)[:1]:
        for ending, draw in experiment.figures.items():
            figure = draw(of_scale(experiment, records, scale))
            write_figure(folder / figure_name(experiment, ending), figure, dpi=150)


def show(experiment: Experiment, records: Sequence[Record], scale: Scale, console: Console) -> None:
    """Print a scale's table and verdicts."""
    from .. import terminal

    mine = of_scale(experiment, records, scale)
    if not mine:
        console.print(f"{experiment.name}: no runs at the {scale} scale yet", markup=False)
        return
    found = tables.results(experiment, mine, scale)
    if found.width > console.width:
        found = min(found, found.transposed(), key=lambda table: table.width)
    terminal.show(console, found.rich(f"{experiment.title}, {scale} scale"))
    for text in tables.about(experiment, mine, scale):
        console.print(text.replace("**", ""), markup=False, style="dim")
    console.print()
    if experiment.contests and scale != "smoke":
        console.print(standing(experiment.contests, mine)[0].replace("**", ""), markup=False)
    for (verdict, measured), same in groupby(judge(experiment, mine, scale), lambda f: astuple(f[1])):
        claims = [f"{claim.text} ({claim.source}: {claim.paper})" for claim, _ in same]
        head, *below = [*claims, measured] if len(claims) == 1 else [measured, *claims]
        console.print(f"{verdict}: {head}", markup=False)
        for text in below:
            console.print(_indented(text, style="dim"))


def listing(experiments: Sequence[Experiment], folder: Path) -> Group:
    """Return the list of what can be run, what it needs and costs, and what a folder has of it.

    It has a paragraph for each experiment, so that narrow terminals show it too.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    found: list[RenderableType] = []
    for e in experiments:
        records = Book(folder / f"{e.name}.jsonl").records()
        needs = [n if find_spec(n) else f"{n} (missing)" for n in e.needs]
        data = f"; data: {', '.join(e.data)}" if e.data else ""
        scales = RichTable.grid(padding=(0, 3))
        for scale, plan in e.plans.items():
            scales.add_row(scale, plan.cost, _seeds(plan.seeds), _progress(e, records, scale))
        about = f"{e.claim} ({', '.join(e.sources)})"
        found += [Text(f"{e.name}: {e.title}", style="bold"), _indented(about)]
        found += [_indented(f"Needs {', '.join(needs)}{data}"), Padding(scales, (0, 0, 1, 2), expand=False)]
    return Group(*found, Text(f"Times are of all runs on one core; runs are those recorded in {folder}."))


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def _indented(text: str, style: str = "") -> Padding:
    """Return a paragraph that is indented, also where it is folded."""
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(text, style=style), (0, 0, 0, 2), expand=False)


def _progress(experiment: Experiment, records: Sequence[Record], scale: Scale) -> str:
    planned = {(j.cell, j.seed) for j in experiment.jobs(scale, range(experiment.plans[scale].seeds), {})}
    done = {(r.cell, r.seed) for r in of_scale(experiment, records, scale) if r.status != "cut"}
    return f"{len(done & planned)} of {len(planned)} runs done"


def _command(experiment: Experiment, mine: Sequence[Record], scale: Scale) -> list[str]:
    """Return the command that repeats the runs, in a block."""
    words = ["psgd", "reproduce", experiment.name, "--scale", scale]
    if mine:
        words += ["--seeds", tables.spans(sorted({r.seed for r in mine}))]
    used = {name for r in mine for name in r.data}
    if experiment.data and not (used and used <= set(MADE)):
        words += ["--data", "DIR"]
    return ["```sh", shlex.join(words), "```", ""]
