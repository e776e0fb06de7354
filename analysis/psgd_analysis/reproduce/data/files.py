"""Files of data sets: found, read whole, and known by their contents."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Inputs and labels of the training set, then of the test set."""


class Missing(Exception):
    """A data set is not where it was looked for."""


class Unreadable(ValueError):
    """A file is not what its name says."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} {problem}; get the file anew")


def find(folders: Iterable[Path], names: Sequence[str]) -> list[Path] | None:
    """Return the files of these names in the first folder that has them all, each plain or gzipped."""
    for folder in folders:
        found = []
        for name in names:
            for candidate in (folder / name, folder / f"{name}.gz"):
                if os.path.isfile(candidate):  # false also where it may not be looked at
                    found.append(candidate)
                    break
        if len(found) == len(names):
            return found
    return None


def contents(path: Path) -> bytes:
    """Return what is in a file, decompressed if its name ends in .gz.

    Raises
    ------
    Unreadable
        If it cannot be read.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except EOFError as error:
        raise Unreadable(path, "ends in the middle of the gzipped data") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Unreadable(path, f"is not gzipped as its name says ({error})") from error
    except OSError as error:
        raise Unreadable(path, f"cannot be read ({error.strerror or error})") from error


_HASHES: dict[tuple[str, int, int], str] = {}
"""Of files by path, size and time of change, so that planning many runs reads each file once."""


def fingerprint(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the files' SHA-256s, in this order; gzipped files count as what is in them."""
    whole = hashlib.sha256()
    for path in paths:
        about = path.stat()
        key = (str(path.resolve()), about.st_size, about.st_mtime_ns)
        if key not in _HASHES:
            _HASHES[key] = _digest(path)
        whole.update(bytes.fromhex(_HASHES[key]))
    return whole.hexdigest()


def _digest(path: Path) -> str:
    """Return the SHA-256 of what is in a file; one that is not gzipped may be larger than the memory."""
    if path.suffix == ".gz":
        return hashlib.sha256(contents(path)).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Unreadable(path, f"cannot be read ({error.strerror or error})") from error
