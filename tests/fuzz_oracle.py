"""How the fuzzer makes odd states, judges what calls with odd arguments come to, and counts it."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, NamedTuple

import array_api_compat
import numpy as np
import pytest
from fuzz_values import LAYOUTS, NO_ARRAYS, jax, torch
from hypothesis import HealthCheck, given, settings

CALLS = int(os.environ.get("PSGD_FUZZ_CALLS", "4000"))
TABLE: dict[tuple[str, str], Counter[str]] = {}

LIBRARIES = ["numpy", *(["torch"] if torch else []), *(["jax"] if jax else [])]

# -- states --------------------------------------------------------------------------------------------------


def paths(tree: Any, here: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Return where the arrays of a nested tuple are, and its inner tuples."""
    if not isinstance(tree, tuple):
        return [here]
    inner = [path for i, part in enumerate(tree) for path in paths(part, (*here, i))]
    return inner + ([here] if here else [])


def replaced(tree: Any, path: tuple[int, ...], function: Callable[[Any], Any]) -> Any:
    """Return the nested tuple with what is at `path` replaced by the function of it."""
    if not path:
        return function(tree)
    parts = list(tree)
    parts[path[0]] = replaced(parts[path[0]], path[1:], function)
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def _within(tree: Any, path: tuple[int, ...]) -> tuple[int, ...]:
    """Return the path of an array: the first one below, or of all where there is none."""
    arrays = [p for p in paths(tree) if not isinstance(_at(tree, p), tuple)]
    return next((p for p in arrays if p[: len(path)] == path), arrays[0])


def _at(tree: Any, path: tuple[int, ...]) -> Any:
    return _at(tree[path[0]], path[1:]) if path else tree


def states(library: str, others: dict[str, Any]) -> list[tuple[str, Callable[[Any, Any], Any], bool]]:
    """Return (name, make, fair): make(state, path) is an odd state,
    fair whether it may stand for the state."""
    found = [(f"other: {name}", lambda s, _, x=x: x, False) for name, x in others.items()]
    for name, make in {
        "None": lambda s, _: None, "tuple": lambda s, _: tuple(s), "list": lambda s, _: list(s),
        "dict": lambda s, _: s._asdict(),
        "array": lambda s, _: np.ones(3), "class": lambda s, _: type(s), "text": lambda s, _: "state",
        "shorter": lambda s, _: tuple(s)[:-1],
    }.items():  # fmt: skip
        found.append((name, make, False))
    leaf: dict[str, Callable[[Any], Any]] = {
        "None": lambda x: None, "text": lambda x: "a", "list": lambda x: [1.0], "number": lambda x: 1.5,
        "cut": lambda x: x[:-1] if isinstance(x, tuple) or x.ndim else np.ones(2),
        "tuple": lambda x: (x,), "object()": lambda x: object(), "empty": lambda x: () if isinstance(x,
        tuple) else np.ones((0, 3)),
        "twice": lambda x: (*x, *x, x) if isinstance(x, tuple) else x[None],
    }  # fmt: skip
    found += [(f"leaf {n}", lambda s, p, m=m: replaced(s, p, m), False) for n, m in leaf.items()]
    if library != "numpy":
        return found
    wrong = {
        n: NO_ARRAYS[n]
        for n in ("object", "big-endian", "half", "masked", "text array", "dates", "bool", "uint8")
    }
    wrong["bool"], wrong["uint8"] = lambda x: x.astype(bool), lambda x: x.astype("u1")
    wrong["longdouble"], wrong["complex"] = NO_ARRAYS["longdouble"], lambda x: x.astype("F")
    wrong["int16"], wrong["other float"] = (
        lambda x: x.astype("i2"),
        lambda x: x.astype("f4" if x.dtype == "f8" else "f8"),
    )
    if torch:
        wrong["torch"] = lambda x: torch.from_numpy(np.array(x))
    right = {
        n: LAYOUTS[n] for n in ("copy", "read-only", "unaligned", "own class", "wide strides", "Fortran")
    }
    for table, fair in ((wrong, False), (right, True)):
        for n, m in table.items():
            found.append((f"leaf {n}", lambda s, p, m=m: replaced(s, _within(s, p),
                lambda x: m(np.asarray(x))), fair))  # fmt: skip
    return found


def foreign(others: dict[str, Any]) -> list[tuple[str, Callable[[Any, Any], Any], bool]]:
    """Return states of the same preconditioner on other libraries."""
    return [(f"on {name}", lambda s, _, x=x: x, False) for name, x in others.items()]


# -- the oracle ----------------------------------------------------------------------------------------------


def leaves(tree: Any) -> list[Any]:
    """Return what nested tuples, lists, dicts and dataclasses hold."""
    if isinstance(tree, tuple | list):
        return [x for part in tree for x in leaves(part)]
    if is_dataclass(tree) and not isinstance(tree, type):
        return [x for f in fields(tree) for x in leaves(getattr(tree, f.name))]
    return [x for part in tree.values() for x in leaves(part)] if isinstance(tree, dict) else [tree]


def _is_array(x: Any) -> bool:
    return array_api_compat.is_array_api_obj(x)


def frozen(tree: Any) -> list[Any]:
    """Return copies of all arrays within, to compare with later."""
    return [_bytes(x) for x in leaves(tree)]


