"""Pairs (v, h) from exact products, from differences of gradients, or from the gradients themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from ..arrays import shards
from ..arrays.arguments import described, keep, require_count, require_number
from ..arrays.brief import Brief
from ..arrays.library import Array, device_of, eps, namespace
from ..arrays.sums import unit_of
from ..arrays.trees import owned
from .functions import Functions


class Source(Brief, ABC):
    """Where pairs come from. All are stateless except `Secant`, which remembers the previous point."""

    of_momentum: bool = False
    """Whether the loop passes the momentum to `pairs` in place of the gradient."""
    at_trial: ClassVar[bool] = False
    """Whether `pairs` gets the last point evaluated, even if the loop goes back to an earlier one."""
    starts_with_gradient: ClassVar[bool] = False
    """Whether `init` needs `functions` and a probe v."""

    @property
    def needs_probes(self) -> bool:
        """Whether `pairs` needs v."""
        return True

    def asks(self, iteration: int) -> bool:
        """Return whether to draw v for `pairs` in this iteration, 0, 1, ...; on the host."""
        return self.needs_probes

    def without_products(self, noise: float | None = None) -> Source:
        """Return the source to take where there are no exact products, and gradients have this error."""
        return self

    @abstractmethod
    def pairs(
        self, functions: Functions, x: Array, g: Array, v: Any, memory: Any = ()
    ) -> tuple[Array | None, Array]:
        """Return (v, h), both of the shape of `v`.

        Parameters
        ----------
        functions : Functions
            All of one sample: see `Functions.at`.
        x, g : array, shape (n,)
            The point, and the gradient there on the same sample.
        v : array, shape (n,) or (n, k)
            The probes; None if not needed. The returned v is the one that h belongs to, which may differ.
        memory : NamedTuple
            From `init` or `remember`.
        """

    def init(self, functions: Functions | None, x: Array, v: Array | None) -> Any:
        """Return the memory to start with: nothing, by default."""
        return ()

    def remember(self, memory: Any, x: Array, g: Array) -> Any:
        """Return the memory for the next pair, after one at (x, g)."""
        return memory


@dataclass(frozen=True, repr=False)
class Exact(Source):
    """The user's Hessian-vector product; see `product_with` for a Hessian matrix or LinearOperator."""

    def without_products(self, noise: float | None = None) -> Source:
        """Return `Forward`."""
        return Forward(noise=noise)

    def pairs(
        self, functions: Functions, x: Array, g: Array, v: Array, memory: Any = ()
    ) -> tuple[Array, Array]:
        """Return (v, H v); one product per probe."""
        return v, functions.products(x, v)


@dataclass(frozen=True, repr=False)
class Difference(Source):
    """Differences of gradients along v, one probe at a time.

    Parameters
    ----------
    typical : float
        The typical size of a parameter, added to that of x: it sets the step near x = 0. Set it if your
        parameters are far from size 1.
    noise : float, optional
        eta, the relative error of a gradient, to which the step is fitted: eps by default. Set it where
        gradients are less exact, as those by differences of values or of low precision are.
    """

    typical: float = 1.0
    noise: float | None = None

    def __post_init__(self) -> None:
        keep(self, typical=require_number("typical", self.typical, "(0, inf)", "it is a parameter's size"))
        if self.noise is not None:
            hint = "None takes the rounding of the dtype"
            keep(self, noise=require_number("noise", self.noise, "(0, 1)", hint))

    def without_products(self, noise: float | None = None) -> Source:
        """Return this for gradients with an error."""
        return self if noise is None or self.noise is not None else replace(self, noise=noise)

    def pairs(
        self, functions: Functions, x: Array, g: Array, v: Array, memory: Any = ()
    ) -> tuple[Array, Array]:
        """Return (v, h)."""
        if v.ndim == 1:
            return self._pair(functions, x, g, v)
        found = [self._pair(functions, x, g, v[:, i]) for i in range(v.shape[1])]
        xp = namespace(v)
        return xp.stack([p[0] for p in found], axis=1), xp.stack([p[1] for p in found], axis=1)

    @abstractmethod
    def _pair(self, functions: Functions, x: Array, g: Array, v: Array) -> tuple[Array, Array]:
        """Return (v, h) for one probe."""


