"""The optimiser's memory as a `state_dict` of plain tensors, numbers and texts, and back.

`torch.load` accepts it with ``weights_only=True``. Arrays come back bit for bit. Configurations (the
preconditioner, clips, schedules) are not saved but described, and must equal those of the optimiser that
loads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...arrays.draws import ByPlace
from ...arrays.trees import leaves_with_names, mapped
from ...checkpoint.fingerprint import Misfit, compare, fingerprint, text_of
from ...preconditioners import Diagonal, Kronecker, LowRank
from .. import dlpack
from .flat import Flat, Flats, is_sharded, local_of
from .flattened import flat_of

if TYPE_CHECKING:
    from .groups import Mover
    from .shared import Shared

BY_PLACE = "by place"
"""In place of a device: the generator of sharded parameters."""

VERSION = 1
"""Of the layout; each change of the layout raises it."""


def leaves(tree: Any) -> dict[str, Any]:
    """Return the arrays of a nested NamedTuple by name, such as "preconditioner.q.blocks.0"."""
    return {name.removeprefix("."): leaf for name, leaf in leaves_with_names(tree, "")}


def rebuilt(template: Any, saved: dict[str, Tensor], name: str) -> Any:
    """Return saved tensors in the structure of a state, on its device.

    Raises
    ------
    ValueError
        If names, shapes or dtypes differ.
    """
    there: dict[str, Tensor] = leaves(template)
    for key in sorted({*there, *saved}):
        old, new = saved.get(key), there.get(key)
        if old is None or new is None or old.shape != new.shape or old.dtype != new.dtype:
            raise ValueError(
                f"`state_dict` must fit the parameters, but `{key}` of {name} was saved as {_kind(old)} and "
                f"is {_kind(new)} here; load it into the model and settings that it was saved from"
            )
    tensors = iter([saved[key].to(there[key].device, copy=True) for key in there])
    return mapped(lambda _: next(tensors), template)


def _kind(x: Tensor | None) -> str:
    return "nothing" if x is None else f"{x.dtype} of shape {tuple(x.shape)}"


def plain(value: Any) -> Any:
    """Return a number, text, tensor or None unchanged, and a description of any other setting."""
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return fingerprint(value)
    return {"class": text_of(value), "fields": {}}


def restored(saved: Any, here: Any, name: str) -> Any:
    """Return the setting that was saved: of a description, the object here that it describes.

    Raises
    ------
    ValueError
        If it describes another.
    """
    if not (isinstance(saved, dict) and set(saved) == {"class", "fields"}):
        return saved
    given = plain(here)
    if not isinstance(given, dict):
        given = {"class": repr(given), "fields": {}}
    try:
        compare(saved, given)
    except Misfit as error:
        what = str(error).replace(" as `config`", "").replace(" in `config`", " here")
        raise ValueError(f"`{name}` must be the one that was saved, but {what}") from None
    return here


def packed_state(
    packed: dict[str, Any],
    groups: list[dict[str, Any]],
    state: dict[Tensor, dict[str, Any]],
    make_mover: Callable[[dict[str, Any], Flat], Mover],
    own: dict[str, Any],
) -> dict[str, Any]:
    """Return what PyTorch packed with settings described, states as tensors by name, and what is PSGD's own.

    States of sharded groups are DTensors, one for each parameter, and there from the start.
    """
    states = {key: _packed(held) for key, held in packed["state"].items()}
    for group, numbers in zip(groups, packed["param_groups"], strict=True):
        if not any(map(is_sharded, group["params"])):
            continue
        flat: Any = flat_of(group["params"])
        mover = make_mover(group, flat)
        held = dict(state.get(group["params"][0]) or mover.start(flat))
        if flat.rounds:
            held.setdefault("wide", flat.vector())
        along = _along_n(mover, flat)
        found = {}
        for name, x in _packed(held)["loop"].items():
            if along[name] == "whole":
                found[name] = x
            elif along[name] == "n":
                found[name] = flat.placed(x)
            elif along[name] == "rows":
                found[name] = {"rows": flat.like(x.clone(), flat.placements(0), (flat.pieces[0].size,))}
            else:  # orbits of the shard here: for as many processes only
                found[name] = {f"process {flat.rank} of {flat.world}": x}
        wide = {"wide": flat.placed(held["wide"])} if "wide" in held else {}
        states[numbers["params"][0]] = {"loop": found, **wide}
    settings = [
        {k: x if k in ("params", "param_names") else plain(x) for k, x in group.items()}
        for group in packed["param_groups"]
    ]
    return {"state": states, "param_groups": settings, "psgd": own}


def _along_n(mover: Mover, flat: Flat) -> dict[str, str]:
    """Return for each array of a state whether it is "whole", along "n", or "rows", or of orbits "here"."""
    p = mover.loop.preconditioner
    scales = isinstance(p, Diagonal | LowRank)
    loop = mover.loop if scales else replace(mover.loop, preconditioner=Diagonal())
    size = 2 + getattr(loop.preconditioner, "rank", 0)
    like = np.zeros(size + 1, dtype=str(flat.dtype).rpartition(".")[2])
    short, long = (leaves(loop.init(x)) for x in (like[:size], like))
    found = {name: "whole" if x.shape == long[name].shape else "n" for name, x in short.items()}
    if not scales:
        own = leaves({"preconditioner": mover.start(flat)["loop"].preconditioner})
        found |= {name: "here" if x.ndim else "whole" for name, x in own.items()}
    if isinstance(p, Kronecker):
        i = [kind for kind in p.kinds if kind != "identity"].index("shard")
        found |= {name: "whole" for name, kind in found.items() if kind == "here"}
        found |= {f"preconditioner.{name}.{i}": "rows" for name in ("factors", "held")}
    return found


def _packed(held: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a group as tensors by name."""
    found = {name: dlpack.to_torch(x, copy=None) for name, x in leaves(held["loop"]).items()}
    return held | {"loop": found}


