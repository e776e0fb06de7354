"""Changes that spoil the training set, for all or a part of a run: wrong labels, blurred images.

The test set stays as it is.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .examples import Examples

SPREAD = 0.1
"""Standard deviation of the rates of single examples, as Xia et al. have it."""


def uniform_noise(examples: Examples, rng: np.random.Generator, rate: float) -> Examples:
    """Return examples of which labels are wrong, each by chance, and any other class alike.

    A rate of 0.54 with ten classes leaves 46 % right and gives 6 % to each other class, as in section 5.1: to
    draw 60 % of the labels anew comes to the same.

    Parameters
    ----------
    examples : Examples
        With a label for each.
    rng : numpy.random.Generator
    rate : float
        The probability that a label is wrong.
    """
    _require_rate(examples, rate)
    y = examples.train_y.numpy()
    wrong = rng.random(len(y)) < rate
    by = rng.integers(1, examples.classes, len(y))
    return _labelled(examples, np.where(wrong, (y + by) % examples.classes, y))


def instance_noise(examples: Examples, rng: np.random.Generator, rate: float) -> Examples:
    """Return examples of which labels are wrong by chances that depend on the image.

    The algorithm 2 of Xia et al., "Part-dependent label noise" (NeurIPS 2020, arXiv 2006.07836): an example
    has a probability of its own to be labelled wrong, from a normal distribution of standard deviation 0.1
    cut at 0 and 1; which wrong class it gets is drawn from the softmax of a random linear map of its image,
    one map for each true class. Here the mean image is taken off first, which would otherwise give most
    images of a class the same wrong label.

    Parameters
    ----------
    examples : Examples
        With a label for each.
    rng : numpy.random.Generator
    rate : float
        The mean of the normal distribution; far from 0 and 1 also the share of wrong labels.
    """
    from scipy.special import softmax
    from scipy.stats import truncnorm

    _require_rate(examples, rate)
    x = examples.train_x.flatten(1).numpy()
    mean = x.mean(axis=0, dtype=np.float64)
    y, classes = examples.train_y.numpy(), examples.classes
    rates = truncnorm.rvs(-rate / SPREAD, (1 - rate) / SPREAD, rate, SPREAD, len(y), random_state=rng)
    wrong, draws = rng.random(len(y)) < rates, rng.random(len(y))
    labels = y.copy()
    for own in range(classes):
        here = np.flatnonzero(y == own)
        scores = (x[here] - mean) @ rng.standard_normal((x.shape[1], classes))
        scores[:, own] = -np.inf
        reached = softmax(scores, axis=1).cumsum(axis=1)
        drawn = (reached < draws[here, None] * reached[:, -1:]).sum(axis=1)
        labels[here] = np.where(wrong[here], drawn, own)
    return _labelled(examples, labels)


def blur(examples: Examples, rng: np.random.Generator, size: int = 8) -> Examples:
    """Return examples whose training images are reduced to `size` x `size` pixels and enlarged again.

    Both bilinear, as in Achille, Rovere and Soatto, "Critical learning periods in deep networks" (ICLR 2019):
    each small pixel is a weighted mean of all those below it.
    """
    x = examples.train_x
    if x.ndim != 4 or not 1 <= size <= min(x.shape[2:]):
        raise ValueError(
            f"`size` must be from 1 to the images' own size, got {size} for examples of {tuple(x.shape[1:])}"
        )
    small = interpolate(x, (size, size), mode="bilinear", antialias=True)
    return dataclasses.replace(examples, train_x=interpolate(small, x.shape[2:], mode="bilinear"))


def _labelled(examples: Examples, labels: np.ndarray) -> Examples:
    made: Tensor = torch.from_numpy(labels).to(examples.train_y.dtype)
    return dataclasses.replace(examples, train_y=made)


def _require_rate(examples: Examples, rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` must be a probability from 0 to 1, got {rate!r}")
    if examples.train_y.ndim != 1:
        raise ValueError(
            "`examples` must have a label for each to have wrong ones, got labels of shape "
            f"{tuple(examples.train_y.shape)}"
        )
