"""The optimiser's memory as a `state_dict` of plain tensors, numbers and texts, and back.

`torch.load` accepts it with ``weights_only=True``. Arrays come back bit for bit. Configurations (the
preconditioner, clips, schedules) are not saved but described, and what is loaded must fit what is there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.fingerprint import Misfit, compare, fingerprint, text_of
from .. import dlpack
from .flat import Flat

VERSION = 1
"""Of the layout; a change of the layout raises it."""


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a nested NamedTuple with a function applied to each of its arrays."""
    if not isinstance(tree, tuple):
        return function(tree)
    parts = [mapped(function, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the arrays of a nested NamedTuple by name, such as "preconditioner.q.blocks.0"."""
    if not isinstance(tree, tuple):
        return {name: tree}
    found: dict[str, Any] = {}
    for key, part in zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True):
        found |= leaves(part, f"{name}.{key}" if name else str(key))
    return found


def rebuilt(template: Any, saved: dict[str, Tensor], name: str) -> Any:
    """Return saved tensors in the structure of a state, on its device.

    Raises
    ------
    ValueError
        If names, shapes or dtypes differ.
    """
    there = leaves(template)
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
    """Return a setting as it is if it is a number, a text, a tensor or None, else a description of it."""
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return fingerprint(value)
    return {"class": text_of(value), "fields": {}}


def restored(saved: Any, here: Any, name: str) -> Any:
    """Return the setting that was saved: the object that is here, if the description fits it.

    Raises
    ------
    ValueError
        If it does not.
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
    """Return what is held for a group as tensors by name."""
    found = {name: dlpack.convert(x, "torch", copy=None) for name, x in leaves(held["loop"]).items()}
    return {"loop": found} | {name: x for name, x in held.items() if name != "loop"}


def unpacked(saved: dict[str, Any], mover: Any, flat: Any, name: str) -> dict[str, Any]:
    """Return what `packed` was given, for the engine of a group."""
    template = mapped(mover.engine.outward, mover.start(flat)["loop"])
    held = {"loop": mapped(mover.engine.inward, rebuilt(template, saved["loop"], name))}
    if "wide" in saved:
        held["wide"] = rebuilt((flat.vector(),), {"0": saved["wide"]}, name)[0]
    return held


def plain_group(group: dict[str, Any]) -> dict[str, Any]:
    """Return a group with descriptions in place of objects."""
    kept = ("params", "param_names")
    return {name: value if name in kept else plain(value) for name, value in group.items()}


def restored_group(saved: dict[str, Any], here: dict[str, Any], index: int) -> dict[str, Any]:
    """Return a saved group with the objects that are here in place of their descriptions."""
    return {name: restored(x, here.get(name), f"{name} of group {index}") for name, x in saved.items()}


def require_own(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a `state_dict` that no other optimiser has.

    Raises
    ------
    ValueError
        If it is not there, or newer than this code.
    """
    own = state_dict.get("psgd")
    if own is None:
        raise ValueError(f"`state_dict` must be one of PSGD's, got one with keys {sorted(state_dict)}")
    if own["version"] > VERSION:
        raise ValueError(
            f"`state_dict` must be of version {VERSION} or older, got {own['version']}; update psgd-core"
        )
    return own


def generator_state(generator: torch.Generator | None) -> dict[str, Any]:
    """Return where a generator is, as a text and a tensor."""
    if generator is None:
        return {"device": None, "state": None}
    return {"device": str(generator.device), "state": generator.get_state()}


def generator_at(saved: dict[str, Any]) -> torch.Generator | None:
    """Return a generator that is where another was."""
    if saved["device"] is None:
        return None
    generator = torch.Generator(saved["device"])
    generator.set_state(saved["state"].cpu())
    return generator


def restored_generator(own: dict[str, Any], here: torch.Generator | None) -> torch.Generator | None:
    """Return the generator to go on with, a new one; the one that is here if nothing can be taken over."""
    saved = own["generator"]
    if saved["device"] is None:
        return here
    device = torch.device(saved["device"])
    if here is not None and here.device.type == device.type:
        return generator_at({"device": str(here.device), "state": saved["state"]})
    if device.type != "cpu" and not torch.cuda.is_available():
        warnings.warn(
            f"The probes were drawn on {device}, which is not here; they start anew, from the same seed",
            stacklevel=3,
        )
        return here
    return generator_at({"device": device.type, "state": saved["state"]})


def taken_over(new: torch.Generator | None, here: torch.Generator | None) -> torch.Generator | None:
    """Return a generator where the new one is: the one that is here, which the user may hold, if possible."""
    if new is None or here is None or new.device != here.device:
        return new
    here.set_state(new.get_state())
    return here


def restored_states(
    state_dict: dict[str, Any], here: list[dict[str, Any]], maker: Callable[[dict[str, Any], Flat], Any]
) -> tuple[list[dict[str, Any]], dict[Tensor, dict[str, Any]]]:
    """Return (groups, what is held by first parameter) from a `state_dict`, for the groups that are here.

    Parameters
    ----------
    maker : callable
        ``maker(group, flat)`` returns the group's Mover.
    """
    saved, states = state_dict["param_groups"], {}
    if [len(g["params"]) for g in saved] != [len(g["params"]) for g in here]:
        return saved, {}  # PyTorch refuses it
    groups = [restored_group(*pair, i) for i, pair in enumerate(zip(saved, here, strict=True))]
    for i, (old, new) in enumerate(zip(groups, here, strict=True)):
        held = state_dict["state"].get(old["params"][0]) if old["params"] else None
        if held is not None:
            flat = Flat(new["params"])
            states[new["params"][0]] = unpacked(held, maker(old, flat), flat, f"group {i}")
    return groups, states
