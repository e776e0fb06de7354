"""A ring of the last pairs, for updates that need no new product.

A product costs two to three gradients, an update of P a fraction of one: so each new pair is fitted together
with some of those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Literal, NamedTuple

import array_api_compat

from ..arrays.arguments import described, keep, require_choice, require_count
from ..arrays.brief import Brief, brief
from ..arrays.draws import picks
from ..arrays.library import Array, device_of, namespace
from ..arrays.loops import turns
from ..arrays.trees import leaves_with_names
from ..arrays.vectors import largest, require_vectors
from ..groups.lie import require_like
from .base import Preconditioner
from .pace import Memory


@brief
class Ring(NamedTuple):
    """The last pairs: memory of a `Replay`."""

    v: Array  # (size, n): a probe in each row; row t % size is the t-th pair's
    h: Array  # (size, n): their products
    count: Array  # type: ignore[assignment]  # 0-d int32: pairs that entered since the ring was empty


@dataclass(frozen=True, repr=False)
class Replay(Brief):
    """Each new pair is fitted together with old ones, from a ring of the last.

    One call makes `times` updates of P: the first on the new pair, the others on pairs from the ring. Pairs
    that hold NaN or Inf, or whose v is zero, do not enter it. Where P finds that H has jumped, the old pairs
    are dropped.

    It costs no product, but `times` updates, and ``2 size n`` numbers of memory.

    Parameters
    ----------
    size : int
        How many pairs the ring holds. Pairs of an H that has moved since are wrong, so it should not be much
        longer than H stays; but at least a few times the largest orbit of the group: with fewer pairs than
        that (n of them for `Dense`) the criterion of the sample has no minimiser.
    times : int
        Updates per new pair.
    batch : int or "all"
        Pairs averaged in each update; "all" takes the whole ring at once.
    order : {"random", "age"}
        Draw the old pairs at random, by a hash of how many pairs there have been, so that a run is
        reproducible without a generator: where H stays. Or go through the ring from the oldest pair to the
        newest, as often as `times` allows, and end on the newest: where H moves, P then fits it as it is now.
    """

    size: int = 50
    times: int = 30
    batch: int | Literal["all"] = 1
    order: Literal["random", "age"] = "random"

    def __post_init__(self) -> None:
        keep(
            self,
            size=require_count("size", self.size, "it is a number of pairs"),
            times=require_count("times", self.times, "1 fits the new pair alone"),
        )
        if self.batch != "all":
            hint = 'or "all"'
            keep(self, batch=require_count("batch", self.batch, hint, most=self.size))
        require_choice("order", self.order, ("random", "age"))

    def init(self, n: int, like: Array) -> Ring:
        """Return an empty ring for n parameters.

        Parameters
        ----------
        n : int
        like : array
            Sets library, dtype and device.
        """
        require_like(like)
        n = require_count("n", n, "it is the number of parameters")
        xp, device = namespace(like), device_of(like)
        v, h = (xp.zeros((self.size, n), dtype=like.dtype, device=device) for _ in range(2))
        return Ring(v, h, count=xp.zeros((), dtype=xp.int32, device=device))

    def update(
        self, p: Preconditioner[Any], state: Any, ring: Ring, v: Array | None, h: Array, step: float | Array
    ) -> tuple[Any, Ring]:
        """Return (state, ring) after one new pair; pure.

        Parameters
        ----------
        p : Preconditioner
        state : State
            Of p.
        ring : Ring
            From `init` or an earlier `update`.
        v, h : array, shape (n,) or (n, k)
            The new pair, or k of them, as the preconditioner's `update` takes them.
        step : float or 0-d array
            Of each of the updates.
        """
        if v is None:
            raise ValueError("`v` must be given for replay, got None; draw probes, or leave replay out")
        self._require(p, state, ring, v, h)
        xp = namespace(h)
        v, h = (v[:, None], h[:, None]) if h.ndim == 1 else (v, h)
        # the new pairs enter the ring, all or none
        usable = xp.isfinite(largest(h)) & xp.isfinite(largest(v)) & (largest(v) > 0)
        ring = _entered(ring, v, h, usable)
        # they are fitted first, in company if there is room; P leaves out, and counts, what is not usable
        first_v, first_h = (xp.where(usable, x, xp.zeros_like(x)) for x in self._first(ring, v, h))
        new = p.update(state, first_v, first_h, step)
        # then old ones, unless H has jumped: none of them may set a scale
        going = usable & xp.logical_not(_jumped(state, new))
        if self.times > 1:
            eager = array_api_compat.is_jax_array(h) and not _is_traced(h)
            again = _compiled() if eager else Replay._again
            new, going = again(self, p, new, ring, step, going)
        count = xp.where(going | xp.logical_not(usable), ring.count, xp.zeros_like(ring.count))
        return new, ring._replace(count=count)

    def _first(self, ring: Ring, v: Array, h: Array) -> tuple[Array, Array]:
        """Return the columns of the first update: the new ones, and old ones beside them."""
        k = v.shape[1]
        if self.batch == "all":
            return self._columns(ring, 0)
        if self.batch <= k:
            return v, h
        xp = namespace(v)
        old_v, old_h = _taken(ring, self._rows(ring, 0, self.batch)[k:])
        return xp.concat([v, old_v], axis=1), xp.concat([h, old_h], axis=1)

    def _columns(self, ring: Ring, i: Any) -> tuple[Array, Array]:
        """Return the columns of update i."""
        return _taken(ring, self._rows(ring, i, self.size if self.batch == "all" else self.batch))

    def _rows(self, ring: Ring, i: Any, k: int) -> Array:
        """Return the rows of the ring that update i takes, k of them."""
        xp, filled = namespace(ring.count), _filled(ring)
        if self.batch == "all":  # until the ring is full, each several times
            ages = xp.arange(k, dtype=xp.int32, device=device_of(ring.count))
        elif self.order == "age":
            ages = xp.arange(k, dtype=xp.int32, device=device_of(ring.count)) + (self.times - 1 - i) * k
        else:
            ages = picks(ring.count, i * k, k, filled)
        newest = xp.reshape(ring.count - 1 + self.size, (1,))
        return (newest - ages % xp.reshape(filled, (1,))) % self.size

    def _again(
        self, p: Preconditioner[Any], state: Any, ring: Ring, step: float | Array, going: Array
    ) -> tuple[Any, Array]:
        """Return (state, whether H has not jumped) after all updates but the first."""
        xp = namespace(going)

        def body(i: Any, state: Any) -> tuple[Any, Array]:
            after = p.update(state, *self._columns(ring, i + 1), step)
            return after, xp.logical_not(_jumped(state, after))

        return turns(self.times - 1, going, body, state)

    def _require(self, p: Any, state: Any, ring: Any, v: Any, h: Any) -> None:
        """Raise unless ring and pair go with the preconditioner."""
        if not isinstance(p, Preconditioner):
            raise TypeError(f"`p` must be a Preconditioner, got {described(p)}; make one")
        if not p.takes_step:
            raise ValueError(
                f"`p` must take a step to be fitted to a pair again, got {described(p)}; leave replay out: "
                "it averages over its pairs as it is"
            )
        n, like = p.size(state), p.like(state)
        for name, x in (("v", v), ("h", h)):
            require_vectors(name, x, n, like)
        if v.shape != h.shape or 0 in v.shape:
            raise ValueError(
                f"`h` must have the shape of `v`, {tuple(v.shape)}, and at least one column, got "
                f"{tuple(h.shape)}; pass one product per probe"
            )
        if not isinstance(ring, Ring) or tuple(ring.v.shape) != (self.size, n):
            got = tuple(ring.v.shape) if isinstance(ring, Ring) else described(ring)
            raise ValueError(f"`ring` must hold vectors of shape ({self.size}, {n}), got {got}; use `init`")


def fitted(
    p: Preconditioner[Any],
    replay: Replay | None,
    held: tuple[Any, Any],
    v: Array | None,
    h: Array,
    step: float | Array,
    memory: Memory = "all",
) -> tuple[Any, Any]:
    """Return (state, ring) after fitting on a pair, given those before; without replay the ring is ().

    `memory` is for preconditioners that take no step.
    """
    state, ring = held
    if replay is None:
        new = p.update(state, v, h, step) if p.takes_step else p.update(state, v, h, memory=memory)
        return new, ring
    return replay.update(p, state, ring, v, h, step)


def _entered(ring: Ring, v: Array, h: Array, usable: Array) -> Ring:
    """Return the ring with the columns of v and h in it, in the place of the oldest; not those with v = 0."""
    xp, (size, _) = namespace(v), ring.v.shape
    rows = xp.arange(size, dtype=xp.int32, device=device_of(v))[:, None]
    for i in range(v.shape[1]):
        enters = usable & (largest(v[:, i]) > 0)
        here = xp.logical_and(rows == ring.count % size, enters)
        ring = Ring(
            v=xp.where(here, v[:, i], ring.v),
            h=xp.where(here, h[:, i], ring.h),
            count=ring.count + xp.astype(enters, xp.int32),
        )
    return ring


def _filled(ring: Ring) -> Array:
    """Return how many pairs are in the ring, 1 for none: its rows are zeros then, which P leaves out."""
    xp = namespace(ring.count)
    return xp.minimum(xp.maximum(ring.count, xp.ones_like(ring.count)), 0 * ring.count + ring.v.shape[0])


def _taken(ring: Ring, rows: Array) -> tuple[Array, Array]:
    """Return pairs of the ring as columns (n, k)."""
    xp = namespace(rows)
    return xp.take(ring.v, rows, axis=0).T, xp.take(ring.h, rows, axis=0).T


def _jumped(before: Any, after: Any) -> Array:
    """Return whether an update has found that the scale of P, or of one of its blocks, must be set anew."""
    pending = [
        [leaf for name, leaf in leaves_with_names(state, "") if name.endswith(".pending")]
        for state in (before, after)
    ]
    xp = namespace(after.skipped)
    found = [new & xp.logical_not(old) for old, new in zip(*pending, strict=True)]
    jumped: Array = reduce(xp.logical_or, found)
    return jumped


def _is_traced(x: Any) -> bool:
    import jax

    return isinstance(x, jax.core.Tracer)


@lru_cache(maxsize=1)
def _compiled() -> Any:
    """Return `_again` compiled by JAX, for calls outside of a compiled function."""
    import jax

    return jax.jit(Replay._again, static_argnums=(0, 1))