@dataclass(frozen=True, repr=False)
class Forward(Difference):
    """``(g(x + δv) - g(x)) / δ`` with ``δ = eta^{1/2} (typical + rms x) / rms v``; one gradient per probe.

    The error is ``δ |f'''[v, v]| / 2`` from truncation plus ``2 eta |g| / δ`` from rounding, where eta is the
    relative error of a gradient: both of order ``eta^{1/2}``, for eta = eps 1e-8 in float64 and 3e-4 in
    float32. The v returned is ``((x + δv) - x) / δ`` as rounded, so the rounding of x + δv causes no error.
    """

    def _pair(self, functions: Functions, x: Array, g: Array, v: Array) -> tuple[Array, Array]:
        delta = _step(x, v, 1 / 2, self.typical, self.noise)
        ahead = x + delta * v
        return (ahead - x) / delta, (functions.gradient_at(ahead) - g) / delta


@dataclass(frozen=True, repr=False)
class Central(Difference):
    """``(g(x + δv) - g(x - δv)) / 2δ``, ``δ = eta^{1/3} (typical + rms x) / rms v``; 2 gradients per probe.

    The error is ``δ^2 |f''''[v, v, v]| / 6`` from truncation plus ``eta |g| / δ`` from rounding: both of
    order ``eta^{2/3}``, for eta = eps 4e-11 in float64 and 2e-5 in float32; on a quadratic, rounding only.
    """

    def _pair(self, functions: Functions, x: Array, g: Array, v: Array) -> tuple[Array, Array]:
        delta = _step(x, v, 1 / 3, self.typical, self.noise)
        ahead, behind = x + delta * v, x - delta * v
        h = (functions.gradient_at(ahead) - functions.gradient_at(behind)) / (2 * delta)
        return (ahead - behind) / (2 * delta), h


class Previous(NamedTuple):
    """The previous point, for `Secant`."""

    x: Array  # (n,)
    g: Array  # (n,) its gradient, on the sample of its own step


@dataclass(frozen=True, repr=False)
class Secant(Source):
    """Differences along the steps taken, as BFGS: ``s = x_{t+1} - x_t``, ``y = g_{t+1} - g_t`` on one sample.

    Scaled to ``|v| = sqrt(n)``; the probes serve for the first pair only. A step within
    ``eps^{2/3} |x|`` is rounding more than curvature: its v is 0, and `update` leaves it out.

    Successive steps explore the directions of the descent only: P is fitted to the Hessian as seen along the
    way, with ``E[v v^T]`` far from I. That needs no product, and no second gradient where the function is
    deterministic, but more iterations than with probes.

    Parameters
    ----------
    reuse : bool
        Take the gradient at x_t from the previous step: free, but right for deterministic functions only. By
        default it is evaluated again, on the present sample.
    """

    reuse: bool = False
    at_trial: ClassVar[bool] = True
    starts_with_gradient: ClassVar[bool] = True

    @property
    def needs_probes(self) -> bool:
        """Not after the first pair."""
        return False

    def init(self, functions: Functions | None, x: Array, v: Array | None) -> Previous:
        """Return a point near x, a forward difference's, for the first pair; one gradient."""
        if functions is None or v is None:
            raise ValueError("`functions` and `v` must be given to start with Secant, got None")
        v = v if v.ndim == 1 else v[:, 0]
        near = x + _step(x, v, 1 / 2) * v
        return Previous(near, functions.gradient_at(near))

    def pairs(
        self, functions: Functions, x: Array, g: Array, v: Array | None = None, memory: Any = ()
    ) -> tuple[Array, Array]:
        """Return (s, y), scaled, of shape (n,)."""
        xp = namespace(x)
        before = memory.g if self.reuse else functions.gradient_at(memory.x)
        s, y = x - memory.x, g - before
        size = _rms(s)
        far = size > eps(x) ** (2 / 3) * _rms(x)
        one = xp.where(far, size, xp.ones_like(size))
        return xp.where(far, s / one, xp.zeros_like(s)), xp.where(far, y / one, xp.zeros_like(y))

    def remember(self, memory: Any, x: Array, g: Array) -> Previous:
        """Return (x, g)."""
        return Previous(owned(x), owned(g))


