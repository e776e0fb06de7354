"""Constructors, subgroups and the verbs of groups, called with odd arguments; see `test_fuzz`."""

from __future__ import annotations

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
    fuzz,
    leaves,
    paths,
    states,
    table,  # noqa: F401 -- a fixture
    unchanged,
)
from hypothesis import strategies as st
from registry import GROUPS

import psgd_core as psgd

K = psgd.PermutationSubgroup
FUNCTIONS = {
    "LowRank": (psgd.LowRank, {"rank": (2, "count"), "diagonal": ("left", None), "damping": (0.25,
    "scale"), "normalizer": (psgd.normalizers.Sample(), None)}),
    "XMat": (psgd.XMat, {"normalizer": (psgd.normalizers.Sample(), None), "steps": ("group", None),
    "geometry": ("QE", None), "damping": (0.25, "scale")}),
    "Sparse": (psgd.Sparse, {"subgroup": (K.flip(4), None)}),
    "Kronecker": (psgd.Kronecker, {"shape": ((2, 3), "shape"), "factors": (("dense", "diagonal"), None),
    "max_size": (7, "count"), "max_skew": (0.25, "scale"), "geometry": ("EQ", None)}),
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

STAND = {("dihedral", "order", None)}
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
    one = draw(st.sampled_from(fuzz_values.KINDS[kind]))
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
    verb = draw(st.sampled_from(["compose", "inverse", "apply", "apply_transpose", "solve",
        "solve_transpose", "matrix", "log_det", "project"]))  # fmt: skip
    clean = {"a": a}
    if verb == "compose":
        clean["b"] = a
    if verb.startswith(("apply", "solve")):
        clean["x"] = array(library, dtype, 7 if affine else 6, 5)
    if verb == "project":
        clean = {"generator": array(library, dtype, (7, 7) if affine else (6, 6), 6)}
        clean |= {"a": a} if name.startswith("LowRank") else {}
    chosen = draw(st.sampled_from(list(clean)))
    odd, plain = {key: copied(value) for key, value in clean.items()}, dict(clean)
    if chosen in ("a", "b"):
        what, make, fair = draw(st.sampled_from(states(library, {})))
        path = draw(st.sampled_from(paths(a)))
        odd[chosen] = make(odd[chosen], path)
        said = f"{what} at {path}"
        alone = len(clean) == 1 and len(leaves(a)) == 1  # then nothing has to agree with it
        if alone and what.removeprefix("leaf ") in fuzz_values.ELSEWHERE:
            plain[chosen] = odd[chosen]
        elif not fair and not (type(odd[chosen]) is type(a) and unchanged(odd[chosen], a)):
            plain = None
    else:
        one = draw(st.sampled_from(fuzz_values.vectors(library)))
        odd[chosen], said = one.make(clean[chosen]), one.name
        fair = chosen == "x" and one.name == fuzz_values.NO_COLUMNS
        fair |= affine and chosen == "x" and one.name == "shorter" and verb in ("apply", "solve")  # features
        if fair or ("a" not in clean and one.name in fuzz_values.ELSEWHERE):
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
