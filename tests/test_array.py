"""Array helpers: sums that stay accurate at any length, checks at the door, and explicit randomness."""

from __future__ import annotations

import array_api_compat
import numpy as np
import pytest

from psgd_core.arrays import library
from psgd_core.arrays.draws import normal, signs
from psgd_core.arrays.library import at_hand, require_alike, require_arrays, require_float
from psgd_core.arrays.sums import BLOCK, gram, inner, norm, sum_of_squares
from psgd_core.arrays.vectors import finite

LENGTHS = [1, 100, 2000, BLOCK, BLOCK + 1, 10**6]


def rows(kind, count, n, dtype, seed=0):
    """Long rows; all but the first kind are biased, so that a running float32 sum loses digits."""
    rng = np.random.default_rng(seed)
    if kind == "normal":
        return rng.standard_normal((count, n)).astype(dtype)
    if kind == "positive":
        return rng.random((count, n)).astype(dtype)
    return np.full((count, n), 0.3, dtype=dtype)


def products(x, y):
    """``x y^T`` summed pairwise in extended precision, from the rounded numbers."""
    return np.array([[np.sum(p * q, dtype=np.longdouble) for q in y] for p in x.astype(np.longdouble)])


def assert_accurate(backend, actual, x, y):
    """The error is below 1e-5 |x||y| in float32, and at rounding where there is a wider float to sum in."""
    xp = backend.xp
    assert actual.dtype == library.wide_dtype(xp)
    single = actual.dtype == xp.float32
    scale = np.linalg.norm(x.astype(float), axis=1)[:, None] * np.linalg.norm(y.astype(float), axis=1)
    error = np.abs(np.asarray(backend.numpy(actual), dtype=np.float64) - products(x, y))
    assert np.all(error <= (1e-5 if single else 1e-11) * scale)


@pytest.mark.parametrize("kind", ["normal", "positive", "constant"])
def test_inner_keeps_its_digits(backend, kind):
    for n in LENGTHS:
        x, y = rows(kind, 2, n, backend.dtype_name, 1), rows(kind, 3, n, backend.dtype_name, 2)
        x, y = x[: 1 if n == 10**6 else 2], y[: 1 if n == 10**6 else 3]
        assert_accurate(backend, backend.jit(inner)(backend.asarray(x), backend.asarray(y)), x, y)


def test_running_float32_sums_fail_on_the_same_data():
    for kind in ("positive", "constant"):
        x = rows(kind, 1, 10**6, "float32")
        running = np.cumsum(x[0] * x[0], dtype=np.float32)[-1]
        assert abs(running / products(x, x)[0, 0] - 1) > 1e-4


def test_inner_keeps_its_digits_at_ten_million():
    period = rows("positive", 1, 1000, "float32")
    x = np.tile(period, 10_000)
    exact = 10_000 * np.sum(period.astype(np.longdouble) ** 2)
    assert abs(inner(x, x)[0, 0] / exact - 1) < 1e-12
    assert abs(sum_of_squares(x) / exact - 1) < 1e-12


def test_no_rows_and_no_columns(backend):
    none, some = backend.asarray(np.zeros((0, 9))), backend.asarray(np.ones((2, 9)))
    assert inner(none, some).shape == (0, 2)
    assert inner(some, none).shape == (2, 0)
    assert gram(none, some).shape == (2, 2)
    assert gram(none, none).shape == (0, 0)
    empty = inner(backend.asarray(np.zeros((2, 0))), backend.asarray(np.zeros((3, 0))))
    np.testing.assert_array_equal(backend.numpy(empty), np.zeros((2, 3)))


@pytest.mark.parametrize("n", [7, BLOCK + 17])
def test_gram_holds_all_products_of_the_stacked_rows(backend, n):
    parts = [rows("normal", p, n, backend.dtype_name, p) for p in (2, 1, 3)]
    actual = gram(*(backend.asarray(x) for x in parts))
    stacked = np.concatenate(parts)
    assert_accurate(backend, actual, stacked, stacked)


def test_sum_of_squares_takes_any_shape(backend, rng):
    for shape in [(), (5,), (3, 4), (2, 3, 2), (0,)]:
        x = rng.standard_normal(shape)
        actual = sum_of_squares(backend.asarray(x))
        assert actual.shape == ()
        np.testing.assert_allclose(backend.numpy(actual), np.sum(x**2), rtol=8 * backend.eps)


