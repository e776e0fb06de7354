"""The parameters of a group as one vector, and vectors in the shapes of the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

SMALL = (torch.float16, torch.bfloat16)
"""Dtypes of parameters whose state is float32."""

DTYPES = (*SMALL, torch.float32, torch.float64)
"""Dtypes that parameters may have."""

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
        self.params = list(params)
        for p in self.params:
            require_parameter(p)
            if is_lazy(p):
                raise ValueError("`params` must have shapes, got a lazy parameter; run the model once before")
        devices = sorted({str(p.device) for p in self.params})
        if len(devices) > 1:
            raise ValueError(
                f"`params` must be on one device, got {', '.join(devices)}; group them by device"
            )
        self.sizes = [p.numel() for p in self.params]
        self.n = sum(self.sizes)
        wide = any(p.dtype == torch.float64 for p in self.params)
        self.dtype = torch.float64 if wide else torch.float32
        self.device = self.params[0].device
        self.rounds = any(p.dtype != self.dtype for p in self.params)

    def vector(self, tensors: Sequence[Tensor | None] | None = None) -> Tensor:
        """Return tensors in the shapes of the parameters (by default these) as a vector; None becomes zeros.

        The parameters are copied; a single tensor is a view if the dtype is the same.
        """
        given = self.params if tensors is None else tensors
        rows = []
        for tensor, p in zip(given, self.params, strict=True):
            row = torch.zeros_like(p, dtype=self.dtype) if tensor is None else tensor.detach()
            rows.append(row.reshape(-1).to(dtype=self.dtype, device=self.device))
        return rows[0] if len(rows) == 1 and tensors is not None else torch.cat(rows)

    def parts(self, vector: Tensor) -> list[Tensor]:
        """Return a vector in the shapes and dtypes of the parameters: views if the dtype is the same."""
        rows = vector.split_with_sizes(self.sizes)
        return [row.reshape(p.shape).to(p.dtype) for row, p in zip(rows, self.params, strict=True)]

    def rounded(self, vector: Tensor) -> Tensor:
        """Return a vector, or columns (n, k), as the dtypes of the parameters can hold it."""
        if not self.rounds:
            return vector
        if vector.ndim == 2:
            return torch.stack([self.rounded(column) for column in vector.unbind(1)], dim=1)
        return self.vector(self.parts(vector))

    def write(self, vector: Tensor, used: Sequence[bool] | None = None) -> None:
        """Write a vector into the parameters in place, leaving out those that are not `used`."""
        rows = vector.split_with_sizes(self.sizes)
        for i, (row, p) in enumerate(zip(rows, self.params, strict=True)):
            if used is None or used[i]:
                p.detach().copy_(row.reshape(p.shape))

    def masked(self, vector: Tensor, used: Sequence[bool]) -> Tensor:
        """Return a vector, or columns (n, k), with zeros for the parameters that are not `used`."""
        if all(used):
            return vector
        rows = vector.split_with_sizes(self.sizes)
        return torch.cat([row if u else torch.zeros_like(row) for row, u in zip(rows, used, strict=True)])


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
    found, seen, memory = [], set(), set()
    for item in params:
        p = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        if isinstance(p, Tensor) and id(p) in seen:
            continue
        if isinstance(p, Tensor) and not is_lazy(p) and p.layout == torch.strided and p.numel() > 0:
            place = (p.device, p.data_ptr())
            if place in memory and p.device.type != "meta":
                raise ValueError(
                    "`params` must not share memory, got two tensors that do, the second of shape "
                    f"{tuple(p.shape)}; tie them by using one parameter twice"
                )
            memory.add(place)
        seen.add(id(p))
        found.append(item)
    return found


def require_parameter(p: Any) -> None:
    """Raise TypeError unless p is a dense tensor of real floats that is not sharded."""
    if p.dtype.is_complex:
        raise TypeError(
            f"`params` must be real, got {p.dtype}; give the real and imaginary parts, "
            "torch.view_as_real(parameter), as the parameter"
        )
    if p.dtype not in DTYPES:
        raise TypeError(f"`params` must be float16, bfloat16, float32 or float64, got {p.dtype}")
    if p.layout != torch.strided:
        raise TypeError(f"`params` must be dense, got layout {p.layout}; convert them with to_dense()")
    if hasattr(p, "placements"):  # a DTensor: its local part would be taken for all of it
        raise TypeError(
            f"`params` must be ordinary tensors, got {type(p).__name__}, which is sharded; "
            "use replicas (DistributedDataParallel), or PSGD in JAX for sharded parameters"
        )
