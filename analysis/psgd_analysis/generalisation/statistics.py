"""Uncertainty of a network on a data set, streamed: statistics that add up, batch by batch, epoch by epoch.

`uncertainty` reduces a batch of logits to an `Uncertainty`: least, mean and largest entropy and margin (the
numbers of the paper's table 6), their histograms, the loss and the accuracy. Such values form a commutative
monoid under ``+``, with the empty batch as zero: a whole data set needs one line, and no memory that grows::

    total = sum(uncertainty(network(x), y) for x, y in batches)

The reduction from (n, C) logits to n numbers runs where the logits live; these n numbers come to the host.
Mean and variance are merged by the formula of Chan et al. (1979), so that no digits are lost to a sum of
squares.

Table 6 cannot be taken from one set of examples: with ten classes, a margin of 0.994 between probabilities
leaves at most 0.045 nats of entropy, while PSGD's row has that largest margin and a least entropy of 0.139.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from psgd_core.display import html_table

from ..arrays import Array, namespace, per_example, to_host
from ..documents import plain
from ..tables import percent, short
from . import figures
from . import logits as verbs

ENTROPY_EDGES = tuple(10.0 ** (k / 4) for k in range(-80, 6))
"""Bins for entropies in nats: four a decade, from 1e-20 up to what 5e7 classes could reach."""

MARGIN_EDGES = tuple(k / 40 for k in range(-40, 41))
"""Bins for margins between probabilities: 0.025 wide."""

_BLOCK = 1 << 20
"""Logits per block: `uncertainty` needs a few arrays of this size besides its input."""


@dataclass(frozen=True, repr=False)
class Distribution:
    """Summary of any number of values; two with the same bins add up. Made by `distribution`.

    ``len(counts) == len(edges) + 1``: values below the first edge, in each bin [a, b), and from the last
    edge on. What lies on the last edge itself counts in the last bin.
    """

    count: int
    min: float
    """Inf for no values, as `max` is -Inf."""
    max: float
    mean: float
    """0 for no values."""
    squares: float
    """Sum of the squared deviations from the mean."""
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def std(self) -> float:
        """Standard deviation of the values (divided by their number); NaN for none."""
        return math.sqrt(self.squares / self.count) if self.count else math.nan

    def __add__(self, other: Distribution) -> Distribution:
        """Return the summary of both sets of values together.

        Raises
        ------
        ValueError
            If their bins differ.
        """
        if not isinstance(other, Distribution):
            return NotImplemented
        if self.edges != other.edges:
            raise ValueError("`other` must have the same edges, got other bins; summarise both with the same")
        count = self.count + other.count
        share = other.count / count if count else 0.0
        shift = other.mean - self.mean
        return Distribution(
            count,
            min(self.min, other.min),
            max(self.max, other.max),
            # written so that the result lies between the two means, to rounding
            (1 - share) * self.mean + share * other.mean,
            self.squares + other.squares + shift * shift * share * self.count,
            self.edges,
            tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the summary in types that JSON has; None where there is no number."""
        values = asdict(self) | {"edges": list(self.edges), "counts": list(self.counts), "std": self.std}
        numbers = {key: plain(values[key] if self.count else None) for key in ("min", "max", "mean", "std")}
        return values | numbers

    def __repr__(self) -> str:
        if not self.count:
            return "Distribution(no values)"
        numbers = f"min {short(self.min)}, mean {short(self.mean)}, max {short(self.max)}"
        return f"Distribution({self.count} values: {numbers})"


def distribution(values: Any, edges: Sequence[float]) -> Distribution:
    """Return the summary of finite values, one per example.

    Parameters
    ----------
    values : array, shape (n,)
        Of any library; n = 0 gives the neutral element of ``+``.
    edges : sequence of float
        Increasing edges of the bins, at least two.

    Raises
    ------
    ValueError, TypeError
        If `values` is not one finite real number per example, or `edges` do not increase.
    """
    x = per_example("values", values)
    bins = np.asarray(edges, dtype=np.float64)
    if bins.ndim != 1 or bins.size < 2 or not np.all(np.diff(bins) > 0):
        raise ValueError(f"`edges` must be at least two increasing numbers, got {edges!r}; sort them")
    slots = np.searchsorted(bins, x, side="right")
    slots[x == bins[-1]] = bins.size - 1
    counts = np.bincount(slots, minlength=bins.size + 1)
    edge_tuple, count_tuple = tuple(map(float, bins)), tuple(map(int, counts))
    if x.size == 0:
        return Distribution(0, math.inf, -math.inf, 0.0, 0.0, edge_tuple, count_tuple)
    mean = float(np.mean(x))
    squares = float(np.sum((x - mean) ** 2))
    return Distribution(x.size, float(x.min()), float(x.max()), mean, squares, edge_tuple, count_tuple)


