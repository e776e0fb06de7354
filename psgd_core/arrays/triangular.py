"""Algebra with one upper triangular matrix Q, or one Hermitian: half the work of a full one, or less.

The array API standard has a product and a solver for full matrices only. NumPy gets BLAS's ``trmm`` and
``trsm`` through SciPy; to Fortran a C array is its own transpose, so little is copied. The other libraries
have a triangular solver. For products on the CPU, PyTorch's and JAX's matrices are split,
``[[A, B], [0, D]] [x; y] = [A x + B y; D y]``, until a block has `SPLIT` rows: at 1024 rows that leaves 5/8
of the arithmetic. On a GPU the extra launches would cost more than the arithmetic saves.

Columns x are (s, m). With ``rows=True`` they are rows, (m, s), and Q acts on each of them: ``x Q^T``. All of
this goes over leading batch axes too, one matrix after another where a library's routine takes only one.
"""

from __future__ import annotations

import importlib
from typing import Any

import array_api_compat

from .batched import is_complex, library_solve
from .library import Array, device_of, namespace
from .matrices import conj, transpose

SPLIT = 256
"""Rows from which splitting pays; below that, a full product is as fast as its parts."""

CHUNK = 512
"""Rows that are solved for at a time."""

LAID_OUT = 96
"""Rows and columns from which JAX's transposed operands are copied."""

SMALL = 64
"""Rows up to which a full product is as fast as a triangular one."""

WHOLE = 96
"""Rows up to which NumPy multiplies two triangular matrices as full ones."""


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
    xp, s = namespace(q), q.shape[-1]
    if s > SMALL and array_api_compat.is_numpy_array(q):
        return _blas("trmm", q, x, adjoint=adjoint, rows=rows)
    if s <= SPLIT or not _splits(q):
        return dense_product(q, x, adjoint=adjoint, rows=rows)
    half, axis = s // 2, -1 if rows else -2
    first, last = (x[..., :half], x[..., half:]) if rows else (x[..., :half, :], x[..., half:, :])
    top, bottom, corner = q[..., :half, :half], q[..., half:, half:], q[..., :half, half:]
    ends = [product(part, y, adjoint=adjoint, rows=rows) for part, y in ((top, first), (bottom, last))]
    across = dense_product(corner, first if adjoint else last, adjoint=adjoint, rows=rows)
    place = 1 if adjoint else 0
    ends[place] = ends[place] + across
    return xp.concat(ends, axis=axis)


def dense_product(q: Array, x: Array, *, adjoint: bool = False, rows: bool = False) -> Array:
    """Return what `product` does, for any Q."""
    if rows:
        return x @ (conj(q) if adjoint else transpose(q))
    return (conj(_laid_out(q)) if adjoint else q) @ x


def solve(q: Array, x: Array, *, adjoint: bool = False, rows: bool = False) -> Array:
    """Return ``Q^{-1} x``, or ``Q^{-H} x``, for one upper triangular Q; not finite where Q is singular.

    Parameters
    ----------
    q, x, adjoint, rows
        As for `product`; with `rows`, ``x Q^{-T}``, or ``x conj(Q)^{-1}``.
    """
    xp = namespace(q)
    if array_api_compat.is_numpy_array(q):
        return _blas("trsm", q, x, adjoint=adjoint, rows=rows)
    if array_api_compat.is_torch_array(q):
        return _torch_solve(q, x, adjoint=adjoint, rows=rows)
    if array_api_compat.is_jax_array(q):  # from the right as well: 177 us in place of 320 for (120, 400)
        right = importlib.import_module("jax").lax.linalg.triangular_solve(
            q, x if rows else transpose(x), transpose_a=not adjoint, conjugate_a=adjoint and is_complex(q)
        )
        return right if rows else transpose(right)
    if rows:
        return transpose(solve(q, transpose(x), adjoint=adjoint))
    if not array_api_compat.is_cupy_array(q):
        return library_solve(conj(transpose(q)) if adjoint else q, x)
    pairs = [(q, x)] if q.ndim == 2 else [(q[i, ...], x[i, ...]) for i in range(q.shape[0])]
    library: Any = importlib.import_module("cupyx.scipy.linalg")
    solved: list[Array] = [library.solve_triangular(*pair, trans=2 if adjoint else 0) for pair in pairs]
    return solved[0] if q.ndim == 2 else xp.stack(solved)


