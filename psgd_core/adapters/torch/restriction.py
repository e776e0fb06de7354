"""Which preconditioners a sharded group may have, and what is left of them on the shard here."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...arrays.library import to_host
from ...groups.subgroup import PermutationSubgroup
from ...preconditioners import (
    Butterfly,
    Dense,
    Diagonal,
    Kronecker,
    LowRank,
    Preconditioner,
    Sparse,
    XMat,
)
from .sharded import ShardedFlat


def restricted(preconditioner: Preconditioner[Any], flat: Any) -> Preconditioner[Any]:
    """Return the preconditioner of the shard here: the given one, restricted to the parameters here.

    Parameters
    ----------
    preconditioner : Preconditioner
        `Diagonal` or `LowRank`; `Sparse`, `Butterfly`, `XMat` or `Dense` if each orbit lies in one shard;
        `Kronecker` for one parameter, diagonal along the dimension that is sharded.
    flat : ShardedFlat

    Raises
    ------
    ValueError
        On all processes alike: if an orbit lies in two shards, or it is another preconditioner.
    """
    assert isinstance(flat, ShardedFlat)
    assert flat.shards is not None
    if isinstance(preconditioner, Diagonal | LowRank):
        return preconditioner
    if type(preconditioner) is Kronecker:
        return _of_rows(preconditioner, flat)
    if not isinstance(preconditioner, Sparse | Butterfly | XMat | Dense):
        raise ValueError(
            "`preconditioner` must be Diagonal, LowRank, Kronecker, or on orbits in one shard each (Sparse, "
            f"Butterfly, XMat), for sharded parameters, got {preconditioner!r}; the moves of others are made "
            "from all elements of a parameter at once: make groups of one parameter each in place of Blocks"
        )
    n = flat.shards.n
    like: Any = torch.empty(0, device=flat.device)
    places = to_host(flat.shards.places(0, flat.n, like))
    found: Preconditioner[Any] | None = preconditioner
    if flat.fills:
        found = Diagonal(
            normalizer=preconditioner.normalizer,
            steps=preconditioner.steps,
            geometry=preconditioner.geometry,
            damping=preconditioner.damping,
        )
    elif isinstance(preconditioner, Sparse):
        inside = _inside(preconditioner.subgroup, places)
        found = None if inside is None else replace(preconditioner, subgroup=inside)
    elif not _is_kept(preconditioner, n, places):
        found = None
    crosses = torch.tensor(float(found is None), device=flat.device)
    if float(flat.shards.most(crosses)) > 0:
        raise ValueError(
            f"`preconditioner` must have orbits that lie in one shard each, got {preconditioner!r} for "
            f"{n} parameters on {flat.world} processes, where an orbit lies in two shards; take Diagonal, "
            "LowRank, or Sparse of a subgroup that permutes within shards"
        )
    assert found is not None
    return found


def _of_rows(preconditioner: Kronecker, flat: ShardedFlat) -> Kronecker:
    """Return the product for the rows here: its factor along the sharded dimension is theirs.

    The others are the same on all processes: their Gram matrices are sums over rows.
    """
    piece, shape, kinds = flat.pieces[0], preconditioner.shape, preconditioner.kinds
    at = next(
        (i for i, s in enumerate(shape) if (math.prod(shape[:i]), s) == (piece.before, piece.size)), None
    )
    if len(flat.pieces) > 1 or piece.dim is None or at is None:
        raise ValueError(
            "`preconditioner` must be for one parameter, and have the dimension that it is sharded along, "
            f"got Kronecker({shape}) for {[tuple(p.shape) for p in flat.params]}; make groups of one each"
        )
    if kinds[at] != "diagonal" or "normalization" in kinds or preconditioner.geometry != "EQ":
        raise ValueError(
            f"`preconditioner` must be diagonal along the sharded dimension {at}, and dense, triangular, "
            f"affine or diagonal along others, in geometry 'EQ', got {kinds} and "
            f"{preconditioner.geometry!r}: other factors there need all rows at once; give `factors`"
        )
    if min(piece.size - rank * -(-piece.size // flat.world) for rank in range(flat.world)) < 1:
        raise ValueError(
            f"`preconditioner` must be Diagonal or LowRank where a process holds no rows, got Kronecker for "
            f"{piece.size} rows on {flat.world} processes"
        )
    local = (*shape[:at], piece.count, *shape[at + 1 :])
    return replace(preconditioner, shape=local, factors=(*kinds[:at], "shard", *kinds[at + 1 :]))


def _is_kept(preconditioner: XMat | Butterfly | Dense, n: int, places: np.ndarray) -> bool:
    """Return whether the orbits of the elements here are those of the same group on as many parameters."""
    size, orbits, how, _ = preconditioner.group.layout(n)[-1]
    if how == "mirrored":
        return bool(np.all(places + places[::-1] == n - 1))
    if len(places) % size:
        return False
    members = places.reshape(size, -1)
    return bool(np.all(members - members[0] == orbits * np.arange(size)[:, None]))


def _inside(subgroup: PermutationSubgroup, places: np.ndarray) -> PermutationSubgroup | None:
    """Return a subgroup on the elements here with the orbits that lie here, None if one lies here in part."""
    local = np.full(subgroup.n, -1)
    local[places] = np.arange(len(places))
    turned = np.arange(len(places))
    for members in subgroup.orbit_index:  # (s, c)
        here = local[members]
        held = here >= 0
        if np.any(held.any(axis=0) != held.all(axis=0)):
            return None
        here = here[:, held.all(axis=0)]
        turned[here] = np.roll(here, -1, axis=0)
    return PermutationSubgroup.from_generators([turned])