def _bytes(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return np.asarray(x).tobytes() if x.dtype != object else None
    if torch and isinstance(x, torch.Tensor):
        strided = x.layout == torch.strided and x.device.type == "cpu"
        return (
            x.detach().resolve_conj().resolve_neg().clone().view(-1).tolist()
            if strided and x.is_contiguous()
            else None
        )
    return None


def unchanged(made: Any, clean: Any) -> bool:
    """Return whether an odd state is one as it should be after all."""
    kinds = [[np.ndarray if isinstance(x, np.generic) else type(x) for x in leaves(s)] for s in (made, clean)]
    return kinds[0] == kinds[1] and differ(made, clean, 0.0) is None


def differ(got: Any, plain: Any, eps: float) -> str | None:
    """Return how two answers differ by more than rounding, None where they do not."""
    got, plain = leaves(got), leaves(plain)
    if len(got) != len(plain):
        return f"{len(got)} parts for {len(plain)}"
    for x, y in zip(got, plain, strict=True):
        if not _is_array(y):
            if type(x) is not type(y) or not (x == y or x is y or (x != x and y != y)):
                return f"{x!r} for {y!r}"
            continue
        if not _is_array(x) or array_api_compat.array_namespace(x) is not array_api_compat.array_namespace(y):
            return f"{type(x)} for {type(y)}"
        if x.dtype != y.dtype or x.shape != y.shape:
            return f"{x.dtype} {x.shape} for {y.dtype} {y.shape}"
        given, meant = (
            np.asarray(z.detach() if torch and isinstance(z, torch.Tensor) else z) for z in (x, y)
        )
        top = float(np.nanmax(np.abs(meant), initial=0.0)) if meant.dtype.kind in "fc" else 0.0
        if not np.allclose(
            given, meant, rtol=1e3 * eps, atol=1e3 * eps * (top if np.isfinite(top) else 1), equal_nan=True
        ):
            return f"values: {given} for {meant}"
    return None


def judged(call: Callable[..., Any], odd: dict[str, Any], plain: dict[str, Any] | None, eps: float, *,
    consumes: bool = False) -> str:  # fmt: skip
    """Return "right", "refused", or in a sentence what is wrong about `call` with the arguments `odd`."""
    before = frozen(list(odd.values()))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            got = call(**odd)
        except (TypeError, ValueError) as error:
            if frozen(list(odd.values())) != before:
                return "refused, and an argument has changed"
            own = "`" in str(error) and len(str(error)) < 700
            return "refused" if own else f"leaked {type(error).__name__}: {str(error)[:150]}"
        except Exception as error:
            return f"raised {type(error).__name__}: {str(error)[:150]}"
        if plain is None:
            return f"accepted: {got!r}"[:300]
        if not consumes and frozen(list(odd.values())) != before:
            return "an argument has changed"
        try:
            expected = call(**plain)
        except (TypeError, ValueError) as error:
            return f"accepted, plain inputs are refused: {error}"[:300]
    wrong = differ(got, expected, eps)
    return "right" if wrong is None else f"wrong: {wrong}"[:300]


# -- calls ----


class Call(NamedTuple):
    """One call with odd arguments."""

    said: str
    function: Callable[..., Any]
    odd: dict[str, Any]
    plain: dict[str, Any] | None  # None: it must be refused
    eps: float
    consumes: bool  # whether it may write into its state


@pytest.fixture(scope="module", autouse=True)
def table():
    """Print how the calls ended."""
    yield
    print(f"\n{'':42}{'calls':>8}{'right':>8}{'refused':>9}{'else':>6}")
    total: Counter[str] = Counter()
    for (name, library), found in TABLE.items():
        total += found
        print(_line(f"{name}, {library}", found))
    print(_line("all", total))


def _line(name, found):
    calls, right, refused = sum(found.values()), found["right"], found["refused"]
    return f"{name:42}{calls:8}{right:8}{refused:9}{calls - right - refused:6}"


@cache
def array(library, name, *key):
    """A fixed array with normal entries on a library, in the dtype of the name."""
    shape, seed = key
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if name.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    x = x.astype(name)
    return {"numpy": np.asarray, "torch": torch and torch.from_numpy, "jax": jax and jax.numpy.asarray}[
        library
    ](x)


def dtypes(name, library):
    real = ["float32"] if library == "jax" else ["float32", "float64"]
    return ["complex64"] if name.endswith("complex") else real


def mapped(function, tree):
    if not isinstance(tree, tuple):
        return function(tree)
    parts = [mapped(function, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def copied(tree):
    def copy(x):
        if isinstance(x, np.ndarray):
            return x.copy()
        return x.clone() if torch and isinstance(x, torch.Tensor) else x

    return mapped(copy, tree)


def fuzz(name, library, drawn, count):
    """Judge `count` calls, and show all that end in neither of the two good ways."""
    ended, faults = TABLE.setdefault((name, library), Counter()), []

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn)
    def judge(call):
        found = judged(call.function, call.odd, call.plain, call.eps, consumes=call.consumes)
        ended[found if found in ("right", "refused") else "else"] += 1
        if found not in ("right", "refused"):
            faults.append(f"{call.said}: {found}")

    judge()
    assert not faults, "\n".join([f"{len(faults)} of {count}", *faults])
