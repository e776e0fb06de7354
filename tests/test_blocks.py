"""Algebra of many small matrices with the batch axis last, against numpy.linalg, one matrix at a time."""

from __future__ import annotations

import numpy as np
import pytest
from registry import compiled_jax_only

from psgd_core.arrays import batched

SIZES = [1, 2, 3, 4, 5, 7]  # up to `batched.UNROLL` by hand, above by the library
sizes = pytest.mark.parametrize("s", SIZES)
# NumPy warns of every division by zero; what is asked here is that nothing is raised and nothing is hidden
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def well_conditioned(s, count, rng):
    """(s, s, count) matrices with singular values in [0.5, 2], rows in any order: pivoting is needed."""
    left, right = (np.linalg.qr(rng.standard_normal((count, s, s)))[0] for _ in range(2))
    return np.moveaxis(left * rng.uniform(0.5, 2.0, (count, 1, s)) @ right, 0, -1)


def each(f, *arrays):
    """Apply f to every matrix on its own."""
    return np.stack([f(*(a[..., i] for a in arrays)) for i in range(arrays[0].shape[-1])], axis=-1)


def close(backend, actual, expected, scale=1.0):
    assert actual.dtype == backend.dtype
    assert actual.shape == expected.shape
    np.testing.assert_allclose(backend.numpy(actual), expected, rtol=0, atol=60 * backend.eps * scale)


@pytest.mark.parametrize(("s", "count"), [(1, 9), (2, 1), (2, 9), (3, 9), (4, 9), (5, 1), (7, 9)])
@compiled_jax_only
def test_products_solutions_and_determinants(backend, s, count, rng):
    a, b = (backend.numpy(backend.asarray(well_conditioned(s, count, rng))).astype(float) for _ in range(2))
    x = backend.numpy(backend.asarray(rng.standard_normal((s, 3, count)))).astype(float)
    given = [backend.asarray(z) for z in (a, b, x)]

    def all_of(a, b, x):
        return (
            batched.matmul(a, b),
            batched.matmul(a, x),
            batched.matmul(batched.transpose(x), a),
            batched.solve(a, x),
            batched.log_abs_det(a),
        )

    product, on_columns, on_rows, solution, log_det = backend.jit(all_of)(*given)
    close(backend, product, np.einsum("ijc,jkc->ikc", a, b), 4)
    close(backend, on_columns, np.einsum("ijc,jkc->ikc", a, x), 4)
    close(backend, on_rows, np.einsum("jic,jkc->ikc", x, a), 4)
    close(backend, solution, each(np.linalg.solve, a, x), 16)
    close(backend, log_det, each(lambda m: np.linalg.slogdet(m)[1], a), 4)


def test_identities(backend):
    eye = batched.identity(3, 4, backend.asarray(np.zeros(1)))
    close(backend, eye, np.repeat(np.eye(3)[:, :, None], 4, axis=2))


@sizes
@compiled_jax_only
def test_every_order_of_pivots(backend, s, rng):
    """Permutation matrices need a row exchange at every step, and have a zero at every first pivot."""
    eye = np.eye(s)
    shuffled = [eye[::-1], np.roll(eye, 1, axis=0), *(eye[rng.permutation(s)] for _ in range(4))]
    a = np.stack(shuffled, axis=-1)
    b = rng.integers(-8, 9, (s, 2, a.shape[-1])).astype(float)
    solve_and_measure = backend.jit(lambda a, b: (batched.solve(a, b), batched.log_abs_det(a)))
    solution, log_det = solve_and_measure(backend.asarray(a), backend.asarray(b))
    np.testing.assert_array_equal(backend.numpy(solution), np.einsum("jic,jkc->ikc", a, b))
    np.testing.assert_array_equal(backend.numpy(log_det), 0.0)


@sizes
@compiled_jax_only
def test_from_one_end_of_the_float_range_to_the_other(backend, s, rng):
    """Matrices of very different size share a batch; no determinant is formed on the way."""
    scales = np.array([1e-30, 1e-15, 1.0, 1e15, 1e30])
    a, x = well_conditioned(s, 5, rng), rng.standard_normal((s, 2, 5))

    def all_of(a, x, y):
        return batched.solve(a, x), batched.log_abs_det(a), batched.matmul(a, y)

    given = (backend.asarray(z) for z in (a * scales, x * scales, x / scales))
    solution, log_det, product = backend.jit(all_of)(*given)
    close(backend, solution, each(np.linalg.solve, a, x), 32)
    close(backend, log_det, each(lambda m: np.linalg.slogdet(m)[1], a) + s * np.log(scales), 400)
    close(backend, product, np.einsum("ijc,jkc->ikc", a, x), 8)


