"""What the processes of `test_torch_sharded.py` do: trainings of sharded models, and what goes wrong."""

from __future__ import annotations

import datetime
import math
import os
import traceback
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import psgd_core as psgd
from psgd_core.adapters.torch import PSGD, groups_of
from psgd_core.arrays.trees import leaves_with_names
from psgd_core.curvature import ByPlace, Gaussian, Orthogonal
from psgd_core.descent import clips

WORLD, STEPS, DEADLINE = 4, 50, 60.0
BATCH = 8
SWAPS = psgd.PermutationSubgroup.from_generators([[i ^ 1 for i in range(32)]])


def by_layer(model):
    return groups_of(model, matrices=lambda shape: psgd.LowRank(2))


def products(model):
    """Return groups with a Kronecker product for each matrix, diagonal along its rows."""
    return groups_of(model, matrices=lambda shape: psgd.Kronecker(shape, ("diagonal", "triangular")))


CASES = {
    # name: how it is sharded, over how many processes, dtype, settings
    "tensor parallel": ("columns", 4, torch.float64, {"preconditioner": psgd.LowRank(3)}),
    "natural": (
        "columns",
        2,
        torch.float64,
        {"preconditioner": psgd.LowRank(2, geometry="natural"), "probes": Gaussian(2)},
    ),
    "fully_shard": (
        "fsdp",
        4,
        torch.float64,
        {"preconditioner": psgd.LowRank(3), "curvature": "whitening", "lr": 0.02},
    ),
    "differences": (
        "fsdp",
        2,
        torch.float64,
        {"preconditioner": psgd.LowRank(3), "curvature": "finite_difference"},
    ),
    "torch": (
        "fsdp",
        2,
        torch.float64,
        {"preconditioner": psgd.Diagonal(), "curvature": "whitening", "lr": 0.02, "engine": "torch"},
    ),
    "single": (
        "fsdp",
        4,
        torch.float32,
        {"preconditioner": psgd.Diagonal(), "curvature": "whitening", "lr": 0.02, "update_probability": 0.5},
    ),
    "layers": (  # on four processes, one holds nothing of the last bias
        "fsdp",
        4,
        torch.float64,
        {"groups": by_layer, "curvature": "whitening", "lr": 0.02, "clip": None, "global_clip": 0.5},
    ),
    "products": ("fsdp", 2, torch.float64, {"groups": products, "curvature": "whitening", "lr": 0.02}),
    "orbits": ("rows", 4, torch.float64, {"preconditioner": psgd.Sparse(SWAPS)}),
    "trust": (
        "fsdp",
        2,
        torch.float64,
        {
            "preconditioner": psgd.LowRank(2),
            "curvature": "whitening",
            "lr": 1.0,
            "clip": clips.TrustRadius(),
            "replay": psgd.Replay(size=4, times=2),
        },
    ),
    "hybrid": (  # shards on two processes, twice
        "fsdp",
        (2, 2),
        torch.float64,
        {"preconditioner": psgd.LowRank(2), "curvature": "whitening", "clip": clips.TrustRadius(), "lr": 1.0},
    ),
    "not finite": (  # on one process, for one step
        "fsdp",
        2,
        torch.float64,
        {"preconditioner": psgd.LowRank(2), "curvature": "whitening", "lr": 0.02},
    ),
}


class Rows(torch.nn.Module):
    """A loss of one matrix, whose rows are sharded: a quadratic that couples neighbours."""

    def __init__(self, dtype):
        super().__init__()
        self.x = torch.nn.Parameter(torch.linspace(-1, 1, 32, dtype=dtype).reshape(8, 4).sin())

    def forward(self, weights):
        return (weights * (self.x - 0.3) ** 2).sum() + (self.x[:, :1] * self.x[:, 1:2]).sum() ** 2


def make(kind, dtype):
    torch.manual_seed(0)
    if kind == "rows":
        return Rows(dtype)
    layers = torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)
    return torch.nn.Sequential(*layers).to(dtype)


def data(dtype):
    x, y = torch.arange(BATCH * 5.0), torch.arange(BATCH * 3.0)
    return x.reshape(BATCH, 5).sin().to(dtype), y.reshape(BATCH, 3).cos().to(dtype)


def spread(model, kind, mesh):
    """Shard a model in place."""
    if kind == "fsdp":
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
    elif kind == "columns":  # the second bias stays whole
        plan = {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel()}
        parallelize_module(model, mesh, plan)
    else:
        model.x = torch.nn.Parameter(distribute_tensor(model.x.detach(), mesh, [Shard(0)]))
    return model


def closure_of(model, kind, dtype, mesh=None, spoil=lambda: 1.0):
    """Return the closure of a process: of its part of the batch under FSDP, else of all of it."""
    if kind == "rows":
        weights = torch.arange(1.0, 33.0, dtype=dtype).reshape(8, 4)
        if mesh is not None:
            weights = distribute_tensor(weights, mesh, [Shard(0)])
        return lambda: model(weights)
    x, y = data(dtype)
    if kind == "fsdp" and mesh is not None:
        rank, world = dist.get_rank(), mesh.size()
        mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
        x, y = x[mine], y[mine]
    return lambda: torch.nn.functional.mse_loss(model(x), y) * spoil()


