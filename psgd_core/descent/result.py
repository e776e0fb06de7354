"""What `minimize` returns; imported when the first result is made, because `scipy.optimize` takes long."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from ..arrays.trees import Tree
from .loop import Progress
from .psgd import PSGD


class MinimizeResult(OptimizeResult):  # type: ignore[misc]
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
