"""The form of a state: how its tuples are nested, and what dtypes and shapes its arrays have.

A form is a nested tuple. Of a tuple it is ``(class, form of each part)``, of an array ``(dtype, shape)``. Two
states that one configuration makes for the same n, dtype and library have equal forms.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import array_api_compat
import numpy as np

from .._array import Array, namespace

Form = tuple[Any, ...]

_OF_NUMPY = (np.ndarray, np.bool_, np.int32, np.float32, np.float64)
_NUMPYS = np.dtype(np.bool_), np.dtype(np.int32)
_COMPLEX = {"float32": "complex64", "float64": "complex128"}


def form_of(tree: Any, leaves: list[Any]) -> Form:
    """Return the form of nested tuples, and append what is no tuple to `leaves`; of no array it is its class."""
    kind = type(tree)
    if kind in _OF_NUMPY:
        leaves.append(tree)
        return tree.dtype, tree.shape
    if isinstance(tree, tuple):
        return (kind, *[form_of(part, leaves) for part in tree])
    leaves.append(tree)
    if not array_api_compat.is_array_api_obj(tree):
        return (kind,)
    return tree.dtype, tuple(tree.shape)


def require_one_library(name: str, tree: Any, leaves: list[Any]) -> None:
    """Raise unless the leaves of a tree are arrays of one library and, of PyTorch, on one device."""
    kinds = set(map(type, leaves))
    if kinds.issubset(_OF_NUMPY):
        return
    namespace(**dict(named(name, tree)))
    devices = {str(x.device) for x in leaves if array_api_compat.is_torch_array(x)}
    if len(devices) > 1:
        raise ValueError(f"`{name}` must be on one device, got {', '.join(sorted(devices))}; move it to one")


def require_form(name: str, seen: Form, wanted: Form) -> None:
    """Raise ValueError or TypeError about the first place where a form is not the wanted one."""
    if seen == wanted:
        return
    if isinstance(seen[0], type) and seen[0] is wanted[0] and len(seen) == len(wanted):
        names = getattr(seen[0], "_fields", range(len(seen) - 1))
        for key, part, other in zip(names, seen[1:], wanted[1:], strict=True):
            require_form(f"{name}.{key}", part, other)
    wrong_dtype = not (_is_tuple(seen) or _is_tuple(wanted)) and seen[0] != wanted[0]
    raise (TypeError if wrong_dtype else ValueError)(
        f"`{name}` must be {_described(wanted)}, got {_described(seen)}; make a state of this preconditioner "
        "with `init`, and do not change its arrays"
    )


def _is_tuple(form: Form) -> bool:
    return isinstance(form[0], type) and issubclass(form[0], tuple)


def _described(form: Form) -> str:
    if _is_tuple(form):
        return f"a {form[0].__name__} of {len(form) - 1}"
    return getattr(form[0], "__name__", str(form[0])) + (f" of shape {form[1]}" if len(form) > 1 else "")


def counters_form(like: Array) -> Form:
    """Return the forms of `Counters` whose damping has the dtype and library of an array."""
    if type(like) in _OF_NUMPY:
        return _of_counters(like.dtype, *_NUMPYS)
    xp = array_api_compat.array_namespace(like)
    return _of_counters(like.dtype, xp.bool, xp.int32)


def _of_counters(real: Any, flag: Any, index: Any) -> Form:
    return (real, ()), (flag, ()), (index, ()), (index, ()), (index, ())


@lru_cache(maxsize=64)
def is_real(dtype: Any) -> bool:
    """Return whether it is float32 or float64, in the machine's order of bytes."""
    return _name(dtype) in _COMPLEX


@lru_cache(maxsize=64)
def is_complex_of(dtype: Any, real: Any) -> bool:
    """Return whether a dtype is the complex one of a real one."""
    return _COMPLEX.get(_name(real)) == _name(dtype)


@lru_cache(maxsize=64)
def is_index(dtype: Any) -> bool:
    """Return whether it is int32 or int64."""
    return _name(dtype) in ("int32", "int64")


def _name(dtype: Any) -> str:
    """Return the name of a dtype of any library; of another order of bytes it is another name."""
    return str(getattr(dtype, "name", dtype) if getattr(dtype, "isnative", True) else dtype).rsplit(".")[-1]


def named(name: str, tree: Any) -> list[tuple[str, Any]]:
    """Return the leaves of nested tuples with their names."""
    if not isinstance(tree, tuple):
        return [(name, tree)]
    names = getattr(tree, "_fields", range(len(tree)))
    return [leaf for key, part in zip(names, tree, strict=True) for leaf in named(f"{name}.{key}", part)]
