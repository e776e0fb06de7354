"""The criterion's minimiser over a group of Theorem 3.1 as a running estimate: no fit, no move, no bound.

On each orbit O the minimiser is ``P_O = ((H^2)_OO)^{-1/2}`` (`psgd_core.criterion`). ``E[h h^T] = H^2`` for
probes with ``E[v v^T] = I``, so a running mean of ``h_O h_O^T`` estimates all that it needs: for orbits of
one element this is the diagonal of ESGD and AdaHessian, over GL(n) the full matrix. A fit (`Diagonal`,
`XMat`, `Dense`, ...) tends to the same P from the same pairs. What is different:

- P has only the error that the pairs leave, about ``sqrt(s / (2 T))`` for a mean over T pairs, from the first
  s pairs on: there is no step to choose, and nothing converges.
- The mean is of squares. Within an orbit, eigenvalues of H below ``sqrt(eps)`` times the largest (3e-4 in
  float32) are rounding, where a fit, which works with Q, resolves them.
- An update decomposes each block, O(n s^2). It is not equivariant before the start has faded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from ..arrays import batched, symmetric
from ..arrays.arguments import require_choice
from ..arrays.brief import brief
from ..arrays.library import Array, device_of, eps, namespace
from ..arrays.sums import norm
from ..arrays.trees import where
from ..groups.orbits import OrbitBlocks, OrbitGroup
from .base import Preconditioner, Verb
from .counters import Fitted, Given
from .forms import Form, blocks_form
from .normalizers import settle_damping

FADING = 4.0
"""How fast the start fades: its share is ``exp(-FADING (t - 1) / s)`` after t pairs, for orbits of size s.
A mean of t <= s pairs is singular, one of a few more still far from H^2. Measured for s = 16 and condition
numbers from 10 to 10^4, 4 is best or close to it from s/4 pairs on; after 8 s nothing is left to notice."""


class Moments(NamedTuple):
    """Running means of ``x_O x_O^T`` over the orbits of one size, ``unit^2 mean``: no square overflows."""

    mean: Array  # (s, s, c)
    unit: Array  # (c,), at least the largest entry seen, or 0


class Averages(NamedTuple):
    """What the pairs so far have in common; all zero where there are none."""

    products: tuple[Moments, ...]  # of h, per orbit size
    probes: tuple[Moments, ...]  # of v, per orbit size; () where their mean is known
    probe_size: Array  # 0-d: the root mean square of v's entries
    pairs: Array  # 0-d: how many pairs the means are over


@brief
class ClosedFormState(NamedTuple):
    """State of `ClosedForm`; all arrays on one namespace, dtype and device."""

    q: OrbitBlocks  # Q: per orbit size s an (s, s, c) array
    held: Averages  # forgotten when H jumps
    damping: Array  # these five: see `Counters`
    pending: Array
    off_scale: Array
    count: Array  # type: ignore[assignment]
    skipped: Array


@dataclass(frozen=True, repr=False)
class ClosedForm(Preconditioner[ClosedFormState]):
    """The running closed form on a group of Theorem 3.1: ``P_O = (mean of h_O h_O^T)^{-1/2}`` on every orbit.

    `update` takes the memory of the means: all pairs, or about the last T, which are as much as weights that
    fall by ``1 - 2/(T + 1)``; or a step in place of it, the least weight of a pair. The first pair sets P to
    the best multiple of the identity, which fades as pairs come in (`FADING`). If H jumps, both start anew.

    Parameters
    ----------
    group : OrbitGroup
        One of those in `psgd_core.groups`: ``DiagonalGroup()`` for the estimator of ESGD and AdaHessian,
        ``GeneralLinear()`` for a full matrix, ``SparseGroup(K)`` for any K.
    probes : {"expected", "sampled"}
        What is taken for ``E[v v^T]``: a multiple of I, as probes are drawn; or the mean of ``v_O v_O^T``, as
        it came out. The first is the better one where H is indefinite or outside the group. The second is
        the minimiser of the criterion on these very pairs, ``P_O = (mean of h_O h_O^T)^{-1} # (mean of v_O
        v_O^T)``, the geometric mean: where H is definite and in the group, it is exact once the start has
        faded, and it allows for probes that are not drawn alike in all directions.
    damping : float, optional
        lambda in ``H^2 + lambda^2 I``, absolute, so P is at most 1 / lambda. None takes 1e-9 in float32 and
        1e-16 in float64, relative to the first pair's scale; 0 switches it off.
    """

    group: OrbitGroup
    probes: Literal["expected", "sampled"] = field(default="expected", kw_only=True)
    damping: float | None = field(default=None, kw_only=True)
    state_type: ClassVar[type] = ClosedFormState
    takes_memory: ClassVar[bool] = True
    takes_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        settle_damping(self)
        require_choice("probes", self.probes, ("expected", "sampled"), "what to take for E[v v^T]")
        if not isinstance(self.group, OrbitGroup):
            raise TypeError(
                f"`group` must be a group of Theorem 3.1, got {type(self.group).__name__}; "
                "make one of psgd_core.groups, such as DiagonalGroup() or SparseGroup(K)"
            )

    def _form(self, own: Form, real: str) -> tuple[int, Form]:
        n, layout, form = blocks_form(self.group, own[0], real)
        shapes: list[Form] = [(real, (s, s, c)) for s, c, _, _ in layout]
        moments = [(Moments, shape, (real, shape[1][2:])) for shape in shapes]
        sampled = moments if self.probes == "sampled" else []
        return n, (
            form,
            (Averages, (tuple, *moments), (tuple, *sampled), (real, ()), (real, ())),
        )

    def _start(self, n: int, like: Array, rng: Any) -> tuple[Any, ...]:
        xp, device, q = namespace(like), device_of(like), self.group.identity(n, like)

        def empty() -> tuple[Moments, ...]:
            return tuple(Moments(xp.zeros_like(block), xp.zeros_like(block[0, 0, :])) for block in q.blocks)

        probes = empty() if self.probes == "sampled" else ()
        size, pairs = (xp.zeros((), dtype=like.dtype, device=device) for _ in range(2))  # apart, for donation
        return q, Averages(empty(), probes, size, pairs)

    def _scaled(self, state: ClosedFormState, scale: float | Array) -> ClosedFormState:
        return state._replace(q=state.q._replace(blocks=tuple(block * scale for block in state.q.blocks)))

    def _contact(self, state: ClosedFormState, v: Array, h: Array) -> tuple[ClosedFormState, Array]:
        """Return `state` after its first pairs, and the scale of P."""
        found = self._fit(state, Given(v, h, 0 * state.damping, state.pending, 0.0))
        return found.state, found.growth * namespace(h).ones_like(state.damping)

    def _fit(self, state: ClosedFormState, given: Given) -> Fitted:
        v, h, damping, due, step = given
        (n, k), group, gather, held = h.shape, self.group, state.q.gather, state.held
        xp, layout = namespace(h), group.layout(n)
        # take the pair apart, by orbits
        hs = group.split(layout, h, gather)
        if v is None:  # columns whose mean ``v v^T`` is I
            vs = tuple(k**0.5 * batched.identity(x.shape[0], x.shape[2], x) for x in hs)
        else:
            vs = group.split(layout, v, gather)
        # see whether the old P is off its scale
        found = list(zip(state.q.blocks, hs, vs, strict=True))
        a = norm(*[batched.matmul(q, x) for q, x, _ in found])
        b = norm(*[batched.solve(batched.transpose(q), y) for q, _, y in found])
        # average: over all pairs at first, and then with a least weight
        one = xp.ones_like(held.pairs)
        even, least = k / (held.pairs + k), step * one
        weight = xp.maximum(even, least)
        pairs = xp.where(least > even, k / weight, held.pairs + k)
        products = _averaged(held.products, hs, k, weight)
        probes = _averaged(held.probes, vs, k, weight) if self.probes == "sampled" else ()
        entry = one if v is None else norm(v) / (n * k) ** 0.5
        probe_size = _root_mean(held.probe_size, entry, weight)
        # take the roots
        start = norm(*[m.unit * xp.sqrt(batched.trace(m.mean)) for m in products]) / n**0.5
        blocks = []
        for i, (old, m) in enumerate(zip(state.q.blocks, products, strict=True)):
            share = xp.exp(-FADING * (pairs - 1) / old.shape[0])
            x, unit = _mixed(m, share, start, damping * probe_size)
            if self.probes == "sampled":
                y, size = _mixed(probes[i], share, probe_size, 0 * probe_size)
                new = _geometric(x, y)
            else:
                new, size = _power(x, -0.25), probe_size
            some = unit > 0
            new = new * (xp.sqrt(size) / xp.sqrt(xp.where(some, unit, xp.ones_like(unit))))
            blocks.append(xp.where(some & xp.all(xp.isfinite(new), axis=(0, 1)), new, old))
        averages = Averages(products, probes, probe_size, pairs)
        new_state = state._replace(q=state.q._replace(blocks=tuple(blocks)), held=averages)
        # products of zero before the first other one say nothing
        growth: Array | float = 1.0
        if due is not None:
            new_state = where(due | xp.logical_not(state.pending), new_state, state)
            growth = xp.where(due, probe_size / xp.where(start > 0, start, one), one)
        return Fitted(new_state, xp.isfinite(start) & xp.isfinite(probe_size), growth, (a, b))

    def _act(self, state: ClosedFormState, x: Array, verb: Verb) -> Array:
        found: Array = getattr(self.group, verb)(state.q, x)
        return found

    def _log_det(self, state: ClosedFormState) -> Array:
        return 2 * self.group.log_det(state.q)

    def _eigenvalues(self, state: ClosedFormState) -> Array:
        sigma = self.group.singular_values(state.q)
        return sigma * sigma


def _averaged(
    held: tuple[Moments, ...], given: tuple[Array, ...], k: int, weight: Array
) -> tuple[Moments, ...]:
    """Return the means after k columns more, (s, .., c) for each size, which get that weight together."""
    found = []
    for (mean, unit), x in zip(held, given, strict=True):
        xp = namespace(x)
        top = xp.maximum(unit, xp.max(xp.abs(x), axis=(0, 1)))
        one = xp.ones_like(top)
        safe = xp.where(top > 0, top, one)
        new, ratio = x / safe, unit / safe
        both = (1 - weight) * (ratio * ratio * mean) + weight * (batched.outer(new, new) / k)
        # where all has become small, so does the unit: no square underflows
        largest = xp.max(xp.abs(both), axis=(0, 1))
        largest = xp.where((largest > 0) & (largest < 2.0**-10), largest, one)
        found.append(Moments(both / largest, top * xp.sqrt(largest)))
    return tuple(found)


def _root_mean(held: Array, size: Array, weight: Array) -> Array:
    """Return the root of the running mean of squares, after one more."""
    xp = namespace(held)
    top = xp.maximum(held, size)
    unit = xp.where(top > 0, top, xp.ones_like(top))
    return unit * xp.sqrt((1 - weight) * (held / unit) ** 2 + weight * (size / unit) ** 2)


def _mixed(m: Moments, share: Array, start: Array, damping: Array) -> tuple[Array, Array]:
    """Return ``(1 - share) M + (share start^2 + damping^2) I`` and the root of its unit, (c,).

    It is I, in units of 0, where it would not be finite: no library's decompositions take anything else.
    """
    xp, (s, _, c) = namespace(m.mean), m.mean.shape
    most = xp.maximum(xp.maximum(m.unit, xp.sqrt(share) * start), damping)
    unit = xp.where(most > 0, most, xp.ones_like(most))
    inner = (m.unit / unit) ** 2 * (1 - share)
    more = (xp.sqrt(share) * start / unit) ** 2 + (damping / unit) ** 2
    eye = batched.identity(s, c, m.mean)
    mixed = inner * m.mean + more * eye
    finite = xp.all(xp.isfinite(mixed), axis=(0, 1))
    return xp.where(finite, mixed, eye), xp.where(finite, most, 0 * unit)


def _power(a: Array, *exponents: float) -> Any:
    """Return powers of each positive semidefinite block, which count as resolved to `eps`."""
    xp = namespace(a)
    w, e = symmetric.eigh(a)
    least = a.shape[0] * eps(a) * xp.max(w, axis=0)
    w = xp.maximum(w, xp.where(least > 0, least, xp.ones_like(least)))
    powers = [batched.outer(e * (w**x)[None, :, :], e) for x in exponents]
    return powers[0] if len(powers) == 1 else powers


def _geometric(x: Array, y: Array) -> Array:
    """Return a Q with ``Q^T Q = X^{-1} # Y``, the P with ``P X P = Y``, of each block."""
    root, inverse = _power(x, 0.5, -0.5)
    middle = batched.matmul(root, batched.matmul(y, root))
    return batched.matmul(_power(symmetric.symmetric_part(middle), 0.25), inverse)
