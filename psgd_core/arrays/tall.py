"""Products and factors of tall (n, r) matrices, summed over n in the widest float."""

from __future__ import annotations

from .library import Array, device_of, namespace, wide_dtype
from .sums import BLOCK, inner


def gram(x: Array, y: Array) -> Array:
    """Return ``x^T y`` for tall x, y, in the widest float."""
    return inner(x.T, y.T)


def thin(tall: Array, small: Array) -> Array:
    """Return ``tall @ small`` in the dtype of `tall`."""
    xp = namespace(tall)
    return tall @ xp.astype(small, tall.dtype, copy=False)


def triangular_factor(u: Array, v: Array) -> Array:
    """Return R of a thin QR factorisation of [U V], (min(n, 2r), 2r), in the widest float.

    A tree of small factorisations: memory for one block only, and sums of few terms, so that float32 stays
    accurate over a long n where it is the widest float. Householder reflections treat each column at its own
    scale, so U large and V small is fine.
    """
    xp, n = namespace(u), u.shape[0]
    wide, step, parts = wide_dtype(xp), max(BLOCK, -(-n // 64)), []
    for start in range(0, n, step):
        block = slice(start, min(start + step, n))
        parts.append(_reduced(xp.astype(xp.concat([u[block, :], v[block, :]], axis=1), wide)))
    return parts[0] if len(parts) == 1 else _reduced(xp.concat(parts, axis=0))


def _reduced(rows: Array) -> Array:
    xp, k = namespace(rows), rows.shape[1]
    tile = max(2048, 4 * k)
    while rows.shape[0] > tile:
        count = -(-rows.shape[0] // tile)
        missing = (count * tile - rows.shape[0], k)
        zeros = xp.zeros(missing, dtype=rows.dtype, device=device_of(rows))
        tiles = xp.reshape(xp.concat([rows, zeros], axis=0), (count, tile, k))
        rows = xp.reshape(xp.linalg.qr(tiles).R, (count * k, k))
    return xp.linalg.qr(rows).R
