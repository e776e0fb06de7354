"""MNIST, in its IDX files: a header of big-endian numbers, then bytes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from .files import Arrays, Unreadable, contents

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
DOTTED = tuple(name.replace("-idx", ".idx") for name in NAMES)
"""As some archives have them."""


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the bytes of an IDX file, in its shape.

    Raises
    ------
    Unreadable
        If it is not an IDX file of bytes with so many dimensions, or has more or fewer than it says.
    """
    raw = contents(path)
    magic = bytes([0, 0, 8, dimensions])
    start = 4 + 4 * dimensions
    if raw[:4] != magic or len(raw) < start:
        raise Unreadable(path, f"must begin with the bytes {magic.hex()} of an IDX file, got {raw[:4].hex()}")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=dimensions, offset=4))
    if math.prod(shape) != len(raw) - start:
        raise Unreadable(path, f"must have {math.prod(shape)} bytes after its header, got {len(raw) - start}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def read_split(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 28, 28) and their labels."""
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if x.shape[1:] != (28, 28):
        raise Unreadable(images, f"must hold images of 28 x 28 pixels, got {x.shape[1]} x {x.shape[2]}")
    if len(x) != len(y) or not len(y):
        raise Unreadable(labels, f"must have a label for each of the {len(x)} images, got {len(y)}")
    if y.max() > 9:
        raise Unreadable(labels, f"must have labels up to 9, got {y.max()}")
    return x, y.astype(np.int64)


def read(paths: list[Path]) -> Arrays:
    """Return the arrays of MNIST, training set first, from its four files."""
    return *read_split(*paths[:2]), *read_split(*paths[2:])
