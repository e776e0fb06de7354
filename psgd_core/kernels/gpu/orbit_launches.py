"""One update of a Theorem 3.1 group on a GPU, for orbits of up to four: q, v, h and the bounds in one pass.

The kernels (``cuda/orbits.cu``) do the arithmetic of `cpu.orbit_passes`, and decide on the device what
`cpu.orbit_update` asks the host: whether the pair is usable, whether the automatic scale is due and what it
is, how many orbits stay behind, whether H has jumped. So an update is queued and never waited for. What
cannot be known while writing in place is found out before: a first pass reads v and h.

These kernels have been compiled, and their source has been run by an emulator of blocks and threads on the
host (see the tests); they have not yet run on a GPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ...arrays.library import Array
from ..rules import Jump
from . import cuda_library
from .cuda_library import Kernel, Library, View

LARGEST = 4
"""Largest orbit that fits a thread's registers."""

HEAD = 8
"""Words of 8 bytes that ``Control`` has at the start of the work space."""

PART = 4
"""Words that a block of ``measure`` or ``move`` leaves behind it."""

_NAMES = {"float32": "float", "float64": "double"}
_CAST: dict[str, Any] = {"float32": np.float32, "float64": np.float64}
ITEMSIZE = {"float32": 4, "float64": 8}
_HOW = {"direct": 1, "shifted": 1, "mirrored": 2, "gathered": 3}  # of one orbit, both are start + j


class Size(NamedTuple):
    """The orbits of one size: where they are, and their kernels."""

    size: int
    orbits: int
    how: str
    start: int
    q: View
    order: int  # a pointer, 0 where nothing is gathered
    width: int  # orbits that a thread takes at once

    def where(self, n: int) -> tuple[int, int, int]:
        """Return what all their kernels begin with."""
        return n, self.start, self.orbits

    def blocks(self, device: int, library: Library) -> int:
        """Return the blocks to start."""
        return cuda_library.grid(self.orbits // self.width, device, library)

    def kernels(self, dtype: str) -> OrbitKernels:
        """Return its kernels."""
        return special(dtype, self.size, self.how, self.width)


class OrbitKernels(NamedTuple):
    """Of one size of orbits, layout and width."""

    measure: Kernel
    move: Kernel
    precondition: Kernel


@cache
def general(dtype: str, width: int) -> tuple[Kernel, ...]:
    """Return the kernels inspect, settle and finish."""
    t = _NAMES[dtype]
    return cuda_library.compiled("orbits.cu", (f"inspect<{t}, {width}>", f"settle<{t}>", f"finish<{t}>"))


@cache
def special(dtype: str, size: int, how: str, width: int) -> OrbitKernels:
    """Return the kernels for orbits of a size."""
    key = f"{_NAMES[dtype]}, {size}, {_HOW[how]}"
    names = (
        f"measure<{key}>",
        f"move<{key}, {width}>",
        f"precondition<{key}, {width}>",
    )
    return OrbitKernels(*cuda_library.compiled("orbits.cu", names))


def width(how: str, size: int, count: int, start: int, n: int, itemsize: int, pointers: list[int]) -> int:
    """Return how many neighbouring orbits a thread can take at once: 16 bytes of each row for orbits of one.

    One, where neighbours are not neighbours in memory, or something is not aligned to the wider access.
    """
    wide = 16 // itemsize // size
    aligned = wide > 1 and count % wide == 0 and start % wide == 0 and (how != "mirrored" or n % wide == 0)
    if how == "gathered" or not aligned or any(p % (wide * itemsize) for p in pointers):
        return 1
    return wide


def update(
    library: Library,
    sizes: list[Size],
    held: list[View],
    new: tuple[list[int], list[int]],
    v: View,
    h: View,
    counters: list[int],
    new_counters: list[int],
    step: float | Array,
    decay: float,
    jump: Jump,
) -> None:
    """Queue one update.

    Parameters
    ----------
    library : Library
    sizes : list of Size
    held : list of View
    new : pair of lists of pointers
        To the blocks and to what is held afterwards; they may be those of before.
    v, h : View
    counters, new_counters : lists of pointers
        To damping, pending, off_scale, count and skipped.
    step : float or array
        0-d, of the pair's dtype and on its device; the pair is skipped if it is outside (0, 1).
    decay : float
        That of `Running`, or -1 for `Sample`.
    jump : Jump
    """
    (n,), dtype, device = v.shape, v.dtype, v.device
    wide = 16 // ITEMSIZE[dtype] if not (v.pointer | h.pointer) % 16 else 1
    inspect, settle, finish = general(dtype, wide)
    kernels = [x.kernels(dtype) for x in sizes]
    blocks = [x.blocks(device, library) for x in sizes]
    total = np.int32(sum(blocks))
    work = library.zeros(HEAD + PART * int(total), device)
    control = library.pointer(work)
    first = control + 8 * HEAD
    places = [first + 8 * PART * sum(blocks[:i]) for i in range(len(blocks))]
    damping, pending, *_ = counters

    # is it a pair, is the scale due, and what is it?
    inspect(
        (cuda_library.grid(n // wide, device, library),),
        (cuda_library.THREADS,),
        (n, v.pointer, h.pointer, control),
    )
    for x, kernel, count, at in zip(sizes, kernels, blocks, places, strict=True):
        pair = (v.pointer, h.pointer, x.order, x.q.pointer)
        kernel.measure((count,), (cuda_library.THREADS,), (*x.where(n), *pair, pending, control, at))
    given = (step, step**0.25, 0) if isinstance(step, float) else (0.0, 0.0, library.pointer(step))
    settle((1,), (cuda_library.THREADS,), (total, first, damping, pending, *given, control))
    # one step of each orbit, and then the counters
    for i, (x, kernel, count, at) in enumerate(zip(sizes, kernels, blocks, places, strict=True)):
        before = (v.pointer, h.pointer, x.order, x.q.pointer, held[i].pointer)
        args = (*x.where(n), *before, new[0][i], new[1][i], _CAST[dtype](decay), control, at)
        kernel.move((count,), (cuda_library.THREADS,), args)
    limits = (jump.far, np.int32(jump.shrink), np.int32(jump.grow))
    finish((1,), (cuda_library.THREADS,), (total, first, control, *limits, *counters, *new_counters))


def precondition(library: Library, sizes: list[Size], g: View, out: int) -> None:
    """Queue ``Q^T Q g``, to be written where `out` points to."""
    for x in sizes:
        args = (*x.where(g.shape[0]), g.pointer, x.order, x.q.pointer, out)
        blocks = x.blocks(g.device, library)
        x.kernels(g.dtype).precondition((blocks,), (cuda_library.THREADS,), args)
