"""Random numbers: normal draws from the caller's generator, and signs that are a hash of a counter.

There is no global state to draw from.
"""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from .library import Array, Namespace, device_of, namespace

BLOCK = 65_536
"""Signs made at a time on the host, so that the intermediate arrays stay in cache."""


def normal(rng: Any, shape: tuple[int, ...], like: Array) -> Array:
    """Return standard normal draws with the namespace, dtype and device of `like`.

    Parameters
    ----------
    rng : numpy.random.Generator, cupy.random.Generator, torch.Generator or JAX key
        A NumPy generator serves every library: it draws on the host, in float64, so that all of them get the
        same values; the others draw on their own device.
    """
    xp, device = namespace(like), device_of(like)
    if isinstance(rng, np.random.Generator):
        return xp.asarray(rng.standard_normal(shape), dtype=like.dtype, device=device)
    library = type(rng).__module__.split(".")[0]
    if library == "torch" and array_api_compat.is_torch_array(like):
        import torch

        return torch.randn(shape, generator=rng, dtype=like.dtype, device=device)
    if library == "cupy" and array_api_compat.is_cupy_array(like):
        return xp.astype(rng.standard_normal(shape), like.dtype)
    if array_api_compat.is_jax_array(like) and array_api_compat.is_jax_array(rng):
        import jax

        return jax.random.normal(rng, shape, like.dtype)
    raise TypeError(
        f"`rng` must be a numpy.random.Generator or the generator (in JAX: key) of {xp.__name__}, "
        f"got {type(rng).__module__}.{type(rng).__name__}; make one with numpy.random.default_rng(seed)"
    )


def signs(count: Array, like: Array) -> Array:
    """Return independent signs of the shape of `like`, the same for the same `count` on every library.

    Noise for `update` without a generator in the state: a multiplicative integer hash of (position, count) in
    wrapping int32 arithmetic, which all libraries share. Two rounds, and the top bit decides. Good enough for
    a rotating direction of the damping, far below the size of the products; not for statistics.
    """
    xp, size = namespace(like), math.prod(like.shape)
    on_host = array_api_compat.is_numpy_array(like) or (array_api_compat.is_torch_array(like) and like.is_cpu)
    step = BLOCK if on_host else max(size, 1)

    def constant(value: int) -> Array:
        # one-element arrays wrap silently where NumPy's scalars would warn
        return xp.full((1,), value, dtype=xp.int32, device=device_of(like))

    turned = xp.reshape(count, (1,)) * constant(0x1F35B1D9)
    factors = turned, constant(0x2C1B3C6D), constant(0x297A2D39)
    parts = [
        _hashed(xp, start, min(start + step, size), like, *factors) for start in range(0, max(size, 1), step)
    ]
    return xp.reshape(parts[0] if len(parts) == 1 else xp.concat(parts), like.shape)


def _hashed(
    xp: Namespace, start: int, stop: int, like: Array, turned: Array, first: Array, second: Array
) -> Array:
    """Return the signs of positions from `start` to `stop`."""
    dtype = xp.int64 if stop > 2**31 - 1 else xp.int32
    index = xp.arange(start, stop, dtype=dtype, device=device_of(like))
    word: Any = xp.bitwise_xor(xp.astype(index, xp.int32, copy=False), turned)
    word *= first  # from here on in place, where the library can: nothing else refers to it
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


def picks(count: Array, start: Any, k: int, limit: Array) -> Array:
    """Return k integers in [0, limit), int32: a hash of ``start, ..., start + k - 1`` and of the count.

    Parameters
    ----------
    count, limit : array, 0-d int32
        `limit` is at least 1. The same count gives the same integers on every library.
    start : int or 0-d int32 array
    """
    xp, device = namespace(count), device_of(count)
    word = xp.arange(k, dtype=xp.int32, device=device) + start
    turned = xp.reshape(count, (1,))  # arrays wrap silently where NumPy's scalars would warn
    for factor, shift in ((0x1F35B1D9, 16), (0x2C1B3C6D, 12), (0x297A2D39, 15)):
        word = xp.bitwise_xor(word, turned) * xp.full((1,), factor, dtype=xp.int32, device=device)
        high = xp.bitwise_right_shift(word, xp.full((1,), shift, dtype=xp.int32, device=device))
        word = xp.bitwise_xor(word, high)
    return xp.remainder(xp.bitwise_and(word, xp.full_like(word, 0x7FFFFFFF)), xp.reshape(limit, (1,)))
