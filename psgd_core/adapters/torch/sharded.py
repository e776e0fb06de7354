"""Sharded parameters (`DTensor`): the part of a group's vector that this process holds, and sums over all.

A group is one vector over all its parameters, and its shard here is what this process holds of each: the
local part of those that are sharded, and an equal share of those that are whole on each process (replicated
`DTensor`, ordinary tensors beside sharded ones), whose new values are gathered after a step. Nothing else of
the length of the parameters is ever communicated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from ...arrays.library import Array
from .. import dlpack
from .flat import Flat, local_of

STOPPED = (
    "a process that holds another shard of the parameters has stopped, or waits for something else, and this "
    "one cannot go on without it; look for its own message"
)


class Piece(NamedTuple):
    """What is here of a parameter, taken as (before, size, after) with the middle axis sharded."""

    offset: int  # of the parameter in the group's vector
    before: int
    size: int
    after: int
    start: int  # along the middle axis: what is here begins,
    count: int  # type: ignore[assignment]  # and how long it is
    dim: int | None  # the parameter's axis that is sharded; None: it is whole on each process, and flattened

    @property
    def n(self) -> int:
        """Number of elements here."""
        return self.before * self.count * self.after

    def places(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Return where its elements `start` to `stop` are in the group's vector."""
        here = torch.arange(start, stop, dtype=torch.int64, device=device)
        row, rest = here // (self.count * self.after), here % (self.count * self.after)
        return self.offset + row * (self.size * self.after) + self.start * self.after + rest


class TensorShards:
    """Sums and maxima over a process group: the `Shards` that the core asks.

    Parameters
    ----------
    group : ProcessGroup
    pieces : sequence of Piece
        What is here, in its order.
    n : int
        Elements of all shards.
    """

    def __init__(self, group: Any, pieces: Sequence[Piece], n: int) -> None:
        self.group: Any = group
        self.pieces: tuple[Piece, ...] = tuple(pieces)
        self.n: int = n

    def joined(self, others: Sequence[TensorShards]) -> TensorShards:
        """Return those of several groups, this one's among them, as of one vector."""
        return TensorShards(self.group, (), sum(one.n for one in others))

    def total(self, x: Array) -> Array:
        """Return the sum of an array over the processes."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def most(self, x: Array) -> Array:
        """Return the largest value of each element over the processes."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def places(self, start: int, stop: int, like: Array) -> Array:
        """Return where elements `start` to `stop` of this shard are in the whole vector; -1 for none."""
        x: Any = like
        device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        found, first = [], 0
        for piece in self.pieces:
            low, high = max(start, first), min(stop, first + piece.n)
            if low < high:
                found.append(piece.places(low - first, high - first, device))
            first += piece.n
        if not found:  # what fills up an empty shard
            found = [torch.full((stop - start,), -1, dtype=torch.int64, device=device)]
        return _like(found[0] if len(found) == 1 else torch.cat(found), like)

    def _reduced(self, x: Any, op: Any) -> Array:
        if isinstance(x, Tensor):
            y = x.clone(memory_format=torch.contiguous_format)  # also on devices that DLPack does not know
        elif isinstance(x, np.ndarray | np.generic):
            y = torch.from_numpy(np.array(x))
        else:
            y = dlpack.to_torch(x, copy=True).contiguous()
        try:
            dist.all_reduce(y, op=op, group=self.group)
        except RuntimeError as error:
            raise RuntimeError(STOPPED) from error
        return _like(y, x)


def _like(y: Tensor, x: Any) -> Array:
    """Return a tensor as an array of the library of x."""
    found: Any = y
    if isinstance(x, np.ndarray | np.generic):
        found = y.numpy()[()]  # scalars stay scalars
    elif not isinstance(x, Tensor):
        found = dlpack.to_cupy(found)
    array: Array = found
    return array


