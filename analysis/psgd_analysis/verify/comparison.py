"""`psgd verify --compare-geometries`: the accuracy of each geometry, by updates, seconds and precision.

One indefinite Hessian of each condition number from 10 to 10^6, its exact expectation in every update,
`Dense` at 0.9 times the geometry's stable step (`convergence.stable_step`). Distances are measured in float64
whatever the fit's precision. For bfloat16 all that is kept, Q and the pairs, is rounded to it, and the
arithmetic is float32, as on hardware that has the type (torch does the rounding; without it there is none).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import psgd_core as psgd
from psgd_core import convergence
from psgd_core.preconditioners import GEOMETRIES, GeometryName

from ..documents import plain, versions
from ..look import COLORS, finish
from ..problems import exact_pairs, hessians
from .report import DIGITS

KAPPAS = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
PRECISIONS = ("float64", "float32", "bfloat16")
UPDATES, N, SHARE = 400, 16, 0.9
YLABEL = "distance to the exact target"

LOOKS: dict[str, dict[str, Any]] = {
    "EQ": {"color": COLORS["black"]},
    "QE": {"color": COLORS["grey"]},
    "QE-symmetric": {"color": COLORS["grey"], "linestyle": (0, (1, 1.5))},
    "QEQ": {"color": COLORS["orange"]},
    "Q0.5EQ1.5": {"color": COLORS["blue"]},
    "QUAD": {"color": COLORS["green"]},
    "QEP": {"color": COLORS["purple"]},
    "QUAD4P": {"color": COLORS["green"], "linestyle": (0, (4, 1.5))},
    "PRO4P": {"color": COLORS["sky"], "linestyle": (0, (4, 1.5))},
    "Lyapunov": {"color": COLORS["vermilion"], "linewidth": 2.2},
}
"""Colour and line of each geometry; dashed where P is fitted itself."""


def cases() -> Iterator[tuple[GeometryName, float, str]]:
    """Return (geometry, kappa, precision) of all runs; without torch there is no bfloat16."""
    import importlib.util

    there = PRECISIONS if importlib.util.find_spec("torch") else PRECISIONS[:2]
    return ((g, kappa, dtype) for dtype in there for kappa in KAPPAS for g in GEOMETRIES)


def compare(seed: int) -> Iterator[dict[str, Any]]:
    """Yield a run for each of `cases`: updates, distances and seconds at the checkpoints."""
    for geometry, kappa, dtype in cases():
        yield _run(geometry, kappa, dtype, seed)


def _run(geometry: GeometryName, kappa: float, dtype: str, seed: int) -> dict[str, Any]:
    hessian = hessians.dense(N, kappa, np.random.default_rng(seed), indefinite=True)
    hessian = hessian / kappa**0.5  # eigenvalues on both sides of 1
    target, pair = convergence.target(hessian), exact_pairs(hessian)
    kept: Callable[[Any], Any] = _bfloat16 if dtype == "bfloat16" else lambda x: x
    work = "float64" if dtype == "float64" else "float32"
    v, h = kept(pair.v.astype(work)), kept(pair.h.astype(work))
    p, step = psgd.Dense(geometry=geometry), SHARE * convergence.stable_step(kappa, geometry)
    state, made, spent = p.init(N, v), 0, 0.0
    distances, seconds = [], []
    with np.errstate(all="ignore"):  # some geometries lose P in float32, which is a result
        for stop in _checkpoints():
            start = time.perf_counter()
            for _ in range(made, stop):
                state = p.update(state, v, h, step)
                state = state._replace(q=state.q._replace(blocks=tuple(map(kept, state.q.blocks))))
            spent, made = spent + time.perf_counter() - start, stop
            wide = state._replace(
                q=state.q._replace(blocks=tuple(np.asarray(b, "float64") for b in state.q.blocks)),
                held=tuple(np.asarray(x, "float64") for x in state.held),
                damping=np.asarray(state.damping, "float64"),
            )
            distances.append(float(convergence.distance(p.apply(wide, np.eye(N)), target)))
            seconds.append(spent)
    return {
        "geometry": geometry,
        "kappa": kappa,
        "dtype": dtype,
        "step": step,
        "updates": _checkpoints(),
        "distance": distances,
        "seconds": seconds,
    }


def _checkpoints() -> list[int]:
    """Return the numbers of updates after which distances are measured."""
    return [int(t) for t in np.unique(np.geomspace(1, UPDATES, 40).astype(int))]


def _bfloat16(x: np.ndarray) -> np.ndarray:
    """Return float32 numbers rounded to bfloat16."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(x)).to(torch.bfloat16).to(torch.float32).numpy()


def as_dict(
    runs: list[dict[str, Any]], seed: int, command: Sequence[str], seconds: float, interrupted: bool
) -> dict[str, Any]:
    """Return everything in JSON's types; numbers that are not finite become None."""
    data = {
        "schema": 1,
        "program": "psgd verify --compare-geometries",
        "command": list(command),
        "versions": versions(),
        "seed": seed,
        "settings": {"n": N, "share of the stable step": SHARE},
        "seconds": seconds,
        "interrupted": interrupted,
        "runs": runs,
    }
    return plain(data, DIGITS)


# -- the figure ------------------------------------------------------------------------------------------


def page(runs: list[dict[str, Any]], seed: int) -> Any:
    """Return a matplotlib `Figure`: a row per precision; by updates, by seconds, over condition numbers."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    there = [dtype for dtype in PRECISIONS if any(run["dtype"] == dtype for run in runs)]
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(17.5, 3.9 * len(there) + 0.7), dpi=90, layout=layout)
    grid = figure.subplots(len(there), 4, squeeze=False)
    for row, dtype in zip(grid, there, strict=True):
        mine = [run for run in runs if run["dtype"] == dtype]
        _curves(row[0], mine, 1e2, "updates", f"{dtype}: κ = 10²")
        _curves(row[1], mine, 1e4, "updates", f"{dtype}: κ = 10⁴")
        _curves(row[2], mine, 1e4, "seconds", f"{dtype}: κ = 10⁴, by time")
        _ends(row[3], mine, f"{dtype}: after {UPDATES} updates")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    caption = (
        f"psgd verify --compare-geometries: Dense, n = {N}, exact expectation of an indefinite H, "
        f"{SHARE} times the stable step, seed {seed}"
    )
    figure.suptitle(caption, fontsize=11, x=0.01, ha="left")
    return figure


def _curves(ax: Any, runs: list[dict[str, Any]], kappa: float, across: str, title: str) -> None:
    for run in runs:
        if run["kappa"] == kappa:
            ax.loglog(run[across], run["distance"], label=run["geometry"], **_look(run["geometry"]))
    finish(ax, title, across, YLABEL)


def _ends(ax: Any, runs: list[dict[str, Any]], title: str) -> None:
    for geometry in GEOMETRIES:
        mine = [run for run in runs if run["geometry"] == geometry]
        ends = [run["distance"][-1] for run in mine]
        ax.loglog([run["kappa"] for run in mine], ends, marker="o", markersize=3.5, **_look(geometry))
    finish(ax, title, "condition number κ", YLABEL)


def _look(geometry: str) -> dict[str, Any]:
    return {"linewidth": 1.4} | LOOKS[geometry]
