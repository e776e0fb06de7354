"""Pairs ``(v, h = H v + ε)`` from a Hessian that is known, with moments that are known.

Probes have ``E[vv^T] = I`` whatever their kind. Noise is ``ε = N w`` with w white, so ``E[hh^T] = H^2 + N
N^T``, which is the M of the criterion ``tr(P M + P^{-1})`` (eq. (4)). `exact_pairs` has these moments as
plain averages over its columns: a fit on it follows the expectation itself, free of sampling error.

Draws are made on the host from a `numpy.random.Generator`, so that every library sees the same ones.
"""

from __future__ import annotations

from typing import NamedTuple

import array_api_compat
import numpy as np

from ..arrays import Array, put
from ..checks import require_choice, require_count
from .spectra import haar

PROBES = ("gaussian", "rademacher", "orthogonal")
"""Kinds of probes that `probes` draws."""


class Pairs(NamedTuple):
    """Probes and their noisy Hessian-vector products, of one shape."""

    v: Array  # (n,) or (n, k)
    h: Array  # (n,) or (n, k)


def probes(
    n: int,
    rng: np.random.Generator,
    k: int | None = None,
    *,
    kind: str = "gaussian",
    like: Array | None = None,
) -> Array:
    """Return k random probes with ``E[vv^T] = I``, shape (n, k), or one of shape (n,) if k is None.

    Parameters
    ----------
    kind : str
        "gaussian"; "rademacher": independent signs; "orthogonal": ``sqrt(n)`` times Haar-distributed
        orthonormal columns, in independent blocks of n where k > n.
    like : array, optional
        Library, dtype and device of the result; NumPy float64 without it.

    Raises
    ------
    ValueError
        For n or k below 1, or an unknown `kind`.
    """
    require_choice("kind", kind, PROBES)
    require_count("n", n)
    columns = 1 if k is None else require_count("k", k)
    if kind == "gaussian":
        v = rng.standard_normal((n, columns))
    elif kind == "rademacher":
        v = rng.choice([-1.0, 1.0], (n, columns))
    else:
        blocks = [haar(n, rng, min(n, columns - start)) for start in range(0, columns, n)]
        v = np.sqrt(n) * np.concatenate(blocks, axis=1)
    return put(v[:, 0] if k is None else v, like)


def pairs(
    hessian: Array,
    rng: np.random.Generator,
    k: int | None = None,
    *,
    probe: str = "gaussian",
    noise_root: Array | None = None,
) -> Pairs:
    """Draw k pairs ``(v, H v + N w)``, on the library, dtype and device of `hessian`.

    Parameters
    ----------
    hessian : array, shape (n, n)
    k : int, optional
        Number of pairs, which then have shape (n, k); one pair of shape (n,) without it.
    probe : str
        As `kind` of `probes`.
    noise_root : array, shape (n, m), optional
        N; w is Gaussian, independent of v.
    """
    _require_shapes(hessian, noise_root)
    v = probes(hessian.shape[0], rng, k, kind=probe, like=hessian)
    h = hessian @ v
    if noise_root is not None:
        w = rng.standard_normal((noise_root.shape[1], *v.shape[1:]))
        h = h + noise_root @ put(w, hessian)
    return Pairs(v, h)


def exact_pairs(
    hessian: Array, rng: np.random.Generator | None = None, *, noise_root: Array | None = None
) -> Pairs:
    """Return pairs whose averages over the columns are exactly ``E[vv^T] = I`` and ``E[hh^T] = H^2 + N N^T``.

    Without noise these are n columns, ``v = sqrt(n) B`` with B orthonormal. With it they are 2n:
    ``h = sqrt(n) (H B ± N)`` over the same v, so that the products of H B with N cancel.

    Parameters
    ----------
    hessian : array, shape (n, n)
    rng : numpy.random.Generator, optional
        Draw a Haar-distributed B; the identity without it.
    noise_root : array, shape (n, m), m <= n, optional
        N.
    """
    _require_shapes(hessian, noise_root)
    xp = array_api_compat.array_namespace(hessian)
    n = hessian.shape[0]
    v = put(np.sqrt(n) * (np.eye(n) if rng is None else haar(n, rng)), hessian)
    h = hessian @ v
    if noise_root is None:
        return Pairs(v, h)
    m = noise_root.shape[1]
    if m > n:
        raise ValueError(
            f"`noise_root` must have at most {n} columns, got {m}; pass a square root of the covariance"
        )
    empty = xp.zeros((n, n - m), dtype=hessian.dtype, device=array_api_compat.device(hessian))
    noise = float(np.sqrt(n)) * xp.concat([noise_root, empty], axis=1)
    return Pairs(xp.concat([v, v], axis=1), xp.concat([h + noise, h - noise], axis=1))


def _require_shapes(hessian: Array, noise_root: Array | None) -> None:
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1]:
        raise ValueError(
            f"`hessian` must have shape (n, n), got {tuple(hessian.shape)}; pass a square matrix"
        )
    n = hessian.shape[0]
    if noise_root is not None and (noise_root.ndim != 2 or noise_root.shape[0] != n):
        raise ValueError(
            f"`noise_root` must have shape ({n}, m), got {tuple(noise_root.shape)}; "
            "pass N of the noise covariance N N^T"
        )
