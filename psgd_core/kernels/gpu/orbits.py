"""When an update on a Theorem 3.1 group takes the GPU's kernels, and what they are told.

For CuPy arrays, and for PyTorch tensors on CUDA devices where CuPy is installed. Nothing here looks at
values, so that nothing waits for the device. Where a condition is not met the answer is None, and the caller
goes the ordinary way, with its checks and its messages.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...arrays.library import Array
from ..switch import wanted
from . import cuda_library, orbit_passes
from .cuda_library import Library, View
from .orbit_passes import ITEMSIZE, LARGEST, Size

Layout = tuple[tuple[str, int], ...]

UNGATHERED = {"direct": 1, "shifted": 2}
"""Largest orbits with kernels where no index is read: no group has larger ones, but GL(n) for n below 5."""

COUNTERS = ("damping", "pending", "off_scale", "count", "skipped")
"""The fields that end a state."""


class _Seen(NamedTuple):
    """A state and a pair that kernels can read as they are."""

    v: View
    h: View
    sizes: list[Size]
    held: list[View]
    counters: list[View]
    step: float | Array


def on_gpu(x: Any) -> bool:
    """Return whether an array lies on a device with kernels, and they are not switched off."""
    return type(x) is not np.ndarray and cuda_library.library_of(x) is not None and wanted()


def update(state: Any, layout: Layout, v: Any, h: Any, step: Any, decay: float, inplace: bool) -> Any:
    """Return the state after one update, or None if it is not for kernels.

    The arguments are those of `orbits.update`. A step that is a 0-d array is read on the device.
    """
    library = cuda_library.library_of(v)
    like = None if library is None or not wanted() else library.view(v)
    if library is None or like is None:
        return None
    with library.within(like.device):
        seen = _look(library, state, layout, like, library.view(h), step)
        if seen is None:
            return None
        counters = [library.empty((), x.dtype, like.device) for x in seen.counters]
        blocks, held = list(state.q.blocks), list(state.held)
        if not inplace:
            blocks = [library.empty(x.q.shape, x.q.dtype, x.q.device) for x in seen.sizes]
            held = [library.empty(x.shape, x.dtype, x.device) for x in seen.held]
        new = [library.pointer(x) for x in blocks], [library.pointer(x) for x in held]
        orbit_passes.update(
            library, layout, seen.sizes, seen.held, new, seen.v, seen.h, [x.pointer for x in seen.counters],
            [library.pointer(x) for x in counters], seen.step, decay,
        )  # fmt: skip
        if inplace:
            library.written(*blocks, *held)
    q = state.q._replace(blocks=tuple(blocks))
    return state._replace(q=q, held=tuple(held), **dict(zip(COUNTERS, counters, strict=True)))


def precondition(state: Any, layout: Layout, g: Any) -> Array | None:
    """Return ``Q^T Q g`` for g of shape (n,), or None if it is not for kernels."""
    library = cuda_library.library_of(g)
    seen = None if library is None or not wanted() else library.view(g)
    if library is None or seen is None:
        return None
    with library.within(seen.device):
        sizes = _sizes(library, state, layout, seen, [seen.pointer])
        if sizes is None:
            return None
        out = library.empty(seen.shape, seen.dtype, seen.device)
        orbit_passes.precondition(library, layout, sizes, seen, library.pointer(out))
    return out


def _look(library: Library, state: Any, layout: Layout, v: View, h: View | None, step: Any) -> _Seen | None:
    """Return what kernels have to know, None if it is not for them.

    They do not look where they read and write, so everything they rely on is looked at here.
    """
    held = [x for x in map(library.view, state.held) if x is not None]
    counters = [x for x in (library.view(getattr(state, name)) for name in COUNTERS) if x is not None]
    kinds = (v.dtype, "bool", "int32", "int32", "int32")
    if h is None or h[1:] != v[1:] or [x[1:] for x in counters] != [((), kind, v.device) for kind in kinds]:
        return None
    sizes = _sizes(library, state, layout, v, [v.pointer, h.pointer, *(x.pointer for x in held)])
    if sizes is None or [x[1:] for x in held] != [((x.orbits,), *v[2:]) for x in sizes]:
        return None
    rate = cuda_library.step_of(library, step, v.dtype, v.device)
    return None if rate is None else _Seen(v, h, sizes, held, counters, rate)


def _sizes(
    library: Library, state: Any, layout: Layout, like: View, pointers: list[int]
) -> list[Size] | None:
    """Return the orbits of all sizes for vectors like the one seen; None if kernels do not know them."""
    found = []
    if len(like.shape) != 1 or like.dtype not in ITEMSIZE or len(layout) != len(state.q.blocks):
        return None
    n = like.shape[0]
    for block, (how, start) in zip(state.q.blocks, layout, strict=True):
        q, order = library.view(block), 0
        if how == "gathered":
            index = library.view(state.q.gather[0]) if state.q.gather else None
            fits = index is not None and index[1:] == ((n,), "int64", like.device)
            order = index.pointer if index is not None and fits else 0
        if (
            q is None
            or q[2:] != like[2:]
            or not _fits(how, start, q.shape, n)
            or (how == "gathered") != (order > 0)
        ):
            return None
        s, _, count = q.shape
        wide = orbit_passes.width(how, s, count, start, n, ITEMSIZE[like.dtype], [q.pointer, *pointers])
        found.append(Size(start, count, q, order, wide))
    return found if sum(x.q.shape[0] * x.orbits for x in found) == n else None


def _fits(how: str, start: int, shape: tuple[int, ...], n: int) -> bool:
    """Return whether these are blocks of a size with kernels, and the members of the orbits in (n,)."""
    if len(shape) != 3 or shape[0] != shape[1] or not 1 <= shape[0] <= LARGEST or shape[2] < 1:
        return False
    size, _, count = shape
    if how == "mirrored":
        return size == 2 and start == 0 and 2 * count <= n
    return size <= UNGATHERED.get(how, LARGEST) and start + size * count <= n
