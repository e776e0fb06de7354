"""The iteration (1), one step at a time, as pure functions over an explicit state."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from ..arrays import trees
from ..arrays.arguments import described, keep, require_choice, require_count, require_number
from ..arrays.brief import Brief
from ..arrays.library import Array, device_of, known, namespace, require_alike, select
from ..arrays.trees import Tree, owned
from ..arrays.vectors import finite, require_vectors
from ..curvature import Exact, Functions, Gaussian, Probes, Source, Whitening
from ..preconditioners import Dense, Preconditioner, Replay
from ..preconditioners.naming import named
from ..preconditioners.pace import Memory, require_memory
from ..preconditioners.placement import require_placed
from ..preconditioners.replay import fitted
from ..schedules import Schedule, is_due, require_schedule, value_at
from .clips import Clip, Point, as_clip
from .inputs import flag_of, on_vectors, rate, require_state, toss, value_like, vectors
from .momentum import averaged
from .state import PSGDState

Decay = Literal["decoupled", "l2"]
"""How `PSGD` decays weights."""

Pair = tuple[Array | None, Array] | None
"""(v, h), v None where it is integrated out; None leaves P alone."""


@dataclass(frozen=True, repr=False)
class PSGD(Brief):
    """``x <- x - lr P m``, eq. (1), with P fitted on curvature pairs along the way.

    One step is: fit P on the pair (v, h); average the gradients, ``m <- beta m + (1 - beta) g``; clip
    ``P m``; move. `update` is that step as a pure function of gradient and pair, `step` evaluates them by the
    functions; both trace under ``jax.jit``. `deterministic` and `stochastic` are settings that go together.

    Parameters
    ----------
    preconditioner : Preconditioner, its class or name
        The group that P is fitted on; "dense" and ``Dense`` stand for ``Dense()``.
    lr : float or schedule
        mu of eq. (1): 1 is Newton's step once P is fitted.
    step_size : float or schedule
        Of the fitting, in (0, 1): what `minimize` calls `step`, which is the name of a method here.
    memory : float or "all"
        How many pairs P remembers, where the preconditioner takes a memory and no step (`Kalman`).
    momentum : float
        beta, in [0, 1). The past weighs ``min(beta, t / (t + 1))``: m is unbiased from the first step on.
    clip : Clip, tuple of Clips, float or None
        The limit on ``P m``; a number is `clips.Norm` of that size.
    weight_decay : float
        w >= 0.
    decay : {"decoupled", "l2"}
        ``x <- (1 - lr w) x - lr P m``; or g + w x in place of g, which has no part in the pairs.
    source : Source
        Where `step` takes the pairs from.
    replay : Replay, optional
        Fits each pair together with some of those before it.
    probes : Probes
        How `minimize` draws them.
    every, probability : int; float or schedule
        P is fitted in each `every`-th step, with this probability, in (0, 1]; see `due`. The paper takes 0.1.
    """

    preconditioner: Preconditioner[Any] = field(default_factory=Dense)
    lr: Schedule = 1.0
    step_size: Schedule = 0.1
    memory: Memory = "all"
    momentum: float = 0.0
    clip: Clip | tuple[Clip, ...] | float | None = None
    weight_decay: float = 0.0
    decay: Decay = "decoupled"
    source: Source = field(default_factory=Exact)
    replay: Replay | None = None
    probes: Probes = field(default_factory=Gaussian)
    every: int = 1
    probability: Schedule = 1.0

    def __post_init__(self) -> None:
        kinds = {"source": Source, "probes": Probes, "replay": Replay}
        for name, kind in kinds.items():
            given = getattr(self, name)
            if not isinstance(given, kind) and (given is not None or name != "replay"):
                ending = f"call it: {given.__name__}()" if isinstance(given, type) else "make one"
                raise TypeError(f"`{name}` must be a {kind.__name__}, got {described(given)}; {ending}")
        if self.replay and isinstance(self.source, Whitening) and self.source.integrated:
            raise ValueError("`replay` must be None for Whitening(integrated=True), which has no v to keep")
        require_choice("decay", self.decay, get_args(Decay))
        keep(
            self,
            preconditioner=named(self.preconditioner),
            lr=require_schedule("lr", self.lr, "(0, inf)"),
            step_size=require_schedule("step_size", self.step_size, "(0, 1)"),
            memory=require_memory(self.memory),
            momentum=require_number("momentum", self.momentum, "[0, 1)", "0 takes the gradient alone"),
            clip=as_clip(self.clip),
            weight_decay=require_number("weight_decay", self.weight_decay, "[0, inf)", "0 is no decay"),
            every=require_count("every", self.every, "1 fits P in every step"),
            probability=require_schedule("probability", self.probability, "(0, 1]"),
        )

    @property
    def needs_value(self) -> bool:
        """Whether the clip compares the function's values."""
        return self._clip.needs_value

    # -- the loop's verbs ------------------------------------------------------------------------------

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
            functions = on_vectors(functions, layout)
        return PSGDState(
            preconditioner=self.preconditioner.init(layout.size, flat, scale=scale, rng=rng),
            momentum=xp.zeros_like(flat) if self.momentum > 0 else (),
            clip=self._clip.init(flat),
            source=self.source.init(functions, flat, v),
            value=xp.full_like(flat[0], float("nan")),
            count=xp.zeros((), dtype=xp.int32, device=device),
            skipped=xp.zeros((), dtype=xp.int32, device=device),
            ring=() if self.replay is None else self.replay.init(layout.size, flat),
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
        """Return (x, state) after one step from a gradient and a pair; pure, and never waits for a device.

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
            Whether to use the pair, where only the device knows.

        Notes
        -----
        A gradient or value that is not finite moves nothing and is counted in ``state.skipped``.
        """
        require_state(state)
        layout = trees.structure(x, "x")
        flat, slope = layout.flatten(x, "x"), layout.flatten(g, "g")
        require_alike("g", slope, "x", flat)
        here, usable, state = self.observe(state, self.point(flat, slope, value))
        if pair is not None:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"`pair` must be (v, h), got {described(pair)}; v may be None")
            v = None if pair[0] is None else vectors(layout, pair[0], "v")
            pair = (v, vectors(layout, pair[1], "h"))
        flag = None if fit is None else flag_of("fit", fit)
        flat, state = self.advance(state, here, usable, pair, flag)
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
        """Return (x, state) after one step, which evaluates value, gradient and pair, all on the same sample.

        Parameters
        ----------
        state : PSGDState
        x : array or tree
        functions : Functions
            Of this step's sample: ``functions.at(sample)``. They get x in its structure, and v as well.
        v : array, shape (n,) or (n, k), optional
            Probes: ``optimizer.probes.draw(rng, x)`` for x of shape (n,). Only `Secant` and
            ``Whitening(integrated=True)`` need none.
        fit : bool or 0-d bool array
            Whether to fit P in this step. A Python False saves evaluating the pair; an array only decides
            what is kept.
        """
        require_state(state)
        if not isinstance(functions, Functions):
            raise TypeError(f"`functions` must be a Functions, got {described(functions)}; make one")
        layout = trees.structure(x, "x")
        flat, functions = layout.flatten(x, "x"), on_vectors(functions, layout)
        # value and gradient, and where to step from
        value, g = functions.value_and_gradient(flat)
        trial = self.point(flat, g, value)
        here, usable, state = self.observe(state, trial)
        if v is not None:
            require_vectors("v", v, layout.size, flat)
        # the pair, unless it is known not to be used
        pair, flag = None, flag_of("fit", fit)
        if flag is not False:
            pair, state = self.ask(state, trial, here, functions, v)
        flat, state = self.advance(state, here, usable, pair, flag)
        return layout.unflatten(flat), state

    def due(self, iteration: int, rng: Any = None) -> bool:
        """Return whether to fit P in this iteration, by `every` and `probability`; on the host.

        Parameters
        ----------
        iteration : int
            0, 1, ...
        rng : numpy.random.Generator
            Tosses the coin, unless `probability` is 1. The first iteration always fits.
        """
        iteration = require_count("iteration", iteration, "count from 0", 0)
        chance = value_at(self.probability, iteration)
        chance = require_number("probability", chance, "[0, inf)", f"it is that of iteration {iteration}")
        return is_due(iteration, self.every, chance, partial(toss, rng))

    # -- the parts of a step, on vectors ---------------------------------------------------------------

    def point(self, x: Array, g: Array, value: Any = None) -> Point:
        """Return a point evaluated, its value as a 0-d array like x; NaN for None.

        Raises
        ------
        ValueError
            If the value is None and the clip compares values.
        """
        if value is None and self.needs_value:
            raise ValueError(
                "`value` must be given for a clip that compares values, got None; pass the function's "
                "value, or use clips.AdaptiveNorm"
            )
        return Point(x, g, value_like(value, x[0]))

    def observe(self, state: PSGDState, trial: Point) -> tuple[Point, Array, PSGDState]:
        """Return (where to step from, whether it is finite, state), given a point evaluated."""
        xp = namespace(trial.x)
        usable, skipped = finite(trial.g), state.skipped
        if self.needs_value:
            usable = usable & xp.isfinite(trial.value)
        if known(usable) is not True:
            skipped = skipped + (1 - xp.astype(usable, xp.int32))
        here, usable, clip = self._clip.judge(state.clip, trial, usable)
        # the value in a buffer of its own, for the clip may hold that of `here`
        return here, usable, state._replace(clip=clip, value=here.value + 0, skipped=skipped)

    def ask(
        self, state: PSGDState, trial: Point, here: Point, functions: Functions, v: Array | None
    ) -> tuple[tuple[Array | None, Array], PSGDState]:
        """Return (pair, state): the pair of the point that the source wants."""
        # a step that led out of the domain says nothing: it ends where the next one starts
        point = trees.where(trial.is_finite, trial, here) if self.source.at_trial else here
        if v is None and self.source.needs_probes:
            raise ValueError("`v` must be given, got None; draw it with `optimizer.probes.draw(rng, x)`")
        g = self._average(state, point.g) if self.source.of_momentum else point.g
        pair = self.source.pairs(functions, point.x, g, v, state.source)
        return pair, state._replace(source=self.source.remember(state.source, point.x, point.g))

    def advance(
        self, state: PSGDState, here: Point, usable: Array, pair: Pair, fit: bool | Array | None = None
    ) -> tuple[Array, PSGDState]:
        """Return (x, state) after fitting P and moving."""
        move, after = self.propose(state, here, usable, pair, fit)
        return self.accept(state, after, here.x, usable, move)

    def propose(
        self, state: PSGDState, here: Point, usable: Array, pair: Pair, fit: bool | Array | None = None
    ) -> tuple[Array, PSGDState]:
        """Return (``P m`` within its limit, the state after that move), P fitted before."""
        x, g, xp = here.x, here.g, namespace(here.x)
        # fit
        before = held = (state.preconditioner, state.ring)
        if pair is not None:
            step = rate("step_size", self.step_size, state.count, x)
            held = fitted(self.preconditioner, self.replay, before, *pair, step, self.memory)
            if fit is not None and not isinstance(fit, bool):
                held = trees.where(fit, held, before)
        # average
        if self.weight_decay > 0 and self.decay == "l2":
            g = g + self.weight_decay * x
        m = self._average(state, select(usable, g, xp.zeros_like(g)))
        # precondition and limit
        move, clip = self._clip.limit(state.clip, self.preconditioner.precondition(held[0], m))
        return move, state._replace(
            preconditioner=held[0],
            momentum=m if self.momentum > 0 else (),
            clip=clip,
            count=state.count + 1,
            ring=held[1],
        )

    def accept(
        self, state: PSGDState, after: PSGDState, x: Array, usable: Array, move: Array
    ) -> tuple[Array, PSGDState]:
        """Return (x, state) after a move that was proposed, if everything is finite."""
        if self.weight_decay > 0 and self.decay == "decoupled":
            move = move + self.weight_decay * x
        new = x - rate("lr", self.lr, state.count, x) * move
        passed = usable & finite(new)
        moved = select(passed, new, x)
        # callers may write to the result: never the array that was passed in
        return owned(x) if moved is x else moved, after._replace(
            momentum=trees.where(passed, after.momentum, state.momentum) if self.momentum > 0 else (),
            clip=trees.where(passed, after.clip, state.clip),
        )

    def _average(self, state: PSGDState, g: Array) -> Array:
        """Return the momentum after g."""
        return averaged(state.momentum, g, state.count, self.momentum) if self.momentum > 0 else g

    @property
    def _clip(self) -> Clip:
        assert isinstance(self.clip, Clip)  # `__post_init__` saw to it
        return self.clip
