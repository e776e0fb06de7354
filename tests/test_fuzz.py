"""Calls with odd arguments: each is answered as with plain ones, or refused in a sentence of this package's.

``PSGD_FUZZ_CALLS=20000 pytest -s tests/test_fuzz.py`` makes about so many calls, and prints how they ended.
"""

from __future__ import annotations

import contextlib
from functools import cache

import fuzz_values
import numpy as np
import pytest
from fuzz_oracle import (
    CALLS,
    LIBRARIES,
    Call,
    array,
    copied,
    dtypes,
    foreign,
    fuzz,
    judged,
    mapped,
    paths,
    states,
    table,  # noqa: F401 -- a fixture
    unchanged,
)
from fuzz_values import Odd, jax, same
from hypothesis import strategies as st
from registry import GROUPS

import psgd_core as psgd
from psgd_core import kernels

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
SHARES = {"numpy": 5, "torch": 3, "jax": 0.4}
"""Calls of a library in proportion: JAX without jit takes some tens of milliseconds for an update."""

ON_STATE = ("matrix", "log_det", "check", "size")
ON_VECTOR = {"precondition": "g", "apply": "x", "apply_transpose": "x", "solve": "x", "solve_transpose": "x"}


@cache
def fitted(name, library, dtype, updates):
    p, n = PRECONDITIONERS[name]
    if library == "jax":  # compiling an update for every shape takes a minute
        return mapped(jax.numpy.asarray, fitted(name, "numpy", dtype, updates))
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
    return states(library, others), foreign(elsewhere)


@st.composite
def calls(draw, name, library):
    """Draw a call of one of a preconditioner's verbs with one or two odd arguments."""
    p, n = PRECONDITIONERS[name]
    dtype = draw(st.sampled_from(dtypes(name, library)))
    k = draw(st.sampled_from([None, None, 1, 2]))
    shape = n if k is None else (n, k)
    verb = draw(st.sampled_from(["init", "update", "update", "update", "criterion", *ON_VECTOR, *ON_STATE]))
    like = array(library, dtype, shape, 7)
    arrays = fuzz_values.vectors(library)
    if verb == "init":
        clean = {"n": n, "like": like, "scale": 0.5, "rng": None}
        kinds = {"n": fuzz_values.COUNTS, "like": fuzz_values.likes(library), "scale": fuzz_values.SCALES}
        if library == "numpy":
            kinds["rng"] = (
                fuzz_values.NOTHING + fuzz_values.BOOLS
                if isinstance(p, psgd.LowRank)
                else [Odd("any", lambda _: "x", same)]
            )
    else:
        clean = {"state": fitted(name, library, dtype, draw(st.sampled_from([0, 2, 5])))}
        kinds = {"state": None}
    if verb in ("update", "criterion"):
        clean |= {"v": like, "h": array(library, dtype, shape, 8)}
        kinds |= {"v": arrays, "h": arrays}
    if verb == "update":
        clean |= {"step": 0.25, "inplace": draw(st.sampled_from([False, False, library != "jax"]))}
        kinds |= {"step": fuzz_values.STEPS, "inplace": fuzz_values.FLAGS}
    if verb in ON_VECTOR:
        clean[ON_VECTOR[verb]] = like
        kinds[ON_VECTOR[verb]] = arrays
    chosen = draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=2, unique=True))
    odd, plain, said = {}, {}, []
    for argument, value in clean.items():
        odd[argument], plain[argument] = copied(value), copied(value)
        if argument not in chosen:
            continue
        if argument == "state":
            own, foreign = odd_states(name, library, dtype)
            what, make, fair = draw(st.sampled_from(own + foreign))
            path = draw(st.sampled_from(paths(value)))
            odd["state"] = make(odd["state"], path)
            if (what, make, fair) in foreign and verb in ON_STATE:  # nothing that it has to agree with
                plain["state"] = odd["state"]
            elif not fair and not (type(odd["state"]) is type(value) and unchanged(odd["state"], value)):
                plain = None
            said.append(f"state: {what} at {path}")
        else:
            one = draw(st.sampled_from(kinds[argument]))
            odd[argument] = one.make(value)
            said.append(f"{argument}: {one.name}")
            if verb in ON_VECTOR and one.name == fuzz_values.NO_COLUMNS:  # their product is no columns, too
                plain[argument] = odd[argument]
            elif one.plain is None:
                plain = None
            elif plain is not None:
                plain[argument] = one.plain(value)
        if plain is None:
            break
    odd = {argument: odd[argument] if argument in odd else copied(value) for argument, value in clean.items()}
    off = draw(st.booleans())
    said = f"{name}, {library} {dtype}, k = {k}, {verb}({'; '.join(said)}){', kernels off' if off else ''}"

    def call(**arguments):
        with kernels.off() if off else contextlib.nullcontext():
            return getattr(p, verb)(**arguments)

    return Call(said, call, odd, plain, float(np.finfo(dtype).eps), _is_true(odd.get("inplace")))


def _is_true(flag):
    return isinstance(flag, bool | np.bool_) and bool(flag)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_verbs(name, library):
    share = SHARES[library] / sum(SHARES.values()) / len(PRECONDITIONERS)
    fuzz(name, library, calls(name, library), max(10, int(CALLS * share)))


# -- the oracle itself ---------------------------------------------------------------------------------------


def _writes(x):
    x[0] = 7.0
    return x.copy()


def _writes_and_refuses(x):
    x[0] = 7.0
    raise ValueError("`x` is wrong")


def _leaks(x):
    raise ValueError("operands could not be broadcast together")


def _raises(x):
    raise AttributeError("`x` has no q")


@pytest.mark.parametrize(
    ("call", "plain", "found"),
    [
        (lambda x: x[::-1], np.ones(3), "right"),
        (lambda x: x + 1e-9, None, "accepted"),
        (lambda x: x.astype("f4") if x[0] == 1 else x, np.full(3, 2.0), "wrong: float32"),
        (lambda x: 2 * x, np.ones(3) * (1 + 1e-9), "wrong: values"),
        (_writes, np.ones(3), "an argument has changed"),
        (_writes_and_refuses, None, "refused, and an argument has changed"),
        (_leaks, None, "leaked ValueError"),
        (_raises, None, "raised AttributeError"),
    ],
)
def test_the_oracle_tells_faults(call, plain, found):
    odd = {"x": np.asarray([1.0, 1.0, 1.0])}
    assert judged(call, odd, None if plain is None else {"x": plain}, 1e-16).startswith(found)
