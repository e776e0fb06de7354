"""Random signs from a counter: noise for `update` without a generator in the state."""

from __future__ import annotations

import array_api_compat

from .library import Array, device_of, namespace

BLOCK = 65_536
"""Signs made at a time on the host: what lies between them and their positions stays in cache."""


def signs(count: Array, like: Array) -> Array:
    """Return independent signs of the shape of `like`, the same for the same `count` on every library.

    A multiplicative integer hash of (position, count) in wrapping int32 arithmetic, which all libraries
    share; two rounds, and the top bit decides. Good enough for what it is used for (a rotating direction for
    the damping, far below the size of the products), not for statistics.
    """
    xp = namespace(like)
    size, device = like.shape[0] * like.shape[1], device_of(like)
    numpy = array_api_compat.is_numpy_namespace(xp)
    on_host = numpy or (array_api_compat.is_torch_namespace(xp) and like.device.type == "cpu")
    step = BLOCK if on_host else max(size, 1)
    # one-element arrays wrap silently where NumPy's scalars would warn
    turned = xp.reshape(count, (1,)) * _constant(xp, 0x1F35B1D9, device)
    factors = turned, _constant(xp, 0x2C1B3C6D, device), _constant(xp, 0x297A2D39, device)
    parts = [
        _part(xp, start, min(start + step, size), like, device, *factors)
        for start in range(0, max(size, 1), step)
    ]
    return xp.reshape(parts[0] if len(parts) == 1 else xp.concat(parts), like.shape)


def _part(
    xp, start: int, stop: int, like: Array, device, turned: Array, first: Array, second: Array
) -> Array:
    """Return the signs of positions from `start` to `stop`."""
    index = xp.arange(start, stop, dtype=xp.int64 if stop > 2**31 - 1 else xp.int32, device=device)
    word = xp.astype(index, xp.int32, copy=False) ^ turned
    word *= first  # from here on in place, where the library has that: nobody else holds it
    high = word >> 16
    high &= 0xFFFF
    word ^= high
    word *= second
    high = word >> 22
    word >>= 7
    word ^= high
    word &= 1  # the seventh bit of ``word ^ (word >>> 15)``
    sign = xp.astype(word, like.dtype)
    sign *= -2
    sign += 1
    return sign


def _constant(xp, value: int, device) -> Array:
    return xp.full((1,), value, dtype=xp.int32, device=device)
