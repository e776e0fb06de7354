"""`minimize`: the loop around `PSGD`, called and answering as `scipy.optimize.minimize` does."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..arrays.arguments import described, require_choice, require_count, require_number
from ..arrays.library import Array, eps, require_alike
from ..arrays.trees import Tree
from ..curvature import Probes, Source
from ..preconditioners import Dense, LowRank, Preconditioner, Replay
from ..preconditioners.naming import named
from ..preconditioners.pace import Memory
from ..preconditioners.placement import placed
from ..schedules import Schedule
from .clips import Clip
from .inputs import Function, Objective, parameters, require_unbounded
from .loop import Run
from .presets import deterministic, stochastic
from .progress import Progress
from .psgd import PSGD

if TYPE_CHECKING:
    from .result import MinimizeResult

Preset = Literal["deterministic", "stochastic"]
"""Names of the settings to begin with."""

Nonfinite = Literal["skip", "stop"]
"""What follows where a value or gradient holds NaN or Inf."""

_KEEP: Any = object()

DENSE = 500
"""The largest n for which `Dense` is the preconditioner by default: O(n^2) memory, O(n^3) per update."""


def minimize(
    fun: Function | None,
    x0: Tree,
    args: tuple[Any, ...] = (),
    *,
    grad: Function | None = None,
    jac: Function | bool | str | None = None,
    hvp: Function | None = None,
    hess: Any = None,
    preset: Preset | PSGD = "deterministic",
    preconditioner: Preconditioner[Any] | type[Preconditioner[Any]] | str | None = None,
    lr: Schedule | None = None,
    step: Schedule | None = None,
    memory: Memory | None = None,
    momentum: float | None = None,
    clip: Clip | tuple[Clip, ...] | float | None = _KEEP,
    weight_decay: float | None = None,
    source: Source | None = None,
    replay: Replay | None = _KEEP,
    probes: Probes | None = None,
    every: int | None = None,
    probability: Schedule | None = None,
    sample: Callable[[np.random.Generator], Any] | None = None,
    rng: int | np.random.Generator = 0,
    tol: float | None = None,
    maxiter: int | None = None,
    maxfun: int | None = None,
    callback: Function | None = None,
    bounds: Any = None,
    disp: bool = False,
    nonfinite: Nonfinite = "skip",
    resume: Progress | None = None,
) -> MinimizeResult:
    """Minimise a function of one array, or of a tree of arrays, of any library.

    Parameters
    ----------
    fun : callable or None
        ``fun(x, *args)``, the value; (value, gradient) with ``jac=True``. It is evaluated once per iteration.
        None saves that, with clips that do not need it (the preset "stochastic").
    x0 : array of any shape, dict, list or tuple of arrays (nested), or numbers
        Where to start. Numbers and integers become NumPy float64. Every function gets x in this shape, as a
        copy that it may write to, and may return the same buffer each time.
    args : tuple
        More arguments of all functions; they and samples are passed on unchanged.
    grad : callable
        ``grad(x, *args)``, in the shape of x; `jac` is SciPy's name for it. Without one, or for
        ``jac="2-point"``, NumPy arrays get forward differences of values, n of them per gradient, with
        ``jac="3-point"`` central ones, 2 n: SciPy's `approx_derivative`. P is fitted less exactly then.
    hvp, hess : callable; callable, matrix or LinearOperator
        ``hvp(x, v, *args)``, the Hessian times v, v and the product in the shape of x; or the (n, n) Hessian,
        constant or ``hess(x, *args)``. Without either, forward differences of gradients.
    preset : "deterministic", "stochastic" or PSGD
        Settings to begin with; see `deterministic` and `stochastic`.
    preconditioner, lr, step, memory, momentum, clip, weight_decay, source, replay, probes, every, probability
        Settings in place of the preset's; see `PSGD` (where `step` is called `step_size`). The preconditioner
        is `Dense` up to n = 500 and ``LowRank(10)`` above by default; a name or class, "kronecker" or
        ``Kronecker``, is made for the arrays of x0.
    sample : callable, optional
        ``sample(rng)`` draws the sample z of a stochastic function, once per iteration; all functions then
        get it before `args`: ``fun(x, z, *args)``, ``hvp(x, v, z, *args)``.
    rng : int or numpy.random.Generator
        Draws probes, samples and coins. With a seed, iteration t draws from ``default_rng([seed, t])``, so
        that a resumed run equals an uninterrupted one. A generator moves on; if anything raises, it is put
        back to where it was.
    tol : float, optional
        Stop when ``max|gradient| <= tol``: the square root of eps by default, its cube root where gradients
        are differences of values, and never if there are samples.
    maxiter : int, optional
        1000 by default.
    maxfun : int, optional
        Stop after so many evaluations of `fun` (of `grad` without it), those for differences of values too.
        Looked at once per iteration: the last one may go beyond.
    callback : callable, optional
        ``callback(intermediate_result=OptimizeResult(...))`` if its parameter has that name, with x, fun,
        jac, nit, nfev, njev, nhev, progress; else ``callback(x)``. After each iteration; StopIteration ends
        the run. It gets copies.
    bounds : None, or pairs of None and infinities
        PSGD has none: anything else is refused.
    disp : bool
        Print how the run ended.
    nonfinite : "skip" or "stop"
        What follows where a value or gradient holds NaN or Inf, as outside of a function's domain. "skip"
        shortens the step, towards the last point where both were finite, and leaves the point out and counts
        it; "stop" ends the run with status 3. So does "skip" where x0 is such a point (a stochastic function
        gets its next sample first), and where every shorter step leads to one.
    resume : Progress, optional
        A result's `progress`, to go on from; x0 then only sets the shape.

    Returns
    -------
    MinimizeResult
        A `scipy.optimize.OptimizeResult` with x, fun, jac, nit, nfev, njev, nhev, success, status, message;
        `state`, the preconditioner's final state; `progress`, to resume from; `optimizer`, the PSGD that ran;
        `history`, a dict of NumPy arrays with one entry per iteration: nit, fun, grad (max|gradient|), lr,
        step, nfev, njev, nhev.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit each other. Whatever the functions and the callback raise passes through
        unchanged. In either case x0, `resume` and a generator are left as they were.
    """
    require_unbounded(bounds)
    require_choice("nonfinite", nonfinite, get_args(Nonfinite))
    for name, function in (("sample", sample), ("callback", callback)):
        if function is not None and not callable(function):
            raise TypeError(f"`{name}` must be callable, got {described(function)}; pass a function")
    if not isinstance(rng, np.random.Generator):
        rng = require_count("rng", rng, "it is a seed, or a numpy.random.Generator", 0, most=math.inf)
    # the function on vectors, and when to stop
    x, layout = parameters(x0)
    maxiter = 1000 if maxiter is None else require_count("maxiter", maxiter, "it counts iterations", 0)
    most = math.inf if maxfun is None else require_count("maxfun", maxfun, "it counts evaluations", 0)
    _require_progress(resume, x)
    objective = Objective(x, layout, fun, grad, jac, hvp, hess)
    if tol is None:
        tol = 0.0 if sample is not None else eps(x) ** (1 / 2 if objective.noise is None else 1 / 3)
    tol = require_number("tol", tol, "[0, inf)", "it bounds max|gradient|")
    # the optimiser
    if preconditioner is None and not isinstance(preset, PSGD):
        preconditioner = Dense() if layout.size <= DENSE else LowRank(10)
    if preconditioner is not None:
        preconditioner = named(preconditioner, layout.leaves())
    optimizer = _optimizer(
        preset,
        layout.size,
        maxiter,
        preconditioner=preconditioner,
        lr=lr,
        step_size=step,
        memory=memory,
        momentum=momentum,
        weight_decay=weight_decay,
        source=source,
        probes=probes,
        every=every,
        probability=probability,
        **{name: value for name, value in (("clip", clip), ("replay", replay)) if value is not _KEEP},
    )
    optimizer = replace(optimizer, preconditioner=placed(optimizer.preconditioner, layout.leaves()))
    if objective.functions.hvp is None:
        optimizer = replace(optimizer, source=optimizer.source.without_products(objective.noise))
    if optimizer.needs_value and fun is None:
        raise ValueError("`fun` must be given for a clip that compares values, got None; or change the clip")
    if optimizer.needs_value and sample is not None:
        raise ValueError("`sample` must be None for a clip that compares values; take preset='stochastic'")
    run = Run(
        optimizer=optimizer,
        objective=objective,
        sample=sample,
        args=args if isinstance(args, tuple) else (args,),
        rng=rng,
        tol=tol,
        maxiter=maxiter,
        maxfun=most,
        stop_nonfinite=nonfinite == "stop",
    )
    generator: Any = rng if isinstance(rng, np.random.Generator) else None
    before = generator and generator.bit_generator.state
    try:
        run.start(resume)
        result = run.iterate(_reporter(callback))
    except BaseException:
        if generator is not None:  # a run that failed has drawn nothing
            generator.bit_generator.state = before
        raise
    if disp:
        from .result import report

        print(report(result))
    return result


def _require_progress(resume: Any, x: Array) -> None:
    """Raise unless `resume` is None, or from a run on parameters like x."""
    if resume is None:
        return
    if not isinstance(resume, Progress):
        raise TypeError(f"`resume` must be the `progress` of a result, got {described(resume)}")
    require_alike("resume.x", resume.x, "x0", x)
    if resume.x.shape != x.shape:
        raise ValueError(f"`resume` must have the parameters of x0, {x.shape[0]}, got {resume.x.shape[0]}")


def _optimizer(preset: Preset | PSGD, n: int, maxiter: int, **settings: Any) -> PSGD:
    """Return the preset with the settings that are not None in their place."""
    given = {
        name: value for name, value in settings.items() if value is not None or name in ("clip", "replay")
    }
    if isinstance(preset, PSGD):
        return replace(preset, **given)
    require_choice("preset", preset, get_args(Preset), "or give a PSGD")
    if preset == "stochastic":
        return stochastic(iterations=max(1, maxiter), **given)
    return deterministic(n=n, **given)


def _reporter(callback: Function | None) -> Callable[[Run], object] | None:
    """Return a function of the run that calls `callback` as SciPy would."""
    if callback is None:
        return None
    call = callback
    try:
        named = set(inspect.signature(call).parameters) == {"intermediate_result"}
    except (TypeError, ValueError):  # builtins have no signature
        named = False
    if named:
        return lambda run: call(intermediate_result=run.so_far())
    return lambda run: call(run.point())
