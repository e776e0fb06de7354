"""A stand-in for CuPy over NumPy: its names and parameters alone, and arrays whose values are on a device.

Only what the installed CuPy has is here (`cupy_names`), and takes what it takes there. Arrays do not mix with
the host's: not in arithmetic, not as indices, not as arguments. Whoever asks for a value (``float``, ``if``,
``get``, an index that is a mask) waits for the device, which is counted, and refused where `unseen` is on.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import operator
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
from cupy_names import has, names, signature, signature_in_file

import psgd_core as psgd
from psgd_core import kernels


class Looks:
    """How often the host has asked for a value."""

    count = 0
    refused = False

    @classmethod
    def take(cls, what: str) -> None:
        """Count one, or refuse it."""
        if cls.refused:
            raise AssertionError(f"{what} asks for a value, which waits for the device")
        cls.count += 1


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Refuse whoever asks for a value."""
    before, Looks.refused = Looks.refused, True
    try:
        yield
    finally:
        Looks.refused = before


class Device:
    """The one device there is, whatever number it is asked for by."""

    id = 0

    def __init__(self, device: Any = None) -> None:
        assert device is None or device == self or device == 0

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    def __hash__(self) -> int:
        return hash(Device)

    def __repr__(self) -> str:
        return "<CUDA Device 0>"


