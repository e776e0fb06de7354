"""Warnings of parameters that no gradient reaches: optimisers leave them alone, which is seldom intended."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .names import names

_SHOWN = 8


def tell(groups: Sequence[dict[str, Any]], grads: Sequence[Tensor | None], told: set[int]) -> set[int]:
    """Warn of parameters without a gradient, by name, unless they are frozen or were checked before.

    Warn too of a loss that no longer depends on any of them, as when a model's parameters were replaced.

    Parameters
    ----------
    groups : sequence of dicts
        The optimiser's.
    grads : sequence of tensors or None
        Of all their parameters, in order.
    told : set of int
        Parameters, by id, that were checked before.

    Returns
    -------
    set of int
        Those checked by now.
    """
    params = [p for group in groups for p in group["params"]]
    trained = [(p, g) for p, g in zip(params, grads, strict=True) if p.requires_grad and p.numel()]
    asked = [(p, g) for p, g in trained if id(p) not in told]
    silent = {id(p) for p, g in asked if g is None}
    if trained and not asked and all(g is None for _, g in trained):
        warnings.warn(
            f"No gradient reaches any of {len(trained)} parameters any more, and the step changes nothing; "
            "if they were replaced in the model (`load_state_dict(..., assign=True)`, another layer), make "
            "a new optimiser from its present parameters",
            stacklevel=6,
        )
    if silent:
        called = [name for p, name in names(groups) if id(p) in silent]
        shown = ", ".join([*called[:_SHOWN], *(["..."] if len(called) > _SHOWN else [])])
        warnings.warn(
            f"No gradient reaches {len(called)} of {len(params)} parameters: {shown}; they count "
            "as constant, which is right only if the loss is not supposed to depend on them",
            stacklevel=6,
        )
    return told | {id(p) for p, _ in asked}
