"""Diagonals of many vectors that move as one: their entries are factors of a direct product as it is.

What belongs to a whole vector is its own in each: damping, counts, and whether its scale is due or off.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..arrays import batched
from ..arrays.batched import square
from ..arrays.library import Array, known, namespace
from ..arrays.vectors import largest
from .counters import Fitted, counted
from .orbit import OrbitPreconditioner, OrbitState, Orbits
from .sparse import Diagonal


def joins(p: OrbitPreconditioner | object) -> bool:
    """Return whether vectors that have this preconditioner may move together."""
    return type(p) is Diagonal and p.steps == "orbit"


def advanced(
    p: Diagonal, states: Sequence[OrbitState], v: Sequence[Array] | None, h: Sequence[Array], step: float | Array
) -> list[OrbitState] | None:
    """Return the states after one update on a usable pair, to rounding those of an update each.

    None, and nothing is done, where that would not be so simple or is not known: the scale of one is due, or
    one cannot move.

    Parameters
    ----------
    p : Diagonal
        That of all of them.
    states : sequence of OrbitState
    v, h : sequence of arrays, shape (n_i, k)
        Each one's part of the pair.
    step : float or array
    """
    if any(known(state.pending) is not False for state in states):
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
    (found,), _ = p._moves([Orbits(q, held, h_all, v_all)], k, noise, None, step, k == 1 and v is not None)
    if known(found.moved) is not True:
        return None
    # and part them
    lengths, done = xp.stack([found.a, found.b]), []
    for state, x, here in zip(states, h, places, strict=True):
        own = lengths[:, here]
        unit = xp.max(own)
        a, b = xp.sqrt(xp.sum(square(own / xp.where(unit > 0, unit, 1 + unit)), axis=1))
        new = state._replace(
            q=state.q._replace(blocks=(found.q[..., here],)), held=(found.held[..., here],)
        )
        fitted = Fitted(new, found.moved, 1.0, (a, b))
        done.append(new._replace(**counted(state, fitted, found.moved, largest(x) > 0, None)))
    return done
