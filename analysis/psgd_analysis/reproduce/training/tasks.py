"""Changes of images that make other tasks of one: other places for the pixels, or another angle."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .examples import Examples


def permute(examples: Examples, rng: np.random.Generator, *, task: int) -> Examples:
    """Return all images with their pixels at other places, the same ones for training and test.

    Parameters
    ----------
    examples : Examples
        Images.
    rng : numpy.random.Generator
    task : int
        Which of the permutations that the generator draws; 0 leaves the images as they are.
    """
    places = math.prod(examples.shape[-2:])
    order = np.arange(places)
    for _ in range(task):
        order = rng.permutation(places)
    chosen = torch.from_numpy(order)

    def moved(x: Tensor) -> Tensor:
        return x.flatten(-2)[..., chosen].reshape(x.shape)

    return dataclasses.replace(examples, train_x=moved(examples.train_x), test_x=moved(examples.test_x))


def rotate(examples: Examples, rng: np.random.Generator, *, degrees: float) -> Examples:
    """Return all images turned counterclockwise about their middle, bilinearly; black comes in at corners.

    Parameters
    ----------
    examples : Examples
        Square images.
    rng : numpy.random.Generator
        Not used.
    degrees : float

    Raises
    ------
    ValueError
        If the images are not square.
    """
    if len(examples.shape) != 3 or examples.shape[1] != examples.shape[2]:
        raise ValueError(f"`examples` must be square images for 'rotate', got the shape {examples.shape}")
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])

    def turned(x: Tensor) -> Tensor:
        grid = functional.affine_grid(turn[None], [1, *x.shape[1:]], align_corners=False)
        # the images are colours of one
        seen = functional.grid_sample(x.flatten(0, 1)[None], grid, align_corners=False)
        return seen[0].reshape(x.shape)

    return dataclasses.replace(examples, train_x=turned(examples.train_x), test_x=turned(examples.test_x))
