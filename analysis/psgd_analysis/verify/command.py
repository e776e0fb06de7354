"""``psgd verify``: the command line of the checks."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ..backends import DTYPES, LIBRARIES, Backend, Unavailable
from ..documents import as_json
from ..files import write_figure, write_text
from ..interrupts import until_interrupted
from ..machine import available_cores
from ..options import Damping, Hessian, Json, Key, Quiet, among, listing, require_writable, starting
from ..progress import progress
from ..sweeps import Unreachable
from ..terminal import console, print_names, show, unknown
from . import comparison, report
from .cases import Case, Sizes, chosen, table
from .entries import ENTRIES
from .families import FAMILIES, OWN
from .own import Own, own
from .page import page
from .pool import Results, length, run_all
from .run import Options
from .settings import SETTINGS

PNG, JSON = "verify.png", "verify.json"
GEOMETRIES_PNG, GEOMETRIES_JSON = "geometries.png", "geometries.json"


EXAMPLES = (
    "psgd verify",
    "psgd verify --hessian my.npy --damping 1e-6",
    "psgd verify -p xmat --problem outside --list",
    "psgd verify --backend jax --dtype float32",
)


def verify(
    context: typer.Context,
    preconditioner: Annotated[
        list[str] | None,
        typer.Option(
            "--preconditioner",
            "-p",
            help="Which preconditioners; repeatable. See --list.",
            autocompletion=starting(lambda: ENTRIES),
        ),
    ] = None,
    problem: Annotated[
        list[str] | None,
        typer.Option(
            "--problem",
            help="Which Hessians; repeatable. See --list.",
            autocompletion=starting(lambda: FAMILIES),
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--setting",
            help="In which settings; repeatable. See --list.",
            autocompletion=starting(lambda: SETTINGS),
        ),
    ] = None,
    hessian: Hessian = None,
    key: Key = None,
    damping: Damping = 0.0,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=2, max=2048, help="Number of parameters. By default 16, and 20 for low rank."
        ),
    ] = None,
    kappa: Annotated[
        float | None, typer.Option(min=1.0, help="Condition number of built-in Hessians. [default: 100]")
    ] = None,
    dtype: Annotated[str, among(DTYPES, "Float type.", metavar="|".join(DTYPES))] = DTYPES[0],
    backend: Annotated[str, among(LIBRARIES, "Array library.", metavar="|".join(LIBRARIES))] = "numpy",
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
    json: Json = False,
    quiet: Quiet = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every combination, not just the chosen ones. Takes minutes.")
    ] = False,
    names: Annotated[bool, listing("List the checks, and run none.")] = False,
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
    running closed form beside. By default, and with --hessian, a chosen subset that takes about a minute;
    --all, or naming preconditioners, problems or settings, runs all checks of these.
    """
    if step is not None and not 0 < step < 1:
        raise typer.BadParameter(
            f"must lie in (0, 1), got {step}; at 1 the fastest mode never settles", param_hint="--step"
        )
    command = ["psgd", *(context.obj or ())]
    if geometries:
        require_writable(out)
        return _compare_geometries(seed, out, command, quiet=quiet)
    if kappa is not None and not math.isfinite(kappa):
        raise typer.BadParameter(f"must be finite, got {kappa}", param_hint="--kappa")
    # which cases
    library = Backend(backend, dtype)
    given = _own(hessian, key, damping)
    if given and not problem:
        for option, value in (("--n", n), ("--kappa", kappa)):
            if value is not None:
                raise typer.BadParameter(
                    f"is of built-in Hessians, got {value}; leave it out with --hessian", param_hint=option
                )
    sizes = Sizes(n, 100.0 if kappa is None else kappa, seed, given and given.hessian)
    every = _cases(sizes, preconditioner, problem, setting)
    narrowed = everything or preconditioner or problem or setting
    cases = every if narrowed else chosen(every)
    if not cases:
        raise typer.BadParameter(
            "these preconditioners, problems and settings do not go together; see --list"
        )
    if names:
        _list(cases, len(every))
        return 0
    # whether they can be run, and the results written
    try:
        library.require()
    except Unavailable as error:
        raise typer.BadParameter(str(error), param_hint="--backend") from error
    require_writable(out)
    plan = _Plan(cases, len(every) - len(cases), Options(sizes, library, steps, step), given, out, command)
    jobs = jobs or (min(available_cores(), 8) if library.name == "numpy" else 1)
    try:
        return _verify(plan, jobs, scheduler, json=json, quiet=quiet)
    except Unreachable as error:
        raise typer.BadParameter(str(error), param_hint="--scheduler") from error


class _Plan(NamedTuple):
    cases: Sequence[Case]
    more: int  # how many --all adds
    options: Options
    own: Own | None
    out: Path
    command: Sequence[str]

    @property
    def matrices(self) -> str:
        """What the checks are on, in words."""
        built_in = any(case.problem != OWN.name for case in self.cases)
        told = [str(self.own)] if self.own else []
        return ", ".join(told + [f"kappa {self.options.sizes.kappa:g}"] * built_in)


