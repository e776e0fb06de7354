"""Untrusted Matrix Market files.

SciPy's reader parses the beginning of a malformed number ("1,5" is 1, "2.0D+03" is 2), and trusts the sizes
in the header. Here every line is matched as a whole, and the header is compared with the length of the file.
The text is read in pieces, so that a compressed file takes no more memory than the matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from .npz import Check, Entries, Stays, Wrong, require_entries, sparse

_INTEGER = rb"[+-]?\d+"
_REAL = rb"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|nan|Inf|NaN|INF|NAN|infinity|Infinity)"
_NUMBERS = {b"real": _REAL, b"double": _REAL, b"integer": _INTEGER, b"unsigned-integer": rb"\+?\d+"}
_BLANK = re.compile(rb"[ \t\r]*(?:%.*)?")

_PIECE = 2**20
"""Bytes read at once, and the longest line."""

_SPACIOUS = 200
"""Bytes per entry, on average, above which a file is rejected."""


def read_matrix_market(file: IO[bytes], length: int, check: Check, stays: Stays) -> Any:
    """Return the matrix of a Matrix Market file, dense or a `scipy.sparse.csr_array`.

    Parameters
    ----------
    file : binary file
        Of the text.
    length : int
        Most bytes of text.
    check : callable
        Raises unless the shape is acceptable.
    stays : callable
        Whether a matrix in coordinates of this shape stays sparse.
    """
    pieces = _Pieces(file)
    array, number, symmetric = _banner(pieces.line())
    size = pieces.line()
    while _BLANK.fullmatch(size):
        size = pieces.line()
    numbers = rb"[ \t]+".join([rb"(\d{1,18})"] * (2 if array else 3))
    sizes = re.fullmatch(rb"[ \t]*" + numbers + rb"[ \t]*\r?", size)
    if sizes is None:
        raise _invalid(f"its line of sizes is {_shown(size)}")
    rows, columns, *counts = (int(word) for word in sizes.groups())
    large = not array and stays((rows, columns))
    if not large:
        check((rows, columns))
    n = rows
    count = counts[0] if counts else n * (n + 1) // 2 if symmetric else n * n
    least = 2 if array else 6 if number else 4  # "1\n", "1 1 1\n", "1 1\n"
    if count > n * n or count * least > length:
        raise _invalid(f"its header promises {count} entries, and it cannot hold as many")
    require_entries(n, count)
    if array:
        return _array(pieces.blocks(count), n, count, number, symmetric)
    i, j, x = _coordinate(pieces.blocks(count), n, count, number, symmetric)
    if large:
        return sparse(n, i, j, x)
    h = np.zeros((n, n))
    h[i, j] = x
    return h


def _banner(line: bytes) -> tuple[bool, bytes, bool]:
    """Return whether the layout is dense, the pattern of numbers (b"" for none), and the symmetry."""
    words = line.lower().split()
    if len(words) != 5 or words[0] not in (b"%%matrixmarket", b"%matrixmarket") or words[1] != b"matrix":
        raise _invalid(f"it begins with {_shown(line)}")
    layout, field, symmetry = words[2:]
    if layout not in (b"array", b"coordinate"):
        raise _invalid(f"its layout is {_shown(layout)}")
    if field == b"complex" or symmetry == b"hermitian":
        raise Wrong("must hold real numbers, got complex ones")
    if symmetry == b"skew-symmetric":
        raise Wrong("must be symmetric, got a skew-symmetric matrix")
    pattern = field == b"pattern" and layout == b"coordinate"
    if (field not in _NUMBERS and not pattern) or symmetry not in (b"general", b"symmetric"):
        raise _invalid(f"it is {_shown(line)}")
    return layout == b"array", b"" if pattern else _NUMBERS[field], symmetry == b"symmetric"


class _Pieces:
    """The lines of a file, of limited length; all together no longer than `blocks` allows."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._read = file, 0

    def line(self) -> bytes:
        """Return the next line of the header."""
        line = self._file.readline(_PIECE + 1)
        self._read += len(line)
        if not line or self._read > _PIECE:
            raise _invalid("its header has no end")
        return line.removesuffix(b"\n")

    def blocks(self, count: int) -> Iterator[bytes]:
        """Yield the rest in whole lines, many at a time."""
        left, rest = _PIECE + count * _SPACIOUS, b""
        while piece := self._file.read(_PIECE):
            left -= len(piece)
            whole, newline, end = (rest + piece).rpartition(b"\n")
            rest = end
            if left < 0 or len(rest) > _PIECE:
                raise _invalid(f"it holds far more than its {count} entries")
            if newline:
                yield whole
        if rest:  # "0.5" cut short may read "0."
            raise _invalid("its last line has no end, so that it may be cut short")


