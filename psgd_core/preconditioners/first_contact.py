"""Where a fit starts: at a scale that is given, or where its first pairs point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays import batched
from ..arrays.arguments import described, scalar_of
from ..arrays.batched import matmul, outer, squares
from ..arrays.library import Array, clamped, eps, namespace
from ..arrays.symmetric import svd
from ..arrays.trees import where
from ..arrays.vectors import largest
from .counters import settled

if TYPE_CHECKING:
    from .base import Preconditioner

ROUNDS = 6
"""Newton's moves from the closed form: each squares the error that is left of a definite H."""


def enough(s: int) -> int:
    """Return how many pairs say more of an orbit of size s than a scale."""
    return 2 * s + 4


def scale_of(scale: float | Array, like: Array) -> float | Array:
    """Return the scale that Q is to start with, or raise ValueError."""
    limits = namespace(like).finfo(like.dtype)
    found = scalar_of("scale", scale, like)
    low, high = float(limits.smallest_normal) ** 0.5, float(limits.max) ** 0.5
    if isinstance(found, float) and not low <= found <= high:
        raise ValueError(
            f"`scale` must be positive and finite, and its square in {like.dtype} as well, got "
            f"{described(scale)}; leave it out to set it automatically"
        )
    return found


def two(pairs: Any) -> tuple[Array, Array]:
    """Return v and h of `pairs`, or raise TypeError."""
    if not isinstance(pairs, tuple | list) or len(pairs) != 2 or pairs[0] is None:
        raise TypeError(f"`pairs` must be two arrays (v, h), got {described(pairs)}; pass a tuple")
    return pairs[0], pairs[1]


def met(p: Preconditioner[Any], state: Any, v: Array | None, h: Array) -> Any:
    """Return a state whose scale is due after its first contact with pairs (n, k), if they are usable."""
    assert v is not None
    xp, size_v, size_h = namespace(h), largest(v), largest(h)
    usable = xp.isfinite(size_v) & xp.isfinite(size_h) & (size_v > 0) & (size_h > 0)
    v, h = (xp.where(usable, x, xp.ones_like(x)) for x in (v, h))
    new, growth = p._contact(state, v, h)
    damping = settled(state.damping, growth, usable)
    new = new._replace(damping=damping, pending=xp.logical_not(usable))
    return where(usable, new, state)


class Met(NamedTuple):
    """Blocks that pairs point to."""

    q: Array  # (s, s, c)
    noise: Array  # (c,): the mean square of what a single pair would move log P by
    ab: Array  # (c,): the means whose ratio is c, see `normalizers.Kalman`
    bb: Array


def closed_form(v: Array, h: Array) -> Met:
    """Return the Q that k pairs (v, h) of each orbit, both (s, k, c) with k >= s, say is best.

    It starts at ``P = (mean h h^T)^{-1/2}``, from singular values of h, and moves to where the means of
    ``a a^T`` and of ``c b b^T + (1 - c) D`` are equal, c regressed on these pairs as `normalizers.Kalman`
    does. Where H is definite on the orbit, that is its inverse up to rounding. Six singular value
    decompositions of (s, s, c).
    """
    xp = namespace(h)
    s, k, _ = h.shape
    # with A and B the means of h h^T and v v^T: P A P = B for P = A^{-1/2} (A^{1/2} B A^{1/2})^{1/2} A^{-1/2}
    unit = xp.max(xp.abs(h), axis=(0, 1))
    unit = xp.where(unit > 0, unit, xp.ones_like(unit))
    u, values = _left(h / unit)
    values = xp.maximum(values, 4 * k * eps(h) * xp.max(values, axis=0))
    w, roots = _left(matmul(outer(u * values, u), v))
    q = matmul(outer(w * xp.sqrt(roots), w), outer(u / values, u)) / xp.sqrt(unit)
    # move to where the moments agree
    one = batched.identity(s, 1, q)
    for last in range(ROUNDS, -1, -1):
        u, values, vt = svd(q)
        x, y = (values * values)[:, None, :] * matmul(vt, h), matmul(vt, v)
        ratio = values[:, None, :] / values[None, :, :]
        shrink = 2 / (ratio + 1 / ratio)
        xy, xx, yy = x * y, x * x, y * y
        rest = xp.sum(yy, axis=(0, 1)) / k - s
        of_ab = (_through(shrink, xy, xy) - xp.sum(xx, axis=(0, 1))) / k - rest
        of_bb = (_through(shrink, yy, yy) - xp.sum(yy, axis=(0, 1))) / k - rest
        of_aa = (_through(shrink, xx, xx) - 2 * xp.sum(xx, axis=(0, 1))) / k + s
        c = clamped(xp.where(of_bb > 0, of_ab, 0 * of_ab) / xp.where(of_bb > 0, of_bb, 1 + 0 * of_bb), 0, 1)
        if not last:
            break
        move = ((outer(x, x) - c * outer(y, y)) / k * shrink - (1 - c) * one) / 4
        move = move / xp.maximum(2 * xp.sqrt(squares(move)), xp.ones_like(c))
        q = matmul(u, values[:, None, :] * vt - matmul(move, values[:, None, :] * vt))
    noise = xp.maximum(of_aa - c * (2 * of_ab - c * of_bb), 0 * c) / 4
    return Met(q, noise, of_ab / 4, of_bb / 4)


def _left(h: Array) -> tuple[Array, Array]:
    """Return the left singular vectors, (s, s, c), and the singular values, (s, c), of (s, k, c)."""
    xp = namespace(h)
    if h.shape[0] == 1:
        return batched.identity(1, h.shape[2], h), xp.sqrt(squares(h))[None, :]
    u, s, _ = xp.linalg.svd(xp.permute_dims(h, (2, 0, 1)), full_matrices=False)
    return xp.permute_dims(u, (1, 2, 0)), xp.matrix_transpose(s)


def _through(shrink: Array, x: Array, y: Array) -> Array:
    """Return the sum over pairs of ``x^T (K ∘ K) y``, (c,)."""
    xp = namespace(x)
    return xp.sum(x * matmul(shrink * shrink, y), axis=(0, 1))
