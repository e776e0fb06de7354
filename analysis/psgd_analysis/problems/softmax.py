"""Multinomial logistic regression with L2 regularisation on real images: convex, stochastic by mini-batches.

    f(W) = mean_i [ log Σ_c exp(z_ic) - z_i,y_i ] + (l2 / 2) |W|^2,    Z = X W,

W of shape (features + 1, classes), the last row being the bias, flattened in C order. A sample is a vector of
row indices, over which the mean is taken. With p the softmax of z, the Hessian-vector product is ``X^T [p ⊙
(dz - p^T dz)] / N + l2 V``, dz = X V: no matrix larger than X and the probes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from ..arrays import Array, put, put_index
from ..checks import require_count
from .base import Problem
from .files import read_idx


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SoftmaxRegression(Problem):
    """Logistic regression on data held by the problem; made by `softmax_regression`.

    Attributes
    ----------
    features : array, shape (N, D)
        Data, with a column of ones for the bias.
    targets : array, shape (N, C)
        One 1 in each row.
    l2 : float
    batch : int or None
        Rows in a sample; None makes the problem deterministic.
    """

    features: Array
    targets: Array
    l2: float
    batch: int | None = None

    @property
    def stochastic(self) -> bool:
        """Whether a batch size is set."""
        return self.batch is not None

    def draw(self, rng: np.random.Generator) -> Array | None:
        """Return `batch` distinct row indices, or None without a batch size."""
        if self.batch is None:
            return None
        rows = rng.choice(self.features.shape[0], self.batch, replace=False)
        return put_index(rows, self.start)

    def _data(self) -> Array:
        return self.features

    def _rows(self, x: Array, sample: Array | None) -> tuple[Any, Array, Array, Array]:
        """Return the namespace, the rows of X and of the targets in the sample, and Z."""
        xp = array_api_compat.array_namespace(x)
        features, targets = self.features, self.targets
        if sample is not None:
            features, targets = xp.take(features, sample, axis=0), xp.take(targets, sample, axis=0)
        return xp, features, targets, features @ xp.reshape(x, (features.shape[1], targets.shape[1]))

    def _value(self, x: Array, sample: Array | None) -> Array:
        xp, _, targets, z = self._rows(x, sample)
        top = xp.max(z, axis=1, keepdims=True)
        loss = xp.log(xp.sum(xp.exp(z - top), axis=1)) + top[:, 0] - xp.sum(targets * z, axis=1)
        return xp.mean(loss) + 0.5 * self.l2 * xp.sum(x * x)

    def _gradient(self, x: Array, sample: Array | None) -> Array:
        xp, features, targets, z = self._rows(x, sample)
        slope = (_softmax(xp, z) - targets) / float(z.shape[0])
        return xp.reshape(features.T @ slope, (-1,)) + self.l2 * x

    def _hvp(self, x: Array, v: Array, sample: Array | None) -> Array:
        xp, features, _, z = self._rows(x, sample)
        (rows, classes), k = z.shape, v.shape[1]
        p = (_softmax(xp, z) / float(rows))[:, :, None]
        dz = xp.reshape(features @ xp.reshape(v, (-1, classes * k)), (rows, classes, k))
        change = p * (dz - float(rows) * xp.sum(p * dz, axis=1, keepdims=True))
        return xp.reshape(features.T @ xp.reshape(change, (rows, classes * k)), (-1, k)) + self.l2 * v


def softmax_regression(
    features: Any,
    labels: Any,
    *,
    l2: float = 1e-3,
    batch: int | None = None,
    name: str = "softmax_regression",
    like: Array | None = None,
) -> SoftmaxRegression:
    """Return logistic regression on host data, starting from 0.

    Parameters
    ----------
    features : array_like, shape (N, D), on the host
    labels : array_like of int, shape (N,), on the host
        Classes 0 ... C - 1.
    l2 : float
        Weight of the regularisation, bias included; positive, so that there is exactly one minimum (its value
        is not known in closed form, so `minimum` is None).
    batch : int, optional
        Make the problem stochastic, with samples of this many rows.

    Raises
    ------
    ValueError
        For shapes that do not fit together, labels that are not integers from 0, a non-positive `l2`, or a
        batch outside 1 ... N.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1] or not x.size:
        raise ValueError(
            f"`features` and `labels` must have shapes (N, D) and (N,), "
            f"got {x.shape} and {y.shape}; reshape them"
        )
    if y.dtype.kind not in "iu" or y.min() < 0:
        raise ValueError(
            f"`labels` must be integers from 0, got {y.dtype} from {y.min()}; number the classes"
        )
    if not (np.isfinite(l2) and l2 > 0):
        raise ValueError(f"`l2` must be finite and positive, got {l2!r}; raise it")
    if batch is not None and require_count("batch", batch) > len(x):
        raise ValueError(f"`batch` must be at most the {len(x)} rows of the data, got {batch}; lower it")
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    targets = np.eye(int(y.max()) + 1)[y]
    return SoftmaxRegression(
        name=name,
        start=put(np.zeros(x.shape[1] * targets.shape[1]), like),
        features=put(x, like),
        targets=put(targets, like),
        l2=float(l2),
        batch=batch,
    )


def digits(*, l2: float = 1e-3, batch: int | None = None, like: Array | None = None) -> SoftmaxRegression:
    """Return logistic regression on scikit-learn's 1797 bundled 8 x 8 digits, n = 650.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the problem 'digits' needs the data of scikit-learn: pip install scikit-learn"
        ) from error
    data = load_digits()
    return softmax_regression(data.data / 16.0, data.target, l2=l2, batch=batch, name="digits", like=like)


def mnist(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    *,
    l2: float = 1e-3,
    batch: int | None = None,
    like: Array | None = None,
) -> SoftmaxRegression:
    """Return logistic regression on MNIST (or anything in its format), from two IDX files, gzipped or not.

    Raises
    ------
    ValueError
        If a file cannot be read, is not in IDX format, or they do not hold N images and N labels.
    """
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"{images}: must hold images, unsigned bytes (N, rows, columns), got {_kind(pixels)}"
        )
    if classes.shape != pixels.shape[:1] or classes.dtype != np.uint8:
        raise ValueError(f"{labels}: must hold {len(pixels)} labels, unsigned bytes, got {_kind(classes)}")
    flat = pixels.reshape(len(pixels), -1) / 255.0
    return softmax_regression(flat, classes.astype(np.int64), l2=l2, batch=batch, name="mnist", like=like)


def _kind(x: np.ndarray) -> str:
    return f"{x.dtype} {x.shape}"


def _softmax(xp: Any, z: Array) -> Array:
    e = xp.exp(z - xp.max(z, axis=1, keepdims=True))
    return e / xp.sum(e, axis=1, keepdims=True)
