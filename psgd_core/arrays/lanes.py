"""One function for many arguments at once: as many calls of the library as for one of them.

``vmap(f)(x)`` is f of every ``x[i]``, stacked. JAX does this by itself. For all other libraries `f` is called
once, on arrays that stand for as many as there are (`Lanes`): their namespace hands the functions of the
array API on to the library with one more axis, the lanes, *last*. So

- shapes broadcast as they would without it (missing axes are added in front), and
- entry (i, j) of all lanes is one contiguous vector, as in `batched`.

What f makes of no argument, such as zeros, is the same for all: there the axis has length one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import array_api_compat
import numpy as np

from .lane_matrices import Linalg, back, front, matmul
from .library import at_hand, is_array, namespace
from .trees import leaves_with_names, mapped


def vmap(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` over a leading axis of all arrays in its arguments, and in what it returns.

    Arguments and results are trees of arrays (`trees`). Arguments that are none, such as numbers and None,
    are the same for all. The function must not ask for values: with arrays that stand for many there is no
    one answer.
    """

    def over_all(*args: Any) -> Any:
        many = [i for i, x in enumerate(args) if isinstance(x, tuple | list | dict) or is_array(x)]

        def of_many(*trees: Any) -> Any:
            given = dict(zip(many, trees, strict=True))
            return function(*(given.get(i, x) for i, x in enumerate(args)))

        trees = [args[i] for i in many]
        first = leaves_with_names(trees, "")[0][1]
        if array_api_compat.is_jax_array(first):
            import jax

            return jax.vmap(of_many)(*trees)
        found = of_many(*mapped(lambda x: Lanes(back(x)), trees))
        return mapped(lambda x: x.whole(first.shape[0]), found)

    return over_all


class Lanes:
    """An array that stands for many: the axis over them comes last in `data`, and shows nowhere else."""

    __slots__ = ("data",)
    __array_ufunc__ = None  # NumPy's numbers leave arithmetic to this class

    def __init__(self, data: Any) -> None:
        self.data = data

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return _over(namespace(self.data))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each."""
        return tuple(self.data.shape[:-1])

    @property
    def ndim(self) -> int:
        """The number of axes of each."""
        return len(self.data.shape) - 1

    @property
    def dtype(self) -> Any:
        """The dtype."""
        return self.data.dtype

    @property
    def device(self) -> Any:
        """The device."""
        return array_api_compat.device(self.data)

    @property
    def T(self) -> Lanes:
        """Each matrix transposed."""
        return Lanes(namespace(self.data).permute_dims(self.data, (1, 0, 2)))

    def whole(self, count: int) -> Any:
        """Return an array of the library with the lanes, `count` of them, as its leading axis."""
        xp, data = namespace(self.data), self.data
        if data.shape[-1] != count:  # the same for all
            data = xp.asarray(xp.broadcast_to(data, (*self.shape, count)), copy=True)
        return front(data)

    def agreed(self) -> bool | None:
        """Return the value of a flag if it is at hand and the same for all, else None."""
        if not at_hand(self.data):
            return None
        value = bool(self.data[0])
        same = bool(self.data.all()) if value else not bool(self.data.any())
        return value if same else None

    def __getitem__(self, key: Any) -> Lanes:
        key = key if isinstance(key, tuple) else (key,)
        return Lanes(self.data[(*key, slice(None) if Ellipsis in key else Ellipsis)])

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Lanes]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        raise TypeError("an array that stands for many has no one truth value; use `where`")

    def __float__(self) -> float:
        raise TypeError("an array that stands for many has no one value")

    __int__ = __index__ = __float__

    def __matmul__(self, other: Lanes) -> Lanes:
        return _matmul(self, other)

    def __repr__(self) -> str:
        return f"Lanes({self.data!r})"


_NUMBERS = bool, int, float, complex, np.generic


def _operators() -> None:
    """Give `Lanes` the operators of arrays."""

    def binary(op: Callable[..., Any]) -> Callable[..., Any]:
        def applied(x: Lanes, y: Any) -> Any:
            if type(y) is Lanes:
                return Lanes(op(x.data, y.data))
            return Lanes(op(x.data, y)) if isinstance(y, _NUMBERS) else NotImplemented

        return applied

    def reflected(op: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, y: Lanes(op(y, x.data)) if isinstance(y, _NUMBERS) else NotImplemented

    def unary(op: Callable[..., Any]) -> Callable[..., Lanes]:
        return lambda x: Lanes(op(x.data))

    for name in ("add", "sub", "mul", "truediv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"):
        op = getattr(operator, f"__{name}__")
        setattr(Lanes, f"__{name}__", binary(op))
        setattr(Lanes, f"__r{name}__", reflected(op))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Lanes, f"__{name}__", binary(getattr(operator, name)))
    for name in ("neg", "abs", "invert"):
        setattr(Lanes, f"__{name}__", unary(getattr(operator, name)))


_operators()


@cache
def _over(xp: Any) -> _Namespace:
    return _Namespace(xp)


class _Namespace:
    """The functions of a library for `Lanes`: those of each element as they are, the others as said here."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.linalg = _Wrapped(Linalg(xp))
        self.__name__ = f"many at once of {xp.__name__}"

    def __getattr__(self, name: str) -> Any:
        there = getattr(self.xp, name)
        if name in _OF_ELEMENTS:
            found = _wrapped(there)
        elif name in _MAKERS:
            found = _maker(there)
        elif name in _REDUCTIONS:
            found = _reduction(there)
        elif name in _OF_DTYPES or isinstance(there, type) or not callable(there):
            found = there
        else:
            raise AttributeError(f"`{name}` is not among the functions that work on many arrays at once")
        setattr(self, name, found)
        return found

    def matmul(self, x: Lanes, y: Lanes) -> Lanes:
        return _matmul(x, y)

    def permute_dims(self, x: Lanes, axes: tuple[int, ...]) -> Lanes:
        return Lanes(self.xp.permute_dims(x.data, (*axes, x.ndim)))

    def matrix_transpose(self, x: Lanes) -> Lanes:
        return self.permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))

    def reshape(self, x: Lanes, shape: tuple[int, ...]) -> Lanes:
        return Lanes(self.xp.reshape(x.data, (*shape, x.data.shape[-1])))

    def broadcast_to(self, x: Lanes, shape: tuple[int, ...]) -> Lanes:
        return Lanes(self.xp.broadcast_to(x.data, (*shape, x.data.shape[-1])))

    def flip(self, x: Lanes, *, axis: int) -> Lanes:
        return Lanes(self.xp.flip(x.data, axis=_place(axis, x.ndim)))

    def sort(self, x: Lanes, *, axis: int = -1) -> Lanes:
        return Lanes(self.xp.sort(x.data, axis=_place(axis, x.ndim)))

    def triu(self, x: Lanes, *, k: int = 0) -> Lanes:
        return Lanes(back(self.xp.triu(front(x.data), k=k)))

    def tril(self, x: Lanes, *, k: int = 0) -> Lanes:
        return Lanes(back(self.xp.tril(front(x.data), k=k)))

    def concat(self, arrays: Any, *, axis: int = 0) -> Lanes:
        return Lanes(self.xp.concat(self._alike(*arrays), axis=_place(axis, arrays[0].ndim)))

    def stack(self, arrays: Any, *, axis: int = 0) -> Lanes:
        return Lanes(self.xp.stack(self._alike(*arrays), axis=_place(axis, arrays[0].ndim + 1)))

    def take(self, x: Lanes, indices: Lanes, *, axis: int = 0) -> Lanes:
        if indices.data.shape[-1] == 1:
            return Lanes(self.xp.take(x.data, indices.data[:, 0], axis=_place(axis, x.ndim)))
        # bring the axis to the front, and find the rows of all lanes in one long axis
        rest = [i for i in range(x.ndim) if i != _place(axis, x.ndim)]
        rows = self.permute_dims(x, (*rest, _place(axis, x.ndim)))
        data, at = self._alike(rows, indices)
        count = at.shape[-1]
        at = at * count + self.xp.arange(count, dtype=at.dtype, device=indices.device)
        flat = self.xp.reshape(data, (*data.shape[:-2], -1))
        found = self.xp.take(flat, self.xp.reshape(at, (-1,)), axis=len(rest))
        taken = Lanes(self.xp.reshape(found, (*data.shape[:-2], *at.shape)))
        order = list(range(len(rest)))
        order.insert(_place(axis, x.ndim), len(rest))
        return self.permute_dims(taken, tuple(order))

    def _alike(self, *arrays: Lanes) -> list[Any]:
        """Return the data of arrays, all over the same number of lanes."""
        count = max(x.data.shape[-1] for x in arrays)
        return [
            x.data if x.data.shape[-1] == count else self.xp.broadcast_to(x.data, (*x.shape, count))
            for x in arrays
        ]