def unpacked(saved: dict[str, Any], mover: Mover, flat: Any, name: str) -> dict[str, Any]:
    """Return the state that `packed_state` converted, for the engine of a group."""
    template = mapped(mover.engine.outward, mover.start(flat)["loop"])
    if flat.shards is not None:
        saved, there = dict(saved), leaves(template)
        saved["loop"] = {
            key: _joined(x, flat, there[key]) for key, x in saved["loop"].items() if key in there
        }
        if "wide" in saved:
            saved["wide"] = flat.unplaced(saved["wide"], flat.vector())
    elif any(isinstance(x, dict) for x in saved["loop"].values()):
        raise ValueError(
            f"`state_dict` must be of parameters that are whole, got one of sharded ones for {name}; load it "
            "with torch.distributed.checkpoint into parameters on a mesh, of one process if need be"
        )
    held = {"loop": mapped(mover.engine.inward, rebuilt(template, saved["loop"], name))}
    if "wide" in saved:
        held["wide"] = rebuilt((flat.vector(),), {"0": saved["wide"]}, name)[0]
    return held


def _joined(x: Any, flat: Any, start: Tensor) -> Tensor:
    """Return the part here of an array of a sharded group's state."""
    here = f"process {flat.rank} of {flat.world}"
    found: Tensor = x
    if not isinstance(x, dict):
        return found
    if "rows" in x:
        return local_of(x["rows"])
    if "0" in x:
        found = flat.unplaced(x, start)
        return found
    if here not in x:
        raise ValueError(
            f"`state_dict` must hold the orbits of {here}, got those of {', '.join(x)}; orbits are kept for "
            "as many processes as they were saved by"
        )
    found = x[here]
    return found


