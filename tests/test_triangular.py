"""Triangular algebra against full matrices, on every library, with sizes on both sides of every threshold."""

from __future__ import annotations

import numpy as np
import pytest

from psgd_core.arrays import triangular

SIZES = [1, 2, 7, 65, 130, 301]


def upper(s, rng, dtype):
    """A triangular matrix whose inverse is as tame as itself."""
    noise = rng.uniform(-1, 1, (s, s)) / s
    if np.issubdtype(dtype, np.complexfloating):
        noise = noise + 1j * rng.uniform(-1, 1, (s, s)) / s
    return np.triu(noise) + np.eye(s)


def like(backend, x):
    """Hand over complex numbers, which the backend's own dtype does not hold, in its precision."""
    if np.iscomplexobj(x):
        return backend.xp.asarray(x.astype(np.complex64 if backend.eps > 1e-10 else np.complex128))
    return backend.asarray(x)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("s", SIZES)
def test_products_and_solves_are_those_of_full_matrices(backend, s, dtype):
    rng = np.random.default_rng(s)
    q = upper(s, rng, dtype)
    x = rng.standard_normal((s, 5)) + (1j * rng.standard_normal((s, 5)) if dtype is np.complex128 else 0)
    atol = 50 * s * backend.eps
    for adjoint in (False, True):
        matrix = q.conj().T if adjoint else q
        for verb, expected in (
            (triangular.product, matrix @ x),
            (triangular.dense_product, matrix @ x),
            (triangular.solve, np.linalg.solve(matrix, x)),
        ):
            columns = verb(like(backend, q), like(backend, x), adjoint=adjoint)
            np.testing.assert_allclose(backend.numpy(columns), expected, atol=atol)
            rows = verb(like(backend, q), like(backend, x.T.copy()), adjoint=adjoint, rows=True)
            np.testing.assert_allclose(backend.numpy(rows), expected.T, atol=atol)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("s", SIZES)
def test_products_of_two_triangular_and_gram_matrices(backend, s, dtype):
    rng = np.random.default_rng(s)
    a, b = upper(s, rng, dtype), upper(s, rng, dtype)
    atol = 50 * s * backend.eps
    composed = backend.numpy(triangular.compose(like(backend, a), like(backend, b)))
    np.testing.assert_allclose(composed, a @ b, atol=atol)
    assert np.all(np.tril(composed, -1) == 0)
    gram = backend.numpy(triangular.gram(like(backend, a)))
    np.testing.assert_allclose(gram, a @ a.conj().T, atol=atol)
    np.testing.assert_allclose(gram, gram.conj().T, atol=atol)
    rows = backend.numpy(triangular.gram(like(backend, a), rows=True))
    np.testing.assert_allclose(rows, a.T @ a.conj(), atol=atol)


def test_many_rows_and_large_transposed_matrices(backend):
    """Beyond the sizes from which rows are solved for in parts, and JAX's left operands are laid out."""
    rng = np.random.default_rng(0)
    q, x = upper(5, rng, float), rng.standard_normal((1100, 5))
    got = triangular.solve(backend.asarray(q), backend.asarray(x), rows=True, adjoint=True)
    np.testing.assert_allclose(backend.numpy(got), np.linalg.solve(q.T, x.T).T, atol=500 * backend.eps)
    wide = rng.standard_normal((600, 520)) / 30
    got = backend.jit(lambda x: triangular.gram(x, rows=True))(backend.asarray(wide))
    np.testing.assert_allclose(backend.numpy(got), wide.T @ wide, atol=2000 * backend.eps)
    large = upper(520, rng, float)
    got = backend.jit(lambda q, x: triangular.product(q, x, adjoint=True))(
        backend.asarray(large), backend.asarray(large[:, :2])
    )
    np.testing.assert_allclose(backend.numpy(got), large.T @ large[:, :2], atol=2000 * backend.eps)


def test_a_singular_matrix_gives_what_is_not_finite(backend):
    q = np.asarray([[1.0, 2.0], [0.0, 0.0]])
    with np.errstate(all="ignore"):
        got = backend.numpy(triangular.solve(backend.asarray(q), backend.asarray(np.ones((2, 1)))))
    assert not np.all(np.isfinite(got))


def test_what_is_read_only_or_strided_is_taken_and_left_alone(rng):
    q, x = upper(80, rng, float), rng.standard_normal((5, 80)).T
    before = x.copy()
    for array in (q, x):
        array.flags.writeable = False
    np.testing.assert_allclose(triangular.product(q, x), q @ before, atol=1e-12)
    np.testing.assert_allclose(q @ triangular.solve(q, x[:, ::2]), before[:, ::2], atol=1e-12)
    np.testing.assert_array_equal(x, before)
    assert triangular.product(q, x[:, :0]).shape == (80, 0)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("s", SIZES)
def test_stacks_are_their_matrices_one_by_one(backend, s, dtype):
    rng = np.random.default_rng(s)
    q, b = (np.stack([upper(s, rng, dtype) for _ in range(3)]) for _ in range(2))
    x = rng.standard_normal((3, s, 5)) + 0 * q[:, :, :1]
    q, b, x = (like(backend, z) for z in (q, b, x))
    rows = backend.xp.matrix_transpose(x)
    cases = [
        (verb, (q, y), {"adjoint": adjoint, "rows": y is rows})
        for verb in (triangular.product, triangular.dense_product, triangular.solve)
        for adjoint in (False, True)
        for y in (x, rows)
    ]
    cases += [(triangular.compose, (q, b), {})]
    cases += [(triangular.gram, (y,), {"rows": y is rows}) for y in (x, rows)]
    for verb, arrays, options in cases:
        got = backend.numpy(verb(*arrays, **options))
        alone = [backend.numpy(verb(*(y[i, ...] for y in arrays), **options)) for i in range(3)]
        np.testing.assert_allclose(got, np.stack(alone), atol=50 * s * backend.eps)
