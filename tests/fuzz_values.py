"""Odd values for the fuzzer's calls: numbers, arrays and permutations.

An `Odd` value stands in the place of a clean argument. Where its call is accepted, it must give what the call
with plain inputs gives; where there is no plain input for it, the call must be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

import numpy as np

torch: Any = __import__("torch") if find_spec("torch") else None
jax: Any = __import__("jax") if find_spec("jax") else None


@dataclass(frozen=True)
class Odd:
    """A value in the place of a clean argument."""

    name: str
    make: Callable[[Any], Any]
    plain: Callable[[Any], Any] | None = None
    """What it may stand for, made from the clean argument; None: it must be refused."""


def same(clean: Any) -> Any:
    return clean


def _all(kind: str, values: list[Any], plain: Callable[[Any], Any] | None = None) -> list[Odd]:
    return [Odd(f"{kind} {i}: {_shown(x)}", lambda _, x=x: x, plain) for i, x in enumerate(values)]


def _shown(x: Any) -> str:
    try:
        return f"{type(x).__name__} {x!r}"[:60]
    except ValueError:  # integers of more digits than Python prints
        return f"{type(x).__name__}, long"


class OwnFloat(float):
    """A float of somebody's own."""


class OwnArray(np.ndarray):
    """An array of somebody's own."""


class Falsy:
    """Neither a number nor an array, and raises where it is asked."""

    def __bool__(self) -> bool:
        raise RuntimeError("asked for its truth")

    def __float__(self) -> float:
        raise RuntimeError("asked for its value")


NOTHING = _all(
    "no number",
    ["0.25", b"0.25", "", [0.25], (0.25,), {0.25}, {}, object(), float, len, 1j, 0.25 + 0j,
        np.complex64(0.25),
     np.datetime64("2020-01-01"), np.timedelta64(1, "s"), np.ma.masked, np.array("0.25"), np.array(None),
     np.array([]), np.array([0.25]), np.array([[0.25]]), np.ones((2, 2)), Ellipsis, NotImplemented, "x" * 300,
     np.void(b"1234"), np.array(0.25 + 0j), range(3), Falsy(), np.array([True, False])],
)  # fmt: skip
NOTHING.append(Odd("iterator", lambda _: iter([0.25])))
"""For arguments that take numbers; None is added where it means nothing."""

if torch:
    NOTHING += _all(
        "no number", [torch.tensor([0.25]), torch.ones(2, 2), torch.tensor(0.25 + 0j), torch.float32]
    )
    NOTHING += _all("no number", [torch.tensor(0.25).to_sparse(), torch.empty((), device="meta")])
if jax:
    NOTHING += _all("no number", [jax.numpy.asarray([0.25]), jax.numpy.asarray(0.25 + 0j)])

BOOLS = _all(
    "bool", [True, False, np.True_, np.False_, np.array(True)] + ([torch.tensor(True)] if torch else [])
)
OUTSIDE = _all(
    "outside",
    [float("nan"), float("inf"), -float("inf"), -0.25, np.float32("nan"), np.float64("nan"),
        np.float32("inf"),
     np.array(np.nan), np.array(-0.25, dtype="f4"), -(10**400), Fraction(-(10**400)), -1, np.int64(-1),
     np.longdouble("nan"), np.float16("inf"), np.array(np.inf, dtype=">f8")],
)  # fmt: skip
NO_STEPS = NOTHING + BOOLS + OUTSIDE + _all("outside", [0, 1, 0.0, -0.0, 1.0, 1.5, np.float32(1.5),
    np.array(1.5), 10**400,
    Fraction(10**400), 10**5000, Fraction(5, 4), np.int64(1), np.uint8(0), np.array(0), np.array(1,
        dtype="i8"), None, Decimal(2)])  # fmt: skip
NO_SCALES = (
    NOTHING
    + BOOLS
    + OUTSIDE
    + _all("outside", [0, -0.0, np.float32(0), np.array(0), 10**400, 10**5000, 1e-320, 1e-200, 1e200])
)


def _numbers() -> list[Odd]:
    makers: list[Callable[[Any], Any]] = [
        np.float16, np.float32, np.float64, np.longdouble, OwnFloat, Fraction, Decimal, np.array,
        lambda c: np.array(c, dtype="f4"), lambda c: np.array(c, dtype="f2"), lambda c: np.array(c,
        dtype=">f8"),
        lambda c: np.array(c, dtype="g"), lambda c: np.array(c, dtype=object), np.ma.array,
        lambda c: np.array(c).view(OwnArray), lambda c: np.array([c])[0], lambda c: np.broadcast_to(c, ()),
    ]  # fmt: skip
    if torch:
        makers += [
            torch.tensor, lambda c: torch.tensor(c, dtype=torch.float64), lambda c: torch.tensor(c,
                dtype=torch.bfloat16),
            lambda c: torch.tensor(c, requires_grad=True), lambda c: torch.nn.Parameter(torch.tensor(c)),
            lambda c: torch.tensor([c])[0],
        ]  # fmt: skip
    if jax:
        makers += [jax.numpy.asarray, lambda c: jax.numpy.asarray(c, dtype="bfloat16")]
    return [Odd(f"number {i}: {_shown(make(0.25))}", make, same) for i, make in enumerate(makers)]


