"""Random signs from a counter: noise for `update` without a generator in the state."""

from __future__ import annotations

import array_api_compat

from .._array import Array


def signs(count: Array, like: Array) -> Array:
    """Return independent signs of the shape of `like`, the same for the same `count` on every library.

    A multiplicative integer hash of (position, count) in wrapping int32 arithmetic, which all libraries
    share; two rounds, and the top bit decides. Good enough for what it is used for (a rotating direction for
    the damping, far below the size of the products), not for statistics.
    """
    xp = array_api_compat.array_namespace(like)
    size, device = like.shape[0] * like.shape[1], array_api_compat.device(like)
    index = xp.arange(size, dtype=xp.int64 if size > 2**31 - 1 else xp.int32, device=device)
    word = xp.astype(index, xp.int32, copy=False)
    # one-element arrays wrap silently where NumPy's scalars would warn
    word = (word ^ (xp.reshape(count, (1,)) * _constant(xp, 0x1F35B1D9, device))) * _constant(
        xp, 0x2C1B3C6D, device
    )
    word = (word ^ ((word >> 16) & 0xFFFF)) * _constant(xp, 0x297A2D39, device)
    word = word ^ ((word >> 15) & 0x1FFFF)
    bit = xp.astype((word >> 7) & 1, like.dtype)
    return xp.reshape(1 - 2 * bit, like.shape)


def _constant(xp, value: int, device) -> Array:
    return xp.full((1,), value, dtype=xp.int32, device=device)
