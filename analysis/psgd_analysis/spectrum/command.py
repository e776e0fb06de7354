"""The command `psgd spectrum`: the studies of a built-in or a user's Hessian, with figure and JSON."""

from __future__ import annotations

import inspect
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import problems
from ..background import in_background
from ..files import write_atomically, write_figure, write_text
from ..interrupts import until_interrupted
from ..kinds import offered
from ..options import Damping, Hessian, Json, Key, Quiet, listing, starting
from ..problems.spectra import haar
from ..progress import progress
from ..terminal import UsageError, console, fail, print_names, show, table, unknown
from . import report
from .choosing import FORMS, USUAL, by_slug
from .exact import damped
from .operators import HessianOperator, from_matrix
from .results import Comparison, Extremes
from .sources import from_file, from_problem
from .table import Result

BUILT_IN = {
    "two_tails": "a flat bulk with a tail on either side (Theorem 3.2)",
    "dense": "positive definite, condition number 1000, in no small group",
    "indefinite": "the same with random signs",
    "outliers": "a bulk around 1 and four outliers up to 100",
}
"""Matrices made for looking at spectra, offered besides the problems of `psgd_analysis.problems`."""

EXAMPLES = (
    "psgd spectrum",
    "psgd spectrum --hessian my.npy --damping 1e-6",
    "psgd spectrum outliers --n 256 --ranks 0,2,4,8 --log",
    "psgd spectrum outliers --compare diagonal,xmat,kronecker-8x8,lowrank-4",
    "psgd spectrum --list",
)


def spectrum(
    problem: Annotated[
        str | None,
        typer.Argument(
            help=f"A matrix ({', '.join(BUILT_IN)}) or a problem, whose Hessian is taken at its start. "
            "See --list. [default: two_tails]",
            autocompletion=starting(lambda: (*BUILT_IN, *problems.names())),
        ),
    ] = None,
    hessian: Hessian = None,
    key: Key = None,
    n: Annotated[
        int | None, typer.Option(help="Number of parameters, where it can be chosen. [default: 64]")
    ] = None,
    ranks: Annotated[str, typer.Option(help="Ranks of the rank study.")] = "0,1,2,5,10",
    products: Annotated[
        int, typer.Option(help="Hessian-vector products that LowRank is fitted to; 0 leaves the fits out.")
    ] = 300,
    probes: Annotated[int, typer.Option(help="Probes of the density.")] = 10,
    steps: Annotated[int, typer.Option(help="Lanczos steps of each probe.")] = 100,
    log: Annotated[bool, typer.Option("--log", help="Draw the density over log10 |λ|.")] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Families to compare in the last table, with commas, such as diagonal,xmat,lowrank-5; see "
            f"--list. [default: {','.join(USUAL)}]",
        ),
    ] = None,
    eigenvectors: Annotated[
        int, typer.Option(help="Eigenvectors at either end of the spectrum, for spectrum.npz.")
    ] = 3,
    damping: Damping = 0.0,
    dense_limit: Annotated[
        int, typer.Option(help="Above this n, density and eigenvectors only, from products alone.")
    ] = report.DENSE_LIMIT,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for spectrum.png, spectrum.json and spectrum.npz.")
    ] = Path(),
    json: Json = False,
    quiet: Quiet = False,
    names: Annotated[bool, listing("List the matrices and problems, and look at none.")] = False,
) -> None:
    """Look at the spectrum of a Hessian, and at what preconditioners make of it.

    The spectral density by stochastic Lanczos quadrature; the ends of the spectrum with their eigenvectors;
    what the best P of each family leaves, by the criterion, by κ and in each tail; what an order of the
    parameters is worth; what rank r takes off both tails; and the families of --compare before and after.
    Prints each table as it is found, and writes spectrum.png, spectrum.json, and spectrum.npz with the
    eigenvectors. Ctrl-C stops at once and writes what there is. At n = 2000 it takes about a minute.
    """
    given = {name: value for name, value in locals().items() if name not in ("json", "quiet", "names")}
    if names:
        families = {name: label for name, (label, _) in by_slug(8, 0).items() if label in offered("spectrum")}
        print_names({"matrices": BUILT_IN, "problems": problems.describe(), "--compare": families | FORMS})
        return
    try:
        chosen = _ranks(ranks)
        _require(seed >= 0, "--seed", "at least 0", seed)
        _require(products >= 0, "--products", "at least 0", products)
        _require(eigenvectors >= 0, "--eigenvectors", "at least 0", eigenvectors)
        operator = _operator(problem, hessian, key, n, seed)
        if damping:
            operator = damped(operator, damping)
        out.mkdir(parents=True, exist_ok=True)
        found = report.studies(
            operator,
            seed,
            ranks=chosen,
            products=products,
            probes=probes,
            steps=steps,
            scale="log" if log else "linear",
            compared=[name for name in (compare or "").split(",") if name],
            eigenvectors=eigenvectors,
            dense_limit=dense_limit,
        )
        small = operator.n <= dense_limit
        kept: dict[str, Result] = {}  # by the thread that finds them: a signal loses none
        items = in_background(lambda: _kept(_warned(found), kept))

        def work() -> None:
            for number, planned in enumerate(report.STUDIES if small else report.STUDIES[:2], 1):
                _, result = _next(items, f"{planned}, study {number}", shown=not quiet)
                if result is not None and not (json or quiet):
                    _print(result)

        interrupted = until_interrupted(work)
        results = dict(kept)
        if not results:
            raise typer.Exit(130)
        about = {"command": _command(given), "seed": seed, "name": operator.name, "n": operator.n}
        text = report.document(results, {**about, "interrupted": interrupted})
        written = _write(out, results, text)
    except typer.Exit:
        raise
    except OSError as error:
        fail("spectrum", f"`--out {out}` cannot be written ({error.strerror or error})")
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        advice = "study `damped(hessian, λ)` in its place", "give `--damping`, such as 1e-6"
        fail("spectrum", str(error).replace(*advice))
    if json and not quiet:
        typer.echo(text, nl=False)
    elif not quiet:
        typer.echo(f"wrote {written}")
    if interrupted:
        raise typer.Exit(130)


