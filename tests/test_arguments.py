"""Numbers and choices at the door, the walker of trees, and the helpers of single matrices."""

from __future__ import annotations

import math
from collections import OrderedDict
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest

from psgd_core.arrays.arguments import (
    as_float,
    described,
    require_choice,
    require_count,
    require_flag,
    require_number,
)
from psgd_core.arrays.matrices import adjoint, eye, kron
from psgd_core.arrays.sums import norm, unit_of
from psgd_core.arrays.trees import leaves_with_names, mapped, owned, where

# -- numbers -------------------------------------------------------------------------------------------------

NUMBERS = [0.5, 1, np.float32(0.5), np.int8(3), np.array(0.25), Fraction(1, 2), -math.inf]
NONE = [None, True, "1", 1j, np.ones(1), np.bool_(True), np.timedelta64(1), np.ma.masked, object()]


@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_become_floats(value):
    assert type(as_float(value)) is float
    assert require_number("x", value) == as_float(value) == float(value)


@pytest.mark.parametrize("value", NONE)
def test_what_is_not_a_number_is_refused(value):
    assert as_float(value) is None
    with pytest.raises(TypeError, match=r"`x` must be a number, got .*; a hint"):
        require_number("x", value, hint="a hint")


def test_arrays_of_every_library_are_numbers_and_counts(backend):
    assert require_number("x", backend.asarray(0.5)) == 0.5
    assert require_count("k", backend.asarray(3), "") == 3
    with pytest.raises(TypeError, match=r"`x` must be a number, got .* of shape \(2,\) and dtype"):
        require_number("x", backend.asarray([0.5, 1.0]))


def test_intervals():
    assert require_number("x", 0, "[0, 1)") == 0.0
    assert require_number("x", math.inf, "(0, inf]") == math.inf
    assert require_number("x", 10**400) == math.inf
    for value, within, rule in [
        (1, "[0, 1)", r"lie in \[0, 1\), got 1.0"),
        (math.nan, "(-inf, inf)", "lie in"),
        (0, "(0, inf)", "be positive and finite, got 0.0; a hint"),
        (math.inf, "[0, inf)", "be finite and not negative"),
    ]:
        with pytest.raises(ValueError, match=f"`x` must {rule}"):
            require_number("x", value, within, "a hint")


def test_counts_flags_and_choices():
    assert require_count("k", np.int64(2), "it counts") == 2
    assert require_count("seed", 2**100, "it is a seed", least=0, most=math.inf) == 2**100
    for value in (0, -1, 1.0, True, "2", np.float32(2), np.ones(1, dtype=int), 2**60):
        with pytest.raises(ValueError, match=r"`k` must be a positive int.*; it counts"):
            require_count("k", value, "it counts")
    assert require_flag("f", np.bool_(False)) is False
    with pytest.raises(TypeError, match="`f` must be True or False, got 1"):
        require_flag("f", 1)
    require_choice("side", "left", ("left", "right"))
    for value in ("up", None, ["left"], np.zeros(2)):
        with pytest.raises(ValueError, match=r"`side` must be one of 'left', 'right', got .*; turn"):
            require_choice("side", value, ("left", "right"), "turn")


def test_values_in_messages_are_short():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert described(np.zeros((2, 3))) == "ndarray of shape (2, 3) and dtype float64"
    assert described("a") == "'a'"
    assert described(Broken()) == "Broken without a repr"
    assert len(described(list(range(1000)))) < 70


# -- trees ---------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: object
    second: object


def test_mapping_keeps_the_structure():
    tree = Pair({"b": 1, "a": [2, (3,)]}, OrderedDict(z=4))
    found = mapped(lambda x, y: 10 * x + y, tree, tree)
    assert found == Pair({"b": 11, "a": [22, (33,)]}, OrderedDict(z=44))
    assert list(found.first) == ["b", "a"]
    assert isinstance(found.second, OrderedDict)
    assert leaves_with_names(tree, "t") == [
        ("t.first.b", 1),
        ("t.first.a.0", 2),
        ("t.first.a.1.0", 3),
        ("t.second.z", 4),
    ]
    assert leaves_with_names(5, "x") == [("x", 5)]
    assert mapped(lambda x: -x, ()) == ()


def test_where_and_owned_on_every_library(backend):
    new, old = ((backend.asarray([x]), {"k": backend.asarray(x)}) for x in (1.0, 2.0))
    for flag in (True, False):
        found = backend.jit(where)(backend.asarray(flag), new, old)
        assert float(found[0][0]) == float(found[1]["k"]) == (1.0 if flag else 2.0)
    copy = owned(new)
    np.testing.assert_array_equal(backend.numpy(copy[0]), [1.0])
    if backend.library == "numpy":
        assert copy[0] is not new[0]


# -- matrices and norms --------------------------------------------------------------------------------------


def test_kronecker_products_and_adjoints(backend):
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal((n, n)) for n in (2, 3, 2))
    x, y, z = map(backend.asarray, (a, b, c))
    np.testing.assert_allclose(backend.numpy(kron(x, y, z)), np.kron(np.kron(a, b), c), atol=20 * backend.eps)
    np.testing.assert_array_equal(backend.numpy(kron(x)), backend.numpy(x))
    np.testing.assert_array_equal(backend.numpy(adjoint(x)), backend.numpy(x).T)
    np.testing.assert_array_equal(backend.numpy(eye(3, x)), np.eye(3))
    np.testing.assert_array_equal(adjoint(np.array([[1j, 2]])), [[-1j], [2]])


def test_norms_do_not_overflow(backend):
    large = float(np.finfo(backend.dtype_name).max) / 16
    x, y = backend.asarray([3 * large, 0.0]), backend.asarray([[4 * large]])
    assert backend.numpy(norm(x, y)) == pytest.approx(5 * large, rel=8 * backend.eps)
    assert backend.numpy(unit_of(x, y)) == pytest.approx(4 * large, rel=backend.eps)
    small = float(np.finfo(backend.dtype_name).tiny)
    assert backend.numpy(norm(backend.asarray([small]))) == pytest.approx(small, rel=backend.eps)
    zero = backend.asarray([0.0, 0.0])
    assert float(norm(zero)) == 0.0
    assert float(unit_of(zero)) == 1.0
    assert math.isnan(float(norm(backend.asarray([np.nan, 1.0]))))
