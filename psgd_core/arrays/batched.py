"""Algebra of many small matrices at once: arrays of shape (s, t, c) hold c matrices of shape (s, t).

The batch axis comes last, so that entry (i, j) of all matrices is one contiguous vector: products and
solves of small matrices become a few operations on long vectors, at memory speed on every library, instead
of one library call per matrix. Large matrices (s > `UNROLL`) go to the library's own batched routines.
"""

from __future__ import annotations

import array_api_compat

from .library import Array, Namespace, device_of, eps, namespace

UNROLL = 4
"""Largest matrix that is worked on entry by entry."""

POWERS = 64
"""Largest matrix whose spectral norm is bounded by powers of it."""


def is_complex(a: Array) -> bool:
    """Return whether an array holds complex numbers."""
    kind = getattr(a.dtype, "kind", None)  # asked often: by name only where there is no kind
    return "complex" in str(a.dtype) if kind is None else kind == "c"


def real(a: Array) -> Array:
    """Return the real part of an array, itself where it is real."""
    return namespace(a).real(a) if is_complex(a) else a


def square(a: Array) -> Array:
    """Return ``|a|^2`` elementwise, real."""
    if not is_complex(a):
        return a * a
    xp = namespace(a)
    return xp.real(a) ** 2 + xp.imag(a) ** 2


def transpose(a: Array) -> Array:
    """Return the matrices of `a` transposed: (s, t, c) to (t, s, c), a view where the library has views."""
    return namespace(a).permute_dims(a, (1, 0, 2))


def adjoint(a: Array) -> Array:
    """Return the matrices of `a` transposed, and conjugate where they are complex."""
    xp = namespace(a)
    turned = xp.permute_dims(a, (1, 0, 2))
    return xp.conj(turned) if is_complex(a) else turned


def squares(a: Array) -> Array:
    """Return the sum of the squares of each matrix's entries, (c,)."""
    return namespace(a).sum(square(a), axis=(0, 1))


def outer(x: Array, y: Array) -> Array:
    """Return ``x y^T`` (conjugate where complex) per block: (s, t, c) and (u, t, c) to (s, u, c)."""
    return matmul(x, adjoint(y))


def identity(s: int, count: int, like: Array) -> Array:
    """Return `count` identity matrices of size s, on the namespace, dtype and device of `like`."""
    xp = namespace(like)
    eye = xp.eye(s, dtype=like.dtype, device=device_of(like))
    return eye[:, :, None] + xp.zeros((1, 1, count), dtype=like.dtype, device=device_of(like))


def matmul(a: Array, b: Array) -> Array:
    """Return the products of (s, t, c) and (t, u, c), shape (s, u, c)."""
    t = a.shape[1]
    if a.shape[0] == b.shape[1] == 1 and t > 1:
        return namespace(a).sum(a[0, ...] * b[:, 0, :], axis=0)[None, None, :]
    if t <= UNROLL:
        total = a[:, 0, None, :] * b[None, 0, :, :]
        for j in range(1, t):
            total = total + a[:, j, None, :] * b[None, j, :, :]
        return total
    if a.shape[2] == 1:  # one matrix: the library's own product knows transposed ones
        return (a[:, :, 0] @ b[:, :, 0])[:, :, None]
    xp = namespace(a)
    return _batch_last(xp, _batch_first(xp, a) @ _batch_first(xp, b))


def solve(a: Array, b: Array) -> Array:
    """Return ``a^{-1} b`` for a of shape (s, s, c) and b of shape (s, k, c).

    Never raises and never synchronises with a device: where a matrix is exactly singular the result is not
    finite. Small matrices are eliminated with row pivoting, so entries near the ends of the float range do
    not overflow as a determinant would.
    """
    s = a.shape[0]
    xp = namespace(a)
    if s <= UNROLL:
        return _eliminate(xp, a, b)
    return _batch_last(xp, library_solve(_batch_first(xp, a), _batch_first(xp, b)))


