"""One update over all leaves: fit P on the pair, average, precondition, limit; each step is the core's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import and_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...arrays.arguments import keep, require_count, require_number
from ...arrays.brief import brief
from ...arrays.library import Array
from ...arrays.trees import Leaf
from ...arrays.vectors import finite_here
from ...curvature import Functions, Whitening
from ...descent import clips
from ...descent.momentum import averaged
from ...preconditioners import Preconditioner, Replay, XMat
from ...preconditioners.naming import is_name, named
from ...preconditioners.placement import require_placed
from ...schedules import require_schedule, value_at
from .engines import engine_named
from .halves import for_shards
from .hidden import completed
from .leaves import LeafState, Leaves, Tree, each
from .products import draw_probe
from .sharding import Layout, in_auto_mode, is_explicit, made_on

Choice = Preconditioner[Any] | Callable[[jax.ShapeDtypeStruct], Preconditioner[Any]]
"""A preconditioner for all leaves, or a function of the leaf's shape and dtype that returns one."""


@brief
class ScaleByPSGDState(NamedTuple):
    """State of `scale_by_psgd`."""

    count: jax.Array  # type: ignore[assignment]  # 0-d int32: updates done
    skipped: jax.Array  # 0-d int32: updates left out (NaN or Inf in the gradient)
    key: jax.Array  # the data of a key, for probes that are not given and for `probability`
    clip: Any  # the clip's memory
    leaves: Tree  # a LeafState for each parameter; a single one with per_leaf=False


