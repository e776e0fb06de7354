"""CIFAR-10: the batches that its authors publish, as bytes or for Python, and a set of JPEG files."""

from __future__ import annotations

import io
import pickletools
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .files import Arrays, Unreadable, contents

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
PIXELS = 3072

PYTHON = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
BINARY = tuple(f"{name}.bin" for name in PYTHON)
ARCHIVES = ("cifar10-jpeg.tar.xz", "cifar10-jpeg.tar")

Batch = tuple[np.ndarray, np.ndarray]


def binary_batch(path: Path) -> Batch:
    """Return images (n, 32, 32, 3) and labels of a batch of bytes: label, then picture, colour by colour."""
    raw = np.frombuffer(contents(path), np.uint8)
    if not raw.size or raw.size % (1 + PIXELS):
        raise Unreadable(path, f"must have a multiple of {1 + PIXELS} bytes, got {raw.size}")
    rows = raw.reshape(-1, 1 + PIXELS)
    return _images(path, rows[:, 1:], rows[:, 0])


def python_batch(path: Path) -> Batch:
    """Return images (n, 32, 32, 3) and labels of a batch for Python.

    That is a pickled dict. Nothing is unpickled: the pixels are its longest string, the labels the numbers in
    the list that comes after the key "labels".
    """
    pixels, listing = b"", False
    labels: list[Any] = []
    try:
        for code, value, _ in pickletools.genops(contents(path)):
            if isinstance(value, str | bytes | bytearray):
                data = value.encode("latin-1", errors="replace") if isinstance(value, str) else bytes(value)
                pixels = max(pixels, data, key=len)
                listing = data == b"labels" or (listing and not labels)
            elif listing and code.name in ("BININT1", "BININT", "BININT2", "INT"):
                labels.append(value)
            elif listing and code.name in ("SETITEM", "SETITEMS"):
                listing = False
    except (ValueError, IndexError, EOFError) as error:
        raise Unreadable(path, f"is not a batch of CIFAR-10 for Python ({error})") from error
    if not labels or len(pixels) != PIXELS * len(labels):
        raise Unreadable(
            path, f"must have {PIXELS} bytes of pixels a label, got {len(pixels)} for {len(labels)} labels"
        )
    return _images(path, np.frombuffer(pixels, np.uint8).reshape(-1, PIXELS), np.asarray(labels))


def _images(path: Path, rows: np.ndarray, labels: np.ndarray) -> Batch:
    if labels.max() > 9 or labels.min() < 0:
        odd = labels.max() if labels.max() > 9 else labels.min()
        raise Unreadable(path, f"must have labels from 0 to 9, got {odd}")
    x = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x), labels.astype(np.int64)


def read(paths: list[Path], batch: Callable[[Path], Batch]) -> Arrays:
    """Return the arrays of CIFAR-10, training set first, from its five batches and the test batch."""
    batches = [batch(path) for path in paths]
    train_x, train_y = (np.concatenate(part) for part in zip(*batches[:-1], strict=True))
    return train_x, train_y, *batches[-1]


def read_jpeg(paths: list[Path]) -> Arrays:
    """Return the arrays of CIFAR-10 from JPEG files, ``train/<class>/<number>.jpg``, in one tar file.

    They are in the order of their names, class by class.

    Raises
    ------
    ImportError
        If Pillow is not installed.
    Unreadable
        If the archive is damaged, or holds something else.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("CIFAR-10 as JPEG files needs Pillow; pip install pillow") from error

    path = paths[0]
    found: dict[str, dict[str, tuple[np.ndarray, int]]] = {"train": {}, "test": {}}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                parts = member.name.removeprefix("./").split("/")
                if not (member.isfile() and member.name.endswith(".jpg")):
                    continue
                file = archive.extractfile(member)
                if len(parts) != 3 or parts[0] not in found or parts[1] not in CLASSES or file is None:
                    raise Unreadable(path, f"must hold train/<class>/<number>.jpg, got {member.name}")
                picture = Image.open(io.BytesIO(file.read()))
                if picture.size != (32, 32):
                    raise Unreadable(path, f"must hold pictures of 32 x 32 pixels, not so {member.name}")
                x = np.asarray(picture.convert("RGB"))
                found[parts[0]]["/".join(parts[1:])] = x, CLASSES.index(parts[1])
    except (
        tarfile.TarError,
        EOFError,
        OSError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        raise Unreadable(path, f"cannot be read as pictures in a tar file ({error})") from error
    return *_stacked(path, found, "train"), *_stacked(path, found, "test")


def _stacked(path: Path, found: dict[str, dict[str, tuple[np.ndarray, int]]], split: str) -> Batch:
    pictures = [found[split][name] for name in sorted(found[split])]
    if not pictures:
        raise Unreadable(path, f"must hold pictures in {split}/, got none")
    return np.stack([x for x, _ in pictures]), np.asarray([y for _, y in pictures], np.int64)