def library_solve(a: Array, b: Array) -> Array:
    """Return ``a^{-1} b`` over leading batch axes by the library's solver, not finite where a is singular."""
    xp = namespace(a)
    if a.shape[-1] == 0:
        return b
    if array_api_compat.is_torch_namespace(xp):
        # torch.linalg.solve waits for the device to look for singular matrices; solve_ex does not.
        solved: Array = xp.linalg.solve_ex(a, b)[0]
        return solved
    try:
        return xp.linalg.solve(a, b)
    except ValueError as error:  # numpy.linalg.LinAlgError: one singular matrix fails the whole batch
        if "ingular" not in str(error):
            raise
    signs: Array = xp.linalg.slogdet(a)[0]
    singular = (xp.abs(signs) < 1)[..., None, None]
    one = xp.eye(a.shape[-1], dtype=a.dtype, device=device_of(a))
    solved = xp.linalg.solve(xp.where(singular, one, a), b)
    return xp.where(singular, xp.full_like(solved, xp.nan), solved)


def log_abs_det(a: Array) -> Array:
    """Return ``log |det|`` of each matrix of an (s, s, c) array, shape (c,)."""
    xp = namespace(a)
    if a.shape[0] <= UNROLL:
        total = xp.zeros_like(a[0, 0, ...])
        singular = total > 0
        for i, row in enumerate(_reduce_rows(xp, a, [])):
            total, singular = total + xp.log(xp.abs(row[i])), singular | (xp.abs(row[i]) <= 0)
        return xp.where(singular, xp.full_like(total, -xp.inf), total)  # what follows a zero pivot is NaN
    logs: Array = xp.linalg.slogdet(_batch_first(xp, a))[1]
    return logs


def singular_values(a: Array) -> Array:
    """Return the singular values of all matrices of an (s, s, c) array, (s c,), in any order."""
    xp = namespace(a)
    values = xp.abs(a) if a.shape[0] == 1 else xp.linalg.svdvals(_batch_first(xp, a))
    return xp.reshape(values, (-1,))


def spectral_bound(s: Array) -> Array:
    """Return an upper bound of the largest eigenvalue of each positive semidefinite (s, s, c) matrix, (c,).

    Exact up to size 2 (closed form); up to `POWERS`, ``tr(S^64)^(1/64)``, which is at most ``n^(1/64)`` too
    large (4 % at n = 16) and costs six products: no eigenvalue routine, so no synchronisation. Above, 1.1
    times what eight steps of power iteration on four vectors find, not a bound in the strict sense: on random
    Gram matrices of sizes 65 to 1024 it is between 3 % too small and 10 % too large.
    """
    xp = namespace(s)
    n = s.shape[0]
    if n == 1:
        return real(s[0, 0, ...])
    if s.shape[2] == 1 and n > 2:
        return largest_eigenvalue(s[:, :, 0])
    if n > POWERS:
        return _power_iteration(xp, _batch_first(xp, s))
    total = trace(s)
    if n == 2:
        # lambda = (p + q)/2 + hypot((p - q)/2, r): no cancellation, and scale-safe in units of the trace
        unit = xp.where(total > 0, total, xp.ones_like(total))
        half, off = real(s[0, 0, ...] - s[1, 1, ...]) / unit / 2, s[0, 1, ...] / unit
        return total / 2 + unit * xp.sqrt(half * half + square(off))
    power = s / xp.where(total > 0, total, xp.ones_like(total))
    bound, exponent = total, 1.0
    for _ in range(6):
        power = matmul(power, power)
        scale = trace(power)  # in [1/n, 1]: normalised every time, so that no power underflows
        power = power / xp.where(scale > 0, scale, xp.ones_like(scale))
        exponent = exponent / 2
        bound = bound * scale**exponent
    return bound * (1 + 64 * eps(s))  # rounding is allowed for, so that the bound stays one


