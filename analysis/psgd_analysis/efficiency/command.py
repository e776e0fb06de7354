"""``psgd efficiency``: the command line of the measurement."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from ..documents import as_json, versions
from ..files import write_figure, write_text
from ..interrupts import until_interrupted
from ..machine import processor
from ..options import Json, Quiet, listing, require_writable, starting
from ..progress import progress
from ..terminal import UsageError, closest, console, fail, print_names, show, table
from . import peers, report
from .contenders import CONTENDERS, Contender
from .run import Drawn, Result, measure
from .tasks import TASKS, TaskKind, real

NAME = "efficiency"

EXAMPLES = (
    "psgd efficiency lowrank/25 --seeds 1",
    "psgd efficiency 'lowrank/*' -c 'LowRank*' --products 200",
    "psgd efficiency --list",
)


def efficiency(
    context: typer.Context,
    task: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which tasks, or patterns of them. See --list.", autocompletion=starting(lambda: TASKS)
        ),
    ] = None,
    contender: Annotated[
        list[str] | None,
        typer.Option("--contender", "-c", help="Which contenders, or patterns of them; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds; tables show medians.")] = 3,
    products: Annotated[int, typer.Option(min=1, help="At most so many products per run.")] = 1000,
    peer_path: Annotated[
        list[str] | None,
        typer.Option(help=f"NAME=DIR: a checkout of {', '.join(peers.NAMES)}; repeatable."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with MNIST's training images, for the task lenet5.")
    ] = None,
    out: Annotated[Path, typer.Option(help=f"Folder for {NAME}.png, {NAME}.json and {NAME}.md.")] = Path(),
    json: Json = False,
    quiet: Quiet = False,
    names: Annotated[bool, listing("List tasks and contenders, and run none.")] = False,
) -> int:
    """Measure how good each preconditioner is after so many Hessian-vector products.

    Everything is fitted to the same pairs: psgd-core's preconditioners, the closed forms and other limits of
    what these pairs say, and the peers that are installed or checked out. Prints tables, and writes
    efficiency.png, efficiency.json and efficiency.md. By default a chosen subset of the tasks.
    """
    try:
        kinds = _kinds(task, data)
        rows, absent = peers.found(_paths(peer_path))
        contenders = _contenders(contender, [*CONTENDERS, *rows])
    except UsageError as error:
        fail(NAME, str(error))
    if names:
        _list(kinds, contenders, absent)
        return 0
    require_writable(out)
    results: list[Result] = []
    start = time.perf_counter()
    interrupted = until_interrupted(
        lambda: _measure(kinds, contenders, seeds, products, results, shown=not quiet)
    )
    about = {
        "command": _told(context.obj or ()),
        "versions": versions(("torch", "jax", "optax", "heavyball", "scikit-learn")),
        "processor": processor(),
        "seeds": seeds,
        "absent": absent,
        "seconds": time.perf_counter() - start,
        "interrupted": interrupted,
    }
    text = as_json(report.document(results, kinds, about))
    write_text(out / f"{NAME}.json", text)
    write_text(out / f"{NAME}.md", report.markdown(results, kinds, about))
    if results:
        write_figure(out / f"{NAME}.png", report.figure(results, kinds))
    if json and not quiet:
        sys.stdout.write(text)
    elif not quiet:
        _print(results, kinds, absent)
        print(f"{len(results)} runs in {about['seconds']:.0f} s; {NAME}.png, {NAME}.json, {NAME}.md")
    return 130 if interrupted else 0


def _measure(
    kinds: dict[str, TaskKind],
    contenders: Sequence[Contender],
    seeds: int,
    products: int,
    results: list[Result],
    *,
    shown: bool,
) -> None:
    """Run everything, and show how far it is; results so far survive an interruption."""
    total = len(kinds) * seeds * len(contenders)
    with progress(NAME, shown=shown) as tell:
        for i, (name, kind) in enumerate(kinds.items()):
            for seed in range(seeds):
                done = (i * seeds + seed) * len(contenders)
                tell(f"{name}, seed {seed}: pairs", done, total)
                made = kind.make(seed)
                drawn = Drawn(made, seed, products)
                for j, contender in enumerate(contenders):
                    if contender.suits(made):
                        tell(f"{name}, seed {seed}: {contender.name}", done + j, total)
                        results.append(measure(name, made, contender, seed, drawn))


def _kinds(given: list[str] | None, data: Path | None) -> dict[str, TaskKind]:
    """Return the tasks that were asked for, by name."""
    known = TASKS | {kind.name: kind for kind in real(data)}
    if not given:
        return {name: kind for name, kind in known.items() if kind.usual}
    found: dict[str, TaskKind] = {}
    for pattern in given:
        matched = {n: k for n, k in known.items() if fnmatchcase(n, pattern) or n.startswith(f"{pattern}/")}
        if not matched:
            more = "; lenet5 needs --data" if pattern == "lenet5" else closest(pattern, known)
            raise UsageError(f"`TASK` must be one that --list shows, or match one, got {pattern!r}{more}")
        found.update(matched)
    return found


def _contenders(given: list[str] | None, known: list[Contender]) -> list[Contender]:
    """Return the contenders that were asked for."""
    if not given:
        return known
    for pattern in given:
        if not any(fnmatchcase(c.name, pattern) for c in known):
            raise UsageError(
                f"`--contender` must be one that --list shows, or match one, got {pattern!r}"
                + closest(pattern, [c.name for c in known])
            )
    return [c for c in known if any(fnmatchcase(c.name, pattern) for pattern in given)]


def _told(words: Sequence[str]) -> str:
    """Return the command line, without this machine's folders."""
    told = ["psgd"]
    for word in words:
        option = told[-1]
        name, equals, _ = word.partition("=")
        told.append(
            f"{name}=DIR" if option == "--peer-path" and equals
            else "DIR" if option in ("--data", "--out")
            else word
        )  # fmt: skip
    return shlex.join(told)


def _paths(given: list[str] | None) -> dict[str, Path]:
    """Return the folders of checkouts, by peer."""
    found = {}
    for pair in given or ():
        name, _, folder = pair.partition("=")
        if name not in peers.NAMES or not folder:
            raise UsageError(
                f"`--peer-path` must be NAME=DIR, NAME one of {', '.join(peers.NAMES)}, got {pair!r}"
            )
        if not Path(folder).is_dir():
            raise UsageError(f"`--peer-path` must name a folder, got {folder!r}")
        found[name] = Path(folder)
    return found


def _list(kinds: dict[str, TaskKind], contenders: Sequence[Contender], absent: dict[str, str]) -> None:
    print_names(
        {
            "tasks": {name: kind.about for name, kind in kinds.items()},
            "contenders": {c.name: c.side for c in contenders} | absent,
        }
    )


def _print(results: Sequence[Result], kinds: dict[str, TaskKind], absent: dict[str, str]) -> None:
    terminal = console()
    style: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": None, "pad_edge": False}
    for title, heads, rows in report.tables(results, kinds):
        show(terminal, table(heads, rows, title=title, **style))
        terminal.print()
    for name, why in absent.items():
        terminal.print(f"{name}: {why}", style="dim", markup=False)
