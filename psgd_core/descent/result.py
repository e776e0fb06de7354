"""What `minimize` returns; imported when the first result is made, because `scipy.optimize` takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.brief import MOST, shown, size
from ..arrays.library import at_hand, silent, to_host
from ..arrays.trees import Tree, leaves_with_names
from ..display import curves, html_table
from .progress import Progress
from .psgd import PSGD

if TYPE_CHECKING:
    OptimizeResult = dict[str, Any]  # SciPy's has no types
else:
    from scipy.optimize import OptimizeResult


NUMBERS = ("fun", "nit", "nfev", "njev", "nhev", "status")
"""What its table begins with."""


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

    def plot(self, ax: Any = None) -> Any:
        """Draw value and gradient against iterations, from `history`, and return the axes.

        Parameters
        ----------
        ax : Axes, optional
            matplotlib's; new ones by default.
        """
        nit, fun, grad = (self.history[name] for name in ("nit", "fun", "grad"))
        lowest = np.min(fun, initial=np.inf, where=np.isfinite(fun))
        with silent():  # of values that are not finite
            above = fun - lowest
        lines = {f"f - lowest f ({lowest:.6g})": (nit, above), "max|gradient|": (nit, grad)}
        return curves(ax, lines, title=self.message, xlabel="iterations")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), "plot"]  # SciPy's names the entries alone

    def _repr_html_(self) -> str:
        rows = [(name, f"{self[name]:.8g}", "") for name in NUMBERS if name in self]
        for name in ("x", "jac"):
            rows += [(part, _values(x), size(x)) for part, x in leaves_with_names(self.get(name, ()), name)]
        if "optimizer" in self:
            rows.append(("preconditioner", repr(self.optimizer.preconditioner), ""))
        return html_table(str(self.get("message", "MinimizeResult")), ("", "value", "norm"), rows)


def _values(x: Any) -> str:
    """Return the values of a short array that is at hand, of others dtype and shape."""
    if x.ndim == 1 and x.shape[0] <= MOST and at_hand(x):
        return np.array2string(to_host(x), precision=6)
    return shown(x)