def largest_eigenvalue(s: Array) -> Array:
    """Return the same for matrices (..., n, n), as (..., 1), in fewer calls."""
    xp, n = namespace(s), s.shape[-1]
    if n <= 2:
        last = xp.permute_dims(xp.reshape(s, (-1, n, n)), (1, 2, 0))
        return xp.reshape(spectral_bound(last), (*s.shape[:-2], 1))
    if n > POWERS:
        return _power_iteration(xp, s)[..., None]
    unit = (real(xp.linalg.trace(s)) + _least(xp, s))[..., None, None]  # not 0, and as good a unit
    power = s / unit
    for _ in range(3):
        power = power @ power
    # tr(A^2) is the sum of squares for a Hermitian A: the last power is never formed. From 1/n^16 to 1: no
    # underflow up to `POWERS`
    scale = xp.sum(square(power), axis=(-2, -1), keepdims=True) + _least(xp, s)
    power = power @ power / scale
    power = power @ power
    total = xp.sum(square(power), axis=(-2, -1), keepdims=True)
    return (unit * scale ** (1 / 16) * total ** (1 / 64) * (1 + 64 * eps(s)))[..., 0]


def _least(xp: Namespace, s: Array) -> float:
    return float(xp.finfo(s.dtype).smallest_normal)


def _power_iteration(xp: Namespace, s: Array) -> Array:
    """Return about the largest eigenvalue of each positive semidefinite (..., n, n) matrix, (...)."""
    n, least = s.shape[-1], _least(xp, s)
    unit = (real(xp.linalg.trace(s)) + least)[..., None, None]
    place = xp.arange(4 * n, dtype=unit.dtype, device=device_of(s))
    x = xp.astype(xp.reshape(xp.cos(place * 2.3), (n, 4)), s.dtype, copy=False)
    for i in range(7):
        if i == 4:  # eigenvalues are at least 1/n of the unit: up to here, and from here on, no underflow
            x = x / (xp.max(xp.abs(x), axis=-2, keepdims=True) + least)
        x = s @ x / unit
    before, after = (xp.sum(square(y), axis=-2) for y in (x, s @ x / unit))
    return 1.1 * unit[..., 0, 0] * xp.sqrt(xp.max(after / (before + least), axis=-1))


def trace(a: Array) -> Array:
    """Return the real part of the trace of each matrix, (c,)."""
    xp = namespace(a)
    return real(xp.linalg.trace(_batch_first(xp, a)))


def _batch_first(xp: Namespace, a: Array) -> Array:
    return xp.permute_dims(a, (2, 0, 1))


def _batch_last(xp: Namespace, a: Array) -> Array:
    return xp.permute_dims(a, (1, 2, 0))


def _reduce_rows(xp: Namespace, a: Array, rhs: list[Array]) -> list[list[Array]]:
    """Bring `a`, and `rhs` along, to upper triangular form by row pivoting; return its rows."""
    s = a.shape[0]
    rows = [[a[i, j, ...] for j in range(s)] for i in range(s)]
    for j in range(s):
        # the largest entry of the column comes up, one comparison after another
        for i in range(j + 1, s):
            top, low = rows[j], rows[i]
            swap = xp.abs(low[j]) > xp.abs(top[j])
            for m in range(j, s):
                top[m], low[m] = xp.where(swap, low[m], top[m]), xp.where(swap, top[m], low[m])
            if rhs:
                rhs[j], rhs[i] = xp.where(swap, rhs[i], rhs[j]), xp.where(swap, rhs[j], rhs[i])
        # and the others are reduced by it
        for i in range(j + 1, s):
            factor = rows[i][j] / rows[j][j]
            for m in range(j + 1, s):
                rows[i][m] = rows[i][m] - factor * rows[j][m]
            if rhs:
                rhs[i] = rhs[i] - factor * rhs[j]
    return rows


def _eliminate(xp: Namespace, a: Array, b: Array) -> Array:
    s = a.shape[0]
    rhs = [b[i, ...] for i in range(s)]
    rows = _reduce_rows(xp, a, rhs)
    for i in range(s - 1, -1, -1):
        for j in range(i + 1, s):
            rhs[i] = rhs[i] - rows[i][j] * rhs[j]
        rhs[i] = rhs[i] / rows[i][i]
    return xp.stack(rhs)
