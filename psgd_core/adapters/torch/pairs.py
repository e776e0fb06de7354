"""Probes and pairs for all groups together: a probe spans all of them, and each group takes its part."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...arrays import shards
from ...arrays.draws import ByPlace
from ...curvature import Exact, Functions, Orthogonal, Probes, Source, Whitening
from .autograd import Found, Looked, evaluate, given
from .flat import SMALL, Flat, Flats, Vectors, is_sharded
from .forward import ForwardOverReverse
from .names import called
from .undo import Snapshot


def toss(seed: int, iteration: int) -> float:
    """Return a number in [0, 1) that looks random, the same for the same arguments.

    SplitMix64, twice; a generator would take longer to set up.
    """
    word = seed
    for part in (1, iteration + 1):
        word = (word + part * 0x9E3779B97F4A7C15) % 2**64
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        word ^= word >> 31
    return (word >> 11) / 2**53


def generator_for(
    flats: Flats, held: torch.Generator | ByPlace | None, seed: int
) -> torch.Generator | ByPlace:
    """Return the generator of the probes: the one that is held, or a new one.

    Raises
    ------
    ValueError
        If parameters are sharded, and it is PyTorch's: what a shard's share of its numbers is, nobody knows.
    """
    if flats.are_sharded and isinstance(held, torch.Generator):
        raise ValueError(
            "`rng` must be an int or curvature.ByPlace for sharded parameters, whose probes are drawn by "
            "place, got a torch.Generator; give its seed"
        )
    if held is not None:
        return held
    return ByPlace(seed) if flats.are_sharded else torch.Generator(flats[0].device).manual_seed(seed)


def draw(probes: Probes, generator: torch.Generator | ByPlace, flats: Flats) -> Vectors:
    """Return probes for each group, rounded to the dtypes of its parameters."""
    if flats.are_sharded and isinstance(probes, Orthogonal):
        raise ValueError(
            f"`probes` must be drawn element by element for sharded parameters, got {probes!r}; take Gaussian"
        )
    found = []
    for flat in flats:
        device = flat.device if isinstance(generator, ByPlace) else generator.device
        like: Any = torch.empty(1, dtype=flat.dtype, device=device).expand(flat.n)
        with shards.over(flat.shards):
            v: Any = probes.draw(generator, like)
        found.append(flat.rounded(v.to(flat.device)))
    return found


def user_vectors(name: str, value: Any, flats: Flats) -> Vectors:
    """Return a user's tensors like the parameters, or one vector (n,) or (n, k), as vectors for each group.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    params, n = flats.params, sum(flat.n for flat in flats)
    if isinstance(value, list | tuple):
        if len(value) != len(params) or any(
            t is not None and t.shape != p.shape for t, p in zip(value, params, strict=True)
        ):
            shapes = [tuple(t.shape) for t in value if t is not None]
            wrong = [
                "",
                *(
                    f" ({called(p)} has {tuple(p.shape)})"
                    for t, p in zip(value, params, strict=False)
                    if t is not None and t.shape != p.shape
                ),
            ]
            raise ValueError(
                f"`{name}` must hold a tensor (or None) in the shape of each of {len(params)} parameters, "
                f"got shapes {shapes}{wrong[:2][-1]}; give them in the order of the groups"
            )
        return flats.vectors(value)
    tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    if tensor.ndim not in (1, 2) or tensor.shape[0] != n:
        raise ValueError(
            f"`{name}` must have shape ({n},) or ({n}, k), or be a list of tensors like the parameters, got "
            f"{tuple(tensor.shape)}; flatten it in the order of the groups"
        )
    parts = zip(flats.cut(tensor), flats, strict=True)
    return [part.to(dtype=flat.dtype, device=flat.device) for part, flat in parts]


