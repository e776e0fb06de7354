"""How far training moved the parameters: the distance from initialisation of table 11."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import array_api_compat

from psgd_core.display import html_table

from ..arrays import Array, detached, namespace
from ..documents import plain
from ..tables import short
from . import charts

_BLOCK = 1 << 20
"""Elements widened and squared together."""

_ROW = 256
"""Elements that a plain sum adds accurately where float32 is the widest float."""


@dataclass(frozen=True, repr=False)
class Distance:
    """Euclidean distance between two sets of parameters. Made by `distance_from_initialization`."""

    total: float
    """``||θ - θ_0||_2`` over all parameters, in their own units."""
    initial_norm: float
    """``||θ_0||_2``."""
    size: int
    """Number of parameters."""
    leaves: tuple[tuple[str, float], ...]
    """Path in the tree and distance of each array; the squares add up to that of `total`."""

    @property
    def relative(self) -> float:
        """``||θ - θ_0|| / ||θ_0||``; Inf from an initialisation at 0, NaN if nothing moved there."""
        if self.initial_norm:
            return self.total / self.initial_norm
        return math.inf if self.total else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Return the distance in types that JSON has."""
        return {
            "total": plain(self.total),
            "relative": plain(self.relative),
            "initial_norm": plain(self.initial_norm),
            "size": self.size,
            "leaves": plain(dict(self.leaves)),
        }

    def plot(self, ax: Any = None) -> Any:
        """Draw the distance of every array of the tree."""
        return charts.distance_bars(self, ax)

    def __repr__(self) -> str:
        return (
            f"Distance({short(self.total, 4)}, {short(self.relative)} of the initial norm, "
            f"{self.size} parameters in {len(self.leaves)} arrays)"
        )

    def _repr_html_(self) -> str:
        rows = [(path or "parameters", short(x, 4)) for path, x in self.leaves]
        rows.append(("all", short(self.total, 4)))
        caption = f"Distance from initialisation, {short(self.relative)} of the initial norm"
        return html_table(caption, ("array", "distance"), rows)


def distance_from_initialization(params: Any, initial: Any) -> Distance:
    """Return ``||θ - θ_0||_2``, over all parameters and array by array.

    Sums are taken in float64 where the library has it, scaled so that nothing overflows, block by block
    on the arrays' device; a float per block comes to the host.

    Parameters
    ----------
    params, initial : array, or mapping, list, tuple or NamedTuple of such, nested at will
        The same tree of floating-point arrays twice; ``dict(module.named_parameters())`` is one, as is a JAX
        pytree made of these containers. None stands for no parameters. Leave out buffers
        that are not trained: `state_dict()` includes those of batch normalisation.

    Returns
    -------
    Distance
        NaN where a parameter is NaN.

    Raises
    ------
    ValueError, TypeError
        If the trees or shapes differ, or a leaf is not a floating-point array.
    """
    ours, theirs = dict(_leaves(params, "")), dict(_leaves(initial, ""))
    if ours.keys() != theirs.keys():
        path = sorted(ours.keys() ^ theirs.keys())[0]
        raise ValueError(
            f"`params` and `initial` must be the same tree, got {path!r} in only one of them; "
            "keep a copy of all parameters before training"
        )
    if not ours:
        raise ValueError("`params` must hold at least one array, got an empty tree; give the parameters")
    # leaf by leaf: check, then add up
    leaves, norms, size = [], [], 0
    for path, x in ours.items():
        x0, shown = theirs[path], path or "params"
        xp = namespace(**{shown: x, f"initial {shown}": x0})
        if tuple(x.shape) != tuple(x0.shape):
            raise ValueError(
                f"`initial` must have the shapes of `params`, got {tuple(x0.shape)} for {tuple(x.shape)} "
                f"at {shown!r}; keep a copy of all parameters before training"
            )
        for leaf in (x, x0):
            if not xp.isdtype(leaf.dtype, "real floating"):
                raise TypeError(
                    f"`params` must hold real floating-point arrays, got {leaf.dtype} at {shown!r}; "
                    "leave out what is not trained"
                )
        flat, flat0 = (xp.reshape(detached(leaf), (-1,)) for leaf in (x, x0))
        leaves.append((path, _norm(xp, flat, flat0)))
        norms.append(_norm(xp, flat0, None))
        size += flat.shape[0]
    total = math.hypot(*(d for _, d in leaves))
    return Distance(total, math.hypot(*norms), size, tuple(leaves))


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Array]]:
    """Yield path and array of every leaf, in the order of the containers."""
    if tree is None:
        return
    items: Any
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, tuple) and hasattr(tree, "_fields"):
        items = zip(tree._fields, tree, strict=True)
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        yield path, tree
        return
    for key, child in items:
        yield from _leaves(child, f"{path}.{key}" if path else str(key))


def _norm(xp: ModuleType, x: Array, y: Array | None) -> float:
    """Return ``||x - y||`` (y None: ``||x||``) of flat arrays, without overflow, as a float."""
    wide = xp.zeros(0).dtype if array_api_compat.is_jax_namespace(xp) else xp.float64
    norms = []
    for start in range(0, x.shape[0], _BLOCK):
        stop = min(start + _BLOCK, x.shape[0])
        d = xp.astype(x[start:stop], wide)
        if y is not None:
            d = d - xp.astype(y[start:stop], wide)
        top = float(xp.max(xp.abs(d)))
        if top == 0 or not math.isfinite(top):
            norms.append(top)
            continue
        norms.append(top * math.sqrt(_sum(xp, (d / top) ** 2)))
    return math.hypot(*norms)


def _sum(xp: ModuleType, x: Array) -> float:
    """Return the sum in levels of rows: a plain one in float32 loses digits over many terms."""
    while x.shape[0] > _ROW:
        cut = x.shape[0] // _ROW * _ROW
        x = xp.concat([xp.sum(xp.reshape(x[:cut], (-1, _ROW)), axis=1), x[cut:]])
    return float(xp.sum(x))
