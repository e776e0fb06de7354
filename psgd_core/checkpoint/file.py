"""Arrays and a JSON header in one file, written at once or not at all, and checked to the last bit.

The file is an uncompressed npz, readable by ``numpy.load``. Its first entry, `MARKER`, holds the header as
bytes; entries ``0, 1, ...`` are the arrays. The zip comment at its end is the SHA-256 of everything before
it, so that any changed byte is noticed before anything is interpreted. The file holds no time stamp: the same
content gives the same bytes.

The checksum is not a signature, so headers are verified before they are used: an entry takes no more memory
than it has bytes in the file, whatever its header says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from .replacing import StrPath, irregular, named, replacing

if TYPE_CHECKING:
    from zipfile import ZipFile

VERSION = 1
"""Version of the file's layout; newer versions are refused."""

MARKER = "psgd_checkpoint"
"""Name of the first entry: it tells a checkpoint from any other npz."""

_NAME, _NAME_AT = f"{MARKER}.npy".encode(), 30  # a zip begins with 30 bytes and the name of its first entry
_COMMENT = b"sha256:"
_DIGITS = 64


class CheckpointError(ValueError):
    """A file that is not a complete, unchanged checkpoint, or does not hold what was asked for."""


class Stored(NamedTuple):
    """Dtype and shape of an array, from its entry."""

    dtype: np.dtype
    shape: tuple[int, ...]


def write(path: StrPath, header: dict[str, Any], arrays: Iterable[np.ndarray]) -> None:
    """Write header and arrays to `path`; if anything goes wrong, `path` stays as it was.

    Raises
    ------
    ValueError
        If the header is not JSON, before anything is written.
    OSError
        If the file cannot be written.
    """
    from zipfile import ZipFile

    text = json.dumps({"version": VERSION} | header).encode()
    with replacing(path) as file:
        with ZipFile(file, "w") as archive:
            _write_entry(archive, MARKER, np.frombuffer(text, dtype=np.uint8))
            for i, x in enumerate(arrays):
                _write_entry(archive, str(i), x)
            archive.comment = _COMMENT + b"0" * _DIGITS
        checksum = _checksum(file)
        file.seek(-_DIGITS, os.SEEK_END)
        file.write(checksum)


@contextlib.contextmanager
def opened(
    path: StrPath,
) -> Iterator[tuple[dict[str, Any], Sequence[Stored], Callable[[int], np.ndarray]]]:
    """Yield the header, the arrays' dtypes and shapes, and a function that reads array i, all verified.

    Raises
    ------
    CheckpointError
        If `write` did not write it, if any byte of it changed, or if it is from a newer version.
    OSError
        If it cannot be read.
    """
    from zipfile import ZipFile

    where = os.fspath(path)
    named(path)
    found = irregular(path)
    if found not in (None, "a directory"):  # `open` refuses that itself
        raise CheckpointError(f"{where!r} is {found}, not a file; give one that psgd_core.save wrote")
    with open(path, "rb") as file:
        if not file.read(_NAME_AT + len(_NAME)).endswith(_NAME):
            raise CheckpointError(
                f"{where!r} is not a psgd_core checkpoint, or lost its beginning; "
                "give a file that psgd_core.save wrote"
            )
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_COMMENT) - _DIGITS))
        if file.read() != _COMMENT + _checksum(file):
            raise CheckpointError(
                f"{where!r} is damaged, truncated or changed: its checksum does not match; use another copy"
            )
        file.seek(0)
        with _forgery(where), ZipFile(file) as archive:
            stored = _stored(archive, size)
            header = json.loads(_read(archive, MARKER).tobytes())
            newer = type(header["version"]) is int and header["version"] > VERSION
            if not newer and header["version"] != VERSION:
                raise ValueError(f"version {header['version']!r}")
        if newer:
            raise CheckpointError(
                f"{where!r} has format version {header['version']}, this psgd_core reads up to {VERSION}; "
                "update psgd_core"
            )

        def read(i: int) -> np.ndarray:
            with _forgery(where), ZipFile(file) as archive:
                return _read(archive, str(i))

        yield header, stored, read


@contextlib.contextmanager
def _forgery(where: Any) -> Iterator[None]:
    """Turn any exception into one that names the file: the checksum is right, but `write` did not make it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{where!r} was not written by psgd_core.save ({reason}); do not use it"
        ) from error


def _stored(archive: ZipFile, size: int) -> list[Stored]:
    """Return dtype and shape of each array, after comparing all lengths with those in the file."""
    from zipfile import ZIP_STORED

    entries = archive.infolist()
    names = (MARKER, *map(str, range(len(entries) - 1)))
    if [entry.filename for entry in entries] != [f"{name}.npy" for name in names]:
        raise ValueError("its entries have other names")
    stored = [(x.compress_type, x.compress_size, x.flag_bits & 1) for x in entries]
    if stored != [(ZIP_STORED, x.file_size, 0) for x in entries]:
        raise ValueError("its entries are not stored as they are")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries are longer than the file")
    found = []
    for entry in entries:
        with archive.open(entry) as stream:
            dtype, shape = _npy_header(stream)
            if dtype.hasobject or stream.tell() + dtype.itemsize * math.prod(shape) != entry.file_size:
                raise ValueError(f"{entry.filename} does not have the length of its {dtype} {shape}")
            found.append(Stored(dtype, shape))
    if found[0] != (np.dtype(np.uint8), (found[0].dtype.itemsize * math.prod(found[0].shape),)):
        raise ValueError("its header is not text")
    return found[1:]


def _npy_header(stream: Any) -> tuple[np.dtype, tuple[int, ...]]:
    """Return dtype and shape of an array that `write` wrote, leaving the stream at its data."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array is in another version of the format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if any(count < 0 for count in shape):
        raise ValueError(f"an array has the shape {shape}")
    return dtype, shape


def _read(archive: ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _write_entry(archive: ZipFile, name: str, x: np.ndarray) -> None:
    # uncompressed, and with the date 1980: `open` takes no time stamp
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, x, version=(1, 0), allow_pickle=False)


def _checksum(file: BinaryIO) -> bytes:
    """Return the SHA-256 of all but the last `_DIGITS` bytes, in hexadecimal."""
    left = file.seek(0, os.SEEK_END) - _DIGITS
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0 and (block := file.read(min(left, 2**20))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()
