"""``Q H Q^T``, and a fitted P itself, as operators.

``P H`` is not symmetric, but ``Q H Q^T = Q^{-T} (P H) Q^T`` is, and has the same eigenvalues. That is why
`preconditioned` makes the latter: its eigenvalues are those of ``P H``, found by methods for symmetric
matrices, with their accuracy.
"""

from __future__ import annotations

from typing import Any

import array_api_compat

import psgd_core as psgd

from ..arrays import Array
from .operators import HessianOperator, as_operator, from_matrix


def preconditioned(
    hessian: HessianOperator | Array, preconditioner: psgd.Preconditioner | Array, state: Any = None
) -> HessianOperator:
    """Return ``Q H Q^T`` for a fitted preconditioner ``P = Q^T Q``: it has the eigenvalues of ``P H``.

    Parameters
    ----------
    hessian : HessianOperator or array, shape (n, n)
    preconditioner : Preconditioner, or array of shape (n, n)
        With its `state`; or P itself as a matrix, without one. A dense P determines its small eigenvalues to
        ``eps κ(P)`` only: pass preconditioner and state where you have them.

    Returns
    -------
    HessianOperator
        A product costs one of H, one of Q and one of ``Q^T``.
    """
    h = as_operator(hessian)
    if isinstance(preconditioner, psgd.Preconditioner):
        _require_state(preconditioner, state, h.n)
        p = preconditioner

        def product(v: Array) -> Array:
            return p.apply(state, h.product(p.apply_transpose(state, v)))

        name = type(p).__name__
    else:
        q = psgd.convergence.factor(from_matrix(preconditioner, "P").dense())
        xp = array_api_compat.array_namespace(q)
        if not bool(xp.all(xp.isfinite(q))):
            raise ValueError("`preconditioner` must be positive definite as a matrix; got one that is not")
        if q.shape[0] != h.n:
            raise ValueError(f"`preconditioner` must have shape ({h.n}, {h.n}), got {tuple(q.shape)}")

        def product(v: Array) -> Array:
            return q @ h.product(q.T @ v)

        name = "P"
    return HessianOperator(h.n, h.like, product, f"{name} {h.name}")


def preconditioner_operator(preconditioner: psgd.Preconditioner, state: Any) -> HessianOperator:
    """Return a fitted P itself as an operator, for `density` and `extreme_eigenvalues`."""
    _require_state(preconditioner, state, None)

    def product(v: Array) -> Array:
        return preconditioner.precondition(state, v)

    first = _first_float(state)
    like = array_api_compat.array_namespace(first).reshape(first, (-1,))[:0]
    return HessianOperator(preconditioner.size(state), like, product, type(preconditioner).__name__)


def _first_float(state: Any) -> Array:
    """Return the first floating array of a state: it sets library, dtype and device."""
    if isinstance(state, tuple):
        return next((x for x in map(_first_float, state) if x is not None), None)
    return state if array_api_compat.array_namespace(state).isdtype(state.dtype, "real floating") else None


def _require_state(preconditioner: Any, state: Any, n: int | None) -> None:
    if not isinstance(preconditioner, psgd.Preconditioner):
        raise TypeError(
            f"`preconditioner` must be a Preconditioner, got {type(preconditioner).__name__}; "
            "make one such as psgd_core.XMat()"
        )
    if state is None:
        raise ValueError("`state` must come with a preconditioner, got None; give what `update` returned")
    size = preconditioner.size(state)
    if n is not None and size != n:
        raise ValueError(f"`state` must be for n = {n} parameters as the Hessian, got one for {size}")