def _verify(plan: _Plan, jobs: int, scheduler: str | None, *, json: bool, quiet: bool) -> int:
    start, options = time.perf_counter(), plan.options
    results = _run(plan, jobs, scheduler, shown=not quiet)
    seconds = time.perf_counter() - start
    # write the files, then print
    outcomes = results.outcomes
    data = report.as_dict(outcomes, options, plan.command, seconds, results.interrupted, plan.own)
    text = as_json(data)
    where = f"on {options.backend.name}, {options.backend.dtype}, seed {options.sizes.seed}"
    passed = f"{sum(o.passed for o in outcomes)} of {len(outcomes)} checks passed"
    caption = f"psgd verify, {plan.matrices}, {where}: {passed}"
    written = _write(plan.out / JSON, text, lambda: page(outcomes, options, caption) if outcomes else None)
    if json and not quiet:
        sys.stdout.write(text)
    elif not quiet:
        _print(plan, outcomes, seconds, written)
    if results.interrupted:
        return 130
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _compare_geometries(seed: int, out: Path, command: Sequence[str], *, quiet: bool) -> int:
    start, planned = time.perf_counter(), list(comparison.cases())
    runs: list[dict[str, Any]] = []

    def work() -> None:
        with progress("verify", shown=not quiet) as tell:
            for run in comparison.compare(seed):
                runs.append(run)
                tell(f"{len(runs)} of {len(planned)} runs", len(runs), len(planned))

    interrupted = until_interrupted(work)
    seconds = time.perf_counter() - start
    text = as_json(comparison.as_dict(runs, seed, command, seconds, interrupted))
    written = _write(out / GEOMETRIES_JSON, text, lambda: comparison.page(runs, seed) if runs else None)
    if not quiet:
        print(f"{len(runs)} runs in {seconds:.0f} s; {', '.join(written)}")
    return 130 if interrupted else 0


def _run(plan: _Plan, jobs: int, scheduler: str | None, *, shown: bool) -> Results:
    """Run the cases, and show how far they are."""
    cases, options = plan.cases, plan.options
    with progress("verify", shown=shown) as tell:
        lengths = {case: length(case, options) for case in cases}
        total = sum(lengths.values())
        return run_all(
            cases,
            options,
            jobs,
            lambda done, ended: tell(f"{ended} of {len(cases)} checks", done, total),
            lengths,
            scheduler,
            plan.out if scheduler else None,
        )


def _write(path: Path, text: str, draw: Callable[[], Any]) -> list[str]:
    """Write the numbers, then the figure beside them if there is one, and return the names of the files."""
    write_text(path, text)
    figure = draw()
    if figure is None:
        return [str(path)]
    write_figure(path.with_suffix(".png"), figure)
    return [str(path.with_suffix(".png")), str(path)]


def _print(plan: _Plan, outcomes: Sequence[Any], seconds: float, written: Sequence[str]) -> None:
    terminal = console()
    unicode = (terminal.encoding or "").lower().startswith("utf")
    if plan.own:
        terminal.print(f"{plan.own}\n", style="bold", markup=False, soft_wrap=True)
    tables = (
        report.table(outcomes, unicode),
        report.floors(outcomes),
        report.contests(outcomes, plan.options.backend.eps),
    )
    for shown in tables:
        if shown is not None:
            show(terminal, shown)
            terminal.print()
    terminal.print(report.legend(outcomes), style="dim", soft_wrap=True)
    for outcome in outcomes:
        if not outcome.passed:
            terminal.print(
                f"{outcome.case.name}: {outcome.reason}", style="red", markup=False, soft_wrap=True
            )
    good = len(outcomes) == len(plan.cases) and all(outcome.passed for outcome in outcomes)
    line = report.summary(outcomes, len(plan.cases), seconds, written, plan.more)
    terminal.print(line, style="bold green" if good else "bold red", markup=False, soft_wrap=True)


def _list(cases: Sequence[Case], all_of_them: int) -> None:
    more = all_of_them - len(cases)
    print_names(
        {
            "preconditioners": {name: entry.label for name, entry in ENTRIES.items()},
            "Hessians (--problem)": {name: family.about for name, family in FAMILIES.items()},
            "settings": {name: setting.about for name, setting in SETTINGS.items()},
            f"checks, {len(cases)}{f' ({more} more with --all)' if more else ''}": {
                case.name: "" for case in cases
            },
        }
    )


def _cases(
    sizes: Sizes,
    preconditioner: list[str] | None,
    problem: list[str] | None,
    setting: list[str] | None,
) -> list[Case]:
    """Return all cases of these names."""
    preconditioners = _names("--preconditioner", preconditioner, ENTRIES)
    problems = _names("--problem", problem, FAMILIES)
    if sizes.hessian is not None:
        problems = [*(problems or ()), OWN.name]
    settings = _names("--setting", setting, SETTINGS)
    cases = table(sizes, preconditioners, problems)
    return [case for case in cases if settings is None or case.setting in settings]


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
            raise typer.BadParameter(unknown(name, known), param_hint=option)
        found.update(dict.fromkeys(matched))
    return list(found)


def _own(path: Path | None, key: str | None, damping: float) -> Own | None:
    if path is None:
        for option, value in (("--key", key), ("--damping", damping)):
            if value:
                raise typer.BadParameter(f"goes with --hessian, got {value}; give one", param_hint=option)
        return None
    try:
        return own(path, key, damping)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--hessian") from error
