"""Arrays in untrusted `.npy` and `.npz` files, and SciPy's sparse matrices in them.

An array's header is compared with the length of its data before memory is allocated, and the parts of a
sparse matrix with each other before any of them is used.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

INFLATION = 1040
"""Bytes that one compressed byte can stand for at most, in zip and gzip files."""

Check = Callable[[tuple[int, ...]], None]
"""Raises unless a shape is acceptable."""

Stays = Callable[[tuple[int, ...]], bool]
"""Returns whether a sparse matrix of this shape stays sparse; raises unless it is acceptable."""


class Wrong(ValueError):
    """An error, as the end of a sentence that begins with the path."""


_WIDTHS = {(1, 0): 2, (2, 0): 4}
"""Bytes of a header's length, by the version of the format."""

_PARSERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

_LONGEST = 10_000
"""Bytes of a header; NumPy takes no more, but reads it first."""


class Header(NamedTuple):
    """What an array's header says."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool

    @property
    def size(self) -> int:
        """Bytes of the data."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_npy(file: IO[bytes], length: int, check: Check) -> np.ndarray:
    """Return the array of a `.npy` file of so many bytes."""
    header = _header(file)
    _require_numbers(header.dtype)
    check(header.shape)
    if file.tell() + header.size != length:
        raise Wrong(
            f"is not a valid .npy file: its header tells of {file.tell() + header.size} bytes, "
            f"and it has {length}"
        )
    return _data(file, header)


def read_npz(file: IO[bytes], length: int, key: str | None, check: Check, stays: Stays) -> Any:
    """Return an array of a `.npz` file of so many bytes, or the sparse matrix that it holds.

    That comes dense, or, where it `stays`, as a `scipy.sparse.csr_array`.
    """
    with ZipFile(file) as archive:
        members = _Members(archive, length)
        names = members.names
        if {"format", "shape", "data"} <= set(names) and key is None:
            return _sparse(members, check, stays)
        if key is None and len(names) != 1:
            raise Wrong(f"holds {len(names)} arrays; choose one with `key`: {', '.join(names)}")
        if key is not None and key not in names:
            raise Wrong(f"has no array {key!r}; it holds {', '.join(names) or 'none'}")
        name = names[0] if key is None else key
        header = members.header(name)
        _require_numbers(header.dtype)
        check(header.shape)
        return members.read(name)


class _Members:
    """The arrays of a `.npz` file."""

    def __init__(self, archive: ZipFile, length: int) -> None:
        self._archive = archive
        self._entries: dict[str, ZipInfo] = {}
        for entry in archive.infolist():
            if entry.filename in self._entries:
                raise Wrong(f"holds {entry.filename!r} twice; write it again")
            self._entries[entry.filename] = entry
        if sum(entry.compress_size for entry in self._entries.values()) > length:
            raise Wrong("is not a valid .npz file: its parts are longer than it is")

    @property
    def names(self) -> list[str]:
        return [name.removesuffix(".npy") for name in self._entries if name.endswith(".npy")]

    def header(self, name: str) -> Header:
        """Return what an array is, after comparing it with the length of its part."""
        with self._opened(name) as (stream, entry):
            header = _header(stream)
            if stream.tell() + header.size != entry.file_size:
                raise Wrong(
                    f"is not a valid .npz file: the header of {name!r} tells of "
                    f"{stream.tell() + header.size} bytes, and it has {entry.file_size}"
                )
            return header

    def read(self, name: str) -> np.ndarray:
        header = self.header(name)
        with self._opened(name) as (stream, _):
            _header(stream)
            array = _data(stream, header)
            stream.read(1)  # at its end the checksum is compared
            return array

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[IO[bytes], ZipInfo]]:
        entry = self._entries.get(f"{name}.npy")
        if entry is None:
            raise Wrong(f"is not a sparse matrix of scipy.sparse.save_npz: it has no {name!r}")
        if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise Wrong("is not a valid .npz file: its parts are packed in a way that NumPy does not write")
        if entry.file_size > entry.compress_size * INFLATION + 100:
            raise Wrong(f"is not a valid .npz file: {name!r} cannot be as long as it says")
        with self._archive.open(entry) as stream:
            yield stream, entry


def _header(stream: IO[bytes]) -> Header:
    """Return the header of an array, leaving the stream at its data."""
    version = np.lib.format.read_magic(stream)
    if version not in _WIDTHS:  # (3, 0) is for names of fields, which plain numbers lack
        raise ValueError(f"version {version} of the format, which no numbers have")
    words = stream.read(_WIDTHS[version])
    length = int.from_bytes(words, "little")
    if length > _LONGEST:
        raise ValueError(f"its header has {length} bytes, more than any array needs")
    text = io.BytesIO(words + stream.read(length))
    try:
        shape, fortran, dtype = _PARSERS[version](text)
    except Exception as error:  # among them MemoryError for many signs in a row
        raise ValueError("its header is not one that NumPy writes") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    if any(count < 0 for count in shape):
        raise ValueError(f"its shape is {shape}")
    return Header(dtype, shape, fortran)


