"""When `LowRank` takes the CPU's kernels: the passes over n of an update, and ``P g``.

Without numba the passes are those of `blocked_low_rank`, and ``P g`` is the plain code's. The algebra of
size r between the passes is the preconditioner's. Where arrays are not for kernels, or hold something that
takes an update's checks and messages, the answer is None, and nothing has been written.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..switch import available, compiled, wanted
from .counting import counted
from .orbits import rate_of

PARALLEL = 65_536
"""From this n on all threads share the work."""

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_SAFE = 1e100
"""Largest entries between 1 / `_SAFE` and this have squares and sums of squares in float64."""

_STAYS = np.zeros((0, 0))


def suits(state: Any, *vectors: Any) -> bool:
    """Return whether the state and vectors of its length are what kernels can read as they are.

    Kernels do not look where they read and write, so everything they rely on is looked at here.
    """
    arrays = (state.u, state.v, state.d, *vectors)
    if not all(type(x) is np.ndarray and x.flags.c_contiguous for x in arrays):
        return False
    dtype, n = state.d.dtype, state.d.size
    if dtype not in _DTYPES or any(x.dtype != dtype for x in arrays):
        return False
    factors = state.u.ndim == 2 and state.u.shape == state.v.shape and state.u.shape[1] == n
    return factors and all(x.shape == (n,) for x in arrays[2:])


def passes(state: Any, v: Any, h: Any, step: Any, inplace: bool) -> Passes | None:
    """Return the passes of one update, or None if it is not for kernels.

    Parameters
    ----------
    state : LowRankState
    v, h : array, shape (n,)
    step : float or 0-d array
    inplace : bool
        Whether the factors are overwritten.
    """
    rate = rate_of(step)
    if rate is None or not wanted() or not suits(state, v, h):
        return None
    on_host = all(isinstance(x, np.ndarray | np.generic) for x in state[3:])
    writeable = all(x.flags.writeable for x in (state.u, state.v, state.d, state.held))
    if not on_host or state.held.shape != (2,) or (inplace and not writeable):
        return None
    return Passes(state, v, h, rate, inplace)


class Passes:
    """The passes of one update of ``Q = (I + U V^T) diag(d)`` on the pair (v, h), as `passes` gives them."""

    def __init__(self, state: Any, v: Any, h: Any, step: float, inplace: bool) -> None:
        dtype = state.d.dtype
        self.due = bool(state.pending)  # the pair that sets the scale is not damped
        damping = 0.0 if self.due else abs(float(state.damping))
        seed = np.uint32(int(state.count) * 0x1F35B1D9 & 0xFFFFFFFF)  # as in `preconditioners._signs`
        self._state, self._inplace, n = state, inplace, state.d.size
        self._ending = "_parallel" if n >= PARALLEL and compiled() else ""
        self._kernels = import_module(".low_rank_passes" if compiled() else ".blocked_low_rank", __package__)
        self._parts = self._kernels.parts(n)
        self._arrays = (state.u, state.v, state.d, h, v, dtype.type(damping), seed)
        self._scales = np.ones(2, dtype)
        self._growth = 1.0
        self.unit, self.step = 1.0, step

    def _kernel(self, name: str) -> Any:
        return getattr(self._kernels, name + self._ending)

    def gram(self) -> np.ndarray | None:
        """Return the Gram matrix of R = [U; V; x; y], x and y in a unit that keeps them near 1.

        While the automatic scale is pending, d is taken times c, the minimiser ``c^4 = |y|^2 / |x|^2``. None
        if something is not finite, or x or y nothing or out of all scale.
        """
        r, m = self._state.u.shape[0], 2 * self._state.u.shape[0] + 2
        padded = m + -m % 4
        products = np.zeros((self._parts, padded, padded))
        largest = np.zeros((self._parts, 2), self._scales.dtype)
        self._kernel("gram")(*self._arrays, self._scales, products, largest)
        g = np.tril(np.sum(products, axis=0)[:m, :m])
        g += np.tril(g, -1).T
        x, y = (float(top) for top in np.max(largest, axis=0))
        if not (np.all(np.isfinite(g)) and min(x, y) > 1 / _SAFE and max(x, y) < _SAFE):
            return None
        if self.due:
            self._growth = float((g[-1, -1] / g[-2, -2]) ** 0.25)
        self.unit = max(self._growth * x, y / self._growth)
        scales = self._growth / self.unit, 1 / (self._growth * self.unit)
        self._scales[:] = scales
        g[2 * r :, :] *= np.asarray(scales)[:, None]
        g[:, 2 * r :] *= scales
        return g

    def counted(self, squares: tuple[float, float]) -> tuple[Any, ...]:
        """Return the state's counters after the update, for ``|a|^2`` and ``|b|^2``."""
        h, growth = self._arrays[3], self._growth**2
        return counted(self._state, moved=True, due=self.due, growth=growth, squares=squares, h=h)

    def numerator(self, ph: np.ndarray, pv: np.ndarray) -> tuple[np.floating, ...]:
        """Form what d moves along; return the largest |x P h / d|, |y d P^{-1} v| and |their difference|.

        Parameters
        ----------
        ph, pv : array, shape (2 r + 2, 1)
            Combinations of the rows of R.
        """
        d = self._state.d
        largest = np.zeros((self._parts, 3), d.dtype)
        self._work = np.empty_like(d)
        ends = (np.ascontiguousarray(x[:, 0], dtype=d.dtype) for x in (ph, pv))
        self._kernel("numerator")(*self._arrays, self._scales, *ends, self._work, largest)
        return tuple(np.max(largest, axis=0))

    def write(
        self,
        left: np.ndarray,
        right: np.ndarray,
        mu: float,
        *,
        turn_u: bool,
        gauge: tuple[np.ndarray, np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return U, V and d after a move of U or V by ``mu left @ right^T @ R``, of d along its numerator.

        Parameters
        ----------
        left, right : array, shape (r, 2), (2 r + 2, 2)
        mu : float
        turn_u : bool
            Whether it is U that moves.
        gauge : (array, array), optional
            What U and V are multiplied by at the end, (r, r).
        """
        u, v, d = self._state.u, self._state.v, self._state.d
        dtype = d.dtype
        if self._inplace:
            new, out = (u, v, d), [u, v, d]
            if gauge is None:
                out[1 if turn_u else 0] = np.empty((0, d.size), dtype)
        else:  # the work vector becomes the new d
            new = np.empty_like(u), np.empty_like(v), self._work
            out = list(new)
        c, back = (_STAYS, _STAYS) if gauge is None else gauge
        self._kernel("write")(
            *self._arrays,
            self._scales,
            np.ascontiguousarray(right.T, dtype=dtype),
            np.ascontiguousarray(mu * left, dtype=dtype),
            np.asarray([mu, self._growth], dtype=dtype),
            self._work,
            turn_u,
            c.astype(dtype),
            back.astype(dtype),
            *out,
        )
        return new


def precondition(state: Any, g: Any, first: bool) -> np.ndarray | None:
    """Return ``P g`` for g of shape (n,), or None if it is not for kernels; `first`: d acts first in Q."""
    if not available() or not suits(state, g):
        return None
    from . import low_rank_product as product

    u, v, d = state.u, state.v, state.d
    ending = "_parallel" if d.size >= PARALLEL else ""
    project, middle, finish = (getattr(product, x + ending) for x in ("project", "middle", "finish"))
    sums, out = np.zeros((2, product.parts(d.size), u.shape[0])), np.empty_like(g)
    project(v, d, g, first, sums[0])
    middle(u, d, g, first, np.sum(sums[0], axis=0).astype(d.dtype), out, sums[1])
    finish(v, d, first, np.sum(sums[1], axis=0).astype(d.dtype), out)
    return out
