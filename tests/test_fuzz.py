"""Calls with odd arguments: each is answered as with plain ones, or refused in a sentence of this package's.

``PSGD_FUZZ_CALLS=20000 pytest -s tests/test_fuzz.py`` makes about so many calls, and prints how they ended.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import fuzzing
import numpy as np
import pytest
from fuzzing import Odd, jax, same, torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry import GROUPS

import psgd_core as psgd
from psgd_core import kernels

CALLS = int(os.environ.get("PSGD_FUZZ_CALLS", "4000"))
TABLE: dict[tuple[str, str], Counter[str]] = {}

PRECONDITIONERS = {
    "Diagonal": (psgd.Diagonal(), 6),
    "XMat": (psgd.XMat(), 7),
    "Butterfly": (psgd.Butterfly(), 6),
    "Sparse": (psgd.Sparse(GROUPS["three orbit sizes"]), 6),
    "Dense": (psgd.Dense(), 6),
    "Dense, QUAD4P": (psgd.Dense(geometry="QUAD4P"), 6),
    "XMat, Lyapunov, per group": (psgd.XMat(geometry="Lyapunov", steps="group"), 6),
    "LowRank": (psgd.LowRank(2), 6),
    "LowRank, left": (psgd.LowRank(2, diagonal="left"), 6),
    "Kronecker": (psgd.Kronecker((2, 3)), 6),
    "Kronecker, complex": (psgd.Kronecker((2, 3), "dense"), 6),
    "Blocks": (psgd.Blocks(((2, psgd.Diagonal()), (4, psgd.Kronecker((2, 2))))), 6),
}
LIBRARIES = ["numpy", *(["torch"] if torch else []), *(["jax"] if jax else [])]
SHARES = {"numpy": 5, "torch": 3, "jax": 0.15}
"""Calls of a library in proportion: JAX without jit takes some tens of milliseconds for an update."""

ON_STATE = ("matrix", "log_det", "check", "size")
ON_VECTOR = {"precondition": "g", "apply": "x", "apply_transpose": "x", "solve": "x", "solve_transpose": "x"}


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
    return {"numpy": np.asarray, "torch": torch and torch.from_numpy, "jax": jax and jax.numpy.asarray}[library](x)


@cache
def fitted(name, library, dtype, updates):
    p, n = PRECONDITIONERS[name]
    if library == "jax":  # compiling an update for every shape takes a minute
        return _mapped(jax.numpy.asarray, fitted(name, "numpy", dtype, updates))
    state = p.init(n, like=array(library, dtype, n, 0))
    for i in range(updates):
        state = p.update(state, array(library, dtype, n, i), array(library, dtype, n, i + 50), 0.1)
    return state


def _group(name):
    """The group of a row; X-matrices and butterflies have orbits of the same sizes."""
    return name.split(",")[0].replace("Butterfly", "XMat")


@cache
def odd_states(name, library, dtype):
    real = "float32" if dtype.startswith("complex") else dtype
    others = {
        other: fitted(other, library, real, 2)
        for other in PRECONDITIONERS
        if not other.endswith("complex") and _group(other) != _group(name)
    }
    p, n = PRECONDITIONERS[name]
    if isinstance(p, psgd.LowRank):
        others["rank 3"] = psgd.LowRank(3, diagonal=p.diagonal).init(n, like=array(library, dtype, n, 0))
    if isinstance(p, psgd.Kronecker):
        others["another shape"] = psgd.Kronecker((3, 2)).init(n, like=array(library, dtype, n, 0))
    elsewhere = {
        other: fitted(name, other, dtype if other != "jax" or dtype[0] == "c" else "float32", 2)
        for other in LIBRARIES
        if other != library
    }
    return fuzzing.states(library, others), fuzzing.foreign(elsewhere)


def dtypes(name, library):
    real = ["float32"] if library == "jax" else ["float32", "float64"]
    return ["complex64"] if name.endswith("complex") else real


@st.composite
def calls(draw, name, library):
    """Draw a call of one of a preconditioner's verbs with one or two odd arguments."""
    p, n = PRECONDITIONERS[name]
    dtype = draw(st.sampled_from(dtypes(name, library)))
    k = draw(st.sampled_from([None, None, 1, 2]))
    shape = n if k is None else (n, k)
    verb = draw(st.sampled_from(["init", "update", "update", "update", "criterion", *ON_VECTOR, *ON_STATE]))
    like = array(library, dtype, shape, 7)
    arrays = fuzzing.vectors(library)
    if verb == "init":
        clean = {"n": n, "like": like, "scale": 0.5, "rng": None}
        kinds = {"n": fuzzing.COUNTS, "like": fuzzing.likes(library), "scale": fuzzing.SCALES}
        if library == "numpy":
            kinds["rng"] = fuzzing.NOTHING + fuzzing.BOOLS if isinstance(p, psgd.LowRank) else [Odd("any", lambda _: "x", same)]
    else:
        clean = {"state": fitted(name, library, dtype, draw(st.sampled_from([0, 2, 5])))}
        kinds = {"state": None}
    if verb in ("update", "criterion"):
        clean |= {"v": like, "h": array(library, dtype, shape, 8)}
        kinds |= {"v": arrays, "h": arrays}
    if verb == "update":
        clean |= {"step": 0.25, "inplace": draw(st.sampled_from([False, False, library != "jax"]))}
        kinds |= {"step": fuzzing.STEPS, "inplace": fuzzing.FLAGS}
    if verb in ON_VECTOR:
        clean[ON_VECTOR[verb]] = like
        kinds[ON_VECTOR[verb]] = arrays
    chosen = draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=2, unique=True))
    odd, plain, said = {}, {}, []
    for argument, value in clean.items():
        odd[argument], plain[argument] = _copied(value), _copied(value)
        if argument not in chosen:
            continue
        if argument == "state":
            own, foreign = odd_states(name, library, dtype)
            what, make, fair = draw(st.sampled_from(own + foreign))
            path = draw(st.sampled_from(fuzzing.paths(value)))
            odd["state"] = make(odd["state"], path)
            if (what, make, fair) in foreign and verb in ON_STATE:  # nothing that it has to agree with
                plain["state"] = odd["state"]
            elif not fair and not (type(odd["state"]) is type(value) and fuzzing.unchanged(odd["state"], value)):
                plain = None
            said.append(f"state: {what} at {path}")
        else:
            one = draw(st.sampled_from(kinds[argument]))
            odd[argument] = one.make(value)
            said.append(f"{argument}: {one.name}")
            if verb in ON_VECTOR and one.name == fuzzing.NO_COLUMNS:  # their product is no columns, too
                plain[argument] = odd[argument]
            elif one.plain is None:
                plain = None
            elif plain is not None:
                plain[argument] = one.plain(value)
        if plain is None:
            break
    odd = {argument: odd[argument] if argument in odd else _copied(value) for argument, value in clean.items()}
    off = draw(st.booleans())
    said = f"{name}, {library} {dtype}, k = {k}, {verb}({'; '.join(said)}){', kernels off' if off else ''}"

    def call(**arguments):
        with kernels.off() if off else contextlib.nullcontext():
            return getattr(p, verb)(**arguments)

    return Call(said, call, odd, plain, float(np.finfo(dtype).eps), _is_true(odd.get("inplace")))


