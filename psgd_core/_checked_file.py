"""Arrays and a JSON header in one file, written at once or not at all, and checked to the last bit.

The file is an uncompressed npz, readable by ``numpy.load``. Its first entry, `MARKER`, holds the header as
bytes; entries ``0, 1, ...`` are the arrays. The zip comment at its end is the SHA-256 of everything before
it, so that a byte changed anywhere is noticed before anything is interpreted. No clock goes into the file:
the same content gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from zipfile import ZipFile

VERSION = 1
"""Version of the file's layout; newer ones are refused."""

MARKER = "psgd_checkpoint"
"""Name of the first entry: it tells a checkpoint from any other npz."""

_NAME, _NAME_AT = f"{MARKER}.npy".encode(), 30  # a zip begins with 30 bytes and the name of its first entry
_COMMENT = b"sha256:"
_DIGITS = 64


class CheckpointError(ValueError):
    """A file that is not a whole, unchanged checkpoint, or does not hold what was asked for."""


def write(path: str | os.PathLike, header: dict[str, Any], arrays: Iterable[np.ndarray]) -> None:
    """Write header and arrays in the place of `path`; if anything goes wrong, `path` stays as it was.

    Raises
    ------
    TypeError
        If the header is not JSON, before anything is written.
    OSError
        If the file cannot be written.
    """
    from zipfile import ZipFile

    text = json.dumps({"version": VERSION} | header).encode()
    path = os.path.realpath(path)  # a link stays a link
    if not os.path.isdir(os.path.dirname(path)):
        raise FileNotFoundError(
            f"`path` must lie in an existing folder, got {path!r}; make the folder with os.makedirs"
        )
    with _replacing(path) as file:
        with ZipFile(file, "w") as archive:
            _write_entry(archive, MARKER, np.frombuffer(text, dtype=np.uint8))
            for i, x in enumerate(arrays):
                _write_entry(archive, str(i), x)
            archive.comment = _COMMENT + b"0" * _DIGITS
        checksum = _checksum(file)
        file.seek(-_DIGITS, os.SEEK_END)
        file.write(checksum)


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple[dict[str, Any], Callable[[int], np.ndarray]]]:
    """Yield the header and a function that reads array i, after checking the whole file.

    Raises
    ------
    CheckpointError
        If `write` did not write it, if any byte of it changed, or if it is from a newer version.
    OSError
        If it cannot be read.
    """
    where = os.fspath(path)

    def forged(error: Exception) -> CheckpointError:
        # its checksum is right: not an accident, and not written by `write`
        return CheckpointError(f"{where!r} was not written by psgd_core.save ({error}); do not use it")

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
                f"{where!r} is damaged, cut short or changed: its checksum does not match; use another copy"
            )
        file.seek(0)
        try:
            entries = np.load(file, allow_pickle=False)
            header = json.loads(entries[MARKER].tobytes())
            newer = header["version"] > VERSION
        except Exception as error:
            raise forged(error) from error
        if newer:
            raise CheckpointError(
                f"{where!r} has format version {header['version']}, this psgd_core reads up to {VERSION}; "
                "update psgd_core"
            )

        def read(i: int) -> np.ndarray:
            try:
                return entries[str(i)]
            except Exception as error:
                raise forged(error) from error

        with entries:
            yield header, read


def _write_entry(archive: ZipFile, name: str, x: np.ndarray) -> None:
    # stored as it is, with the date 1980: `open` asks no clock
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, x, allow_pickle=False)


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of `path` at the end, or vanishes if anything goes wrong."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(6).hex()}.tmp")
    try:
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    # the new name too, where the system can synchronise a folder
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checksum(file: BinaryIO) -> bytes:
    """Return the SHA-256 of all but the last `_DIGITS` bytes, in hexadecimal."""
    left = file.seek(0, os.SEEK_END) - _DIGITS
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0 and (block := file.read(min(left, 2**20))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()
