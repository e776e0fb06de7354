"""What messages call a parameter: its name wherever one is known, its place and shape elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

_groups: ContextVar[Sequence[dict[str, Any]]] = ContextVar("groups", default=())


@contextlib.contextmanager
def naming(groups: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Call parameters by their names in these groups, the optimiser's, within a ``with`` block."""
    token = _groups.set(groups)
    try:
        yield
    finally:
        _groups.reset(token)


def called(p: Tensor) -> str:
    """Return what to call a parameter."""
    known = (name for q, name in names(_groups.get()) if q is p)
    return next(known, f"one of shape {_shape(p)}")


def names(groups: Sequence[dict[str, Any]]) -> list[tuple[Tensor, str]]:
    """Return each parameter and what to call it."""
    found = []
    for i, group in enumerate(groups):
        given = group.get("param_names")
        for j, p in enumerate(group["params"]):
            found.append((p, f"`{given[j]}`" if given else f"number {j} of group {i}, {_shape(p)}"))
    return found


def _shape(p: Tensor) -> str:
    return "lazy" if is_lazy(p) else str(tuple(p.shape))
