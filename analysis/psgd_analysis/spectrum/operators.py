"""Symmetric matrices known by their products.

This package needs nothing of a Hessian but products with k columns at once, so a matrix, dense or sparse, a
SciPy LinearOperator, an Hvp function, a network's loss and a preconditioned Hessian all become a
`HessianOperator`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from ..arrays import Array, put, rounding, to_host
from ..checks import require_count
from .checks import checked

DENSE_LIMIT = 8192
"""Largest n for which a dense matrix is formed by default: 512 MiB in float64."""

_CHUNK = 128  # columns of the identity per product


@dataclass(frozen=True, eq=False, repr=False)
class HessianOperator:
    """A symmetric (n, n) matrix, known by its products.

    Made by `from_matrix`, `from_linear_operator`, `from_hvp`, `from_file`, `from_problem`, `from_torch`,
    `from_torch_model`, `from_jax`, `from_jax_model`, `preconditioned` and `preconditioner_operator`.

    Attributes
    ----------
    n : int
        Number of parameters.
    like : array, shape (0,)
        Sets the library, dtype (float32 or float64) and device of all vectors.
    product : callable
        The products with the columns of an (n, k) array, as an (n, k) array.
    name : str
        What it is, for titles.
    matrix : array, shape (n, n), or None
        The matrix itself if it is known.
    """

    n: int
    like: Array
    product: Callable[[Array], Array]
    name: str = "H"
    matrix: Array | None = None

    def __post_init__(self) -> None:
        require_count("n", self.n)
        if not array_api_compat.is_array_api_obj(self.like):
            raise TypeError(
                f"`like` must be an array (NumPy, CuPy, PyTorch, JAX, ...), got {type(self.like).__name__}; "
                "pass one of the library, dtype and device of the products"
            )
        xp = array_api_compat.array_namespace(self.like)
        if self.like.dtype not in (xp.float32, xp.float64):
            raise TypeError(f"`like` must be float32 or float64, got {self.like.dtype}; convert it")

    def hvp(self, v: Array) -> Array:
        """Return the product with v, of shape (n,) or (n, k) as v.

        Raises
        ------
        TypeError, ValueError
            If v, or what the product came back as, is not of this operator's library, dtype and shape.
        """
        self.require("v", v, "pass one probe, or one per column")
        columns = v if v.ndim == 2 else v[:, None]
        out = self.product(columns)
        self.require(f"the product of {self.name}", out, "make the Hvp return an array like its argument")
        if tuple(out.shape) != tuple(columns.shape):
            raise ValueError(
                f"the product of {self.name} must have the shape of `v`, {tuple(columns.shape)}, "
                f"got {tuple(out.shape)}; return one product per column"
            )
        return out if v.ndim == 2 else out[:, 0]

    def dense(self, limit: int = DENSE_LIMIT) -> Array:
        """Return the matrix, dense and exactly symmetric, at the cost of n products unless it is known.

        Raises
        ------
        ValueError
            If n is above `limit`, or the products are not finite or not those of a symmetric matrix.
        """
        if self.matrix is not None:
            return self.matrix
        if self.n > limit:
            raise ValueError(
                f"`limit` must be at least n = {self.n} for a dense matrix, got {limit}; raise it, or use "
                "`density` and `extreme_eigenvalues`, which need products only"
            )
        xp, device = array_api_compat.array_namespace(self.like), array_api_compat.device(self.like)
        parts = []
        for start in range(0, self.n, _CHUNK):
            count = min(_CHUNK, self.n - start)
            parts.append(self.hvp(xp.eye(self.n, count, k=-start, dtype=self.like.dtype, device=device)))
        matrix = xp.concat(parts, axis=1)
        require_finite(self.name, matrix)
        largest = float(xp.max(xp.abs(matrix)))
        skew = float(xp.max(xp.abs(matrix - matrix.T)))
        if skew > rounding(matrix) ** 0.25 * largest:
            raise ValueError(
                f"the products of {self.name} must be those of a symmetric matrix, got entries that differ "
                f"from their mirror image by up to {skew:.2g} of {largest:.2g}; is the Hvp deterministic?"
            )
        return (matrix + matrix.T) / 2

    def densified(self) -> HessianOperator:
        """Return the same operator with its matrix known: n products now, none later."""
        matrix = self.dense()
        return HessianOperator(self.n, self.like, lambda v: matrix @ v, self.name, matrix)

    def require(self, name: str, x: Any, advice: str) -> None:
        """Raise unless `x` is a vector (n,) or columns (n, k) of this operator's library and dtype."""
        if not array_api_compat.is_array_api_obj(x):
            raise TypeError(f"`{name}` must be an array, got {type(x).__name__}; {advice}")
        here, there = array_api_compat.array_namespace(x), array_api_compat.array_namespace(self.like)
        if here is not there or x.dtype != self.like.dtype:
            raise TypeError(
                f"`{name}` must be of the library and dtype of {self.name}, {there.__name__} "
                f"{self.like.dtype}, got {here.__name__} {x.dtype}; {advice}"
            )
        if x.ndim not in (1, 2) or x.shape[0] != self.n:
            raise ValueError(
                f"`{name}` must have shape ({self.n},) or ({self.n}, k), got {tuple(x.shape)}; {advice}"
            )

    def __repr__(self) -> str:
        xp = array_api_compat.array_namespace(self.like)
        library = xp.__name__.removeprefix("array_api_compat.")
        known = "a matrix" if self.matrix is not None else "products only"
        return f"HessianOperator({self.name!r}, n={self.n}, {known}, {library} {self.like.dtype})"


