"""Checks of arguments that several studies of spectra share, each with a one-sentence error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from psgd_core import PermutationSubgroup

from ..arrays import put, rounding


def require_invertible(name: str, values: np.ndarray, unit: float) -> None:
    """Raise ValueError if the eigenvalues are those of a matrix that is singular to the rounding `unit`."""
    magnitudes = np.abs(values)
    low, high = float(np.min(magnitudes)), float(np.max(magnitudes))
    if low <= values.size * unit * high:
        raise ValueError(
            f"`hessian`, {name}, must be invertible, got |λ| from {low:.2g} to {high:.2g}; "
            "study `damped(hessian, λ)` in its place"
        )


def require_squares(name: str, matrix: Any) -> None:
    """Raise ValueError where ``H^2``, which the criterion is made of, overflows, or vanishes to rounding."""
    xp = array_api_compat.array_namespace(matrix)
    size, limits = float(xp.max(xp.abs(matrix))), xp.finfo(matrix.dtype)
    high = (float(limits.max) / matrix.shape[0]) ** 0.5 / 16
    low = (float(limits.smallest_normal) / float(limits.eps) ** 2) ** 0.5
    if size and not low <= size <= high:
        raise ValueError(
            f"`hessian`, {name}, must have a largest entry between {low:.0e} and {high:.0e}, so that its "
            f"square is a {matrix.dtype}, got {size:.2g}; multiply it by {1 / size:.0e}"
        )


def require_subgroup(name: str, subgroup: PermutationSubgroup, n: int) -> None:
    """Raise unless `subgroup` is a subgroup of the permutations of range(n)."""
    if not isinstance(subgroup, PermutationSubgroup):
        raise TypeError(
            f"`{name}` must be a PermutationSubgroup, got {type(subgroup).__name__}; "
            "make one with PermutationSubgroup.from_generators"
        )
    if subgroup.n != n:
        raise ValueError(f"`{name}` must permute range({n}), got a subgroup for n = {subgroup.n}; rebuild it")


def checked(product: Callable[[Any], Any], name: str, advice: str) -> Callable[[Any], Any]:
    """Return products that are looked at once, in the first: the same again, and of a symmetric matrix.

    After the columns that are asked for first comes a second call, of one of them and a random vector u. The
    column must come out the same to the root of rounding, and ``u^T H v`` be ``v^T H u`` to the fourth root,
    so that differences of gradients pass. Products that JAX traces are not looked at.

    Parameters
    ----------
    product : callable
        Of columns (n, k).
    name, advice : str
        Of what, and what to do where they are not the same.

    Raises
    ------
    ValueError
        By the first product.
    """
    looked = False

    def looking(v: Any) -> Any:
        nonlocal looked
        out = product(v)
        if not looked and v.shape[1] > 0 and not _is_traced(out) and tuple(out.shape) == tuple(v.shape):
            xp = array_api_compat.array_namespace(v)
            u = put(np.random.default_rng(0).standard_normal((v.shape[0], 1)), v)
            again = product(xp.concat([v[:, :1], u], axis=1))
            if bool(xp.all(xp.isfinite(out)) & xp.all(xp.isfinite(again))):  # else reported where it matters
                _require_same(name, out[:, 0], again[:, 0], advice)
                _require_symmetric(name, v[:, 0], out[:, 0], u[:, 0], again[:, 1])
            looked = True
        return out

    return looking


def _require_same(name: str, first: Any, again: Any, advice: str) -> None:
    xp = array_api_compat.array_namespace(first)
    off, size = (float(xp.max(xp.abs(x))) for x in (again - first, first))
    if off > rounding(first) ** 0.5 * size:
        raise ValueError(
            f"the products of {name} must be the same for the same v, got one that is off by {off:.2g} of "
            f"{size:.2g} the second time; {advice}"
        )


def _require_symmetric(name: str, v: Any, hv: Any, u: Any, hu: Any) -> None:
    """Raise ValueError unless ``u^T H v = v^T H u``, beside ``|u| |H v|`` and ``|v| |H u|``."""
    xp = array_api_compat.array_namespace(v)
    unit = float(xp.max(xp.abs(hv))) + float(xp.max(xp.abs(hu)))
    if unit == 0:
        return
    hv, hu = hv / unit, hu / unit
    one, other = float(xp.sum(u * hv)), float(xp.sum(v * hu))
    lengths = [float(xp.linalg.vector_norm(x)) for x in (u, hv, v, hu)]
    size = max(lengths[0] * lengths[1], lengths[2] * lengths[3]) / v.shape[0] ** 0.5
    if abs(one - other) > rounding(v) ** 0.25 * size:
        raise ValueError(
            f"the products of {name} must be those of a symmetric matrix, got u^T H v = {one * unit:.3g} and "
            f"v^T H u = {other * unit:.3g} for the same u and v; a Hessian's are equal"
        )


def _is_traced(x: Any) -> bool:
    """Return whether x is a tracer of JAX."""
    if not array_api_compat.is_jax_array(x):
        return False
    import jax

    return isinstance(x, jax.core.Tracer)
