"""Probes and pairs for all groups together: a probe spans them all, each group takes its part."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...curvature import Exact, Functions, Probes, Source, Whitening
from .autograd import Found, Grads, Looked, evaluate, given
from .flat import SMALL, Flat
from .undo import Before, Gradients

Vectors = list[Tensor]
"""A vector (n,), or columns (n, k), for each group."""


def draw(probes: Probes, generator: torch.Generator, flats: Sequence[Flat]) -> Vectors:
    """Return probes for each group, as the dtypes of its parameters can hold them."""
    found = []
    for flat in flats:
        like = torch.empty(1, dtype=flat.dtype, device=generator.device).expand(flat.n)
        found.append(flat.rounded(probes.draw(generator, like).to(flat.device)))
    return found


def handed_in(name: str, value: Any, flats: Sequence[Flat]) -> Vectors:
    """Return what a user hands in for all groups: tensors like the parameters, or one vector (n,) or (n, k).

    Raises
    ------
    ValueError
        If the shapes are others.
    """
    params = [p for flat in flats for p in flat.params]
    n = sum(flat.n for flat in flats)
    if isinstance(value, list | tuple):
        shapes = [tuple(t.shape) for t in value if t is not None]
        if len(value) != len(params) or any(
            t is not None and t.shape != p.shape for t, p in zip(value, params, strict=True)
        ):
            raise ValueError(
                f"`{name}` must hold a tensor (or None) in the shape of each of {len(params)} parameters, "
                f"got shapes {shapes}; give them in the order of the groups"
            )
        return [flat.vector(part) for flat, part in zip(flats, by_group(value, flats), strict=True)]
    tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    if tensor.ndim not in (1, 2) or tensor.shape[0] != n:
        raise ValueError(
            f"`{name}` must have shape ({n},) or ({n}, k), or be a list of tensors like the parameters, got "
            f"{tuple(tensor.shape)}; flatten it in the order of the groups"
        )
    parts = torch.split(tensor, [flat.n for flat in flats])
    return [part.to(dtype=flat.dtype, device=flat.device) for part, flat in zip(parts, flats, strict=True)]


def by_group(items: Sequence[Any], flats: Sequence[Flat]) -> list[list[Any]]:
    """Return what is listed by parameter as a list for each group."""
    found, start = [], 0
    for flat in flats:
        found.append(list(items[start : start + len(flat.params)]))
        start += len(flat.params)
    return found


def columns(vectors: Vectors, flats: Sequence[Flat]) -> list[list[Tensor]]:
    """Return, for each probe, tensors in the shapes and dtypes of the parameters."""
    rows = [[v] if v.ndim == 1 else list(v.unbind(1)) for v in vectors]
    return [
        [part for flat, column in zip(flats, probe, strict=True) for part in flat.parts(column)]
        for probe in zip(*rows, strict=True)
    ]


def products(found: Sequence[Grads], flats: Sequence[Flat], like: Vectors) -> Vectors:
    """Return the products with each probe as vectors, in the shapes of the probes."""
    listed = [by_group(product, flats) for product in found]
    result = []
    for i, (flat, v) in enumerate(zip(flats, like, strict=True)):
        h = [flat.vector(product[i]) for product in listed]
        result.append(h[0] if v.ndim == 1 else torch.stack(h, dim=1))
    return result


def difference(
    source: Source,
    gradient: Callable[[], Tensor],
    flats: Sequence[Flat],
    x: Vectors,
    g: Vectors,
    v: Vectors,
    before: Before,
) -> tuple[Vectors, Vectors]:
    """Return (v, h) from gradients at displaced parameters, which are put back bit for bit, as is ``.grad``.

    Parameters
    ----------
    gradient : callable
        Evaluates the gradient, for all groups as one vector, where the parameters are.
    x, g, v : vectors
    before : Before
        What the gradient g was evaluated from, besides x; so are the others.

    Raises
    ------
    ValueError
        If parameters are of several dtypes or devices, or of 16 bits.
    """
    params = [p for flat in flats for p in flat.params]
    kinds = sorted({f"{p.dtype} on {p.device}" for p in params})
    if len(kinds) > 1 or params[0].dtype in SMALL:
        raise ValueError(
            "`curvature` must be 'hvp' or 'whitening' unless all parameters are float32, or all float64, on "
            f"one device, got 'finite_difference' for {', '.join(kinds)}; 16 bits resolve no difference"
        )
    sizes, after = [flat.n for flat in flats], Gradients(params)

    def displaced(point: Tensor) -> Tensor:
        for flat, part in zip(flats, torch.split(point, sizes), strict=True):
            flat.write(part)
        before.restore()
        return gradient()

    here = torch.cat(g)  # a copy, before .grad is written to
    try:
        pair = source.pairs(Functions(gradient=displaced), torch.cat(x), here, torch.cat(v))
    finally:
        for flat, part in zip(flats, x, strict=True):
            flat.write(part)
    after.restore()
    probe, product = pair
    assert probe is not None  # of a difference
    return list(torch.split(probe, sizes)), list(torch.split(product, sizes))


class Asker:
    """What asks a loss for its gradient and pairs.

    Parameters
    ----------
    source : Exact, Forward, Central or Whitening
    process_group : ProcessGroup or None
        What is taken here is averaged over it.
    """

    def __init__(self, source: Source, process_group: Any) -> None:
        self.source, self.process_group = source, process_group
        self.looked: Looked = set()

    def ask(
        self,
        closure: Callable | None,
        flats: Sequence[Flat],
        x: Vectors,
        before: Before | None,
        v: Vectors | None,
        h: Vectors | None,
    ) -> tuple[Found, Vectors, Vectors | None, Vectors | None]:
        """Return (what was found, g, v, h).

        Parameters
        ----------
        closure : callable or None
            None takes the gradients in ``.grad``.
        flats : sequence of Flat
        x : vectors
            The parameters.
        before : Before or None
            What the closure is evaluated from; None without one.
        v : vectors or None
            None does not fit P.
        h : vectors or None
            None asks for the products, except for whitening, where h follows from g.
        """
        params = [p for flat in flats for p in flat.params]
        probes, differs = [], False
        if v is not None and h is None:
            if isinstance(self.source, Exact):
                probes = columns(v, flats)
            else:
                differs = not isinstance(self.source, Whitening)
        if closure is not None:
            found = evaluate(closure, params, probes, once=bool(probes), looked=self.looked)
        elif not probes and not differs:
            found = Found(None, given(params), [], False)
        else:
            raise ValueError(
                f"`closure` must be given to fit P by {self.source}, got None; let it return the loss, or "
                "give a pair `v`, `h`, or take curvature='whitening'"
            )
        g = self._gradient(found, flats)
        if v is not None:
            used = [[part is not None for part in parts] for parts in by_group(found.grads, flats)]
            v = [flat.masked(part, u) for flat, part, u in zip(flats, v, used, strict=True)]
            if probes:
                h = [self.mean(part) for part in products(found.products, flats, v)]
            elif differs and closure is not None and before is not None:
                displaced = partial(evaluate, closure, params, looked=self.looked)
                v, h = difference(
                    self.source, lambda: torch.cat(self._gradient(displaced(), flats)), flats, x, g, v, before
                )
        return found, g, v, h

    def _gradient(self, found: Found, flats: Sequence[Flat]) -> Vectors:
        """Return the gradient as vectors: averaged here, unless backward has done so."""
        listed = by_group(found.grads, flats)
        g = [flat.vector(part) for flat, part in zip(flats, listed, strict=True)]
        return [self.mean(part) for part in g] if found.own else g

    def value(self, loss: Any, flat: Flat) -> Tensor | None:
        """Return the loss for a clip that compares it, as a tensor of its own."""
        if loss is None:
            return None
        value = loss if isinstance(loss, Tensor) else torch.tensor(loss)
        return self.mean(value.reshape(()).to(flat.device, flat.dtype, copy=True))

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of a tensor over the replicas."""
        import torch.distributed as dist

        if self.process_group is not None:
            x = x.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(x, group=self.process_group)
            return x / dist.get_world_size(self.process_group)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            warnings.warn(
                "PSGD takes gradients that DistributedDataParallel does not average, so replicas drift "
                "apart; pass process_group=torch.distributed.group.WORLD",
                stacklevel=2,
            )
        return x
