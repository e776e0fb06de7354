"""The passes of a low-rank update on a GPU, over ``R = [U; V; x; y]``, ``x = d h / unit, y = p / d / unit``.

Everything in an update of ``Q = (I + U V^T) diag(d)`` that is as long as n is one of these passes; what is
between them are matrices of size 2 r + 2, for the caller's array code. x and y are never stored. Sums are
accumulated in float64 in a fixed order and maxima are exact, so results repeat bit for bit; nothing waits for
the device. Arrays are CuPy's, or PyTorch's on a CUDA device::

    rows = take(u, v, d, h, p, count, damping)          # None where the kernels do not apply
    unit, usable, seen = survey(rows)                   # reads d, h, p
    g = gram(rows, unit)                                # reads U, V, d, h, p: as all that follow
    largest = extremes(coefficients, rows, unit)        # max |plus|, |minus|, |plus - minus|
    u, v, d = rewrite(coefficients, rows, unit, ...)    # writes the factors that move, and d

`preconditioners._low_rank_queued` puts them together.

These kernels (``cuda/low_rank.cu``) have been compiled, and their source has been run by an emulator of
blocks and threads on the host (see the tests); they have not yet run on a GPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .._array import Array
from . import _cuda
from ._cuda import Kernel, Library, View
from ._switch import wanted

SHARED = 48 * 1024
"""Bytes of shared memory that every device gives a block without being asked."""

SIDE, LANES, WARPS = 8, 32, 6
"""Rows of a square of the Gram matrix, lanes of a warp, and warps (squares) in a block."""

TOGETHER = 4
"""Combinations that a thread forms at once."""

BLOCKS = 2
"""Of the Gram pass, per multiprocessor."""

_NAMES = {"float32": "float", "float64": "double"}
_NUMBERS: dict[str, Any] = {"float32": np.float32, "float64": np.float64}


class Rows(NamedTuple):
    """What a pass reads."""

    library: Library
    u: Array  # (r, n)
    v: Array  # (r, n)
    d: Array  # (n,)
    count: Array  # 0-d int32, which the noise's signs are drawn by
    pointers: tuple[int, int, int, int, int]  # to U, V, d, h, p
    count_at: int
    damping: float  # h is read as h + damping * signs(count)
    r: int
    n: int
    dtype: str
    device: int
    keep: tuple[Array, ...]  # what must live until the passes are queued

    @property
    def m(self) -> int:
        """The number of rows of R."""
        return 2 * self.r + 2

    @property
    def noise(self) -> tuple[int, Any]:
        """Return what all kernels take of it."""
        return self.count_at, _NUMBERS[self.dtype](self.damping)


class LowRankKernels(NamedTuple):
    """Of a dtype."""

    survey: Kernel
    judge: Kernel
    gram: Kernel
    arrange: Kernel
    combine: Kernel
    extremes: Kernel
    rewrite: Kernel
    gram_sum: Kernel


@cache
def kernels(dtype: str) -> LowRankKernels:
    """Return the kernels for a dtype."""
    t = _NAMES[dtype]
    names = [name if name == "gram_sum" else f"{name}<{t}>" for name in LowRankKernels._fields]
    return LowRankKernels(*_cuda.compiled("low_rank.cu", tuple(names)))


def take(u: Any, v: Any, d: Any, h: Any, p: Any, count: Any, damping: float) -> Rows | None:
    """Return what the passes read, None if these arrays are not for them.

    Parameters
    ----------
    u, v : array, shape (r, n)
    d, h, p : array, shape (n,)
        The diagonal, the product and the probe.
    count : array
        0-d int32.
    damping : float
        Its noise is added to h: ``h + damping * signs(count, h)``; 0 adds none.
    """
    library = _cuda.library_of(d)
    if library is None or not wanted():
        return None
    arrays = (u, v, d, h, p)
    views = [x for x in map(library.view, (*arrays, count)) if x is not None]
    if (
        len(views) != 6
        or len(views[2].shape) != 1
        or views[2].dtype not in _NAMES
        or len(views[0].shape) != 2
    ):
        return None
    (n,), dtype, device = views[2][1:]
    r = views[0].shape[0]
    factor, vector = View(0, (r, n), dtype, device)[1:], View(0, (n,), dtype, device)[1:]
    expected = [factor, factor, vector, vector, vector, ((), "int32", device)]
    if [x[1:] for x in views] != expected or n < 1 or not _tile(r, dtype) or not _threads(r, dtype):
        return None
    at = (views[0].pointer, views[1].pointer, views[2].pointer, views[3].pointer, views[4].pointer)
    return Rows(library, u, v, d, count, at, views[5].pointer, damping, r, n, dtype, device, arrays)


def survey(rows: Rows) -> tuple[Array, Array, Array]:
    """Return (unit, whether p and h are finite and p is not zero, whether h is not zero), all 0-d.

    The unit is the largest entry of ``d h`` and ``p / d``, 1 where there is none or one is NaN.
    """
    library, own = rows.library, kernels(rows.dtype)
    with library.within(rows.device):
        work = library.zeros(2, rows.device)
        at = _pointer(library, work)
        outs = [library.empty((), kind, rows.device) for kind in (rows.dtype, "bool", "bool")]
        blocks = _cuda.grid(rows.n, rows.device, library)
        args = (rows.n, *rows.pointers[2:], *rows.noise, at, at + 8)
        own.survey((blocks,), (_cuda.THREADS,), args)
        own.judge((1,), (1,), (at, at + 8, *(_pointer(library, x) for x in outs)))
    return outs[0], outs[1], outs[2]


def gram(rows: Rows, unit: Array) -> Array:
    """Return the Gram matrix of the rows, (m, m), in float64.

    Parameters
    ----------
    rows : Rows
    unit : array
        0-d, of the rows' dtype.
    """
    library, own, m = rows.library, kernels(rows.dtype), rows.m
    sides = -(-m // SIDE)
    squares = sides * (sides + 1) // 2
    warps, tile = min(WARPS, squares), _tile(rows.r, rows.dtype)
    shared = max(_stages(rows.r, rows.dtype, tile), 8 * SIDE * LANES * warps)
    with library.within(rows.device):
        blocks = max(1, min(-(-rows.n // tile), BLOCKS * library.processors(rows.device)))
        parts = library.empty((blocks * squares * SIDE * SIDE,), "float64", rows.device)
        out = library.empty((m, m), "float64", rows.device)
        numbers = (rows.n, np.int32(rows.r), np.int32(tile))
        args = (*numbers, *rows.pointers, _pointer(library, unit), *rows.noise, _pointer(library, parts))
        own.gram((blocks, -(-squares // warps)), (warps * LANES,), args, shared_mem=shared)
        summed = (np.int32(m), np.int32(blocks), _pointer(library, parts), _pointer(library, out))
        own.gram_sum((-(-m * m // 8),), (8 * LANES,), summed)
    return out


def combine(coefficients: Array, rows: Rows, unit: Array) -> Array:
    """Return ``coefficients @ R``, shape (q, n), for coefficients of shape (q, m)."""
    library, (q, _) = rows.library, coefficients.shape
    with library.within(rows.device):
        out = library.empty((q, rows.n), rows.dtype, rows.device)
        laid, wide = _laid_out(coefficients, rows, 0)
        args = (rows.n, np.int32(rows.r), np.int32(q), _pointer(library, laid), np.int32(wide))
        _over_columns(kernels(rows.dtype).combine, rows, (*args, *_pair(rows, unit), _pointer(library, out)))
    return out


def extremes(coefficients: Array, rows: Rows, unit: Array) -> Array:
    """Return the largest entries of ``plus = x * (c_0 R)``, ``minus = y * (c_1 R)``, ``plus - minus``; (3,).

    In magnitude, and NaN if there is one. With the coefficients of ``P h / d`` and ``d P^{-1} v``, shape
    (2, m), that is what the sizes of d's move are made of.
    """
    library = rows.library
    with library.within(rows.device):
        work = library.zeros(3, rows.device)  # the bits of three numbers; those of 0 are 0
        laid, wide = _laid_out(coefficients, rows, 0)
        args = (rows.n, np.int32(rows.r), _pointer(library, laid), np.int32(wide))
        kernel = kernels(rows.dtype).extremes
        _over_columns(kernel, rows, (*args, *_pair(rows, unit), _pointer(library, work)))
        return library.reread(work, rows.dtype)[:3]


def rewrite(
    coefficients: Array,
    rows: Rows,
    unit: Array,
    mu: Array,
    scale: Array,
    usable: Array,
    which: Array,
    *,
    inplace: bool,
) -> tuple[Array, Array, Array]:
    """Return the new (U, V, d).

    Parameters
    ----------
    coefficients : array, shape (2 r + 2, m)
        Of what is added to U, of what is added to V, and the two of `extremes`.
    rows : Rows
    unit, mu, scale : array
        0-d, of the rows' dtype: ``d <- scale d (1 - mu (plus - minus))``.
    usable : array
        0-d bool; where it is false, nothing changes.
    which : array
        0-d int32: 1 writes U, 2 writes V, 3 both; what is not written stays.
    inplace : bool
        Whether the old arrays are written to.
    """
    library, r = rows.library, rows.r
    with library.within(rows.device):
        new = (rows.u, rows.v, rows.d)
        if not inplace:
            shapes = ((r, rows.n), (r, rows.n), (rows.n,))
            new = tuple(library.empty(shape, rows.dtype, rows.device) for shape in shapes)
        laid, wide = _laid_out(coefficients, rows, r)
        args = (rows.n, np.int32(r), _pointer(library, laid), np.int32(wide), *_pair(rows, unit))
        flags = (_pointer(library, x) for x in (mu, scale, usable, which, *new))
        _over_columns(kernels(rows.dtype).rewrite, rows, (*args, *flags))
        if inplace:
            library.written(*new)
    return new


def _laid_out(coefficients: Array, rows: Rows, r: int) -> tuple[Array, int]:
    """Return coefficients as the kernels read them, and how many columns they are: see ``arrange``."""
    library, (q, m) = rows.library, coefficients.shape
    given = library.contiguous(library.cast(coefficients, "float64"))
    half = -(-r // TOGETHER) * TOGETHER
    wide = 2 * half + -(-(q - 2 * r) // TOGETHER) * TOGETHER
    out = library.empty((m, wide), rows.dtype, rows.device)
    sizes = (np.int32(m), np.int32(q), np.int32(r), np.int32(half), np.int32(wide))
    blocks = _cuda.grid(m * wide, rows.device, library)
    args = (*sizes, _pointer(library, given), _pointer(library, out))
    kernels(rows.dtype).arrange((blocks,), (_cuda.THREADS,), args)
    return out, wide


def _pair(rows: Rows, unit: Array) -> tuple[Any, ...]:
    return *rows.pointers, _pointer(rows.library, unit), *rows.noise


def _over_columns(kernel: Kernel, rows: Rows, args: tuple[Any, ...]) -> None:
    threads = _threads(rows.r, rows.dtype)
    blocks = _cuda.grid(rows.n, rows.device, rows.library, threads)
    kernel((blocks,), (threads,), args, shared_mem=rows.m * threads * _itemsize(rows.dtype))


def _pointer(library: Library, x: Any) -> int:
    view = library.view(x)
    if view is None:
        raise TypeError(f"`x` must be an array without gaps on the device, got {type(x).__name__}; copy it")
    return view.pointer


def _itemsize(dtype: str) -> int:
    return int(np.dtype(dtype).itemsize)


def _stages(r: int, dtype: str, tile: int) -> int:
    """Return the bytes of two tiles of the rows, filled up to whole squares."""
    m = 2 * r + 2
    filled = -(-m // SIDE) * SIDE
    return 2 * (filled if filled > m else m + 1) * tile * _itemsize(dtype)


def _tile(r: int, dtype: str) -> int:
    """Return the columns of a tile, 0 if there are too many rows."""
    return next((tile for tile in (128, 64, 32) if _stages(r, dtype, tile) <= SHARED), 0)


def _threads(r: int, dtype: str) -> int:
    """Return the threads of a block that leaves a column for each in shared memory, 0 if there is no room."""
    column = (2 * r + 2) * _itemsize(dtype)
    return next((threads for threads in (128, 64, 32) if threads * column <= SHARED), 0)