def _matches(blocks: Iterator[bytes], line: bytes, count: int) -> Iterator[list]:
    """Yield what is found in the lines of each block, all of which must match, count of them in all."""
    pattern = re.compile(rb"(?m)^[ \t]*" + line + rb"[ \t]*\r?$")
    met = 0
    for block in blocks:
        found = pattern.findall(block)
        if len(found) != block.count(b"\n") + 1:
            for text in block.split(b"\n"):
                if not (pattern.fullmatch(text) or _BLANK.fullmatch(text)):
                    raise _invalid(f"a line of it is {_shown(text)}")
        met += len(found)
        if met > count:
            break
        if found:
            yield found
    if met != count:
        raise _invalid(f"its header promises {count} entries, and it holds {'more' if met > count else met}")


def _array(blocks: Iterator[bytes], n: int, count: int, number: bytes, symmetric: bool) -> np.ndarray:
    """Return a matrix stored by columns; of a symmetric one only the lower triangle is stored."""
    x, at = np.empty(count), 0
    for found in _matches(blocks, rb"(" + number + rb")", count):
        x[at : at + len(found)] = _floats(found)
        at += len(found)
    if not symmetric:
        return x.reshape(n, n).T
    h, at = np.empty((n, n)), 0
    for j in range(n):
        h[j:, j] = h[j, j:] = x[at : at + n - j]
        at += n - j
    return h


def _coordinate(blocks: Iterator[bytes], n: int, count: int, number: bytes, symmetric: bool) -> Entries:
    """Return rows, columns and values of entries; both of a pair of mirror images."""
    rows, columns, values = np.empty(count, np.int64), np.empty(count, np.int64), np.ones(count)
    line = rb"(\d{1,18})[ \t]+(\d{1,18})" + (rb"[ \t]+(" + number + rb")" if number else b"")
    at = 0
    for found in _matches(blocks, line, count):
        words = list(zip(*found, strict=True))
        here = slice(at, at + len(found))
        i, j = (np.fromiter(map(int, column), np.int64, len(found)) for column in words[:2])
        if min(i.min(), j.min()) < 1 or max(i.max(), j.max()) > n:
            raise _invalid(f"an entry of it lies outside of rows and columns 1 ... {n}")
        if symmetric and np.any(i < j):
            raise _invalid("an entry of it lies above the diagonal, and it is of the symmetric kind")
        rows[here], columns[here] = i - 1, j - 1
        if number:
            values[here] = _floats(words[2])
        at += len(found)
    if np.unique(rows * n + columns).size < count:
        raise _invalid("an entry of it is given twice")
    if not symmetric:
        return rows, columns, values
    off = rows != columns
    pairs = (rows, columns[off]), (columns, rows[off]), (values, values[off])
    i, j, x = (np.concatenate(pair) for pair in pairs)
    return i, j, x


def _floats(words: list[bytes] | tuple[bytes, ...]) -> np.ndarray:
    return np.fromiter((float(word) for word in words), np.float64, len(words))


def _shown(text: bytes) -> str:
    return repr(text[:60].decode("latin-1").strip())


def _invalid(what: str) -> Wrong:
    return Wrong(f"is not a valid .mtx file: {what}; write it again")
