"""``psgd minimize PROBLEM``: the command line of the comparison."""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import problems
from ..documents import as_json
from ..files import write_figure, write_text
from ..options import Json, Quiet, among, listing, starting
from ..problems import Problem
from ..progress import progress
from ..terminal import UsageError, console, fail, print_names, show, unknown
from . import contenders, figures, report
from .contenders import Contender
from .ratios import Newton, fitted_newton_ratios
from .run import Study, Tick, run_study, runs_of, usual_tol

DTYPES = ("float64", "float32")


EXAMPLES = (
    "psgd minimize rosenbrock",
    "psgd minimize rosenbrock --n 20 -p dense -p xmat --seeds 2",
    "psgd minimize digits -o l2=0.01 -o batch=100 --maxiter 200",
    "psgd minimize --list",
)


def minimize(
    problem: Annotated[
        str | None, typer.Argument(help="A name from --list.", autocompletion=starting(problems.names))
    ] = None,
    preconditioner: Annotated[
        list[str] | None,
        among(
            contenders.PRECONDITIONERS,
            f"Repeatable: {', '.join(contenders.PRECONDITIONERS)}.",
            "--preconditioner",
            "-p",
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="Number of variables, where the problem has a choice.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="Repeatable: an option of the problem, key=value."),
    ] = None,
    tol: Annotated[
        float | None,
        typer.Option(help="A run is done at f - f* <= tol. By default 1e-20 where f* = 0, else relative."),
    ] = None,
    maxiter: Annotated[int, typer.Option(help="Iterations; gradient descent has twice as many.")] = 1000,
    seeds: Annotated[int, typer.Option(help="Seeds 0 ... N - 1, of PSGD's probes.")] = 5,
    dtype: Annotated[str, among(DTYPES, "Float type.", metavar="|".join(DTYPES))] = DTYPES[0],
    out: Annotated[Path, typer.Option(help="Folder for minimize.json and minimize.png.")] = Path("."),
    json_: Json = False,
    quiet: Quiet = False,
    ratios: Annotated[
        bool, typer.Option("--ratios", help="Show the last ratios of f, and those with P fitted.")
    ] = False,
    names: Annotated[bool, listing("List the problems and their options, and run none.")] = False,
) -> None:
    """Minimise a test problem with PSGD beside BFGS, L-BFGS-B, Newton-CG and gradient descent.

    Counts gradients and Hessian-vector products alike for all, prints a table, writes minimize.json and
    minimize.png. Ctrl-C stops and writes the results so far (exit status 130).
    """
    if names:
        print_names({"problems": described()})
        return
    # check the options
    try:
        chosen = {**parsed(option or []), **({} if n is None else {"n": n})}
        made, competing = prepared(problem, chosen, preconditioner, dtype, seeds, maxiter, tol)
        folder = _folder(out)
    except (ValueError, TypeError, OSError, ImportError) as error:
        fail("minimize", str(error))
    # run all contenders
    every = list(range(seeds))
    with _progress(made, competing, every, maxiter, shown=not quiet) as tick:
        study = run_study(
            made,
            competing,
            seeds=every,
            tol=usual_tol(made) if tol is None else tol,
            maxiter=maxiter,
            tick=tick,
        )
    newton = _newton(made) if ratios and not study.interrupted else None
    content = report.document(
        study, command=["psgd", *sys.argv[1:]], seeds=every, options=chosen, newton=newton
    )
    # write the files, numbers first, then print
    text = as_json(content)
    try:
        write_text(folder / "minimize.json", text)
        write_figure(folder / "minimize.png", figures.draw(study), dpi=150)
    except OSError as error:
        fail("minimize", f"cannot write to {folder}: {error}", 1)
    if json_ and not quiet:
        typer.echo(text, nl=False)
    elif not quiet:
        _print(study, newton, ratios, folder)
    if study.interrupted:
        raise typer.Exit(130)


def described() -> dict[str, str]:
    """Return a line for each problem, with its options and their defaults."""
    lines = {}
    for name, about in problems.describe().items():
        given = ", ".join(
            key if isinstance(default, type) else f"{key}={default!r}"
            for key, default in problems.options(name).items()
        )
        lines[name] = about + (f"  [{given}]" if given else "")
    return lines


def parsed(pairs: Sequence[str]) -> dict[str, Any]:
    """Return options parsed from ``key=value``: values are Python literals, or else text.

    Raises
    ------
    ValueError
        If a pair lacks "=" or a key.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"`--option` must be key=value, got {pair!r}; write for example l2=0.01")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[key] = value
    return found


def prepared(
    name: str | None,
    options: dict[str, Any],
    chosen: Sequence[str] | None,
    dtype: str,
    seeds: int,
    maxiter: int,
    tol: float | None,
) -> tuple[Problem, list[Contender]]:
    """Return the problem and the contenders.

    Raises
    ------
    ValueError, TypeError, OSError
        If the options are invalid or do not fit together.
    ImportError
        If the problem needs a package that is not installed.
    """
    if name is None:
        raise UsageError("`PROBLEM` must be given; `psgd minimize --list` lists them")
    if name not in problems.names():
        raise UsageError(f"`PROBLEM` {unknown(name, problems.names())}")
    for label, number in (("seeds", seeds), ("maxiter", maxiter)):
        if number < 1:
            raise UsageError(f"`--{label}` must be at least 1, got {number}; raise it")
    if tol is not None and not (np.isfinite(tol) and tol >= 0):
        raise UsageError(f"`--tol` must be finite and not negative, got {tol}; 1e-10 for example")
    made = problems.get(name, like=np.zeros(1, dtype=dtype), **options)
    names = list(dict.fromkeys(chosen)) if chosen else contenders.usual(made.n)
    return made, [*(contenders.preconditioned(p, made.n) for p in names), *contenders.others()]


def _folder(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    return out


def _newton(problem: Problem) -> Newton | str:
    try:
        return fitted_newton_ratios(problem)
    except ValueError as error:
        return str(error)


def _print(study: Study, newton: Newton | str | None, ratios: bool, folder: Path) -> None:
    terminal = console()
    show(terminal, report.table(study))
    if ratios:
        for line in report.ratio_lines(study, newton):
            terminal.print(line, markup=False, soft_wrap=True)
    if study.interrupted:
        terminal.print("Interrupted: these are the results so far.")
    terminal.print(
        f"Wrote {folder / 'minimize.json'} and {folder / 'minimize.png'}", markup=False, soft_wrap=True
    )


@contextlib.contextmanager
def _progress(
    problem: Problem, competing: Sequence[Contender], seeds: Sequence[int], maxiter: int, *, shown: bool
) -> Iterator[Tick]:
    """Yield a function to call in each iteration, which shows how far the study is."""
    order = [(c.name, seed) for c in competing for seed in runs_of(c, problem, seeds)]
    place = {run: i for i, run in enumerate(order)}
    done = dict.fromkeys(order, 0)
    with progress("minimize", shown=shown) as tell:

        def tick(contender: Contender, seed: int) -> None:
            run = (contender.name, seed)
            done[run] += 1
            at = place[run] * maxiter + min(done[run], maxiter)
            tell(f"{contender.label}, seed {seed}", at, len(order) * maxiter)

        yield tick
