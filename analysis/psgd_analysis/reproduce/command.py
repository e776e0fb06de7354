"""``psgd reproduce``: the command line of the paper's experiments."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .. import interrupts, sweeps
from ..files import require_folder
from ..machine import available_cores
from ..terminal import UsageError, console, fail, progress
from . import data, overview, pages
from .experiment import SCALES, Experiment, Job, Scale
from .experiments import NAMES, experiment
from .loop import Checkpoint
from .records import Book, Record
from .work import Place, compile_kernels, revision, work

COMMAND = "reproduce"
ScaleName = Enum("ScaleName", {name: name for name in SCALES}, type=str)  # type: ignore[misc]


def reproduce(
    context: typer.Context,
    name: Annotated[
        list[str] | None, typer.Argument(help="Which experiments, or patterns of them. See --list.")
    ] = None,
    scale: Annotated[ScaleName, typer.Option(help="Seconds, hours, or the paper's own.")] = ScaleName.reduced,  # type: ignore[attr-defined]
    seeds: Annotated[
        str | None, typer.Option(help="Such as 0-9 or 0,3,5. By default as many as --list says.")
    ] = None,
    cell: Annotated[
        list[str] | None, typer.Option("--cell", "-c", help="Only cells that match a pattern; repeatable.")
    ] = None,
    data_folder: Annotated[
        Path | None,
        typer.Option("--data", help=f"Folder of your data sets. By default ${data.FOLDER_VARIABLE}."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=0, help="Processes. By default one per core; 0 runs nothing and remakes the pages."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, whose workers run the jobs.")
    ] = None,
    limit: Annotated[
        float | None, typer.Option(help="CPU-seconds after which a run is cut; it can be taken up.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for records, pages and figures.")] = Path("reproduced"),
    listing: Annotated[bool, typer.Option("--list", help="List the experiments, and run none.")] = False,
) -> int:
    """Train what the paper trains, with its baselines, and put its numbers beside what was measured.

    Every run is one line of OUT/NAME.jsonl and is not run again; one that was left goes on from its
    checkpoint. OUT/NAME.md and the figures are made from these records alone: tables, and for each claim of
    the paper whether it was confirmed, by intervals over seeds.
    """
    if listing:
        with _disk(out):
            console(110, highlight=False).print(pages.listing([experiment(n) for n in NAMES], out))
        return 0
    try:
        chosen = [experiment(n) for n in _names(name)]
        numbers = _seeds(seeds)
        if limit is not None and not limit > 0:
            raise UsageError(f"`--limit` must be positive, got {limit:g}; leave it out for no limit")
        asked = [job for e in chosen for job in _jobs(e, scale.value, numbers, cell, data_folder)]
    except (UsageError, data.Missing, data.Unreadable, ImportError) as error:
        fail(COMMAND, str(error))
    with _disk(out):
        require_folder(out)
    # run what has no record yet
    place = Place(data_folder, out / ".unfinished", _told(context.obj or ()), revision(), limit or math.inf)
    workers = min(available_cores(), max(len(asked), 1)) if jobs is None else jobs
    interrupted, failures = False, list[sweeps.Failure]()
    if workers or scheduler:
        try:
            with _disk(out):
                interrupted, failures = _run(asked, place, out, workers, scheduler)
        except sweeps.Unreachable as error:
            fail(COMMAND, str(error))
    # make the pages of what is recorded
    terminal = console(110, highlight=False)
    with _disk(out):
        overview.write_overview([experiment(n) for n in NAMES], out)
    for e in chosen:
        with _disk(out):
            records = _book(out, e).records()
            pages.write(e, records, out)
        pages.show(e, records, scale.value, terminal)
    terminal.print(
        f"\nPages with figures: {', '.join(str(out / f'{e.name}.md') for e in chosen)}", markup=False
    )
    if failures:
        typer.echo(f"psgd {COMMAND}: runs that failed: {len(failures)}; {failures[0].error}", err=True)
    return interrupts.code(130 if interrupted else 1 if failures else 0)


def _run(
    jobs: Sequence[Job], place: Place, out: Path, workers: int, scheduler: str | None
) -> tuple[bool, list[sweeps.Failure]]:
    """Run the jobs that have no record yet, each recorded as it ends.

    Return whether that was interrupted, and what failed.
    """
    missing = {job.key: job for job in jobs}
    for name in {job.experiment for job in jobs}:
        kept = {job.key for job in _book(out, experiment(name)).missing(jobs)}
        missing = {key: job for key, job in missing.items() if job.experiment != name or key in kept}

    def finished(task: sweeps.Task, result: Record | sweeps.Failure) -> None:
        job = missing[task.name]
        if isinstance(result, sweeps.Failure):
            result = Record.of(job, "cut", error=result.error, command=place.command, revision=place.revision)
        _book(out, experiment(job.experiment)).add(result)
        if result.status != "cut":
            Checkpoint(place.checkpoints, job.key).remove()

    tasks = [sweeps.Task(job.key, work, (job, place), job.expected) for job in missing.values()]
    on_numpy = any("torch" in experiment(job.experiment).needs for job in missing.values())
    if workers > 1 and len(tasks) > 1 and scheduler is None and on_numpy:
        compile_kernels()  # once, for all workers
    with _bar(f"{len(tasks)} runs") as show:
        found = sweeps.run(
            tasks, jobs=max(workers, 1), scheduler=scheduler, show=show, finished=finished, folder=out
        )
    with contextlib.suppress(OSError):
        place.checkpoints.rmdir()
    return found.interrupted, [r for r in found.found.values() if isinstance(r, sweeps.Failure)]


@contextlib.contextmanager
def _disk(out: Path) -> Iterator[None]:
    """End the command in a sentence if the folder cannot be read or written: it is full, or another's."""
    try:
        yield
    except OSError as error:
        problem = error.strerror or error
        where = f": {error.filename}" if error.filename else ""
        fail(COMMAND, f"`--out {out}` cannot be read or written ({problem}{where}); what is recorded is kept")


