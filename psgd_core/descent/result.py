"""What `minimize` returns; imported when the first result is made, because `scipy.optimize` takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.trees import Tree
from .progress import Progress
from .psgd import PSGD

if TYPE_CHECKING:
    OptimizeResult = dict[str, Any]  # SciPy's has no types
else:
    from scipy.optimize import OptimizeResult


def report(result: MinimizeResult) -> str:
    """Return what `disp` prints, as SciPy's methods do."""
    return (
        f"{result.message}\n"
        f"         Current function value: {result.fun:f}\n"
        f"         Iterations: {result.nit:d}\n"
        f"         Function evaluations: {result.nfev:d}\n"
        f"         Gradient evaluations: {result.njev:d}\n"
        f"         Hessian evaluations: {result.nhev:d}"
    )


class MinimizeResult(OptimizeResult):
    """A `scipy.optimize.OptimizeResult` whose entries type checkers know."""

    x: Tree
    fun: float
    jac: Tree  # the gradient at x
    nit: int
    nfev: int
    njev: int
    nhev: int
    success: bool
    status: int
    message: str
    state: Any  # the final state of the preconditioner
    progress: Progress  # to resume from
    optimizer: PSGD  # that ran
    history: dict[str, np.ndarray]  # one entry per iteration in each
    hess_inv: Any  # P as a LinearOperator, from `psgd_core.adapters.scipy.psgd_method` only
