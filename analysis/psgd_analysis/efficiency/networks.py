"""Hessians of two small networks: dense for a tanh network on iris, by products for LeNet5 on MNIST."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..problems import read_idx

HIDDEN, L2 = 21, 1e-3
IMAGES = 2000
SHAPES = ((6, 26), (16, 151), (120, 257), (84, 121), (10, 85))
"""Of LeNet5's weights, [W b]: 44,426 numbers."""


def tanh_network(rng: np.random.Generator) -> np.ndarray:
    """Return the Hessian of a 4-21-3 tanh network's loss on iris at random weights, n = 171.

    The loss is the mean cross-entropy plus L2/2 |x|^2. At weights of variance 1/inputs the Hessian has
    eigenvalues of both signs.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_iris
    except ImportError as error:
        raise ImportError("the task needs scikit-learn's data: python -m pip install scikit-learn") from error
    data = load_iris()
    features = (data.data - data.data.mean(0)) / data.data.std(0)
    first = rng.standard_normal((5, HIDDEN)) / 2
    second = rng.standard_normal((HIDDEN + 1, 3)) / HIDDEN**0.5
    first[-1], second[-1] = 0, 0
    return tanh_hessian(features, np.eye(3)[data.target], first, second)


def tanh_hessian(
    features: np.ndarray, targets: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Return the Hessian of a tanh network with one hidden layer, by derivatives that are written out.

    Parameters
    ----------
    features, targets : array, shapes (N, d), (N, c)
        A one in each row of the targets.
    first, second : array, shapes (d + 1, m), (m + 1, c)
        Weights, the biases in the last row; flattened one after the other they are x.
    """
    rows, y = len(features), targets
    ones, zeros = np.ones((rows, 1)), np.zeros((rows, 1))
    x = np.concatenate([features, ones], axis=1)
    n = first.size + second.size
    # forward, and the gradient by each layer's output
    z = np.tanh(x @ first)
    z1 = np.concatenate([z, ones], axis=1)
    logits = z1 @ second
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    miss = (p - y) / rows
    slope = 1 - z * z
    back = miss @ second[:-1].T
    # forward over backward, a direction at a time
    h = np.empty((n, n))
    for i, direction in enumerate(np.eye(n)):
        d_first = direction[: first.size].reshape(first.shape)
        d_second = direction[first.size :].reshape(second.shape)
        d_z = slope * (x @ d_first)
        d_z1 = np.concatenate([d_z, zeros], axis=1)
        d_logits = z1 @ d_second + d_z1 @ second
        d_miss = p * (d_logits - np.sum(p * d_logits, axis=1, keepdims=True)) / rows
        d_back = d_miss @ second[:-1].T + miss @ d_second[:-1].T
        by_first = x.T @ (slope * d_back - 2 * z * d_z * back)
        h[i] = np.concatenate([by_first.ravel(), (z1.T @ d_miss + d_z1.T @ miss).ravel()])
    return (h + h.T) / 2 + L2 * np.eye(n)


def lenet(folder: Path, seed: int) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """Return n and the Hessian's products, for LeNet5 on MNIST's first 2,000 images at random weights.

    Mean cross-entropy plus L2/2 |x|^2, tanh and average pooling; float32 products, by torch.

    Raises
    ------
    ImportError
        If torch is not installed.
    OSError, ValueError
        If the images cannot be read.
    """
    import torch

    images, labels = (
        read_idx(folder / f"train-{name}-ubyte.gz")[:IMAGES] for name in ("images-idx3", "labels-idx1")
    )
    x = torch.tensor(images[:, None] / 255.0, dtype=torch.float32)
    y = torch.tensor(labels.astype(np.int64))
    rng = np.random.default_rng((seed, 6))
    start = []
    for rows, columns in SHAPES:
        w = rng.standard_normal((rows, columns)) / (columns - 1) ** 0.5
        w[:, -1] = 0
        start.append(w.ravel())
    weights = torch.tensor(np.concatenate(start), dtype=torch.float32)
    ends = np.cumsum([rows * columns for rows, columns in SHAPES]).tolist()

    def loss(flat: Any) -> Any:
        w = [part.reshape(s) for part, s in zip(torch.tensor_split(flat, ends[:-1]), SHAPES, strict=True)]
        functional = torch.nn.functional
        z = torch.tanh(functional.conv2d(x, w[0][:, :-1].reshape(6, 1, 5, 5), w[0][:, -1]))
        z = functional.avg_pool2d(z, 2)
        z = torch.tanh(functional.conv2d(z, w[1][:, :-1].reshape(16, 6, 5, 5), w[1][:, -1]))
        z = functional.avg_pool2d(z, 2).reshape(len(x), -1)
        for i in (2, 3, 4):
            z = functional.linear(z, w[i][:, :-1], w[i][:, -1])
            z = torch.tanh(z) if i < 4 else z
        return functional.cross_entropy(z, y) + L2 / 2 * torch.sum(flat * flat)

    flat = weights.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(flat), flat, create_graph=True)

    def product(v: np.ndarray) -> np.ndarray:
        columns = torch.tensor(v.T, dtype=torch.float32)
        found = [torch.autograd.grad(gradient, flat, one, retain_graph=True)[0] for one in columns]
        return torch.stack(found, 1).numpy().astype(np.float64)

    return ends[-1], product