@dataclass(frozen=True, repr=False)
class Along(Source):
    """Pairs along the steps taken in all steps, as `Secant`, and probes of another source in some.

    A step's pair costs no product, and says what the descent meets; probes say the rest. Both are needed:
    with ``E[v v^T] = C`` the minimiser solves ``P H C H P = C``, which is ``|H|^{-1}`` for any C only where
    H is definite and its inverse is in the group. A step without a probe returns one column, (n, 1), the
    step's; one with k probes k + 1.

    Parameters
    ----------
    probes : Source
        Of the probes: without a memory of its own.
    every : int
        A probe in each `every`-th step, and in all of the first few.
    first : int
        How many.
    reuse : bool
        As in `Secant`: right, and free, for deterministic functions only.
    """

    probes: Source = field(default_factory=Exact)
    every: int = 2
    first: int = 1
    reuse: bool = False
    at_trial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.probes, Source) or self.probes.at_trial:
            raise TypeError(
                f"`probes` must be a Source without memory, got {described(self.probes)}; try Exact()"
            )
        keep(
            self,
            every=require_count("every", self.every, "1 takes a probe in each step"),
            first=require_count("first", self.first, "the first step needs a probe"),
        )

    @property
    def needs_probes(self) -> bool:
        """Not in each step: see `asks`."""
        return False

    def without_products(self, noise: float | None = None) -> Source:
        """Return this with probes from elsewhere."""
        return replace(self, probes=self.probes.without_products(noise))

    def asks(self, iteration: int) -> bool:
        """Return whether to draw v for `pairs` in this iteration."""
        return iteration < self.first or iteration % self.every == 0

    def init(self, functions: Functions | None, x: Array, v: Array | None) -> Previous:
        """Return the start itself: its pair has v = 0."""
        return Previous(owned(x), namespace(x).zeros_like(x))

    def pairs(
        self, functions: Functions, x: Array, g: Array, v: Array | None, memory: Any = ()
    ) -> tuple[Array, Array]:
        """Return (v, h) of shape (n, 1) without probes, (n, k + 1) with k of them."""
        xp = namespace(x)
        s, y = Secant(self.reuse).pairs(functions, x, g, memory=memory)
        s, y = s[:, None], y[:, None]
        if v is None:
            return s, y
        v, h = self.probes.pairs(functions, x, g, v)
        assert v is not None  # integrated out by `Whitening` only, which refuses
        v, h = (v[:, None], h[:, None]) if h.ndim == 1 else (v, h)
        return xp.concat([s, v], axis=1), xp.concat([y, h], axis=1)

    def remember(self, memory: Any, x: Array, g: Array) -> Previous:
        """Return (x, g)."""
        return Previous(owned(x), owned(g))


@dataclass(frozen=True, repr=False)
class Whitening(Source):
    """h = g, or the momentum: P converges to ``E[g g^T]^{-1/2}``, and P g is white. No product is needed.

    The probe has no part in g, so it may be integrated out: then v is None, and `update` takes
    ``E[v v^T] = I`` in its place, without variance (except for `LowRank`, which needs n `basis` probes for
    that). With k random probes h is ``(sqrt(k) g, 0, ..., 0)``, so that the mean of ``h h^T`` is ``g g^T``
    for any k.

    Parameters
    ----------
    of_momentum : bool
        Whiten the momentum in place of the gradient.
    integrated : bool
        Integrate v out.
    """

    of_momentum: bool = False
    integrated: bool = False

    @property
    def needs_probes(self) -> bool:
        """Whether v is drawn."""
        return not self.integrated

    def pairs(
        self, functions: Functions, x: Array, g: Array, v: Array | None, memory: Any = ()
    ) -> tuple[Array | None, Array]:
        """Return (v, h), or (None, g)."""
        if self.integrated or v is None:
            return None, g
        if v.ndim == 1:
            return v, g
        xp, k = namespace(g), v.shape[1]
        first = xp.arange(k, device=device_of(g)) < 1
        return v, k**0.5 * g[:, None] * xp.astype(first, g.dtype)[None, :]


def _step(x: Array, v: Array, power: float, typical: float = 1.0, noise: float | None = None) -> Array:
    """Return ``eta^power (typical + rms(x)) / rms(v)``, eta eps by default, with 1 for rms(v) = 0."""
    size = _rms(v)
    relative: float = (eps(x) if noise is None else noise) ** power
    safe = namespace(v).where(size > 0, size, namespace(v).ones_like(size))
    return relative * (typical + _rms(x)) / safe


def _rms(x: Array) -> Array:
    """Return the root mean square of all elements, without overflow."""
    xp, unit = namespace(x), unit_of(x)
    share = x.shape[0] / shards.length(x.shape[0])  # 1 unless other processes hold the rest
    return unit * xp.sqrt(shards.total(share * xp.mean((x / unit) ** 2)))
