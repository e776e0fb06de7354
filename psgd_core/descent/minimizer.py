"""`minimize`: the loop around `PSGD`, called and answering as `scipy.optimize.minimize` does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.library import Array, eps, require_alike
from ..arrays.numbers import real, shown, whole
from ..arrays.trees import Tree
from ..curvature import Exact, Forward, Probes, Source
from ..preconditioners import Dense, LowRank, Preconditioner
from ..preconditioners.placement import placed
from ..schedules import Schedule
from . import inputs
from .clips import Clip
from .loop import Progress, Run
from .presets import deterministic, stochastic
from .psgd import PSGD

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

_KEEP: Any = object()

PRESETS = ("deterministic", "stochastic")

DENSE = 500
"""The largest n for which `Dense` is the preconditioner by default: O(n^2) memory, O(n^3) per update."""


def minimize(
    fun: Callable | None,
    x0: Tree,
    args: tuple = (),
    *,
    grad: Callable | None = None,
    jac: Callable | bool | None = None,
    hvp: Callable | None = None,
    hess: Any = None,
    preset: str | PSGD = "deterministic",
    preconditioner: Preconditioner | None = None,
    lr: Schedule | None = None,
    step: Schedule | None = None,
    momentum: float | None = None,
    clip: Clip | tuple[Clip, ...] | float | None = _KEEP,
    weight_decay: float | None = None,
    source: Source | None = None,
    probes: Probes | None = None,
    every: int | None = None,
    probability: Schedule | None = None,
    sample: Callable[[np.random.Generator], Any] | None = None,
    rng: int | np.random.Generator = 0,
    tol: float | None = None,
    maxiter: int | None = None,
    callback: Callable | None = None,
    bounds: None = None,
    nonfinite: str = "skip",
    resume: Progress | None = None,
) -> OptimizeResult:
    """Minimise a function of one array, or of a tree of arrays, on whatever library they live.

    Parameters
    ----------
    fun : callable or None
        ``fun(x, *args)``, the value; (value, gradient) with ``jac=True``. It is evaluated once per iteration.
        None saves that, with clips that do not need it (the preset "stochastic").
    x0 : array of any shape, dict, list or tuple of arrays (nested), or numbers
        Where to start. Numbers and integers become NumPy float64. x is handed to every function in this
        shape, a copy that it may write to; what functions return may be the same buffer each time.
    args : tuple
        More arguments of all functions; they and samples are handed on as they are.
    grad : callable
        ``grad(x, *args)``, in the shape of x; `jac` is SciPy's name for it.
    hvp, hess : callable; callable, matrix or LinearOperator
        ``hvp(x, v, *args)``, the Hessian times v, v and the product in the shape of x; or the (n, n) Hessian,
        constant or ``hess(x, *args)``. Without either, forward differences of gradients.
    preset : "deterministic", "stochastic" or PSGD
        Settings to begin with; see `deterministic` and `stochastic`.
    preconditioner, lr, step, momentum, clip, weight_decay, source, probes, every, probability
        Settings in their place; see `PSGD` (where `step` is called `step_size`). The preconditioner is
        `Dense` up to n = 500 and ``LowRank(10)`` above.
    sample : callable, optional
        ``sample(rng)`` draws the sample z of a stochastic function, once per iteration; all functions then
        get it before `args`: ``fun(x, z, *args)``, ``hvp(x, v, z, *args)``.
    rng : int or numpy.random.Generator
        Draws probes, samples and coins. With a seed, iteration t draws from ``default_rng([seed, t])``, so
        that a resumed run repeats a whole one. A generator moves on; if anything raises, it is put back to
        where it was.
    tol : float, optional
        Stop when ``max|gradient| <= tol``: the square root of eps by default, and never if there are samples.
    maxiter : int, optional
        1000 by default.
    callback : callable, optional
        ``callback(intermediate_result=OptimizeResult(...))`` if its parameter has that name, with x, fun,
        jac, nit, nfev, njev, nhev, progress; else ``callback(x)``. After each iteration; StopIteration ends
        the run. It gets copies.
    bounds : None
        PSGD has none: anything else is refused.
    nonfinite : "skip" or "stop"
        What follows where a value or gradient holds NaN or Inf, as outside of a function's domain: the step
        is shortened, towards the last point where both were finite, and the point left out and counted; or
        the run ends with status 3. It does at once where x0 is such a point (but for stochastic functions,
        whose next sample is tried), and where every shorter step leads to one.
    resume : Progress, optional
        A result's `progress`, to go on from; x0 then only says the shape.

    Returns
    -------
    scipy.optimize.OptimizeResult
        x, fun, jac, nit, nfev, njev, nhev, success, status, message; `state`, the preconditioner's final
        state; `progress`, to resume from; `optimizer`, the PSGD that ran; `history`, a dict of NumPy arrays
        with one entry per iteration: nit, fun, grad (max|gradient|), lr, step, nfev, njev, nhev.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit each other; and whatever the functions and the callback raise, as it is.
        Then all that was given is as it was: x0, `resume`, and a generator too.
    """
    if bounds is not None:
        raise ValueError(
            f"`bounds` must be None, got {shown(bounds)}; PSGD has no constraints: transform the variables"
        )
    if not isinstance(nonfinite, str) or nonfinite not in ("skip", "stop"):
        raise ValueError(f"`nonfinite` must be 'skip' or 'stop', got {shown(nonfinite)}")
    for name, function in (("sample", sample), ("callback", callback)):
        if function is not None and not callable(function):
            raise TypeError(f"`{name}` must be callable, got {shown(function)}; pass a function")
    if not isinstance(rng, np.random.Generator):
        rng = whole("rng", rng, 0, "it is a seed, or a numpy.random.Generator")
    x, layout = inputs.parameters(x0)
    maxiter = 1000 if maxiter is None else whole("maxiter", maxiter, 0, "it is a number of iterations")
    if tol is None:
        tol = eps(x) ** 0.5 if sample is None else 0.0
    tol = real("tol", tol, "[0, inf)", "it bounds max|gradient|")
    _require_progress(resume, x)
    known = inputs.counted(layout, x, fun, grad, jac, hvp, hess)
    if preconditioner is None and not isinstance(preset, PSGD):
        preconditioner = Dense() if layout.size <= DENSE else LowRank(10)
    optimizer = _optimizer(
        preset,
        preconditioner,
        maxiter,
        lr=lr,
        step_size=step,
        momentum=momentum,
        weight_decay=weight_decay,
        source=source,
        probes=probes,
        every=every,
        probability=probability,
        **({} if clip is _KEEP else {"clip": clip}),
    )
    optimizer = replace(optimizer, preconditioner=placed(optimizer.preconditioner, layout.leaves()))
    if known.functions.hvp is None and isinstance(optimizer.source, Exact):
        optimizer = replace(optimizer, source=Forward())
    _require_values(optimizer, fun, sample)
    run = Run(
        optimizer=optimizer,
        known=known,
        layout=layout,
        x=x,
        sample=sample,
        args=args if isinstance(args, tuple) else (args,),
        rng=rng,
        tol=tol,
        maxiter=maxiter,
        stop_nonfinite=nonfinite == "stop",
        has_value=fun is not None,
    )
    with _put_back(rng):
        run.start(resume)
        return run.iterate(_reporter(callback))


@contextmanager
def _put_back(rng: int | np.random.Generator) -> Iterator[None]:
    """Put a generator back to where it was if anything raises: a run that failed has drawn nothing."""
    if not isinstance(rng, np.random.Generator):
        yield
        return
    before = rng.bit_generator.state
    try:
        yield
    except BaseException:
        rng.bit_generator.state = before
        raise


def _require_progress(resume: Any, x: Array) -> None:
    """Raise unless `resume` is None, or from a run on parameters like x."""
    if resume is None:
        return
    if not isinstance(resume, Progress):
        raise TypeError(f"`resume` must be a result's `progress`, got {shown(resume)}; pass result.progress")
    require_alike("resume.x", resume.x, "x0", x)
    if resume.x.shape != x.shape:
        raise ValueError(
            f"`resume` must have as many parameters as x0, {x.shape[0]}, got {resume.x.shape[0]}; "
            "give the x0 of its run"
        )


def _optimizer(
    preset: str | PSGD, preconditioner: Preconditioner | None, maxiter: int, **settings: Any
) -> PSGD:
    """Return the preset with the settings that are not None in their place."""
    given: dict[str, Any] = {k: s for k, s in settings.items() if s is not None or k == "clip"}
    if isinstance(preset, PSGD):
        if preconditioner is not None:
            given["preconditioner"] = preconditioner
        return replace(preset, **given)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"`preset` must be one of {PRESETS} or a PSGD, got {shown(preset)}")
    if preset == "stochastic":
        return stochastic(preconditioner, iterations=max(1, maxiter), **given)
    return deterministic(preconditioner, **given)


def _require_values(optimizer: PSGD, fun: Any, sample: Any) -> None:
    """Raise unless a clip that compares values has comparable ones."""
    if not optimizer._clip.needs_value:
        return
    if fun is None:
        raise ValueError(
            "`fun` must be given for a clip that compares values, got None; or take preset='stochastic'"
        )
    if sample is not None:
        raise ValueError(
            "`sample` must be None for a clip that compares values: those of two samples tell nothing; "
            "take preset='stochastic'"
        )


def _reporter(callback: Callable | None) -> Callable | None:
    """Return a function that calls `callback` as SciPy would, given the run."""
    if callback is None:
        return None
    try:
        named = set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except (TypeError, ValueError):  # builtins have no signature
        named = False
    if named:
        return lambda run: callback(intermediate_result=run.so_far())
    return lambda run: callback(run.point())
