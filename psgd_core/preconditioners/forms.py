"""The form of a state: how its tuples are nested, and what dtypes and shapes its arrays have.

A form is a nested tuple. Of a tuple it is ``(class, form of each part)``, of an array ``(dtype, shape)``. Two
states that one configuration makes for the same n, dtype and library have equal forms.
"""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from ..arrays.library import require_arrays

Form = tuple[Any, ...]

_OF_NUMPY = frozenset((np.ndarray, np.bool_, np.int32, np.float32, np.float64))
_COMPLEX = {"float32": "complex64", "float64": "complex128"}


def form_of(tree: Any, others: list[Any]) -> Form:
    """Return the form of nested tuples, and append what is neither a tuple nor of NumPy to `others`.

    Of what is no array it may be ``(class,)``. This is asked for in every call, so it asks for little.
    """
    found: list[Any] = [type(tree)]
    for part in tree:
        if type(part) in _OF_NUMPY:
            found.append((part.dtype, part.shape))
        elif isinstance(part, tuple):
            found.append(form_of(part, others))
        else:
            others.append(part)
            looks_so = hasattr(part, "dtype") and hasattr(part, "shape")
            found.append((part.dtype, part.shape) if looks_so else (type(part),))
    return tuple(found)


def are_tensors(others: list[Any]) -> bool:
    """Return whether these are dense PyTorch tensors of no other class, all on one device."""
    first = others[0]
    if not array_api_compat.is_torch_array(first):
        return False
    import torch

    tensor, strided = torch.Tensor, torch.strided
    for x in others:
        if type(x) is not tensor or x.layout is not strided:
            return False
    if all(x.is_cpu for x in others):
        return True
    return len({x.device for x in others}) == 1


def require_one_library(name: str, tree: Any) -> None:
    """Raise unless the leaves of a tree are arrays of one library and, of PyTorch, on one device."""
    leaves = dict(named(name, tree))
    require_arrays(**leaves)
    devices = {str(x.device) for x in leaves.values() if array_api_compat.is_torch_array(x)}
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


def counters_form(seen: Form, real: Any) -> Form:
    """Return the forms that the counters must have, in place of those seen; `real` sets the library."""
    wanted = (real, "bool", "int32", "int32", "int32")[-len(seen) :]
    return tuple(
        (x[0] if _name(x[0]) == _name(y) and _library(x[0]) == _library(real) else y, ())
        for x, y in zip(seen, wanted, strict=True)
    )


def _library(dtype: Any) -> str:
    return type(dtype).__module__.split(".")[0]


def is_real(dtype: Any) -> bool:
    """Return whether it is float32 or float64, in the machine's order of bytes."""
    return _name(dtype) in _COMPLEX


def is_complex_of(dtype: Any, real: Any) -> bool:
    """Return whether a dtype is the complex one of a real one."""
    return _COMPLEX.get(_name(real)) == _name(dtype)


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
