"""Algebra with one upper triangular matrix Q, or one Hermitian: half the work of a full one, or less.

The array API standard has a product and a solver for full matrices alone. NumPy gets BLAS's ``trmm`` and
``trsm`` through SciPy, which see C arrays as the transposes that they are to Fortran, and copy little. The
others have a triangular solver; for products, torch's and JAX's matrices are split on the CPU,
``[[A, B], [0, D]] [x; y] = [A x + B y; D y]``, until a block has `SPLIT` rows: at 1024 rows that leaves 5/8
of the arithmetic. On a GPU more launches would cost more than the arithmetic saves.

Columns x are (s, m). With ``rows=True`` they are rows, (m, s), and Q acts on each of them: ``x Q^T``.
"""

from __future__ import annotations

import importlib

import array_api_compat

from .batched import is_complex, library_solve
from .library import Array, device_of, namespace

SPLIT = 256
"""Rows from which splitting pays: below, a product is as fast as its parts."""

CHUNK = 512
"""Rows that are solved for at a time."""

LAID_OUT = 128
"""Rows and columns from which JAX's transposed operands are copied."""

SMALL = 64
"""Rows up to which a full product is as fast as a triangular one."""


def product(q: Array, x: Array, *, adjoint: bool = False, rows: bool = False) -> Array:
    """Return ``Q x``, or ``Q^H x``, for one upper triangular Q, (s, s).

    Parameters
    ----------
    q : array, shape (s, s)
        Zero below the diagonal.
    x : array, shape (s, m), or (m, s) with `rows`
    adjoint : bool
        Q^H in place of Q.
    rows : bool
        Whether x holds rows: then ``x Q^T``, or ``x conj(Q)``.
    """
    xp, s = namespace(q), q.shape[0]
    if s > SMALL and array_api_compat.is_numpy_namespace(xp):
        return _blas("trmm", q, x, adjoint=adjoint, rows=rows)
    if s <= SPLIT or not _splits(q):
        return dense_product(q, x, adjoint=adjoint, rows=rows)
    half, axis = s // 2, 1 if rows else 0
    first, last = (x[:, :half], x[:, half:]) if rows else (x[:half, :], x[half:, :])
    top, bottom, corner = q[:half, :half], q[half:, half:], q[:half, half:]
    ends = [product(part, y, adjoint=adjoint, rows=rows) for part, y in ((top, first), (bottom, last))]
    across = dense_product(corner, first if adjoint else last, adjoint=adjoint, rows=rows)
    place = 1 if adjoint else 0
    ends[place] = ends[place] + across
    return xp.concat(ends, axis=axis)


def dense_product(q: Array, x: Array, *, adjoint: bool = False, rows: bool = False) -> Array:
    """Return the same for any Q."""
    if rows:
        return x @ (_conj(q) if adjoint else _transpose(q))
    return (_conj(_laid_out(q)) if adjoint else q) @ x


def solve(q: Array, x: Array, *, adjoint: bool = False, rows: bool = False) -> Array:
    """Return ``Q^{-1} x``, or ``Q^{-H} x``, for one upper triangular Q; not finite where Q is singular.

    Parameters
    ----------
    q, x, adjoint, rows
        As for `product`; with `rows`, ``x Q^{-T}``, or ``x conj(Q)^{-1}``.
    """
    xp = namespace(q)
    if array_api_compat.is_numpy_namespace(xp):
        return _blas("trsm", q, x, adjoint=adjoint, rows=rows)
    if array_api_compat.is_torch_namespace(xp):
        # from the right: what LAPACK takes is the transpose of x as it lies in memory
        matrix = _conj(q) if adjoint else _transpose(q)
        if not rows:
            return _transpose(xp.linalg.solve_triangular(matrix, _transpose(x), upper=adjoint, left=False))
        step = (
            CHUNK if _splits(q) else max(x.shape[0], 1)
        )  # what comes back is transposed, and few rows cached
        parts = [x[i : i + step, :] for i in range(0, max(x.shape[0], 1), step)]
        parts = [xp.linalg.solve_triangular(matrix, part, upper=adjoint, left=False) for part in parts]
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
    if rows:
        return _transpose(solve(q, _transpose(x), adjoint=adjoint))
    if not (array_api_compat.is_jax_namespace(xp) or array_api_compat.is_cupy_namespace(xp)):
        return library_solve(_conj(_transpose(q)) if adjoint else q, x)
    jax = array_api_compat.is_jax_namespace(xp)
    library = importlib.import_module("jax.scipy.linalg" if jax else "cupyx.scipy.linalg")
    return library.solve_triangular(q, x, trans=2 if adjoint else 0)


