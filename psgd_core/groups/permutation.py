"""One permutation of n indices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..arrays.arguments import described
from ..arrays.library import is_array, require_arrays


@dataclass(frozen=True)
class Permutation:
    """One permutation of range(n), in as little memory as its structure allows.

    Equal permutations made by `Permutation.of` compare equal.

    Attributes
    ----------
    n : int
        Number of indices.
    kind : {"shift", "flip", "swap", "blocks"}
        ``i -> (i + step) % n``, ``i -> n - 1 - i``, ``i -> i ^ 1`` (neighbours 2i and 2i + 1 swapped), or
        blocks of `step` consecutive indices permuted among each other (`step` = 1: any permutation).
    step : int
        See `kind`; 0 for "flip" and "swap".
    image : bytes
        For "blocks", the block permutation as native int64.
    """

    n: int
    kind: Literal["shift", "flip", "swap", "blocks"]
    step: int = 0
    image: bytes = b""

    @classmethod
    def of(cls, sigma: Any, n: int | None = None, name: str = "sigma") -> Permutation:
        """Return `sigma`, a `Permutation` or n integers with σ(x) = x[sigma], after checking it; O(n).

        Raises
        ------
        TypeError
            If it does not hold integers.
        ValueError
            If it is not a bijection of range(n); the message names the wrong entry.
        """
        if isinstance(sigma, Permutation):
            if n not in (None, sigma.n):
                raise ValueError(f"`{name}` must permute range({n}), got one of range({sigma.n})")
            return sigma
        array = validated(sigma, n, name)
        n = array.size
        index = np.arange(n)
        first = int(array[0])
        if np.array_equal(array[: n - first], index[first:]) and np.array_equal(
            array[n - first :], index[:first]
        ):
            return cls(n, "shift", first)
        if np.array_equal(array, index[::-1]):
            return cls(n, "flip")
        if n % 2 == 0 and np.array_equal(array, index ^ 1):
            return cls(n, "swap")
        # Neighbours inside a block stay neighbours, so every break is at the edge of a block.
        breaks = np.flatnonzero(np.diff(array) != 1) + 1
        size = int(np.gcd.reduce(breaks, initial=n))
        return cls(n, "blocks", size, (array[::size] // size).astype(np.int64).tobytes())

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every index in place."""
        return self.kind == "shift" and self.step == 0

    def indices(self) -> np.ndarray:
        """Return the n integers σ of σ(x) = x[σ], int64, as a new array."""
        index = np.arange(self.n, dtype=np.int64)
        if self.kind == "shift":
            return np.roll(index, -self.step)
        if self.kind == "flip":
            return index[::-1].copy()
        if self.kind == "swap":
            return index ^ 1
        blocks = np.frombuffer(self.image, dtype=np.int64)
        return (blocks[:, None] * self.step + index[: self.step]).reshape(-1)

    def of_blocks(self, size: int) -> Permutation:
        """Return what permutes blocks of `size` consecutive indices as this one permutes single indices."""
        if size == 1:
            return self
        n = self.n * size
        if self.kind == "shift":
            return Permutation(n, "shift", self.step * size)
        if self.kind == "blocks":
            return Permutation(n, "blocks", self.step * size, self.image)
        return Permutation(n, "blocks", size, self.indices().tobytes())

    def __str__(self) -> str:
        if self.kind == "blocks":
            count = self.n // self.step
            return "a permutation" if self.step == 1 else f"{count} blocks of {self.step}"
        return {"shift": f"shift {self.step}", "flip": "flip", "swap": "neighbour swap"}[self.kind]


def listed(name: str, perms: Any) -> tuple[Any, ...]:
    """Return an iterable of permutations as a tuple."""
    if is_array(perms):
        require_arrays(**{name: perms})
    several = isinstance(perms, Iterable) and not isinstance(perms, str | bytes | dict)
    if several and getattr(perms, "ndim", 2) == 2:
        return tuple(perms)
    raise TypeError(
        f"`{name}` must be a sequence of permutations, each of n integers, got {described(perms)}"
    )


def validated(sigma: Any, n: int | None, name: str) -> np.ndarray:
    """Return a permutation as n integers on the host, checked."""
    if isinstance(sigma, Permutation):
        sigma = sigma.indices()
    if is_array(sigma):
        require_arrays(**{name: sigma})
    try:
        array = np.asarray(sigma)
    except Exception:  # rows of several lengths, or whatever a class of the caller's raises
        array = np.asarray(None)
    if array.ndim != 1 or array.size == 0 or array.size != (n or array.size):
        wanted = "n >= 1" if n is None else f"{n}"
        raise ValueError(f"`{name}` must be a sequence of {wanted} integers, got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"`{name}` must hold integers, got {array.dtype}; convert it with `astype`")
    n = array.size
    outside = (array < 0) | (array >= n)  # before anything large could wrap around
    array = array.astype(np.int64)
    if np.any(outside):
        i = int(np.argmax(outside))
        raise ValueError(f"`{name}` must be a permutation of range({n}), got {array[i]} at entry {i}")
    if np.any(np.bincount(array, minlength=n) != 1):
        order = np.argsort(array, kind="stable")
        i = int(np.argmax(np.diff(array[order]) == 0))
        raise ValueError(
            f"`{name}` must be a permutation of range({n}), got {array[order[i]]} twice, "
            f"at entries {order[i]} and {order[i + 1]}"
        )
    return array