@contextlib.contextmanager
def _bar(about: str) -> Iterator[Callable[[float, float], None]]:
    """Yield what shows how much is done; on stderr, with the time left."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with progress(*columns) as bar:
        shown = bar.add_task(about, total=None)
        yield lambda done, total: bar.update(shown, completed=done, total=total)


# -- what was asked for --------------------------------------------------------------------------------------


def _names(given: Sequence[str] | None) -> list[str]:
    """Return the experiments that were asked for."""
    if not given:
        raise UsageError(f"`NAME` must be an experiment, got none; choose of {', '.join(NAMES)}")
    for pattern in given:
        if not any(fnmatchcase(n, pattern) for n in NAMES):
            raise UsageError(f"`NAME` must be one of {', '.join(NAMES)}, got {pattern!r}; see --list")
    return [n for n in NAMES if any(fnmatchcase(n, pattern) for pattern in given)]


def _seeds(given: str | None) -> list[int] | None:
    """Return the seeds in a text such as "0-4,7"; None for as many as an experiment has by default."""
    if given is None:
        return None
    found: set[int] = set()
    for part in given.split(","):
        matched = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(matched[1]), int(matched[2] or matched[1])) if matched else (0, -1)
        if last < first or last - first >= 10_000:
            raise UsageError(f"`--seeds` must be numbers and ranges such as 0-9 or 0,3,5, got {given!r}")
        found.update(range(first, last + 1))
    return sorted(found)


def _jobs(
    e: Experiment, scale: Scale, seeds: list[int] | None, cells: Sequence[str] | None, folder: Path | None
) -> list[Job]:
    """Return the runs of an experiment that were asked for, with the data that is there."""
    absent = [package for package in e.needs if find_spec(package) is None]
    if absent:
        raise UsageError(f"`{e.name}` needs {' and '.join(absent)}; pip install 'psgd-core[{e.extras}]'")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"`--data` must be a folder, got {str(folder)!r}")
    names = [c.name for c in e.plans[scale].cells]
    for pattern in cells or ():
        if not any(fnmatchcase(n, pattern) for n in names):
            raise UsageError(f"`--cell` must match a cell of {e.name}, got {pattern!r}: {'; '.join(names)}")
    seeds = list(range(e.plans[scale].seeds)) if seeds is None else seeds
    found = e.jobs(scale, seeds, dict(data.resolve(d, folder) for d in e.data))
    return [job for job in found if not cells or any(fnmatchcase(job.cell, p) for p in cells)]


def _book(out: Path, e: Experiment) -> Book:
    return Book(out / f"{e.name}.jsonl")


def _told(words: Sequence[str]) -> str:
    """Return the command line, without this machine's folders and addresses."""
    private = {"--data": "DIR", "--out": "DIR", "--scheduler": "ADDRESS"}
    told = ["psgd"]
    for word in words:
        option, equals, _ = word.partition("=")
        if told[-1] in private:
            told.append(private[told[-1]])
        elif option in private and equals:
            told.append(f"{option}={private[option]}")
        else:
            told.append(word)
    return shlex.join(told)
