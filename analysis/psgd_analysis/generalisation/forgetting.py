"""Forgetting events, as Toneva et al. (2018) define them, counted online during training.

Let ``a_i^t`` be 1 if example i was classified correctly at its t-th presentation, else 0. Then

- example i is *learned* at presentation t if ``a_i^{t-1} = 0`` (or t is the first) and ``a_i^t = 1``;
- it undergoes a *forgetting event* at t if ``a_i^{t-1} = 1`` and ``a_i^t = 0``;
- it is *unforgettable* if it was learned at some presentation and has no forgetting event;
- if it was never learned, it counts as forgotten infinitely often.

Only presentations of the same example are compared, so it makes no difference how they are cut into batches::

    state = init(50_000, like=logits)
    for indices, x, y in batches:  # of any number of epochs
        ...
        state = update(state, correct(logits, y), indices)
    print(result(state))

`update` is pure and works on the arrays of any library, on their device and under `jax.jit`: instead of
scattering a batch into the state (which the array API standard has no function for) it sorts the batch by
example and lets every example look up where its presentations begin and end. The state has 13 bytes per
example, whatever the number of epochs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from psgd_core.display import html_table

from ..arrays import Array, frozen, namespace, to_host
from ..tables import percent, short
from . import figures
from .subsets import pruning_order


class ForgettingState(NamedTuple):
    """The history of n examples; made by `init`, advanced by `update`."""

    events: Array  # (n,) int32: forgetting events
    presentations: Array  # (n,) int32
    first_learned: Array  # (n,) int32: the presentation, from 1, that was the first correct one; 0 for none
    correct: Array  # (n,) bool: the verdict at the last presentation
    stray: Array  # () int32: presentations whose index was not in 0..n-1


def init(n: int, *, like: Array | None = None) -> ForgettingState:
    """Return the state before training: nothing presented, nothing learned.

    Parameters
    ----------
    n : int
        Number of examples.
    like : array, optional
        Library and device of the state, the logits for instance; NumPy without it.

    Raises
    ------
    ValueError, TypeError
        If `n` is not a positive integer, or `like` not an array.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"`n` must be a positive integer, the number of examples, got {n!r}; choose one")
    like = np.zeros(0) if like is None else like
    xp, device = namespace(like=like), array_api_compat.device(like)

    none = xp.zeros((int(n),), dtype=xp.int32, device=device)
    never = xp.zeros((int(n),), dtype=xp.bool, device=device)
    return ForgettingState(none, none, none, never, xp.zeros((), dtype=xp.int32, device=device))


def update(state: ForgettingState, correct: Array, indices: Array | None = None) -> ForgettingState:
    """Return the state after the presentations of a batch, in its order.

    Parameters
    ----------
    state : ForgettingState
        It is not changed.
    correct : array of bool, shape (b,)
        Whether each was classified correctly, as `correct` of this package tells.
    indices : array of integers, shape (b,), optional
        Which example each presentation is of, 0..n-1. One that comes up several times is presented several
        times, the earlier in the batch the earlier. Without it: all n examples, in their order.

    Returns
    -------
    ForgettingState
        O(n) for all examples in order, O(n log b + b log b) for a batch: several batches joined into one call
        give the same state for less.

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or libraries do not fit, or a NumPy index is not in 0..n-1. On other libraries,
        where asking would wait for the device, such presentations are left out and counted in `stray`.
    """
    n = state.events.shape[0]
    if indices is None:
        xp = namespace(**{"state.events": state.events, "correct": correct})
        _require_verdicts(xp, correct, (n,), "one for every example, or `indices` must be given")
        return _epoch(xp, state, correct)
    xp = namespace(**{"state.events": state.events, "correct": correct, "indices": indices})
    if not xp.isdtype(indices.dtype, "integral") or indices.ndim != 1:
        raise (TypeError if indices.ndim == 1 else ValueError)(
            f"`indices` must be integers of shape (b,), got {indices.dtype} of shape {tuple(indices.shape)}; "
            "give the number of each example"
        )
    _require_verdicts(xp, correct, tuple(indices.shape), "as `indices` have")
    if indices.shape[0] == 0:
        return state
    if array_api_compat.is_numpy_array(indices) and not (indices.min() >= 0 and indices.max() < n):
        found = indices.min() if indices.min() < 0 else indices.max()
        raise ValueError(
            f"`indices` must lie in 0..{n - 1}, got {found}; give `init` the size of the data set"
        )
    return _batch(xp, state, correct, indices)