@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e30, 1e-44])
def test_norms_neither_overflow_nor_vanish(backend, rng, unit):
    x = [backend.asarray(unit * rng.standard_normal(shape)) for shape in [(3,), (4, 5), (20_000,)]]
    exact = np.linalg.norm(np.concatenate([backend.numpy(part).astype(np.longdouble).ravel() for part in x]))
    if 0 < exact < 1e-40:  # denormal numbers, which JAX takes for zeros
        pytest.skip("a norm in denormal numbers has no digits to compare")
    np.testing.assert_allclose(float(backend.numpy(norm(*x))), float(exact), rtol=50 * backend.eps)


@pytest.mark.parametrize("first", ["float64", "float32"])
def test_norms_of_parts_in_two_dtypes_are_those_of_the_larger(first):
    parts = [np.array([1e-30], first), np.array([1e-25], {"float64": "float32", "float32": "float64"}[first])]
    np.testing.assert_allclose(norm(*parts), 1e-25, rtol=1e-6)


def test_norms_of_what_is_not_finite_are_not(backend):
    for odd in (np.inf, np.nan):
        assert not np.isfinite(float(backend.numpy(norm(backend.asarray(np.array([1.0, odd]))))))
    assert float(backend.numpy(norm(backend.asarray(np.zeros(3))))) == 0.0


def test_sums_read_only(backend, rng):
    if backend.library != "array_api_compat.numpy":
        pytest.skip("only NumPy has read-only arrays")
    x = rng.standard_normal((2, BLOCK + 5)).astype(backend.dtype)[:, ::-1]
    x.flags.writeable = False
    before = x.copy()
    gram(x, x)
    np.testing.assert_array_equal(x, before)


def test_wide_dtype_never_switches_x64_on(backend):
    import importlib.util

    assert library.wide_dtype(backend.xp) == (
        backend.dtype if backend.library == "jax.numpy" else backend.xp.float64
    )
    if backend.library == "jax.numpy" and importlib.util.find_spec("jax"):
        import jax

        assert jax.config.jax_enable_x64 == (backend.dtype_name == "float64")


def test_eps(backend):
    assert library.eps(backend.asarray(1.0)) == backend.eps


# -- checks at the door --------------------------------------------------------------------------------------


def test_namespace_is_the_arrays_own(backend):
    x = backend.asarray(np.ones(3))
    assert require_arrays(x=x, y=x) is array_api_compat.array_namespace(x)


@pytest.mark.parametrize("bad", [[1.0, 2.0], 3.0, None, "x"])
def test_namespace_names_what_is_not_an_array(bad):
    with pytest.raises(TypeError, match=rf"`b` must be an array .*got {type(bad).__name__}; convert"):
        require_arrays(a=np.zeros(1), b=bad)


def test_namespace_names_a_mix_of_libraries():
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match=r"one library, got `a`: numpy.ndarray, `b`: array_api_strict"):
        require_arrays(a=np.zeros(1), b=strict.zeros(1))


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex128", "float16"])
def test_only_float32_and_float64_are_taken(dtype):
    with pytest.raises(TypeError, match=rf"`x` must be float32 or float64, got {dtype}; convert"):
        require_float("x", np.zeros(2, dtype=dtype))


def test_require_alike_names_both_arrays():
    with pytest.raises(TypeError, match=r"`h` must have the dtype of `v`, float64, got float32; convert it"):
        require_alike("h", np.zeros(2, dtype="float32"), "v", np.zeros(2))
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"one library, got `v`: numpy.ndarray, `h`: torch.Tensor"):
        require_alike("h", torch.zeros(2), "v", np.zeros(2))
    with pytest.raises(ValueError, match=r"`h` must be on the device of `v`, cpu, got meta; move it"):
        require_alike("h", torch.zeros(2, device="meta"), "v", torch.zeros(2))


# -- randomness is explicit ----------------------------------------------------------------------------------


