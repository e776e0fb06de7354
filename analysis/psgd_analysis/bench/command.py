"""``psgd bench``: the command line of the measurement."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import machine
from ..backends import LIBRARIES, Unavailable
from ..documents import versions
from ..interrupts import until_interrupted
from ..options import Json, Quiet, listing, starting
from ..progress import progress
from ..reproduce import optimizers
from ..terminal import UsageError, fail, print_names
from .contenders import Absent, have_kernels
from .costs import KINDS
from .models import MODELS, prepared
from .options import at_least, chosen, peers_of, plan_of, shapes_of
from .output import ENDINGS, Found, Telling, write
from .peers import registry
from .run import Plan, run
from .steps import NAMES, Steps
from .timing import Clock, Limits

CLOCK: Clock = time.perf_counter
MIB = 2**20


EXAMPLES = (
    "psgd bench --quick",
    "psgd bench -p xmat -p lowrank --n 1e6 --rank 10",
    "psgd bench --shape 64x32x3x3 --peers none",
    "psgd bench --model lenet5 --backend torch -p diagonal",
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
    kernels: Annotated[
        str | None,
        typer.Option(
            help="psgd-core's fused kernels: on, off or both. [default: both; on for steps of models]"
        ),
    ] = None,
    peers: Annotated[
        str | None,
        typer.Option(
            help=f"all, none, or names with commas: of updates {', '.join(registry())}; of steps "
            f"{', '.join(NAMES)}. [default: all]"
        ),
    ] = None,
    peer_path: Annotated[
        list[str] | None, typer.Option(help="psgd_torch=DIR: a checkout of a peer that is not on PyPI.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"Whole steps of {', '.join(MODELS)}, beside other optimisers'; repeatable."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Rows of the model's batch. By default its own.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Rounds to begin with. [default: 15]")] = None,
    total: Annotated[
        float, typer.Option(help="Seconds of the whole run, of which each comparison gets a share.")
    ] = 300.0,
    budget: Annotated[
        float | None, typer.Option(help="Seconds of a comparison's rounds at most. [default: 60]")
    ] = None,
    copy_mib: Annotated[
        int | None, typer.Option(help="MiB of the copy that is the yardstick. [default: 256; 2048 on a GPU]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of all libraries. By default their own choice.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of pairs, starts and synthetic data.")] = 0,
    spread: Annotated[float, typer.Option(help="Limit of the interquartile range over the median.")] = 0.15,
    drift: Annotated[
        float, typer.Option(help="Limit of the drift of the copy bandwidth, or of gradients.")
    ] = 0.10,
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
    installed, and a large copy. Prints each table when it is measured, and writes bench.json, bench.md and
    bench.png at the end. Exits with 1 if something was too noisy to be reported, found no time, or failed.

    With --model, measures whole steps instead: PSGD with each -p, beside what a step must evaluate at least
    and, on torch, beside other optimisers. Give --n as well to measure updates too. With --shape and no -p,
    measures kronecker alone.
    """
    if names:
        _list()
        return
    # check the options
    try:
        shapes = shapes_of(shape or [], preconditioner or [], n or [])
        if shape and not preconditioner:
            preconditioner = ["kronecker"]
        steps_alone = bool(model) and not (n or shape)
        measured, others = peers_of(peers, peer_path or [], quick=quick)
        plan = plan_of(
            preconditioners=[] if steps_alone else preconditioner or [],
            n=n or (["32", "1e4"] if quick else ["1e6"]),
            ranks=rank or [10],
            shapes=shapes or [(64, 32, 3, 3) if quick else (1024, 1024)],
            dtypes=dtype or ["float32"],
            backends=backend or ["numpy"],
            kernels=kernels or "both",
            peers=measured,
            limits=_limits(repeats, budget, total, spread, drift, quick=quick),
            seed=seed,
        )
        for option, number in (("--threads", threads), ("--batch", batch), ("--copy-mib", copy_mib)):
            at_least(option, number, 1)
        kinds = chosen("--preconditioner", preconditioner or ["xmat"], KINDS)
        libraries = list(dict.fromkeys(setting.library for setting in plan.settings))
        steps = Steps(
            prepared(chosen("--model", model or [], MODELS), libraries, batch, seed),
            [(kind, r) for kind in kinds for r in (rank or [10] if kind == "lowrank" else [0])],
            others,
            seed,
            with_plain=kernels == "both",
        )
        steps.require_fit()
        if not name or Path(name).name != name:
            raise UsageError(f"`--name` must be a file name without a folder, got {name!r}")
        out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, Unavailable, Absent) as error:
        fail("bench", str(error))
    if steps_alone:
        plan.settings = []
    # fix copies and threads
    used = [*(setting.library for setting in plan.settings), *(one.library for one in steps.models)]
    gpu = any(library.device == "gpu" for library in used)
    plan.copy_bytes = MIB * (copy_mib or (16 if quick else 2048 if gpu else 256))
    plan.allow_noise = allow_noise
    plan.threads = threads or machine.available_cores()
    if threads is not None:
        machine.set_threads(threads)
    # measure and print, then write
    tell = Telling(shown=not (json_ or quiet))
    found = _measure(plan, steps, tell, shown=not quiet)
    about = _about(plan, steps, found, context.obj or [], gpu=gpu)
    try:
        text = write(found, plan.limits, about, out, name)
    except OSError as error:
        fail("bench", f"`--out {out}` cannot be written to ({error.strerror or error})", 1)
    if json_ and not quiet:
        typer.echo(text, nl=False)
    tell.end(found, [out / f"{name}.{ending}" for ending in ENDINGS])
    raise typer.Exit(130 if found.interrupted else int(found.incomplete))


