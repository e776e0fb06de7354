"""The passes of a low-rank update on a GPU, over ``R = [U; V; x; y]``: ``x = d h``, ``y = p / d`` in units.

Everything in an update of ``Q = (I + U V^T) diag(d)`` that is as long as n is one of these passes; what is
between them are matrices of size 2 r + 2, for the caller's array code. x and y are never stored. Sums are
accumulated in float64 in a fixed order and maxima are exact, so results repeat bit for bit; nothing waits for
the device. Arrays are CuPy's, or PyTorch's on a CUDA device::

    rows = take(state, h, p)                             # None where the kernels do not apply
    found = survey(rows)                                 # reads d, h, p
    g = gram(rows, found.reading)                        # reads U, V, d, h, p: as all that follow
    largest = extremes(coefficients, rows, reading)      # max |plus|, |minus|, |plus - minus|
    u, v, d = rewrite(coefficients, rows, reading, ...)  # writes the factors that move, and d

`low_rank_queue` puts them together.

These kernels (``cuda/low_rank.cu``) have been compiled, and their source has been run by an emulator of
blocks and threads on the host (see the tests); they have not yet run on a GPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ...arrays.library import Array
from . import cuda_library
from .cuda_library import Kernel, Library

SHARED = 48 * 1024
"""Bytes of shared memory that every device gives a block without being asked."""

SIDE, LANES, WARPS = 8, 32, 6
"""Rows of a square of the Gram matrix, lanes of a warp, and warps (squares) in a block."""

TOGETHER = 4
"""Combinations that a thread forms at once."""

BLOCKS = 2
"""Of the Gram pass, per multiprocessor."""

_NAMES = {"float32": "float", "float64": "double"}


class Rows(NamedTuple):
    """What a pass reads."""

    library: Library
    u: Array  # (r, n)
    v: Array  # (r, n)
    d: Array  # (n,)
    pointers: tuple[int, int, int, int, int]  # to U, V, d, h, p
    count_at: int  # pointers to what the noise's signs are drawn by,
    damping_at: int  # to its size lambda, of either sign,
    pending_at: int  # and to whether the scale is still to be set
    r: int
    n: int
    dtype: str
    device: int
    keep: tuple[Array, ...]  # what must live until the passes are queued

    @property
    def m(self) -> int:
        """The number of rows of R."""
        return 2 * self.r + 2


class Survey(NamedTuple):
    """What is known of a pair before its rows are read; all on the device."""

    reading: Array  # (3,): the units of x and y, and lambda of ``h + lambda * signs(count)``
    usable: Array  # 0-d bool: p and h are finite, and p is not zero
    seen: Array  # 0-d bool: nor is h
    due: Array  # 0-d bool: this pair sets the scale; then lambda is 0, and x and y have a unit each


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
    return LowRankKernels(*cuda_library.compiled("low_rank.cu", tuple(names)))


def take(state: Any, h: Any, p: Any) -> Rows | None:
    """Return what the passes read, None if these arrays are not for them.

    Parameters
    ----------
    state : LowRankState
    h, p : array, shape (n,)
        The product and the probe; None for p stands for d.
    """
    library = cuda_library.library_of(h)
    if library is None:
        return None
    try:
        arrays = state.u, state.v, state.d, h, state.d if p is None else p
        numbers = state.damping, state.pending, state.count
    except AttributeError:  # it is not a state of `init`'s
        return None
    views = [x for x in map(library.view, (*arrays, *numbers)) if x is not None]
    if len(views) != 8 or [len(x.shape) for x in views[:3]] != [2, 2, 1] or views[2].dtype not in _NAMES:
        return None
    (n,), dtype, device = views[2][1:]
    r = views[0].shape[0]
    factor, vector = ((r, n), dtype, device), ((n,), dtype, device)
    expected = [factor, factor, vector, vector, vector, *(((), x, device) for x in (dtype, "bool", "int32"))]
    if [x[1:] for x in views] != expected or n < 1 or not _tile(r, dtype) or not _threads(r, dtype):
        return None
    at = (views[0].pointer, views[1].pointer, views[2].pointer, views[3].pointer, views[4].pointer)
    damping, pending, count = (x.pointer for x in views[5:])
    return Rows(
        library, state.u, state.v, state.d, at, count, damping, pending, r, n, dtype, device,
        (*arrays, *numbers),
    )  # fmt: skip


def counts(rows: Rows, state: Any) -> bool:
    """Return whether an update can work with the rest of the state: `held` and two counters."""
    rest = [(tuple(x.shape), str(x.dtype).removeprefix("torch.")) for x in state[3:]]
    return rest == [((2,), rows.dtype), ((), rows.dtype), ((), "bool"), *[((), "int32")] * 3]


def step_of(rows: Rows, step: Any) -> float | Array | None:
    """Return what `cuda_library.step_of` makes of a step for these rows."""
    return cuda_library.step_of(rows.library, step, rows.dtype, rows.device)


def survey(rows: Rows) -> Survey:
    """Return how h and p are to be read, and whether they are a pair.

    A unit is the largest entry of ``d h`` and ``p / d``, 1 where there is none or one is NaN.
    """
    library, own = rows.library, kernels(rows.dtype)
    with library.within(rows.device):
        work = library.zeros(4, rows.device)
        flags, largest = library.pointer(work), library.pointer(work) + 8
        reading = library.empty((3,), rows.dtype, rows.device)
        found = [library.empty((), "bool", rows.device) for _ in range(3)]
        blocks = cuda_library.grid(rows.n, rows.device, library)
        args = (rows.n, *rows.pointers[2:], rows.count_at, rows.damping_at, flags, largest)
        own.survey((blocks,), (cuda_library.THREADS,), args)
        outs = (library.pointer(x) for x in (reading, *found))
        own.judge((1,), (1,), (flags, largest, rows.damping_at, rows.pending_at, *outs))
    return Survey(reading, *found)


def gram(rows: Rows, reading: Array) -> Array:
    """Return the Gram matrix of the rows, (m, m), in float64.

    Parameters
    ----------
    rows : Rows
    reading : array, shape (3,)
        That of `Survey`.
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
        args = (*numbers, *_pair(rows, reading), library.pointer(parts))
        own.gram((blocks, -(-squares // warps)), (warps * LANES,), args, shared_mem=shared)
        summed = (np.int32(m), np.int32(blocks), library.pointer(parts), library.pointer(out))
        own.gram_sum((-(-m * m // 8),), (8 * LANES,), summed)
    return out


def combine(coefficients: Array, rows: Rows, reading: Array) -> Array:
    """Return ``coefficients @ R``, shape (q, n), for coefficients of shape (q, m)."""
    library, (q, _) = rows.library, coefficients.shape
    with library.within(rows.device):
        out = library.empty((q, rows.n), rows.dtype, rows.device)
        laid, wide = _laid_out(coefficients, rows, 0)
        args = (rows.n, np.int32(rows.r), np.int32(q), library.pointer(laid), np.int32(wide))
        _over_columns(kernels(rows.dtype).combine, rows, (*args, *_pair(rows, reading), library.pointer(out)))
    return out


def extremes(coefficients: Array, rows: Rows, reading: Array) -> Array:
    """Return the largest entries of ``plus = x * (c_0 R)``, ``minus = y * (c_1 R)``, ``plus - minus``; (3,).

    In magnitude, and NaN if there is one. With the coefficients of ``P h / d`` and ``d P^{-1} v``, shape
    (2, m), that is what the sizes of d's move are made of.
    """
    library = rows.library
    with library.within(rows.device):
        work = library.zeros(3, rows.device)  # the bits of three numbers; those of 0 are 0
        laid, wide = _laid_out(coefficients, rows, 0)
        args = (rows.n, np.int32(rows.r), library.pointer(laid), np.int32(wide))
        kernel = kernels(rows.dtype).extremes
        _over_columns(kernel, rows, (*args, *_pair(rows, reading), library.pointer(work)))
        return library.reread(work, rows.dtype)[:3]


def rewrite(
    coefficients: Array,
    rows: Rows,
    reading: Array,
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
    reading : array, shape (3,)
    mu, scale : array
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
        new = rows.u, rows.v, rows.d
        if not inplace:
            u, v = (library.empty((r, rows.n), rows.dtype, rows.device) for _ in range(2))
            new = u, v, library.empty((rows.n,), rows.dtype, rows.device)
        laid, wide = _laid_out(coefficients, rows, r)
        args = (rows.n, np.int32(r), library.pointer(laid), np.int32(wide), *_pair(rows, reading))
        flags = (library.pointer(x) for x in (mu, scale, usable, which, *new))
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
    blocks = cuda_library.grid(m * wide, rows.device, library)
    args = (*sizes, library.pointer(given), library.pointer(out))
    kernels(rows.dtype).arrange((blocks,), (cuda_library.THREADS,), args)
    return out, wide


def _pair(rows: Rows, reading: Array) -> tuple[int, ...]:
    return *rows.pointers, rows.library.pointer(reading), rows.count_at


def _over_columns(kernel: Kernel, rows: Rows, args: tuple[Any, ...]) -> None:
    threads = _threads(rows.r, rows.dtype)
    blocks = cuda_library.grid(rows.n, rows.device, rows.library, threads)
    kernel((blocks,), (threads,), args, shared_mem=rows.m * threads * _itemsize(rows.dtype))


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
