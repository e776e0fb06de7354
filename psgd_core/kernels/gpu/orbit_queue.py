"""An update on a Theorem 3.1 group by the GPU's kernels, and ``P g``: what they read, and what they are told.

For CuPy arrays, and for PyTorch tensors on CUDA devices where CuPy is installed. Nothing here looks at
values, so nothing waits for the device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...arrays.library import Array
from ..rules import OrbitRule
from . import cuda_library, orbit_launches
from .cuda_library import Library, View
from .orbit_launches import ITEMSIZE, LARGEST, Size

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


def update(rule: OrbitRule, state: Any, v: Any, h: Any, step: Any, inplace: bool) -> Any:
    """Return the state after one update, or None if it is not for kernels: see `dispatch`.

    A step that is a 0-d array is read on the device.
    """
    library = cuda_library.library_of(h)
    like = None if library is None else library.view(h)
    if library is None or like is None or rule.decay is None or not rule.exact_damping:
        return None
    with library.within(like.device):
        seen = _look(library, rule, state, library.view(v), like, step)
        if seen is None:
            return None
        counters = [library.empty((), x.dtype, like.device) for x in seen.counters]
        blocks, held = list(state.q.blocks), list(state.held)
        if not inplace:
            blocks = [library.empty(x.q.shape, x.q.dtype, x.q.device) for x in seen.sizes]
            held = [library.empty(x.shape, x.dtype, x.device) for x in seen.held]
        new = [library.pointer(x) for x in blocks], [library.pointer(x) for x in held]
        orbit_launches.update(
            library, seen.sizes, seen.held, new, seen.v, seen.h, [x.pointer for x in seen.counters],
            [library.pointer(x) for x in counters], seen.step, rule.decay, rule.jump,
        )  # fmt: skip
        if inplace:
            library.written(*blocks, *held)
    q = state.q._replace(blocks=tuple(blocks))
    return state._replace(q=q, held=tuple(held), **dict(zip(COUNTERS, counters, strict=True)))


def precondition(rule: OrbitRule, state: Any, g: Any) -> Array | None:
    """Return ``Q^T Q g`` for g of shape (n,), or None if it is not for kernels: see `dispatch`."""
    library = cuda_library.library_of(g)
    seen = None if library is None else library.view(g)
    if library is None or seen is None:
        return None
    with library.within(seen.device):
        sizes = _sizes(library, rule, state, seen, [seen.pointer])
        if sizes is None:
            return None
        out = library.empty(seen.shape, seen.dtype, seen.device)
        orbit_launches.precondition(library, sizes, seen, library.pointer(out))
    return out


def _look(library: Library, rule: OrbitRule, state: Any, v: View | None, h: View, step: Any) -> _Seen | None:
    """Return what kernels have to know, None if it is not for them.

    They do not look where they read and write, so everything that they rely on is looked at here.
    """
    try:
        held = [x for x in map(library.view, state.held) if x is not None]
        counters = [x for x in (library.view(getattr(state, name)) for name in COUNTERS) if x is not None]
    except (AttributeError, TypeError):  # it is not a state of `init`'s
        return None
    kinds = (h.dtype, "bool", "int32", "int32", "int32")
    if v is None or v[1:] != h[1:] or [x[1:] for x in counters] != [((), kind, h.device) for kind in kinds]:
        return None
    sizes = _sizes(library, rule, state, h, [v.pointer, h.pointer, *(x.pointer for x in held)])
    if sizes is None or [x[1:] for x in held] != [((x.orbits,), *h[2:]) for x in sizes]:
        return None
    rate = cuda_library.step_of(library, step, h.dtype, h.device)
    return None if rate is None else _Seen(v, h, sizes, held, counters, rate)


def _sizes(
    library: Library, rule: OrbitRule, state: Any, like: View, pointers: list[int]
) -> list[Size] | None:
    """Return the orbits of all sizes for vectors like the one seen; None if kernels do not know them."""
    if len(like.shape) != 1 or like.dtype not in ITEMSIZE:
        return None
    (n,) = like.shape
    try:
        layout, (blocks, gather) = rule.layout(n), state.q
        views, index = [library.view(x) for x in blocks], library.view(gather[0]) if gather else None
    except (
        AttributeError,
        IndexError,
        TypeError,
        ValueError,
    ):  # no group for this n, or not a state of `init`'s
        return None
    known = not gather or (index is not None and index[1:] == ((n,), "int64", like.device))
    if not layout or len(layout) != len(views) or not known:
        return None
    found = []
    for q, (s, count, how, start) in zip(views, layout, strict=True):
        if q is None or q[1:] != ((s, s, count), *like[2:]) or not _fits(s, count, how, start, n):
            return None
        order = index.pointer if index is not None and how == "gathered" else 0
        if (how == "gathered") != (order > 0):
            return None
        wide = orbit_launches.width(how, s, count, start, n, ITEMSIZE[like.dtype], [q.pointer, *pointers])
        found.append(Size(s, count, how, start, q, order, wide))
    return found if sum(x.size * x.orbits for x in found) == n else None


def _fits(size: int, count: int, how: str, start: int, n: int) -> bool:
    """Return whether orbits of a size have kernels, and their members are in (n,)."""
    if not 1 <= size <= LARGEST or count < 1:
        return False
    if how == "mirrored":
        return size == 2 and start == 0 and 2 * count <= n
    return size <= UNGATHERED.get(how, LARGEST) and start + size * count <= n