def _require_verdicts(xp: ModuleType, correct: Array, shape: tuple[int, ...], which: str) -> None:
    if correct.dtype != xp.bool:
        raise TypeError(f"`correct` must be bool, got {correct.dtype}; compare predictions with labels")
    if tuple(correct.shape) != shape:
        raise ValueError(f"`correct` must have shape {shape}, {which}, got {tuple(correct.shape)}")


def _epoch(xp: ModuleType, state: ForgettingState, correct: Array) -> ForgettingState:
    presentations = state.presentations + 1
    return ForgettingState(
        state.events + xp.astype(state.correct & ~correct, xp.int32),
        presentations,
        xp.where((state.first_learned == 0) & correct, presentations, state.first_learned),
        correct,
        state.stray,
    )


def _within(places: Array, b: int) -> Array:
    """Return places, those outside of [0, b) moved to its ends; `clip` would wait for the device on CuPy."""
    xp = array_api_compat.array_namespace(places)
    return xp.minimum(xp.maximum(places, xp.zeros_like(places)), xp.full_like(places, b - 1))


def _batch(xp: ModuleType, state: ForgettingState, correct: Array, indices: Array) -> ForgettingState:
    n, b = state.events.shape[0], indices.shape[0]
    # sort the batch by example
    edges = xp.arange(n + 1, device=array_api_compat.device(indices))
    indices = xp.astype(indices, edges.dtype)
    order = xp.argsort(indices, stable=True)  # presentations of an example stay in their order
    sorted_indices, correct = xp.take(indices, order), xp.take(correct, order)
    # Example i has the presentations start[i] <= k < stop[i].
    places = xp.searchsorted(sorted_indices, edges)
    start, stop = places[:-1], places[1:]
    number = xp.astype(stop - start, xp.int32)
    present = stop > start

    # events: across the start of the batch, and inside it
    first = xp.take(correct, _within(start, b))
    last = xp.take(correct, _within(stop - 1, b))
    follows = sorted_indices[1:] == sorted_indices[:-1]  # inside the batch: k + 1 of the same example as k
    forgotten = xp.concat([xp.zeros_like(correct[:1]), follows & correct[:-1] & ~correct[1:]])
    inside = _running_count(xp, forgotten)
    events = xp.astype(present & state.correct & ~first, xp.int32)
    events = events + xp.take(inside, stop) - xp.take(inside, start)

    # Where the correct presentations are, in order; the first of an example comes after those before it.
    where = xp.argsort(xp.astype(~correct, xp.int32), stable=True)
    count = _running_count(xp, correct)
    before = xp.take(count, start)
    learned = (state.first_learned == 0) & (xp.take(count, stop) > before)
    when = xp.take(where, _within(before, b)) - start + 1
    when = state.presentations + xp.astype(when, xp.int32)
    return ForgettingState(
        state.events + events,
        state.presentations + number,
        xp.where(learned, when, state.first_learned),
        xp.where(present, last, state.correct),
        state.stray + b - xp.sum(number, dtype=xp.int32),
    )


def _running_count(xp: ModuleType, flags: Array) -> Array:
    """Return how many of the first k flags are set, for k = 0..b."""
    return xp.cumulative_sum(xp.astype(flags, xp.int32), dtype=xp.int32, include_initial=True)