def from_matrix(matrix: Array, name: str = "H") -> HessianOperator:
    """Return a symmetric matrix as an operator.

    Parameters
    ----------
    matrix : array or scipy.sparse matrix, shape (n, n)
        float32 or float64, of any array library; symmetric, finite. Singular and indefinite ones are welcome.
        A sparse one stays sparse: products cost its entries.

    Raises
    ------
    TypeError, ValueError
        If it is not such a matrix.
    """
    if hasattr(matrix, "tocsr"):
        return _from_sparse(matrix, name)
    if not array_api_compat.is_array_api_obj(matrix):
        raise TypeError(
            f"`matrix` must be an array (NumPy, CuPy, PyTorch, JAX, ...), got {type(matrix).__name__}; "
            "convert it with the `asarray` of your array library"
        )
    xp = array_api_compat.array_namespace(matrix)
    if matrix.dtype not in (xp.float32, xp.float64):
        raise TypeError(f"`matrix` must be float32 or float64, got {matrix.dtype}; convert it with `astype`")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"`matrix` must be square, (n, n), got shape {tuple(matrix.shape)}")
    if not bool(xp.all(xp.isfinite(matrix))):
        raise ValueError("`matrix` must be finite, got NaN or Inf among its entries; remove them")
    largest, skew = float(xp.max(xp.abs(matrix))), float(xp.max(xp.abs(matrix - matrix.T)))
    _require_little(skew, largest, rounding(matrix))
    return HessianOperator(matrix.shape[0], matrix[0, :0], lambda v: matrix @ v, name, matrix)