def optimizer_of(model, settings):
    settings = {"rng": ByPlace(0), **settings}
    groups = settings.pop("groups", lambda model: model.named_parameters())
    return PSGD(groups(model), **settings)


def train(name, mesh=None):
    """Return (losses, optimizer, model) of a case; without a mesh, unsharded."""
    kind, _, dtype, settings = CASES[name]
    model = make(kind, dtype)
    if mesh is not None:
        spread(model, kind, mesh)
    optimizer, at = optimizer_of(model, settings), [0]
    bad = name == "not finite" and (mesh is None or dist.get_rank() == 1)
    spoil = lambda: math.nan if bad and at[0] == 10 else 1.0  # noqa: E731
    closure, losses = closure_of(model, kind, dtype, mesh, spoil), []
    for at[0] in range(STEPS):
        loss = optimizer.step(closure)
        loss = loss.full_tensor() if hasattr(loss, "full_tensor") else loss
        if kind == "fsdp" and mesh is not None:  # the mean over the batch
            for axis in range(mesh.ndim):
                dist.all_reduce(loss, group=mesh.get_group(axis))
            loss = loss / mesh.size()
        losses.append(float(loss))
    return losses, optimizer, model


def numbers(optimizer):
    """Return how many numbers of a state this process holds."""
    held = [leaf for one in optimizer.state.values() for _, leaf in leaves_with_names(one, "")]
    return sum(math.prod(leaf.shape) for leaf in held)


@contextmanager
def counted():
    """Yield the list of what is summed over processes meanwhile: numbers, and bytes."""
    sent, original = [], dist.all_reduce

    def counting(x, *args, **kwargs):
        sent.append((x.numel(), x.numel() * x.element_size()))
        return original(x, *args, **kwargs)

    dist.all_reduce = counting
    try:
        yield sent
    finally:
        dist.all_reduce = original


def communication(mesh):
    """Return what one step of LowRank(3) under FSDP sums over processes, with and without a pair."""
    model = spread(make("fsdp", torch.float64), "fsdp", mesh)
    settings = {"preconditioner": psgd.LowRank(3), "curvature": "whitening", "every": 2}
    optimizer, closure = optimizer_of(model, settings), closure_of(model, "fsdp", torch.float64, mesh)
    found = []
    for _ in range(6):
        with counted() as sent:
            optimizer.step(closure)
        found.append(sent)
    return found[4], found[5]


REFUSED = {
    # name: how it is sharded, settings, words of the message
    "exact products": ("fsdp", {}, "cannot differentiate them again"),
    "crossing orbits": ("columns", {"preconditioner": psgd.XMat()}, "an orbit lies in two shards"),
    "dense rows": (
        "fsdp",
        {"groups": lambda model: groups_of(model, matrices=psgd.Kronecker), "curvature": "whitening"},
        "diagonal along the sharded dimension 0",
    ),
    "blocks": ("columns", {}, "make groups of one parameter each"),
    "generator": ("columns", {"rng": torch.Generator()}, "give its seed"),
    "orthogonal": ("columns", {"probes": Orthogonal(2)}, "drawn element by element"),
    "compile": ("columns", {"compile": True}, "`compile` must be False"),
}


def refusal(name, mesh):
    """Return the message with which a case is refused."""
    kind, settings, _ = REFUSED[name]
    model, settings = spread(make(kind, torch.float64), kind, mesh), dict(settings)
    if name == "blocks":
        settings = {"preconditioner": psgd.Blocks.of(make(kind, torch.float64))}
    before = [p.to_local().clone() for p in model.parameters() if hasattr(p, "to_local")]
    try:
        optimizer_of(model, settings).step(closure_of(model, kind, torch.float64, mesh))
    except (ValueError, TypeError, RuntimeError) as error:
        after = [p.to_local() for p in model.parameters() if hasattr(p, "to_local")]
        assert all(map(torch.equal, before, after))
        return str(error)
    return "nothing"


RESUMED = {
    "LowRank": {"preconditioner": psgd.LowRank(3), "replay": psgd.Replay(size=5, times=2)},
    "Kronecker": {"groups": products},
}
"""What is saved by two processes, goes on in three, and ends in one."""


def resumed(name, mesh, folder, load, save):
    """Return ten losses, after loading a checkpoint if there is one, saving another."""
    kind = "fsdp"
    model = spread(make(kind, torch.float64), kind, mesh)
    settings = {"curvature": "whitening", "lr": 0.02, "global_clip": clips.AdaptiveNorm(1.5), "rng": 0}
    settings |= RESUMED[name]
    optimizer, group = optimizer_of(model, settings), mesh.get_group()
    if load is not None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        dcp.load(state, checkpoint_id=f"{folder}/{load}", process_group=group)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    x, y = data(torch.float64)  # all of the batch on each: the same for any number of processes
    losses = [float(optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))) for _ in range(10)]
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    dcp.save(state, checkpoint_id=f"{folder}/{save}", process_group=group)
    return losses


