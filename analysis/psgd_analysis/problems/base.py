"""The interface of all test functions: value, gradient, exact Hessian-vector product, start and minimum.

A problem is a value: a frozen object whose methods are pure functions of x (and of an explicit sample, if
the function is stochastic), analytic and written against the array API, so they run on whatever library
x lives in, keep its dtype and device, and trace under ``jax.jit``. Nothing here differentiates
automatically, and nothing but `Problem.hessian` takes O(n^2) memory unless the problem is itself a matrix.

A stochastic problem is a family of functions ``F(x; sample)`` whose expectation over samples is the problem
itself; ``sample=None`` is that expectation. `Problem.draw` makes a sample from an explicit generator. Both
gradients of a finite difference, or a gradient and its Hessian-vector product, then take the same sample by
being handed the same object.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from ..arrays import Array, put_index


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Problem(abc.ABC):
    """A function to minimise.

    Attributes
    ----------
    name : str
    start : array, shape (n,)
        The standard starting point; its library, dtype and device are those of the problem's data.
    minimum : float or None
        Global minimum of the function (of its expectation, if stochastic), None if not known.
    solution : array, shape (n,), or None
        A point where it is attained, None if not known in closed form.
    """

    name: str
    start: Array
    minimum: float | None = None
    solution: Array | None = None

    @property
    def n(self) -> int:
        """Number of parameters."""
        return int(self.start.shape[0])

    @property
    def stochastic(self) -> bool:
        """Whether `draw` gives samples."""
        return False

    def draw(self, rng: np.random.Generator) -> Any:
        """Return a random sample to pass as `sample`; None (no sample) for a deterministic function."""
        return None

    def value(self, x: Array, sample: Any = None) -> Array:
        """Return the function at x, a 0-d array.

        Raises
        ------
        TypeError
            If x is not a float32 or float64 array, or not of the library and dtype of the problem's data.
        ValueError
            If x does not have shape (n,), or a sample is given to a deterministic function.
        """
        self._check(x, sample)
        return self._value(x, sample)

    def gradient(self, x: Array, sample: Any = None) -> Array:
        """Return the gradient at x, shape (n,). Raises as `value` does."""
        self._check(x, sample)
        return self._gradient(x, sample)

    def hvp(self, x: Array, v: Array, sample: Any = None) -> Array:
        """Return the Hessian at x times v, of shape (n,) or (n, k) as v. Raises as `value` does."""
        self._check(x, sample)
        if v.ndim not in (1, 2) or v.shape[0] != self.n:
            raise ValueError(
                f"`v` must have shape ({self.n},) or ({self.n}, k), got {tuple(v.shape)}; "
                "pass one probe per column"
            )
        if v.ndim == 2:
            return self._hvp(x, v, sample)
        return self._hvp(x, v[:, None], sample)[:, 0]

    def hessian(self, x: Array, sample: Any = None) -> Array:
        """Return the Hessian at x, dense (n, n): for small problems."""
        xp = array_api_compat.array_namespace(x)
        return self.hvp(x, xp.eye(self.n, dtype=x.dtype, device=array_api_compat.device(x)), sample)

    @abc.abstractmethod
    def _value(self, x: Array, sample: Any) -> Array: ...

    @abc.abstractmethod
    def _gradient(self, x: Array, sample: Any) -> Array: ...

    @abc.abstractmethod
    def _hvp(self, x: Array, v: Array, sample: Any) -> Array:
        """Return the products with the columns of v, shape (n, k)."""

    def _data(self) -> Array | None:
        """Return an array that x must be like; None if the function is a formula and holds no data."""
        return None

    def _check(self, x: Array, sample: Any) -> None:
        if not array_api_compat.is_array_api_obj(x):
            raise TypeError(f"`x` must be an array, got {type(x).__name__}; convert it with `asarray`")
        xp = array_api_compat.array_namespace(x)
        if x.dtype not in (xp.float32, xp.float64):
            raise TypeError(f"`x` must be float32 or float64, got {x.dtype}; convert it with `astype`")
        data = self._data()
        if data is not None and (array_api_compat.array_namespace(data) is not xp or data.dtype != x.dtype):
            kind = f"{type(data).__module__} {data.dtype}"
            raise TypeError(
                f"`x` must be of the library and dtype of the data of {self.name!r}, {kind}, "
                f"got {type(x).__module__} {x.dtype}; make the problem with `like=x`"
            )
        if tuple(x.shape) != (self.n,):
            raise ValueError(
                f"`x` must have shape ({self.n},), got {tuple(x.shape)}; "
                f"flatten the parameters of {self.name!r}"
            )
        if sample is not None and not self.stochastic:
            raise ValueError(
                f"`sample` must be None for {self.name!r}, which is deterministic, "
                f"got {type(sample).__name__}; pass what `draw` returned"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, n={self.n}, minimum={self.minimum})"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Permuted(Problem):
    """Another problem with its variables in another order; made by `permuted`."""

    inner: Problem
    order: Array  # (n,) integers: variable i of the inner problem is x[order[i]]
    inverse: Array  # (n,) integers: the inverse permutation

    @property
    def stochastic(self) -> bool:
        """As the inner problem."""
        return self.inner.stochastic

    def draw(self, rng: np.random.Generator) -> Any:
        """Return a sample of the inner problem."""
        return self.inner.draw(rng)

    def _data(self) -> Array:
        return self.start

    def _value(self, x: Array, sample: Any) -> Array:
        return self.inner.value(_take(x, self.order), sample)

    def _gradient(self, x: Array, sample: Any) -> Array:
        return _take(self.inner.gradient(_take(x, self.order), sample), self.inverse)

    def _hvp(self, x: Array, v: Array, sample: Any) -> Array:
        product = self.inner.hvp(_take(x, self.order), _take(v, self.order), sample)
        return _take(product, self.inverse)


def permuted(problem: Problem, order: Any) -> Permuted:
    """Return `problem` with its variables reordered: ``value(x) = problem.value(x[order])``.

    Parameters
    ----------
    problem : Problem
    order : sequence of int, length n, on the host
        Where variable i of `problem` is found in the new x.

    Raises
    ------
    ValueError
        If `order` is not a permutation of 0 ... n - 1.
    """
    host = np.asarray(order)
    if not np.array_equal(np.sort(host, axis=None), np.arange(problem.n)) or host.ndim != 1:
        raise ValueError(
            f"`order` must be a permutation of 0 ... {problem.n - 1}, got {host.size} numbers of shape "
            f"{host.shape}; list each variable exactly once"
        )
    forth, back = put_index(host, problem.start), put_index(np.argsort(host), problem.start)
    return Permuted(
        name=f"{problem.name}, permuted",
        start=_take(problem.start, back),
        minimum=problem.minimum,
        solution=None if problem.solution is None else _take(problem.solution, back),
        inner=problem,
        order=forth,
        inverse=back,
    )


def pairs_to_flip(n: int) -> np.ndarray:
    """Return the order for `permuted` to bring ``{2i, 2i + 1}`` to ``{i, n - 1 - i}``, as in an X-matrix."""
    order = np.empty(n, dtype=np.int64)
    order[0::2] = np.arange((n + 1) // 2)
    order[1::2] = n - 1 - np.arange(n // 2)
    return order


def _take(x: Array, index: Array) -> Array:
    return array_api_compat.array_namespace(x).take(x, index, axis=0)
