"""``psgd bench``: the command line of the measurement."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import machine
from ..backends import LIBRARIES, Unavailable
from ..documents import as_json, versions
from ..files import write_figure, write_text
from ..interrupts import until_interrupted
from ..options import Json, Quiet, listing, starting
from ..progress import progress
from ..terminal import UsageError, console, fail, print_names, show
from . import figures, report
from .contenders import Absent, Setting, have_kernels
from .costs import KINDS
from .models import MODELS, Model, Overhead, overhead, prepared
from .options import at_least, chosen, peers_of, plan_of, shapes_of
from .peers import registry
from .run import Growth, Plan, Row, growth, run
from .timing import Clock, Limits

CLOCK: Clock = time.perf_counter
MIB = 2**20


EXAMPLES = (
    "psgd bench --quick",
    "psgd bench -p xmat -p lowrank --n 1e6 --rank 10",
    "psgd bench --shape 64x32x3x3 --peers none",
    "psgd bench --model logistic -p diagonal",
)


def bench(
    context: typer.Context,
    preconditioner: Annotated[
        list[str] | None,
        typer.Option(
            "--preconditioner",
            "-p",
            help=f"Repeatable: {', '.join(KINDS)}.",
            autocompletion=starting(lambda: KINDS),
        ),
    ] = None,
    n: Annotated[list[str] | None, typer.Option("--n", help="Parameters; repeatable. [default: 1e6]")] = None,
    rank: Annotated[list[int] | None, typer.Option(help="Rank of lowrank; repeatable. [default: 10]")] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Shape of kronecker, in place of --n; repeatable. [default: 1024x1024]"),
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="float32 (default), float64; repeatable.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable: {', '.join(LIBRARIES)}. [default: numpy]")
    ] = None,
    kernels: Annotated[str, typer.Option(help="psgd-core's fused kernels: on, off or both.")] = "both",
    peers: Annotated[
        str | None,
        typer.Option(help=f"all, none, or names with commas: {', '.join(registry())}. [default: all]"),
    ] = None,
    peer_path: Annotated[
        list[str] | None, typer.Option(help="psgd_torch=DIR: a checkout of a peer that is not on PyPI.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"What PSGD adds to a gradient step of {', '.join(MODELS)}; repeatable."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Rows of the model's batch. By default its own.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Rounds to begin with. [default: 15]")] = None,
    budget: Annotated[float | None, typer.Option(help="Seconds per comparison. [default: 60]")] = None,
    copy_mib: Annotated[
        int | None, typer.Option(help="MiB of the copy that is the yardstick. [default: 256; 2048 on a GPU]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of all libraries. By default their own choice.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of pairs, starts and synthetic data.")] = 0,
    spread: Annotated[float, typer.Option(help="Limit of the interquartile range over the median.")] = 0.15,
    drift: Annotated[float, typer.Option(help="Limit of the drift of the copy bandwidth.")] = 0.10,
    allow_noise: Annotated[
        bool, typer.Option("--allow-noise", help="Report results that are too noisy, marked as such.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, few rounds and peers: takes some seconds.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("."),
    name: Annotated[str, typer.Option(help="Name of the files: NAME.json, NAME.md, NAME.png.")] = "bench",
    json_: Json = False,
    quiet: Quiet = False,
    names: Annotated[
        bool, listing("List preconditioners, peers, models and backends; measure none.")
    ] = False,
) -> None:
    """Measure what updates and P g cost, beside the memory bandwidth and beside the peers.

    Everything is measured in turn, in one run: psgd-core with kernels and without, each peer that is
    installed, and a large copy. Prints tables, writes bench.json, bench.md and bench.png. Exits with 1 if
    something was too noisy to be reported, or failed. With --model and no -p, measures steps alone; with
    --shape and no -p, kronecker alone.
    """
    if names:
        _list()
        return
    # check the options
    try:
        shapes = shapes_of(shape or [], preconditioner or [], n or [])
        if shape and not preconditioner:
            preconditioner = ["kronecker"]
        plan = plan_of(
            preconditioners=preconditioner or [],
            n=n or (["32", "1e4"] if quick else ["1e6"]),
            ranks=rank or [10],
            shapes=shapes or [(64, 32, 3, 3) if quick else (1024, 1024)],
            dtypes=dtype or ["float32"],
            backends=backend or ["numpy"],
            kernels=kernels,
            peers=peers_of(peers, peer_path or [], quick=quick),
            limits=_limits(repeats, budget, spread, drift, quick=quick),
            seed=seed,
        )
        for option, number in (("--threads", threads), ("--batch", batch), ("--copy-mib", copy_mib)):
            at_least(option, number, 1)
        kinds = chosen("--preconditioner", preconditioner or ["xmat"], KINDS)
        steps = prepared(
            chosen("--model", model or [], MODELS),
            list(dict.fromkeys(setting.library for setting in plan.settings)),
            [(kind, r) for kind in kinds for r in (rank or [10] if kind == "lowrank" else [0])],
            batch,
            seed,
        )
        if not name or Path(name).name != name:
            raise UsageError(f"`--name` must be a file name without a folder, got {name!r}")
        out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, Unavailable, Absent) as error:
        fail("bench", str(error))
    if steps and not preconditioner:
        plan.settings = []
    # fix copies and threads
    gpu = any(setting.library.device == "gpu" for setting in (*plan.settings, *(s for _, s in steps)))
    plan.copy_bytes = MIB * (copy_mib or (16 if quick else 2048 if gpu else 256))
    plan.allow_noise = allow_noise
    plan.threads = threads or machine.available_cores()
    if threads is not None:
        machine.set_threads(threads)
    # measure, then write and print
    found = _measure(plan, steps, shown=not quiet)
    about = _about(plan, found, context.obj or [], seed, gpu=gpu)
    _write(found, plan.limits, about, out, name, json=json_, quiet=quiet)
    raise typer.Exit(130 if found.interrupted else int(found.incomplete))


@dataclass
class Found:
    """What was measured."""

    rows: list[Row] = field(default_factory=list)
    overheads: list[Overhead] = field(default_factory=list)
    interrupted: bool = False

    @property
    def incomplete(self) -> bool:
        """Whether something could not be reported, because it was too noisy or failed in psgd-core."""
        states = [row.status for row in self.rows] + [one.status for one in self.overheads]
        return "too noisy" in states or any(row.status == "failed" and row.own for row in self.rows)

    @property
    def growth(self) -> list[Growth]:
        """The slopes."""
        return growth(self.rows)


def _limits(repeats: int | None, budget: float | None, spread: float, drift: float, *, quick: bool) -> Limits:
    usual = Limits(repeats=5, least=0.001, budget=1.0) if quick else Limits()
    at_least("--repeats", repeats, usual.fewest)
    for option, number in (("--spread", spread), ("--drift", drift), ("--budget", budget)):
        at_least(option, number, 0.0)
    return replace(
        usual, repeats=repeats or usual.repeats, budget=budget or usual.budget, spread=spread, drift=drift
    )


def _measure(plan: Plan, steps: Sequence[tuple[Model, Setting]], *, shown: bool) -> Found:
    """Measure everything; Ctrl-C stops and keeps the results so far."""
    found = Found()

    def work() -> None:
        with progress("bench", shown=shown) as tell:
            for row in run(plan, CLOCK, tell):
                found.rows.append(row)
            for model, setting in steps:
                tell(f"{model.name}, {setting.label}")
                copy = setting.library.copy_task(plan.copy_bytes, plan.threads)
                found.overheads += overhead(
                    model,
                    setting,
                    plan.own(setting.library),
                    plan.limits,
                    copy,
                    clock=CLOCK,
                    allow_noise=plan.allow_noise,
                )

    found.interrupted = until_interrupted(work)
    return found


def _about(plan: Plan, found: Found, given: Sequence[str], seed: int, *, gpu: bool) -> dict[str, Any]:
    """Return the context of the results: command, machine, versions."""
    copies = [t for row in found.rows if row.copies is not None for t in row.copies.values]
    copy = None
    if copies:
        moved = 2 * plan.copy_bytes
        copy = {"bytes": plan.copy_bytes, "threads": plan.threads, "seconds": float(np.median(copies))}
        copy["bytes_per_second"] = moved / copy["seconds"]
    return {
        "title": "psgd bench",
        "command": shlex.join(["psgd", *_public(given)]),
        "interrupted": found.interrupted,
        "seed": seed,
        "kernels": (
            "in this psgd-core"
            if have_kernels("gpu" if gpu else "cpu")
            else "none in this psgd-core: plain code alone"
        ),
        "versions": versions([*machine.PACKAGES, *(peer.package for peer in plan.peers if peer.package)]),
        "machine": machine.describe("gpu" if gpu else "cpu"),
        "threads": {"copy": plan.threads, **machine.threads()},
        "copy": copy,
    }


def _public(words: Sequence[str]) -> list[str]:
    """Return the command line without local folders."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word == "--out" or word.startswith("--out="):
            skip = word == "--out"
            continue
        kept.append(re.sub(r"psgd_torch=.*", "psgd_torch=DIR", word))
    return kept


