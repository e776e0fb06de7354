"""Parameters as a vector, whether they are whole or sharded."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .flat import Flat, is_sharded


def flat_of(params: Sequence[Tensor]) -> Flat:
    """Return parameters as a vector: of those that are sharded, what is here."""
    if not any(map(is_sharded, params)):
        return Flat(params)
    from .sharded import ShardedFlat  # imports torch.distributed

    return ShardedFlat(params)
