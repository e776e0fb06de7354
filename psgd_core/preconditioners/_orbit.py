"""Fitting on the groups of Theorem 3.1: one update for every permutation subgroup K."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import array_api_compat

from .. import _blocks
from .._array import Array, known, select
from ..groups.orbits import OrbitBlocks, OrbitGroup
from ._base import Preconditioner, require_damping
from ._signs import signs
from .normalizers import Normalizer, Running
from .rules import RULES


class OrbitState(NamedTuple):
    """State of a preconditioner on a Theorem 3.1 group; all arrays on one namespace, dtype and device."""

    q: OrbitBlocks  # Q: per orbit size s an (s, s, c) array
    held: tuple[Array, ...]  # what the normaliser holds: per orbit size (c,), or one 0-d array per group
    pending: Array  # 0-d bool: the automatic scale is still to be set
    count: Array  # 0-d int32: updates done
    skipped: Array  # 0-d int32: pairs left out (NaN, Inf, zero probe)


@dataclass(frozen=True)
class OrbitPreconditioner(Preconditioner):
    """What the preconditioners on Theorem 3.1 groups share; a subclass says which group.

    Parameters
    ----------
    normalizer : Normalizer
        What the step is divided by: `Running` (default), `Sample` or `Gradient`.
    steps : {"orbit", "group"}
        A step for each orbit (they are factors of a direct product: far faster where orbits differ in
        scale), or one for all, set by the largest.
    rule : {"left", "right", "symmetric"}
        dQ = E Q (default); dQ = Q E, eq. (5); the same with Q kept symmetric, eq. (6). The last two need a
        step below about 4 / kappa of the worst orbit: see `psgd_core.convergence.stable_step`.
    damping : float, optional
        lambda in ``H^2 + lambda^2 I``, absolute: P stays below 1 / lambda. None takes 1e-9 in float32 and
        1e-16 in float64; 0 switches it off.
    """

    normalizer: Normalizer = field(default_factory=Running, kw_only=True)
    steps: Literal["orbit", "group"] = field(default="orbit", kw_only=True)
    rule: Literal["left", "right", "symmetric"] = field(default="left", kw_only=True)
    damping: float | None = field(default=None, kw_only=True)
    exact_damping: ClassVar[bool] = True
    """Damping in expectation (s more probes per orbit), rather than by noise on h (for one large orbit)."""

    @property
    def group(self) -> OrbitGroup:
        """The group that Q is on."""
        raise NotImplementedError(f"{type(self).__name__} does not say which group it is on")

    def __post_init__(self) -> None:
        require_damping(self.damping)
        if not isinstance(self.normalizer, Normalizer):
            raise TypeError(
                f"`normalizer` must be a Normalizer, got {self.normalizer!r}; "
                "use one of psgd_core.normalizers: Running(), Sample(), Gradient()"
            )
        if self.steps not in ("orbit", "group"):
            raise ValueError(
                f"`steps` must be 'orbit' (a step per orbit) or 'group' (one for all), got {self.steps!r}"
            )
        if self.rule not in RULES:
            raise ValueError(f"`rule` must be one of {', '.join(map(repr, RULES))}, got {self.rule!r}")

    def size(self, state: OrbitState) -> int:
        """Return n."""
        return self.group.size(state.q)

    def _start(self, n: int, like: Array, rng: Any) -> OrbitState:
        xp, device = array_api_compat.array_namespace(like), array_api_compat.device(like)
        q = self.group.identity(n, like)
        shapes = [(block.shape[2],) for block in q.blocks] if self.steps == "orbit" else [()]
        return OrbitState(
            q=q,
            held=tuple(xp.zeros(shape, dtype=like.dtype, device=device) for shape in shapes),
            pending=xp.asarray(True, device=device),
            count=xp.zeros((), dtype=xp.int32, device=device),
            skipped=xp.zeros((), dtype=xp.int32, device=device),
        )

    def _scaled(self, state: OrbitState, scale: float | Array) -> OrbitState:
        xp = array_api_compat.array_namespace(state.pending)
        q = state.q._replace(blocks=tuple(block * scale for block in state.q.blocks))
        return state._replace(q=q, pending=xp.zeros_like(state.pending))

    def _update(
        self, state: OrbitState, v: Array, h: Array, usable: Array, step: float | Array
    ) -> OrbitState:
        xp, k = array_api_compat.array_namespace(v), v.shape[1]
        due = state.pending & usable & (xp.max(xp.abs(h)) > 0)
        blocks = state.q.blocks
        hs, vs = self._probes(state, v, h, usable)
        a = [_blocks.matmul(q, x) for q, x in zip(blocks, hs, strict=True)]
        b = [_blocks.solve(_blocks.transpose(q), x) for q, x in zip(blocks, vs, strict=True)]
        if known(due) is not False:
            # the automatic scale: the minimiser over c of the criterion at c Q, c^4 = |b|^2 / |a|^2
            norm_a, norm_b = _norm(a), _norm(b)
            one = xp.ones_like(norm_a)
            scale = xp.sqrt(xp.where(due, norm_b, one)) / xp.sqrt(xp.where(due, norm_a, one))
            blocks = tuple(q * scale for q in blocks)
            a, b = [x * scale for x in a], [x / scale for x in b]

        rule, retract = RULES[self.rule]
        sizes, units, moves = [], [], []
        for q, hp, vp, ap, bp in zip(blocks, hs, vs, a, b, strict=True):
            # per orbit in units of its largest entry: no square overflows or vanishes
            unit = xp.maximum(xp.max(xp.abs(ap), axis=(0, 1)), xp.max(xp.abs(bp), axis=(0, 1)))
            unit = xp.where(unit > 0, unit, xp.ones_like(unit))
            size, move = rule(q, hp / unit, vp / unit, ap / unit, bp / unit, k, self.normalizer.measure)
            sizes.append(unit * xp.sqrt(size))
            units.append(unit)
            moves.append(move)
        if self.steps == "group":
            sizes = [xp.max(xp.concat(sizes))]
        for size in sizes:  # a singular or overflowing Q: better to keep it than to spoil it
            usable = usable & xp.all(xp.isfinite(size))

        new_blocks, held = [], []
        for i, (q, unit, move) in enumerate(zip(blocks, units, moves, strict=True)):
            j = i if self.steps == "orbit" else 0
            scale_n, after = self.normalizer.scale(state.held[j], sizes[j], step)
            some = scale_n > 0
            ratio = xp.where(some, unit, 0 * unit) / xp.where(some, scale_n, xp.ones_like(scale_n))
            new = q - (step * ratio * ratio) * move
            if retract is not None:  # never asked about what is not finite
                new = retract(select(usable, new, state.q.blocks[i]))
            new_blocks.append(select(usable, new, state.q.blocks[i]))
            if j == i:
                held.append(select(usable, after, state.held[j]))
        passed = xp.astype(usable, xp.int32)
        return OrbitState(
            q=state.q._replace(blocks=tuple(new_blocks)),
            held=tuple(held),
            pending=state.pending & ~(due & usable),
            count=state.count + passed,
            skipped=state.skipped + (1 - passed),
        )

    def _probes(
        self, state: OrbitState, v: Array, h: Array, usable: Array
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Return (h, v) by orbits, the damping with h."""
        damping = self._damping(v) * array_api_compat.array_namespace(v).astype(usable, v.dtype)
        if self.damping != 0 and not self.exact_damping:
            h = h + damping * signs(state.count, h)
        hs, vs = self.group.split(state.q, h), self.group.split(state.q, v)
        if self.damping == 0 or not self.exact_damping:
            return hs, vs
        # E[(h + damping w)(h + damping w)^T] = h h^T + damping^2 I: s more probes, all with v = 0
        xp, scale = array_api_compat.array_namespace(v), v.shape[1] ** 0.5
        more = [damping * scale * _blocks.identity(x.shape[0], x.shape[2], x) for x in hs]
        return tuple(xp.concat([x, y], axis=1) for x, y in zip(hs, more, strict=True)), vs

    def apply(self, state: OrbitState, x: Array) -> Array:
        """Return ``Q x`` for x of shape (n,) or (n, k)."""
        self._vectors(state, "x", x)
        return self.group.apply(state.q, x)

    def apply_transpose(self, state: OrbitState, x: Array) -> Array:
        """Return ``Q^T x`` for x of shape (n,) or (n, k)."""
        self._vectors(state, "x", x)
        return self.group.apply_transpose(state.q, x)

    def solve(self, state: OrbitState, x: Array) -> Array:
        """Return ``Q^{-1} x`` for x of shape (n,) or (n, k)."""
        self._vectors(state, "x", x)
        return self.group.solve(state.q, x)

    def solve_transpose(self, state: OrbitState, x: Array) -> Array:
        """Return ``Q^{-T} x`` for x of shape (n,) or (n, k)."""
        self._vectors(state, "x", x)
        return self.group.solve_transpose(state.q, x)

    def log_det(self, state: OrbitState) -> Array:
        """Return ``log det P = 2 log |det Q|``, a 0-d array."""
        return 2 * self.group.log_det(state.q)


def _norm(parts: list[Array]) -> Array:
    """Return the Euclidean norm of all entries together, without overflow."""
    xp = array_api_compat.array_namespace(*parts)
    largest = xp.max(xp.stack([xp.max(xp.abs(x)) for x in parts]))
    unit = xp.where(largest > 0, largest, xp.ones_like(largest))
    total = xp.sum((parts[0] / unit) ** 2)
    for x in parts[1:]:
        total = total + xp.sum((x / unit) ** 2)
    return unit * xp.sqrt(total)