def _write(
    found: Found, limits: Limits, about: dict[str, Any], out: Path, name: str, *, json: bool, quiet: bool
) -> None:
    """Write the three files, and print the tables or the JSON."""
    slopes = found.growth
    content = report.document(found.rows, slopes, found.overheads, limits=limits, about=about)
    text = as_json(content)
    page = report.markdown(found.rows, slopes, found.overheads, about, f"{name}.png")
    figure = figures.draw(found.rows, found.overheads)
    try:
        write_text(out / f"{name}.json", text)
        write_text(out / f"{name}.md", page)
        write_figure(out / f"{name}.png", figure, dpi=130)
    except OSError as error:
        fail("bench", f"`--out {out}` cannot be written to ({error.strerror or error})", 1)
    if json and not quiet:
        typer.echo(text, nl=False)
    if json or quiet:
        return
    terminal = console()
    for table in report.tables(found.rows, slopes, found.overheads):
        show(terminal, table)
    terminal.print(report.LEGEND, markup=False)
    if found.interrupted:
        terminal.print("Interrupted: these are the results so far.")
    if found.incomplete:
        terminal.print("Not all could be reported: see the last column. --allow-noise reports what is noisy.")
    files = ", ".join(str(out / f"{name}.{ending}") for ending in ("json", "md", "png"))
    terminal.print(f"Wrote {files}", markup=False, soft_wrap=True)


def _list() -> None:
    print_names(
        {
            "preconditioners (-p)": {name: kind.label for name, kind in KINDS.items()},
            "peers (--peers)": {name: peer.package or "" for name, peer in registry().items()},
            "models (--model)": dict.fromkeys(MODELS, ""),
            "backends (--backend)": {name: f"needs {module}" for name, (module, _) in LIBRARIES.items()},
        }
    )
