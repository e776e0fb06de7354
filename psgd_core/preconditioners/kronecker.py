"""Kronecker products ``Q = Q_1 ⊗ Q_2 ⊗ ...`` for a tensor of any order, Li's affine preconditioner (Table 1).

The vector of n parameters is a tensor of a given shape in C order, and Q_i acts along its dimension i. With
``a = Q h``, ``b = Q^{-T} v`` and A_i, B_i these tensors unfolded along dimension i, the left generator of
factor i is ``A_i A_i^T - B_i B_i^T``: for Q_i alone the criterion is that of GL(s_i) on the columns
``Q_i^T B_i`` and ``Q_i^{-1} A_i``, so every geometry serves (`geometries`), and every subgroup (`patterns`).

**All factors move at once**, from the same a and b, and share the step: each takes ``step / d``, d the number
of factors. Any scalar may go from one factor to another, so their moves of the scale add up. At the full
step that mode does not settle once ``step > 1/d`` (measured at step 0.9, d = 2 and 3: distances of 0.1 to 2
after 300 updates). The shared one converges for every step below 1, because a positive semidefinite second
derivative is at most d times its block diagonal.

**Where it ends.** The criterion is convex along the geodesics of each P_i, so there is one minimiser, which
`psgd_core.criterion.kronecker_minimizer` computes for any H. For ``H = H_1 ⊗ H_2 ⊗ ...`` it is ``|H|^{-1}``.

**Cost**, for factors of size s: O(n s) for products and solves, O(s^3) per factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from ..arrays import shards
from ..arrays.arguments import described, require_count, require_number
from ..arrays.batched import is_complex
from ..arrays.brief import brief
from ..arrays.draws import signs
from ..arrays.library import Array, device_of, is_array, namespace, require_arrays, select, spread
from ..arrays.sums import norm
from ..arrays.vectors import finite_here
from .balance import balanced
from .base import Preconditioner, Verb
from .counters import Fitted, Given
from .first_contact import two
from .forms import COMPLEX, Form
from .geometries import GEOMETRIES, GeometryName, geometry_of
from .normalizers import Normalizer, Running, settle_options
from .pace import Memory
from .patterns import FACTORS, DenseFactor, DiagonalFactor
from .sides import Sides
from .unfolding import Dimension, Run, acting, along, dimensions

AUTOMATIC = "auto"


@brief
class KroneckerState(NamedTuple):
    """State of `Kronecker`; all arrays on one namespace, dtype and device."""

    factors: tuple[Array, ...]  # one per dimension that is not 1, as its group has it
    held: tuple[Array, ...]  # what the normaliser holds for each: (1,), or (s,) for a diagonal one; real
    damping: Array  # these five: see `Counters`; real
    pending: Array
    off_scale: Array
    count: Array  # type: ignore[assignment]
    skipped: Array


@dataclass(frozen=True, repr=False)
class Kronecker(Preconditioner[KroneckerState]):
    """``Q = Q_1 ⊗ Q_2 ⊗ ...``, one factor per dimension of a tensor; real or complex.

    Its verbs take vectors (n,) or columns (n, k), and tensors of `shape` as they are.

    Parameters
    ----------
    shape : tuple of int
        The tensor's; () is a scalar. Dimensions of 1 have no factor.
    factors : str or tuple of str
        What each dimension's factor is: "dense", "triangular", "affine", "normalization", "diagonal", or
        "identity" for none; see `psgd_core.preconditioners.patterns`. "auto", for all or for one of them, is
        as large as GL(s) where `max_size` and `max_skew` allow, triangular in the geometry "EQ" and dense in
        the others, and diagonal elsewhere. For ``[W b]`` of shape
        (out, in + 1) an affine map of the features is ``("dense", "affine")``; KFAC's and Shampoo's shape is
        ``"dense"``, normalisation ``("dense", "normalization")``, scaling and normalisation
        ``("diagonal", "normalization")``, Adafactor's ``"diagonal"``. "shard" is the diagonal of a dimension
        of which this process holds some rows only, see `psgd_core.arrays.shards`.
    max_size : int
        The largest dense factor that "auto" makes.
    max_skew : float
        "auto" makes a factor of size s dense where ``s^2 <= max_skew n``: 1 leaves vectors diagonal, inf
        disables this rule.
    normalizer : Normalizer
        What the step is divided by: `Running` (default), `Sample` or `Gradient`.
    geometry : str
        As for the other preconditioners; "triangular", "affine" and "normalization" move in "EQ" alone, and
        those that fit P itself are not for products.
    damping : float, optional
        lambda, absolute: a noise of that size on h, for which P tends to at most 1 / lambda. None takes 1e-9
        in float32 and 1e-16 in float64, relative to the first pair's scale; 0 switches it off.
    """

    shape: tuple[int, ...]
    factors: str | tuple[str, ...] = AUTOMATIC
    max_size: int = field(default=2048, kw_only=True)
    max_skew: float = field(default=1.0, kw_only=True)
    normalizer: Normalizer = field(default_factory=Running, kw_only=True)
    geometry: GeometryName = field(default="EQ", kw_only=True)
    damping: float | None = field(default=None, kw_only=True)

    state_type: ClassVar[type] = KroneckerState

    # they follow from the fields, and are asked for in every call
    _active: ClassVar[tuple[Dimension, ...]]
    _runs: ClassVar[tuple[Run, ...]]

    def __post_init__(self) -> None:
        settle_options(self)
        geometry_of(self.geometry)
        if not isinstance(self.shape, tuple | list):
            raise ValueError(
                f"`shape` must be a tuple of positive ints, got {described(self.shape)}; it is a tensor's"
            )
        wrong = f"`shape` must be a tuple of positive ints, got {described(self.shape)}"
        shape = tuple(require_count(f"shape[{i}]", s, wrong) for i, s in enumerate(self.shape))
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "max_size", require_count("max_size", self.max_size, "inf is not needed", 0))
        object.__setattr__(self, "max_skew", require_number("max_skew", self.max_skew))
        if not self.max_skew >= 0:
            raise ValueError(f"`max_skew` must be >= 0, got {self.max_skew}; inf disables this rule")
        given = (self.factors,) * len(self.shape) if isinstance(self.factors, str) else self.factors
        names = (AUTOMATIC, "identity", *FACTORS)
        if (
            not isinstance(given, tuple | list)
            or len(given) != len(self.shape)
            or not all(isinstance(name, str) and name in names for name in given)
        ):
            raise ValueError(
                f"`factors` must be one of {', '.join(map(repr, names))}, or a tuple of these, one for "
                f"each of the {len(self.shape)} dimensions, got {described(self.factors)}"
            )
        object.__setattr__(self, "factors", self.factors if isinstance(self.factors, str) else tuple(given))
        if GEOMETRIES[self.geometry].fits_p:
            raise ValueError(
                f"`geometry` must not be {self.geometry!r} for a Kronecker product: it fits P, and the move "
                "of a factor needs the roots of all the others; 'QUAD' and 'Q0.5EQ1.5' do the same to Q"
            )
        for name in self.kinds:
            if self.geometry != "EQ" and name in FACTORS and not FACTORS[name].any_geometry:
                raise ValueError(
                    f"`geometry` must be 'EQ' for a factor that is {name!r}, got {self.geometry!r}: the "
                    "others leave that subgroup of GL(s); take 'dense' or 'diagonal'"
                )
        active, runs = dimensions(self.shape, self.kinds)
        object.__setattr__(self, "_active", active)
        object.__setattr__(self, "_runs", runs)

    @property
    def n(self) -> int:
        """Number of parameters."""
        return math.prod(self.shape)

    @property
    def _faster_by_numpy(self) -> bool:
        return True

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each dimension's factor is, with "auto" resolved; "identity" for dimensions of 1."""
        given = (self.factors,) * len(self.shape) if isinstance(self.factors, str) else self.factors
        found = []
        for s, name in zip(self.shape, given, strict=True):
            dense = s <= self.max_size and s * s <= self.max_skew * self.n
            large = "triangular" if self.geometry == "EQ" else "dense"
            resolved = (large if dense else "diagonal") if name == AUTOMATIC else name
            found.append("identity" if s == 1 and resolved != "shard" else resolved)
        return tuple(found)

    @property
    def stacks(self) -> bool:
        """Whether `_fit` takes several states at once, with a first axis more in all arrays, given probes.

        That is where all generators are made from Gram matrices, or entry by entry.
        """
        return self.geometry == "EQ" and all(
            isinstance(group, DiagonalFactor)
            or (isinstance(group, DenseFactor) and 2 * (self.n // place.s) > place.s)
            for place, group, _ in self._active
        )

    # -- what the base class asks for ------------------------------------------------------------------

    def init(
        self,
        n: int,
        like: Array,
        *,
        scale: float | Array | None = None,
        pairs: tuple[Array, Array] | None = None,
        rng: Any = None,
    ) -> KroneckerState:
        """Return the state to start from, Q a multiple of the identity; `like` may be complex."""
        if require_count("n", n, "it is the number of parameters") != self.n:
            raise ValueError(f"`n` must be the number of elements of `shape` {self.shape}, {self.n}, got {n}")
        xp = require_arrays(like=like)
        if not is_complex(like):  # the base class checks real ones
            return super().init(n, like, scale=scale, pairs=pairs)
        real = super().init(n, xp.real(like), scale=scale)
        state = real._replace(factors=tuple(xp.astype(q, like.dtype) for q in real.factors))
        return state if pairs is None else self._met(state, pairs)

    def _met(self, state: KroneckerState, pairs: tuple[Array, Array]) -> KroneckerState:
        v, h = (self._flat(x)[0] for x in two(pairs))
        return super()._met(state, (v, h))

    def _start(self, n: int, like: Array, rng: Any) -> tuple[Any, ...]:
        xp, device = namespace(like), device_of(like)
        factors = tuple(group.start(place.s, like) for place, group, _ in self._active)
        held = tuple(
            xp.zeros((group.steps(place.s),), dtype=like.dtype, device=device)
            for place, group, _ in self._active
        )
        return factors, held

    def _form(self, own: Form, real: str) -> tuple[int, Form]:
        dtype = own[0][1][0]
        dtype = dtype if dtype == COMPLEX.get(real) else real
        factors = [(dtype, group.shape(place.s)) for place, group, _ in self._active]
        held = [(real, (group.steps(place.s),)) for place, group, _ in self._active]
        return self.n, ((tuple, *factors), (tuple, *held))

    def _scaled(self, state: KroneckerState, scale: float | Array) -> KroneckerState:
        first, *rest = state.factors
        return state._replace(factors=(first * scale, *rest))

    def _fit(self, state: KroneckerState, given: Given) -> Fitted:
        v, h, damping, due, step = given
        xp, k, d, lead = namespace(h), h.shape[-1], len(state.factors), h.ndim - 2
        geometry, factors, held = GEOMETRIES[self.geometry], state.factors, state.held
        if self.damping != 0:
            h = h + signs(state.count, h) * damping[..., None, None]
        # a and b, which all factors see
        acts = acting(self._runs, factors)
        a = along(self._runs, acts, h, "apply")
        if v is None:  # B_i in a form of their own
            sides = [Sides(a, columns, fixed=True) for columns in self._integrated(factors, k)]
        else:
            sides = [Sides(a, along(self._runs, acts, v, "solve_transpose"))] * d
        # set the scale
        growth: Array | float = 1.0
        if due is not None:
            scale = sides[0].balance(due)
            factors, growth = (factors[0] * spread(scale, factors[0].ndim), *factors[1:]), scale * scale
            for other in sides:
                other.scale = scale
        # make the generators, and bound them
        generators, units, sizes = [], [], []
        for (place, group, around), q, side in zip(self._active, factors, sides, strict=True):
            e = group.generator(geometry, q, side, place, around, k)
            generators.append(e)
            units.append(e.unit)
            sizes.append(group.size(e, self.normalizer.measure))
        # ask the normaliser, for all factors at once: it takes entry by entry
        unit, size, bound = (xp.concat(parts, axis=-1) for parts in (units, sizes, held))
        moves = shards.everywhere(xp.all(xp.isfinite(size), axis=-1) if lead else finite_here(size))
        mu, new_bound = self.normalizer.rate(bound, size, unit, step / d)
        # move
        moved, new_held, start = [], [], 0
        for (_, group, _), q, old, e, part in zip(
            self._active, factors, state.factors, generators, held, strict=True
        ):
            stop = start + part.shape[-1]
            new = group.moved(geometry, q, e, mu[..., start:stop])
            if geometry.retracts:  # what is not finite is not asked about: no library's decompositions are
                new = group.retracted(geometry, select(moves, new, old))
            moved.append(new)
            new_held.append(new_bound[..., start:stop])
            start = stop
        # share the scale evenly; what is held goes with a factor's own
        moved, shifts = balanced(moved, lead)
        if geometry.degree > 1:
            new_held = [x * shift ** (geometry.degree - 1) for x, shift in zip(new_held, shifts, strict=True)]
        done = state._replace(factors=tuple(moved), held=tuple(new_held))
        return Fitted(done, moves, growth, sides[0].lengths())

    def _integrated(self, factors: tuple[Array, ...], k: int) -> tuple[Array, ...]:
        """Return for each factor columns B with mean ``E[B_i B_i^T]`` over all v, up to what its group sees.

        That is ``Q_i^{-T} Q_i^{-1}`` times the other factors' ``tr(Q_j^{-T} Q_j^{-1})``.
        """
        xp = namespace(*factors)
        if shards.active() is not None:
            raise ValueError("`v` must be given for a sharded Kronecker product, got None; draw probes")
        inverses = [
            group.inverse_columns(q, place.s)
            for (place, group, _), q in zip(self._active, factors, strict=True)
        ]
        sizes = [norm(xp.abs(x)) for x in inverses]
        left_out = self.n / math.prod(place.s for place, _, _ in self._active)
        parts = []
        for i, inverse in enumerate(inverses):
            rest = xp.ones_like(sizes[0]) * (k * left_out) ** 0.5
            for j, size in enumerate(sizes):
                rest = rest * size if j != i else rest
            parts.append(inverse * rest)
        return tuple(parts)

    # -- the verbs -------------------------------------------------------------------------------------

    def update(
        self,
        state: KroneckerState,
        v: Array | None,
        h: Array,
        step: float | Array | None = None,
        *,
        memory: Memory | None = None,
        inplace: bool = False,
    ) -> KroneckerState:
        """Return the state after one step of fitting; v and h as vectors, columns or tensors of `shape`."""
        v = None if v is None else self._flat(v)[0]
        return super().update(state, v, self._flat(h)[0], step, memory=memory, inplace=inplace)

    def _act(self, state: KroneckerState, x: Array, verb: Verb) -> Array:
        return along(self._runs, acting(self._runs, state.factors), x, verb)

    def _precondition(self, state: KroneckerState, x: Array) -> Array:
        return along(self._runs, acting(self._runs, state.factors), x, "precondition")

    def _log_det(self, state: KroneckerState) -> Array:
        logs = [
            2 * (self.n // place.s) * group.log_det(q)
            for (place, group, _), q in zip(self._active, state.factors, strict=True)
        ]
        return shards.total(sum(logs[1:], start=logs[0]))

    def _eigenvalues(self, state: KroneckerState) -> Array:
        # products of the factors' own, as often as there are dimensions without a factor
        xp, like = namespace(state.damping), state.damping
        left_out = self.n // math.prod(place.s for place, _, _ in self._active)
        sigma = xp.ones(left_out, dtype=like.dtype, device=device_of(like))
        for (place, group, _), q in zip(self._active, state.factors, strict=True):
            sigma = xp.reshape(sigma[:, None] * group.singular_values(q, place.s)[None, :], (-1,))
        return sigma * sigma

    def _verb(self, state: KroneckerState, x: Array, verb: Verb, name: str = "x") -> Array:
        flat, shape = self._flat(x)
        y = super()._verb(state, flat, verb, name)
        return namespace(y).reshape(y, shape)

    def _flat(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Return x as a vector or columns, and the shape it came in."""
        shape = tuple(x.shape) if is_array(x) else ()
        if shape == self.shape and shape != (self.n,):
            require_arrays(x=x)
            return namespace(x).reshape(x, (self.n,)), shape
        return x, shape
