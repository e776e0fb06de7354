"""Parameter groups, or blocks, from a module: matrices and kernels one way, vectors another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ...arrays.library import Array, is_array, namespace
from ...preconditioners import Blocks, Diagonal, Kronecker, Preconditioner
from ...preconditioners.base import Verb
from ...preconditioners.counters import Fitted, Given
from .flat import once

Choose = Callable[[tuple[int, ...]], Preconditioner[Any]]
"""Returns the preconditioner for a shape."""


@dataclass(frozen=True, repr=False)
class Affine(Kronecker):
    """`Kronecker` for the matrix ``[W b]`` of a layer whose vector is W and then b, as PyTorch keeps them.

    Parameters
    ----------
    shape : (int, int)
        Of ``[W b]``: outputs, inputs + 1.
    factors
        As for `Kronecker`; an affine map of the features by default, the paper's "affine" preconditioner.
    """

    factors: str | tuple[str, ...] = ("dense", "affine")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) != 2 or self.shape[1] < 2:
            raise ValueError(f"`shape` must be (outputs, inputs + 1), got {self.shape}; it is that of [W b]")

    def _fit(self, state: Any, given: Given) -> Fitted:
        v = None if given.v is None else self._together(given.v)
        return super()._fit(state, given._replace(v=v, h=self._together(given.h)))

    def _act(self, state: Any, x: Array, verb: Verb) -> Array:
        return self._apart(super()._act(state, self._together(x), verb))

    def _precondition(self, state: Any, x: Array) -> Array:
        return self._apart(super()._precondition(state, self._together(x)))

    def _flat(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Return x, for its verbs take vectors and columns only."""
        return x, tuple(x.shape) if is_array(x) else ()

    def _together(self, x: Array) -> Array:
        """Return columns (n, k), W before b, as those of ``[W b]``."""
        (out, wide), k, xp = self.shape, x.shape[1], namespace(x)
        split = out * (wide - 1)
        w, b = xp.reshape(x[:split, :], (out, wide - 1, k)), xp.reshape(x[split:, :], (out, 1, k))
        return xp.reshape(xp.concat((w, b), axis=1), (out * wide, k))

    def _apart(self, x: Array) -> Array:
        """Return columns of ``[W b]`` with W before b."""
        (out, wide), k, xp = self.shape, x.shape[1], namespace(x)
        x = xp.reshape(x, (out, wide, k))
        w, b = xp.reshape(x[:, :-1, :], (out * (wide - 1), k)), xp.reshape(x[:, -1:, :], (out, k))
        return xp.concat((w, b), axis=0)


def groups_of(
    module: torch.nn.Module,
    matrices: Choose = Kronecker,
    vectors: Choose = lambda shape: Diagonal(),
    *,
    affine: Choose | None = None,
) -> list[dict[str, Any]]:
    """Return a parameter group for each parameter of a module, with its preconditioner and its name.

    Each group has a scale and a limit of its own, and any setting may be added to it; `global_clip` limits
    all of them together::

        optimizer = PSGD(groups_of(model, affine=Affine), lr=0.05, clip=None, global_clip=10.0)

    Parameters
    ----------
    module : torch.nn.Module
        Frozen parameters are left out, and tied ones count once.
    matrices : callable
        ``matrices(shape)`` returns the preconditioner of a parameter of two dimensions or more, as a matrix:
        a convolution's kernel (out, in, height, width) has shape (out, in height width). `Kronecker` by
        default.
    vectors : callable
        ``vectors(shape)`` returns that of any other, of shape (n,). `Diagonal` by default.
    affine : callable, optional
        ``affine(shape)`` returns that of the matrix ``[W b]``, of shape (out, in + 1), for layers with a
        ``weight`` and a ``bias``, which form one group then: `Affine`, or a function that returns one.

    Raises
    ------
    TypeError, ValueError
        If there is no parameter to train, one has no shape yet, or a function returns no preconditioner.
    """
    return [
        {"params": list(part.items), "preconditioner": part.preconditioner}
        for part in _parts(module, matrices, vectors, affine)
    ]


def blocks_of(
    module: torch.nn.Module,
    matrices: Choose = Kronecker,
    vectors: Choose = lambda shape: Diagonal(),
    *,
    affine: Choose | None = None,
) -> Blocks:
    """Return the preconditioners of `groups_of` as `Blocks`: for one group, with one limit and one momentum.

    ::

        optimizer = PSGD(model.named_parameters(), blocks_of(model), lr=0.05)

    They are for the parameters that are not frozen, in the order of the module; the arguments are those of
    `groups_of`.
    """
    parts = _parts(module, matrices, vectors, affine)
    if any(len(part.items) > 1 for part in parts):  # one block of two arrays: they have no order but this
        return Blocks(tuple((part.n, part.preconditioner) for part in parts))
    rest = iter(parts)
    return Blocks.of([item for part in parts for item in part.items], lambda _: next(rest).preconditioner)


class _Part(NamedTuple):
    """Parameters that share a preconditioner."""

    items: tuple[tuple[str, Tensor], ...]
    preconditioner: Preconditioner[Any]

    @property
    def n(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for _, p in self.items)


def _parts(module: torch.nn.Module, matrices: Choose, vectors: Choose, affine: Choose | None) -> list[_Part]:
    """Return what a module's parameters are preconditioned by, in its order."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module, got {type(module).__name__}; give the model")
    items = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    for name, p in items:
        if is_lazy(p):
            raise ValueError(f"`module` must have shapes, got lazy {name!r}; run the model once before")
    rest = [(name, p) for name, p in once(items) if p.numel() > 0]
    if not rest:
        raise ValueError("`module` must have parameters that require a gradient, got none; set requires_grad")
    found = []
    while rest:
        name, p = rest.pop(0)
        rows = p.shape[0] if p.ndim else 1
        columns = math.prod(p.shape[1:])
        if affine is not None and rest and _is_bias(module, rest[0], name, p):
            found.append(_part("affine", affine, (rows, columns + 1), (name, p), rest.pop(0)))
        elif p.ndim > 1:
            found.append(_part("matrices", matrices, (rows, columns), (name, p)))
        else:
            found.append(_part("vectors", vectors, (rows,), (name, p)))
    return found


def _part(argument: str, choose: Choose, shape: tuple[int, ...], *items: tuple[str, Tensor]) -> _Part:
    chosen = choose(shape)
    if not isinstance(chosen, Preconditioner):
        raise TypeError(
            f"`{argument}` must return a Preconditioner, got {chosen!r} for {items[0][0]!r} as {shape}; try "
            "psgd_core.Kronecker"
        )
    return _Part(items, chosen)


def _is_bias(module: torch.nn.Module, item: tuple[str, Tensor], name: str, weight: Tensor) -> bool:
    """Return whether a parameter is the bias of a layer's weight, one for each of its rows."""
    layer, _, last = name.rpartition(".")
    there, _, other = item[0].rpartition(".")
    if (layer, last, other) != (there, "weight", "bias") or weight.ndim < 2:
        return False
    across = getattr(module.get_submodule(layer), "transposed", False)  # its rows are its inputs
    return not across and tuple(item[1].shape) == (weight.shape[0],)
