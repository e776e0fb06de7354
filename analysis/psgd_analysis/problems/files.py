"""Reading a user's own Hessian, and image data in the IDX format.

Files are untrusted: nothing is unpickled, sizes are checked before memory is allocated where the format gives
them, and every error becomes a `ValueError` of one sentence that begins with the path.
"""

from __future__ import annotations

import bz2
import gzip
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np

from psgd_core.checkpoint.replacing import irregular

from ..arrays import Array, put
from .matrix_market import read_matrix_market
from .npz import INFLATION, Stays, Wrong, read_npy, read_npz

MAX_SIZE = 32_768
"""Largest n that `load_hessian` reads: a dense float64 matrix of 8 GiB."""

SPARSE_ABOVE = 2048
"""Rows above which `load_matrix` leaves a sparse matrix sparse."""

MAX_ROWS = 2**31 - 1
"""Largest n of a sparse matrix."""

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
    """Read a symmetric matrix from a `.npy`, `.npz` or Matrix Market (`.mtx`, `.mtx.gz`, `.mtx.bz2`) file.

    A `.npz` may hold a matrix of `scipy.sparse.save_npz`; sparse matrices come back dense (`load_matrix`
    leaves large ones sparse). Names may be in upper case.

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
    return _load(path, key, like, singular_ok, lambda shape: False)


def load_matrix(path: str | os.PathLike[str], *, key: str | None = None, like: Array | None = None) -> Array:
    """Read a symmetric matrix as `load_hessian` does, singular or not, and leave a large sparse one sparse.

    Parameters
    ----------
    path, key, like
        As for `load_hessian`; sparse matrices are NumPy's.

    Returns
    -------
    array or scipy.sparse.csr_array, shape (n, n)
        Sparse where it is stored in coordinates, or by `scipy.sparse.save_npz`, and has more than
        `SPARSE_ABOVE` rows. Exactly symmetric: ``(H + H^T) / 2``.

    Raises
    ------
    ValueError
        As `load_hessian`; of a sparse matrix n may be up to `MAX_ROWS`.
    """
    return _load(path, key, like, True, _stays)


def _load(given: str | os.PathLike[str], key: str | None, like: Any, singular_ok: bool, stays: Stays) -> Any:
    """Return what a file holds, checked, or raise ValueError."""
    path = Path(given)
    name = path.name.lower()
    ending = next((ending for ending in _READERS if name.endswith(ending)), None)
    if ending is None:
        raise ValueError(f"{path}: the name must end in {_ENDINGS}; convert the file")
    if key is not None and ending != ".npz":
        raise ValueError(f"{path}: `key` chooses an array of a .npz file, got {key!r}; leave it out")
    try:
        found = irregular(path)
        if found is not None:
            raise Wrong(f"must be a file, got {found}; copy what it gives into one")
        h = _READERS[ending](path, key, stays)
        if not isinstance(h, np.ndarray):
            return _placed(_require_sparse_hessian(h), like)
        h = _require_hessian(h)
        if not singular_ok:
            _require_invertible(h)
        with np.errstate(over="ignore"):
            placed = put(h, like)
        if not _finite(placed):
            raise Wrong(f"must fit into {placed.dtype}, got up to {np.max(np.abs(h)):.2g}; scale it")
    except Wrong as error:
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise ValueError(f"{path}: does not fit into memory; give a smaller matrix") from error
    except Exception as error:  # readers raise all kinds of exceptions on malformed bytes
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{path}: is not a valid {ending} file ({reason})") from error
    return placed


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


def _finite(x: Array) -> bool:
    xp = array_api_compat.array_namespace(x)
    return bool(xp.all(xp.isfinite(x)))


def _npy(path: Path, key: str | None, stays: Stays) -> np.ndarray:
    with path.open("rb") as file:
        return read_npy(file, path.stat().st_size, _require_square)


def _npz(path: Path, key: str | None, stays: Stays) -> Any:
    with path.open("rb") as file:
        return read_npz(file, path.stat().st_size, key, _require_square, stays)


def _mtx(opener: Callable[..., Any], inflation: int) -> Callable[[Path, str | None, Stays], Any]:
    """Return the reader of a text that expands by at most this factor."""

    def read(path: Path, key: str | None, stays: Stays) -> Any:
        with opener(path, "rb") as file:
            return read_matrix_market(file, path.stat().st_size * inflation, _require_square, stays)

    return read


_READERS = {
    ".npy": _npy,
    ".npz": _npz,
    ".mtx": _mtx(open, 1),
    ".mtx.gz": _mtx(gzip.open, INFLATION),
    ".mtx.bz2": _mtx(bz2.open, 2**20),
}
_ENDINGS = ".npy, .npz, .mtx, .mtx.gz or .mtx.bz2"


def _require_square(shape: tuple[int, ...], largest: int = MAX_SIZE) -> None:
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise Wrong(f"must hold a square matrix, got shape {shape}")
    if shape[0] > largest:
        if largest > MAX_SIZE:
            raise Wrong(f"must have n at most {largest}, got n = {shape[0]}")
        raise Wrong(f"must have n at most {MAX_SIZE} to be held as a dense matrix, got n = {shape[0]}")


def _stays(shape: tuple[int, ...]) -> bool:
    """Return whether a sparse matrix stays sparse."""
    _require_square(shape, MAX_ROWS)
    return shape[0] > SPARSE_ABOVE


def _require_sparse_hessian(h: Any) -> Any:
    """Return a sparse `h` exactly symmetric, or raise."""
    bad = int(np.sum(~np.isfinite(h.data)))
    if bad:
        raise Wrong(f"must be finite, got {bad} NaN or infinite entries of {h.nnz}")
    largest, skew = (float(np.max(np.abs(x.data), initial=0.0)) for x in (h, 0.5 * h - 0.5 * h.T))
    _require_little(2 * skew / largest if largest else 0.0)
    return (0.5 * h + 0.5 * h.T).tocsr()


def _placed(h: Any, like: Any) -> Any:
    """Return a sparse matrix in the dtype of `like`, or raise."""
    if like is None:
        return h
    if not array_api_compat.is_numpy_array(like):
        raise Wrong(f"is sparse, and sparse matrices are NumPy's; got `like` of {type(like).__module__}")
    with np.errstate(over="ignore"):
        placed = h.astype(like.dtype)
    if not np.all(np.isfinite(placed.data)):
        raise Wrong(f"must fit into {placed.dtype}, got up to {np.max(np.abs(h.data)):.2g}; scale it")
    return placed


def _require_little(asymmetry: float) -> None:
    if asymmetry > ASYMMETRY:
        raise Wrong(
            f"must be symmetric, got max|H - H^T| = {asymmetry:.2g} max|H|; "
            "symmetrise it if that is rounding, (H + H^T) / 2"
        )


def _require_hessian(h: np.ndarray) -> np.ndarray:
    """Return `h` as an exactly symmetric float64 matrix, or raise."""
    with np.errstate(all="ignore"):
        h = h.astype(np.float64)
    bad = h.size - np.count_nonzero(np.isfinite(h))
    if bad:
        raise Wrong(f"must be finite, got {bad} NaN or infinite entries of {h.size}")
    largest = np.max(np.abs(h))
    asymmetry = np.max(np.abs(0.5 * h - 0.5 * h.T)) / largest * 2 if largest else 0.0
    _require_little(asymmetry)
    return 0.5 * h + 0.5 * h.T


def _require_invertible(h: np.ndarray) -> None:
    unit = np.max(np.abs(h)) or 1.0
    magnitudes = np.abs(np.linalg.eigvalsh(h / unit))
    smallest, largest = float(np.min(magnitudes)), float(np.max(magnitudes))
    if smallest <= len(h) * np.finfo(np.float64).eps * largest:
        raise Wrong(
            f"is singular to rounding, smallest |eigenvalue| {smallest * unit:.2g} against "
            f"{largest * unit:.2g}, so |H|^{{-1}} does not exist; add a small multiple of the identity"
        )