def _data(stream: IO[bytes], header: Header) -> np.ndarray:
    """Return the data that follow a header whose length has been compared."""
    array = np.empty(math.prod(header.shape), header.dtype)
    into, at = array.view(np.uint8), 0
    while at < len(into):
        part = stream.read(min(2**20, len(into) - at))
        if not part:
            raise ValueError("it ends too early")
        into[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    if header.fortran:
        return array.reshape(header.shape[::-1]).T
    return array.reshape(header.shape)


def _require_numbers(dtype: np.dtype) -> None:
    if dtype.kind not in "fiu":
        raise Wrong(f"must hold real numbers, got {dtype}")


# -- sparse matrices ----------------------------------------------------------------------------------------


def _sparse(members: _Members, check: Check, stays: Stays) -> Any:
    """Return the matrix of `scipy.sparse.save_npz`; duplicate entries are added, as SciPy does."""
    shape = members.header("shape")
    _require(shape.dtype.kind in "iu" and shape.shape == (2,), "its 'shape' is not two integers")
    rows, columns = (int(size) for size in members.read("shape"))
    large = stays((rows, columns))
    if not large:
        check((rows, columns))
    kind = members.header("format")
    _require(kind.dtype.kind in "SU" and kind.shape == () and kind.size <= 64, "its 'format' is no text")
    word = members.read("format").item()
    word = word.decode("latin-1") if isinstance(word, bytes) else word
    layouts = {"coo": _coo, "csr": _compressed, "csc": _compressed, "bsr": _compressed, "dia": _dia}
    _require(word in layouts, f"its 'format' is {word!r}")
    _require_numbers(members.header("data").dtype)
    require_entries(rows, math.prod(members.header("data").shape))
    i, j, x = layouts[word](members, rows)
    require_entries(rows, x.size)
    i, j = (j, i) if word == "csc" else (i, j)
    if large:
        return sparse(rows, i, j, x.astype(np.float64))
    h = np.zeros((rows, rows))
    with np.errstate(all="ignore"):  # infinite entries are reported later
        np.add.at(h, (i, j), x)
    return h


def sparse(n: int, i: np.ndarray, j: np.ndarray, x: np.ndarray) -> Any:
    """Return the (n, n) `scipy.sparse.csr_array` of these entries; duplicates are added."""
    from scipy.sparse import coo_array

    with np.errstate(all="ignore"):
        return coo_array((x, (i, j)), (n, n)).tocsr()


Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows, columns and values."""


def _coo(members: _Members, n: int) -> Entries:
    i, j, x = _indices(members, "row", n), _indices(members, "col", n), _values(members, 1)
    _require(i.size == j.size == x.size, "its 'row', 'col' and 'data' differ in length")
    return i, j, x


def _compressed(members: _Members, n: int) -> Entries:
    dimensions = len(members.header("data").shape)
    x = _values(members, 3 if dimensions == 3 else 1).astype(np.float64)
    height, width = x.shape[1:] if dimensions == 3 else (1, 1)
    _require(min(height, width) > 0 and n % height == n % width == 0, "its blocks do not fit its shape")
    j, starts = _indices(members, "indices", n // width), _integers(members, "indptr")
    _require(starts.size == n // height + 1, f"its 'indptr' has {starts.size} entries")
    ascends = starts[0] == 0 and bool(np.all(starts[1:] >= starts[:-1]))
    _require(ascends, "its 'indptr' does not ascend from 0")
    _require(starts[-1] == j.size == x.shape[0], "its 'indptr', 'indices' and 'data' differ in length")
    i = np.repeat(np.arange(starts.size - 1), starts[1:].astype(np.int64) - starts[:-1].astype(np.int64))
    if dimensions == 3:
        down, across = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        i = (i[:, None, None] * height + down).ravel()
        j = (j.astype(np.int64)[:, None, None] * width + across).ravel()
    return i, j, x.ravel()


def _dia(members: _Members, n: int) -> Entries:
    offsets, x = _integers(members, "offsets"), _values(members, 2)
    _require(offsets.size == x.shape[0], "its 'offsets' and 'data' differ in length")
    _require(len(set(offsets.tolist())) == offsets.size, "its 'offsets' are not all different")
    inside = offsets.size == 0 or (int(offsets.min()) > -n and int(offsets.max()) < n)
    _require(inside, f"its 'offsets' lie outside of {n} rows")
    j = np.broadcast_to(np.arange(x.shape[1]), x.shape)
    i = j - offsets.astype(np.int64)[:, None]
    kept = (i >= 0) & (i < n) & (j < n)
    return i[kept], j[kept], x[kept]


def _integers(members: _Members, name: str) -> np.ndarray:
    header = members.header(name)
    _require(header.dtype.kind in "iu" and len(header.shape) == 1, f"its {name!r} is not a row of integers")
    return members.read(name)


def _indices(members: _Members, name: str, n: int) -> np.ndarray:
    found = _integers(members, name)
    inside = found.size == 0 or (int(found.min()) >= 0 and int(found.max()) < n)
    _require(inside, f"its {name!r} lie outside of 0 ... {n - 1}")
    return found


def _values(members: _Members, dimensions: int) -> np.ndarray:
    shape = members.header("data").shape
    _require(len(shape) == dimensions, f"its 'data' have shape {shape}")
    return members.read("data")


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise Wrong(f"is not a sparse matrix of scipy.sparse.save_npz: {what}; write it again")


def require_entries(n: int, entries: int) -> None:
    """Raise where a large matrix has so few entries that most of its rows are zero.

    A tiny file could otherwise require any amount of memory.
    """
    if n > 1024 and 2 * entries < n:
        raise Wrong(f"has {entries} entries for {n} rows, so that some rows are zero; leave those out")
