"""Blocks that move together, because for them that is the same in fewer operations.

*Vectors* with a `Diagonal` each: all entries are factors of a direct product as it is, so one long diagonal
moves in their place. *Tensors of one shape* with the same `Kronecker` each: its update takes arrays with a
first axis more, and they are stacked. What belongs to a whole block stays its own: step, damping, counts, and
whether the scale is due or off.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from ..arrays import batched
from ..arrays.batched import square
from ..arrays.library import Array, known, namespace
from ..arrays.trees import mapped
from ..arrays.vectors import largest
from .base import Preconditioner
from .counters import Fitted, counted
from .kronecker import Kronecker
from .orbit import Orbits, OrbitState
from .sides import largest_of
from .sparse import Diagonal

LARGEST = 65_536
"""Elements of a tensor up to which stacking pays: above, an update is all arithmetic."""

Together = Callable[..., list[Any] | None]
"""Takes (p, states, v, h, usable, step), v and h as sequences, and returns the new states; None refuses."""


def together(p: Preconditioner[Any]) -> Together | None:
    """Return how several blocks that have this preconditioner move as one; None where they do not."""
    if type(p) is Diagonal and p.steps == "orbit":
        return joined
    if type(p) is Kronecker and p.n <= LARGEST and p.stacks:
        return stacked
    return None


def stacked(
    p: Kronecker,
    states: Sequence[Any],
    v: Sequence[Array] | None,
    h: Sequence[Array],
    usable: Array,
    step: float | Array,
) -> list[Any] | None:
    """Return the states after one update; None without probes, which are then integrated out one by one."""
    if v is None:
        return None
    xp = namespace(*h)
    state, v_all, h_all = mapped(lambda *x: xp.stack(x), *states), xp.stack(v), xp.stack(h)
    new = p._advance(state, v_all, h_all, usable, usable & (largest_of(h_all) > 0), step)
    return [mapped(lambda x, i=i: x[i, ...], new) for i in range(len(states))]


def joined(
    p: Diagonal,
    states: Sequence[OrbitState],
    v: Sequence[Array] | None,
    h: Sequence[Array],
    usable: Array,
    step: float | Array,
) -> list[OrbitState] | None:
    """Return the states after one update; None where it takes more, or that is not known.

    That is if the pair is not usable, the scale of one is due, or one cannot move.
    """
    if not known(usable) or any(known(state.pending) is not False for state in states):
        return None
    xp, k = namespace(*h), h[0].shape[1]
    edges = list(itertools.accumulate((x.shape[0] for x in h), initial=0))
    places = [slice(*ends) for ends in itertools.pairwise(edges)]
    # join them
    h_all = xp.permute_dims(xp.concat(h, axis=0), (1, 0))[None, ...]
    if v is None:
        v_all = k**0.5 * batched.identity(1, edges[-1], h_all)
    else:
        v_all = xp.permute_dims(xp.concat(v, axis=0), (1, 0))[None, ...]
    noise = None
    if p.damping != 0:
        spread = [xp.broadcast_to(xp.abs(s.damping), x.shape[:1]) for s, x in zip(states, h, strict=True)]
        noise = xp.concat(spread) * k**0.5
    q = xp.concat([state.q.blocks[0] for state in states], axis=-1)
    held = xp.concat([state.held[0] for state in states], axis=-1)
    # move
    (found,), *_ = p._moves([Orbits(q, held, h_all, v_all)], k, noise, None, step, k == 1 and v is not None)
    if known(found.moved) is not True:
        return None
    # and part them
    lengths, done = xp.stack([found.a, found.b]), []
    least = float(xp.finfo(lengths.dtype).smallest_normal)
    for state, x, here in zip(states, h, places, strict=True):
        own = lengths[:, here]
        a, b = xp.sum(square(own / (xp.max(own) + least)), axis=1) ** 0.5  # all that counts is their ratio
        seen = a > 0 if known(a > 0) else largest(x) > 0
        block, held = found.q[..., here], found.held[..., here]
        fitted = Fitted(None, found.moved, 1.0, (a, b))
        counts = counted(state, fitted, found.moved, seen, None)
        done.append(state._replace(q=state.q._replace(blocks=(block,)), held=(held,), **counts))
    return done