@dataclass(frozen=True, repr=False)
class Uncertainty:
    """How sure a network is of its predictions, and how right; two of them add up. Made by `uncertainty`."""

    classes: int
    """C."""
    entropy: Distribution
    """Of the softmax, in nats."""
    margin: Distribution
    """Between probabilities: correct class over best other; without labels, largest over second."""
    loss: Distribution | None
    """Cross-entropy in nats; None without labels."""
    correct: int | None
    """Examples whose correct class alone has the largest logit; None without labels."""

    @property
    def count(self) -> int:
        """Number of examples."""
        return self.entropy.count

    @property
    def accuracy(self) -> float:
        """Share of correct examples; NaN without labels or examples."""
        return math.nan if self.correct is None or not self.count else self.correct / self.count

    @property
    def accuracy_error(self) -> float:
        """Standard error of the accuracy, ``sqrt(a (1 - a) / n)``, for examples drawn independently."""
        a = self.accuracy
        return math.nan if math.isnan(a) else math.sqrt(a * (1 - a) / self.count)

    def __add__(self, other: Uncertainty) -> Uncertainty:
        """Return the statistics of both sets of examples together.

        Raises
        ------
        ValueError
            If they differ in the number of classes, or only one has labels.
        """
        if not isinstance(other, Uncertainty):
            return NotImplemented
        if self.classes != other.classes:
            raise ValueError(
                f"`other` must have {self.classes} classes too, got {other.classes}; keep data sets apart"
            )
        if self.loss is None or self.correct is None or other.loss is None or other.correct is None:
            if self.loss is not other.loss:
                raise ValueError("`other` must have labels where this one has, got only one with; give both")
            loss, right = None, None
        else:
            loss, right = self.loss + other.loss, self.correct + other.correct
        return Uncertainty(
            self.classes, self.entropy + other.entropy, self.margin + other.margin, loss, right
        )

    def __radd__(self, other: int) -> Uncertainty:
        """Return itself for 0, which `sum` starts from."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def as_dict(self) -> dict[str, Any]:
        """Return the statistics in types that JSON has; units are nats and probabilities."""
        return {
            "classes": self.classes,
            "count": self.count,
            "accuracy": plain(self.accuracy),
            "accuracy_error": plain(self.accuracy_error),
            "entropy": self.entropy.as_dict(),
            "margin": self.margin.as_dict(),
            "loss": None if self.loss is None else self.loss.as_dict(),
        }

    def plot(self, ax: Any = None) -> Any:
        """Draw the histogram of the entropies; `figures.margin_histogram` draws the margins."""
        return figures.entropy_histogram({"": self}, ax)

    def __repr__(self) -> str:
        if not self.count:
            return f"Uncertainty(no examples, {self.classes} classes)"
        right = "" if self.correct is None else f", accuracy {percent(self.correct, self.count)}"
        return (
            f"Uncertainty({self.count} examples, {self.classes} classes{right}, "
            f"entropy {_span(self.entropy)} nats, margin {_span(self.margin)})"
        )

    def _repr_html_(self) -> str:
        parts = [("entropy / nats", self.entropy), ("margin (probability)", self.margin)]
        if self.loss is not None:
            parts.append(("cross-entropy / nats", self.loss))
        rows = [
            (name, *((short(x) for x in (d.min, d.mean, d.max, d.std)) if d.count else "–" * 4))
            for name, d in parts
        ]
        right = "" if self.correct is None else f", accuracy {percent(self.correct, self.count)}"
        caption = f"Uncertainty of {self.count} examples, {self.classes} classes{right}"
        return html_table(caption, ("", "min", "mean", "max", "std"), rows)


def _span(d: Distribution) -> str:
    return f"{short(d.min)} to {short(d.max)} (mean {short(d.mean)})"


def uncertainty(logits: Array, labels: Array | None = None) -> Uncertainty:
    """Return entropy and margin statistics of logits; with labels also loss and accuracy.

    Works through blocks of about 10^6 logits, so that its memory does not depend on n. Reads the logits a few
    times and brings four numbers per example to the host, so call it outside `jax.jit`.

    Parameters
    ----------
    logits : array, shape (n, C)
        float32 or float64, of any library, finite; n = 0 gives the neutral element of ``+``.
    labels : array of integers, shape (n,), optional
        The correct classes, 0..C-1, of the same library. They decide which margin is taken.

    Returns
    -------
    Uncertainty

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit, a logit is NaN or infinite, or a label is not a class.
    """
    verbs.require_scores("logits", logits)
    if labels is not None:
        verbs.require_labels(logits, labels)
    n, classes = logits.shape
    rows = max(1, _BLOCK // classes)
    # at least one block, maybe an empty one, which is the zero of the sum
    starts = range(0, max(n, 1), rows)
    total: Uncertainty | None = None
    for start in starts:
        stop = min(start + rows, n)
        block, own = logits[start:stop, :], None if labels is None else labels[start:stop]
        part = _uncertainty_of_block(block, own, start)
        total = part if total is None else total + part
    assert total is not None
    return total


def _uncertainty_of_block(logits: Array, labels: Array | None, start: int) -> Uncertainty:
    xp, classes = namespace(logits=logits), logits.shape[1]
    finite = to_host(xp.all(xp.isfinite(logits), axis=1))
    if not np.all(finite):
        raise ValueError(
            f"`logits` must be finite, got NaN or infinity in row {start + int(np.argmin(finite))}; "
            "look for divergence in the training, or leave such rows out"
        )
    entropies = distribution(verbs.entropy(logits), ENTROPY_EDGES)
    margins = verbs.margin(verbs.softmax(logits), labels)
    if labels is None:
        return Uncertainty(classes, entropies, distribution(margins, MARGIN_EDGES), None, None)
    host_labels = to_host(labels)
    foreign = (host_labels < 0) | (host_labels >= classes)
    if np.any(foreign):
        first = int(np.argmax(foreign))
        raise ValueError(
            f"`labels` must be classes 0..{classes - 1}, got {host_labels[first]} in row {start + first}; "
            "check how the classes are numbered"
        )
    losses = distribution(verbs.cross_entropy(logits, labels), ENTROPY_EDGES)
    right = int(np.sum(to_host(verbs.correct(logits, labels))))
    return Uncertainty(classes, entropies, distribution(margins, MARGIN_EDGES), losses, right)