def require_own(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a `state_dict` that only PSGD's has.

    Raises
    ------
    ValueError
        If it is missing, or newer than this code.
    """
    own: dict[str, Any] | None = state_dict.get("psgd")
    if own is None:
        raise ValueError(f"`state_dict` must be one of PSGD's, got one with keys {sorted(state_dict)}")
    if own["version"] > VERSION:
        raise ValueError(
            f"`state_dict` must be of version {VERSION} or older, got {own['version']}; update psgd-core"
        )
    return own


def generator_state(generator: torch.Generator | ByPlace | None) -> dict[str, Any]:
    """Return the state of a generator as a text and a tensor."""
    if isinstance(generator, ByPlace):
        return {"device": BY_PLACE, "state": torch.tensor(generator.get_state())}
    if generator is None:
        return {"device": None, "state": None}
    return {"device": str(generator.device), "state": generator.get_state()}


def generator_at(saved: dict[str, Any]) -> torch.Generator | ByPlace | None:
    """Return a generator in the state of another."""
    if saved["device"] is None:
        return None
    if saved["device"] == BY_PLACE:
        seed, draws = saved["state"].tolist()
        found = ByPlace(seed)
        found.set_state((seed, draws))
        return found
    generator = torch.Generator(saved["device"])
    generator.set_state(saved["state"].cpu())
    return generator


def are_alike(generator: Any, other: Any) -> bool:
    """Return whether one may take the state of the other."""
    if generator is None or type(generator) is not type(other):
        return False
    alike: bool = isinstance(generator, ByPlace) or generator.device == other.device
    return alike


def resumed_generator(
    saved: dict[str, Any], here: torch.Generator | ByPlace | None
) -> torch.Generator | ByPlace | None:
    """Return a new generator in the saved state, on the device of `here` if possible; else `here`."""
    if saved["device"] is None:
        return here
    if saved["device"] == BY_PLACE:
        return generator_at(saved)
    kind = torch.device(saved["device"]).type
    if isinstance(here, torch.Generator) and here.device.type == kind:
        kind = str(here.device)
    elif kind != "cpu" and not torch.cuda.is_available():
        warnings.warn(
            f"The probes were drawn on {saved['device']}, which is missing here; they start anew, from the "
            "same seed",
            stacklevel=3,
        )
        return here
    return generator_at({"device": kind, "state": saved["state"]})


def clip_state(clip: Any, memory: Any) -> dict[str, Any]:
    """Return the global clip, described, and its memory by name, None before the first step."""
    return {"clip": plain(clip), "memory": None if memory is None else leaves(memory)}


def resumed_clip(saved: dict[str, Any] | None, shared: Shared, here: list[dict[str, Any]]) -> Any:
    """Return the memory of the global clip that was saved, for the present groups; None to start anew.

    Raises
    ------
    ValueError
        If it is of another clip.
    """
    if saved is None:  # before there was one
        return None
    restored(saved["clip"], shared.global_clip, "global_clip")
    if saved["clip"] is None or saved["memory"] is None:
        return None
    template = shared.clip_memory(Flats(flat_of(group["params"]) for group in here if group["params"]))
    return rebuilt(template, saved["memory"], "the global clip")


def restored_states(
    state_dict: dict[str, Any],
    here: list[dict[str, Any]],
    make_mover: Callable[[dict[str, Any], Flat], Mover],
) -> tuple[list[dict[str, Any]], dict[Tensor, dict[str, Any]]]:
    """Return (groups, their states by first parameter) from a `state_dict`, for the present groups.

    Parameters
    ----------
    make_mover : callable
        ``make_mover(group, flat)`` returns the group's `Mover`.
    """
    saved = state_dict["param_groups"]
    if [len(g["params"]) for g in saved] != [len(g["params"]) for g in here]:
        return saved, {}  # PyTorch refuses it
    groups, states = [], {}
    for i, (old, new) in enumerate(zip(saved, here, strict=True)):
        group = {name: restored(x, new.get(name), f"{name} of group {i}") for name, x in old.items()}
        group = {"replay": None, "scale": None, "maximize": False} | group  # saved before there were these
        held = state_dict["state"].get(old["params"][0]) if old["params"] else None
        if held is not None:
            flat = flat_of(new["params"])
            states[new["params"][0]] = unpacked(held, make_mover(group, flat), flat, f"group {i}")
        groups.append(group)
    return groups, states