@quiet
@sizes
@compiled_jax_only
def test_singular_matrices_spoil_only_themselves(backend, s, rng):
    a, b = well_conditioned(s, 4, rng), rng.standard_normal((s, 2, 4))
    a[:, :, 1] = 0.0
    a[:, :, 2] = np.triu(np.ones((s, s)), 1) if s > 1 else 0.0  # a column and a row of zeros
    solution, log_det = backend.jit(lambda a, b: (batched.solve(a, b), batched.log_abs_det(a)))(
        backend.asarray(a), backend.asarray(b)
    )
    solution = backend.numpy(solution)
    for i in (1, 2):
        assert not np.all(np.isfinite(solution[:, :, i]))
        assert backend.numpy(log_det)[i] == -np.inf
    expected = each(np.linalg.solve, a[:, :, [0, 3]], b[:, :, [0, 3]])
    np.testing.assert_allclose(solution[:, :, [0, 3]], expected, atol=500 * backend.eps)
    assert np.all(np.isfinite(backend.numpy(log_det)[[0, 3]]))


@quiet
@pytest.mark.parametrize("s", [1, 3, 5])
@compiled_jax_only
def test_nan_comes_out_where_it_went_in(backend, s, rng):
    a, b = well_conditioned(s, 3, rng), rng.standard_normal((s, 1, 3))
    a[0, 0, 1] = np.nan
    solution = backend.numpy(backend.jit(batched.solve)(backend.asarray(a), backend.asarray(b)))
    assert not np.all(np.isfinite(solution[:, :, 1]))
    assert np.all(np.isfinite(solution[:, :, [0, 2]]))


def positive(s, rng):
    """Positive semidefinite (s, s, c) matrices of rank 0, 1, ... s, and one with all eigenvalues equal."""
    stack = [np.zeros((s, s)), np.eye(s)]
    for rank in range(1, s + 1):
        factor = rng.standard_normal((s, rank))
        stack.append(factor @ factor.T)
    return np.stack(stack, axis=-1)


@pytest.mark.parametrize("s", [*SIZES, 16, 40])
@compiled_jax_only
def test_spectral_bound_is_one_and_is_tight(backend, s, rng):
    stack = np.concatenate([positive(s, rng) * scale for scale in (1.0, 1e-30, 1e30)], axis=-1)
    m = backend.asarray(stack)
    largest = np.linalg.eigvalsh(np.moveaxis(np.asarray(backend.numpy(m), dtype=float), -1, 0))[:, -1]
    bound = backend.numpy(backend.jit(batched.spectral_bound)(m))
    assert bound.dtype == backend.dtype_name
    assert np.all(bound >= largest * (1 - 4 * backend.eps))
    tight = 1.0 if s <= 2 else s ** (1 / 64)
    assert np.all(bound <= largest * tight * (1 + 200 * backend.eps))
    assert bound[0] == 0


@pytest.mark.parametrize("s", [1, 2, 3, 40, 65, 200])
@compiled_jax_only
def test_largest_eigenvalues_of_stacks(backend, s, rng):
    """Bounds up to 64 rows; above, as close as the docstring says, whatever the matrices' own scales."""
    x = rng.standard_normal((4, s, 2 * s)) * np.array([1, 1e-9, 1e9, 0])[:, None, None]
    stack = x @ np.swapaxes(x, -1, -2)
    exact = np.linalg.eigvalsh(stack)[:, -1]
    bound = backend.numpy(backend.jit(batched.largest_eigenvalue)(backend.asarray(stack)))
    assert bound.shape == (4, 1)
    low, high = (1 - 100 * backend.eps, 64 ** (1 / 64) + 1e-4) if s <= 64 else (0.97, 1.1 + 1e-4)
    assert np.all(bound[:, 0] >= low * exact)
    assert np.all(bound[:, 0] <= high * exact)
    alone = [backend.numpy(batched.largest_eigenvalue(backend.asarray(m))) for m in stack[:2]]
    np.testing.assert_allclose(bound[:2], alone, rtol=200 * backend.eps)


@quiet
@pytest.mark.parametrize("s", [1, 2, 3])
def test_spectral_bound_shows_what_is_not_finite(backend, s):
    m = np.full((s, s, 2), np.inf)
    m[..., 1] = np.nan
    assert not np.any(np.isfinite(backend.numpy(batched.spectral_bound(backend.asarray(m)))))


def test_solving_no_equations(backend):
    none = backend.asarray(np.zeros((0, 0)))
    assert batched.library_solve(none, backend.asarray(np.zeros((0, 3)))).shape == (0, 3)


def test_library_solve_takes_leading_batches_and_keeps_what_is_regular(backend, rng):
    a, b = np.moveaxis(well_conditioned(6, 3, rng), -1, 0), rng.standard_normal((3, 6, 2))
    a[1] = 0.0
    actual = backend.numpy(batched.library_solve(backend.asarray(a), backend.asarray(b)))
    np.testing.assert_allclose(actual[[0, 2]], np.linalg.solve(a[[0, 2]], b[[0, 2]]), atol=500 * backend.eps)
    assert not np.any(np.isfinite(actual[1]))


def test_wrong_shapes_are_the_librarys_own_errors(rng):
    with pytest.raises(ValueError, match="mismatch"):
        batched.library_solve(rng.standard_normal((6, 6)), rng.standard_normal((5, 2)))
