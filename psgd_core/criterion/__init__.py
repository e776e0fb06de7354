"""The criterion that preconditioners are fitted to, its derivatives and its exact minimisers.

For pairs ``(v, h = H_0 v + ε)`` with ``E[v v^T] = I`` and noise ε independent of v (eqs. (3), (4)),

    c(P) = E[h^T P h + v^T P^{-1} v] = tr(P M + P^{-1}),        M = H_0^2 + E[ε ε^T].

On ``P = Q^T Q`` it is a function of Q, invariant under rotations ``Q -> U Q``. Matrices become vectors row by
row here, ``vec(A X B) = (A ⊗ B^T) vec(X)``; J is the permutation with ``vec(X^T) = J vec(X)``.

How the statements of the paper's appendix A hold (checked against finite differences of c):

- Its ``∂c/∂Q`` lacks a factor 2 that its second derivatives have; all derivatives here are those of c.
- The second derivative above (8), and (8), hold for row-major vec as they stand. (8) is the second
  derivative of ``c(Q + Q E)`` in E. Along the group's curves ``Q exp(E)`` there is also the term
  ``tr(∇_E^T E^2)``, which vanishes at a stationary point.
- (9) and (10) hold with |H| for H (for an indefinite H the paper's ``H^{0.5}`` is not real), and only as
  quadratic forms, in directions in which *dQ is symmetric*; for (10) that means ``Q E`` symmetric, not E.
- The full second derivative at a stationary point is only semidefinite: its null space consists of the
  ``n(n-1)/2`` rotations ``dQ = S Q``, S skew. So Q converges up to a rotation from the left; P converges.
- ``P ≺ |H_0|^{-1}`` with noise is strict only if ``E[ε ε^T]`` is positive definite; otherwise it is ``≼``.
- Section 2.2's diagonal minimiser ``E[v ⊙ v] ⊘ E[h ⊙ h]`` lacks a square root: the entries of the
  criterion's minimiser are the roots of these quotients.

All functions take and return arrays of one library, dtype and device, and trace under ``jax.jit``.
"""

from .derivatives import (
    commutation_matrix,
    damping_residual,
    expected,
    gradient,
    lie_gradient,
    lie_second_derivative,
    second_derivative,
    second_moment,
    stationary_lie_second_derivative,
    stationary_second_derivative,
    value,
)
from .kronecker import kronecker_minimizer
from .minimizers import (
    Orbits,
    absolute_inverse,
    check_hessian,
    group_minimizer,
    minimizer,
    minimum,
    scalar_minimizer,
    spectra,
)

__all__ = [
    "Orbits",
    "absolute_inverse",
    "check_hessian",
    "commutation_matrix",
    "damping_residual",
    "expected",
    "gradient",
    "group_minimizer",
    "kronecker_minimizer",
    "lie_gradient",
    "lie_second_derivative",
    "minimizer",
    "minimum",
    "scalar_minimizer",
    "second_derivative",
    "second_moment",
    "spectra",
    "stationary_lie_second_derivative",
    "stationary_second_derivative",
    "value",
]
