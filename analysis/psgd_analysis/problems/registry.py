"""The problems by name, for command lines and loops over all of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from ..arrays import Array
from . import coupled, quadratics, softmax, tensors, valleys
from .base import Problem
from .classics import TABLE, more_garbow_hillstrom


class Entry(NamedTuple):
    """How to make a problem, and one line about it."""

    make: Callable[..., Problem]
    description: str


_REGISTRY: dict[str, Entry] = {
    "quadratic": Entry(
        quadratics.quadratic,
        "convex quadratic with a prescribed spectrum, exact or with gradient and Hvp noise",
    ),
    "hilbert": Entry(quadratics.hilbert, "quadratic of the Hilbert matrix, condition number about e^(3.5 n)"),
    "rosenbrock": Entry(
        valleys.rosenbrock, "Rosenbrock (1), chained over n variables as scipy.optimize.rosen"
    ),
    "rosenbrock_pairs": Entry(valleys.rosenbrock_pairs, "extended Rosenbrock (21): n/2 uncoupled pairs"),
    **{
        name: Entry(functools.partial(more_garbow_hillstrom, name), standard.description)
        for name, standard in TABLE.items()
    },
    "penalty_1": Entry(coupled.penalty_1, "Penalty I (23): a thin shell with a tiny pull along it"),
    "variably_dimensioned": Entry(
        coupled.variably_dimensioned, "Variably dimensioned (25): one stiff direction, quartic"
    ),
    "trigonometric": Entry(coupled.trigonometric, "Trigonometric (26): several minima"),
    "broyden_tridiagonal": Entry(coupled.broyden_tridiagonal, "Broyden tridiagonal (30): banded equations"),
    "digits": Entry(softmax.digits, "logistic regression on scikit-learn's 8 x 8 digits"),
    "mnist": Entry(softmax.mnist, "logistic regression on MNIST, from IDX files given as images=, labels="),
    "tensor_rank": Entry(tensors.tensor_rank, "rank decomposition of a random tensor of order three"),
}


def names() -> list[str]:
    """Return the names that `get` knows."""
    return list(_REGISTRY)


def describe() -> dict[str, str]:
    """Return one line on each problem, by name."""
    return {name: entry.description for name, entry in _REGISTRY.items()}


def options(name: str) -> dict[str, Any]:
    """Return the options of a problem with their defaults (`inspect.Parameter.empty` if there is none)."""
    parameters = inspect.signature(_entry(name).make).parameters
    return {key: value.default for key, value in parameters.items() if key != "like"}


def get(name: str, *, like: Array | None = None, **chosen: Any) -> Problem:
    """Make a problem.

    Parameters
    ----------
    name : str
        One of `names`.
    like : array, optional
        Library, dtype and device of the problem's data and starting point; NumPy float64 without it.
    **chosen
        Options of that problem, see `options`.

    Raises
    ------
    ValueError
        For an unknown name or option, a missing option, or a value that the problem refuses.
    """
    make, known = _entry(name).make, options(name)
    unknown = [key for key in chosen if key not in known]
    if unknown:
        raise ValueError(f"{name!r} has no option `{unknown[0]}`; it has {', '.join(known)}")
    missing = [key for key, value in known.items() if value is inspect.Parameter.empty and key not in chosen]
    if missing:
        raise ValueError(
            f"{name!r} needs the option{'s'[: len(missing) > 1]} {', '.join(missing)}; give them"
        )
    return make(like=like, **chosen)


def _entry(name: str) -> Entry:
    if name not in _REGISTRY:
        raise ValueError(f"`name` must be one of {', '.join(_REGISTRY)}, got {name!r}; choose one of these")
    return _REGISTRY[name]
