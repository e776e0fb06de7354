"""One update over all leaves: fit P on the pair, average, precondition, limit. The steps are the core's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._array import Array
from ...curvature import Functions, Whitening
from ...descent import PSGD
from ...descent.psgd import PSGDState
from ...preconditioners import Preconditioner
from ...schedules import value_at
from ._clips import limit
from ._engines import Engine
from ._halves import for_shards
from ._leaves import LeafState, Leaves, Tree, each, is_state
from ._products import draw_probe
from ._sharding import in_auto_mode, is_explicit, made_on

Choice = Preconditioner | Callable[[jax.ShapeDtypeStruct], Preconditioner]
"""A preconditioner for all leaves, or a function of the leaf's shape and dtype that gives one."""


class ScaleByPSGDState(NamedTuple):
    """State of `scale_by_psgd`."""

    count: jax.Array  # type: ignore[assignment]  # 0-d int32: updates done
    skipped: jax.Array  # 0-d int32: updates left out (NaN or Inf in the gradient)
    key: jax.Array  # for probes that are not given, and for `probability`
    clip: Any  # the clip's memory
    leaves: Tree  # a LeafState in place of each parameter; one alone with per_leaf=False


@dataclass(frozen=True)
class Rule:
    """The two functions of `scale_by_psgd`."""

    preconditioner: Choice
    loop: PSGD
    key: jax.Array
    sampler: Callable[..., jax.Array]
    scale: float | None
    per_leaf: bool
    engine: Engine

    def init(self, params: Tree) -> ScaleByPSGDState:
        """Return the state to start from, on the devices of `params`, sharded alike."""
        leaves = Leaves.of(params, "params", apart=self.per_leaf)
        layouts, kinds = leaves.layouts(params), leaves.kinds()
        fitters = each(self._fitter, kinds, layouts, list(leaves.names if self.per_leaf else ["params"]))

        def make() -> ScaleByPSGDState:
            states = each(self._start, fitters, kinds, layouts)
            return ScaleByPSGDState(
                count=jnp.zeros((), jnp.int32),
                skipped=jnp.zeros((), jnp.int32),
                key=self.key,
                clip=self.loop._clip.init(self.engine.xp.zeros(len(states), dtype=kinds[0].dtype)),
                leaves=jax.tree.unflatten(leaves.structure, states) if self.per_leaf else states[0],
            )

        return made_on(make, params, leaves="leaves" if self.per_leaf else None)

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
        if callable(hvp) and any(map(is_explicit, jax.tree.leaves(updates))):
            probe = self._draw(updates, state) if probe is None else probe
            hvp = hvp(probe)  # not inside, where shardings are no longer part of types
        if callable(hvp) or type(self.engine) is not Engine:
            return self._update(updates, state, probe, hvp)
        return self._compiled(updates, state, probe, hvp)

    @cached_property
    def _compiled(self) -> Callable:
        """The update compiled, for those who call it outside jit: hundreds of small operations otherwise."""
        return jax.jit(lambda *args: in_auto_mode(self._update, *args))

    def _update(
        self, updates: Tree, state: ScaleByPSGDState, probe: Tree, hvp: Any
    ) -> tuple[Tree, ScaleByPSGDState]:
        leaves = Leaves.of(updates, "updates", apart=self.per_leaf)
        states = jax.tree.leaves(state.leaves, is_leaf=is_state)
        layouts = [one.layout for one in states]
        fitters = each(self._fitter, leaves.kinds(), layouts, [""] * len(states))
        g = leaves.vectors(updates, "updates", layouts, self.engine)
        xp, count = self.engine.xp, self.engine.bring(state.count)

        # fit P
        if hvp is not None and probe is None and _is_pair(hvp, leaves.structure):
            probe, hvp = hvp
        if hvp is not None and probe is None and not callable(hvp):
            raise ValueError(
                "`probe` must be given with `hvp`, got None; pass the v of the product H v, or both as "
                "hvp=(v, H v), or a function of v"
            )
        kept = [one.preconditioner for one in states]

        def fit() -> list[Any]:
            v = self._draw(updates, state) if probe is None else probe
            h = hvp(v) if callable(hvp) else hvp
            vs = leaves.vectors(v, "probe", layouts, self.engine)
            hs = each(_whiten, g, vs) if h is None else leaves.vectors(h, "hvp", layouts, self.engine)
            return [
                p.update(s, a, b, value_at(self.loop.step_size, xp.astype(count, a.dtype)))
                for p, s, a, b in zip(fitters, kept, vs, hs, strict=True)
            ]

        due = self._due(state)
        fitted = fit() if due is None else self.engine.choose(due, fit, kept)

        # average, precondition, limit: all leaves or none
        usable = _all([xp.all(xp.isfinite(x)) for x in g])
        g = [xp.where(usable, x, xp.zeros_like(x)) for x in g]
        m = [self.loop._average(_as_core(one, count), x) for one, x in zip(states, g, strict=True)]
        moves = [p.precondition(s, x) for p, s, x in zip(fitters, fitted, m, strict=True)]
        limited, clip = limit(self.loop._clip, state.clip, moves)
        passed = usable & _all([xp.all(xp.isfinite(x)) for x in limited])
        limited = [xp.where(passed, x, xp.zeros_like(x)) for x in limited]
        after = [
            LeafState(one.layout, p, xp.where(passed, x, one.momentum) if self.loop.momentum > 0 else ())
            for one, p, x in zip(states, fitted, m, strict=True)
        ]
        return leaves.tree(limited, layouts, self.engine), ScaleByPSGDState(
            count=state.count + 1,
            skipped=state.skipped + (1 - self.engine.give(xp.astype(usable, xp.int32))),
            key=state.key,
            clip=jax.tree.map(lambda new, old: xp.where(passed, new, old), clip, state.clip),
            leaves=jax.tree.unflatten(leaves.structure, after) if self.per_leaf else after[0],
        )

    def _fitter(self, kind: jax.ShapeDtypeStruct, layout: Any, name: str) -> Preconditioner:
        """Return the preconditioner of a leaf."""
        chosen = self.preconditioner
        if not isinstance(chosen, Preconditioner):
            chosen = chosen(kind)
        if not isinstance(chosen, Preconditioner):
            raise TypeError(
                f"`preconditioner` must return a Preconditioner for {name}, got {chosen!r}; "
                "try psgd_core.XMat()"
            )
        if name:
            self._try(chosen, kind, name)
        return for_shards(chosen) if layout.shards > 1 else chosen

    def _try(self, chosen: Preconditioner, kind: jax.ShapeDtypeStruct, name: str) -> None:
        """Raise where a preconditioner does not take vectors of a leaf's length, naming the leaf."""
        try:
            jax.eval_shape(lambda: chosen.init(kind.size, jnp.zeros(1, kind.dtype), scale=self.scale))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (for {name}, of {kind.size} parameters)") from None

    def _start(self, p: Preconditioner, kind: jax.ShapeDtypeStruct, layout: Any) -> LeafState:
        xp = self.engine.xp
        momentum = xp.zeros(kind.size, dtype=kind.dtype) if self.loop.momentum > 0 else ()
        return LeafState(layout, p.init(kind.size, xp.zeros(1, dtype=kind.dtype), scale=self.scale), momentum)

    def _keys(self, state: ScaleByPSGDState) -> jax.Array:
        """Return the two keys of this update: for the coin, and for the probe."""
        return jax.random.split(jax.random.fold_in(state.key, state.count))

    def _draw(self, updates: Tree, state: ScaleByPSGDState) -> Tree:
        return draw_probe(self._keys(state)[1], updates, sampler=self.sampler)

    def _due(self, state: ScaleByPSGDState) -> jax.Array | None:
        """Return whether to fit P in this update, None for always; the first always fits."""
        loop = self.loop
        if loop.every == 1 and not callable(loop.probability) and loop.probability == 1:
            return None
        chance = value_at(loop.probability, jnp.asarray(state.count, jnp.float32))
        coin = jax.random.uniform(self._keys(state)[0]) < chance
        return (state.count % loop.every == 0) & ((state.count == 0) | coin)


def _is_pair(hvp: Any, structure: Any) -> bool:
    """Whether it is (v, H v), and no tree of products that happens to be a tuple of two."""
    return isinstance(hvp, tuple) and len(hvp) == 2 and all(jax.tree.structure(x) == structure for x in hvp)


def _as_core(one: LeafState, count: Array) -> PSGDState:
    """Return what the core's averaging looks at."""
    return PSGDState(None, one.momentum, (), (), count, count, count)


def _whiten(g: Array, v: Array) -> Array:
    """Return the product that stands for g, as `psgd_core.curvature.Whitening` makes it."""
    return Whitening().pairs(Functions(gradient=lambda x: x), g, g, v)[1]


def _all(flags: list[Array]) -> Array:
    total = flags[0]
    for flag in flags[1:]:
        total = total & flag
    return total