def test_a_numpy_generator_gives_every_library_the_same_draws(backend):
    like = backend.asarray(np.zeros(1))
    drawn = normal(np.random.default_rng(3), (2, 5), like)
    assert drawn.dtype == backend.dtype
    expected = np.random.default_rng(3).standard_normal((2, 5)).astype(backend.dtype_name)
    np.testing.assert_array_equal(backend.numpy(drawn), expected)


def test_a_torch_generator_draws_reproducibly():
    torch = pytest.importorskip("torch")
    like = torch.zeros(1, dtype=torch.float64)
    draws = [normal(torch.Generator().manual_seed(s), (2, 500), like) for s in (0, 0, 1)]
    assert draws[0].dtype == torch.float64
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert abs(float(draws[0].mean())) < 0.15
    assert abs(float(draws[0].std()) - 1) < 0.15


@pytest.mark.parametrize("make", ["key", "PRNGKey"])
def test_a_jax_key_draws_reproducibly_and_under_jit(make):
    jax = pytest.importorskip("jax")
    like = jax.numpy.zeros(1)
    key = getattr(jax.random, make)(0)
    drawn = jax.jit(lambda k: normal(k, (2, 500), like))(key)
    assert drawn.dtype == like.dtype
    np.testing.assert_array_equal(drawn, normal(key, (2, 500), like))
    assert abs(float(drawn.std()) - 1) < 0.15


@pytest.mark.parametrize("bad", [0, None, np.random.RandomState(0)])
def test_seeds_and_other_generators_are_refused(bad):
    with pytest.raises(TypeError, match=r"`rng` must be a numpy.random.Generator .*default_rng\(seed\)"):
        normal(bad, (3,), np.zeros(1))


def test_a_generator_of_another_library_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"`rng` must be .* got torch"):
        normal(torch.Generator(), (3,), np.zeros(1))


# -- signs without a generator -------------------------------------------------------------------------------


def counted(backend, count):
    return backend.asarray(np.asarray(count, dtype=np.int32))


@pytest.mark.parametrize("count", [0, 1, 12345, 2**31 - 1])
def test_signs_are_the_same_on_every_library(backend, count):
    drawn = backend.jit(signs)(counted(backend, count), backend.asarray(np.zeros((7, 3))))
    assert drawn.dtype == backend.dtype
    expected = signs(np.asarray(count, dtype=np.int32), np.zeros((7, 3)))
    assert set(np.unique(expected)) <= {-1.0, 1.0}
    np.testing.assert_array_equal(backend.numpy(drawn), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_signs_average_like_independent_ones(stride):
    """Over 20,000 counts (or every other one) first and second moments are within 5 standard errors."""
    n, count = 32, 20_000
    drawn = np.stack([signs(np.asarray(stride * i, np.int32), np.zeros((n, 1)))[:, 0] for i in range(count)])
    assert np.max(np.abs(drawn.mean(axis=0))) < 5 / count**0.5
    assert np.max(np.abs(drawn.T @ drawn / count - np.eye(n))) < 5 / count**0.5
    for lag in (1, 2, 3):
        later = drawn[lag:].T @ drawn[:-lag] / count
        assert np.max(np.abs(later)) < 6 / count**0.5


@pytest.mark.parametrize("large", [1.0, 1e30])
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_whether_a_vector_is_finite(backend, large, bad):
    """Also where its squares overflow."""
    x = np.full(1000, large)
    x[500] += bad
    flag = backend.jit(finite)(backend.asarray(x))
    assert flag.shape == ()
    assert bool(backend.numpy(flag)) == (bad == 0.0)


@pytest.mark.filterwarnings("ignore:Converting a tensor", "ignore:`torch.jit.trace")
def test_a_tensor_that_is_followed_is_not_at_hand():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, seen = torch.zeros(3), []

    def ask(x):
        seen.append(at_hand(x))
        return 2 * x

    ask(x)
    ask(x.requires_grad_())
    torch.func.vmap(ask)(x.detach())
    torch.func.functionalize(ask)(x.detach())
    torch.jit.trace(ask, (x.detach(),), check_trace=False)
    with torch.autograd.forward_ad.dual_level():
        ask(x.detach())
    ask(torch.nn.Parameter(x.detach(), requires_grad=False))
    ask(torch.zeros(3, device="meta"))
    assert seen == [True] + [False] * 7
