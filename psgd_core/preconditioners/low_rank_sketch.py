"""Where `LowRank` starts when it is given pairs: at a sketch of H, made from all of them at once.

k products ``h = H V`` of random probes span H's largest eigenvectors well, and ``mean h h^T`` has their
squares: the range finder of randomised linear algebra (Halko, Martinsson and Tropp, 2011). So P starts at
``1 / sigma_i`` along the m leading left singular vectors z_i of ``h / sqrt(k)``, ``m = min(r, k // 2)``, and
at a multiple of I beside them, c^2, the criterion's minimiser over multiples on what is left of the pairs:

    Q = c (I + Z diag(1 / (c sqrt(sigma)) - 1) Z^T).

One fits it from there. Without that, the moves of the first tens of pairs go into finding these vectors.
"""

from __future__ import annotations

from ..arrays.library import Array, eps, namespace
from ..arrays.sums import inner, norm, unit_of


def sketch(v: Array, h: Array, rank: int) -> tuple[Array, Array, Array]:
    """Return (U, V, c) for ``Q = c (I + U V^T)``: U and V as rows (m, n), m = min(rank, k // 2), and c 0-d.

    Parameters
    ----------
    v, h : array, shape (k, n)
        Probes and products as rows. O(n k (k + m)) operations, and an eigenvalue problem of size k.
    rank : int
    """
    xp, k = namespace(h), h.shape[0]
    m = min(rank, k // 2)
    # leading left singular vectors of h / sqrt(k), from its Gram matrix
    unit = unit_of(h)
    rows = h / unit
    squares, turns = xp.linalg.eigh(inner(rows, rows) / k)
    top = xp.maximum(squares[-1], squares[-1] * 0 + float(xp.finfo(squares.dtype).smallest_normal))
    lead = xp.maximum(squares[k - m :], (eps(h) ** 2 * top) * xp.ones_like(squares[k - m :]))
    sigma = xp.astype(xp.sqrt(lead), h.dtype)
    turned = xp.astype(xp.matrix_transpose(turns[:, k - m :]), h.dtype) @ rows
    z = turned / (k**0.5 * sigma)[:, None]
    # the scale of what is left
    rest_v = v - xp.astype(inner(v, z), h.dtype) @ z
    rest_h = rows - xp.astype(inner(rows, z), h.dtype) @ z
    size_v, size_h = norm(rest_v), norm(rest_h)
    some = (size_h > eps(h) * norm(rows)) & (size_v > 0)
    one = xp.ones_like(size_h)
    square = xp.where(some, size_v, one) / xp.where(some, size_h, one)  # c^2, in units of 1 / unit
    ratio = xp.sqrt(1 / (sigma * square)) - 1
    half = xp.sqrt(xp.abs(ratio))[:, None] * z
    return half, xp.where(ratio[:, None] < 0, -half, half), xp.sqrt(square) / xp.sqrt(unit)
