"""One matrix at a time: identity, adjoint, Kronecker product, and the factor of a tall matrix."""

from __future__ import annotations

from .batched import is_complex
from .library import Array, device_of, namespace, wide_dtype
from .sums import BLOCK


def eye(n: int, like: Array) -> Array:
    """Return the (n, n) identity matrix on the namespace, dtype and device of `like`."""
    return namespace(like).eye(n, dtype=like.dtype, device=device_of(like))


def conj(a: Array) -> Array:
    """Return `a`, conjugate where it is complex."""
    return namespace(a).conj(a) if is_complex(a) else a


def transpose(a: Array) -> Array:
    """Return the transpose of a matrix, or of each matrix over leading batch axes."""
    return namespace(a).matrix_transpose(a)


def adjoint(a: Array) -> Array:
    """Return the conjugate transpose of a matrix, or of each matrix over leading batch axes."""
    return conj(transpose(a))


def kron(*factors: Array) -> Array:
    """Return the Kronecker product of square matrices, at least one; over leading batch axes."""
    total = factors[0]
    for factor in factors[1:]:
        size = total.shape[-1] * factor.shape[-1]
        product = total[..., :, None, :, None] * factor[..., None, :, None, :]
        total = namespace(product).reshape(product, (*product.shape[:-4], size, size))
    return total


def triangular_factor(u: Array, v: Array) -> Array:
    """Return R of a thin QR factorisation of [U V], (min(n, 2r), 2r), in the widest float.

    A tree of small factorisations: it needs memory for one block only, and sums few terms at a time, so that
    float32 stays accurate over a long n if it is the widest float. Householder reflections work at each
    column's own scale, so U may be large and V small.
    """
    xp, n = namespace(u), u.shape[0]
    wide, step = wide_dtype(xp), max(BLOCK, -(-n // 64))
    parts: list[Array] = []
    for start in range(0, n, step):
        block = slice(start, min(start + step, n))
        parts.append(_reduced(xp.astype(xp.concat([u[block, :], v[block, :]], axis=1), wide)))
    return parts[0] if len(parts) == 1 else _reduced(xp.concat(parts, axis=0))


def _reduced(rows: Array) -> Array:
    """Return R of a QR factorisation of many rows, tile by tile."""
    xp, k = namespace(rows), rows.shape[1]
    tile = max(2048, 4 * k)
    while rows.shape[0] > tile:
        count = -(-rows.shape[0] // tile)
        missing = (count * tile - rows.shape[0], k)
        zeros = xp.zeros(missing, dtype=rows.dtype, device=device_of(rows))
        tiles = xp.reshape(xp.concat([rows, zeros], axis=0), (count, tile, k))
        rows = xp.reshape(xp.linalg.qr(tiles).R, (count * k, k))
    factor: Array = xp.linalg.qr(rows).R
    return factor
