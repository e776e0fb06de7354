"""Data that needs no files, where the user has given none."""

from __future__ import annotations

import numpy as np

from .files import Arrays

LETTERS = 27
"""Of the stand-in for texts."""


def digits() -> Arrays:
    """Return scikit-learn's 1,797 digits of 8 x 8 pixels, enlarged to MNIST's 28 x 28 by the nearest pixel.

    1,500 are to train on, chosen once and for all: the file has them writer by writer.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "without MNIST, scikit-learn's digits are used; pip install scikit-learn, or give MNIST by --data"
        ) from error
    found = load_digits()
    nearest = (np.arange(28) + 0.5) * 8 // 28
    grey = np.rint(found.images * (255 / 16)).astype(np.uint8)
    images = grey[:, nearest.astype(int)][:, :, nearest.astype(int)]
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1500], order[1500:]
    labels = found.target.astype(np.int64)
    return images[train], labels[train], images[test], labels[test]


def chain(length: int = 100_000) -> np.ndarray:
    """Return a text of a Markov chain on pairs of letters: each pair has a few likely successors."""
    rng = np.random.default_rng(0)
    likely = rng.dirichlet(np.full(LETTERS, 0.05), size=(LETTERS, LETTERS))
    reached = likely.cumsum(axis=-1)
    tokens = np.zeros(length, np.int64)
    for i, u in enumerate(rng.uniform(size=length - 2), start=2):
        tokens[i] = min(np.searchsorted(reached[tokens[i - 2], tokens[i - 1]], u), LETTERS - 1)
    return tokens
