"""A preconditioner by its name or class, "dense" or ``Dense``, made for the arrays that it meets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from ..arrays.arguments import described
from ..arrays.trees import Leaf
from .base import Preconditioner
from .blocks import Blocks, by_shape
from .closed_form import ClosedForm
from .kronecker import Kronecker
from .low_rank import LowRank
from .sparse import Butterfly, Dense, Diagonal, Sparse, XMat

CLASSES: tuple[type[Preconditioner[Any]], ...] = (
    *(Dense, Diagonal, XMat, Butterfly, Sparse, LowRank, Kronecker, Blocks, ClosedForm),
)
"""Those that have a name: that of the class, whatever its case, with or without "-" and "_"."""


def is_name(given: Any) -> bool:
    """Return whether it is a text, or the class of a preconditioner, which stands for an instance."""
    return isinstance(given, str) or (isinstance(given, type) and issubclass(given, Preconditioner))


def named(
    given: Any, leaves: Sequence[Leaf] | None = None, argument: str = "preconditioner"
) -> Preconditioner[Any]:
    """Return a preconditioner as it is, or, of a name or class, an instance with default settings.

    `LowRank` gets rank 10, or the largest that fits. `Kronecker` gets the shape of the array; of several
    arrays, and with `Blocks`, matrices are `Kronecker` and vectors `Diagonal`.

    Parameters
    ----------
    given : Preconditioner, text, or class
    leaves : sequence of Leaf, optional
        The arrays it is for, if they are known.
    argument : str
        What messages call it.

    Raises
    ------
    TypeError, ValueError
        If it is something else, an unknown name, or a class that needs more than the arrays.
    """
    if isinstance(given, Preconditioner):
        return given
    if not is_name(given):
        raise TypeError(
            f"`{argument}` must be a Preconditioner, got {described(given)}; make one, such as "
            "psgd_core.Dense(), or give its name, such as 'dense'"
        )
    kind: Any = _class_of(given, argument) if isinstance(given, str) else given
    there = [leaf for leaf in leaves or () if math.prod(leaf.shape) > 0]
    if kind is LowRank and there:
        return LowRank(max(0, min(LowRank().rank, sum(math.prod(leaf.shape) for leaf in there) - 1)))
    if kind is Kronecker and len(there) == 1:
        return Kronecker(there[0].shape)
    if kind in (Kronecker, Blocks) and there:
        return Blocks(tuple((math.prod(leaf.shape), by_shape(leaf.shape)) for leaf in there), tuple(there))
    needed = [
        f.name for f in fields(kind) if f.init and f.default is MISSING and f.default_factory is MISSING
    ]
    if needed:
        raise TypeError(
            f"`{argument}` must be an instance where more than the class must be known, got {kind.__name__} "
            f"without {' and '.join(needed)}; make one: {kind.__name__}({', '.join(needed)})"
        )
    made: Preconditioner[Any] = kind()
    return made


def _class_of(name: str, argument: str) -> type[Preconditioner[Any]]:
    """Return the class that a text names."""
    known = {kind.__name__.lower(): kind for kind in CLASSES}
    found = known.get(name.lower().replace("_", "").replace("-", "").replace(" ", ""))
    if found is None:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(map(repr, known))}, or an instance such as "
            f"psgd_core.Dense(), got {name!r}"
        )
    return found