def _torch_solve(q: Array, x: Array, *, adjoint: bool, rows: bool) -> Array:
    """Return what `solve` does, from the right: what LAPACK takes is the transpose of x in memory."""
    xp: Any = namespace(q)
    matrix = conj(q) if adjoint else transpose(q)
    if not rows:
        solved: Array = xp.linalg.solve_triangular(matrix, transpose(x), upper=adjoint, left=False)
        return transpose(solved)
    # what comes back is transposed, so on the host a few rows at a time, that stay in cache
    count = max(x.shape[-2], 1)
    step = CHUNK if _splits(q) else count
    parts: list[Array] = [
        xp.linalg.solve_triangular(matrix, x[..., i : i + step, :], upper=adjoint, left=False)
        for i in range(0, count, step)
    ]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-2)


def compose(a: Array, b: Array) -> Array:
    """Return ``A B`` for two upper triangular matrices: a third of the work of a full product."""
    xp, s, lead = namespace(a), a.shape[-1], a.shape[:-2]
    blas = array_api_compat.is_numpy_array(a)
    if s <= (WHOLE if blas else SPLIT // 2) or not (blas or _splits(a)):
        return a @ b
    half = s // 2
    top, corner, bottom = a[..., :half, :half], a[..., :half, half:], a[..., half:, half:]
    across = product(top, b[..., :half, half:])
    across = across + conj(product(b[..., half:, half:], conj(corner), adjoint=True, rows=True))
    zeros = xp.zeros((*lead, s - half, half), dtype=a.dtype, device=device_of(a))
    first = xp.concat([compose(top, b[..., :half, :half]), across], axis=-1)
    return xp.concat([first, xp.concat([zeros, compose(bottom, b[..., half:, half:])], axis=-1)], axis=-2)


def gram(x: Array, *, rows: bool = False) -> Array:
    """Return ``X X^H``: half the work of a product, which NumPy does by itself for real numbers.

    Parameters
    ----------
    x : array, shape (s, m), or (m, s) with `rows`
    rows : bool
        Whether x holds rows: then it is ``X^T conj(X)``.
    """
    xp, s = namespace(x), x.shape[-1 if rows else -2]
    whole = array_api_compat.is_numpy_array(x) and not is_complex(x)
    if s <= SPLIT // 2 or whole or not (_splits(x) or array_api_compat.is_numpy_array(x)):
        return transpose(x) @ conj(x) if rows else x @ conj(transpose(x))
    half = s // 2
    first, last = (x[..., :half], x[..., half:]) if rows else (x[..., :half, :], x[..., half:, :])
    corner = transpose(first) @ conj(last) if rows else first @ conj(transpose(last))
    top = xp.concat([gram(first, rows=rows), corner], axis=-1)
    return xp.concat([top, xp.concat([conj(transpose(corner)), gram(last, rows=rows)], axis=-1)], axis=-2)


def _splits(q: Array) -> bool:
    """Return whether splitting pays for the library and the device of q."""
    if array_api_compat.is_torch_array(q):
        return bool(q.is_cpu)
    return array_api_compat.is_jax_array(q) and importlib.import_module("jax").default_backend() == "cpu"


def _blas(name: str, q: Array, x: Array, *, adjoint: bool, rows: bool) -> Array:
    """Call a BLAS routine on NumPy arrays: Fortran sees q^T, which is lower triangular, and x^T."""
    if 0 in x.shape:
        return x
    if q.ndim > 2:
        parts = zip(q, x, strict=True)
        return namespace(q).stack([_blas(name, q_i, x_i, adjoint=adjoint, rows=rows) for q_i, x_i in parts])
    from scipy.linalg import blas

    routine = getattr(blas, {"f": "s", "d": "d", "F": "c", "D": "z"}[q.dtype.char] + name)
    if rows and adjoint:  # no routine has conj(Q), so conjugate x and the result
        return conj(routine(1.0, q.T, conj(x).T, side=0, lower=1).T)
    trans = 1 if rows else 2 if adjoint else 0
    found: Array = routine(1.0, q.T, x.T, side=0 if rows else 1, lower=1, trans_a=trans)
    return found.T


def _laid_out(q: Array) -> Array:
    """Return ``Q^T`` as the left operand of a product.

    XLA's product on the CPU takes twice as long if that is large and transposed (60 ms, not 24, at 1024).
    """
    turned = transpose(q)
    if q.shape[-1] < LAID_OUT or not array_api_compat.is_jax_array(q):
        return turned
    jax = importlib.import_module("jax")
    laid_out: Array = jax.lax.optimization_barrier(turned) if jax.default_backend() == "cpu" else turned
    return laid_out
