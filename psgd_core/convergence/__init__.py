"""Comparisons with the exact target: how far P is from ``P*``, and how fast it should get there.

`target` prepares the criterion's exact minimiser once; `measure` compares a factor Q of ``P = Q^T Q`` to it:

- `distance`, the affine-invariant ``||log(P*^{-1/2} P P*^{-1/2})||_F / sqrt(n)``: the typical relative error
  of P in any direction, of large or small curvature alike. It depends on P, not on the rotation in Q;
- `residual`, ``||P P*^{-1} - I||_F / sqrt(n)``: over GL(n) without noise ``||P |H| - I||_F / sqrt(n)``;
- `criterion_gap`, ``(c(P) - c(P*)) / c(P*)``, about the square of a distance.

They are computed without cancellation from the singular values s_i of ``Q R``, ``R = P*^{-1/2}``. The
distance is the root mean square of ``2 log s_i``, with an error of about ``eps sqrt(κ(P))``, not
``eps κ(P)``, given R (whose small eigenvalues a dense H determines to ``eps κ(H)``). As only the blocks
``M_OO = P*_O^{-2}`` matter,
``c(P) = tr((X + X^{-1}) P*^{-1})`` with ``X = R P R``, so that
``c(P) - c(P*) = sum_i (s_i - 1/s_i)^2 |R w_i|^2`` over the right singular vectors w_i. That holds for any P
against the target over GL(n), and for P in its group against a group's.

**Rates.** Let the fit run on exact expectations, ``Q <- (I - μ/N (E[a a^T] - E[b b^T])) Q``, and let h_i be
the eigenvalues of ``P*^{-1}`` (on one orbit). At the minimiser both expectations are ``D = diag(h)`` up to a
rotation. Put ``Q = (I + X) Q*`` and ``Y = X + X^T``, the relative error of P: the generator is ``Y D + D Y``
to first order, so ``Y_ij`` shrinks by ``1 - 2 μ (h_i + h_j) / N`` in every update. With N the largest
eigenvalue of ``E[a a^T + b b^T]``, ``2 h_max``, the slowest mode has ``1 - 2 μ / κ`` and the fastest
``1 - 2 μ``.

That is for the geometry "EQ", dQ = E Q. `psgd_core.preconditioners.geometries` has the speeds of the modes
under all the others; where the mode between the largest and the smallest eigenvalue is faster than the
others, it bounds the steps: `stable_step`.
"""

from .rates import predicted_rate, stable_step
from .sweeps import Sweep, sweep
from .targets import Errors, Target, criterion_gap, distance, factor, measure, residual, target, target_at
from .traces import Fit, Trace, fit_rate, level
from .verdicts import Expectation, FallingFloor, LinearToRounding, Status, Tracks, Verdict, judge

__all__ = [
    "Errors",
    "Expectation",
    "FallingFloor",
    "Fit",
    "LinearToRounding",
    "Status",
    "Sweep",
    "Target",
    "Trace",
    "Tracks",
    "Verdict",
    "criterion_gap",
    "distance",
    "factor",
    "fit_rate",
    "judge",
    "level",
    "measure",
    "predicted_rate",
    "residual",
    "stable_step",
    "sweep",
    "target",
    "target_at",
]
