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
    images, labels = _small_digits("MNIST")
    nearest = ((np.arange(28) + 0.5) * 8 // 28).astype(int)
    grey = np.rint(images * 255).astype(np.uint8)[:, nearest][:, :, nearest]
    return grey[:1500], labels[:1500], grey[1500:], labels[1500:]


def coloured_digits() -> Arrays:
    """Return the same digits, enlarged to CIFAR-10's 32 x 32 in three colours.

    Each is drawn in a bright colour on a dark ground, both at random once and for all, so that no colour says
    which digit it is.
    """
    images, labels = _small_digits("CIFAR-10")
    rng = np.random.default_rng(1)
    ground, colour = rng.uniform((0.0, 0.5), (0.5, 1.0), (len(images), 3, 2)).transpose(2, 0, 1)
    share = images.repeat(4, axis=1).repeat(4, axis=2)[..., None]
    mixed = ground[:, None, None] + share * (colour - ground)[:, None, None]
    found = np.rint(255 * mixed).astype(np.uint8)
    return found[:1500], labels[:1500], found[1500:], labels[1500:]


def _small_digits(instead_of: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (1797, 8, 8) from 0 to 1, and labels, in an order drawn once and for all."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            f"without {instead_of}, scikit-learn's digits are used; pip install scikit-learn, or give "
            f"{instead_of} by --data"
        ) from error
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    return found.images[order] / 16, found.target[order].astype(np.int64)


def chain(length: int = 100_000) -> np.ndarray:
    """Return a text of a Markov chain on pairs of letters: each pair has a few likely successors."""
    rng = np.random.default_rng(0)
    likely = rng.dirichlet(np.full(LETTERS, 0.05), size=(LETTERS, LETTERS))
    reached = likely.cumsum(axis=-1)
    tokens = np.zeros(length, np.int64)
    for i, u in enumerate(rng.uniform(size=length - 2), start=2):
        tokens[i] = min(np.searchsorted(reached[tokens[i - 2], tokens[i - 1]], u), LETTERS - 1)
    return tokens
