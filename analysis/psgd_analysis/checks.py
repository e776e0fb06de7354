"""Checks of arguments that several studies share, each with a one-sentence error."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np


def require_count(name: str, count: Any, least: int = 1, most: int | None = None) -> int:
    """Return `count` as an int, or raise ValueError unless it is one from `least` to `most`."""
    inside = isinstance(count, int | np.integer) and not isinstance(count, bool) and count >= least
    if not inside or (most is not None and count > most):
        rule = f"of at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"`{name}` must be an integer {rule}, got {count!r}; choose one")
    return int(count)


def require_choice(name: str, choice: Any, choices: Collection[str]) -> None:
    """Raise ValueError unless `choice` is among the texts `choices`."""
    if choice not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {choice!r}; choose one of these")


def require_rng(rng: Any) -> np.random.Generator:
    """Return `rng`, or raise TypeError unless it is a numpy.random.Generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"`rng` must be a numpy.random.Generator, got {type(rng).__name__}; "
            "make one with numpy.random.default_rng(seed)"
        )
    return rng
