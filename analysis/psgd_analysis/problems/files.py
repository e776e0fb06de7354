"""Reading a user's own Hessian, and image data in the IDX format.

Files are data from anywhere: nothing is unpickled, sizes are checked before memory is taken where the format
tells them, and whatever is wrong comes out as one `ValueError` whose one sentence begins with the path.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ._host import Array, put

MAX_SIZE = 32_768
"""Largest n that `load_hessian` reads: a dense float64 matrix of 8 GiB."""

ASYMMETRY = 1e-6
"""Largest ``max|H - H^T| / max|H|`` taken for rounding: what float32 automatic differentiation leaves."""

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def load_hessian(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    singular_ok: bool = False,
    like: Array | None = None,
) -> Array:
    """Read a symmetric matrix from a `.npy`, `.npz` or Matrix Market (`.mtx`, `.mtx.gz`) file.

    A `.npz` may hold a matrix of `scipy.sparse.save_npz`; sparse matrices come back dense.

    Parameters
    ----------
    path : str or path
    key : str, optional
        Which array of a `.npz` file; needed if it holds several.
    singular_ok : bool
        Accept a matrix that is singular to rounding: ``|H|^{-1}``, the preconditioner's target, does not
        exist for it, but its spectrum can be looked at. The check costs O(n^3).
    like : array, optional
        Library, dtype and device of the result; NumPy float64 without it.

    Returns
    -------
    array, shape (n, n)
        Exactly symmetric: ``(H + H^T) / 2``.

    Raises
    ------
    ValueError
        One sentence, with the path, if the file cannot be read, or does not hold a real, square, finite
        matrix that is symmetric up to `ASYMMETRY` (and invertible, see `singular_ok`).
    """
    path = Path(path)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".mtx": _read_matrix_market}
    suffix = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    reader = readers.get(suffix.lower())
    if reader is None or (path.suffix.lower() == ".gz" and reader is not _read_matrix_market):
        raise ValueError(f"{path}: the name must end in .npy, .npz, .mtx or .mtx.gz; convert the file")
    if key is not None and reader is not _read_npz:
        raise ValueError(f"{path}: `key` chooses an array of a .npz file, got {key!r}; leave it out")
    try:
        with path.open("rb"):
            pass  # a plain reason why not, before the readers give theirs
        h = reader(path, key)
    except _Unusable:
        raise
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # the readers raise whatever the bytes lead them into
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{path}: is not a valid {suffix} file ({reason})") from error
    h = _require_hessian(path, h)
    if not singular_ok:
        _require_invertible(path, h)
    return put(h, like)


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an array in the IDX format (of MNIST), gzipped or not.

    The format: two zero bytes, a byte for the type, one for the number of dimensions, the dimensions as
    big-endian 32-bit integers, the data in C order.

    Raises
    ------
    ValueError
        One sentence, with the path, if the file cannot be read, has another magic number, or holds more or
        fewer bytes than its header says.
    """
    try:
        raw = Path(path).read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_DTYPES or raw[3] == 0:
        raise ValueError(f"{path}: is not an IDX file (it begins with {raw[:4].hex(' ') or 'nothing'})")
    dtype, header = np.dtype(_IDX_DTYPES[raw[2]]), 4 + 4 * raw[3]
    if len(raw) < header:
        raise ValueError(f"{path}: is an IDX file cut off in its header, {len(raw)} of {header} bytes")
    shape = tuple(int(size) for size in np.frombuffer(raw[4:header], ">u4"))
    expected = header + dtype.itemsize * math.prod(shape)
    if len(raw) != expected:
        raise ValueError(f"{path}: must hold {expected} bytes by its IDX header {shape}, got {len(raw)}")
    return np.frombuffer(raw[header:], dtype).reshape(shape).astype(dtype.newbyteorder("="))


class _Unusable(ValueError):
    """A complaint that is already a sentence with the path."""


def _read_npy(path: Path, key: str | None) -> Any:
    array = np.lib.format.open_memmap(path, mode="r")  # looks at the header first, refuses objects
    _require_square(path, array.shape)
    return np.array(array)


def _read_npz(path: Path, key: str | None) -> Any:
    with np.lib.npyio.NpzFile(path.open("rb"), own_fid=True, allow_pickle=False) as archive:
        names = list(archive.files)
        if {"format", "shape", "data"} <= set(names) and key is None:
            return _read_sparse(path, archive["shape"])
        if key is None and len(names) != 1:
            raise _Unusable(f"{path}: holds {len(names)} arrays; choose one with `key`: {', '.join(names)}")
        if key is not None and key not in names:
            raise _Unusable(f"{path}: has no array {key!r}; it holds {', '.join(names) or 'none'}")
        return archive[names[0] if key is None else key]


def _read_sparse(path: Path, shape: Any) -> Any:
    from scipy import sparse

    _require_square(path, tuple(int(size) for size in shape))
    return sparse.load_npz(path).toarray()


def _read_matrix_market(path: Path, key: str | None) -> Any:
    from scipy import io, sparse

    rows, columns, *_ = io.mminfo(path)
    _require_square(path, (rows, columns))
    matrix = io.mmread(path)
    return matrix.toarray() if sparse.issparse(matrix) else matrix


def _require_square(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise _Unusable(f"{path}: must hold a square matrix, got shape {shape}")
    if shape[0] > MAX_SIZE:
        raise _Unusable(
            f"{path}: must have n at most {MAX_SIZE} to be held as a dense matrix, got n = {shape[0]}"
        )


def _require_hessian(path: Path, h: Any) -> np.ndarray:
    """Return `h` as an exactly symmetric float64 matrix, or raise."""
    h = np.asarray(h)
    if h.dtype.kind not in "fiu":
        raise ValueError(f"{path}: must hold real numbers, got {h.dtype}")
    _require_square(path, h.shape)
    h = h.astype(np.float64)
    bad = h.size - np.count_nonzero(np.isfinite(h))
    if bad:
        raise ValueError(f"{path}: must be finite, got {bad} NaN or infinite entries of {h.size}")
    largest = np.max(np.abs(h))
    asymmetry = np.max(np.abs(h - h.T)) / largest if largest else 0.0
    if asymmetry > ASYMMETRY:
        raise ValueError(
            f"{path}: must be symmetric, got max|H - H^T| = {asymmetry:.2g} max|H|; "
            "symmetrise it if that is rounding, (H + H^T) / 2"
        )
    return 0.5 * h + 0.5 * h.T


def _require_invertible(path: Path, h: np.ndarray) -> None:
    magnitudes = np.abs(np.linalg.eigvalsh(h))
    smallest, largest = float(np.min(magnitudes)), float(np.max(magnitudes))
    if smallest <= len(h) * np.finfo(np.float64).eps * largest:
        raise ValueError(
            f"{path}: is singular to rounding, smallest |eigenvalue| {smallest:.2g} against {largest:.2g}, "
            "so |H|^{-1} does not exist; add a small multiple of the identity"
        )
