"""Which examples to keep: pruning orders (table 7) and subsets of high and low entropy (table 11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from psgd_core.display import html_table

from ..arrays import frozen, per_example
from ..documents import plain
from ..tables import short
from . import charts


def pruning_order(scores: Any, ties: Any = None) -> np.ndarray:
    """Return all examples from the lowest to the highest score: those to prune first come first.

    ``pruning_order(scores)[25_000:]`` are the examples that are left when 25,000 are pruned.

    Parameters
    ----------
    scores : array, shape (n,)
        Forgettability (`Forgetting.scores`; Inf is the highest), entropy or any other score.
    ties : array, shape (n,), optional
        What decides among equal scores, least first: most examples of an easy data set share the score 0.
        Random numbers make it a fair draw. Without it, and after it, the index decides, so that the same
        scores always give the same order.

    Returns
    -------
    array of int64, shape (n,)
        Indices, on the host.

    Raises
    ------
    ValueError, TypeError
        If the scores are not one real number per example, NaN excepted, or `ties` has another length.
    """
    x = per_example("scores", scores, infinite=True)
    if ties is None:
        return np.argsort(x, kind="stable")
    second = per_example("ties", ties, infinite=True)
    if second.size != x.size:
        raise ValueError(
            f"`ties` must be as long as `scores`, {x.size}, got {second.size}; give one per example"
        )
    return np.lexsort((second, x))


@dataclass(frozen=True, eq=False, repr=False)
class Subsets:
    """The examples of highest and of lowest entropy. Made by `entropy_subsets`."""

    entropies: np.ndarray
    """All entropies in nats, (n,)."""
    high: np.ndarray
    """Indices of the highest entropies, highest first, (size,)."""
    low: np.ndarray
    """Indices of the lowest entropies, lowest first, (size,)."""

    @property
    def size(self) -> int:
        """Number of examples in either subset."""
        return int(self.high.size)

    @property
    def high_mean(self) -> float:
        """Mean entropy of the high subset in nats: table 11's "expected high entropy"."""
        return float(self.entropies[self.high].mean())

    @property
    def low_mean(self) -> float:
        """Mean entropy of the low subset in nats: table 11's "expected low entropy"."""
        return float(self.entropies[self.low].mean())

    def as_dict(self) -> dict[str, Any]:
        """Return the subsets in types that JSON has; entropies in nats."""
        return {
            "n": int(self.entropies.size),
            "size": self.size,
            "high_mean": plain(self.high_mean),
            "low_mean": plain(self.low_mean),
            "high": self.high.tolist(),
            "low": self.low.tolist(),
        }

    def plot(self, ax: Any = None) -> Any:
        """Draw all entropies in order, with the two subsets marked."""
        return charts.entropy_ranks(self, ax)

    def __repr__(self) -> str:
        return (
            f"Subsets({self.size} of high entropy, mean {short(self.high_mean)} nats, and of low, "
            f"mean {short(self.low_mean)} nats, out of {self.entropies.size})"
        )

    def _repr_html_(self) -> str:
        rows = []
        for name, chosen in (("high", self.high), ("low", self.low)):
            x = self.entropies[chosen]
            rows.append((name, str(x.size), *(short(float(v)) for v in (x.min(), x.mean(), x.max()))))
        caption = f"Entropy subsets of {self.entropies.size} examples, nats"
        return html_table(caption, ("subset", "examples", "min", "mean", "max"), rows)


def entropy_subsets(entropies: Any, size: int, *, ties: Any = None) -> Subsets:
    """Return the `size` examples of highest and of lowest entropy (section E.4).

    Parameters
    ----------
    entropies : array, shape (n,)
        Entropies in nats of an oracle network's softmax, as `entropy` gives them.
    size : int
        At most n/2, so that the subsets are disjoint.
    ties : array, shape (n,), optional
        What decides among equal entropies, as for `pruning_order`.

    Returns
    -------
    Subsets

    Raises
    ------
    ValueError, TypeError
        If the entropies are not one finite number >= 0 per example, or `size` is not in 1..n/2.
    """
    x = per_example("entropies", entropies)
    if np.any(x < 0):
        raise ValueError(
            f"`entropies` must not be negative, got {x.min()}; give those that `entropy` returns"
        )
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 1 <= size <= x.size // 2:
        raise ValueError(
            f"`size` must be an integer from 1 to {x.size // 2}, half the examples, got {size!r}; "
            "choose a smaller one"
        )
    order = pruning_order(x, ties)
    return Subsets(frozen(x), frozen(order[::-1][:size]), frozen(order[:size]))
