"""The form of a state: how its tuples are nested, and what dtypes and shapes its arrays have.

A form is a nested tuple: ``(class, form of each part)`` for a tuple, ``(dtype by name, shape)`` for an array.
Two states that one configuration makes for the same n and dtype have equal forms, whatever the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from ..arrays.lanes import Lanes
from ..arrays.library import Array, namespace, require_arrays
from ..arrays.trees import leaves_with_names
from ..groups.layouts import is_gathered
from ..groups.orbits import OrbitBlocks, OrbitGroup
from ..kernels import Layout

if TYPE_CHECKING:
    from .base import Preconditioner
    from .checked import Checked

Form = tuple[Any, ...]

COUNTERS: Form = (("bool", ()), ("int32", ()), ("int32", ()), ("int32", ()))
"""Those of all counters but the damping."""

COMPLEX = {"float32": "complex64", "float64": "complex128"}
"""The complex dtype of a real one, by name."""

_OF_NUMPY = frozenset((np.ndarray, np.bool_, np.int32, np.float32, np.float64))


def require_state(p: Checked[Any], state: Any) -> tuple[int, Array]:
    """Raise unless `state` has the form of a state that `p` makes; return n and its first array.

    O(1), no values are looked at.
    """
    tokens: list[Any] = []
    plain: list[Any] = []  # leaves of NumPy
    others: list[Any] = []
    todo = [state]
    while todo:  # a loop and no recursion: this is asked in every call
        part = todo.pop()
        if type(part) in _OF_NUMPY:
            plain.append(part)
            tokens += part.dtype, part.shape
        elif isinstance(part, tuple):
            tokens += type(part), len(part)
            todo += part[::-1]
        else:
            others.append(part)
            is_like_array = hasattr(part, "dtype") and hasattr(part, "shape")
            tokens += (part.dtype, part.shape) if is_like_array else (type(part), None)
    if not others or (not plain and (_are_tensors(others) or _are_lanes(others))):
        n = _require_tokens(p, tuple(tokens))
    else:
        require_one_library("state", state)
        n = p._require_form(_nested(iter(tokens)))
    return n, (plain or others)[0]


@lru_cache(maxsize=1024)
def _require_tokens(p: Checked[Any], tokens: tuple[Any, ...]) -> int:
    """Check the form that these tokens spell, once for each form that is right; return n."""
    return p._require_form(_nested(iter(tokens)))


def _nested(tokens: Iterator[Any]) -> Form:
    first, second = next(tokens), next(tokens)
    if isinstance(first, type) and issubclass(first, tuple):
        return (first, *[_nested(tokens) for _ in range(second)])
    return (first,) if second is None else (_name(first), tuple(second))


def _name(dtype: Any) -> str:
    """Return the name of a dtype of any library; another byte order gives another name."""
    return str(getattr(dtype, "name", dtype) if getattr(dtype, "isnative", True) else dtype).rsplit(".")[-1]


def _are_tensors(leaves: list[Any]) -> bool:
    """Return whether these are dense PyTorch tensors, not of a subclass, all on one device."""
    if not array_api_compat.is_torch_array(leaves[0]):
        return False
    import torch

    tensor, strided = torch.Tensor, torch.strided
    for x in leaves:
        if type(x) is not tensor or x.layout is not strided:
            return False
    return all(x.is_cpu for x in leaves) or len({x.device for x in leaves}) == 1


def _are_lanes(leaves: list[Any]) -> bool:
    """Return whether these are NumPy arrays that stand for many."""
    return all(type(x) is Lanes and type(x.data) is np.ndarray for x in leaves)


def require_one_library(name: str, tree: Any) -> None:
    """Raise unless the leaves of a tree are arrays of one library and, of PyTorch, on one device."""
    leaves = dict(leaves_with_names(tree, name))
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


def blocks_form(group: OrbitGroup, seen: Form, real: str) -> tuple[int, Layout, Form]:
    """Return n, its layout, and the form that the `OrbitBlocks` of a group must have, given one they have."""
    _, (_, *blocks), (_, *gather) = seen
    n = sum(s * c for _, (s, _, c) in blocks)
    if n < 1:
        raise ValueError("a state of nothing")
    layout = group.layout(n)
    order: Form = ()
    if gather or is_gathered(layout):
        order = ((gather[0][0] if gather[0][0] == "int32" else "int64", (n,)),) * 2
    shapes = [(real, (s, s, c)) for s, c, _, _ in layout]
    return n, layout, (OrbitBlocks, (tuple, *shapes), (tuple, *order))


def require_usable(p: Preconditioner[Any], state: Any, like: Array) -> None:
    """Raise ValueError if a state is not finite or its Q not invertible (waits for the device)."""
    xp = namespace(like)
    for name, leaf in leaves_with_names(state, type(state).__name__):
        floating = xp.isdtype(leaf.dtype, ("real floating", "complex floating"))
        if floating and not bool(xp.all(xp.isfinite(leaf))):
            raise ValueError(
                f"`{name}` must be finite, got NaN or Inf; "
                "go back to an earlier state and lower the step or raise the damping"
            )
    if not bool(xp.isfinite(p.log_det(state))):
        raise ValueError("`state` must hold an invertible Q, got a singular one; go back to an earlier state")


def first_dtype(form: Form) -> Any:
    """Return the dtype, by name, of the first array."""
    return first_dtype(form[1]) if _is_tuple(form) else form[0]


def _is_tuple(form: Form) -> bool:
    return isinstance(form[0], type) and issubclass(form[0], tuple)


def _described(form: Form) -> str:
    if _is_tuple(form):
        return f"a {form[0].__name__} of {len(form) - 1}"
    return getattr(form[0], "__name__", str(form[0])) + (f" of shape {form[1]}" if len(form) > 1 else "")