class ShardedFlat(Flat):
    """What this process holds of a group's parameters, one after another, as a vector.

    Where it holds nothing of them, a zero stands for it, which is no part of any sum.

    Raises
    ------
    TypeError, ValueError
        If they are sharded in a way that is not supported, or over several meshes.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        super().__init__(params)
        first: Any = next((p for p in self.params if _axis(p) is not None), None)
        if first is None:  # all are replicated
            first = next(p for p in self.params if isinstance(p, DTensor))
        self.mesh: Any = first.device_mesh
        self.axis: int = _axis(first) or 0  # of the mesh, over which they are sharded
        for p in self.params:
            if isinstance(p, DTensor) and (p.device_mesh != self.mesh or _axis(p) not in (None, self.axis)):
                raise ValueError(
                    f"`params` of a group must be sharded over one axis of one mesh, got {self.mesh} and "
                    f"{p.device_mesh}, placements {first.placements} and {p.placements}; make a group of each"
                )
        self.group: Any = self.mesh.get_group(self.axis)
        self.rank, self.world = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.pieces: list[Piece] = []
        offset = 0
        for p in self.params:
            self.pieces.append(self._piece(p, offset))
            offset += p.numel()
        self.shards: TensorShards | None = TensorShards(self.group, self.pieces, offset)
        self.sizes = [piece.n for piece in self.pieces]
        self.fills: bool = sum(self.sizes) == 0
        self.n = max(1, sum(self.sizes))
        # whole ones as they were, to undo a step without asking other processes
        self._before: dict[int, Tensor] = {
            i: local_of(p).clone() for i, p in enumerate(self.params) if self.pieces[i].dim is None
        }

    def _piece(self, p: Tensor, offset: int) -> Piece:
        dim = None
        if isinstance(p, DTensor) and _axis(p) is not None:
            placement: Any = p.placements[self.axis]
            dim = placement.dim % p.ndim
        shape = tuple(p.shape) if dim is not None else (p.numel(),)
        at = dim or 0
        size = shape[at]
        chunk = -(-size // self.world)
        start = min(self.rank * chunk, size)
        count = min(chunk, size - start)
        found = Piece(offset, _product(shape[:at]), size, _product(shape[at + 1 :]), start, count, dim)
        if dim is not None and found.n != local_of(p).numel():
            raise ValueError(
                f"`params` must be sharded as torch.chunk does, got {tuple(local_of(p).shape)} of "
                f"{tuple(p.shape)} on process {self.rank} of {self.world}"
            )
        return found

    # -- tensors and rows --------------------------------------------------------------------------------

    def row(self, i: int, tensor: Tensor) -> Tensor:
        """Return what is here of a tensor like the i-th parameter, as a row."""
        p, piece = self.params[i], self.pieces[i]
        given: Any = tensor.detach()
        if isinstance(given, DTensor):
            wanted: Any = p.placements if isinstance(p, DTensor) else [Replicate()] * given.device_mesh.ndim
            if tuple(given.placements) != tuple(wanted):
                given = given.redistribute(placements=wanted)
        elif piece.dim is not None:
            raise ValueError(
                f"`params` must have gradients sharded as they are, got an ordinary tensor for one of shape "
                f"{tuple(p.shape)}"
            )
        here = local_of(given).reshape(-1)
        return here if piece.dim is not None else here[piece.start : piece.start + piece.count]

    def parts(self, vector: Tensor) -> list[Tensor]:
        """Return a vector as tensors like the parameters; whole ones are gathered."""
        whole, found = self._gathered(vector), []
        for i, row in enumerate(self.rows(vector)):
            p: Any = self.params[i]
            if self.pieces[i].dim is not None:
                here = row.reshape(local_of(p).shape).to(p.dtype)
                found.append(self.like(here, p.placements, p.shape))
                continue
            here = whole[i].reshape(p.shape).to(p.dtype)
            found.append(self.like(here, p.placements, p.shape) if isinstance(p, DTensor) else here)
        return found

    def like(self, here: Tensor, placements: Any, shape: Sequence[int]) -> Tensor:
        """Return the DTensor of a shape whose part here is given."""
        stride = [_product(shape[i + 1 :]) for i in range(len(shape))]
        return DTensor.from_local(
            here, self.mesh, placements, run_check=False, shape=torch.Size(shape), stride=tuple(stride)
        )

    def write(self, vector: Tensor, used: Sequence[bool] | None = None) -> None:
        """Write a vector into the parameters in place, leaving out those that are not `used`."""
        whole = self._gathered(vector)
        for i, (row, p) in enumerate(zip(self.rows(vector), self.params, strict=True)):
            if used is None or used[i]:
                here = local_of(p)
                here.copy_((row if self.pieces[i].dim is not None else whole[i]).reshape(here.shape))

    def undo(self, vector: Tensor) -> None:
        """Write back the vector that the parameters had at first, without asking other processes."""
        for i, (row, p) in enumerate(zip(self.rows(vector), self.params, strict=True)):
            here = local_of(p)
            here.copy_(self._before[i] if i in self._before else row.reshape(here.shape))

    def averaged(self, value: Tensor) -> Tensor:
        """Return the mean of a loss over all processes of the mesh: each may have a batch of its own."""
        for axis in range(self.mesh.ndim):
            group = self.mesh.get_group(axis)
            total: Any = TensorShards(group, (), 1).total(value)
            value = total / dist.get_world_size(group)
        return value

    def _gathered(self, vector: Tensor) -> dict[int, Tensor]:
        """Return the rows of whole parameters, from all processes, in one collective call."""
        if not self._before:
            return {}
        rows, chunks = self.rows(vector), {i: -(-self.pieces[i].size // self.world) for i in self._before}
        mine = vector.new_zeros(sum(chunks.values()))
        start = 0
        for i, chunk in chunks.items():
            mine[start : start + self.sizes[i]] = rows[i]
            start += chunk
        found = [torch.empty_like(mine) for _ in range(self.world)]
        try:
            dist.all_gather(found, mine, group=self.group)
        except RuntimeError as error:
            raise RuntimeError(STOPPED) from error
        whole, start = {}, 0
        for i, chunk in chunks.items():
            parts = [part[start : start + chunk] for part in found]
            whole[i] = torch.cat(parts)[: self.pieces[i].size]
            start += chunk
        return whole

    # -- states, along n ---------------------------------------------------------------------------------

    def placed(self, x: Tensor) -> dict[str, Tensor]:
        """Return an array (..., n) of a state as a DTensor for each parameter, to be saved and resharded."""
        lead, found = tuple(x.shape[:-1]), {}
        for i, (row, piece, p) in enumerate(zip(self.rows(x), self.pieces, self.params, strict=True)):
            shape, dim = (tuple(p.shape), piece.dim) if piece.dim is not None else ((p.numel(),), 0)
            local = (*shape[:dim], piece.count, *shape[dim + 1 :])
            here = row.reshape(*lead, *local).clone(memory_format=torch.contiguous_format)
            found[str(i)] = self.like(here, self.placements(len(lead) + dim), (*lead, *shape))
        return found

    def placements(self, dim: int) -> list[Any]:
        """Return the placements of what is sharded along a dimension."""
        found: list[Any] = [Replicate()] * self.mesh.ndim
        found[self.axis] = Shard(dim)
        return found

    def unplaced(self, saved: dict[str, Tensor], start: Tensor) -> Tensor:
        """Return the array (..., n) that `placed` took apart; `start` is what an empty shard holds."""
        if self.fills:
            return start
        lead = start.shape[:-1]
        rows = [local_of(saved[str(i)]).reshape(*lead, -1) for i in range(len(self.params))]
        return torch.cat(rows, dim=-1)


def _axis(p: Any) -> int | None:
    """Return the axis of its mesh over which a parameter is sharded; None for those that are whole.

    Raises
    ------
    TypeError
        If it is sharded over several axes, or holds part of a sum.
    """
    if not isinstance(p, DTensor):
        return None
    kinds = [(i, x) for i, x in enumerate(p.placements) if not x.is_replicate()]
    if not kinds:
        return None
    if len(kinds) > 1 or type(kinds[0][1]) is not Shard:
        raise TypeError(
            f"`params` must be sharded over one axis of their mesh, along one dimension, got {p.placements} "
            f"of {p.device_mesh}; shard over one axis and replicate over the others"
        )
    return kinds[0][0]


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
