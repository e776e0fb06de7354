"""`save`, `load` and `inspect`: a tree of arrays to one file and back; see `psgd_core.checkpoint`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from ..arrays.library import Array
from .file import CheckpointError, Stored, opened, write
from .fingerprint import Misfit, compare, fingerprint, is_fingerprint
from .replacing import StrPath
from .stored import DTYPES, described, moved, packed

_VALUES = (type(None), bool, int, float, str)

_DEEPEST = 100
"""Levels of nesting, few enough for Python's stack wherever `load` is called."""

_LONGEST = 8192
"""Bits of an int; Python reads at most some 14,000 from a text."""


def save(
    path: StrPath,
    state: Any,
    *,
    config: Any = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write `state` to one file; a failed or interrupted write leaves an older file as it was.

    Parameters
    ----------
    path : path
        No suffix is added. Its folder must exist. An existing file is replaced and keeps its mode; of a link,
        the target is replaced; anything else (a FIFO, a device) is refused.
    state : nested NamedTuples, tuples, lists, dicts (with str keys) of arrays
        Also None, bool, int, float, str. Arrays of any library and device; waits for the device.
    config : dataclass instance, optional
        What the state belongs to: a preconditioner, or the descent. `load` can then compare it.
    metadata : dict, optional
        Anything that JSON can hold, with str keys; `inspect` returns it, tuples as lists.

    Raises
    ------
    TypeError
        If `state` holds anything else, or nests deeper than 100; or if `metadata` is not JSON.
    OSError
        If the file cannot be written.
    ValueError
        If `path` is not the name of a file.
    """
    leaves: list[tuple[str, Array]] = []
    header = {
        "structure": _describe("state", state, leaves),
        "config": None if config is None else fingerprint(config),
        "metadata": metadata,
    }
    try:
        _require_text_keys(metadata)
        json.dumps(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"`metadata` must be JSON (dict, list, str, number, bool, None), but: {error}; convert it first"
        ) from error
    write(path, header, (packed(*leaf) for leaf in leaves))


def load(path: StrPath, like: Any = None, *, config: Any = None) -> Any:
    """Return the state that `save` wrote.

    Parameters
    ----------
    path : path
    like : state or array, optional
        A state of the same structure, such as ``p.init(n, like=x)``: classes, names, shapes and dtypes are
        compared, and every array is returned on the library and device of its counterpart. Or one float
        array: a state of psgd_core's own classes, and optax's, is returned in its dtype, on its library and
        device. Without it, arrays are NumPy's.
    config : dataclass instance, optional
        Must equal the one that was saved.

    Raises
    ------
    CheckpointError
        If the file is not a checkpoint, is damaged, or is from a newer version; if structure, shapes,
        dtypes or configuration differ. No value is ever rounded: an integer array may change its width
        where all values fit (JAX has 32 bits by default), any other change of dtype is an error.
    OSError
        If the file cannot be read.
    """
    given = None if config is None else fingerprint(config)
    with opened(path) as (header, stored, read):
        _arrays(path, header, stored)
        structure = header["structure"]
        if like is None:
            like = _Free(np.zeros(0), None)
        elif array_api_compat.is_array_api_obj(like) and "array" not in structure:
            like = _Free(like, like.dtype)
        try:
            if given is not None:
                compare(header["config"], given)
            return _build("state", structure, like, read)
        except Misfit as error:
            raise CheckpointError(f"{os.fspath(path)!r} does not fit: {error}") from None


def inspect(path: StrPath) -> dict[str, Any]:
    """Return the description that a checkpoint holds of itself, after verifying the file.

    Returns
    -------
    dict
        ``version``: of the file's layout; ``config``: None, or a dict with the class and its fields as
        text; ``metadata``: what was saved; ``arrays``: each array's name with its (dtype, shape).
    """
    with opened(path) as (header, stored, _):
        arrays = _arrays(path, header, stored)
        return {key: header[key] for key in ("version", "config", "metadata")} | {"arrays": arrays}


def _require_text_keys(metadata: Any) -> None:
    """Raise for keys that JSON would convert to text, where two may become one."""
    if isinstance(metadata, dict):
        for key, value in metadata.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not a str")
            _require_text_keys(value)
    elif isinstance(metadata, list | tuple):
        for value in metadata:
            _require_text_keys(value)


# -- structure: what the header says, and how a state is made from it --------------------------------------


def _parts(tree: Any) -> tuple[str, str, dict[str, Any]] | None:
    """Return (kind, class name, named parts) of a container, None for anything else."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return "namedtuple", type(tree).__name__, dict(zip(tree._fields, tree, strict=True))
    if type(tree) is dict:
        return "dict", "dict", tree
    if type(tree) in (tuple, list):
        kind = type(tree).__name__
        return kind, kind, {str(i): x for i, x in enumerate(tree)}
    return None


def _describe(name: str, tree: Any, leaves: list[tuple[str, Array]], depth: int = 0) -> dict[str, Any]:
    """Return `tree` as JSON, with arrays replaced by their index in `leaves`."""
    if depth > _DEEPEST:
        raise TypeError(f"`state` must nest at most {_DEEPEST} deep, got more; does a part hold itself?")
    if array_api_compat.is_array_api_obj(tree):
        leaves.append((name, tree))
        return {"array": len(leaves) - 1, **described(name, tree)}
    if type(tree) is int and tree.bit_length() > _LONGEST:
        raise TypeError(f"`{name}` must have at most {_LONGEST} bits, got {tree.bit_length()}; use text")
    if type(tree) in _VALUES:
        return {"value": tree}
    found = _parts(tree)
    if found is None:
        raise TypeError(
            f"`{name}` must be an array, None, bool, int, float, str, or a NamedTuple, tuple, list or dict, "
            f"got {type(tree).__name__}; keep it out of the state"
        )
    kind, class_name, parts = found
    for key in parts:
        if type(key) is not str:
            raise TypeError(f"`{name}` must have str keys, got {key!r}; convert it to str")
    inner = {key: _describe(f"{name}.{key}", part, leaves, depth + 1) for key, part in parts.items()}
    return {"kind": kind, "class": class_name, "parts": inner}


class _Free(NamedTuple):
    """A template for any structure, which sets where arrays go."""

    target: Array  # sets library and device
    dtype: Any  # that floats must have; None: any


def _build(name: str, spec: dict[str, Any], like: Any, read: Callable[[int], np.ndarray]) -> Any:
    """Return the state that `spec` describes, after comparing it with the template `like`."""
    free = isinstance(like, _Free)
    if "array" in spec:
        if not free and (not array_api_compat.is_array_api_obj(like) or list(like.shape) != spec["shape"]):
            raise _misfit(name, f"an array of shape {tuple(spec['shape'])}", like)
        x = read(spec["array"])
        if not free:
            return moved(name, x, spec["order"], like, like.dtype)
        return moved(name, x, spec["order"], like.target, like.dtype if x.dtype.kind == "f" else None)
    if "value" in spec:
        if not free and type(like) is not type(spec["value"]):
            raise _misfit(name, repr(spec["value"]), like)
        return spec["value"]

    kind, parts = spec["kind"], spec["parts"]
    found = None if free else _parts(like)
    if not free and (found is None or found[:2] != (kind, spec["class"]) or set(found[2]) != set(parts)):
        raise _misfit(name, f"{spec['class']}({', '.join(parts)})", like)
    cls = _own_class(name, spec) if free else type(like)
    values = {
        key: _build(f"{name}.{key}", part, found[2][key] if found else like, read)
        for key, part in parts.items()
    }
    if kind == "namedtuple":
        return cls(**values)
    return values if kind == "dict" else cls(values.values())


def _own_class(name: str, spec: dict[str, Any]) -> Any:
    """Return the class that the file names: a built-in container, or a NamedTuple of psgd_core or optax."""
    for cls in (tuple, list, dict):
        if spec["kind"] == cls.__name__:
            return cls
    for cls in tuple.__subclasses__():
        own = cls.__module__.split(".")[0] in ("psgd_core", "optax")
        if own and cls.__name__ == spec["class"] and getattr(cls, "_fields", None) == tuple(spec["parts"]):
            return cls
    raise Misfit(
        f"`{name}` is {spec['class']}({', '.join(spec['parts'])}), not a state that this psgd_core knows; "
        "pass a state of the same structure as `like`"
    )


def _misfit(name: str, what: str, like: Any) -> Misfit:
    found = _parts(like)
    if array_api_compat.is_array_api_obj(like):
        there = f"an array of shape {tuple(like.shape)}"
    else:
        there = repr(like) if found is None else f"{found[1]}({', '.join(found[2])})"
    return Misfit(f"`{name}` is {what}, in `like` it is {there}; pass a state of the saved configuration")


def _arrays(
    path: StrPath, header: dict[str, Any], stored: Sequence[Stored]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the (dtype, shape) of all arrays by name, after verifying that `save` wrote the header.

    Each stored array must belong to one place of the structure, in order, and fit what that says.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {}

    def walk(name: str, spec: Any, depth: int) -> None:
        require(type(spec) is dict and depth <= _DEEPEST, f"`{name}` nests too deeply or is no part")
        if set(spec) == {"array", "dtype", "shape", "order"}:
            shape, order, i = spec["shape"], spec["order"], len(found)
            numbers = [spec["array"], *shape, *order]
            require(all(type(x) is int and x >= 0 for x in numbers), f"`{name}` has a shape of other things")
            require(sorted(order) == list(range(len(shape))), f"`{name}` has no order of axes")
            require(spec["array"] == i < len(stored), f"`{name}` is not the array {i} of {len(stored)}")
            there = spec["dtype"], tuple(shape[axis] for axis in order)
            require((stored[i].dtype.name, stored[i].shape) == there, f"`{name}` is {stored[i]} in the file")
            require(stored[i].dtype.isnative and spec["dtype"] in DTYPES, f"`{name}` is no array of numbers")
            found[name] = spec["dtype"], tuple(shape)
        elif set(spec) == {"value"}:
            require(type(spec["value"]) in _VALUES, f"`{name}` is no value")
        else:
            require(set(spec) == {"kind", "class", "parts"}, f"`{name}` is no part")
            kind, parts = spec["kind"], spec["parts"]
            require(kind in ("namedtuple", "tuple", "list", "dict"), f"`{name}` is a {kind}")
            require(kind == "namedtuple" or spec["class"] == kind, f"`{name}` is a {spec['class']}")
            require(type(spec["class"]) is str and type(parts) is dict, f"`{name}` has no parts")
            if kind in ("tuple", "list"):
                require(list(parts) == [str(j) for j in range(len(parts))], f"`{name}` has other parts")
            for key, part in parts.items():
                walk(f"{name}.{key}", part, depth + 1)

    def require(ok: bool, what: str) -> None:
        if not ok:
            raise ValueError(what)

    try:
        require(set(header) == {"version", "structure", "config", "metadata"}, "it has other entries")
        walk("state", header["structure"], 0)
        require(len(found) == len(stored), f"it names {len(found)} arrays of {len(stored)}")
        require(is_fingerprint(header["config"]), "its configuration is none")
    except Exception as error:  # a forged header may cause any
        raise CheckpointError(
            f"{os.fspath(path)!r} has a header that `save` did not write: {str(error)[:200]!r}; do not use it"
        ) from error
    return found