def _is_true(flag):
    return isinstance(flag, bool | np.bool_) and bool(flag)


def _mapped(function, tree):
    if not isinstance(tree, tuple):
        return function(tree)
    parts = [_mapped(function, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def _copied(tree):
    def copy(x):
        if isinstance(x, np.ndarray):
            return x.copy()
        return x.clone() if torch and isinstance(x, torch.Tensor) else x

    return _mapped(copy, tree)


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
        found = fuzzing.judged(call.function, call.odd, call.plain, call.eps, consumes=call.consumes)
        ended[found if found in ("right", "refused") else "else"] += 1
        if found not in ("right", "refused"):
            faults.append(f"{call.said}: {found}")

    judge()
    assert not faults, "\n".join([f"{len(faults)} of {count}", *faults])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_verbs(name, library):
    share = SHARES[library] / sum(SHARES.values()) / len(PRECONDITIONERS)
    fuzz(name, library, calls(name, library), max(10, int(CALLS * share)))


# -- constructors, and what works on values alone ------------------------------------------------------------

K = psgd.PermutationSubgroup
FUNCTIONS = {
    "LowRank": (psgd.LowRank, {"rank": (2, "count"), "diagonal": ("left", None), "damping": (0.25, "scale"), "normalizer": (psgd.normalizers.Sample(), None)}),
    "XMat": (psgd.XMat, {"normalizer": (psgd.normalizers.Sample(), None), "steps": ("group", None), "geometry": ("QE", None), "damping": (0.25, "scale")}),
    "Sparse": (psgd.Sparse, {"subgroup": (K.flip(4), None)}),
    "Kronecker": (psgd.Kronecker, {"shape": ((2, 3), "shape"), "factors": (("dense", "diagonal"), None), "max_size": (7, "count"), "max_skew": (0.25, "scale"), "geometry": ("EQ", None)}),
    "Blocks": (psgd.Blocks, {"parts": (((2, psgd.XMat()),), None)}),
    "Running": (psgd.normalizers.Running, {"decay": (0.25, "decay")}),
    "AffineNormalization": (psgd.groups.AffineNormalization, {"n": (3, "count")}),
    "PermutationSubgroup": (K, {"n": (3, "count"), "generators": (((1, 0, 2),), "perms")}),
    "flip": (K.flip, {"n": (4, "count")}),
    "half_shift": (K.half_shift, {"n": (4, "count")}),
    "cyclic": (K.cyclic, {"n": (4, "count"), "order": (2, "count")}),
    "dihedral": (K.dihedral, {"n": (4, "count"), "order": (2, "count")}),
    "neighbour_swap": (K.neighbour_swap, {"n": (4, "count")}),
    "on_blocks": (K.on_blocks, {"n": (3, "count"), "block_permutations": (((1, 0, 2),), "perms")}),
    "from_generators": (K.from_generators, {"generators": (((1, 0, 2),), "perms")}),
    "from_elements": (K.from_elements, {"elements": (((0, 1, 2), (1, 0, 2)), "perms")}),
    "conjugate": (K.cyclic(3, 3).conjugate, {"perm": ((1, 0, 2), "perm")}),
    "join": (K.cyclic(3, 3).join, {"other": (K.flip(3), None)}),
    "is_subgroup_of": (K.cyclic(3, 3).is_subgroup_of, {"other": (K.flip(3), None)}),
    "same_orbits": (K.cyclic(3, 3).same_orbits, {"other": (K.flip(3), None)}),
    "contains": (K.cyclic(3, 3).__contains__, {"sigma": ((1, 0, 2), "perm")}),
    "elements": (K.cyclic(3, 3).elements, {"limit": (5, "count")}),
}  # fmt: skip
"""Functions with clean arguments, and the kind of each."""

STAND = {("XMat", "damping", None), ("LowRank", "damping", None), ("dihedral", "order", None)}
STAND |= {("LowRank", "rank", "zero"), ("Running", "decay", "zero"), ("Kronecker", "max_size", "zero")}
"""What may be None, or zero."""


def _is_zero(x):
    number = isinstance(x, int | float | np.number) or (type(x) is np.ndarray and x.shape == ())
    return number and not isinstance(x, bool | np.timedelta64) and x == 0


@st.composite
def makings(draw, name):
    """Draw a call of a function with one odd argument."""
    function, arguments = FUNCTIONS[name]
    chosen = draw(st.sampled_from(list(arguments)))
    clean = {key: value for key, (value, _) in arguments.items()}
    kind = arguments[chosen][1]
    one = draw(st.sampled_from(fuzzing.KINDS[kind]))
    odd, plain = clean | {chosen: one.make(clean[chosen])}, None
    stands = None if odd[chosen] is None else "zero" if _is_zero(odd[chosen]) else "else"
    if (name, chosen, stands) in STAND:
        plain = clean | {chosen: odd[chosen] and int(odd[chosen])}
    elif one.plain is not None:
        plain = clean | {chosen: one.plain(clean[chosen])}
    return Call(f"{name}({chosen}: {one.name})", function, odd, plain, 1e-16, False)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_constructors(name):
    fuzz(name, "values", makings(name), max(10, CALLS // 8 // len(FUNCTIONS)))


# -- the verbs of groups -------------------------------------------------------------------------------------

GROUP_ROWS = {
    "DiagonalGroup": psgd.groups.DiagonalGroup(),
    "XMatGroup": psgd.groups.XMatGroup(),
    "ButterflyGroup": psgd.groups.ButterflyGroup(),
    "GeneralLinear": psgd.groups.GeneralLinear(),
    "SparseGroup": psgd.groups.SparseGroup(GROUPS["three orbit sizes"]),
    "LowRankFixedV": psgd.groups.LowRankFixedV(),
    "LowRankFixedU": psgd.groups.LowRankFixedU(),
    "AffineNormalization": psgd.groups.AffineNormalization(6),
}


@cache
def element(name, library, dtype):
    group = GROUP_ROWS[name]
    if isinstance(group, psgd.groups.AffineNormalization):
        x = array(library, dtype, 6, 1)
        return psgd.groups.AffineElement(x, x * x + 1)
    if isinstance(group, psgd.groups.OrbitGroup):
        return group.project(array(library, dtype, (6, 6), 2))
    return group.element(array(library, dtype, (6, 2), 3), array(library, dtype, (6, 2), 4), 0.5)


@st.composite
def products(draw, name, library):
    """Draw a call of one of a group's verbs with one odd argument."""
    group, dtype = GROUP_ROWS[name], draw(st.sampled_from(dtypes(name, library)))
    a = element(name, library, dtype)
    affine = isinstance(group, psgd.groups.AffineNormalization)
    verb = draw(st.sampled_from(["compose", "inverse", "apply", "apply_transpose", "solve", "solve_transpose", "matrix", "log_det", "project"]))  # fmt: skip
    clean = {"a": a}
    if verb == "compose":
        clean["b"] = a
    if verb.startswith(("apply", "solve")):
        clean["x"] = array(library, dtype, 7 if affine else 6, 5)
    if verb == "project":
        clean = {"generator": array(library, dtype, (7, 7) if affine else (6, 6), 6)}
        clean |= {"a": a} if name.startswith("LowRank") else {}
    chosen = draw(st.sampled_from(list(clean)))
    odd, plain = {key: _copied(value) for key, value in clean.items()}, dict(clean)
    if chosen in ("a", "b"):
        what, make, fair = draw(st.sampled_from(fuzzing.states(library, {})))
        path = draw(st.sampled_from(fuzzing.paths(a)))
        odd[chosen] = make(odd[chosen], path)
        said = f"{what} at {path}"
        alone = len(clean) == 1 and len(fuzzing.leaves(a)) == 1  # then nothing has to agree with it
        if alone and what.removeprefix("leaf ") in fuzzing.ELSEWHERE:
            plain[chosen] = odd[chosen]
        elif not fair and not (type(odd[chosen]) is type(a) and fuzzing.unchanged(odd[chosen], a)):
            plain = None
    else:
        one = draw(st.sampled_from(fuzzing.vectors(library)))
        odd[chosen], said = one.make(clean[chosen]), one.name
        fair = chosen == "x" and one.name == fuzzing.NO_COLUMNS
        fair |= affine and chosen == "x" and one.name == "shorter" and verb in ("apply", "solve")  # features
        if fair or ("a" not in clean and one.name in fuzzing.ELSEWHERE):
            plain[chosen] = odd[chosen]
        elif one.plain is None:
            plain = None
        else:
            plain[chosen] = one.plain(clean[chosen])
    said = f"{name}, {library} {dtype}, {verb}({chosen}: {said})"
    return Call(said, getattr(group, verb), odd, plain, float(np.finfo(dtype).eps), False)


@pytest.mark.parametrize("library", [x for x in LIBRARIES if x != "jax"])
@pytest.mark.parametrize("name", GROUP_ROWS)
def test_groups(name, library):
    fuzz(name, library, products(name, library), max(10, CALLS // 16 // len(GROUP_ROWS)))