def unresumed(name):
    """Return the thirty losses of an unsharded run."""
    model = make("fsdp", torch.float64)
    settings = {"curvature": "whitening", "lr": 0.02, "global_clip": clips.AdaptiveNorm(1.5)}
    settings |= RESUMED[name]
    optimizer, (x, y) = optimizer_of(model, settings), data(torch.float64)
    return [float(optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))) for _ in range(30)]


def zero(group):
    """Return (the parameters after ten steps of ZeRO around PSGD, which of them this process optimises)."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    model, (x, y) = make("fsdp", torch.float64), data(torch.float64)
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(),
        optimizer_class=PSGD,
        process_group=group,
        curvature="whitening",
        preconditioner=psgd.Diagonal(),
        clip=None,
        lr=0.02,
        rng=3,
    )
    mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    for _ in range(10):
        model.zero_grad()
        torch.nn.functional.mse_loss(model(x[mine]), y[mine]).backward()
        for p in model.parameters():
            dist.all_reduce(p.grad, group=group)
            p.grad /= world
        optimizer.step()
    vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    numbers = {id(p): i for i, p in enumerate(model.parameters())}
    return vector, [numbers[id(p)] for group in optimizer.optim.param_groups for p in group["params"]]


def sixteen_bits(mesh):
    """Return the parameters after ten steps in bfloat16, whose state is wide, and after a round trip."""
    wanted = torch.linspace(-1, 1, 21).reshape(7, 3)
    p = torch.nn.Parameter(torch.zeros(7, 3, dtype=torch.bfloat16))
    if mesh is not None:
        wanted = distribute_tensor(wanted, mesh, [Shard(0)])
        p = torch.nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)]))
    weight = distribute_tensor(torch.zeros(2), mesh, [Replicate()]) if mesh is not None else torch.zeros(2)
    q = torch.nn.Parameter(weight)  # whole on each process, and float32
    make_optimizer = lambda: PSGD([p, q], psgd.Diagonal(), lr=0.01, rng=ByPlace(0))  # noqa: E731
    optimizer = make_optimizer()
    for t in range(10):
        optimizer.step(lambda: ((p.float() - wanted) ** 2).sum() + ((q - 1) ** 2).sum())
        if t == 5 and mesh is not None:
            state = optimizer.state_dict()
            optimizer = make_optimizer()
            optimizer.load_state_dict(state)
            whole = [torch.nn.Parameter(x.detach().full_tensor()) for x in (p, q)]
            try:
                PSGD(whole, psgd.Diagonal(), lr=0.01).load_state_dict(state)
            except ValueError as error:
                assert "must be of parameters that are whole" in str(error)  # noqa: PT017
            else:
                raise AssertionError("a sharded state was loaded into whole parameters")
    parts = [x.full_tensor() if mesh is not None else x for x in (p.detach(), q.detach())]
    return np.concatenate([x.float().numpy().reshape(-1) for x in parts])


def process(rank, folder):
    """Do everything on one of the processes; what is found goes into files."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(seconds=DEADLINE),
    )
    meshes = {size: DeviceMesh("cpu", torch.arange(size)) for size in (1, 2, 3, WORLD)}
    meshes[(2, 2)] = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    found = {}
    for name, (_, size, _, _) in CASES.items():
        if rank < meshes[size].size():
            losses, optimizer, model = train(name, meshes[size])
            skipped = [int(optimizer.group_state(i).skipped) for i in range(len(optimizer.param_groups))]
            held = sum(
                p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in model.parameters()
            )
            found[name] = losses, numbers(optimizer), held, skipped
    if rank < 2:
        found["refused"] = {name: refusal(name, meshes[2]) for name in REFUSED}
        found["zero"] = zero(meshes[2].get_group())
        found["communication"] = communication(meshes[2])
        found["16 bits"] = sixteen_bits(meshes[2])
    found["resumed"] = {name: [] for name in RESUMED}
    for name in RESUMED:
        for size, load, save in ((2, None, "two"), (3, "two", "three"), (1, "three", "one")):
            if rank < size:
                where = f"{folder}/{name}"
                found["resumed"][name] += resumed(name, meshes[size], where, load, save)
            dist.barrier()
    torch.save(found, f"{folder}/found-{rank}.pt")
    dist.barrier()
    death(rank, folder, meshes[WORLD])


def death(rank, folder, mesh):
    """Train on, while one process dies; the others write down what ended them."""
    model = spread(make("fsdp", torch.float64), "fsdp", mesh)
    settings = {"preconditioner": psgd.LowRank(2), "curvature": "whitening", "lr": 0.02}
    optimizer, (x, y) = optimizer_of(model, settings), data(torch.float64)
    try:
        for t in range(STEPS):
            torch.nn.functional.mse_loss(model(x), y).backward()
            if t == 5 and rank == 3:
                os._exit(7)
            optimizer.step()
            optimizer.zero_grad()
    except RuntimeError:
        with open(f"{folder}/ended-{rank}.txt", "w", encoding="utf-8") as file:
            file.write(traceback.format_exc())
    os._exit(0)  # what is left of the process group would wait
