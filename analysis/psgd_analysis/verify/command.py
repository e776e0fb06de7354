"""``psgd verify``: the command line of the checks."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..backends import DTYPES, LIBRARIES, Backend, Unavailable
from ..documents import as_json
from ..files import require_folder, write_figure, write_text
from ..interrupts import until_interrupted
from ..machine import available_cores
from ..problems import load_hessian
from ..sweeps import Unreachable
from ..terminal import console, progress
from . import comparison, report
from .cases import Case, Sizes, chosen, table
from .entries import ENTRIES
from .families import FAMILIES, OWN
from .page import page
from .pool import Results, length, run_all
from .run import Options
from .settings import SETTINGS

BackendName = Enum("BackendName", {name: name for name in LIBRARIES}, type=str)  # type: ignore[misc]
DtypeName = Enum("DtypeName", {name: name for name in DTYPES}, type=str)  # type: ignore[misc]

PNG, JSON = "verify.png", "verify.json"
GEOMETRIES_PNG, GEOMETRIES_JSON = "geometries.png", "geometries.json"


def verify(
    context: typer.Context,
    preconditioner: Annotated[
        list[str] | None,
        typer.Option("--preconditioner", "-p", help="Which preconditioners; repeatable. See --list."),
    ] = None,
    problem: Annotated[
        list[str] | None, typer.Option("--problem", help="Which Hessians; repeatable. See --list.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--setting", help="In which settings; repeatable. See --list.")
    ] = None,
    hessian: Annotated[
        Path | None, typer.Option(help="A Hessian of your own: .npy, .npz, .mtx, .mtx.gz or .mtx.bz2.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Which array of the .npz file.")] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=2, max=2048, help="Number of parameters. By default 16, and 20 for low rank."
        ),
    ] = None,
    kappa: Annotated[float, typer.Option(min=1.0, help="Condition number of built-in Hessians.")] = 100.0,
    dtype: Annotated[DtypeName, typer.Option(help="Float type.")] = DtypeName.float64,  # type: ignore[attr-defined]
    backend: Annotated[BackendName, typer.Option(help="Array library.")] = BackendName.numpy,  # type: ignore[attr-defined]
    steps: Annotated[
        int | None, typer.Option(min=10, help="Updates of every run. By default as many as theory predicts.")
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(
            help="Step, in (0, 1); the first one where it is annealed. By default set by the setting."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of Hessians and probes.")] = 0,
    out: Annotated[Path, typer.Option(help=f"Folder for {PNG} and {JSON}.")] = Path(),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes. By default one per core on numpy, and 1 elsewhere.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on a Dask cluster instead: the address of its scheduler."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the JSON instead of the table.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every combination, not just the chosen ones. Takes minutes.")
    ] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the checks, and run none.")] = False,
    geometries: Annotated[
        bool,
        typer.Option(
            "--compare-geometries",
            help=f"Compare the accuracy of all geometries instead: {GEOMETRIES_PNG} and {GEOMETRIES_JSON}.",
        ),
    ] = False,
) -> int:
    """Check every preconditioner against its exact target.

    Fits each one on Hessians whose |H|^{-1}, or best approximation in the group, is known; measures the
    affine-invariant distance to it; fits the rate; and judges it by what theory predicts, with BFGS and the
    running closed form beside. By default a chosen subset in under a minute; naming preconditioners or
    problems runs all their checks.
    """
    if step is not None and not 0 < step < 1:
        raise typer.BadParameter(
            f"must lie in (0, 1), got {step}; at 1 the fastest mode never settles", param_hint="--step"
        )
    if geometries:
        _require_folder(out)
        return _compare_geometries(seed, out, ["psgd", *(context.obj or ())])
    if not math.isfinite(kappa):
        raise typer.BadParameter(f"must be finite, got {kappa}", param_hint="--kappa")
    # which cases
    library = Backend(backend.value, dtype.value)
    sizes = Sizes(n, kappa, seed, _own(hessian, key))
    preconditioners = _names("--preconditioner", preconditioner, ENTRIES)
    problems = _names("--problem", problem, FAMILIES)
    if hessian is not None:
        problems = [*(problems or ()), OWN.name]
    cases = table(sizes, preconditioners, problems)
    if not (everything or preconditioner or problem or setting or hessian):
        cases = chosen(cases)
    settings = _names("--setting", setting, SETTINGS)
    cases = [case for case in cases if settings is None or case.setting in settings]
    if not cases:
        raise typer.BadParameter(
            "these preconditioners, problems and settings do not go together; see --list"
        )
    if listing:
        _list(cases)
        return 0
    # whether they can be run, and the results written
    try:
        library.require()
    except Unavailable as error:
        raise typer.BadParameter(str(error), param_hint="--backend") from error
    _require_folder(out)
    options = Options(sizes, library, steps, step)
    jobs = jobs or (min(available_cores(), 8) if library.name == "numpy" else 1)
    try:
        return _verify(cases, options, jobs, scheduler, out, json, ["psgd", *(context.obj or ())])
    except Unreachable as error:
        raise typer.BadParameter(str(error), param_hint="--scheduler") from error


def _verify(
    cases: Sequence[Case],
    options: Options,
    jobs: int,
    scheduler: str | None,
    out: Path,
    json: bool,
    command: Sequence[str],
) -> int:
    start = time.perf_counter()
    results = _run(cases, options, jobs, scheduler, out)
    seconds = time.perf_counter() - start
    # write the files, then print
    outcomes = results.outcomes
    data = report.as_dict(outcomes, options, command, seconds, results.interrupted)
    text = as_json(data)
    where = (
        "on " + options.backend.name,
        options.backend.dtype,
        f"kappa {options.sizes.kappa:g}",
        f"seed {options.sizes.seed}",
    )
    caption = (
        f"psgd verify, {', '.join(where)}: {sum(o.passed for o in outcomes)} of {len(outcomes)} checks passed"
    )
    written = _write(out / JSON, text, lambda: page(outcomes, options, caption) if outcomes else None)
    if json:
        sys.stdout.write(text)
    else:
        _print(outcomes, len(cases), seconds, written, options.backend.eps)
    if results.interrupted:
        return 130
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _compare_geometries(seed: int, out: Path, command: Sequence[str]) -> int:
    start, planned = time.perf_counter(), list(comparison.cases())
    runs: list[dict[str, Any]] = []

    def work() -> None:
        with progress(*_COLUMNS) as bar:
            task = bar.add_task("geometries", total=len(planned))
            for run in comparison.compare(seed, lambda: bar.advance(task)):
                runs.append(run)

    interrupted = until_interrupted(work)
    seconds = time.perf_counter() - start
    text = as_json(comparison.as_dict(runs, seed, command, seconds, interrupted))
    written = _write(out / GEOMETRIES_JSON, text, lambda: comparison.page(runs, seed) if runs else None)
    print(f"{len(runs)} runs in {seconds:.0f} s; {', '.join(written)}")
    return 130 if interrupted else 0


_COLUMNS = (
    SpinnerColumn(),
    TextColumn("{task.description}"),
    BarColumn(),
    TextColumn("{task.percentage:>3.0f} %"),
    TimeElapsedColumn(),
)


def _run(cases: Sequence[Case], options: Options, jobs: int, scheduler: str | None, out: Path) -> Results:
    """Run the cases behind a progress bar on stderr."""
    with progress(*_COLUMNS) as bar:
        lengths = {case: length(case, options) for case in cases}
        task = bar.add_task(f"0 of {len(cases)} checks", total=sum(lengths.values()))

        def show(done: float, ended: int) -> None:
            bar.update(task, completed=done, description=f"{ended} of {len(cases)} checks")

        return run_all(cases, options, jobs, show, lengths, scheduler, out if scheduler else None)


def _write(path: Path, text: str, draw: Callable[[], Any]) -> list[str]:
    """Write the numbers, then the figure beside them if there is one, and return the names of the files."""
    write_text(path, text)
    figure = draw()
    if figure is None:
        return [str(path)]
    write_figure(path.with_suffix(".png"), figure)
    return [str(path.with_suffix(".png")), str(path)]


def _print(outcomes: Sequence[Any], planned: int, seconds: float, written: Sequence[str], eps: float) -> None:
    terminal = console(100, highlight=False)
    unicode = (terminal.encoding or "").lower().startswith("utf")
    terminal.print(report.table(outcomes, unicode))
    terminal.print()
    for more in (report.floors(outcomes), report.contests(outcomes, eps)):
        if more is not None:
            terminal.print(more)
            terminal.print()
    terminal.print(report.legend(outcomes), style="dim", soft_wrap=True)
    for outcome in outcomes:
        if not outcome.passed:
            terminal.print(
                f"{outcome.case.name}: {outcome.reason}", style="red", markup=False, soft_wrap=True
            )
    good = len(outcomes) == planned and all(outcome.passed for outcome in outcomes)
    line = report.summary(outcomes, planned, seconds, written)
    terminal.print(line, style="bold green" if good else "bold red", markup=False, soft_wrap=True)


def _list(cases: Sequence[Case]) -> None:
    for title, things in (
        ("preconditioners", {name: entry.label for name, entry in ENTRIES.items()}),
        ("Hessians (problems)", {name: family.about for name, family in FAMILIES.items()}),
        ("settings", {name: setting.about for name, setting in SETTINGS.items()}),
    ):
        print(f"{title}:")
        for name, about in things.items():
            print(f"  {name:16} {about}")
    print(f"checks, {len(cases)}:")
    for case in cases:
        print(f"  {case.name}")


def _names(option: str, given: list[str] | None, known: dict[str, Any]) -> list[str] | None:
    """Return the known names that were given: exactly, as the part before a dash, or as a pattern."""
    if not given:
        return None
    found: dict[str, None] = {}
    for name in given:
        matched = [k for k in known if k == name] or [
            k for k in known if k.startswith(name + "-") or fnmatchcase(k, name)
        ]
        if not matched:
            raise typer.BadParameter(f"must be among {', '.join(known)}, got {name!r}", param_hint=option)
        found.update(dict.fromkeys(matched))
    return list(found)


def _own(path: Path | None, key: str | None) -> np.ndarray | None:
    if path is None:
        if key is not None:
            raise typer.BadParameter(
                "chooses an array of a --hessian .npz file; give one", param_hint="--key"
            )
        return None
    try:
        h = load_hessian(path, key=key)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--hessian") from error
    if h.shape[0] < 2:
        raise typer.BadParameter(
            f"{path}: must have at least 2 rows, got {h.shape[0]}", param_hint="--hessian"
        )
    return h


def _require_folder(out: Path) -> None:
    try:
        require_folder(out)
    except OSError as error:
        raise typer.BadParameter(
            f"{out}: cannot be written to ({error.strerror or error})", param_hint="--out"
        ) from error