NUMBERS = _numbers()
"""Exact in every dtype where the clean number is; all of them stand for it."""

STEPS, SCALES = NUMBERS + NO_STEPS, NUMBERS + NO_SCALES + _all("none", [None], lambda _: None)
FLAGS = _all("flag", [np.True_], lambda _: True) + _all("flag", [np.False_], lambda _: False)
FLAGS += list(NOTHING) + _all("no flag", [1, 0, None, "yes", np.array([1, 2]), np.array(True)])
COUNTS = [Odd(f"count {t.__name__}", t, same) for t in (np.int64, np.int8, np.uint16, np.intc, np.array)]
COUNTS += NOTHING + BOOLS + OUTSIDE + [Odd("float", float), Odd("text", str), Odd("np.float64", np.float64)]
COUNTS += _all("outside", [0, None, 10**30, 10**5000, 2**62, 2.5, np.float32(1)])


_ANY = (
    NOTHING
    + BOOLS
    + OUTSIDE
    + _all("outside", [0, None, 10**5000, "EQU", np.array("EQ"), np.array(["EQ", "QE"])])
)
_PERM = _all(
    "no permutation",
    [
        (0, 0, 1),
        (0, 1),
        (0, 1, 3),
        (0, 1, -1),
        (0.0, 1.0, 2.0),
        ((0, 1), (2,)),
        "012",
        np.array([2**63, 0, 1], dtype="u8"),
        (True, False, True),
        (10**30, 0, 1),
        np.ma.array([1, 0, 2], mask=[1, 0, 0]),
        [["a"]],
        (None, 1, 2),
        np.zeros(3, "M8[s]"),
    ],
)
_PERM += [
    Odd(f"perm {i}", m, same)
    for i, m in enumerate(
        [
            list,
            np.array,
            lambda c: np.array(c, dtype="u1"),
            lambda c: np.array(c, dtype=">i4"),
            lambda c: np.array(c, dtype="i8"),
        ]
    )
]
KINDS = {
    "count": COUNTS,
    "scale": NUMBERS + NOTHING + BOOLS + [x for x in OUTSIDE if "inf" not in x.name],
    "decay": NUMBERS + NO_STEPS,
    "perm": _PERM + [x for x in NOTHING if "range" not in x.name] + BOOLS + OUTSIDE,
    "perms": [
        Odd(x.name, lambda c, x=x: (*c, x.make(c[-1])), None if x.plain is None else same) for x in _PERM
    ]
    + NOTHING,
    "shape": [
        Odd(x.name, lambda c, x=x: (x.make(2), *c[1:]), None if x.plain is None else same) for x in COUNTS
    ]
    + NOTHING,
    None: _ANY,
}
"""What may stand in the place of an argument, by its kind."""

# -- arrays --------------------------------------------------------------------------------------------------


def _unaligned(x: np.ndarray) -> np.ndarray:
    raw = np.zeros(x.nbytes + 1, dtype=np.uint8)
    found = raw[1:].view(x.dtype).reshape(x.shape)
    found[...] = x
    return found


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def _other_float(x: Any) -> Any:
    return x.astype({"f": "d", "d": "f", "F": "D", "D": "F"}[x.dtype.char])


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "copy": np.copy,
    "read-only": _read_only,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "Fortran": np.asfortranarray,
    "unaligned": _unaligned,
    "own class": lambda x: x.copy().view(OwnArray),
    "wide strides": lambda x: np.stack([x, x], axis=-1)[..., 0],
    "frombuffer": lambda x: np.frombuffer(x.tobytes(), dtype=x.dtype).reshape(x.shape),
}
NO_ARRAYS: dict[str, Callable[[Any], Any]] = {
    "list": lambda x: x.tolist(), "tuple": lambda x: tuple(x.tolist()), "number": lambda x: 1.0,
    "0-d": lambda x: x.reshape(-1)[:1].reshape(()),
    "scalar": lambda x: x.dtype.type(1), "text": lambda x: "abc", "dict": lambda x: {"a": x},
    "object()": lambda x: object(),
    "matrix": np.matrix, "masked": np.ma.array,
    "masked some": lambda x: np.ma.masked_greater(x, 0), "masked 1": lambda x: np.ma.masked,
    "object": lambda x: x.astype(object), "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "half": lambda x: np.real(x).astype("f2"),
    "longdouble": lambda x: np.real(x).astype("g"), "int": lambda x: np.ones(x.shape, int),
    "bool": lambda x: np.ones(x.shape, bool),
    "text array": lambda x: np.full(x.shape, "a"), "dates": lambda x: np.zeros(x.shape, "M8[s]"),
    "other float": _other_float,
    "records": lambda x: np.zeros(x.shape, "f4,f4"), "memoryview": lambda x: memoryview(x.copy()),
    "class": lambda x: np.ndarray,
    "recarray": lambda x: np.rec.array([(1.0,)] * len(x)), "generator": iter, "Falsy": lambda x: Falsy(),
    "bytes": lambda x: x.tobytes(),
    "uint8": lambda x: np.ones(x.shape, "u1"),
}  # fmt: skip
ELSEWHERE = ("other float", "meta", "numpy", "torch", "jax")
"""Fair where nothing has to agree with it."""

