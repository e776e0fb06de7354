"""Random numbers: normal draws from the caller's generator, and numbers that are a hash of a counter.

There is no global state to draw from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import array_api_compat
import numpy as np

from . import shards
from .arguments import require_count
from .lanes import Lanes
from .library import Array, device_of, namespace

BLOCK = 24_576
"""Signs made at a time on the host, so that the intermediate arrays stay in cache."""


AHEAD = 2**20
"""Numbers that `Seeds` draws at a time, for all fits together."""


class ByPlace:
    """A counter-based generator: each number follows from the seed, how many draws there were, and its place.

    So the numbers are the same wherever a vector's elements are held, by one process or as shards by many,
    and none draws more than it holds. SplitMix64, whose two halves make a normal number by Box and Muller,
    in float64.

    Parameters
    ----------
    seed : int
        At least 0.
    """

    def __init__(self, seed: int) -> None:
        self.seed: int = require_count("seed", seed, "it is a seed", 0)
        self.draws: int = 0

    def get_state(self) -> tuple[int, int]:
        """Return what `set_state` takes."""
        return self.seed, self.draws

    def set_state(self, state: tuple[int, int]) -> None:
        """Go on where another one was."""
        self.seed, self.draws = state

    def normal(self, shape: tuple[int, ...], like: Array) -> Array:
        """Return standard normal draws like `like`, of shape (n, k), n sharded as it is."""
        xp, k = namespace(like), shape[1]
        key = (self.seed * 0x9E3779B97F4A7C15 + (self.draws + 1) * 0xD1B54A32D192ED03) % 2**64
        self.draws += 1
        parts = []
        for start in range(0, shape[0], BLOCK):
            at = shards.places(start, min(start + BLOCK, shape[0]), like)[:, None]
            index = xp.astype(at, xp.int64) * k + xp.arange(k, dtype=xp.int64, device=device_of(like))
            if index.dtype != xp.int64:
                raise TypeError(
                    "`rng` must not be ByPlace where integers have 32 bits, as in JAX by default; use a key"
                )
            # words of 64 random bits, as pairs of numbers in (0, 1)
            word = _mixed(index * _signed(0x9E3779B97F4A7C15) + _signed(key))
            u, w = (
                (xp.astype(half, xp.float64) + 0.5) * 2.0**-32
                for half in ((word >> 32) & 0xFFFFFFFF, word & 0xFFFFFFFF)
            )
            normal = xp.sqrt(-2 * xp.log(u)) * xp.cos(2 * math.pi * w)
            parts.append(xp.astype(xp.where(at < 0, xp.zeros_like(normal), normal), like.dtype))
        return xp.concat(parts)


class Seeds:
    """As many NumPy generators as there are fits, one per seed: for what is mapped over them (`lanes.vmap`).

    Fit i gets the numbers that it would get by itself from ``numpy.random.default_rng(seeds[i])``.

    Parameters
    ----------
    seeds : sequence of int, or of what `numpy.random.default_rng` takes
    """

    def __init__(self, seeds: Iterable[Any]) -> None:
        self._generators = [np.random.default_rng(seed) for seed in seeds]
        if not self._generators:
            raise ValueError("`seeds` must hold at least one seed, got none; give one for each fit")
        self._ahead = np.empty((len(self._generators), 0))

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, shape: tuple[int, ...], like: Any) -> Any:
        """Return standard normal draws of that shape for each fit, where `like` stands for as many."""
        if not isinstance(like, Lanes):
            raise TypeError("`rng` must be one generator for one fit, got Seeds; give it to an Ensemble")
        count, size = len(self), math.prod(shape)
        if self._ahead.shape[1] < size:  # it is a call for each of them: so for some updates at once
            more = max(size, AHEAD // count)
            drawn = np.stack([generator.standard_normal(more) for generator in self._generators])
            self._ahead = np.concatenate([self._ahead, drawn], axis=1)
        now, self._ahead = self._ahead[:, :size], self._ahead[:, size:]
        host = np.ascontiguousarray(now.T).reshape((*shape, count))
        xp = namespace(like.data)
        return Lanes(xp.asarray(host, dtype=like.dtype, device=like.device))


def _mixed(word: Any) -> Any:
    """Return SplitMix64's mixture of 64-bit words, held as signed integers that wrap."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        high = (word >> shift) & (2 ** (64 - shift) - 1)
        word = (word ^ high) * _signed(factor)
    return word


