"""The iteration (1), one step at a time, as pure functions over an explicit state."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays import trees
from ..arrays.library import Array, device_of, known, namespace, require_alike, select
from ..arrays.numbers import as_float, real, shown, whole
from ..arrays.trees import Tree, owned
from ..arrays.vectors import finite
from ..curvature import Exact, Functions, Gaussian, Probes, Source
from ..preconditioners import Dense, Preconditioner
from ..preconditioners.placement import require_placed
from ..schedules import Schedule, require_schedule, value_at
from . import doors
from .clips import Clip, Point


class PSGDState(NamedTuple):
    """State of `PSGD`: a nested NamedTuple of arrays, all of the library, dtype and device of x."""

    preconditioner: Any  # the preconditioner's state
    momentum: Tree  # (n,) m, or () without momentum
    clip: Any  # the clip's memory
    source: Any  # the source's memory
    value: Array  # 0-d: the function where the last step started, NaN if not known
    count: Array  # 0-d int32: steps done
    skipped: Array  # 0-d int32: steps left out (NaN or Inf in value or gradient)


@dataclass(frozen=True)
class PSGD:
    """``x <- x - lr P m``, eq. (1), with P fitted on curvature pairs along the way.

    One step is: fit P on the pair (v, h); average the gradients, ``m <- beta m + (1 - beta) g``; clip
    ``P m``; move. `update` is that step as a pure function of numbers already at hand, `step` asks the
    functions for them; both trace under ``jax.jit`` as a whole. Every setting may be left alone;
    `deterministic` and `stochastic` give settings that belong together. An instance is hashable configuration
    without arrays.

    Parameters
    ----------
    preconditioner : Preconditioner
        The group that P is fitted on.
    lr : float or schedule
        mu of eq. (1): 1 is Newton's step once P is fitted. See `psgd_core.schedules`.
    step_size : float or schedule
        Of the fitting, in (0, 1): what `minimize` calls `step`, which is the name of a method here.
    momentum : float
        beta, in [0, 1). The weight of the past is ``min(beta, t / (t + 1))``: a plain mean to begin with, so
        that m is unbiased from the first step on, where it is g.
    clip : Clip, tuple of Clips, float or None
        The limit on ``P m``; a number is `clips.Norm` of that size.
    weight_decay : float
        w >= 0.
    decay : {"decoupled", "l2"}
        ``x <- (1 - lr w) x - lr P m``; or g + w x in place of g, which P then sees neither in h nor
        elsewhere.
    source : Source
        Where `step` takes the pairs from.
    probes : Probes
        What `minimize` draws.
    every : int
        P is fitted in each `every`-th step: see `due`.
    probability : float or schedule
        P is fitted with this probability, in (0, 1]: see `due`. The paper takes 0.1.
    """

    preconditioner: Preconditioner = field(default_factory=Dense)
    lr: Schedule = 1.0
    step_size: Schedule = 0.1
    momentum: float = 0.0
    clip: Clip | tuple[Clip, ...] | float | None = None
    weight_decay: float = 0.0
    decay: Literal["decoupled", "l2"] = "decoupled"
    source: Source = field(default_factory=Exact)
    probes: Probes = field(default_factory=Gaussian)
    every: int = 1
    probability: Schedule = 1.0

    def __post_init__(self) -> None:
        for name, kind in (("preconditioner", Preconditioner), ("source", Source), ("probes", Probes)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(
                    f"`{name}` must be a {kind.__name__}, got {shown(getattr(self, name))}; make one of those"
                )
        kept: dict[str, Any] = {
            "lr": require_schedule("lr", self.lr, 0.0, math.inf),
            "step_size": require_schedule("step_size", self.step_size, 0.0, 1.0),
            "momentum": real("momentum", self.momentum, "[0, 1)", "0 takes the gradient alone"),
            "weight_decay": real("weight_decay", self.weight_decay, "[0, inf)", "0 has none"),
            "every": whole("every", self.every, 1, "1 fits P in every step"),
            "clip": doors.as_clip(self.clip),
        }
        if not isinstance(self.decay, str) or self.decay not in ("decoupled", "l2"):
            raise ValueError(f"`decay` must be 'decoupled' or 'l2', got {shown(self.decay)}")
        if as_float(self.probability) == 1:
            kept["probability"] = 1.0
        else:
            kept["probability"] = require_schedule("probability", self.probability, 0.0, 1.0)
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    # -- the loop's three verbs ------------------------------------------------------------------------

    def init(
        self,
        x: Tree,
        *,
        scale: float | None = None,
        rng: Any = None,
        functions: Functions | None = None,
        v: Array | None = None,
    ) -> PSGDState:
        """Return the state to start from at x.

        Parameters
        ----------
        x : array or tree of arrays
            The parameters: float32 or float64.
        scale, rng
            As in the preconditioner's `init`: without `scale`, the first pair sets it.
        functions, v
            For `Secant`, which evaluates one gradient beside x, in direction v.
        """
        layout = trees.structure(x, "x")
        require_placed(self.preconditioner, layout.leaves())
        flat = layout.flatten(x, "x")
        xp, device = namespace(flat), device_of(flat)
        if functions is not None:
            functions = doors.on_vectors(functions, layout)
        return PSGDState(
            preconditioner=self.preconditioner.init(layout.size, flat, scale=scale, rng=rng),
            momentum=xp.zeros_like(flat) if self.momentum > 0 else (),
            clip=self._clip.init(flat),
            source=self.source.init(functions, flat, v),
            value=xp.full_like(flat[0], float("nan")),
            count=xp.zeros((), dtype=xp.int32, device=device),
            skipped=xp.zeros((), dtype=xp.int32, device=device),
        )

    def update(
        self,
        state: PSGDState,
        x: Tree,
        g: Tree,
        *,
        pair: tuple[Tree | None, Tree] | None = None,
        value: Array | None = None,
        fit: Array | None = None,
    ) -> tuple[Tree, PSGDState]:
        """Return (x, state) after one step from numbers at hand; pure, and without asking the device.

        Parameters
        ----------
        state : PSGDState
        x, g : array or tree
            Parameters, and the gradient there, of the same structure.
        pair : (v, h), optional
            Of shape (n,) or (n, k), or trees as x. None leaves P as it is; with v alone None, it is
            integrated out.
        value : array, 0-d, optional
            The function at x; `TrustRadius` needs it.
        fit : array, 0-d bool, optional
            Whether to use the pair, where that is known on the device alone.

        Notes
        -----
        A gradient or value that is not finite moves nothing and is counted in ``state.skipped``.
        """
        doors.require_state(state)
        layout = trees.structure(x, "x")
        flat, slope = layout.flatten(x, "x"), layout.flatten(g, "g")
        require_alike("g", slope, "x", flat)
        here, usable, state = self.observe(state, Point(flat, slope, self._value(value, state.value)))
        if pair is not None:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"`pair` must be (v, h), got {shown(pair)}; give the probe and its product")
            v = None if pair[0] is None else doors.vectors(layout, pair[0], "v")
            pair = (v, doors.vectors(layout, pair[1], "h"))
        if fit is not None:
            fit = doors.as_flag("fit", fit)
        flat, state = self.advance(state, here, usable, pair, fit)
        return layout.unflatten(flat), state

    def step(
        self,
        state: PSGDState,
        x: Tree,
        functions: Functions,
        v: Array | None = None,
        *,
        fit: bool | Array = True,
    ) -> tuple[Tree, PSGDState]:
        """Return (x, state) after one step: value, gradient and pair are asked for, on the same sample.

        Parameters
        ----------
        state : PSGDState
        x : array or tree
        functions : Functions
            Of this step's sample: ``functions.at(sample)``. They get x in its structure, and v as well.
        v : array, shape (n,) or (n, k), optional
            Probes: ``optimizer.probes.draw(rng, x)`` for x of shape (n,). Only `Secant` and
            an integrated `Whitening` do without.
        fit : bool or 0-d bool array
            Whether to fit P in this step. A Python bool saves the pair; an array only decides what is kept.
        """
        doors.require_state(state)
        if not isinstance(functions, Functions):
            raise TypeError(f"`functions` must be a Functions, got {shown(functions)}; give it the gradient")
        layout = trees.structure(x, "x")
        flat, functions = layout.flatten(x, "x"), doors.on_vectors(functions, layout)
        value, g = functions.value_and_gradient(flat)
        trial = Point(flat, g, self._value(value, state.value))
        here, usable, state = self.observe(state, trial)
        if v is not None:
            doors.require_probes(v, flat)
        pair, fit = None, doors.as_flag("fit", fit)
        if fit is not False:
            pair, state = self.ask(state, trial, here, functions, v)
        flat, state = self.advance(state, here, usable, pair, None if isinstance(fit, bool) else fit)
        return layout.unflatten(flat), state

    def due(self, iteration: int, rng: Any = None) -> bool:
        """Return whether to fit P in this iteration, by `every` and `probability`; on the host.

        Parameters
        ----------
        iteration : int
            0, 1, ...
        rng : numpy.random.Generator
            Tosses the coin; not asked where `probability` is 1. The first iteration always fits.
        """
        iteration = whole("iteration", iteration, 0, "count from 0")
        if iteration % self.every:
            return False
        chance = value_at(self.probability, iteration)
        chance = real("probability", chance, "[0, inf)", f"it is that of iteration {iteration}")
        if iteration == 0 or chance >= 1:
            return True
        if not isinstance(rng, np.random.Generator):
            raise TypeError(
                f"`rng` must be a numpy.random.Generator where `probability` is below 1, got {shown(rng)}; "
                "make one with numpy.random.default_rng(seed)"
            )
        return bool(rng.random() < chance)

    # -- the parts of a step, on vectors ---------------------------------------------------------------

    def observe(self, state: PSGDState, trial: Point) -> tuple[Point, Array, PSGDState]:
        """Return (where to step from, whether it is finite, state), given a point evaluated: vectors only."""
        xp = namespace(trial.x)
        usable, skipped = finite(trial.g), state.skipped
        if self._clip.needs_value:
            usable = usable & xp.isfinite(trial.value)
        if known(usable) is not True:
            skipped = skipped + (1 - xp.astype(usable, xp.int32))
        here, usable, clip = self._clip.judge(state.clip, trial, usable)
        return here, usable, state._replace(clip=clip, value=here.value, skipped=skipped)

    def ask(
        self, state: PSGDState, trial: Point, here: Point, functions: Functions, v: Array | None
    ) -> tuple[tuple[Array | None, Array], PSGDState]:
        """Return (pair, state): vectors only."""
        point = trial if self.source.at_trial else here
        if v is None and self.source.needs_probes:
            raise ValueError("`v` must be given, got None; draw probes with `optimizer.probes.draw(rng, x)`")
        g = self._average(state, point.g) if self.source.of_momentum else point.g
        pair = self.source.pairs(functions, point.x, g, v, state.source)
        return pair, state._replace(source=self.source.remember(state.source, point.x, point.g))

    def advance(
        self,
        state: PSGDState,
        here: Point,
        usable: Array,
        pair: tuple[Array | None, Array] | None,
        fit: Array | None = None,
    ) -> tuple[Array, PSGDState]:
        """Return (x, state) after fitting P and moving: vectors only."""
        x, g = here.x, here.g
        xp = namespace(x)
        t, fitted = 0, state.preconditioner
        if callable(self.lr) or callable(self.step_size):
            t = xp.astype(state.count, x.dtype)
        if pair is not None:
            fitted = self.preconditioner.update(fitted, *pair, doors.rate("step_size", self.step_size, t, x))
            fitted = fitted if fit is None else trees.where(fit, fitted, state.preconditioner)
        if self.weight_decay > 0 and self.decay == "l2":
            g = g + self.weight_decay * x
        if known(usable) is not True:
            g = xp.where(usable, g, xp.zeros_like(g))
        m = self._average(state, g)
        move, clip = self._clip.limit(state.clip, self.preconditioner.precondition(fitted, m))
        if self.weight_decay > 0 and self.decay == "decoupled":
            move = move + self.weight_decay * x
        new = x - doors.rate("lr", self.lr, t, x) * move
        passed = usable & finite(new)
        moved = select(passed, new, x)
        # not the array that somebody else holds: what comes back may be written to
        return owned(x) if moved is x else moved, state._replace(
            preconditioner=fitted,
            momentum=trees.where(passed, m, state.momentum) if self.momentum > 0 else (),
            clip=trees.where(passed, clip, state.clip),
            count=state.count + 1,
        )

    def _average(self, state: PSGDState, g: Array) -> Array:
        """Return the momentum after g."""
        return averaged(state.momentum, g, state.count, self.momentum) if self.momentum > 0 else g

    @property
    def _clip(self) -> Clip:
        """The clip, as `__post_init__` left it."""
        assert isinstance(self.clip, Clip)
        return self.clip

    def _value(self, value: Any, like: Array) -> Array:
        """Return the function's value as a 0-d array like another; NaN if None."""
        if value is None and self._clip.needs_value:
            raise ValueError(
                "`value` must be given for a clip that compares values, got None; pass the function's "
                "value, or use clips.Running"
            )
        return doors.value_like(value, like)


def averaged(past: Array, g: Array, count: Array, momentum: float | Array) -> Array:
    """Return the mean of the gradients after g, the one before being `past` and of `count` of them."""
    xp = namespace(g)
    t = xp.astype(count, g.dtype)
    weight = xp.minimum(t / (t + 1), 0 * t + momentum)
    return weight * past + (1 - weight) * g
