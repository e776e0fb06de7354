"""Symmetric parts, roots and polar factors of many matrices at once, (s, s, c) as in `batched`."""

from __future__ import annotations

from .batched import adjoint, is_complex, matmul, outer, square, trace
from .library import Array, namespace


def symmetric_part(q: Array) -> Array:
    """Return ``(Q + Q^T) / 2`` of each block."""
    return (q + adjoint(q)) / 2


def symmetric_root(q: Array) -> Array:
    """Return ``(Q^T Q)^{1/2}`` of each block, eq. (6), from singular values: nothing is squared."""
    _, s, vt = svd(q)
    return outer(adjoint(vt) * s[None, :, :], adjoint(vt))


def root_of(p: Array) -> Array:
    """Return ``P^{1/2}`` of each positive definite block, NaN where it is not."""
    xp = namespace(p)
    if p.shape[0] == 1:
        return xp.sqrt(p)
    w, v = xp.linalg.eigh(xp.permute_dims(p, (2, 0, 1)))
    v = xp.permute_dims(v, (1, 2, 0))
    return outer(v * xp.sqrt(xp.matrix_transpose(w))[None, :, :], v)


def eigh(a: Array) -> tuple[Array, Array]:
    """Return the eigenvalues (s, c), ascending, and the eigenvectors (s, s, c), as columns, of each block.

    The blocks are real, symmetric and finite. Up to size 2 by closed forms, which keep small eigenvalues of
    graded semidefinite blocks where a library's routine rounds them off.
    """
    xp, s = namespace(a), a.shape[0]
    if s == 1:
        return a[0, ...], xp.ones_like(a)
    if s == 2:
        p, q, r = a[0, 0, :], a[1, 1, :], (a[0, 1, :] + a[1, 0, :]) / 2
        half = (p - q) / 2
        radius = xp.sqrt(half * half + r * r)
        big = (p + q) / 2 + radius
        some = big > 0
        small = xp.where(some, (p * q - r * r) / xp.where(some, big, xp.ones_like(big)), p + q - big)
        reach = xp.abs(half) + radius
        t = r / xp.where(reach > 0, reach, xp.ones_like(reach))
        cos = 1 / xp.sqrt(1 + t * t)
        sin, first = t * cos, half >= 0  # whether the larger one belongs to the first entry
        x, y = xp.where(first, -sin, cos), xp.where(first, cos, -sin)
        z, w = xp.where(first, cos, sin), xp.where(first, sin, cos)
        return xp.stack([small, big]), xp.stack([xp.stack([x, z]), xp.stack([y, w])])
    values, vectors = xp.linalg.eigh(xp.permute_dims(a, (2, 0, 1)))
    return xp.matrix_transpose(values), xp.permute_dims(vectors, (1, 2, 0))


def towards_symmetry(q: Array) -> Array:
    """Return ``U Q``, U a rotation that makes each block symmetric; or nearly so, and more so every time.

    Of all rotations the polar factor's maximises ``tr(U Q)`` (Procrustes). Up to size 2 it is known in closed
    form. Above, U follows ``exp(t K)``, ``K = Q^T - Q``, to second order, with the t that is best
    to second order, but ``|t K| <= 1/4``; so U is orthogonal up to ``|t K|^4 / 4``, and exactly in the limit.
    """
    xp, s = namespace(q), q.shape[0]
    if s == 1:
        return xp.abs(q)
    skew = adjoint(q) - q
    largest = xp.max(xp.abs(skew), axis=(0, 1))
    one = xp.ones_like(largest)
    if s == 2 and not is_complex(q):
        c, t = q[0, 0, :] + q[1, 1, :], q[0, 1, :] - q[1, 0, :]
        unit = xp.maximum(xp.abs(c), xp.abs(t))
        unit = xp.where(unit > 0, unit, one)
        length = xp.sqrt((c / unit) ** 2 + (t / unit) ** 2) * unit
        c, t = (z / xp.where(length > 0, length, one) for z in (xp.where(length > 0, c, one), t))
        turn = xp.stack([xp.stack([c, -t]), xp.stack([t, c])])
        return matmul(turn, q)
    skew = skew / xp.where(largest > 0, largest, one)
    kq = matmul(skew, q)
    kkq = matmul(skew, kq)
    first, second = xp.abs(trace(kq)), -trace(kkq)
    length = xp.sqrt(xp.sum(square(skew), axis=(0, 1)))
    most = 0.25 / xp.where(length > 0, length, one)
    t = xp.where(second > 0, xp.minimum(first / xp.where(second > 0, second, one), most), most)
    return q + t * (kq + t / 2 * kkq)


def svd(q: Array) -> tuple[Array, Array, Array]:
    """Return U (s, s, c), the singular values (s, c) and V^T (s, s, c) of each block."""
    xp = namespace(q)
    if q.shape[0] == 1 and not is_complex(q):
        one = xp.ones_like(q)
        return xp.where(q < 0, -one, one), xp.abs(q[0, :, :]), one
    u, s, vt = xp.linalg.svd(xp.permute_dims(q, (2, 0, 1)), full_matrices=False)
    return xp.permute_dims(u, (1, 2, 0)), xp.matrix_transpose(s), xp.permute_dims(vt, (1, 2, 0))
