"""Random probes v with ``E[v v^T] = I``, k at a time, from an explicit generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays.arguments import keep, require_count
from ..arrays.brief import Brief
from ..arrays.draws import Seeds, normal
from ..arrays.lanes import vmap
from ..arrays.library import Array, device_of, namespace, require_arrays, require_float
from ..arrays.matrices import eye
from ..preconditioners import OrbitPreconditioner, Preconditioner


@dataclass(frozen=True, repr=False)
class Probes(Brief, ABC):
    """How probes are drawn.

    Parameters
    ----------
    k : int
        Probes in one update; their products are averaged, at k times the cost.
    """

    k: int = 1

    def __post_init__(self) -> None:
        keep(self, k=require_count("k", self.k, "it is the number of probes"))

    def draw(self, rng: Any, like: Array) -> Array:
        """Return k probes, (n,) for k = 1 and (n, k) otherwise, of the kind of `like`, a vector (n,).

        Parameters
        ----------
        rng : numpy.random.Generator, cupy.random.Generator, torch.Generator, JAX key, ByPlace or Seeds
            A NumPy generator serves every library, and gives each the same probes. Of m seeds, each draws
            probes of its own, (m, n) or (m, n, k), on the host.
        """
        require_arrays(like=like)
        require_float("like", like)
        if like.ndim != 1:
            raise ValueError(f"`like` must have shape (n,), got {tuple(like.shape)}; flatten the parameters")
        if isinstance(rng, Seeds):
            blank = np.zeros((len(rng), like.shape[0]), dtype=np.float64)
            v = vmap(lambda x: self._columns(rng, x))(blank)
            return namespace(like).asarray(v, dtype=like.dtype, device=device_of(like))
        return self._columns(rng, like)

    def _columns(self, rng: Any, like: Array) -> Array:
        """Return probes of shape (n,) or (n, k)."""
        v = self._draw(rng, like)
        return v[:, 0] if self.k == 1 else v

    @abstractmethod
    def _draw(self, rng: Any, like: Array) -> Array:
        """Return probes of shape (n, k)."""


@dataclass(frozen=True, repr=False)
class Gaussian(Probes):
    """Standard normal probes: the default, right for every group."""

    def _draw(self, rng: Any, like: Array) -> Array:
        return normal(rng, (like.shape[0], self.k), like)


@dataclass(frozen=True, repr=False)
class Rademacher(Probes):
    """Random signs: no variance in v, so best for `Diagonal`, where ``v_i^2 = 1`` is all that P^{-1} sees.

    They span fewer directions, so that small groups other than the diagonal fit more slowly.
    """

    def _draw(self, rng: Any, like: Array) -> Array:
        draws = normal(rng, (like.shape[0], self.k), like)
        one = namespace(like).ones_like(draws)
        return namespace(like).where(draws < 0, -one, one)


@dataclass(frozen=True, repr=False)
class Orthogonal(Probes):
    """sqrt(n) times k orthonormal columns, uniformly distributed; with k = n ``mean(v v^T) = I`` exactly.

    Made from the QR factors of a Gaussian block, with R's diagonal made positive: O(n k^2).
    """

    def _draw(self, rng: Any, like: Array) -> Array:
        n = like.shape[0]
        if self.k > n:
            raise ValueError(f"`k` must be at most n = {n} for orthogonal probes, got {self.k}; take fewer")
        xp = namespace(like)
        q, r = xp.linalg.qr(normal(rng, (n, self.k), like), mode="reduced")
        diagonal = xp.linalg.diagonal(r)
        one = xp.ones_like(diagonal)
        v: Array = n**0.5 * q * xp.where(diagonal < 0, -one, one)[None, :]
        return v


def basis(preconditioner: Preconditioner[Any], state: Any) -> Array:
    """Return fixed probes (n, k) over which the mean of ``v v^T`` is I *exactly*, as the group sees it.

    On a group of Theorem 3.1 only the blocks of ``v v^T`` on K's orbits enter an update, so as many probes
    do as the largest orbit has members: 1 for `Diagonal`, 2 for `XMat`, n for `Dense`. Probe j is sqrt(k) on
    the j-th member of each orbit. Any other group takes sqrt(n) I, n probes.

    With `Whitening` this is whitening with v integrated out, ``E[v v^T] = I``, which no single v can express
    except for `Diagonal`, because ``b b^T`` has rank one.
    """
    if not isinstance(preconditioner, OrbitPreconditioner):
        n = preconditioner.size(state)
        length: float = n**0.5
        return length * eye(n, preconditioner.like(state))
    group, q = preconditioner.group, state.q
    xp = namespace(*q.blocks)
    k = max(block.shape[0] for block in q.blocks)
    parts = []
    for block in q.blocks:
        s, _, count = block.shape
        unit = k**0.5 * eye(k, block)[:s, :]
        parts.append(xp.broadcast_to(unit[:, :, None], (s, k, count)))
    return group.join(group.layout(group.size(q)), tuple(parts), q.gather)
