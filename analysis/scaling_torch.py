"""What a PyTorch optimiser holds and sends per device, at sizes that fit no machine here: run without data.

    python analysis/scaling_torch.py --out analysis/results/scaling-torch

Steps of each optimiser are run by the first of so many processes, the others being pretended by PyTorch's
"fake" process group, on parameters that are shapes without data (`DTensor` on a mesh of GPUs, over tensors of
the device "meta"): the matrices of the tables above, their rows split over all devices. Such a tensor has no
values, and a step that looked at one would end with an error: none here does. Counted are the tensors of the
state that the first process holds, and the collective calls that PyTorch is asked for, in bytes as above, as
on a GPU (on a CPU, a step that sees that it need not set the scale of Q sends fewer scalars). The pairs that
P is fitted to are given. Diagonal and LowRank get all matrices as one parameter; Kronecker and Muon are run
on one matrix, and multiplied by their number. XMat and Butterfly, whose orbits would cross shards, and
Kronecker with a dense factor for the rows are refused on such parameters. Muon, which is PyTorch's own, fits
nothing; it stands where Shampoo would: Shampoo, ScalableShampoo and SOAP of pytorch_optimizer 4.1.0 do not
take `DTensor` (they end with "got mixed torch.Tensor and DTensor"). Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore  # PyTorch's own tests pretend with it
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import psgd_core as psgd
import scaling
from psgd_core.adapters.torch import PSGD

COLLECTIVES = {
    "allreduce_": "all-reduce",
    "allgather_": "all-gather",
    "all_reduce": "all-reduce",
    "all_gather_into_tensor": "all-gather",
    "reduce_scatter_tensor": "reduce-scatter",
    "all_to_all_single": "all-to-all",
    "shard_dim_alltoall": "all-to-all",
}
"""Operators that communicate, those of `torch.distributed` and of `DTensor`, as `scaling.SENT` names them."""

NAMESPACES = ("c10d", "_c10d_functional", "_dtensor")
"""Where all operators are that communicate;"""

LOCAL = ("wait_tensor", "_wrap_tensor_autograd")
"""those there that do not."""


class Counter(TorchDispatchMode):
    """Counts what collective calls send per device, by kind, within a ``with`` block.

    Parameters
    ----------
    devices : int

    Raises
    ------
    ValueError
        For a call that is not counted.
    """

    def __init__(self, devices: int) -> None:
        super().__init__()
        self.devices: int = devices
        self.sent: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented  # it comes again, as operators on the parts
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.namespace not in NAMESPACES or name in LOCAL:
            return found
        if name not in COLLECTIVES:
            raise ValueError(f"`func` must be a collective call that is counted, got {func}")
        # those of torch.distributed take their outputs first, and return them with a handle
        outputs = tree_leaves(args[0] if func.namespace == "c10d" else found)
        kind = COLLECTIVES[name]
        size = sum(x.numel() * x.element_size() for x in outputs)
        self.sent[kind] = self.sent.get(kind, 0) + scaling.SENT[kind](size, self.devices)
        return found


@contextmanager
def pretended(devices: int) -> Iterator[DeviceMesh]:
    """Yield a mesh of GPUs, of which this process has the first; none of them need be there."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
    try:
        yield init_device_mesh("cuda", (devices,))
    finally:
        dist.destroy_process_group()


def rows_of(shape: tuple[int, int], mesh: DeviceMesh) -> DTensor:
    """Return a matrix without data, its rows split over a mesh."""
    if shape[0] % mesh.size():
        raise ValueError(f"`side` must be a multiple of the devices, got {shape[0]} rows on {mesh.size()}")
    here = torch.empty(shape[0] // mesh.size(), shape[1], device="meta")
    return DTensor.from_local(here, mesh, [Shard(0)], run_check=False)


def optimizers() -> dict[str, tuple[Callable[[Any, tuple[int, int]], Any], bool]]:
    """Return (how to make it for a parameter and its shape, whether that is one matrix) by name."""

    def fitted(make: Callable[[tuple[int, int]], Any]) -> Callable[[Any, tuple[int, int]], Any]:
        return lambda p, shape: PSGD([p], make(shape), momentum=0.9, every=2, engine="torch")

    def kronecker(*factors: Any) -> Callable[[Any, tuple[int, int]], Any]:
        return fitted(lambda shape: psgd.Kronecker(shape, factors))

    return {
        "AdamW": (lambda p, shape: torch.optim.AdamW([p]), False),
        "Diagonal": (fitted(lambda shape: psgd.Diagonal()), False),
        "LowRank(10)": (fitted(lambda shape: psgd.LowRank(10)), False),
        "Kronecker, diagonal": (kronecker("diagonal", "diagonal"), True),
        "Kronecker, diagonal rows, triangular columns": (kronecker("diagonal", "triangular"), True),
        "Muon": (lambda p, shape: torch.optim.Muon([p], momentum=0.9), True),
    }


def compiled(name: str, matrices: int, devices: int, side: int) -> scaling.Row:
    """Run four steps of an optimiser for devices that are not there; return what the last two show."""
    make, one_matrix = optimizers()[name]
    shape = ((1 if one_matrix else matrices) * side, side)
    sent: list[dict[str, float]] = []
    with pretended(devices) as mesh:
        p: Any = torch.nn.Parameter(rows_of(shape, mesh))
        optimizer = make(p, shape)
        for _ in range(4):
            p.grad = rows_of(shape, mesh)
            fits = isinstance(optimizer, PSGD) and optimizer.due()
            pair = {"v": [rows_of(shape, mesh)], "h": [rows_of(shape, mesh)]} if fits else {}
            with Counter(devices) as counter:
                optimizer.step(**pair)
            sent.append(counter.sent)
        tensors = [x for x in tree_leaves(list(optimizer.state.values())) if isinstance(x, Tensor)]
        here = [x.to_local() if isinstance(x, DTensor) else x for x in tensors]
        held = sum(x.numel() * x.element_size() for x in here)
    times = matrices if one_matrix else 1
    most, least = ({kind: times * b for kind, b in step.items()} for step in sent[2:])
    return scaling.Row(name, matrices * side * side, devices, times * held, least, most)


def main() -> None:
    """Run everything and write the tables."""
    asked = scaling.Asked.parsed(__doc__)
    rows = asked.rows(list(optimizers()), compiled)
    asked.write(rows, scaling.page(rows, "## In PyTorch", __doc__, ("torch",)))


if __name__ == "__main__":
    main()