class Oracle:
    """Evaluates the gradient and the pairs of a loss.

    Parameters
    ----------
    source : Exact, Forward, Central or Whitening
    process_group : ProcessGroup or None
        Over which to average what is differentiated here.
    """

    def __init__(self, source: Source, process_group: Any) -> None:
        self.source: Source = source
        self.process_group: Any = process_group
        self.looked: Looked = set()

    def ask(
        self,
        closure: Callable[[], Any] | None,
        flats: Flats,
        x: Vectors,
        before: Snapshot | None,
        v: Vectors | None,
        h: Vectors | None,
    ) -> tuple[Found, Vectors, Vectors | None, Vectors | None]:
        """Return (what was found, g, v, h).

        Parameters
        ----------
        closure : callable or None
            None takes the gradients in ``.grad``.
        flats : Flats
        x : vectors
            The parameters.
        before : Snapshot or None
            From which to evaluate the closure; None without one.
        v : vectors or None
            None does not fit P.
        h : vectors or None
            None evaluates the products, except for whitening, where h follows from g.
        """
        wanted = v is not None and h is None
        exact = wanted and isinstance(self.source, Exact)
        differs = wanted and not isinstance(self.source, Exact | Whitening)
        # the gradient, and exact products
        if closure is not None:
            probes = flats.columns(v) if exact and v is not None else []
            forward = isinstance(self.source, ForwardOverReverse)
            if forward and len(probes) > 1:
                raise ValueError(
                    "`v` must be one probe for curvature='forward_over_reverse', which takes one at a time, "
                    f"got {len(probes)}; use curvature='hvp'"
                )
            found = evaluate(closure, flats.params, probes, once=exact, forward=forward, looked=self.looked)
        elif exact or differs:
            raise ValueError(
                f"`closure` must be given to fit P by {self.source}, got None; let it return the loss, or "
                "give a pair `v`, `h`, or take curvature='whitening'"
            )
        else:
            found = Found(None, given(flats.params), [], False)
        g = self._gradient(found, flats)
        # the pair, without the parameters that the loss does not depend on
        if v is not None:
            used = flats.split([part is not None for part in found.grads])
            v = [flat.masked(part, u) for flat, part, u in zip(flats, v, used, strict=True)]
            if exact:
                products = zip(*(flats.vectors(product) for product in found.products), strict=True)
                h = [
                    self.mean(group[0] if part.ndim == 1 else torch.stack(group, dim=1), flat)
                    for group, part, flat in zip(products, v, flats, strict=True)
                ]
            elif differs and closure is not None and before is not None:
                v, h = self._difference(closure, flats, x, g, v, before)
        return found, g, v, h

    def _difference(
        self, closure: Callable[[], Any], flats: Flats, x: Vectors, g: Vectors, v: Vectors, before: Snapshot
    ) -> tuple[Vectors, Vectors]:
        """Return (v, h) from gradients at displaced parameters; these, and ``.grad``, are restored exactly.

        Raises
        ------
        ValueError
            If parameters are of several dtypes or devices, or of 16 bits.
        """
        params = flats.params
        kinds = sorted({f"{p.dtype} on {p.device}" for p in params})
        if len(kinds) > 1 or params[0].dtype in SMALL:
            odd = next((p for p in params if p.dtype in SMALL or p.dtype != params[0].dtype), params[-1])
            raise ValueError(
                "`curvature` must be 'hvp' or 'whitening' unless all parameters are float32, or all float64, "
                f"on one device, got 'finite_difference' for {', '.join(kinds)}, as {called(odd)}; 16 bits "
                "resolve no difference"
            )
        after, evaluated = Snapshot(params, generators=False), partial(evaluate, looked=self.looked)

        def gradient(point: Any) -> Any:
            flats.write(flats.cut(point))
            before.restore()
            return torch.cat(self._gradient(evaluated(closure, params), flats))

        here: list[Any] = [torch.cat(part) for part in (x, g, v)]  # copies, before .grad is written to
        try:
            with shards.over(flats.shards("curvature")):
                probe, product = self.source.pairs(Functions(gradient=gradient), *here)
        finally:
            flats.undo(x)
        after.restore()
        pair: tuple[Any, Any] = probe, product
        return flats.cut(pair[0]), flats.cut(pair[1])

    def _gradient(self, found: Found, flats: Flats) -> Vectors:
        """Return the gradient as vectors: averaged here, unless backward has done so."""
        g = flats.vectors(found.grads)
        return [self.mean(part, flat) for part, flat in zip(g, flats, strict=True)] if found.own else g

    def value(self, loss: Any, flat: Flat) -> Tensor | None:
        """Return the loss as a tensor of its own, for a clip that compares it."""
        if loss is None:
            return None
        value = loss if isinstance(loss, Tensor) else torch.tensor(loss)
        whole: Any = value
        value = whole.full_tensor() if is_sharded(whole) else value
        value = value.reshape(()).to(flat.device, flat.dtype, copy=True)
        return self.mean(flat.averaged(value), flat)

    def mean(self, x: Tensor, flat: Flat) -> Tensor:
        """Return the mean of a tensor, the group's value or a vector of it, over the replicas."""
        import torch.distributed as dist

        if self.process_group is not None:
            x = x.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(x, group=self.process_group)
            return x / dist.get_world_size(self.process_group)
        initialized = dist.is_available() and dist.is_initialized()
        if flat.shards is None and initialized and dist.get_world_size() > 1:
            warnings.warn(
                "PSGD takes gradients that DistributedDataParallel does not average, so replicas drift "
                "apart; pass process_group=torch.distributed.group.WORLD",
                stacklevel=2,
            )
        return x
