"""Data in batches: sums over all of them, in their order, each time anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import array_api_compat

from ..arrays import Array
from ..checks import require_choice

Reduction = Literal["mean", "sum"]
"""How a loss comes from the examples of a batch, and so how batches make the whole."""


class Batches:
    """Batches that can be gone through again and again.

    Parameters
    ----------
    data : iterable
        Of batches: a list, a DataLoader. Not an iterator, which ends after one pass.
    reduction : {"mean", "sum"}
        Weights under "mean" are the shares of the examples, so that batches may differ in size.
    """

    def __init__(self, data: Iterable[Any], reduction: Reduction) -> None:
        require_choice("reduction", reduction, ("mean", "sum"))
        _require_again("data", data)
        self._data, self.mean = data, reduction == "mean"
        self.count, self._seen = 0, 0

    def sum(self, term: Callable[[Any, int], Array]) -> Array:
        """Return the sum of ``term(batch, number)``, or under "mean" the mean weighted by examples.

        Raises
        ------
        ValueError
            If there are no batches, or not as many as the last time.
        """
        total: Array | None = None
        examples, count = 0, 0
        for batch in self._data:
            size = examples_of(batch) if self.mean else 1
            part = term(batch, count)
            part = size * part if self.mean else part
            total = part if total is None else total + part
            examples, count = examples + size, count + 1
        if total is None:
            raise ValueError("`data` must hold a batch, got none; give a list of batches or a DataLoader")
        if self.count and self._seen != examples:
            unit = "examples" if self.mean else "batches"
            raise ValueError(
                f"`data` must be the same in every pass, got {examples} {unit} after {self._seen}; give a "
                "list of batches, or a DataLoader over a dataset that stays"
            )
        self.count, self._seen = count, examples
        return total / examples if self.mean else total


def _require_again(name: str, data: Any) -> None:
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | Mapping):
        raise TypeError(
            f"`{name}` must be an iterable of batches, got {type(data).__name__}; put it in a list"
        )
    if isinstance(data, Iterator):
        raise TypeError(
            f"`{name}` must be an iterable that starts anew for every product, got {type(data).__name__}, an "
            "iterator, which ends after one pass; give the DataLoader itself, or a list of the batches"
        )
    if array_api_compat.is_array_api_obj(data) or (
        isinstance(data, tuple) and all(map(array_api_compat.is_array_api_obj, data))
    ):
        raise TypeError(
            f"`{name}` must be an iterable of batches, got the arrays of one; put it in a list, [(x, y)]"
        )


def examples_of(batch: Any) -> int:
    """Return the length of the first array of a batch."""
    first = _first(batch)
    if first is None or first.ndim == 0:
        raise TypeError(
            f"`data` must hold batches of arrays with an example in each row, got {type(batch).__name__}; or "
            "say reduction='sum' for a loss that is a sum"
        )
    return int(first.shape[0])


def _first(batch: Any) -> Any:
    """Return the first array of nested lists, tuples and dicts; None without one."""
    if array_api_compat.is_array_api_obj(batch):
        return batch
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if not isinstance(batch, list | tuple):
        return None
    return next((x for x in map(_first, batch) if x is not None), None)


def arguments(batch: Any) -> tuple[Any, ...]:
    """Return a batch as the arguments of a loss: the members of a tuple or list, or it alone."""
    return tuple(batch) if isinstance(batch, tuple | list) else (batch,)


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """Return the two members of a batch."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(
            f"`data` must hold batches of two, (inputs, targets), got {type(batch).__name__}"
            f"{f' of {len(batch)}' if isinstance(batch, tuple | list) else ''}; put what belongs together in "
            "a tuple or a dict"
        )
    return batch[0], batch[1]