class _Wrapped:
    """Functions of data as functions of `Lanes`."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        found = _wrapped(getattr(self._functions, name))
        setattr(self, name, found)
        return found


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of data as one of `Lanes`, and of what else there is."""

    def applied(*args: Any, **options: Any) -> Any:
        found = function(*[x.data if type(x) is Lanes else x for x in args], **options)
        if not isinstance(found, tuple):
            return Lanes(found)
        parts = [Lanes(part) for part in found]
        return type(found)(*parts) if hasattr(found, "_fields") else type(found)(parts)

    return applied


def _maker(function: Callable[..., Any]) -> Callable[..., Any]:
    def made(*args: Any, **options: Any) -> Lanes:
        if args and type(args[0]) is Lanes:  # `asarray`, to copy it
            return Lanes(function(args[0].data, **options))
        return Lanes(function(*args, **options)[..., None])

    return made


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduced(x: Lanes, *, axis: Any = None, keepdims: bool = False) -> Lanes:
        axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        places = tuple(_place(i, x.ndim) for i in axes)
        return Lanes(function(x.data, axis=places, keepdims=keepdims)) if places else x

    return reduced


def _place(axis: int, ndim: int) -> int:
    """Return an axis as counted from the front, which the lanes at the end do not change."""
    return axis + ndim if axis < 0 else axis


def _matmul(x: Lanes, y: Lanes) -> Lanes:
    """Return ``x @ y``."""
    if y.ndim == 1:
        return _matmul(x, y[:, None])[..., 0]
    if x.ndim == 1:
        return _matmul(x[None, :], y)[..., 0, :]
    return Lanes(matmul(x.data, y.data))


_NAMES = """
abs astype bitwise_and bitwise_or bitwise_right_shift bitwise_xor ceil clip conj cos exp expm1 floor
full_like hypot imag isfinite isinf isnan log log1p log2 logical_and logical_not logical_or maximum minimum
ones_like pow real remainder round sign sin sqrt square tanh where zeros_like
"""
_OF_ELEMENTS = frozenset(_NAMES.split())
_MAKERS = frozenset({"arange", "asarray", "empty", "eye", "full", "ones", "zeros"})
_REDUCTIONS = frozenset({"all", "any", "max", "mean", "min", "prod", "sum"})
_OF_DTYPES = frozenset({"finfo", "iinfo", "isdtype", "result_type"})