def _from_sparse(matrix: Any, name: str) -> HessianOperator:
    """Return a matrix of SciPy's sparse kinds, which stays sparse."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"`matrix` must be square, (n, n), got shape {tuple(matrix.shape)}")
    if matrix.dtype.kind not in "fiub":
        raise TypeError(f"`matrix` must hold real numbers, got {matrix.dtype}; convert it")
    rows = matrix.tocsr()
    rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)
    if not np.all(np.isfinite(rows.data)):
        raise ValueError("`matrix` must be finite, got NaN or Inf among its entries; remove them")
    largest, skew = (float(abs(x).max()) if x.nnz else 0.0 for x in (rows, rows - rows.T))
    like = np.zeros(0, rows.dtype)
    _require_little(skew, largest, rounding(like))
    return HessianOperator(rows.shape[0], like, lambda v: rows @ v, name)


def _require_little(skew: float, largest: float, unit: float) -> None:
    if skew > 64 * unit * largest:
        raise ValueError(
            f"`matrix` must be symmetric, got entries that differ from their mirror image by up to "
            f"{skew:.2g} of {largest:.2g}; symmetrise it, (x + x.T) / 2, if that is what you mean"
        )


def from_linear_operator(operator: Any, name: str = "H") -> HessianOperator:
    """Return a SciPy LinearOperator, of a symmetric matrix, as an operator.

    Products are NumPy's, in float32 where the operator's dtype is that, else in float64. Its first product is
    looked at: the same again, and of a symmetric matrix.

    Raises
    ------
    TypeError, ValueError
        If it is not square and real; by the first product, if it is not symmetric.
    """
    if not (hasattr(operator, "matmat") and hasattr(operator, "shape")):
        raise TypeError(f"`operator` must be a LinearOperator, got {type(operator).__name__}; use `from_hvp`")
    n, dtype = operator.shape[0], np.dtype(operator.dtype or np.float64)
    if operator.shape != (n, n) or n == 0:
        raise ValueError(f"`operator` must be square, (n, n), got shape {tuple(operator.shape)}")
    if dtype.kind not in "fiub":
        raise TypeError(f"`operator` must be of real numbers, got {dtype}; convert it")
    like = np.zeros(0, np.float32 if dtype == np.float32 else np.float64)

    def product(v: np.ndarray) -> np.ndarray:
        return np.array(operator.matmat(np.array(v)), like.dtype)

    return HessianOperator(n, like, checked(product, name, "make its products depend on v alone"), name)


def as_operator(hessian: HessianOperator | Array) -> HessianOperator:
    """Return `hessian` as it is, or as an operator where it is a matrix or a SciPy LinearOperator.

    See `from_matrix` and `from_linear_operator`.
    """
    if isinstance(hessian, HessianOperator):
        return hessian
    is_operator = hasattr(hessian, "matmat") and not array_api_compat.is_array_api_obj(hessian)
    return from_linear_operator(hessian) if is_operator else from_matrix(hessian)


def linear_operator(operator: HessianOperator | Array) -> Any:
    """Return the operator as a `LinearOperator`, of CuPy's where its arrays are CuPy's, else of SciPy's.

    SciPy's takes and gives NumPy vectors: for arrays of other libraries every product travels to the host and
    back. CuPy's stays on the device.
    """
    op = as_operator(operator)
    if array_api_compat.is_cupy_array(op.like):
        from cupyx.scipy.sparse.linalg import LinearOperator

        return LinearOperator((op.n, op.n), matvec=op.hvp, matmat=op.hvp, dtype=op.like.dtype)
    from scipy.sparse.linalg import LinearOperator

    xp = array_api_compat.array_namespace(op.like)
    dtype = np.float64 if xp.finfo(op.like.dtype).bits == 64 else np.float32

    def product(v: np.ndarray) -> np.ndarray:
        out = to_host(op.hvp(put(v, op.like)))
        require_finite(op.name, out)
        return out.astype(dtype, copy=False)

    def one(v: np.ndarray) -> np.ndarray:
        return product(v.reshape(-1))

    return LinearOperator((op.n, op.n), matvec=one, rmatvec=one, matmat=product, rmatmat=product, dtype=dtype)


def require_finite(name: str, products: Array) -> None:
    """Raise ValueError unless products are finite."""
    xp = array_api_compat.array_namespace(products)
    if not bool(xp.all(xp.isfinite(products))):
        raise ValueError(f"the products of {name} must be finite, got NaN or Inf; look at the function")