@dataclass(frozen=True)
class Rule:
    """The two functions of `scale_by_psgd`, and its settings; numbers may be arrays that optax injects."""

    preconditioner: Any
    step: Any
    momentum: Any
    clip: Any
    every: Any
    probability: Any
    key: Any
    sampler: Any
    scale: Any
    per_leaf: bool
    engine: Any
    replay: Replay | None = None

    def __post_init__(self) -> None:
        given = XMat() if self.preconditioner is None else self.preconditioner
        if not (isinstance(given, Preconditioner) or callable(given) or is_name(given)):
            raise TypeError(
                "`preconditioner` must be a Preconditioner or a function of a leaf that returns one, "
                f"got {given!r}; try psgd_core.XMat()"
            )
        if not isinstance(self.replay, Replay | None):
            raise TypeError(f"`replay` must be a psgd_core.Replay or None, got {self.replay!r}; make one")
        clip = clips.as_clip(self.clip)
        _require_clip(clip, per_leaf=self.per_leaf)
        keep(
            self,
            preconditioner=given,
            step=_checked(self.step, lambda x: require_schedule("step", x, "(0, 1)")),
            momentum=_checked(self.momentum, lambda x: require_number("momentum", x, "[0, 1)")),
            clip=clip,
            every=_checked(self.every, lambda x: require_count("every", x, "1 fits P in every update")),
            probability=_checked(self.probability, lambda x: require_schedule("probability", x, "(0, 1]")),
            key=_key(self.key),
            sampler=self.sampler or jax.random.normal,
            engine=engine_named(self.engine),
        )

    def init(self, params: Tree) -> ScaleByPSGDState:
        """Return the state to start from, on the devices of `params`, sharded alike."""
        leaves = Leaves.of(params, "params", apart=self.per_leaf)
        if not self.per_leaf and isinstance(self.preconditioner, Preconditioner):
            require_placed(self.preconditioner, [Leaf("", shape) for shape in leaves.shapes])
        kinds, layouts = leaves.kinds(), tuple(leaves.layouts(params))
        for kind, layout, name in zip(kinds, layouts, self._names(leaves), strict=True):
            self._try(self._fitter(kind, layout, name), kind, name)
        make = self._make_compiled if self.engine.compiles else self._make
        state: ScaleByPSGDState = made_on(
            lambda: make(leaves, layouts), params, leaves="leaves" if self.per_leaf else None
        )
        return state

    @cached_property
    def _make_compiled(self) -> Callable[..., ScaleByPSGDState]:
        """The start, compiled: no two of its arrays share a buffer, and none is committed to a device."""
        return jax.jit(self._make, static_argnums=(0, 1))

    def _make(self, leaves: Leaves, layouts: tuple[Layout, ...]) -> ScaleByPSGDState:
        kinds = leaves.kinds()
        fitters = each(self._fitter, kinds, list(layouts), self._names(leaves))
        states = each(self._start, fitters, kinds, list(layouts))
        dtype = kinds[0].dtype if kinds else jnp.float32
        return ScaleByPSGDState(
            count=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            key=jnp.array(jax.random.key_data(self.key), copy=True),
            clip=self.clip.init(self.engine.xp.zeros(max(len(states), 1), dtype=dtype)),
            leaves=leaves.with_states(states),
        )

    def update(
        self,
        updates: Tree,
        state: ScaleByPSGDState,
        params: Tree = None,
        *,
        hvp: Any = None,
        probe: Tree = None,
        **_: Any,
    ) -> tuple[Tree, ScaleByPSGDState]:
        """Return (P m, state)."""
        leaves = Leaves.of(updates, "updates", apart=self.per_leaf)
        if not leaves.names:
            return updates, state._replace(count=state.count + 1)
        if probe is None and isinstance(hvp, tuple) and len(hvp) == 2 and all(map(leaves.have, hvp)):
            probe, hvp = hvp
        # a product needs its probe; a function of v is called where it can be, or left to be traced
        asks = _asks(hvp, updates)
        if hvp is not None and probe is None and not asks:
            raise ValueError(
                "`probe` must be given with `hvp`, got None; pass the v of the product H v, or both as "
                "hvp=(v, H v), or a function of v"
            )
        if asks and self.engine.compiles:
            probe, hvp = self._asked(updates, state, probe, hvp)
            asks = _asks(hvp, updates)
        if asks or not self.engine.compiles:
            return self._update(updates, state, probe, hvp)
        probe = None if probe is None else leaves.cut(probe, "probe")
        return self._update_compiled(updates, state, probe, None if hvp is None else leaves.cut(hvp, "hvp"))

    def _asked(
        self, updates: Tree, state: ScaleByPSGDState, probe: Tree, hvp: Callable[[Tree], Tree]
    ) -> tuple[Tree, Any]:
        """Return (v, H v) where the function can be called now, (v, the function) where it is traced.

        Outside ``jit`` it is called only in updates that fit P, and the rest of the update is compiled. On
        meshes with explicit axes it must be called here: inside, shardings are no longer part of types.
        """
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((updates, state)))
        if traced and not any(map(is_explicit, jax.tree.leaves(updates))):
            return probe, hvp
        due = None if traced else self._due(state)
        if due is not None and not bool(due):
            return None, None
        probe = completed(self._draw(updates, state) if probe is None else probe)
        return probe, _answer(hvp, probe)

    @cached_property
    def _update_compiled(self) -> Callable[..., tuple[Tree, ScaleByPSGDState]]:
        """The update, compiled: outside jit it would be hundreds of small operations."""
        return jax.jit(lambda *args: in_auto_mode(self._update, *args))

    def _update(
        self, updates: Tree, state: ScaleByPSGDState, probe: Tree, hvp: Any
    ) -> tuple[Tree, ScaleByPSGDState]:
        leaves = Leaves.of(updates, "updates", apart=self.per_leaf)
        states = leaves.states(state.leaves)
        layouts = [Layout.noted(one.layout) for one in states]
        fitters = each(self._fitter, leaves.kinds(), layouts, [""] * len(states))
        g = leaves.vectors(updates, "updates", layouts, self.engine)
        xp, count = self.engine.xp, self.engine.inward(state.count)
        kept = [(one.preconditioner, one.ring) for one in states]

        # fit, if it is due
        def fit() -> list[Any]:
            v = self._draw(updates, state) if probe is None else probe
            h = hvp
            if _asks(hvp, updates):
                v = completed(v)
                h = _answer(hvp, v)
            vs = leaves.vectors(v, "probe", layouts, self.engine)
            hs = each(_whiten, g, vs) if h is None else leaves.vectors(h, "hvp", layouts, self.engine)
            steps = [value_at(self.step, xp.astype(count, v.dtype)) for v in vs]
            return [
                self.engine.fitted(p, self.replay, before, a, b, self._number(step, a.dtype))
                for p, before, a, b, step in zip(fitters, kept, vs, hs, steps, strict=True)
            ]

        due = self._due(state)
        held = fit() if due is None else self.engine.choose(due, fit, kept)

        # average, precondition, limit: all leaves or none
        usable = reduce(and_, [finite_here(x) for x in g])
        g = m = [xp.where(usable, x, xp.zeros_like(x)) for x in g]
        if self._averages:
            m = [
                averaged(one.momentum, x, count, self._number(self.momentum, x.dtype))
                for one, x in zip(states, g, strict=True)
            ]
        moves = [p.precondition(s, x) for p, (s, _), x in zip(fitters, held, m, strict=True)]
        passed = usable & reduce(and_, [finite_here(x) for x in moves])
        limited, clip = self.clip.limit_parts(state.clip, moves)
        limited = [xp.where(passed, x, xp.zeros_like(x)) for x in limited]

        # keep
        after = [
            LeafState(one.layout, p, xp.where(passed, x, one.momentum) if self._averages else (), ring)
            for one, (p, ring), x in zip(states, held, m, strict=True)
        ]
        return leaves.tree(limited, layouts, self.engine), ScaleByPSGDState(
            count=state.count + 1,
            skipped=state.skipped + (1 - self.engine.outward(xp.astype(usable, xp.int32))),
            key=state.key,
            clip=jax.tree.map(lambda new, old: xp.where(passed, new, old), clip, state.clip),
            leaves=leaves.with_states(after),
        )

    @property
    def _averages(self) -> bool:
        """Whether there is a momentum; an injected one, an array, may have any value."""
        return isinstance(self.momentum, jax.Array) or self.momentum > 0

    def _number(self, value: Any, dtype: Any) -> Any:
        """Return a setting, which optax may have made a JAX array, as the engine takes it."""
        return self.engine.inward(jnp.asarray(value, dtype)) if isinstance(value, jax.Array) else value

    def _names(self, leaves: Leaves) -> list[str]:
        return list(leaves.names) if self.per_leaf else ["params"][: len(leaves.names)]

    def _fitter(self, kind: jax.ShapeDtypeStruct, layout: Any, name: str) -> Preconditioner[Any]:
        """Return the preconditioner of a leaf."""
        chosen = self.preconditioner
        if is_name(chosen):
            chosen = named(chosen, [Leaf("", tuple(kind.shape))])
        elif not isinstance(chosen, Preconditioner):
            chosen = chosen(kind)
        if not isinstance(chosen, Preconditioner):
            raise TypeError(f"`preconditioner` must return a Preconditioner for {name}, got {chosen!r}")
        return for_shards(chosen) if layout.shards > 1 else chosen

    def _try(self, chosen: Preconditioner[Any], kind: jax.ShapeDtypeStruct, name: str) -> None:
        """Raise where a preconditioner does not take vectors of a leaf's length, naming the leaf."""
        try:
            if self.per_leaf:
                require_placed(chosen, [Leaf("", tuple(kind.shape))])
            jax.eval_shape(lambda: chosen.init(kind.size, jnp.zeros(1, kind.dtype), scale=self.scale))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (for {name}, of {kind.size} parameters)") from None

    def _start(self, p: Preconditioner[Any], kind: jax.ShapeDtypeStruct, layout: Any) -> LeafState:
        xp = self.engine.xp
        like, scale = xp.zeros(1, dtype=kind.dtype), self._number(self.scale, kind.dtype)
        return LeafState(
            layout=layout.note(),
            preconditioner=p.init(kind.size, like, scale=scale),
            momentum=xp.zeros(kind.size, dtype=kind.dtype) if self._averages else (),
            ring=() if self.replay is None else self.replay.init(kind.size, like),
        )

    def _keys(self, state: ScaleByPSGDState) -> jax.Array:
        """Return the two keys of this update: for the coin, and for the probe."""
        key = jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(self.key))
        return jax.random.split(jax.random.fold_in(key, state.count))

    def _draw(self, updates: Tree, state: ScaleByPSGDState) -> Tree:
        return draw_probe(self._keys(state)[1], updates, sampler=self.sampler)

    def _due(self, state: ScaleByPSGDState) -> jax.Array | None:
        """Return whether to fit P in this update, None for always; the first always fits."""
        if all(type(setting) in (int, float) and setting == 1 for setting in (self.every, self.probability)):
            return None
        chance = value_at(self.probability, jnp.asarray(state.count, jnp.float32))
        coin: Any = jax.random.uniform(self._keys(state)[0]) < chance
        due: jax.Array = (state.count % self.every == 0) & ((state.count == 0) | coin)
        return due


