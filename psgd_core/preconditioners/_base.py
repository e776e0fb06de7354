"""The verbs that every preconditioner shares, and the checks at their door.

A preconditioner is a Lie group plus one fitting rule. With ``P = Q^T Q`` and a pair (v, h = H v + noise)::

    a = Q h,  b = Q^{-T} v
    dQ = E Q:  0.5 grad = proj(a a^T - b b^T)                      left generator,  eq. (11)
    dQ = Q E:  0.5 grad = proj((P h) h^T - v (P^{-1} v)^T)         right generator, eq. (11)

Configuration is a frozen dataclass without arrays; state is a NamedTuple of arrays; every verb is pure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import array_api_compat

from .._array import Array, largest, namespace, require_alike, select, sum_of_squares
from .._damping import DAMPING
from ..groups._base import eye, require_like, require_vectors

State = Any
"""A NamedTuple of arrays, as the preconditioner documents."""


class Preconditioner(ABC):
    """A preconditioner P = Q^T Q fitted online; see the module's docstring for the rule.

    `update` costs O(n) numbers moved for every preconditioner but `Dense`, and waits for no device.
    """

    damping: float | None

    # -- to be supplied --------------------------------------------------------------------------------

    @abstractmethod
    def _start(self, n: int, like: Array, rng: Any) -> State:
        """Return the state with Q = I (or near), the automatic scale pending."""

    @abstractmethod
    def _scaled(self, state: State, scale: float | Array) -> State:
        """Return `state` with Q multiplied by `scale`, and no automatic scale pending."""

    @abstractmethod
    def _update(self, state: State, v: Array | None, h: Array, usable: Array, step: float | Array) -> State:
        """Return the state after one update on columns (n, k); no change where `usable` is false.

        v is None where it is to be integrated out: the mean of ``v v^T`` is I.
        """

    @abstractmethod
    def size(self, state: State) -> int:
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

    def _fused(self, state: State, v: Array, h: Array, step: Any, inplace: bool) -> State | None:
        """Return the state after one update by `psgd_core.kernels`, or None where they do not apply."""
        return None

    # -- the same for all ------------------------------------------------------------------------------

    def init(self, n: int, like: Array, *, scale: float | None = None, rng: Any = None) -> State:
        """Return the state to start from: Q a multiple of the identity, or close to it.

        Parameters
        ----------
        n : int
            Number of parameters.
        like : array
            Sets the namespace, dtype (float32 or float64) and device of the state; its values do not matter.
        scale : float, optional
            Q starts at ``scale * I``. Without it the first usable pair sets the scale, to the minimiser of
            the criterion over multiples of the start (``P = |v| / |h|`` from the identity).
        rng : generator, optional
            A generator for starts that are drawn at random (`LowRank`); others have nothing to draw.
        """
        require_like(like)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"`n` must be a positive int, got {n!r}; it is the number of parameters")
        state = self._start(n, like, rng)
        if scale is None:
            return state
        if isinstance(scale, int | float) and not 0 < scale < float("inf"):
            raise ValueError(
                f"`scale` must be positive and finite, got {scale}; leave it out to set it automatically"
            )
        return self._scaled(state, scale)

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
            The step size in (0, 1), relative to the largest that is stable.
        inplace : bool
            Consume `state`: its buffers are reused, the same bits come out. JAX arrays refuse.
        """
        fused = self._fused(state, v, h, step, inplace)
        if fused is not None:
            return fused
        xp, v, h = self._pair(state, v, h)
        if isinstance(step, int | float):
            if not 0 < step < 1:
                raise ValueError(f"`step` must lie in (0, 1), got {step}; 0.1 is a good start")
        else:
            step = xp.astype(step, xp.abs(h).dtype)
        if inplace and array_api_compat.is_jax_namespace(xp):
            raise ValueError(
                "`inplace` must be False for JAX arrays, got True; donate the state to `jax.jit` instead"
            )
        usable, zero = xp.isfinite(largest(h)), xp.zeros_like(h)
        if v is not None:
            v_max = largest(v)
            usable = usable & xp.isfinite(v_max) & (v_max > 0)
            v = select(usable, v, zero)
        new = self._update(state, v, select(usable, h, zero), usable, step)
        return _store(state, new) if inplace else _detach(state, new)

    def precondition(self, state: State, g: Array) -> Array:
        """Return ``P g`` for g of shape (n,) or (n, k)."""
        self._vectors(state, "g", g)
        return self.apply_transpose(state, self.apply(state, g))

    def matrix(self, state: State) -> Array:
        """Return P as a dense (n, n) matrix: for tests and small problems."""
        return self.precondition(state, eye(self.size(state), self._reference(state)))

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
        xp = array_api_compat.array_namespace(self._reference(state))
        for name, leaf in _leaves(type(state).__name__, state):
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

    def _damping(self, x: Array) -> float:
        """Return the damping for the dtype of `x`."""
        if self.damping is not None:
            return self.damping
        return DAMPING[
            "float32" if array_api_compat.array_namespace(x).finfo(x.dtype).bits == 32 else "float64"
        ]

    def _reference(self, state: State) -> Array:
        """Return an array of the state that sets dtype and device."""
        return next(leaf for _, leaf in _leaves("state", state) if leaf.ndim > 0)

    def _vectors(self, state: State, name: str, x: Array) -> None:
        require_vectors(name, x, self.size(state))
        require_alike(name, x, "state", self._reference(state))

    def _pair(self, state: State, v: Array | None, h: Array) -> tuple[Any, Array | None, Array]:
        """Return the namespace and (v, h) as columns (n, k), after checking them."""
        if v is None:
            self._vectors(state, "h", h)
            if h.ndim == 2 and h.shape[1] == 0:
                raise ValueError(
                    "`h` must hold at least one gradient, got shape (n, 0); skip the update instead"
                )
            return namespace(h=h), None, h if h.ndim == 2 else h[:, None]
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
        return namespace(v=v), v, h


