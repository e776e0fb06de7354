"""Fitting on the groups of Theorem 3.1: one update for every permutation subgroup K."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from .. import kernels
from ..arrays import batched
from ..arrays.arguments import described
from ..arrays.draws import signs
from ..arrays.library import Array, device_of, known, namespace
from ..groups.layouts import Layout, is_gathered
from ..groups.orbits import OrbitBlocks, OrbitGroup
from .base import Preconditioner
from .counters import Fitted
from .forms import Form, is_index
from .generators import Generator, Pair
from .geometries import GEOMETRIES, Geometry, require_geometry, root_of
from .normalizers import Normalizer, Running, Sample
from .options import settle_options


class OrbitState(NamedTuple):
    """State of a preconditioner on a Theorem 3.1 group; all arrays on one namespace, dtype and device."""

    q: OrbitBlocks  # Q (P under QUAD4P and PRO4P): per orbit size s an (s, s, c) array
    held: tuple[Array, ...]  # what the normaliser holds: per orbit size (c,), or one 0-d array per group
    damping: Array  # these five: see `Counters`
    pending: Array
    off_scale: Array
    count: Array
    skipped: Array


class _Given(NamedTuple):
    """What an update starts from, by orbits."""

    blocks: tuple[Array, ...]
    held: tuple[Array, ...]
    hs: tuple[Array, ...]
    vs: tuple[Array, ...]
    drawn: bool  # whether v was given


class _Found(NamedTuple):
    """What an update leaves of it."""

    blocks: tuple[Array, ...]
    held: tuple[Array, ...]
    moved: Array  # 0-d bool: whether all of them moved
    growth: Array | float  # what P was multiplied by, where the scale is due
    sizes: tuple[list[Array], list[Array]]  # |a| and |b| orbit by orbit


PIECE = 2**16
"""Elements of h that are worked on together: what an update makes along the way stays in cache."""


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
    geometry : {"EQ", "QE", "QE-symmetric", "QEQ", "Q0.5EQ1.5", "QUAD", "QEP", "QUAD4P", "PRO4P", "Lyapunov"}
        How Q moves, by default dQ = E Q: see `psgd_core.preconditioners.geometries` for all of them, and
        `psgd_core.convergence.stable_step` for the steps that they allow.
    damping : float, optional
        lambda in ``H^2 + lambda^2 I``, absolute: P tends to at most 1 / lambda, about which single probes
        leave it. None takes 1e-9 in float32 and 1e-16 in float64, relative to the first pair's scale; 0
        switches it off.
    """

    normalizer: Normalizer = field(default_factory=Running, kw_only=True)
    steps: Literal["orbit", "group"] = field(default="orbit", kw_only=True)
    geometry: str = field(default="EQ", kw_only=True)
    damping: float | None = field(default=None, kw_only=True)
    exact_damping: ClassVar[bool] = True
    """Damping in expectation (s more probes per orbit), rather than by noise on h (for one large orbit)."""
    state_type: ClassVar[type] = OrbitState
    moves_in_parts: ClassVar[bool] = True

    @property
    def group(self) -> OrbitGroup:
        """The group that Q is on."""
        raise NotImplementedError(f"{type(self).__name__} does not say which group it is on")

    def __post_init__(self) -> None:
        settle_options(self)
        if not isinstance(self.steps, str) or self.steps not in ("orbit", "group"):
            raise ValueError(
                "`steps` must be 'orbit' (a step per orbit) or 'group' (one for all), "
                f"got {described(self.steps)}"
            )
        require_geometry(self.geometry)

    def _size(self, state: OrbitState) -> int:
        return sum(block.shape[0] * block.shape[2] for block in state.q.blocks)

    def _form(self, own: Form, real: Any) -> Form:
        (_, (_, *blocks), (_, *gather)), _ = own
        n = sum(s * c for _, (s, _, c) in blocks)
        if n < 1:
            raise ValueError("a state of nothing")
        layout = self.group.layout(n)
        sizes = [entry[:2] for entry in layout]
        order: Form = ()
        if gather or is_gathered(layout):
            order = ((gather[0][0] if is_index(gather[0][0]) else "int64", (n,)),) * 2
        held = [(real, (c,)) for _, c in sizes] if self.steps == "orbit" else [(real, ())]
        blocks = [(real, (s, s, c)) for s, c in sizes]
        return (OrbitBlocks, (tuple, *blocks), (tuple, *order)), (tuple, *held)

    def _start(self, n: int, like: Array, rng: Any) -> tuple[Any, ...]:
        xp, device = namespace(like), device_of(like)
        q = self.group.identity(n, like)
        shapes = [(block.shape[2],) for block in q.blocks] if self.steps == "orbit" else [()]
        return q, tuple(xp.zeros(shape, dtype=like.dtype, device=device) for shape in shapes)

    def _scaled(self, state: OrbitState, scale: float | Array) -> OrbitState:
        factor = scale * scale if GEOMETRIES[self.geometry].fits_p else scale
        return state._replace(q=state.q._replace(blocks=tuple(block * factor for block in state.q.blocks)))

    def _fit(
        self, state: OrbitState, v: Array | None, h: Array, damping: Array, due: Array, step: float | Array
    ) -> Fitted:
        hs, vs = self._probes(state, v, h, damping)
        given = _Given(state.q.blocks, state.held, hs, vs, v is not None)
        parts = [given]
        if known(due) is False and self.steps == "orbit":  # then orbits have nothing to do with each other
            parts = _pieces(given)
        found = [self._fit_blocks(part, damping, due, step) for part in parts]
        moved = found[0].moved
        for part in found[1:]:
            moved = moved & part.moved
        return Fitted(
            state=state._replace(
                q=state.q._replace(blocks=_joined(given.blocks, [part.blocks for part in found])),
                held=_joined(given.held, [part.held for part in found]),
            ),
            moved=moved,
            growth=found[0].growth,
            sizes=(
                norm_of([x for part in found for x in part.sizes[0]]),
                norm_of([x for part in found for x in part.sizes[1]]),
            ),
        )

    def _fit_blocks(self, given: _Given, damping: Array, due: Array, step: float | Array) -> _Found:
        """Return what one update of these blocks leaves; those that are singular or overflow stay."""
        xp, k = namespace(damping), given.hs[0].shape[1]
        geometry, blocks = GEOMETRIES[self.geometry], given.blocks
        # make the generators
        parts = [
            geometry.generator(Pair(q, k, h=x, v=y, single=k == 1 and given.drawn))
            for q, x, y in zip(blocks, self._damped(given.hs, damping), given.vs, strict=True)
        ]
        # set the scale
        growth: Array | float = 1.0
        if known(due) is not False:
            blocks, parts, growth = _rescaled(geometry, blocks, parts, due)
        # bound them, per orbit in units of its largest entry: no square overflows or vanishes
        units = [e.unit() for e in parts]
        parts = [e.in_units(unit) for e, unit in zip(parts, units, strict=True)]
        sizes = [
            unit * xp.sqrt(e.size(self.normalizer.measure)) for e, unit in zip(parts, units, strict=True)
        ]
        if self.steps == "group":
            sizes = [xp.max(xp.concat(sizes))]
        flags = [xp.isfinite(size) for size in sizes]
        # ask the normaliser, and move
        new_blocks, held = [], []
        for i, (q, unit, e) in enumerate(zip(blocks, units, parts, strict=True)):
            j = i if self.steps == "orbit" else 0
            scale_n, after = self.normalizer.scale(given.held[j], sizes[j], step)
            some = scale_n > 0
            ratio = xp.where(some, unit, 0 * unit) / xp.where(some, scale_n, xp.ones_like(scale_n))
            new = geometry.move(q, e, step * ratio * ratio)
            # what is not finite is not asked about: no library's decompositions are
            new = geometry.retract(_choose(flags[j], new, given.blocks[i]))
            new_blocks.append(_choose(flags[j], new, given.blocks[i]))
            if j == i:
                held.append(_choose(flags[j], after, given.held[j]))
        moved = xp.all(flags[0])
        for flag in flags[1:]:
            moved = moved & xp.all(flag)
        lengths = [e.lengths() for e in parts]
        return _Found(
            tuple(new_blocks),
            tuple(held),
            moved,
            growth,
            (
                [unit * a for unit, (a, _) in zip(units, lengths, strict=True)],
                [unit * b for unit, (_, b) in zip(units, lengths, strict=True)],
            ),
        )

    def _fused(self, state: OrbitState, v: Array, h: Array, step: Any, inplace: bool) -> OrbitState | None:
        decay = self._kernel_decay
        if decay is None:
            return None
        layout = _placed(self.group.layout(self._size(state)))
        kernel = kernels.orbits.update if self.exact_damping else kernels.orbits.update_dense
        found = kernels.through(h, kernel, (state, v, h, step), layout, decay, inplace)
        if found is None and self.exact_damping and type(h) is not np.ndarray:
            found = kernels.gpu_orbits.update(state, layout, v, h, step, decay, inplace)
        return found

    @property
    def _kernel_decay(self) -> float | None:
        """What tells the kernels which normaliser to use; None if this configuration is not for them."""
        if self.geometry != "EQ" or self.steps != "orbit":
            return None
        if isinstance(self.normalizer, Running):
            return self.normalizer.decay
        return -1.0 if isinstance(self.normalizer, Sample) else None

    def _probes(
        self, state: OrbitState, v: Array | None, h: Array, damping: Array
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Return (h, v) by orbits; without v, columns whose mean ``v v^T`` is I."""
        if self.damping != 0 and not self.exact_damping:
            h = h + damping * signs(state.count, h)
        layout, gather = self.group.layout(h.shape[0]), state.q.gather
        hs, scale = self.group.split(layout, h, gather), h.shape[1] ** 0.5
        if v is None:
            vs = tuple(scale * batched.identity(x.shape[0], x.shape[2], x) for x in hs)
        else:
            vs = self.group.split(layout, v, gather)
        return hs, vs

    def _damped(self, hs: tuple[Array, ...], damping: Array) -> tuple[Array, ...]:
        """Return h by orbits with the damping, where it is exact.

        ``E[(h + damping w)(h + damping w)^T] = h h^T + damping^2 I``: s more probes, all with v = 0.
        """
        if self.damping == 0 or not self.exact_damping:
            return hs
        xp = namespace(damping)
        size = damping * hs[0].shape[1] ** 0.5
        more = [size * batched.identity(x.shape[0], x.shape[2], x) for x in hs]
        return tuple(xp.concat([x, y], axis=1) for x, y in zip(hs, more, strict=True))

    def apply(self, state: OrbitState, x: Array) -> Array:
        """Return ``Q x`` for x of shape (n,) or (n, k)."""
        self._vectors(state, "x", x)
        return self.group.apply(self._factor(state), x)

    def apply_transpose(self, state: OrbitState, x: Array) -> Array:
        """Return ``Q^T x`` for x of shape (n,) or (n, k)."""
        self._vectors(state, "x", x)
        return self.group.apply_transpose(self._factor(state), x)

    def solve(self, state: OrbitState, x: Array) -> Array:
        """Return ``Q^{-1} x`` for x of shape (n,) or (n, k)."""
        self._vectors(state, "x", x)
        return self.group.solve(self._factor(state), x)

    def solve_transpose(self, state: OrbitState, x: Array) -> Array:
        """Return ``Q^{-T} x`` for x of shape (n,) or (n, k)."""
        self._vectors(state, "x", x)
        return self.group.solve_transpose(self._factor(state), x)

    def precondition(self, state: OrbitState, g: Array) -> Array:
        """Return ``P g`` for g of shape (n,) or (n, k)."""
        self._require_state(state)
        if not GEOMETRIES[self.geometry].fits_p:
            q, layout = state.q, _placed(self.group.layout(self._size(state)))
            fused = kernels.through(g, kernels.orbits.precondition, (q.blocks, q.gather, g), layout)
            if fused is None and type(g) is not np.ndarray:
                fused = kernels.gpu_orbits.precondition(state, layout, g)
            return super().precondition(state, g) if fused is None else fused
        self._vectors(state, "g", g)
        return self.group.apply(state.q, g)

    def log_det(self, state: OrbitState) -> Array:
        """Return ``log det P = 2 log |det Q|``, a 0-d array."""
        self._require_state(state)
        log_det = self.group.log_det(state.q)
        return log_det if GEOMETRIES[self.geometry].fits_p else 2 * log_det

    def _factor(self, state: OrbitState) -> OrbitBlocks:
        """Return Q, ``P^{1/2}`` where the state holds P."""
        if not GEOMETRIES[self.geometry].fits_p:
            return state.q
        return state.q._replace(blocks=tuple(root_of(p) for p in state.q.blocks))


def _placed(layout: Layout) -> tuple[tuple[str, int], ...]:
    """Return what the kernels ask for: per orbit size how, and from which index on."""
    return tuple((how, start) for _, _, how, start in layout)


def _rescaled(
    geometry: Geometry, blocks: tuple[Array, ...], parts: list[Generator], due: Array
) -> tuple[tuple[Array, ...], list[Generator], Array]:
    """Return blocks and generators at c Q, least in the criterion where `due`, and c^2, by which P grew."""
    xp = namespace(due)
    norm_x, norm_y = norm_of([e.x for e in parts]), norm_of([e.y for e in parts])
    one = xp.ones_like(norm_x)  # c^4 = |y|^2 / |x|^2
    if geometry.fits_p:
        growth = xp.where(due, norm_y, one) / xp.where(due, norm_x, one)
        return tuple(q * growth for q in blocks), [e.rescaled(growth, 1, 0) for e in parts], growth
    c = xp.sqrt(xp.where(due, norm_y, one)) / xp.sqrt(xp.where(due, norm_x, one))
    parts = [e.rescaled(c, geometry.degree, geometry.degree - 2) for e in parts]
    return tuple(q * c for q in blocks), parts, c * c


def _pieces(given: _Given) -> list[_Given]:
    """Return what is given for a few orbits at a time; each size on its own."""
    found = []
    for q, held, h, v in zip(*given[:4], strict=True):
        width = max(1, PIECE // (h.shape[0] * h.shape[1]))
        for low in range(0, h.shape[2], width):
            part = slice(low, low + width)
            found.append(
                _Given((q[:, :, part],), (held[part],), (h[:, :, part],), (v[:, :, part],), given.drawn)
            )
    return found


def _joined(whole: tuple[Array, ...], found: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Return what was found for `_pieces`, joined to arrays like the whole ones."""
    if len(found) == 1:
        return found[0]
    xp, rest, arrays = namespace(*whole), iter(found), []
    for array in whole:
        parts: list[Array] = []
        while sum(part.shape[-1] for part in parts) < array.shape[-1]:
            parts += next(rest)
        arrays.append(parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1))
    return tuple(arrays)


def _choose(flags: Array, x: Array, y: Array) -> Array:
    """Return x where `flags`, per orbit, are true, else y: without a pass where they are known to be."""
    xp = namespace(flags)
    return x if known(xp.all(flags)) else xp.where(flags, x, y)


def norm_of(parts: list[Array]) -> Array:
    """Return the Euclidean norm of all entries together, without overflow."""
    xp = namespace(*parts)
    largest = xp.max(xp.stack([xp.max(xp.abs(x)) for x in parts]))
    unit = xp.where(largest > 0, largest, xp.ones_like(largest))
    total = xp.sum(batched.square(parts[0] / unit))
    for x in parts[1:]:
        total = total + xp.sum(batched.square(x / unit))
    return unit * xp.sqrt(total)
