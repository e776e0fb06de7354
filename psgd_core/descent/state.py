"""What `PSGD` holds from one step to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arrays.brief import brief
from ..arrays.library import Array
from ..arrays.trees import Tree


@brief
class PSGDState(NamedTuple):
    """State of `PSGD`: a nested NamedTuple of arrays, all of the library, dtype and device of x."""

    preconditioner: Any  # the preconditioner's state
    momentum: Tree  # (n,) m, or () without momentum
    clip: Any  # the clip's memory
    source: Any  # the source's memory
    value: Array  # 0-d: the function where the last step started, NaN if not known
    count: Array  # type: ignore[assignment]  # 0-d int32: steps done
    skipped: Array  # 0-d int32: steps left out (NaN or Inf in value or gradient)
    ring: Any = ()  # the last pairs, or () without replay