def compose(a: Array, b: Array) -> Array:
    """Return ``A B`` for two upper triangular matrices: a third of the work of a full product."""
    xp, s = namespace(a), a.shape[0]
    blas = array_api_compat.is_numpy_namespace(xp)
    if s <= (SMALL if blas else SPLIT // 2) or not (blas or _splits(a)):
        return a @ b
    half = s // 2
    corner = product(a[:half, :half], b[:half, half:])
    corner = corner + _conj(product(b[half:, half:], _conj(a[:half, half:]), adjoint=True, rows=True))
    zeros = xp.zeros((s - half, half), dtype=a.dtype, device=device_of(a))
    first = xp.concat([compose(a[:half, :half], b[:half, :half]), corner], axis=1)
    return xp.concat([first, xp.concat([zeros, compose(a[half:, half:], b[half:, half:])], axis=1)], axis=0)


def gram(x: Array, *, rows: bool = False) -> Array:
    """Return ``X X^H``: half the work of a product, which NumPy does by itself for real numbers.

    Parameters
    ----------
    x : array, shape (s, m), or (m, s) with `rows`
    rows : bool
        Whether x holds rows: then it is ``X^T conj(X)``.
    """
    xp, s = namespace(x), x.shape[1 if rows else 0]
    whole = array_api_compat.is_numpy_namespace(xp) and not is_complex(x)
    if s <= SPLIT // 2 or whole or not (_splits(x) or array_api_compat.is_numpy_namespace(xp)):
        return _transpose(x) @ _conj(x) if rows else x @ _conj(_transpose(x))
    half = s // 2
    first, last = (x[:, :half], x[:, half:]) if rows else (x[:half, :], x[half:, :])
    corner = _transpose(first) @ _conj(last) if rows else first @ _conj(_transpose(last))
    top = xp.concat([gram(first, rows=rows), corner], axis=1)
    return xp.concat([top, xp.concat([_conj(_transpose(corner)), gram(last, rows=rows)], axis=1)], axis=0)


def _splits(q: Array) -> bool:
    """Return whether splitting pays for the library and the device of q."""
    if array_api_compat.is_torch_array(q):
        return q.device.type == "cpu"
    return array_api_compat.is_jax_array(q) and importlib.import_module("jax").default_backend() == "cpu"


def _blas(name: str, q: Array, x: Array, *, adjoint: bool, rows: bool) -> Array:
    """Return what a BLAS routine makes of NumPy arrays: to Fortran, q^T (lower triangular) and x^T."""
    if x.size == 0:
        return x
    from scipy.linalg import blas

    routine = getattr(blas, {"f": "s", "d": "d", "F": "c", "D": "z"}[q.dtype.char] + name)
    if rows and adjoint:  # conj(Q): which no routine has, but for its conjugate on that of x
        return _conj(routine(1.0, q.T, _conj(x).T, side=0, lower=1).T)
    trans = 1 if rows else 2 if adjoint else 0
    return routine(1.0, q.T, x.T, side=0 if rows else 1, lower=1, trans_a=trans).T


def _laid_out(q: Array) -> Array:
    """Return ``Q^T`` as the left operand of a product.

    XLA's on the CPU takes twice as long where that is large and transposed (at 1024, 60 ms and not 24).
    """
    turned = _transpose(q)
    if min(q.shape) < LAID_OUT or not array_api_compat.is_jax_array(q):
        return turned
    jax = importlib.import_module("jax")
    return jax.lax.optimization_barrier(turned) if jax.default_backend() == "cpu" else turned


def _transpose(q: Array) -> Array:
    return namespace(q).matrix_transpose(q)


def _conj(q: Array) -> Array:
    return namespace(q).conj(q) if is_complex(q) else q
