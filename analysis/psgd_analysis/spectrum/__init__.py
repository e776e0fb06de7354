"""Spectra of Hessians, of fitted preconditioners, and of preconditioned Hessians.

A Hessian comes from a matrix, dense or sparse, a LinearOperator, a file, an Hvp function, a problem, a
PyTorch model or a JAX function, and becomes a `HessianOperator`; so do Gauss-Newton and Fisher matrices, and
a preconditioned Hessian::

    from psgd_analysis import spectrum

    H = spectrum.from_torch(lambda: loss(model(x), y), model)      # or from_torch_model(model, loss, loader)
    spectrum.density(H, rng).plot()                                # products only, with error bars
    spectrum.extreme_eigenvalues(H, rng, k=2)                      # with their eigenvectors
    H = spectrum.damped(H, 1e-3)
    spectrum.compare(H, [psgd.XMat(), psgd.LowRank(2)]).plot()     # the best of each family
    spectrum.compare(H, {"XMat": (p, state)}).plot()               # and what was fitted
    spectrum.group_study(H)                                        # which K, before training
    spectrum.rank_study(H).plot()                                  # which r

Results are frozen values that print as a table (also in Jupyter), draw themselves with `.plot()` and turn
into JSON with `.as_dict()`. `figures` has the drawing functions, which take and return matplotlib Axes.
"""

from . import figures
from .broadening import smoothed
from .comparing import compare
from .curvatures import EmpiricalFisher, Fisher, GaussNewton, Hessian
from .exact import (
    condition_number,
    damped,
    eigenvalues,
    extreme_eigenvalues,
    preconditioner_eigenvalues,
    spread,
)
from .fitting import fit
from .groups import group_study, named_families, named_subgroups
from .jax_sources import from_jax, from_jax_model
from .operators import (
    HessianOperator,
    as_operator,
    from_linear_operator,
    from_matrix,
    linear_operator,
)
from .ordering import best_order
from .preconditioned import preconditioned, preconditioner_operator
from .quadrature import density
from .ranks import best_low_rank, least_condition, rank_study
from .recurrence import Tridiagonal, lanczos
from .results import Comparison, Density, Eigenvalues, Extremes, GroupStudy, Ordering, RankStudy
from .sources import from_file, from_hvp, from_problem
from .table import Result
from .torch_sources import from_torch, from_torch_model
from .traces import Estimate, diagonal, hutch_plus_plus, trace

__all__ = [
    "Comparison",
    "Density",
    "Eigenvalues",
    "EmpiricalFisher",
    "Estimate",
    "Extremes",
    "Fisher",
    "GaussNewton",
    "GroupStudy",
    "Hessian",
    "HessianOperator",
    "Ordering",
    "RankStudy",
    "Result",
    "Tridiagonal",
    "as_operator",
    "best_low_rank",
    "best_order",
    "compare",
    "condition_number",
    "damped",
    "density",
    "diagonal",
    "eigenvalues",
    "extreme_eigenvalues",
    "figures",
    "fit",
    "from_file",
    "from_hvp",
    "from_jax",
    "from_jax_model",
    "from_linear_operator",
    "from_matrix",
    "from_problem",
    "from_torch",
    "from_torch_model",
    "group_study",
    "hutch_plus_plus",
    "lanczos",
    "least_condition",
    "linear_operator",
    "named_families",
    "named_subgroups",
    "preconditioned",
    "preconditioner_eigenvalues",
    "preconditioner_operator",
    "rank_study",
    "smoothed",
    "spread",
    "trace",
]
