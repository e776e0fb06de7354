"""What all preconditioners share: the verbs, the checks at their door, and the story of an update.

A preconditioner is a Lie group plus one fitting rule. With ``P = Q^T Q`` and a pair (v, h = H v + noise)::

    a = Q h,  b = Q^{-T} v
    dQ = E Q:  0.5 grad = proj(a a^T - b b^T)                      left generator,  eq. (11)
    dQ = Q E:  0.5 grad = proj((P h) h^T - v (P^{-1} v)^T)         right generator, eq. (11)

**An update** (`Preconditioner._advance`) checks the pair; sets the scale of Q if that is still due; fits,
which is the preconditioner's own part (`_fit`): make the generator, bound it, ask the normaliser, move; and
counts (`_counters`, which also says what becomes of scale and damping). A preconditioner supplies how it
starts, how Q acts and is undone, and `_fit`; scale, damping, counts, skipped pairs and donation are done in
one place.

Configuration is a frozen dataclass without arrays; state is a NamedTuple of arrays; every verb is pure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, ClassVar

import array_api_compat

from ..arrays.arguments import described, require_count, require_flag, scalar_of
from ..arrays.library import Array, device_of, known, namespace, require_alike, require_arrays, select
from ..arrays.matrices import eye
from ..arrays.sums import largest, sum_of_squares
from ..groups.lie import require_like, require_vectors
from .counters import Counters, Fitted, State, counted, default_damping, settled
from .forms import (
    Form,
    are_tensors,
    counters_form,
    form_of,
    is_real,
    named,
    require_form,
    require_one_library,
)
from .states import chosen, detach, mapped, require_writeable, store


class Preconditioner(ABC):
    """A preconditioner P = Q^T Q fitted online; see the module's docstring for the rule.

    Cost and memory of `update` are each preconditioner's own; none waits for a device.
    """

    damping: float | None

    state_type: ClassVar[type]
    """The NamedTuple of its states."""

    moves_in_parts: ClassVar[bool] = False
    """Whether `_fit` itself leaves alone what cannot move, so that the rest of Q may."""

    # -- to be supplied --------------------------------------------------------------------------------

    def _start(self, n: int, like: Array, rng: Any) -> tuple[Any, ...]:
        """Return the fields of the state before `Counters`, with Q = I (or near)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it starts")

    def _scaled(self, state: State, scale: float | Array) -> State:
        """Return `state` with Q multiplied by `scale`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its Q is scaled")

    def _fit(
        self, state: State, v: Array | None, h: Array, damping: Array, due: Array, step: float | Array
    ) -> Fitted:
        """Return what one step of fitting on columns (n, k) leaves, O(1) decisions on values but `where`.

        Parameters
        ----------
        state : State
        v, h : array, shape (n, k)
            Finite. v is None where it is to be integrated out: the mean of ``v v^T`` is I.
        damping : array
            0-d: fit ``M + damping^2 I``; 0 for the pair that sets the scale.
        due : array
            0-d bool: whether this pair sets the scale.
        step : float or 0-d array
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it is fitted")

    @abstractmethod
    def _size(self, state: State) -> int:
        """Return n."""

    @abstractmethod
    def apply(self, state: State, x: Array) -> Array:
        """Return ``Q x`` for x of shape (n,) or (n, k)."""

    @abstractmethod
    def apply_transpose(self, state: State, x: Array) -> Array:
        """Return ``Q^T x`` for x of shape (n,) or (n, k)."""

    @abstractmethod
    def solve(self, state: State, x: Array) -> Array:
        """Return ``Q^{-1} x`` for x of shape (n,) or (n, k)."""

    @abstractmethod
    def solve_transpose(self, state: State, x: Array) -> Array:
        """Return ``Q^{-T} x`` for x of shape (n,) or (n, k)."""

    @abstractmethod
    def log_det(self, state: State) -> Array:
        """Return ``log det P``, a 0-d array."""

    def _fused(self, state: State, v: Array | None, h: Array, step: Any, inplace: bool) -> State | None:
        """Return the state after one update by `psgd_core.kernels`, or None where they do not apply."""
        return None

    def _form(self, own: Form, real: Any) -> Form:
        """Return the form (see `_form`) that the fields before `Counters` must have; `own` if anything goes.

        Parameters
        ----------
        own : tuple
            The form that they have, with anything in it. This may fail with a TypeError, ValueError or
            IndexError: then it is not one that `init` makes.
        real : dtype
            That of the damping.
        """
        return own

    # -- the same for all ------------------------------------------------------------------------------

    def size(self, state: State) -> int:
        """Return n."""
        self._require_state(state)
        return self._size(state)

    def init(self, n: int, like: Array, *, scale: float | None = None, rng: Any = None) -> State:
        """Return the state to start from: Q a multiple of the identity, or close to it.

        Parameters
        ----------
        n : int
            Number of parameters.
        like : array
            Sets the namespace, dtype (float32 or float64) and device of the state; its values do not matter.
        scale : float, optional
            Q starts at ``scale * I``, and the default damping is relative to it. Without it the first usable
            pair sets the scale, to the minimiser of the criterion over multiples of the start
            (``P = |v| / |h|`` from the identity).
        rng : generator, optional
            A generator for starts that are drawn at random (`LowRank`); others have nothing to draw.
        """
        require_like(like)
        n = require_count("n", n, "it is the number of parameters")
        limits = namespace(like).finfo(like.dtype)
        if scale is not None:
            given, scale = scale, scalar_of("scale", scale, like)
            low, high = float(limits.smallest_normal) ** 0.5, float(limits.max) ** 0.5
            if isinstance(scale, float) and not low <= scale <= high:
                raise ValueError(
                    f"`scale` must be positive and finite, and its square in {like.dtype} as well, got "
                    f"{described(given)}; leave it out to set it automatically"
                )
        return self._begin(n, like, scale, rng)

    def _begin(self, n: int, like: Array, scale: float | Array | None, rng: Any) -> State:
        """Return the state that `init` describes."""
        xp, device = namespace(like), device_of(like)
        start = -default_damping(like) if self.damping is None else float(self.damping)
        if start > float(xp.finfo(like.dtype).max):
            raise ValueError(f"`damping` must be finite in {like.dtype}, got {start}; None takes a small one")
        damping = xp.full((), start, dtype=like.dtype, device=device)
        if scale is not None:
            damping = settled(damping, xp.ones_like(damping) * scale * scale, xp.asarray(True, device=device))
        counters = Counters(
            damping=damping,
            pending=xp.full((), scale is None, dtype=xp.bool, device=device),
            off_scale=xp.zeros((), dtype=xp.int32, device=device),
            count=xp.zeros((), dtype=xp.int32, device=device),
            skipped=xp.zeros((), dtype=xp.int32, device=device),
        )
        state = self.state_type(*self._start(n, like, rng), *counters)
        return state if scale is None else self._scaled(state, scale)

    def update(
        self, state: State, v: Array | None, h: Array, step: float | Array, *, inplace: bool = False
    ) -> State:
        """Return the state after one step of fitting on the pair (v, h), or by whitening on h alone.

        Parameters
        ----------
        state : State
            From `init` or an earlier `update`.
        v, h : array, shape (n,) or (n, k)
            Probe and Hessian-vector product; k columns are k probes, averaged in one update. A pair that
            holds NaN or Inf, or whose v is zero, changes nothing and is counted in ``state.skipped``. With
            None for v, it is integrated out: ``E[v v^T] = I`` in its place, exactly. That is for whitening,
            where h is a gradient that v has no part in, and P tends to ``E[h h^T]^{-1/2}``.
        step : float or 0-d array
            The step size in (0, 1), relative to the largest that is stable. Numbers, and arrays whose value
            is at hand, are refused outside; for an array on a device the pair is skipped and counted.
        inplace : bool
            Consume `state`: its buffers are reused, the same bits come out. JAX arrays refuse.
        """
        self._require_state(state)
        if inplace is not False:
            inplace = require_flag("inplace", inplace)
        fused = self._fused(state, v, h, step, inplace)
        if fused is not None:
            return fused
        # check the pair and the step
        xp, v, h = self._pair(state, v, h)
        rate = scalar_of("step", step, h)
        if isinstance(rate, float) and not 0 < rate < 1:
            raise ValueError(f"`step` must lie in (0, 1), got {described(step)}; 0.1 is a good start")
        if inplace and array_api_compat.is_jax_namespace(xp):
            raise ValueError(
                "`inplace` must be False for JAX arrays, got True; donate the state to `jax.jit` instead"
            )
        if inplace:
            require_writeable(state)
        usable, zero = xp.isfinite(largest(h)), xp.zeros_like(h)
        if v is not None:
            v_max = largest(v)
            usable = usable & xp.isfinite(v_max) & (v_max > 0)
        if not isinstance(rate, float):
            usable = usable & (rate > 0) & (rate < 1)
            rate = xp.where(usable, rate, xp.full_like(rate, 0.5))
        if v is not None:
            v = select(usable, v, zero)
        new = self._advance(state, v, select(usable, h, zero), usable, rate)
        return store(state, new) if inplace else detach(state, new)

    def _advance(self, state: State, v: Array | None, h: Array, usable: Array, step: float | Array) -> State:
        """Return the state after one update on columns (n, k); no change where `usable` is false."""
        xp, start = namespace(h), state
        # is the scale due?
        seen = usable & (largest(h) > 0)
        due = state.pending & seen
        if known(due) is not False:
            start = state._replace(held=mapped(lambda x: xp.where(due, xp.zeros_like(x), x), state.held))
        damping = xp.where(usable & ~due, xp.abs(state.damping), xp.zeros_like(state.damping))
        # fit
        found = self._fit(start, v, h, damping, due, step)
        complete = usable & found.moved
        moves = usable & (found.moved | ~due) if self.moves_in_parts else complete
        # count
        return chosen(moves, found.state, state)._replace(**counted(state, found, complete, seen, due))

    def precondition(self, state: State, g: Array) -> Array:
        """Return ``P g`` for g of shape (n,) or (n, k)."""
        self._vectors(state, "g", g)
        return self.apply_transpose(state, self.apply(state, g))

    def matrix(self, state: State) -> Array:
        """Return P as a dense (n, n) matrix: for tests and small problems."""
        self._require_state(state)
        return self.precondition(state, eye(self._size(state), self._reference(state)))

    def criterion(self, state: State, v: Array, h: Array) -> Array:
        """Return ``h^T P h + v^T P^{-1} v``, averaged over the probes (eq. (3)), a 0-d array."""
        xp, v, h = self._pair(state, v, h)
        if v is None:
            raise ValueError("`v` must be given for the criterion, got None; pass the probes of h")
        total = sum_of_squares(self.apply(state, h)) + sum_of_squares(self.solve_transpose(state, v))
        return xp.astype(total / v.shape[1], xp.abs(v[:1, :1]).dtype)

    def check(self, state: State) -> None:
        """Raise ValueError if `state` is not finite or not invertible (waits for the device).

        The verbs do not look at values; call this at checkpoints.
        """
        self._require_state(state)
        xp = namespace(self._reference(state))
        for name, leaf in named(type(state).__name__, state):
            if xp.isdtype(leaf.dtype, ("real floating", "complex floating")) and not bool(
                xp.all(xp.isfinite(leaf))
            ):
                raise ValueError(
                    f"`{name}` must be finite, got NaN or Inf; "
                    "go back to an earlier state and lower the step or raise the damping"
                )
        if not bool(xp.isfinite(self.log_det(state))):
            raise ValueError(
                "`state` must hold an invertible Q, got a singular one; go back to an earlier state"
            )

    def _reference(self, state: State) -> Array:
        """Return an array of the state that sets dtype and device."""
        return next(leaf for _, leaf in named("state", state) if leaf.ndim > 0)

    def _require_state(self, state: State) -> None:
        """Raise unless `state` is one of this preconditioner's."""
        if type(state) is not self.state_type:
            raise TypeError(
                f"`state` must be a {self.state_type.__name__} of this {type(self).__name__}, got "
                f"{type(state).__name__}; make one with `init`"
            )
        others: list[Any] = []
        seen = form_of(state, others)
        if not others or are_tensors(others):  # NumPy's and PyTorch's dtypes tell them apart
            _require_form(self, seen)
        else:
            require_one_library("state", state)
            self._require_form(seen)

    def _require_form(self, seen: Form) -> None:
        """Raise unless the form of a state, of the right class, is one that `init` makes."""
        own, real = seen[1:-5], seen[-5][0]
        if not is_real(real):
            real = "float32 or float64"
        try:
            wanted = self._form(own, real)
        except (TypeError, ValueError, IndexError):  # it has not even the structure
            raise ValueError(
                f"`state` must be one that `init` of this {type(self).__name__} makes, got one of another "
                "structure; make one with `init`"
            ) from None
        require_form("state", seen, (self.state_type, *wanted, *counters_form(seen[-5:], real)))

    def _vectors(self, state: State, name: str, x: Array) -> None:
        self._require_state(state)
        require_vectors(name, x, self._size(state))
        require_alike(name, x, "state", self._reference(state))

    def _pair(self, state: State, v: Array | None, h: Array) -> tuple[Any, Array | None, Array]:
        """Return the namespace and (v, h) as columns (n, k), after checking them."""
        if v is None:
            self._vectors(state, "h", h)
            if h.ndim == 2 and h.shape[1] == 0:
                raise ValueError(
                    "`h` must hold at least one gradient, got shape (n, 0); skip the update instead"
                )
            return require_arrays(h=h), None, h if h.ndim == 2 else h[:, None]
        self._vectors(state, "v", v)
        self._vectors(state, "h", h)
        if v.shape != h.shape:
            raise ValueError(
                f"`h` must have the shape of `v`, {tuple(v.shape)}, got {tuple(h.shape)}; "
                "pass one product per probe"
            )
        if v.ndim == 1:
            v, h = v[:, None], h[:, None]
        elif v.shape[1] == 0:
            raise ValueError("`v` must hold at least one probe, got shape (n, 0); skip the update instead")
        return require_arrays(v=v), v, h


@lru_cache(maxsize=1024)
def _require_form(p: Preconditioner, seen: Form) -> None:
    """Do what `Preconditioner._require_form` does, once for each form that is right."""
    p._require_form(seen)