def _signed(word: int) -> int:
    """Return a 64-bit word as the signed integer of the same bits."""
    return word - 2**64 if word >= 2**63 else word


def normal(rng: Any, shape: tuple[int, ...], like: Array) -> Array:
    """Return standard normal draws with the namespace, dtype and device of `like`.

    Parameters
    ----------
    rng : numpy.random.Generator, cupy.random.Generator, torch.Generator, JAX key or ByPlace
        A NumPy generator serves every library: it draws on the host, in float64, so that all of them get the
        same values; the others draw on their own device.
    """
    if isinstance(rng, ByPlace | Seeds):
        return rng.normal(shape, like)
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


def signs(count: Array, like: Array, axis: int = 0) -> Array:
    """Return independent signs of the shape of `like`, the same for the same `count` on every library.

    Noise for `update` without a generator in the state: a multiplicative integer hash of (position, count) in
    wrapping int32 arithmetic, which all libraries share. Two rounds, and the top bit decides. Good enough for
    a rotating direction of the damping, far below the size of the products; not for statistics.

    Parameters
    ----------
    count : array, 0-d int32
        Or (c,): one for each row of `like`, whose other axes are then those of n.
    like : array
    axis : int
        Which of the axes of `like` runs over n: where n is sharded, positions are those in the whole array.
    """
    xp, size = namespace(like), math.prod(like.shape[count.ndim :])
    on_host = array_api_compat.is_numpy_array(like) or (array_api_compat.is_torch_array(like) and like.is_cpu)

    # arrays wrap silently where NumPy's scalars would warn
    turned = xp.reshape(count, (1,) if count.ndim == 0 else (-1, 1)) * 0x1F35B1D9
    if shards.active() is not None:
        parts = []
        for at in _places(like, axis, BLOCK if on_host else size):
            sign = _hashed(at, like, turned)
            parts.append(xp.where(at < 0, xp.zeros_like(sign), sign))
        return xp.concat(parts, axis=axis)
    step = BLOCK if on_host else max(size, 1)
    parts = [
        _hashed(shards.places(start, min(start + step, size), like), like, turned)
        for start in range(0, max(size, 1), step)
    ]
    return xp.reshape(parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1), like.shape)


def _places(like: Array, axis: int, most: int) -> Iterator[Array]:
    """Yield the positions in the whole array of a sharded one's elements, along `axis` about `most` at once.

    Those that fill up an empty shard are negative.
    """
    xp, (n, other) = namespace(like), (like.shape[axis], like.shape[1 - axis])
    others = xp.arange(other, dtype=xp.int64, device=device_of(like))
    step = max(1, most // max(other, 1))
    for start in range(0, n, step):
        at = shards.places(start, min(start + step, n), like)
        if axis == 0:
            index = at[:, None] * other + others
            yield xp.where(at[:, None] < 0, xp.full_like(index, -1), index)
        else:
            index = others[:, None] * shards.length(n) + at
            yield xp.where(at < 0, xp.full_like(index, -1), index)


def _hashed(index: Array, like: Array, turned: Array) -> Array:
    """Return the signs of positions."""
    xp = namespace(like)
    word: Any = xp.bitwise_xor(xp.astype(index, xp.int32, copy=False), turned)
    word *= 0x2C1B3C6D  # from here on in place, where the library can: nothing else refers to it
    high = word >> 16
    high &= 0xFFFF
    word ^= high
    word *= 0x297A2D39
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