def _limits(
    repeats: int | None, budget: float | None, total: float, spread: float, drift: float, *, quick: bool
) -> Limits:
    usual = Limits(repeats=5, least=0.001, budget=1.0) if quick else Limits()
    at_least("--repeats", repeats, usual.fewest)
    for option, number in (
        ("--spread", spread),
        ("--drift", drift),
        ("--budget", budget),
        ("--total", total),
    ):
        at_least(option, number, 0.0)
    return replace(
        usual,
        repeats=repeats or usual.repeats,
        budget=budget or usual.budget,
        total=total,
        spread=spread,
        drift=drift,
    )


def _measure(plan: Plan, steps: Steps, tell: Telling, *, shown: bool) -> Found:
    """Measure everything, and tell of each table; Ctrl-C stops and keeps the results so far."""
    found = Found()
    budget = plan.budget(CLOCK, len(steps.models))

    def work() -> None:
        for setting in plan.settings:
            with progress("bench", shown=shown) as tick:
                for row in run(plan, setting, budget, tick):
                    found.rows.append(row)
            tell.tables(found)
        for model in steps.models:
            with progress("bench", shown=shown) as tick:
                found.steps += steps.rows(plan, model, budget, tick)
            tell.tables(found)

    found.interrupted = until_interrupted(work)
    return found


def _about(plan: Plan, steps: Steps, found: Found, given: Sequence[str], *, gpu: bool) -> dict[str, Any]:
    """Return the context of the results: command, machine, versions."""
    packages = [peer.package for peer in plan.peers if peer.package and plan.settings]
    packages += [optimizers.about(name).package.replace("_", "-") for name in steps.others if steps.models]
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
        "seed": steps.seed,
        "kernels": (
            "in this psgd-core"
            if have_kernels("gpu" if gpu else "cpu")
            else "none in this psgd-core: plain code alone"
        ),
        "versions": versions([*machine.PACKAGES, *packages]),
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


def _list() -> None:
    print_names(
        {
            "preconditioners (-p)": {name: kind.label for name, kind in KINDS.items()},
            "peers (--peers)": {name: peer.package or "" for name, peer in registry().items()},
            "peers of --model": {name: optimizers.about(name).text for name in NAMES},
            "models (--model)": dict.fromkeys(MODELS, ""),
            "backends (--backend)": {name: f"needs {module}" for name, (module, _) in LIBRARIES.items()},
        }
    )