class ndarray:
    """An array whose values are on the device."""

    __array_ufunc__ = None  # NumPy's functions and arrays do not work on it
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not has("ndarray", name):
            raise AttributeError(f"'ndarray' object has no attribute {name!r}")
        if name == "device":
            return Device()
        found = getattr(self.values, name)
        if callable(found):
            if name in ("item", "tolist", "nonzero", "tofile", "dump", "dumps"):
                Looks.take(name)
            return functools.partial(called, found, signature("ndarray", name), self)
        return to_device(found)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "values" and not has("ndarray", name):
            raise AttributeError(f"'ndarray' object has no attribute {name!r}")
        object.__setattr__(self, name, value)

    def get(self) -> np.ndarray:
        """Return a copy on the host."""
        Looks.take("get")
        return self.values.copy()

    def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __bool__(self) -> bool:
        Looks.take("bool")
        return bool(self.values)

    def __int__(self) -> int:
        Looks.take("int")
        return int(self.values)

    def __index__(self) -> int:
        Looks.take("index")
        return operator.index(self.values)

    def __float__(self) -> float:
        Looks.take("float")
        return float(self.values)

    def __complex__(self) -> complex:
        Looks.take("complex")
        return complex(self.values)

    def __repr__(self) -> str:
        Looks.take("repr")
        return repr(self.values)

    def __format__(self, how: str) -> str:
        Looks.take("format")
        return format(self.values, how)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        if any(isinstance(part, ndarray) and part.values.dtype == bool for part in parts(key)):
            Looks.take("an index that is a mask")
        return to_device(self.values[to_host(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.values[to_host(key)] = to_host(value)

    def __copy__(self) -> ndarray:
        return ndarray(self.values.copy())

    def __deepcopy__(self, memo: object) -> ndarray:
        return ndarray(self.values.copy())


ndarray.__module__ = "cupy"

SCALARS = (bool, int, float, complex, np.generic)


def _binary(name: str) -> Callable[[ndarray, Any], Any]:
    act = getattr(operator, name)

    def left(self: ndarray, other: Any) -> Any:
        return to_device(act(self.values, _operand(other)))

    return left


def _operand(other: Any) -> Any:
    """Return an operand's values: an array of the device or a number."""
    if isinstance(other, ndarray):
        return other.values
    if isinstance(other, SCALARS):
        return other
    raise TypeError(f"Unsupported type {type(other)}")


def _reflected(name: str) -> Callable[[ndarray, Any], Any]:
    act = getattr(operator, name)
    return lambda self, other: to_device(act(_operand(other), self.values))


def _in_place(name: str) -> Callable[[ndarray, Any], ndarray]:
    act = getattr(operator, name)

    def changed(self: ndarray, other: Any) -> ndarray:
        target = self.values
        act(target, _operand(other))
        return self

    return changed


for _name in [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and_",
    "or_",
    "xor",
    "lshift",
    "rshift",
]:
    _plain = _name.rstrip("_")
    setattr(ndarray, f"__{_plain}__", _binary(_name))
    setattr(ndarray, f"__r{_plain}__", _reflected(_name))
    setattr(ndarray, f"__i{_plain}__", _in_place(f"i{_plain}"))
for _name in ["lt", "le", "gt", "ge", "eq", "ne"]:
    setattr(ndarray, f"__{_name}__", _binary(_name))
for _name in ["neg", "pos", "abs", "invert"]:
    _act = getattr(operator, _name)
    setattr(ndarray, f"__{_name}__", lambda self, act=_act: to_device(act(self.values)))


def parts(key: Any) -> tuple:
    """Return the parts of an index."""
    return key if isinstance(key, tuple) else (key,)


def to_device(x: Any) -> Any:
    """Return what NumPy has returned, with its arrays and scalars on the device."""
    if isinstance(x, np.ndarray | np.generic):
        return ndarray(x)
    if isinstance(x, tuple) and type(x) is not tuple and hasattr(x, "_fields"):
        return tuple(map(to_device, x))  # CuPy has bare tuples
    if isinstance(x, tuple | list):
        return type(x)(map(to_device, x))
    return x


def to_host(x: Any) -> Any:
    """Return an argument for NumPy; the host's arrays are refused."""
    if isinstance(x, ndarray):
        return x.values
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}: an array of the host, shape {x.shape}")
    if isinstance(x, tuple | list):
        return type(x)(map(to_host, x))
    if isinstance(x, slice):
        return slice(*(None if end is None else operator.index(end) for end in (x.start, x.stop, x.step)))
    return x


def called(function: Callable, takes: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what NumPy's function returns, if CuPy's takes these arguments."""
    if takes is not None:
        takes.bind(*args, **kwargs)  # TypeError, as in CuPy
    if args and isinstance(args[0], ndarray) and getattr(function, "__self__", None) is args[0].values:
        args = args[1:]  # bound already
    return to_device(
        _unchecked(function, [to_host(x) for x in args], {k: to_host(x) for k, x in kwargs.items()})
    )


def _unchecked(function: Callable, args: list, kwargs: dict) -> Any:
    """Return what a function returns, with NaN where NumPy finds a matrix singular: CuPy does not look."""
    try:
        return function(*args, **kwargs)
    except np.linalg.LinAlgError:
        if args[0].ndim == 2:
            return np.full_like(args[-1], np.nan)
        each = [_unchecked(function, list(matrices), kwargs) for matrices in zip(*args, strict=True)]
        return np.stack(each)


TAKES_HOST = {"array", "asarray"}
"""Bring the host's values to the device."""

NO_ARRAY = {
    *("arange", "linspace", "empty", "eye", "full", "ones", "zeros", "identity", "tri", "meshgrid"),
    *("result_type", "can_cast", "promote_types", "isdtype", "issubdtype", "finfo", "iinfo", "isscalar"),
    *("where", "concatenate", "stack", "broadcast_shapes"),
}
"""Whose first argument is no array, or a list of them."""

ON_DEVICE = {"allclose", "array_equal", "array_equiv"}
"""Whose flag NumPy returns as Python's, and CuPy leaves on the device."""

WAITS = {"nonzero", "flatnonzero", "argwhere", "unique", "array_repr", "array_str", "save", "savez"}


def _function(place: str, name: str, function: Callable) -> Callable:
    """Return a function that is CuPy's by its name and what it takes, and NumPy's by what it does."""

    @functools.wraps(function)
    def act(*args: Any, **kwargs: Any) -> Any:
        if name in WAITS:
            Looks.take(name)
        if name in TAKES_HOST:
            return _from_host(*args, **kwargs)
        first = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(function, np.ufunc) and name not in NO_ARRAY and not isinstance(first, ndarray):
            listed = isinstance(first, tuple | list) and any(isinstance(x, ndarray) for x in first)
            if not listed:
                raise TypeError(f"cupy.{name} takes an array of the device first, got {type(first)}")
        found = called(function, signature(place, name), *args, **kwargs)
        return ndarray(found) if name in ON_DEVICE else found

    return act


def _from_host(a: Any, dtype: Any = None, *, copy: bool | None = None, **kwargs: Any) -> ndarray:
    """Return values of the host, or an array, on the device."""
    signature("", "array").bind(a, dtype=dtype, copy=copy, **kwargs)
    if isinstance(a, ndarray):
        same = dtype is None or a.values.dtype == np.dtype(dtype)
        return a if same and not copy else ndarray(a.values.astype(dtype or a.values.dtype))
    if isinstance(a, tuple | list) and a and isinstance(a[0], ndarray):
        return ndarray(np.array([x.values for x in a], dtype))
    return ndarray(np.array(a, dtype))


class Generator:
    """Draws on the device."""

    def __init__(self, seed: Any = None) -> None:
        self.numpy = np.random.default_rng(seed)

    def __getattr__(self, name: str) -> Any:
        if not has("random.Generator", name):
            raise AttributeError(f"'Generator' object has no attribute {name!r}")
        return functools.partial(
            called, getattr(self.numpy, name), _method(signature("random.Generator", name))
        )


Generator.__module__ = "cupy.random._generator_api"


def _method(found: Any) -> Any:
    """Return what a method takes besides its object."""
    if found is None:
        return None
    first, *rest = found.parameters.values()
    return found.replace(parameters=rest if first.name == "self" else [first, *rest])


def _module(name: str, place: str, source: Any) -> ModuleType:
    """Return the part of NumPy that CuPy has, too."""
    made = ModuleType(name)
    for key in names(place):
        if not hasattr(source, key):
            continue
        found = getattr(source, key)
        if isinstance(found, ModuleType):
            continue
        plain = isinstance(found, type) or not callable(found)
        setattr(made, key, found if plain else _function(place, key, found))
    return made


class LinearOperator(NamedTuple):
    """A matrix by its products, as in ``cupyx.scipy.sparse.linalg``."""

    shape: tuple[int, int]
    matvec: Callable
    rmatvec: Callable | None = None
    matmat: Callable | None = None
    dtype: Any = None
    rmatmat: Callable | None = None


def _eigsh(a: LinearOperator, *args: Any, **kwargs: Any) -> Any:
    """Return eigenvalues and vectors by SciPy, with products on the device."""
    takes = signature_in_file("scipy/sparse/linalg/_eigen.py", "eigsh")
    takes.bind(a, *args, **kwargs)
    assert kwargs.get("which") in ("LM", "LA", "SA")
    host = scipy.sparse.linalg.LinearOperator(
        a.shape, matvec=lambda x: a.matvec(ndarray(x.ravel().astype(a.dtype))).values, dtype=a.dtype
    )
    return to_device(scipy.sparse.linalg.eigsh(host, *args, **{k: to_host(x) for k, x in kwargs.items()}))


def modules() -> dict[str, ModuleType]:
    """Return the stand-in's modules by the names to import them by."""
    cupy = _module("cupy", "", np)
    cupy.linalg = _module("cupy.linalg", "linalg", np.linalg)
    cupy.fft = _module("cupy.fft", "fft", np.fft)
    cupy.random = ModuleType("cupy.random")
    cupy.random.default_rng, cupy.random.Generator = Generator, Generator
    cupy.cuda, device = ModuleType("cupy.cuda"), ModuleType("cupy.cuda.device")
    cupy.cuda.Device = device.Device = Device
    cupy.cuda.is_available = lambda: True
    cupy.ndarray, cupy.bool_ = ndarray, np.bool_
    cupy.asnumpy = ndarray.get
    cupyx, *over_scipy = (ModuleType(x) for x in ("cupyx", "cupyx.scipy", "cupyx.scipy.sparse"))
    linalg, sparse = (ModuleType(f"cupyx.scipy.{x}") for x in ("linalg", "sparse.linalg"))
    takes = signature_in_file("scipy/linalg/_solve_triangular.py", "solve_triangular")
    linalg.solve_triangular = functools.partial(called, scipy.linalg.solve_triangular, takes)
    sparse.LinearOperator, sparse.eigsh = LinearOperator, _eigsh
    every = (cupy, cupy.linalg, cupy.fft, cupy.random, cupy.cuda, device, cupyx, *over_scipy, linalg, sparse)
    return {x.__name__: x for x in every}


_ours: dict[str, ModuleType] = {}


def _others() -> dict[str, ModuleType]:
    """Return what stands under CuPy's names now."""
    tops = ("cupy", "cupyx", "array_api_compat.cupy")
    return {x: m for x, m in sys.modules.items() if any(x == top or x.startswith(f"{top}.") for top in tops)}


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """Have the stand-in under CuPy's name."""
    before = _others()
    for name in before:
        del sys.modules[name]
    sys.modules.update(_ours or modules())
    try:
        importlib.import_module("array_api_compat.cupy")
        _ours.update(_others())
        yield
    finally:
        for name in _others():
            del sys.modules[name]
        sys.modules.update(before)


VERBS = {
    *("update", "precondition", "apply", "apply_transpose", "solve", "solve_transpose"),
    *("log_det", "matrix", "criterion"),
}
"""Of a preconditioner; none of them asks for a value."""


def _kinds(kind: type) -> Iterator[type]:
    """Yield a class and all that derive from it."""
    yield kind
    for derived in kind.__subclasses__():
        yield from _kinds(derived)


def _without_looks(verb: Callable) -> Callable:
    @functools.wraps(verb)
    def act(*args: Any, **kwargs: Any) -> Any:
        with unseen():
            return verb(*args, **kwargs)

    return act


@contextlib.contextmanager
def with_unseen_verbs() -> Iterator[None]:
    """Have the stand-in under CuPy's name, the plain code, and an error where a verb asks for a value."""
    with in_place(), kernels.off(), pytest.MonkeyPatch.context() as patch:
        for kind in set(_kinds(psgd.Preconditioner)):
            for verb in VERBS & {*vars(kind)}:
                patch.setattr(kind, verb, _without_looks(vars(kind)[verb]))
        yield
