"""The parameters of a group as one vector, and vectors in the shapes of the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

SMALL = (torch.float16, torch.bfloat16)
"""Dtypes of parameters whose state is float32."""

DTYPES = (*SMALL, torch.float32, torch.float64)
"""Dtypes that parameters may have."""


class Flat:
    """Parameters, one after another, as a vector (n,) of the widest of their dtypes, at least float32.

    Parameters
    ----------
    params : sequence of tensors
    name : str
        What messages call them.

    Raises
    ------
    ValueError
        If they are on several devices.
    """

    def __init__(self, params: Sequence[Tensor], name: str = "params") -> None:
        self.params = list(params)
        for p in self.params:
            require_parameter(name, p)
        devices = sorted({str(p.device) for p in self.params})
        if len(devices) > 1:
            raise ValueError(
                f"`{name}` must be on one device, got {', '.join(devices)}; make a parameter group per device"
            )
        self.sizes = [p.numel() for p in self.params]
        self.n = sum(self.sizes)
        wide = any(p.dtype == torch.float64 for p in self.params)
        self.dtype = torch.float64 if wide else torch.float32
        self.device = self.params[0].device
        self.rounds = any(p.dtype != self.dtype for p in self.params)

    def vector(self, tensors: Sequence[Tensor | None] | None = None) -> Tensor:
        """Return tensors in the shapes of the parameters (by default these) as a vector; None becomes zeros.

        The parameters come as a copy; one tensor alone as a view where the dtype is the same.
        """
        given = self.params if tensors is None else tensors
        rows = []
        for tensor, p in zip(given, self.params, strict=True):
            row = torch.zeros_like(p, dtype=self.dtype) if tensor is None else tensor.detach()
            rows.append(row.reshape(-1).to(dtype=self.dtype, device=self.device))
        return rows[0] if len(rows) == 1 and tensors is not None else torch.cat(rows)

    def parts(self, vector: Tensor) -> list[Tensor]:
        """Return a vector in the shapes and dtypes of the parameters: views where the dtype is the same."""
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


def once(params: Any, name: str = "params") -> Any:
    """Return parameters, or (name, parameter) pairs, as a list that has each of them once.

    What PyTorch takes in another way, or refuses, is returned as it is.

    Raises
    ------
    ValueError
        If two of them are not the same, but share their memory.
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
                    f"`{name}` must have memory of their own, got two, of shape {tuple(p.shape)} the second, "
                    "that share it; tie them by using one parameter twice"
                )
            memory.add(place)
        seen.add(id(p))
        found.append(item)
    return found


def require_parameter(name: str, p: Any) -> None:
    """Raise TypeError unless p is a dense tensor of real floats that lies here as a whole."""
    if p.dtype.is_complex:
        raise TypeError(
            f"`{name}` must be real, got {p.dtype}; give the real and imaginary parts, "
            "torch.view_as_real(parameter), as the parameter"
        )
    if p.dtype not in DTYPES:
        raise TypeError(
            f"`{name}` must be float16, bfloat16, float32 or float64, got {p.dtype}; convert them"
        )
    if p.layout != torch.strided:
        raise TypeError(f"`{name}` must be dense, got layout {p.layout}; convert them with to_dense()")
    if hasattr(p, "placements"):  # a DTensor: its local part would be mistaken for all of it
        raise TypeError(
            f"`{name}` must be ordinary tensors, got {type(p).__name__}, which is sharded; "
            "use replicas (DistributedDataParallel), or PSGD in JAX for sharded parameters"
        )
