"""Changes of a data set before training, such as fewer examples of some classes, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .corruptions import blur, instance_noise, uniform_noise
from .examples import Examples
from .masking import masked
from .tasks import permute, rotate

Change = Callable[..., Examples]
"""Called with (examples, rng, **options); the same seed changes the data alike for all optimisers."""


def imbalance(
    examples: Examples, rng: np.random.Generator, classes: float = 0.5, kept: float = 0.1
) -> Examples:
    """Reduce some classes of the training set, drawn at random.

    Parameters
    ----------
    examples : Examples
    rng : numpy.random.Generator
    classes : float
        The share of the classes that is reduced.
    kept : float
        The share of each one's examples that is left, at least one; by default as in section 5.1.
    """
    y = examples.train_y.cpu().numpy()
    reduced = rng.permutation(examples.classes)[: round(classes * examples.classes)]
    left = np.ones(len(y), dtype=bool)
    for label in reduced:
        members = np.flatnonzero(y == label)
        left[rng.permutation(members)[max(1, round(kept * len(members))) :]] = False
    return examples.of(np.flatnonzero(left))


CHANGES: dict[str, Change] = {
    "imbalance": imbalance,
    "uniform_noise": uniform_noise,
    "instance_noise": instance_noise,
    "blur": blur,
    "permute": permute,
    "rotate": rotate,
    "masked": masked,
}
"""By the name that settings have."""


def changed(examples: Examples, changes: Sequence[Mapping[str, Any]], seed: int) -> Examples:
    """Return examples after some changes, one after the other.

    Parameters
    ----------
    examples : Examples
        Left as they are.
    changes : sequence of dicts
        Each with a "name", one of `CHANGES`, and its options.
    seed : int
        Each change has a generator of its own, so that it is the same whatever comes before it.
    """
    for change in changes:
        name, options = change["name"], {key: value for key, value in change.items() if key != "name"}
        if name not in CHANGES:
            raise ValueError(f"`changes` must be among {', '.join(CHANGES)}, got {name!r}")
        examples = CHANGES[name](examples, np.random.default_rng([seed, *name.encode()]), **options)
    return examples