def _asks(hvp: Any, updates: Tree) -> bool:
    """Whether hvp is a function of v, and not a product in the structure of a model that is callable."""
    return callable(hvp) and type(hvp) is not type(updates)


def _answer(hvp: Callable[[Tree], Tree], v: Tree) -> Tree:
    """Return the product H v that a function returns."""
    found = hvp(v)
    if found is None:  # which would mean whitening
        raise TypeError("`hvp` must return the product H v, got None; return it, in the structure of v")
    return found


def _whiten(g: Array, v: Array) -> Array:
    """Return the h of whitening for probes v."""
    return Whitening().pairs(Functions(gradient=lambda x: x), g, g, v)[1]


def _checked(value: Any, check: Callable[[Any], Any]) -> Any:
    """Return a setting checked, or unchanged if it is an array that `optax.inject_hyperparams` made."""
    return value if isinstance(value, jax.Array) else check(value)


def _key(key: Any) -> jax.Array:
    """Return an int, None for 0, or a JAX key of either type as a new-style JAX key."""
    key = 0 if key is None else key
    try:
        dtype, ndim = jnp.result_type(key), jnp.ndim(key)
        if ndim == 0 and jnp.issubdtype(dtype, jnp.integer):
            return jax.random.key(key)
        typed = key if jnp.issubdtype(dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
        if typed.ndim == 0:
            found: jax.Array = typed
            return found
    except (AttributeError, TypeError, ValueError):
        pass
    raise TypeError(f"`key` must be an int or one JAX key, got {key!r}; pass jax.random.key(0)")


def _require_clip(clip: clips.Clip, *, per_leaf: bool) -> None:
    """Raise unless the clip can limit optax's updates, and for states per leaf, parts of a vector."""
    if clip.needs_value:
        raise ValueError(
            f"`clip` must not go back to earlier points, as {clip!r} does; take clips.AdaptiveNorm(), or "
            "psgd_core.PSGD, which owns the parameters"
        )
    for part in clip.clips if isinstance(clip, clips.Chain) else (clip,):
        if per_leaf and not isinstance(part, clips.NormClip | clips.Elements):
            raise ValueError(
                f"`clip` must be made of Norm, AdaptiveNorm and Elements for a state per leaf, got {part!r}; "
                "pass per_leaf=False"
            )
