"""The optimiser's memory as a `state_dict` of plain tensors, numbers and texts, and back.

`torch.load` accepts it with ``weights_only=True``. Arrays come back bit for bit. Configurations (the
preconditioner, clips, schedules) are not saved but described, and must equal those of the optimiser that
loads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arrays.trees import leaves_with_names, mapped
from ...checkpoint.fingerprint import Misfit, compare, fingerprint, text_of
from .. import dlpack
from .flat import Flat, Flats

if TYPE_CHECKING:
    from .groups import Mover
    from .shared import Shared

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


def packed(held: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a group as tensors by name."""
    found = {name: dlpack.to_torch(x, copy=None) for name, x in leaves(held["loop"]).items()}
    return held | {"loop": found}


def unpacked(saved: dict[str, Any], mover: Mover, flat: Flat, name: str) -> dict[str, Any]:
    """Return the state that `packed` converted, for the engine of a group."""
    template = mapped(mover.engine.outward, mover.start(flat)["loop"])
    held = {"loop": mapped(mover.engine.inward, rebuilt(template, saved["loop"], name))}
    if "wide" in saved:
        held["wide"] = rebuilt((flat.vector(),), {"0": saved["wide"]}, name)[0]
    return held


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


def generator_state(generator: torch.Generator | None) -> dict[str, Any]:
    """Return the state of a generator as a text and a tensor."""
    if generator is None:
        return {"device": None, "state": None}
    return {"device": str(generator.device), "state": generator.get_state()}


def generator_at(saved: dict[str, Any]) -> torch.Generator | None:
    """Return a generator in the state of another."""
    if saved["device"] is None:
        return None
    generator = torch.Generator(saved["device"])
    generator.set_state(saved["state"].cpu())
    return generator


def resumed_generator(saved: dict[str, Any], here: torch.Generator | None) -> torch.Generator | None:
    """Return a new generator in the saved state, on the device of `here` if possible; else `here`."""
    if saved["device"] is None:
        return here
    kind = torch.device(saved["device"]).type
    if here is not None and here.device.type == kind:
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
    template = shared.clip_memory(Flats(Flat(group["params"]) for group in here if group["params"]))
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
        group = {"replay": None, "scale": None} | group  # saved before there were these
        held = state_dict["state"].get(old["params"][0]) if old["params"] else None
        if held is not None:
            flat = Flat(new["params"])
            states[new["params"][0]] = unpacked(held, make_mover(group, flat), flat, f"group {i}")
        groups.append(group)
    return groups, states