# -- reading the state -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Forgetting:
    """Forgetting statistics of n examples, on the host. Made by `result`."""

    events: np.ndarray
    """Forgetting events, (n,)."""
    presentations: np.ndarray
    """How often each example was presented, (n,)."""
    first_learned: np.ndarray
    """The presentation, from 1, at which it was first classified correctly, (n,); 0 if it never was."""
    stray: int = 0
    """Presentations that were not counted, because their index was not in 0..n-1."""

    @property
    def never_learned(self) -> np.ndarray:
        """Mask (n,) of the examples that were never classified correctly, or never presented."""
        return self.first_learned == 0

    @property
    def unforgettable(self) -> np.ndarray:
        """Mask (n,) of the examples learned at some presentation and never forgotten."""
        return (self.first_learned > 0) & (self.events == 0)

    @property
    def scores(self) -> np.ndarray:
        """Forgettability (n,), float64: forgetting events; Inf for examples never learned."""
        return np.where(self.never_learned, np.inf, self.events)

    @property
    def finite_scores(self) -> np.ndarray:
        """`scores` with the largest number of presentations in place of Inf, as Toneva et al.'s code has it.

        No example can be forgotten more often, so the order is the same, and correlations are defined.
        Over several runs, Toneva et al. order examples by the sum of these scores.
        """
        return np.where(self.never_learned, float(self.presentations.max()), self.events)

    def pruning_order(self, ties: Any = None) -> np.ndarray:
        """Return all examples from the least to the most forgettable: `subsets.pruning_order` of `scores`.

        Parameters
        ----------
        ties : array, shape (n,), optional
            What decides among equal scores, the entropy for instance: least first. The index does without it.
        """
        return pruning_order(self.scores, ties)

    def as_dict(self) -> dict[str, Any]:
        """Return the statistics, example by example, in types that JSON has."""
        return {
            "n": int(self.events.size),
            "unforgettable": int(self.unforgettable.sum()),
            "never_learned": int(self.never_learned.sum()),
            "events": self.events.tolist(),
            "presentations": self.presentations.tolist(),
            "first_learned": self.first_learned.tolist(),
            "stray": self.stray,
        }

    def plot(self, ax: Any = None) -> Any:
        """Draw how many examples were forgotten how often."""
        return figures.forgetting_histogram({"": self}, ax)

    def _summary(self) -> list[tuple[str, int]]:
        never, free = int(self.never_learned.sum()), int(self.unforgettable.sum())
        return [
            ("unforgettable", free),
            ("forgotten at least once", int(self.events.size) - never - free),
            ("never learned", never),
        ]

    def _averages(self) -> str:
        learned = ~self.never_learned
        mean = float(self.events[learned].mean()) if learned.any() else float("nan")
        lost = f"; {self.stray} presentations outside 0..{self.events.size - 1}" if self.stray else ""
        return f"{short(mean)} forgetting events per learned example{lost}"

    def __repr__(self) -> str:
        n = self.events.size
        parts = ", ".join(f"{percent(k, n)} {name}" for name, k in self._summary())
        return f"Forgetting({n} examples: {parts}; {self._averages()})"

    def _repr_html_(self) -> str:
        n = self.events.size
        rows = [(name, str(k), percent(k, n)) for name, k in self._summary()]
        return html_table(f"Forgetting: {self._averages()}", ("examples", "number", "share"), rows)


def result(state: ForgettingState) -> Forgetting:
    """Return the statistics of a state, on the host; training may go on with the state.

    Warns
    -----
    UserWarning
        If indices outside 0..n-1 were presented: they are missing from the counts.
    """
    stray = int(to_host(state.stray))
    events, presentations, first = (
        frozen(to_host(x).astype(np.int64)) for x in (state.events, state.presentations, state.first_learned)
    )
    if stray:
        warnings.warn(
            f"{stray} presentations had indices outside 0..{events.size - 1} and were not counted; "
            "give `init` the size of the data set",
            stacklevel=2,
        )
    return Forgetting(events, presentations, first, stray)
