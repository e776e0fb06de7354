"""SciPy's idiom: a fitted preconditioner as a `LinearOperator`, and PSGD as a ``method=`` of `minimize`.

A preconditioner fitted on pairs (v, A v) serves SciPy's solvers as ``M``, because P is symmetric, positive
definite and close to ``|A|^{-1}``::

    p = psgd_core.LowRank(10)
    state = p.init(n, like=b)
    for _ in range(200):
        v = rng.standard_normal(n)
        state = p.update(state, v, A @ v, step=0.5)
    x, info = scipy.sparse.linalg.cg(A, b, M=as_linear_operator(p, state))

and any function with a gradient can be minimised by::

    scipy.optimize.minimize(rosen, x0, jac=rosen_der, hessp=rosen_hess_prod, method=psgd_method)

Fitting costs one product with A per update, so it pays for itself where P serves many right-hand sides, or
where A drifts and P follows it.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any, Literal, get_args

import array_api_compat
import numpy as np
from scipy.optimize import HessianUpdateStrategy, OptimizeWarning
from scipy.sparse.linalg import LinearOperator

from ..arrays.arguments import described, require_choice
from ..arrays.library import device_of, namespace, to_host
from ..curvature import Central, Forward
from ..descent import minimize
from ..descent.differences import Differences
from ..descent.inputs import Function, require_unbounded
from ..descent.result import MinimizeResult, report
from ..preconditioners import Preconditioner

Which = Literal["P", "P_inverse", "Q", "Q_inverse"]
"""What a `LinearOperator` multiplies with."""

_VERBS = {
    "P": (("apply", "apply_transpose"), ("apply", "apply_transpose")),
    "P_inverse": (("solve_transpose", "solve"), ("solve_transpose", "solve")),
    "Q": (("apply",), ("apply_transpose",)),
    "Q_inverse": (("solve",), ("solve_transpose",)),
}
"""The verbs that make each operator, and its transpose, in the order in which they act."""

_OPTIONS = frozenset(inspect.signature(minimize).parameters) - {
    *("fun", "x0", "args", "grad", "jac", "hvp", "hess", "callback", "bounds", "disp")
}
"""What `psgd_method` takes from ``options``, besides disp, gtol and maxfev."""


class PreconditionerOperator(LinearOperator):  # type: ignore[misc,unused-ignore]
    """A fitted preconditioner's P, Q, or an inverse of them; see `as_linear_operator`, which checks.

    It can be pickled where the state can.

    Parameters
    ----------
    preconditioner, state
        A configuration, and a state of it.
    which : {"P", "P_inverse", "Q", "Q_inverse"}
    transposed : bool
    """

    def __init__(
        self, preconditioner: Preconditioner[Any], state: Any, which: Which, *, transposed: bool = False
    ) -> None:
        self.preconditioner: Preconditioner[Any] = preconditioner
        self.state: Any = state
        self.which: Which = which
        self.transposed: bool = transposed
        n = preconditioner.size(state)
        super().__init__(to_host(preconditioner.like(state)).dtype, (n, n))

    def _matmat(self, x: Any) -> Any:
        return self._product(x, transposed=self.transposed)

    def _rmatmat(self, x: Any) -> Any:
        return self._product(x, transposed=not self.transposed)

    _matvec = _matmat
    _rmatvec = _rmatmat

    def _adjoint(self) -> PreconditionerOperator:
        return type(self)(self.preconditioner, self.state, self.which, transposed=not self.transposed)

    _transpose = _adjoint  # it is real

    def _product(self, x: np.ndarray, *, transposed: bool) -> np.ndarray:
        """Return the product with a vector (n,) or (n, 1), or with columns, in its shape."""
        if np.ma.isMaskedArray(x) or x.dtype.kind not in "biufc":
            raise TypeError(f"`x` must be an array of numbers, got {described(x)}; convert it")
        if np.iscomplexobj(x):
            real, imaginary = (self._product(part, transposed=transposed) for part in (x.real, x.imag))
            return real + 1j * imaginary
        like = self.preconditioner.like(self.state)
        # a copy for other libraries: they may share the buffer, which solvers go on writing to
        x = np.asarray(x).astype(self.dtype, copy=not array_api_compat.is_numpy_array(like))
        y = namespace(like).asarray(x, device=device_of(like))
        for verb in _VERBS[self.which][transposed]:
            y = getattr(self.preconditioner, verb)(self.state, y)
        y = to_host(y)
        return y if y.flags.writeable else y.copy()

    def __repr__(self) -> str:
        n, name = self.shape[0], self.which + (".T" if self.transposed and self.which[0] == "Q" else "")
        return f"<{n}x{n} {name} of {self.preconditioner!r}, {self.dtype}>"


def as_linear_operator(
    preconditioner: Preconditioner[Any], state: Any, which: Which = "P", *, via_host: bool = False
) -> PreconditionerOperator:
    """Return a fitted preconditioner as a `scipy.sparse.linalg.LinearOperator`.

    Parameters
    ----------
    preconditioner, state
        A configuration, and a state of it.
    which : {"P", "P_inverse", "Q", "Q_inverse"}
        P = Q^T Q approximates ``|A|^{-1}`` and is symmetric positive definite: the ``M`` of `cg`, `minres`
        and `lobpcg`. P_inverse approximates ``|A|``. ``Q A Q^T`` is the symmetrically preconditioned A.
    via_host : bool
        Allow a state that is not NumPy's: each vector is copied to the state's device, and the product back.

    Returns
    -------
    PreconditionerOperator, shape (n, n)
        A LinearOperator in the dtype of the state, to which vectors are converted. It has matvec, rmatvec,
        matmat, rmatmat, ``.T``, ``.H``, and keeps a reference to `state`; it can be pickled where the state
        can. A product costs what the preconditioner's verbs cost.

    Raises
    ------
    TypeError
        If `preconditioner` is not one, or the state is not NumPy's and `via_host` is False.
    ValueError
        For an unknown `which`.
    """
    if not isinstance(preconditioner, Preconditioner):
        raise TypeError(
            f"`preconditioner` must be a Preconditioner, got {described(preconditioner)}; pass the instance "
            "that made the state"
        )
    require_choice("which", which, get_args(Which))
    like = preconditioner.like(state)
    if not (array_api_compat.is_numpy_array(like) or via_host):
        raise TypeError(
            f"`state` must hold NumPy arrays, got {type(like).__module__}.{type(like).__name__}; pass "
            "via_host=True to copy every vector to its device and back"
        )
    return PreconditionerOperator(preconditioner, state, which)


def psgd_method(
    fun: Function,
    x0: Any,
    args: tuple[Any, ...] = (),
    *,
    jac: Function | bool | str | None = None,
    hess: Any = None,
    hessp: Function | None = None,
    bounds: Any = None,
    constraints: Any = (),
    callback: Function | None = None,
    disp: bool = False,
    gtol: float | None = None,
    maxfev: int | None = None,
    tol: float | None = None,
    **options: Any,
) -> MinimizeResult:
    """Minimise by PSGD: the ``method=`` of `scipy.optimize.minimize`.

    Arguments are those of SciPy's own methods. Settings go into ``options``, or are bound beforehand::

        minimize(f, x0, jac=g, hessp=hp, method=psgd_method, options={"preconditioner": XMat()})
        minimize(f, x0, jac=g, hessp=hp, method=functools.partial(psgd_method, preconditioner=XMat()))

    Parameters
    ----------
    fun, x0, args
        As in SciPy.
    jac : callable, True, "2-point", "3-point" or None
        The gradient; by differences of values without one, as in `psgd_core.minimize`. SciPy passes both
        names on as None, for forward differences.
    hessp, hess
        Hessian-vector product ``hessp(x, v, *args)``; or the Hessian: ``hess(x, *args)``, a matrix, a sparse
        matrix, a LinearOperator; or "2-point", "3-point" for forward or central differences of gradients.
        If both are given, `hessp` is ignored, as in SciPy. Without either, forward differences.
    bounds, constraints
        PSGD has none: pairs of None or infinities are accepted, anything else is refused.
    callback : callable
        ``callback(intermediate_result)`` by that name, or ``callback(xk)``; may raise StopIteration.
    tol, gtol : float
        Stop when ``max|gradient| <= tol``; `tol` goes before `gtol`.
    **options
        maxiter, maxfun (or maxfev), disp, gtol, and the settings of `psgd_core.minimize`: preset,
        preconditioner, lr, step, momentum, clip, weight_decay, source, probes, every, probability, sample,
        rng, nonfinite, resume. Others are ignored with an OptimizeWarning.

    Returns
    -------
    MinimizeResult
        That of `psgd_core.minimize`, and ``hess_inv``, the fitted P as a LinearOperator.

    Raises
    ------
    TypeError, ValueError
        For bounds, constraints and the like, and as `psgd_core.minimize`.
    """
    require_unbounded(bounds)
    if constraints is not None and not (isinstance(constraints, list | tuple) and len(constraints) == 0):
        raise ValueError("`constraints` must be empty: PSGD has none; add a penalty, or use SLSQP")
    if isinstance(hess, HessianUpdateStrategy):
        raise ValueError(
            f"`hess` must be a callable, a matrix, '2-point' or '3-point', got {type(hess).__name__}; "
            "PSGD fits its own approximation"
        )
    if isinstance(hess, str):
        require_choice("hess", hess, get_args(Differences), "or give a callable or a matrix")
        options.setdefault("source", Forward() if hess == "2-point" else Central())
        hess = None
    if maxfev is not None:
        options.setdefault("maxfun", maxfev)
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        warnings.warn(f"Unknown solver options: {', '.join(unknown)}", OptimizeWarning, stacklevel=3)
    result = minimize(
        fun,
        x0,
        args,
        jac=jac,
        hvp=hessp if hess is None else None,
        hess=hess,
        callback=callback,
        tol=gtol if tol is None else tol,
        **{name: value for name, value in options.items() if name in _OPTIONS},
    )
    result.hess_inv = as_linear_operator(result.optimizer.preconditioner, result.state, via_host=True)
    if disp:
        print(report(result))
    return result
