"""Many fits at once: the verbs of one preconditioner over a leading axis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic

from ..arrays.arguments import described, require_count
from ..arrays.brief import Brief
from ..arrays.lanes import vmap
from ..arrays.library import Array, at_hand, device_of, is_array, namespace, require_arrays
from ..arrays.trees import leaves_with_names, mapped
from ..groups.lie import require_like
from .base import Preconditioner
from .first_contact import scale_of
from .pace import Memory
from .states import State


@dataclass(frozen=True, repr=False)
class Ensemble(Brief, Generic[State]):
    """Many fits of one preconditioner: each verb does for all of them what the preconditioner does for one.

    All arrays have a leading axis over the m fits: states (``state.count`` has shape (m,)), pairs (m, n) or
    (m, n, k), steps (m,). The fits share nothing: each has its own pairs, step, scale, count and skipped
    pairs, and becomes what it would become by itself, to rounding. A call costs the calls of the array
    library that one fit costs, so for small n, where these are most of the cost, it is about as fast as for a
    single fit; the arithmetic is done m times. JAX's arrays go through `jax.vmap`.

    Parameters
    ----------
    preconditioner : Preconditioner
        Any one, also your own, as long as it looks at no values.
    """

    preconditioner: Preconditioner[State]

    def __post_init__(self) -> None:
        if not isinstance(self.preconditioner, Preconditioner):
            raise TypeError(
                f"`preconditioner` must be a Preconditioner, got {described(self.preconditioner)}; "
                "a replay or a loop has no ensembles, call `update` as often as you like"
            )

    def init(
        self,
        count: int,
        n: int,
        like: Array,
        *,
        scale: float | Array | None = None,
        pairs: tuple[Array, Array] | None = None,
        rng: Iterable[Any] | None = None,
    ) -> State:
        """Return the states to start from, as `Preconditioner.init` does for each.

        Parameters
        ----------
        count : int
            How many fits.
        n, like
            As there.
        scale : float or array, shape (m,), optional
        pairs : tuple of arrays, shape (m, n) or (m, n, k), optional
        rng : iterable of generators, optional
            One for each fit, for random starts (`LowRank`); without it all start alike.
        """
        count = require_count("count", count, "it is the number of fits")
        require_like(like)
        p = self.preconditioner
        if pairs is not None:
            self._require(count, **{f"pairs[{i}]": x for i, x in enumerate(pairs)})
        given: Any = scale
        scales: Any = self._each("scale", given, count) if is_array(given) else None
        if scales is not None:
            scale = scales
            if at_hand(scales):
                for extreme in (namespace(scales).min(scales), namespace(scales).max(scales)):
                    scale_of(float(extreme), like)
        if rng is not None:
            generators = list(rng)
            if len(generators) != count:
                raise ValueError(
                    f"`rng` must hold a generator for each of the {count} fits, got {len(generators)}; "
                    "make them with numpy.random.default_rng(seed)"
                )
            started = [
                p.init(
                    n,
                    like,
                    scale=scale if scales is None else scales[i],
                    pairs=None if pairs is None else (pairs[0][i, ...], pairs[1][i, ...]),
                    rng=one,
                )
                for i, one in enumerate(generators)
            ]
            stacked: State = mapped(lambda *leaves: namespace(*leaves).stack(leaves), *started)
            return stacked
        blank = namespace(like).zeros((count, 1), dtype=like.dtype, device=device_of(like))
        start = vmap(lambda x, scale, pairs: p.init(n, x, scale=scale, pairs=pairs))
        found: State = start(blank, scale, pairs)
        return found

    def update(
        self,
        states: State,
        v: Array | None,
        h: Array,
        step: float | Array | None = None,
        *,
        memory: Memory | None = None,
    ) -> State:
        """Return the states after one step of fitting, each on its own pair.

        A fit whose pair holds NaN or Inf skips it and counts it; the others move.

        Parameters
        ----------
        states : State
            From `init` or an earlier `update`.
        v, h : array, shape (m, n) or (m, n, k)
            As `Preconditioner.update` has them for each; None for v integrates it out.
        step : float or array, shape (m,), optional
        memory : float, array (m,) or "all", optional
            In place of a step, for those that take it.
        """
        count = self.count(states)
        self._require(count, **({"h": h} if v is None else {"v": v, "h": h}))
        step = self._pace("step", step, count, 0, 1, "lie in (0, 1)")
        memory = self._pace("memory", memory, count, 1, float("inf"), "be at least 1")
        p = self.preconditioner
        updated = vmap(lambda s, v, h, step, memory: p.update(s, v, h, step, memory=memory))
        found: State = updated(states, v, h, step, memory)
        return found

    def precondition(self, states: State, g: Array) -> Array:
        """Return ``P g`` for g of shape (m, n) or (m, n, k)."""
        return self._verb("precondition", states, g=g)

    def apply(self, states: State, x: Array) -> Array:
        """Return ``Q x`` for x of shape (m, n) or (m, n, k)."""
        return self._verb("apply", states, x=x)

    def apply_transpose(self, states: State, x: Array) -> Array:
        """Return ``Q^T x`` for x of shape (m, n) or (m, n, k)."""
        return self._verb("apply_transpose", states, x=x)

    def solve(self, states: State, x: Array) -> Array:
        """Return ``Q^{-1} x`` for x of shape (m, n) or (m, n, k)."""
        return self._verb("solve", states, x=x)

    def solve_transpose(self, states: State, x: Array) -> Array:
        """Return ``Q^{-T} x`` for x of shape (m, n) or (m, n, k)."""
        return self._verb("solve_transpose", states, x=x)

    def log_det(self, states: State) -> Array:
        """Return ``log det P``, (m,)."""
        return self._verb("log_det", states)

    def matrix(self, states: State) -> Array:
        """Return P as dense matrices, (m, n, n)."""
        return self._verb("matrix", states)

    def criterion(self, states: State, v: Array, h: Array) -> Array:
        """Return ``h^T P h + v^T P^{-1} v``, averaged over the probes of each fit, (m,)."""
        return self._verb("criterion", states, v=v, h=h)

    def count(self, states: State) -> int:
        """Return m, the number of fits."""
        leaves = leaves_with_names(states, "states")
        require_arrays(**dict(leaves))
        lengths = sorted({x.shape[0] if x.ndim else 0 for _, x in leaves})
        if len(lengths) != 1 or not lengths[0]:
            raise ValueError(
                f"`states` must be arrays with one leading axis over the fits, got lengths {lengths}; "
                "make them with `init` of this Ensemble"
            )
        return lengths[0]

    def member(self, states: State, i: int) -> State:
        """Return the state of fit i: one of the preconditioner's own, a copy."""
        count = self.count(states)
        if not -count <= i < count:
            raise ValueError(f"`i` must be the place of one of {count} fits, got {i}; they count from 0")
        found: State = mapped(lambda x: namespace(x).asarray(x[i, ...], copy=True), states)
        return found

    def _verb(self, name: str, states: State, **vectors: Array) -> Array:
        """Return what a verb makes of each state and its vectors."""
        self._require(self.count(states), **vectors)
        found: Array = vmap(getattr(self.preconditioner, name))(states, *vectors.values())
        return found

    def _require(self, count: int, **arrays: Array) -> None:
        """Raise unless arrays have a leading axis over the fits."""
        for name, x in arrays.items():
            require_arrays(**{name: x})
            if not x.ndim or x.shape[0] != count:
                raise ValueError(
                    f"`{name}` must have a leading axis over the {count} fits, got shape {tuple(x.shape)}; "
                    "one vector for each of them has shape (m, n)"
                )

    def _each(self, name: str, given: Array, count: int) -> Array:
        """Return an array (m,), of one number for all or of one for each."""
        if given.ndim == 0:
            given = namespace(given).broadcast_to(given, (count,))
        self._require(count, **{name: given})
        if given.ndim != 1:
            raise ValueError(
                f"`{name}` must be a number or have shape ({count},), got {tuple(given.shape)}; "
                "give one number for each fit"
            )
        return given

    def _pace(self, name: str, pace: Any, count: int, low: float, high: float, rule: str) -> Any:
        """Return a step or memory, one for all or an array (m,), after a look at what is at hand."""
        if not is_array(pace):
            return pace  # a number, which `Preconditioner.update` looks at
        pace = self._each(name, pace, count)
        if at_hand(pace):
            inside = (pace > low) & (pace < high) if low == 0 else pace >= low
            if not bool(namespace(pace).all(inside)):
                raise ValueError(f"`{name}` must {rule} for every fit, got some outside; choose them inside")
        return pace