def require_damping(damping: float | None) -> None:
    """Raise unless `damping` is None or a finite number that is not negative."""
    if damping is not None and not 0 <= damping < float("inf"):
        raise ValueError(
            f"`damping` must be None or a finite number >= 0, got {damping}; "
            f"None takes {DAMPING['float32']} in float32 and {DAMPING['float64']} in float64, 0 none"
        )


def _leaves(name: str, tree: Any) -> list[tuple[str, Array]]:
    """Return the arrays of a nested NamedTuple with their names."""
    if not isinstance(tree, tuple):
        return [(name, tree)]
    names = getattr(tree, "_fields", range(len(tree)))
    return [leaf for key, part in zip(names, tree, strict=True) for leaf in _leaves(f"{name}.{key}", part)]


def _detach(old: State, new: State) -> State:
    """Copy what `new` shares with `old`, so that consuming the one in place leaves the other alone.

    An update that moves only some of its arrays shares the others where the flags are known (NumPy). Index
    arrays stay shared: nothing writes to them.
    """
    if isinstance(old, tuple):
        parts = [_detach(o, n) for o, n in zip(old, new, strict=True)]
        return type(new)(*parts) if hasattr(new, "_fields") else tuple(parts)
    if old is not new or new.ndim == 0:
        return new
    xp = array_api_compat.array_namespace(new)
    floating = xp.isdtype(new.dtype, ("real floating", "complex floating"))
    return xp.asarray(new, copy=True) if floating else new


def _store(old: State, new: State) -> State:
    """Write `new` into the buffers of `old` and return `old`'s structure."""
    if isinstance(old, tuple):
        parts = [_store(o, n) for o, n in zip(old, new, strict=True)]
        return type(old)(*parts) if hasattr(old, "_fields") else tuple(parts)
    if old.ndim == 0:
        return new
    if old is not new:
        old[...] = new
    return old
