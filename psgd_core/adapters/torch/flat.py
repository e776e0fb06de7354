"""The parameters of a group as one vector, and vectors in the shapes of the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, _utils
from torch.nn.parameter import Parameter, is_lazy

from .names import called

SMALL = (torch.float16, torch.bfloat16)
"""Dtypes of parameters whose state is float32."""

DTYPES = (*SMALL, torch.float32, torch.float64)
"""Dtypes that parameters may have."""

_flatten: Any = _utils._flatten_dense_tensors  # one call each, which DistributedDataParallel makes as well
_unflatten: Any = _utils._unflatten_dense_tensors

Vectors = list[Tensor]
"""A vector (n,), or columns (n, k), for each group."""


class Flat:
    """Parameters, one after another, as a vector (n,) of the widest of their dtypes, at least float32.

    Raises
    ------
    ValueError
        If they are on several devices, or have no shape yet.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params: list[Tensor] = list(params)
        for p in self.params:
            require_parameter(p)
            if is_lazy(p):
                raise ValueError(
                    f"`params` must have shapes, got a lazy parameter, {called(p)}; run the model once before"
                )
        devices = sorted({str(p.device) for p in self.params})
        if len(devices) > 1:
            other = next(p for p in self.params if p.device != self.params[0].device)
            raise ValueError(
                f"`params` must be on one device, got {', '.join(devices)} ({called(other)} "
                f"on {other.device}); group them by device"
            )
        self.sizes: list[int] = [p.numel() for p in self.params]
        self.n: int = sum(self.sizes)
        wide = any(p.dtype == torch.float64 for p in self.params)
        self.dtype: torch.dtype = torch.float64 if wide else torch.float32
        self.device: torch.device = self.params[0].device
        self.rounds: bool = any(p.dtype != self.dtype for p in self.params)
        # ordinary ones become a vector, and are written, by one call
        self.alike: bool = not self.rounds and all(
            type(p) in (Tensor, Parameter) and n and not p.is_neg()
            for p, n in zip(self.params, self.sizes, strict=True)
        )
        self.shards: Any = None  # the `Shards` that sums over n count, where this is only a part

    def vector(self, tensors: Sequence[Tensor | None] | None = None) -> Tensor:
        """Return tensors in the shapes of the parameters (by default these) as a vector; None becomes zeros.

        The parameters are copied; a single tensor is a view if the dtype is the same.
        """
        given = self.params if tensors is None else tensors
        if self.alike and len(given) > 1 and all(map(self._fits, given)):
            whole: Tensor = _flatten(given).detach()
            return whole
        rows = []
        for i, tensor in enumerate(given):
            row = torch.zeros(self.sizes[i], device=self.device) if tensor is None else self.row(i, tensor)
            rows.append(row.to(dtype=self.dtype, device=self.device))
        if sum(self.sizes) < self.n:  # nothing is here: a zero
            return torch.zeros(self.n, dtype=self.dtype, device=self.device)
        return rows[0] if len(rows) == 1 and tensors is not None else torch.cat(rows)

    def _fits(self, tensor: Tensor | None) -> bool:
        """Return whether it is a tensor of the vector's dtype and on its device."""
        return tensor is not None and tensor.dtype == self.dtype and tensor.device == self.device

    def row(self, i: int, tensor: Tensor) -> Tensor:
        """Return what is here of a tensor like the i-th parameter, as a row."""
        return tensor.detach().reshape(-1)

    def rows(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Return a vector, or rows of them, (..., n), split by parameters."""
        return vector[..., : sum(self.sizes)].split_with_sizes(self.sizes, dim=-1)

    def parts(self, vector: Tensor) -> list[Tensor]:
        """Return a vector in the shapes and dtypes of the parameters: views if the dtype is the same."""
        if self.alike and vector.dtype == self.dtype and vector.is_contiguous():
            return list(_unflatten(vector, self.params))
        rows = self.rows(vector)
        return [row.reshape(p.shape).to(p.dtype) for row, p in zip(rows, self.params, strict=True)]

    def rounded(self, vector: Tensor) -> Tensor:
        """Return a vector, or columns (n, k), as the dtypes of the parameters can hold it."""
        if not self.rounds:
            return vector
        if vector.ndim == 2:
            return torch.stack([self.rounded(column) for column in vector.unbind(1)], dim=1)
        rows = zip(self.rows(vector), self.params, strict=True)
        return self._filled(torch.cat([row.to(p.dtype).to(self.dtype) for row, p in rows]))

    def write(self, vector: Tensor, used: Sequence[bool] | None = None) -> None:
        """Write a vector into the parameters in place, leaving out those that are not `used`."""
        both = [(p.detach(), part) for p, part in zip(self.params, self.parts(vector), strict=True)]
        if used is not None and not all(used):
            both = [pair for pair, u in zip(both, used, strict=True) if u]
        if self.alike and both:
            torch._foreach_copy_([p for p, _ in both], [part for _, part in both])
        else:
            for p, part in both:
                p.copy_(part)

    def undo(self, vector: Tensor) -> None:
        """Write back the vector that the parameters had at first."""
        self.write(vector)

    def averaged(self, value: Tensor) -> Tensor:
        """Return the mean of a loss over the processes that hold the parameters."""
        return value

    def masked(self, vector: Tensor, used: Sequence[bool]) -> Tensor:
        """Return a vector, or columns (n, k), with zeros for the parameters that are not `used`."""
        if all(used):
            return vector
        rows = vector[: sum(self.sizes)].split_with_sizes(self.sizes)
        both = zip(rows, used, strict=True)
        return self._filled(torch.cat([row if u else torch.zeros_like(row) for row, u in both]))

    def _filled(self, rows: Tensor) -> Tensor:
        """Return (n, ...), with a zero where nothing is here."""
        missing = self.n - rows.shape[0]
        return rows if not missing else torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])


class Flats(list[Flat]):
    """Parameters of several groups; converts lists over parameters to a vector for each group and back."""

    @property
    def params(self) -> list[Tensor]:
        """The parameters of all groups, in order."""
        return [p for flat in self for p in flat.params]

    def split(self, items: Sequence[Any]) -> list[list[Any]]:
        """Return a list over parameters as a list for each group."""
        rest = iter(items)
        return [list(islice(rest, len(flat.params))) for flat in self]

    def vectors(self, tensors: Sequence[Tensor | None]) -> Vectors:
        """Return tensors in the shapes of the parameters as a vector for each group; None becomes zeros."""
        return [flat.vector(part) for flat, part in zip(self, self.split(tensors), strict=True)]

    def cut(self, vector: Tensor) -> Vectors:
        """Return one vector (n,), or columns (n, k), for all groups as one for each."""
        return list(torch.split(vector, [flat.n for flat in self]))

    def columns(self, vectors: Vectors) -> list[list[Tensor]]:
        """Return, for each probe, tensors in the shapes and dtypes of the parameters."""
        rows = [[v] if v.ndim == 1 else list(v.unbind(1)) for v in vectors]
        return [
            [part for flat, column in zip(self, probe, strict=True) for part in flat.parts(column)]
            for probe in zip(*rows, strict=True)
        ]

    def write(self, vectors: Vectors) -> None:
        """Write a vector for each group into the parameters in place."""
        for flat, vector in zip(self, vectors, strict=True):
            flat.write(vector)

    def undo(self, vectors: Vectors) -> None:
        """Write back the vectors that the parameters had at first."""
        for flat, vector in zip(self, vectors, strict=True):
            flat.undo(vector)

    @property
    def are_sharded(self) -> bool:
        """Whether a group is."""
        return any(flat.shards is not None for flat in self)

    def shards(self, name: str) -> Any:
        """Return the shards of all groups as one vector; None where they are whole.

        Raises
        ------
        ValueError
            If some are sharded, and others not, or otherwise; `name` is the setting that takes all of them.
        """
        if not self.are_sharded:
            return None
        found = [flat.shards for flat in self]
        if None in found or any(one.group != found[0].group for one in found):
            raise ValueError(
                f"`{name}` must be for groups that are all sharded over the same processes, got some that "
                "are not; shard their parameters alike, or leave it out"
            )
        return found[0].joined(found)


def is_sharded(p: Any) -> bool:
    """Return whether a tensor is a DTensor."""
    return hasattr(p, "placements")


@torch.no_grad()
def local_of(tensor: Any) -> Tensor:
    """Return the part of a DTensor that is here, in the same memory; any other tensor detached."""
    here = tensor.to_local() if is_sharded(tensor) else tensor
    here = here.wait() if hasattr(here, "wait") else here  # it may still be on its way
    found: Tensor = here.detach()
    return found


def once(params: Any) -> Any:
    """Return parameters, or (name, parameter) pairs, as a list with each of them once.

    Anything else that PyTorch takes, or refuses, is returned unchanged.

    Raises
    ------
    ValueError
        If two of them are different tensors that share memory.
    """
    if not isinstance(params, Iterable) or isinstance(params, Tensor | set):
        return params
    found, seen, memory = [], set(), dict[Any, str]()
    for item in params:
        name, p = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
        if isinstance(p, Tensor) and id(p) in seen:
            continue
        if isinstance(p, Tensor) and not is_lazy(p) and p.layout == torch.strided and local_of(p).numel() > 0:
            place = (p.device, local_of(p).data_ptr())
            called_here = f"one of shape {tuple(p.shape)}" if name is None else f"`{name}`"
            if place in memory and p.device.type != "meta":
                both = f"{memory[place]} and {called_here}"
                raise ValueError(
                    f"`params` must not share memory, got two tensors that do, {both}; tie them by using one "
                    "parameter twice"
                )
            memory[place] = called_here
        seen.add(id(p))
        found.append(item)
    return found


def require_parameter(p: Any) -> None:
    """Raise TypeError unless p is a dense tensor of real floats."""
    if p.dtype.is_complex:
        raise TypeError(
            f"`params` must be real, got {p.dtype} for {called(p)}; give the real and imaginary parts, "
            "torch.view_as_real(parameter), as the parameter"
        )
    if p.dtype not in DTYPES:
        raise TypeError(
            f"`params` must be float16, bfloat16, float32 or float64, got {p.dtype} for "
            f"{called(p)}; convert it"
        )
    if p.layout != torch.strided:
        raise TypeError(
            f"`params` must be dense, got layout {p.layout} for {called(p)}; convert it with to_dense()"
        )