def _write(out: Path, results: dict[str, Result], text: str) -> str:
    """Write the figure, the JSON and the eigenvectors; return what was written."""
    last = results.get("before_after")
    exact = last.values[0] if isinstance(last, Comparison) else None
    written = [out / "spectrum.png", out / "spectrum.json"]
    write_figure(written[0], report.draw(results, exact), dpi=120)
    write_text(written[1], text)
    if isinstance(ends := results.get("ends"), Extremes):
        written.append(out / report.VECTORS)
        write_atomically(written[-1], lambda file: report.write_vectors(file, ends))
    return ", ".join(map(str, written))


def _next(
    items: Iterator[tuple[str, Result | None] | None], what: str, *, shown: bool
) -> tuple[str, Result | None]:
    """Return the next study; until it is there, show what it is."""
    with progress("spectrum", shown=shown) as tell:
        tell(what)
        for item in items:
            if item is not None:
                return item
            tell(what)
    raise RuntimeError("fewer studies than planned")


def _print(result: Result) -> None:
    title, header, rows = result.table()
    words = (0,) if len(header) > 2 else (0, 1)
    words = (*words, len(header) - 1) if header[-1] in ("P is", "P* is") else words
    show(
        console(),
        table(header, rows, words=words, title=title, box=None, pad_edge=False, padding=(0, 2, 0, 0)),
    )
    typer.echo()


def _kept(
    found: Iterator[tuple[str, Result | None]], kept: dict[str, Result]
) -> Iterator[tuple[str, Result | None]]:
    """Yield the studies, and keep each."""
    for name, result in found:
        if result is not None:
            kept[name] = result
        yield name, result


def _warned(found: Iterator[tuple[str, Result | None]]) -> Iterator[tuple[str, Result | None]]:
    """Yield the studies, with their warnings in a line each on stderr."""
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            item = next(found, None)
        for warning in caught:
            typer.echo(f"psgd spectrum: warning: {warning.message}", err=True)
        if item is None:
            return
        yield item


def _operator(
    problem: str | None, hessian: Path | None, key: str | None, n: int | None, seed: int
) -> HessianOperator:
    if hessian is not None:
        _require(problem is None, "PROBLEM", "left out with --hessian", problem)
        _require(n is None, "--n", "left out with --hessian, whose size is its own", n)
        return from_file(hessian, key=key)
    _require(key is None, "--key", "given with --hessian only", key)
    name = problem or "two_tails"
    if name in BUILT_IN:
        return from_matrix(_matrix(name, 64 if n is None else n, np.random.default_rng(seed)), name)
    if name not in problems.names() and Path(name).exists():
        raise UsageError(
            f"`PROBLEM` must be one that --list shows, got the file {name!r}; give it as --hessian {name}"
        )
    if name not in problems.names():
        raise UsageError(f"`PROBLEM` {unknown(name, (*BUILT_IN, *problems.names()))}")
    chosen: dict[str, Any] = {} if n is None else {"n": n}
    if "rng" in problems.options(name):
        chosen["rng"] = np.random.default_rng(seed)
    if problems.options(name).get("n") is inspect.Parameter.empty and n is None:
        chosen["n"] = 64
    return from_problem(problems.get(name, **chosen))


def _matrix(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return one of the built-in matrices."""
    _require(n >= 8, "--n", "at least 8", n)
    if name == "two_tails":
        return problems.hessians.two_tails(n, max(1, n // 16), max(1, n // 16), rng, gap=10.0).hessian
    if name == "outliers":
        bulk = np.concatenate([rng.uniform(0.5, 1.5, n - 4), [10.0, 20.0, 50.0, 100.0]])
        basis = haar(n, rng)
        h = (basis * bulk) @ basis.T
        return (h + h.T) / 2
    return problems.hessians.dense(n, 1000.0, rng, indefinite=name == "indefinite")


def _ranks(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"`--ranks` must be numbers with commas, such as 0,1,2,5,10, got {text!r}") from None


def _require(ok: bool, name: str, rule: str, got: Any) -> None:
    if not ok:
        raise ValueError(f"`{name}` must be {rule}, got {got}")


def _command(given: dict[str, Any]) -> str:
    """Return the command line that reproduces the run, with every option spelt out."""
    words = ["psgd", "spectrum"]
    if given["problem"] is not None:
        words.append(given["problem"])
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if name == "log":
            words += [option] if value else []
        elif name != "problem" and value is not None:
            words += [option, str(value)]
    return shlex.join(words)
