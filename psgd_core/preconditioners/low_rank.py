"""Low rank plus diagonal: ``Q = (I + U V^T) diag(d)``, Theorem 3.3 and appendix D."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import array_api_compat

from .. import kernels
from ..arrays import shards
from ..arrays.arguments import require_choice, require_count
from ..arrays.brief import brief
from ..arrays.draws import normal, signs
from ..arrays.gram_algebra import gauge, joint_bound
from ..arrays.library import Array, device_of, known, namespace
from ..arrays.sums import norm
from ..groups.low_rank import LowRankElement, LowRankFixedV
from .base import Preconditioner, Verb
from .counters import JUMP, Fitted, Given, counted
from .forms import Form
from .low_rank_moves import MOVES, either
from .low_rank_natural import natural_step
from .low_rank_sketch import sketch
from .normalizers import Normalizer, Running, settle_options

_A = LowRankFixedV()  # either group of Theorem 3.3 has the same verbs

START_U, START_V = 10, 12
"""Counts whose signs are linearly independent for every rank < n up to n = 40, and in practice beyond."""

REGAUGE = 8
"""Updates from one change of gauge to the next: ample at every step size, and next to free."""

START = 0.1
"""|U|_F^2 and |V|_F^2 of the start: near the identity, away from the stationary point U = V = 0."""


@brief
class LowRankState(NamedTuple):
    """State of `LowRank`; all arrays on one namespace, dtype and device."""

    u: Array  # (r, n): the paper's U, transposed
    v: Array  # (r, n): the paper's V, transposed
    d: Array  # (n,)
    held: Array  # (2,): what the normaliser holds for the updates that move U, and for those that move V
    damping: Array  # these five: see `Counters`
    pending: Array
    off_scale: Array
    count: Array  # type: ignore[assignment]  # tuple.count; even updates move U, odd ones V
    skipped: Array


@dataclass(frozen=True, repr=False)
class LowRank(Preconditioner[LowRankState]):
    """Q = (I + U V^T) diag(d), or diag(d) (I + U V^T): both tails of a spectrum at once (Theorem 3.2).

    An update costs O(n r^2), and `precondition` O(n r). With d on the right, the plain code reads U and V
    twice and the factor that moves a third time, and the kernels read both three times. Rank 0 is a diagonal
    with one step for all elements.

    Parameters
    ----------
    rank : int
        Columns r of U and V, in [0, n).
    diagonal : {"right", "left"}
        Q = (I + U V^T) diag(d) (section D), or Q = diag(d) (I + U V^T) (appendix E.1).
    geometry : {"alternating", "natural"}
        How U, V and d move: U and V in turn, each along its own gradient (D.1.2), or all of them by Newton's
        metric (`low_rank_natural`): tens of times as much work per update, and a hundredth of the pairs.
    normalizer : Normalizer
        What the step is divided by: `Running` (default), `Sample` or `Gradient`. Natural steps have their
        own, `Running` stands for it.
    damping : float, optional
        lambda, absolute: a noise of that size on h, for which P tends to at most 1 / lambda. None takes 1e-9
        in float32 and 1e-16 in float64, relative to the first pair's scale; 0 switches it off.
    """

    state_type: ClassVar[type] = LowRankState

    rank: int = 10
    diagonal: Literal["right", "left"] = "right"
    geometry: Literal["alternating", "natural"] = field(default="alternating", kw_only=True)
    normalizer: Normalizer = field(default_factory=Running)
    damping: float | None = None

    def __post_init__(self) -> None:
        settle_options(self)
        rank = require_count("rank", self.rank, "0 leaves the diagonal alone", least=0)
        object.__setattr__(self, "rank", rank)
        require_choice("diagonal", self.diagonal, MOVES)
        require_choice("geometry", self.geometry, ("alternating", "natural"))
        if self.geometry == "natural" and (self.diagonal != "right" or self.normalizer != Running()):
            raise ValueError(
                "`geometry` must be 'alternating' with the diagonal on the left or another normalizer, got "
                "'natural'; natural steps are for diagonal='right', and need no normalizer"
            )
        rule = kernels.LowRankRule(
            rank=rank,
            diagonal_first=self.diagonal == "right",
            measure=self.normalizer.measure if self.geometry == "alternating" else None,
            scale=self.normalizer.scale,
            gauge_every=REGAUGE,
            jump=JUMP,
            counted=_counted,
        )
        object.__setattr__(self, "_rule", rule)

    def _start(self, n: int, like: Array, rng: Any) -> tuple[Any, ...]:
        whole = shards.length(n)
        if self.rank >= whole:
            raise ValueError(
                f"`rank` must be below n = {whole}, got {self.rank}; use Dense for a full preconditioner"
            )
        xp, device = namespace(like), device_of(like)
        shape = (self.rank, n)
        if rng is None:
            blank = xp.zeros(shape, dtype=like.dtype, device=device)
            count = xp.zeros((), dtype=xp.int32, device=device)
            u, v = (signs(count + start, blank, axis=1) for start in (START_U, START_V))
        elif array_api_compat.is_jax_array(rng):  # a key serves once: both factors from one draw
            both = normal(rng, (2 * self.rank, n), like)
            u, v = both[: self.rank, :], both[self.rank :, :]
        else:
            u, v = normal(rng, shape, like), normal(rng, shape, like)
        small = (START / max(self.rank * whole, 1)) ** 0.5
        d = xp.ones(n, dtype=like.dtype, device=device)
        return u * small, v * small, d, xp.zeros(2, dtype=like.dtype, device=device)

    def _form(self, own: Form, real: str) -> tuple[int, Form]:
        _, (n,) = own[2]
        factor = real, (self.rank, n)
        return n, (factor, factor, (real, (n,)), (real, (2,)))

    def _scaled(self, state: LowRankState, scale: float | Array) -> LowRankState:
        return state._replace(d=state.d * scale)

    def _contact(self, state: LowRankState, v: Array, h: Array) -> tuple[LowRankState, Array]:
        if min(self.rank, h.shape[1] // 2) == 0:
            return super()._contact(state, v, h)
        u, w, scale = sketch(v.T, h.T, self.rank)
        xp, m = namespace(h), u.shape[0]
        u, w = xp.concat([u, state.u[m:, :]]), xp.concat([w, state.v[m:, :]])
        return state._replace(u=u, v=w, d=state.d * scale), scale * scale

    def _fit(self, state: LowRankState, given: Given) -> Fitted:
        v, h, damping, due, step = given
        if v is None:
            raise ValueError(
                "`v` must be given to LowRank, got None: its moves are made from probes; draw some, or take "
                "`curvature.basis`, n of them, which integrate it out"
            )
        xp, d = namespace(v), state.d
        # damp by noise on h, and take probes and products as rows
        if self.damping != 0:
            h = h + damping * signs(state.count, h)
        p, h = v.T, h.T
        # set the scale: the minimiser over multiples of diag(d), c^4 = |v / d|^2 / |d h|^2
        scale = xp.ones_like(damping)
        if due is not None:
            scale = xp.where(due, _best_scale(d * h, p / d), scale)
            d = d * scale
        if self.geometry == "natural":
            found = natural_step(state.u, state.v, d, h, p, state.held[0], step)
            new = state._replace(u=found.u, v=found.v, d=found.d, held=xp.stack([found.ridge] * 2))
            return Fitted(new, found.finite, scale * scale, found.lengths)
        # make the generators, and bound them together
        is_even = state.count % 2 < 1  # then it is U's turn
        turn = known(is_even)
        turn_u = is_even if turn is None else turn
        move = MOVES[self.diagonal](state.u, state.v, d, h, p, turn_u, self.normalizer.measure)
        size = move.unit * xp.sqrt(joint_bound(move.size_d, move.size_w, step))
        # ask the normaliser
        mu, after = self.normalizer.rate(either(turn_u, *state.held), size, move.unit, step)
        # move d and the factor whose turn it is
        factor = either(turn_u, state.u, state.v) - mu * move.factor
        u, v = either(turn_u, factor, state.u), either(turn_u, state.v, factor)
        held = xp.stack([either(turn_u, after, state.held[0]), either(turn_u, state.held[1], after)])
        # renew the gauge of U and V
        drifted = state.count % REGAUGE >= REGAUGE - 1
        if self.rank and known(drifted) is not False:
            one = xp.eye(self.rank, dtype=move.uu.dtype, device=device_of(move.uu))
            u, v = (
                xp.astype(xp.where(drifted, c, one), d.dtype, copy=False) @ factor
                for c, factor in zip(gauge(move.uu, move.vv), (u, v), strict=True)
            )
        new = state._replace(u=u, v=v, d=d * (1 - mu * move.d), held=held)
        return Fitted(new, xp.isfinite(size), scale * scale, (move.lengths[0], move.lengths[1]))

    def _act(self, state: LowRankState, x: Array, verb: Verb) -> Array:
        # the verbs of A = I + U V^T, O(n r k), or by Woodbury O(n r (r + k)); before or after diag(d)
        d = (1 / state.d if verb in ("solve", "solve_transpose") else state.d)[:, None]
        a, act = _factor(state), getattr(_A, verb)
        diagonal_first = (self.diagonal == "right") == (verb in ("apply", "solve_transpose"))
        found: Array = act(a, d * x) if diagonal_first else d * act(a, x)
        return found

    def _log_det(self, state: LowRankState) -> Array:
        xp = namespace(state.d)
        return 2 * (shards.total(xp.sum(xp.log(xp.abs(state.d)))) + _A.log_det(_factor(state)))

    def _eigenvalues(self, state: LowRankState) -> Array:
        if self.rank == 0:
            return state.d * state.d
        if not _is_constant(state.d):
            return super()._eigenvalues(state)
        xp, found = namespace(state.d), _A.spectrum(_factor(state))
        values = xp.concat([found.values, found.bulk * xp.ones_like(state.d[: found.multiplicity])])
        return state.d[0] ** 2 * values


def _is_constant(d: Array) -> bool:
    """Return whether all entries are equal, as at the start (waits for the device)."""
    try:
        return bool(namespace(d).all(d == d[0]))
    except (TypeError, RuntimeError):  # traced arrays, and those without memory, have no values
        return False


def _factor(state: LowRankState) -> LowRankElement:
    """Return ``A = I + U V^T`` as an element of its group."""
    xp = namespace(state.d)
    return LowRankElement(xp.ones_like(state.count, dtype=state.d.dtype), state.u.T, state.v.T)


def _counted(
    state: LowRankState, growth: Array, lengths: tuple[Array, Array], complete: Array, seen: Array, due: Array
) -> dict[str, Array]:
    """Return the counters after an update by the GPU's kernels."""
    return counted(state, Fitted(state, complete, growth, lengths), complete, seen, due)


def _best_scale(x: Array, y: Array) -> Array:
    """Return ``(|y| / |x|)^{1/2}``."""
    xp = namespace(x)
    size = xp.sqrt(norm(x))
    return xp.sqrt(norm(y)) / xp.where(size > 0, size, xp.ones_like(size))
