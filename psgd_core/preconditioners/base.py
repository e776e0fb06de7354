"""What all preconditioners share: the verbs, the checks of their arguments, and the story of an update.

A preconditioner is a Lie group plus one fitting rule. With ``P = Q^T Q`` and a pair (v, h = H v + noise)::

    a = Q h,  b = Q^{-T} v
    dQ = E Q:  0.5 grad = proj(a a^T - b b^T)                      left generator,  eq. (11)
    dQ = Q E:  0.5 grad = proj((P h) h^T - v (P^{-1} v)^T)         right generator, eq. (11)

**An update** checks the pair; sets the scale of Q if that is still due; fits, which is the preconditioner's
own part (`_fit`): make the generator, bound it, ask the normaliser, move; and counts (`counters`, which also
says what becomes of scale and damping). A preconditioner supplies the form of its state, how it starts, how
Q is scaled and acts, and `_fit`. Scale, damping, counts, skipped pairs and donation are here, for all groups.

Configuration is a frozen dataclass without arrays; state is a NamedTuple of arrays; every verb is pure.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from .. import kernels
from ..arrays.arguments import require_count, require_flag
from ..arrays.brief import Brief
from ..arrays.library import Array, at_hand, known, namespace, none_known, select, to_host
from ..arrays.matrices import eye
from ..arrays.sums import norm, sum_of_squares
from ..arrays.trees import mapped, where
from ..arrays.vectors import largest
from ..display import curves
from ..groups.lie import require_like
from .checked import Checked
from .counters import Fitted, Given, counted, initial
from .first_contact import met, scale_of, two
from .forms import require_usable
from .pace import Memory, in_range, pace_of
from .singular_values import dense
from .states import State, detached, require_writeable, stored

Verb = Literal["apply", "apply_transpose", "solve", "solve_transpose", "precondition"]


class Preconditioner(Brief, Checked[State]):
    """A preconditioner P = Q^T Q fitted online; see the module's docstring for the rule.

    The cost and memory of `update` depend on the preconditioner; no update waits for a device.
    """

    damping: float | None

    moves_in_parts: ClassVar[bool] = False
    """Whether `_fit` itself leaves alone the parts of Q that cannot move, so that the others may."""

    _rule: kernels.Rule | None = None
    """How it is fitted, in the terms of `psgd_core.kernels`; None where they do not cover it."""

    @property
    def takes_memory(self) -> bool:
        """Whether `update` takes `memory`, in place of a step."""
        return False

    @property
    def _faster_by_numpy(self) -> bool:
        """Whether it is many small operations or triangular ones, which NumPy does faster on the host."""
        return False

    @property
    def takes_step(self) -> bool:
        """Whether `update` takes `step`."""
        return not self.takes_memory

    # -- to be supplied --------------------------------------------------------------------------------

    def _start(self, n: int, like: Array, rng: Any) -> tuple[Any, ...]:
        """Return the fields of the state before `Counters`, with Q = I (or near)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it starts")

    def _scaled(self, state: State, scale: float | Array) -> State:
        """Return `state` with Q multiplied by `scale`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its Q is scaled")

    def _contact(self, state: State, v: Array, h: Array) -> tuple[State, Array]:
        """Return `state`, of Q near I, started from pairs (n, k), and about how large P is; one scale."""
        b, a = norm(self._act(state, v, "solve_transpose")), norm(self._act(state, h, "apply"))
        return self._scaled(state, namespace(a).sqrt(b) / namespace(a).sqrt(a)), b / a

    def _fit(self, state: State, given: Given) -> Fitted:
        """Return what one step of fitting leaves; decisions on values are made by `where` alone."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is fitted")

    def _act(self, state: State, x: Array, verb: Verb) -> Array:
        """Return ``Q x``, ``Q^T x``, ``Q^{-1} x`` or ``Q^{-T} x`` for columns x of shape (n, k)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its Q acts")

    def _precondition(self, state: State, x: Array) -> Array:
        """Return ``P x`` for columns x of shape (n, k)."""
        return self._act(state, self._act(state, x, "apply"), "apply_transpose")

    @abstractmethod
    def _log_det(self, state: State) -> Array:
        """Return ``log det P``, a 0-d array."""

    def _eigenvalues(self, state: State) -> Array:
        """Return the eigenvalues of P, (n,), in any order: here of a dense Q, for want of structure."""
        found = dense(lambda x: self._act(state, x, "apply"), self.size(state), self.like(state))
        return found * found

    # -- the same for all ------------------------------------------------------------------------------

    def init(
        self,
        n: int,
        like: Array,
        *,
        scale: float | Array | None = None,
        pairs: tuple[Array, Array] | None = None,
        rng: Any = None,
    ) -> State:
        """Return the state to start from: Q a multiple of the identity, or close to it, or as pairs say.

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
        pairs : tuple of arrays, optional
            The first pairs (v, h), each (n,) or (n, k), in place of a scale: they set it together. Orbits of
            size s, given 2 s + 4 pairs, start at what these say is best (`OrbitPreconditioner`), U and V at a
            sketch of H (`LowRank`). If one is not finite, or v or h is zero, they count for nothing.
        rng : generator, optional
            A generator for random starts (`LowRank`); the others ignore it.
        """
        require_like(like)
        n = require_count("n", n, "it is the number of parameters")
        if scale is not None and pairs is not None:
            raise ValueError("`scale` must be left out where `pairs` are given, got both; pairs set it")
        start = None if scale is None else scale_of(scale, like)
        state = self._begin(n, like, start, rng)
        return state if pairs is None else self._met(state, pairs)

    def _met(self, state: State, pairs: tuple[Array, Array]) -> State:
        """Return a state of `_begin` after its first contact with pairs, as `init` describes them."""
        v, h = self._pair(state, *two(pairs))
        new: State = met(self, state, v, h)
        return new

    def _begin(self, n: int, like: Array, scale: float | Array | None, rng: Any) -> State:
        """Return the state that `init` describes."""
        counters = initial(like, self.damping, scale)
        state: State = self.state_type(*self._start(n, like, rng), *counters)
        return state if scale is None else self._scaled(state, scale)

    def update(
        self,
        state: State,
        v: Array | None,
        h: Array,
        step: float | Array | None = None,
        *,
        memory: Memory | None = None,
        inplace: bool = False,
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
        step : float or 0-d array, optional
            The step size in (0, 1), relative to the largest that is stable. Numbers outside, and arrays whose
            value can be read without waiting, are refused; with an array on a device the pair is skipped and
            counted.
        memory : float, 0-d array or "all", optional
            In place of a step, for `ClosedForm` and those with ``normalizer=Kalman()``: how many of the last
            pairs P is an average over, at least 1, or all of them. The step follows from it, see
            `psgd_core.preconditioners.normalizers.Kalman`.
        inplace : bool
            Consume `state`: its buffers are reused, the same bits come out. JAX arrays refuse.
        """
        inplace = inplace is not False and require_flag("inplace", inplace)
        if memory is None and type(state) is self.state_type and self._rule is not None:
            fused: State | None = kernels.update(self._rule, state, v, h, step, inplace)
            if fused is not None:
                return fused
        # check the arguments
        v, h = self._pair(state, v, h)
        rate = pace_of(self, step, memory, h)
        if inplace:
            require_writeable(state)
        new: State = self._computed("_updated", h, state, v, h, rate, inplace)
        return new

    def _updated(self, state: State, v: Array | None, h: Array, rate: float | Array, inplace: bool) -> State:
        """Return the state after one step of fitting, from arguments that have been checked."""
        # look at the values: what is unusable moves nothing, and is counted
        xp, size = namespace(h), largest(h)
        usable = xp.isfinite(size)
        if v is not None:
            size_v = largest(v)
            usable = usable & xp.isfinite(size_v) & (size_v > 0)
        if not isinstance(rate, float):
            usable = usable & in_range(rate, self.takes_memory)
            rate = xp.where(usable, rate, xp.full_like(rate, 0.5))
        new = self._advance(state, v, h, usable, usable & (size > 0), rate)
        return stored(new, state) if inplace else detached(new, state)

    def _advance(
        self, state: Any, v: Array | None, h: Array, usable: Array, seen: Array, step: float | Array
    ) -> State:
        """Return the state after one update on columns (n, k).

        Where `usable` is false nothing changes but the count of skipped pairs. `seen` says whether
        h is usable and not 0. Several states at once, where `_fit` takes them, have a first axis more in all
        their arrays, and so have v, h and `seen`.
        """
        xp, start = namespace(h), state
        passed = known(usable)
        if passed is not True:
            v = None if v is None else select(usable, v, xp.zeros_like(v))
            h = select(usable, h, xp.zeros_like(h))
        # is the scale due?
        sets = state.pending & seen
        due: Array | None = None if none_known(sets) else sets
        damps, damping = usable, xp.abs(state.damping)
        if due is not None:
            start = state._replace(held=where(due, mapped(xp.zeros_like, state.held), state.held))
            damps = usable & xp.logical_not(due)
        damping = where(damps, damping, 0 * damping)
        # fit
        found = self._fit(start, Given(v, h, damping, due, step))
        complete = usable & found.moved
        new = found.state
        if not (passed and self.moves_in_parts and due is None):
            moves = complete
            if self.moves_in_parts:
                moves = usable if due is None else usable & (found.moved | xp.logical_not(due))
            new = where(moves, new, state)
        # count
        done: State = new._replace(**counted(state, found, complete, seen, due))
        return done

    def precondition(self, state: State, g: Array) -> Array:
        """Return ``P g`` for g of shape (n,) or (n, k)."""
        fused = self._fused(state, g)
        return self._verb(state, g, "precondition", "g") if fused is None else fused

    def _fused(self, state: State, g: Array) -> Array | None:
        """Return ``P g`` by a kernel, None where there is none."""
        if type(state) is not self.state_type or self._rule is None:
            return None
        fused: Array | None = kernels.precondition(self._rule, state, g)
        return fused

    def apply(self, state: State, x: Array) -> Array:
        """Return ``Q x`` for x of shape (n,) or (n, k)."""
        return self._verb(state, x, "apply")

    def apply_transpose(self, state: State, x: Array) -> Array:
        """Return ``Q^T x`` for x of shape (n,) or (n, k)."""
        return self._verb(state, x, "apply_transpose")

    def solve(self, state: State, x: Array) -> Array:
        """Return ``Q^{-1} x`` for x of shape (n,) or (n, k)."""
        return self._verb(state, x, "solve")

    def solve_transpose(self, state: State, x: Array) -> Array:
        """Return ``Q^{-T} x`` for x of shape (n,) or (n, k)."""
        return self._verb(state, x, "solve_transpose")

    def log_det(self, state: State) -> Array:
        """Return ``log det P``, a 0-d array."""
        self._require_state(state)
        return self._log_det(state)

    def _verb(self, state: State, x: Array, verb: Verb, name: str = "x") -> Array:
        """Return what a verb makes of vectors, after checking them."""
        self._require_vectors(state, **{name: x})
        found: Array = self._computed("_acted", x, state, x, verb)
        return found

    def _computed(self, name: str, like: Array, *arguments: Any) -> Any:
        """Return what a method makes of arrays, by NumPy on tensors of the host where that is faster."""
        if self._faster_by_numpy:
            found = kernels.by_numpy(getattr(type(self), name), like, self, *arguments)
            if found is not None:
                return found
        return getattr(self, name)(*arguments)

    def _acted(self, state: State, x: Array, verb: Verb) -> Array:
        """Return what a verb makes of vectors, (n,) or (n, k), that have been checked."""
        y = x if x.ndim == 2 else x[:, None]
        y = self._precondition(state, y) if verb == "precondition" else self._act(state, y, verb)
        return y if x.ndim == 2 else y[:, 0]

    def matrix(self, state: State) -> Array:
        """Return P as a dense (n, n) matrix: for tests and small problems."""
        return self.precondition(state, eye(self.size(state), self.like(state)))

    def eigenvalues(self, state: State) -> Array:
        """Return all eigenvalues of P, ascending, (n,), from its structure: squared singular values of Q.

        With orbits of size s they cost O(n s^2), with a Kronecker product O(s^3) for each factor, and with
        `Blocks` what the parts do. `LowRank` has structure while its diagonal is constant (Theorem 3.2, O(n
        r^2)), as at the start; later, and for a Q without any structure, they are those of a dense matrix.

        Raises
        ------
        NotImplementedError
            If a matrix without structure would be larger than 2048.
        """
        if at_hand(self.like(state)):
            self.check(state)
        values = self._eigenvalues(state)
        found: Array = namespace(values).sort(values)
        return found

    def plot(self, state: State, ax: Any = None) -> Any:
        """Draw `eigenvalues` over their index, and return the axes: matplotlib's `ax`, or new ones."""
        values = to_host(self.eigenvalues(state))
        title = f"Eigenvalues of P, {type(self).__name__}: n = {values.size}, "
        title += f"largest / smallest = {values[-1] / values[0]:.3g}"
        index = range(1, values.size + 1)
        return curves(ax, {"": (index, values)}, title=title, xlabel="index", ylabel="eigenvalue of P")

    def criterion(self, state: State, v: Array, h: Array) -> Array:
        """Return ``h^T P h + v^T P^{-1} v``, averaged over the probes (eq. (3)), a 0-d array."""
        columns, h = self._pair(state, v, h)
        if columns is None:
            raise ValueError("`v` must be given for the criterion, got None; pass the probes of h")
        total = sum_of_squares(self.apply(state, h)) + sum_of_squares(self.solve_transpose(state, columns))
        xp = namespace(h)
        return xp.astype(total / h.shape[1], xp.abs(h[:1, :1]).dtype)

    def check(self, state: State) -> None:
        """Raise ValueError if `state` is not finite or not invertible (waits for the device).

        The verbs do not look at values; call this at checkpoints.
        """
        require_usable(self, state, self._require_state(state)[1])