NO_COLUMNS = "no columns"
_NO_SHAPES: dict[str, Callable[[Any], Any]] = {
    "longer": lambda x: np.concatenate([x, x]), "shorter": lambda x: x[:-1], "empty": lambda x: x[:0],
    "one": lambda x: x[:1] if len(x) > 1 else x[:0],
    NO_COLUMNS: lambda x: x.reshape(len(x), -1)[:, :0], "3-d": lambda x: x.reshape(len(x), -1)[:, :, None],
        "row": lambda x: np.concatenate([x, x])[None],
}  # fmt: skip


def _on_torch(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def made(x: Any) -> Any:
        found = make(x.numpy())
        try:
            return torch.from_numpy(found) if type(found) is np.ndarray else found
        except (TypeError, ValueError):  # a dtype that it has not
            return found

    return made


def vectors(library: str) -> list[Odd]:
    """Return what may stand in the place of an array of this library."""
    if library == "numpy":
        odd = [Odd(name, make, same) for name, make in LAYOUTS.items()]
        odd += [Odd(name, make) for name, make in NO_ARRAYS.items()]
        odd += [Odd(name, make) for name, make in _NO_SHAPES.items()]
        if torch:
            odd.append(Odd("torch", lambda x: torch.from_numpy(x.copy())))
        return odd + ([Odd("jax", jax.numpy.asarray)] if jax else [])
    if library == "torch":
        odd = [Odd(n, _on_torch(LAYOUTS[n]), same) for n in ("copy", "strided", "Fortran", "wide strides")]
        odd += [
            Odd("gradient", lambda x: x.clone().requires_grad_(), same),
            Odd("Parameter", lambda x: torch.nn.Parameter(x.clone()), same),
            Odd("conj", lambda x: torch.conj(torch.conj(x).resolve_conj()), same),
            Odd("negative view", lambda x: torch._neg_view(-x), same),
            Odd("sparse", lambda x: x.to_sparse()),
            Odd("meta", lambda x: x.to("meta")),
            Odd("bfloat16", lambda x: x.real.to(torch.bfloat16)),
            Odd("numpy", lambda x: x.numpy().copy()),
        ]
        names = [n for n in NO_ARRAYS if n not in ("scalar", "class", "other float")]
        odd += [Odd(n, _on_torch(NO_ARRAYS[n])) for n in names]
        return odd + [Odd(n, _on_torch(m)) for n, m in _NO_SHAPES.items()]

    def on_jax(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def made(x: Any) -> Any:
            found = make(np.asarray(x))
            known = type(found) is np.ndarray and found.dtype.char in "fdil?e" and found.dtype.isnative
            return jax.numpy.asarray(found) if known else found

        return made

    odd = [Odd("numpy", np.asarray), Odd("bfloat16", lambda x: x.real.astype("bfloat16"))]
    odd += [Odd(n, on_jax(m)) for n, m in NO_ARRAYS.items() if n not in ("scalar", "other float", "dates")]
    return odd + [Odd(n, on_jax(m)) for n, m in _NO_SHAPES.items()]


def likes(library: str) -> list[Odd]:
    """Return what may stand in the place of `like`, whose shape does not matter, nor its library."""
    fair = ("0-d", "scalar", *_NO_SHAPES) if library == "numpy" else ("0-d", *_NO_SHAPES)
    left_out = ELSEWHERE
    return [
        Odd(x.name, x.make, same) if x.name in fair else x for x in vectors(library) if x.name not in left_out
    ]
