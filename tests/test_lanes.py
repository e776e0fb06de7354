"""Functions mapped over a leading axis give what they give for each part by itself."""

import sys

import numpy as np
import pytest
from registry import without_jax

from psgd_core.arrays.lanes import Lanes, vmap
from psgd_core.arrays.library import known, namespace

COUNT = 5


def parts(backend, *shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [backend.asarray(rng.standard_normal((COUNT, *shape))) for shape in shapes]


def one_by_one(backend, function, *arrays):
    """The results of calls for one part at a time, stacked."""
    return np.stack([backend.numpy(function(*(x[i, ...] for x in arrays))) for i in range(COUNT)])


def put_together(u, s, vt):
    return (u * s) @ vt


FUNCTIONS = {
    "broadcast": (lambda xp, x, y: x[:, None] * y + 2 - 1 / (3 + y**2), (4,), (4, 3)),
    "missing axes in front": (lambda xp, x, y: x * y, (3,), (2, 4, 3)),
    "numbers on either side": (
        lambda xp, x: 1 - x / (2.0 + x**2) + (-x) * xp.astype(x <= 0.5, x.dtype),
        (4,),
    ),
    "vector product": (lambda xp, x, y: x @ y, (4,), (4,)),
    "matrix and vector": (lambda xp, x, y: x @ y, (3, 6), (6,)),
    "vector and matrix": (lambda xp, x, y: x @ y, (6,), (6, 3)),
    "few terms": (lambda xp, x, y: x @ y, (6, 2), (2, 7)),
    "many terms": (lambda xp, x, y: x @ y, (6, 9), (9, 7)),
    "no terms": (lambda xp, x, y: x @ y, (6, 0), (0, 7)),
    "matrices in a batch": (lambda xp, x, y: x @ y, (2, 3, 8), (2, 8, 4)),
    "transposed": (lambda xp, x: x.T @ x, (6, 3)),
    "sums": (lambda xp, x: xp.sum(x) + xp.sum(x, axis=-1)[1] + xp.sum(x, axis=(0, 1)), (3, 4)),
    "kept axes": (lambda xp, x: x - xp.max(x, axis=1, keepdims=True), (3, 4)),
    "of no axes": (lambda xp, x: xp.sum(x[0]) + xp.max(x[1]), (3,)),
    "concat with what is the same for all": (
        lambda xp, x: xp.concat([x, xp.ones_like(x), xp.eye(3)]),
        (2, 3),
    ),
    "stack along the last axis": (lambda xp, x, y: xp.stack([x, y], axis=-1), (2, 3), (2, 3)),
    "reshaped and turned": (lambda xp, x: xp.permute_dims(xp.reshape(x, (2, -1, 2)), (1, 0, 2)), (4, 3)),
    "slices": (lambda xp, x: x[1:, ..., 0] + x[:-1, 1, 2][:, None], (3, 2, 4)),
    "reversed": (lambda xp, x: xp.flip(x, axis=-1) + xp.flip(x, axis=0), (3, 4)),
    "triangles": (lambda xp, x: xp.triu(x, k=1) - xp.tril(x), (3, 3)),
    "sorted": (lambda xp, x: xp.sort(x, axis=0), (4, 2)),
    "chosen": (lambda xp, x, y: xp.where(x[0] > 0, x, y), (4,), (4,)),
    "solved": (lambda xp, x, y: xp.linalg.solve(x + 9 * xp.eye(6), y), (6, 6), (6, 2)),
    "norms": (lambda xp, x: xp.linalg.vector_norm(x) + xp.linalg.vector_norm(x, axis=1), (3, 4)),
    "log det": (lambda xp, x: xp.linalg.slogdet(x + 9 * xp.eye(5))[1], (5, 5)),
    "eigenvalues": (lambda xp, x: xp.linalg.eigvalsh(x + x.T), (5, 5)),
    "singular values in a batch": (lambda xp, x: xp.linalg.svdvals(x), (2, 5, 3)),
    "decomposed": (
        lambda xp, x: put_together(*xp.linalg.svd(x, full_matrices=False)),
        (5, 3),
    ),
    "as the same bits": (lambda xp, x: xp.bitwise_xor(xp.astype(x * 100, xp.int32), xp.arange(4)) >> 1, (4,)),
}


@without_jax  # which maps by itself
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_those_of_each_part(backend, name):
    function, *shapes = FUNCTIONS[name]
    if name in ("concat with what is the same for all", "solved", "log det", "as the same bits"):
        own = function

        def function(xp, *arrays):  # with constants of the dtype
            return own(_Typed(xp, arrays[0].dtype), *arrays)

    arrays = parts(backend, *shapes)
    got = vmap(lambda *x: function(namespace(*x), *x))(*arrays)
    expected = one_by_one(backend, lambda *x: function(namespace(*x), *x), *arrays)
    np.testing.assert_allclose(backend.numpy(got), expected, rtol=0, atol=1000 * backend.eps)


class _Typed:
    """A namespace whose constants have the dtype under test."""

    def __init__(self, xp, dtype):
        self._xp, self._dtype = xp, dtype

    def eye(self, n):
        return self._xp.eye(n, dtype=self._dtype)

    def arange(self, n):
        return self._xp.arange(n, dtype=self._xp.int32)

    def __getattr__(self, name):
        return getattr(self._xp, name)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shared", [True, False], ids=["same places", "places of each"])
def test_taking_from_places(axis, shared):
    rng = np.random.default_rng(1)
    x, places = rng.standard_normal((COUNT, 4, 4)), rng.integers(0, 4, (COUNT, 6))
    if shared:
        got = vmap(lambda x: namespace(x).take(x, namespace(x).asarray(places[0]), axis=axis))(x)
        expected = np.stack([np.take(x[i], places[0], axis=axis) for i in range(COUNT)])
    else:
        got = vmap(lambda x, at: namespace(x).take(x, at, axis=axis))(x, places)
        expected = np.stack([np.take(x[i], places[i], axis=axis) for i in range(COUNT)])
    np.testing.assert_array_equal(got, expected)


def test_what_is_the_same_for_all_is_returned_for_each():
    got = vmap(lambda x: (x, namespace(x).zeros(3), namespace(x).sum(x)))(np.ones((COUNT, 2)))
    assert [part.shape for part in got] == [(COUNT, 2), (COUNT, 3), (COUNT,)]
    got[1][0, 0] = 1  # arrays of their own
    assert got[1].sum() == 1


def test_numbers_and_none_are_passed_on():
    got = vmap(lambda x, a, b: x * a if b is None else b)(np.ones((COUNT, 2)), 3.0, None)
    np.testing.assert_array_equal(got, np.full((COUNT, 2), 3.0))


def test_one_singular_matrix_spoils_no_other():
    a = np.stack([np.eye(6) * (i + 1) for i in range(COUNT)])
    a[2] = 0
    got = vmap(lambda a: namespace(a).linalg.solve(a, a[:, :1]))(a)
    assert not np.isfinite(got[2]).any()
    np.testing.assert_array_equal(np.delete(got, 2, 0), np.broadcast_to(np.eye(6)[:, :1], (COUNT - 1, 6, 1)))


def test_it_takes_as_many_calls_as_one():
    def calls(count):
        """Calls of Python's and C's functions."""
        x, made = np.ones((count, 4, 4)), []
        function = vmap(lambda x: namespace(x).linalg.solve(x + 4 * namespace(x).eye(4), x @ x)[:, 0])
        function(x)
        sys.setprofile(lambda frame, event, arg: made.append(event) if event.endswith("call") else None)
        function(x)
        sys.setprofile(None)
        return len(made)

    assert calls(50) == calls(3)


def test_flags_are_known_where_all_agree():
    def seen(flags):
        found = []
        vmap(lambda flag: found.append(known(flag)) or flag)(np.asarray(flags))
        return found[0]

    assert [seen([True, True]), seen([False, False]), seen([True, False])] == [True, False, None]


def test_values_and_functions_that_are_not_covered_are_refused():
    x = np.ones((COUNT, 2))
    with pytest.raises(TypeError, match="no one truth value"):
        vmap(lambda x: 1 if x[0] > 0 else 0)(x)
    with pytest.raises(TypeError, match="no one value"):
        vmap(lambda x: float(x[0]))(x)
    with pytest.raises(AttributeError, match="`cumulative_sum` is not among the functions"):
        vmap(lambda x: namespace(x).cumulative_sum(x))(x)
    with pytest.raises(AttributeError, match=r"`linalg\.matrix_rank` is not among the functions"):
        vmap(lambda x: namespace(x).linalg.matrix_rank(x))(x)
    with pytest.raises(
        TypeError, match="Lanes"
    ):  # arrays of the library do not mix with those that stand for many
        vmap(lambda y: y + x)(x)


def test_arrays_that_stand_for_many_say_so():
    assert repr(Lanes(np.zeros(2))) == "Lanes(array([0., 0.]))"
    with pytest.raises(TypeError, match="Multiple namespaces"):
        namespace(Lanes(np.zeros(2)), np.zeros(2))
