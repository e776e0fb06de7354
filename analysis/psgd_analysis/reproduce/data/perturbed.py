"""CIFAR-10, clean to train on and perturbed to test on: as the authors of NTGA publish it, or with noise."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from .files import Arrays, Unreadable, contents

LAYOUTS = tuple(
    (
        "x_val_cifar10.npy",
        "y_val_cifar10.npy",
        f"x_train_cifar10_ntga_{model}_best.npy",
        "y_train_cifar10.npy",
    )
    for model in ("cnn", "fnn")
)
"""10,000 clean images with their labels, 40,000 perturbed ones with theirs."""

STRENGTH = 8
"""Of the noise, in levels of 255: as much as NTGA's."""


def read(paths: list[Path]) -> Arrays:
    """Return the arrays: train on the clean images, test on the perturbed ones.

    Images are floats from 0 to 1 in the files, labels one-hot or numbers.
    """
    return *_pair(*paths[:2]), *_pair(*paths[2:])


def _pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    x, y = _array(images), _array(labels)
    if x.ndim != 4 or x.shape[1:] != (32, 32, 3) or not x.size:
        raise Unreadable(images, f"must hold images of shape (32, 32, 3), got an array of shape {x.shape}")
    if x.dtype.kind != "f" or not (x.min() >= 0 and x.max() <= 1):
        raise Unreadable(images, "must hold floats from 0 to 1")
    if y.ndim == 2 and y.shape[1] == 10 and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        y = y.argmax(axis=1)
    if y.shape != (len(x),) or not np.isin(y, range(10)).all():
        raise Unreadable(labels, f"must have a label from 0 to 9 for each of the {len(x)} images")
    return np.rint(255 * x).astype(np.uint8), y.astype(np.int64)


def _array(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(io.BytesIO(contents(path)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Unreadable(path, f"is not an array of NumPy ({error})") from error
    return found


def with_noise(arrays: Arrays) -> Arrays:
    """Return a fifth of a training set to train on, and the rest with noise to test on.

    Which, and the noise, `STRENGTH` levels up or down at each pixel and colour, are drawn once and for all.
    Unlike NTGA's, this noise knows nothing of networks.
    """
    x, y = arrays[:2]
    rng = np.random.default_rng(2)
    clean, rest = np.split(rng.permutation(len(x)), [len(x) // 5])
    noise = STRENGTH * (2 * rng.integers(0, 2, x[rest].shape, dtype=np.int8) - 1)
    perturbed = np.clip(x[rest].astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return x[clean], y[clean], perturbed, y[rest]
