"""Fitting on the groups of Theorem 3.1: one update for every permutation subgroup K."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from .. import kernels
from ..arrays import batched, shards
from ..arrays.arguments import require_choice
from ..arrays.batched import adjoint, matmul
from ..arrays.brief import brief
from ..arrays.draws import signs
from ..arrays.library import Array, device_of, known, namespace
from ..arrays.sums import norm
from ..arrays.symmetric import root_of
from ..arrays.vectors import finite_here
from ..groups.orbits import OrbitBlocks, OrbitGroup
from .base import Preconditioner, Verb
from .counters import JUMP, Fitted, Given
from .first_contact import closed_form, enough
from .forms import Form, blocks_form
from .generators import Pair
from .geometries import GEOMETRIES, GeometryName, geometry_of
from .normalizers import Kalman, Normalizer, Running, Sample, settle_options

PIECE = 2**16
"""Elements of h that are worked on together: what an update makes along the way stays in cache."""


@brief
class OrbitState(NamedTuple):
    """State of a preconditioner on a Theorem 3.1 group; all arrays on one namespace, dtype and device."""

    q: OrbitBlocks  # Q (P under QUAD4P and PRO4P): per orbit size s an (s, s, c) array
    held: tuple[Array, ...]  # what the normaliser holds: per orbit size (..., c), or one 0-d array per group
    damping: Array  # these five: see `Counters`
    pending: Array
    off_scale: Array
    count: Array  # type: ignore[assignment]
    skipped: Array


class Orbits(NamedTuple):
    """Orbits of one size, or some of them, and what an update of them starts from."""

    q: Array  # (s, s, c)
    held: Array  # (..., c), or 0-d where there is one step for all
    h: Array  # (s, k, c)
    v: Array  # (s, k, c)


class _Moved(NamedTuple):
    """What an update leaves of them."""

    q: Array
    held: Array
    moved: Array  # 0-d bool: whether all of them moved
    a: Array  # (c,): |a| and |b|
    b: Array


@dataclass(frozen=True, repr=False)
class OrbitPreconditioner(Preconditioner[OrbitState]):
    """What the preconditioners on Theorem 3.1 groups share; a subclass says which group.

    ``init(..., pairs=(v, h))`` with k pairs starts orbits of size s, ``2 s + 4 <= k``, where these put the
    minimiser: at ``|H|^{-1}`` itself, up to rounding, if H is definite and in the group (`Dense` from
    2 n + 4 products), and elsewhere about as close as the better of ``(mean h h^T)^{-1/2}`` and the minimiser
    of the criterion's mean over them.

    Parameters
    ----------
    normalizer : Normalizer
        What the step is divided by: `Running` (default), `Sample` or `Gradient`. Or `Kalman`, in the geometry
        "Lyapunov", which takes a `memory` in place of a step.
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
    geometry: GeometryName = field(default="EQ", kw_only=True)
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
        require_choice("steps", self.steps, ("orbit", "group"), "a step per orbit, or one for all")
        geometry = geometry_of(self.geometry)
        if self.takes_memory and not (geometry.is_newton and self.steps == "orbit"):
            raise ValueError(
                f"`geometry` must be 'Lyapunov' and `steps` 'orbit' for normalizer=Kalman(), got "
                f"{self.geometry!r} and {self.steps!r}; its gain is one for all modes"
            )
        if not geometry.fits_p:
            decay = None  # kernels know the other geometries' products only
            if self.geometry == "EQ" and self.steps == "orbit":
                decay = self.normalizer.decay if type(self.normalizer) is Running else None
                decay = -1.0 if type(self.normalizer) is Sample else decay
            rule = kernels.OrbitRule(self._layout, decay, self.exact_damping, JUMP)
            object.__setattr__(self, "_rule", rule)

    @property
    def takes_memory(self) -> bool:
        """Whether `update` takes `memory`, in place of a step."""
        return isinstance(self.normalizer, Kalman)

    def _layout(self, n: int) -> kernels.Layout:
        """Return the layout of the orbits, for kernels."""
        return self.group.layout(n)

    def _form(self, own: Form, real: str) -> tuple[int, Form]:
        seen, _ = own
        n, layout, form = blocks_form(self.group, seen, real)
        held = [(real, shape) for shape in self._held_shapes([(s, c) for s, c, _, _ in layout])]
        return n, (form, (tuple, *held))

    def _start(self, n: int, like: Array, rng: Any) -> tuple[Any, ...]:
        xp, device = namespace(like), device_of(like)
        q = self.group.identity(n, like)
        shapes = self._held_shapes([block.shape[1:] for block in q.blocks])
        return q, tuple(xp.zeros(shape, dtype=like.dtype, device=device) for shape in shapes)

    def _held_shapes(self, sizes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the shapes of what the normaliser holds, for sizes and numbers of orbits."""
        return [self.normalizer.held_shape(s, c) for s, c in sizes] if self.steps == "orbit" else [()]

    def _scaled(self, state: OrbitState, scale: float | Array) -> OrbitState:
        factor = scale * scale if GEOMETRIES[self.geometry].fits_p else scale
        return state._replace(q=state.q._replace(blocks=tuple(block * factor for block in state.q.blocks)))

    def _contact(self, state: OrbitState, v: Array, h: Array) -> tuple[OrbitState, Array]:
        k, group, gather = h.shape[1], self.group, state.q.gather
        state, growth = super()._contact(state, v, h)
        # orbits that are given enough pairs start at what these say is best
        layout, blocks, held = group.layout(h.shape[0]), list(state.q.blocks), list(state.held)
        columns = zip(group.split(layout, v, gather), group.split(layout, h, gather), strict=True)
        for i, (v_i, h_i) in enumerate(columns):
            if k >= enough(v_i.shape[0]):
                found = closed_form(v_i, h_i)
                good = namespace(h).all(namespace(h).isfinite(found.q), axis=(0, 1))
                new = matmul(adjoint(found.q), found.q) if GEOMETRIES[self.geometry].fits_p else found.q
                blocks[i] = namespace(h).where(good, new, blocks[i])
                if self.steps == "orbit":
                    held[i] = namespace(h).where(good, self.normalizer.known(held[i], found, k), held[i])
        return state._replace(q=state.q._replace(blocks=tuple(blocks)), held=tuple(held)), growth

    def _fit(self, state: OrbitState, given: Given) -> Fitted:
        v, h, damping, due, step = given
        (n, k), group, gather = h.shape, self.group, state.q.gather
        layout = group.layout(n)
        noise = None if self.damping == 0 else damping * k**0.5
        if noise is not None and not self.exact_damping:
            h, noise = h + damping * signs(state.count, h), None
        # take the pair apart, by orbits
        hs = group.split(layout, h, gather)
        if v is None:  # columns whose mean ``v v^T`` is I
            vs = tuple(k**0.5 * batched.identity(x.shape[0], x.shape[2], x) for x in hs)
        else:
            vs = group.split(layout, v, gather)
        single = k == 1 and v is not None
        held = state.held if self.steps == "orbit" else state.held * len(hs)
        parts = list(map(Orbits, state.q.blocks, held, hs, vs))
        # move them: together where they share a step or a scale, else piece by piece
        growth: Array | float = 1.0
        lengths: tuple[Array, Array] | None = None
        found: list[_Moved] = []
        if due is None and self.steps == "orbit":
            for part in parts:
                pieces = _pieces(part)
                moves = [self._moves([x], k, noise, None, step, single)[0][0] for x in pieces[1:]]
                first = self._moves(pieces[:1], k, noise, None, step, single)[0][0]
                found.append(_joined([first, *moves]) if moves else first)
        else:
            found, growth, lengths = self._moves(parts, k, noise, due, step, single)
        # put them together
        blocks, held, flags, a, b = zip(*found, strict=True)
        moved = flags[0]
        for flag in flags[1:]:
            moved = moved & flag
        moved = shards.everywhere(moved)
        new = state._replace(
            q=state.q._replace(blocks=blocks), held=held if self.steps == "orbit" else held[:1]
        )
        return Fitted(new, moved, growth, lengths or (norm(*a), norm(*b)))

    def _moves(
        self,
        parts: list[Orbits],
        k: int,
        noise: Array | None,
        due: Array | None,
        step: float | Array,
        single: bool,
    ) -> tuple[list[_Moved], Array | float, tuple[Array, Array] | None]:
        """Return orbits after their moves, the growth of P, and |a| and |b| of all orbits if they are known.

        Orbits that are singular, or overflow, stay.
        """
        geometry, normalizer = GEOMETRIES[self.geometry], self.normalizer
        xp = namespace(parts[0].q)
        # make the generators
        es, qs = [], []
        for x in parts:
            pair = Pair(x.q, k, {"h": x.h, "v": x.v}, noise, single)
            es.append(geometry.generator(pair))
            qs.append(x.q)
        # set the scale: at c Q the criterion is least for c^4 = |y|^2 / |x|^2
        scale: Array | None = None
        growth: Array | float = 1.0
        of_all: tuple[Array, Array] | None = None
        if due is not None:
            norm_x, norm_y = norm(*[e.x for e in es]), norm(*[e.y for e in es])
            if all(e.is_symmetric for e in es):  # nobody asks for them where a scale is set
                of_all = norm_x, norm_y
            one = xp.ones_like(norm_x)
            norm_x, norm_y = xp.where(due, norm_x, one), xp.where(due, norm_y, one)
            if geometry.fits_p:
                growth = norm_y / norm_x
                qs, es = [p * growth for p in qs], [e.rescaled(growth, one) for e in es]
            else:
                scale = xp.sqrt(norm_y) / xp.sqrt(norm_x)
                growth = scale * scale
                qs, es = [q * scale for q in qs], [e.rescaled(scale, scale) for e in es]
        # bound them
        sizes, lengths = [], []
        for i, e in enumerate(es):
            es[i] = e.in_units()
            if scale is not None and geometry.degree > 1:  # `rescaled` leaves that power of it out
                es[i] = es[i]._replace(unit=es[i].unit * scale ** (geometry.degree - 1))
            sizes.append(es[i].size(normalizer.measure))
            lengths.append(es[i].lengths())
        if self.steps == "group":
            sizes = [shards.most(xp.max(xp.concat(sizes)))] * len(sizes)
        found = []
        for part, q, e, size, length in zip(parts, qs, es, sizes, lengths, strict=True):
            # ask the normaliser, and move
            new, after = normalizer.move(e, q, part.held, size, step, geometry.side)
            finite, moved = xp.isfinite(size), finite_here(size)
            if e.qu is not None and q.shape[0] > 1:  # made before there was a unit: it may overflow
                finite = finite & xp.all(xp.isfinite(e.qu), axis=(0, 1))
                moved = xp.all(finite)
            whole = known(moved) is True
            if not whole:
                new, after = xp.where(finite, new, part.q), xp.where(finite, after, part.held)
            if geometry.retracts:  # of what is finite: no library's decompositions take anything else
                turned = geometry.retract(new)
                new = turned if whole else xp.where(finite, turned, part.q)
            found.append(_Moved(new, after, moved, *length))
        return found, growth, of_all

    def _act(self, state: OrbitState, x: Array, verb: Verb) -> Array:
        found: Array = getattr(self.group, verb)(self._factor(state), x)
        return found

    def _precondition(self, state: OrbitState, x: Array) -> Array:
        if GEOMETRIES[self.geometry].fits_p:
            return self.group.apply(state.q, x)
        return super()._precondition(state, x)

    def _log_det(self, state: OrbitState) -> Array:
        log_det = shards.total(self.group.log_det(state.q))
        return log_det if GEOMETRIES[self.geometry].fits_p else 2 * log_det

    def _eigenvalues(self, state: OrbitState) -> Array:
        sigma = self.group.singular_values(state.q)
        return sigma if GEOMETRIES[self.geometry].fits_p else sigma * sigma

    def _factor(self, state: OrbitState) -> OrbitBlocks:
        """Return Q, ``P^{1/2}`` where the state holds P."""
        if not GEOMETRIES[self.geometry].fits_p:
            return state.q
        return state.q._replace(blocks=tuple(root_of(p) for p in state.q.blocks))


def _pieces(part: Orbits) -> list[Orbits]:
    """Return the orbits a few at a time."""
    s, k, c = part.h.shape
    width = max(1, PIECE // (s * k))
    if c <= width:
        return [part]
    starts = [slice(low, low + width) for low in range(0, c, width)]
    return [Orbits(part.q[:, :, i], part.held[..., i], part.h[:, :, i], part.v[:, :, i]) for i in starts]


def _joined(pieces: list[_Moved]) -> _Moved:
    """Return what became of all pieces of one size."""
    q, held, moved, a, b = zip(*pieces, strict=True)
    xp = namespace(q[0])
    return _Moved(
        xp.concat(q, axis=-1), xp.concat(held, axis=-1), xp.all(xp.stack(moved)), xp.concat(a), xp.concat(b)
    )
