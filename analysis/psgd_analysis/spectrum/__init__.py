"""Spectra of Hessians, of fitted preconditioners, and of preconditioned Hessians.

A Hessian comes from a matrix, a file, an Hvp function, a problem, a PyTorch loss or a JAX function, and
becomes a `HessianOperator`, as does a preconditioned one::

    from psgd_analysis import spectrum

    H = spectrum.from_torch(lambda: loss(model(x), y), model)
    spectrum.density(H, rng).plot()                                # products only, with error bars
    spectrum.eigenvalues(spectrum.preconditioned(H, p, state))     # of P H
    spectrum.compare(H, {"XMat": (p, state)}).plot()               # before and after
    spectrum.group_study(H)                                        # which K, before training
    spectrum.rank_study(H).plot()                                  # which r

Results are frozen values that print as a table (also in Jupyter), draw themselves with `.plot()` and turn
into JSON with `.as_dict()`. `figures` has the drawing functions, which take and return matplotlib Axes.
"""

from . import figures
from .broadening import smoothed
from .exact import (
    compare,
    condition_number,
    damped,
    eigenvalues,
    extreme_eigenvalues,
    preconditioner_eigenvalues,
    spread,
)
from .fitting import fit
from .groups import group_study, named_subgroups
from .operators import (
    HessianOperator,
    as_operator,
    from_matrix,
    linear_operator,
    preconditioned,
    preconditioner_operator,
)
from .ordering import best_order
from .quadrature import density
from .ranks import best_low_rank, least_condition, rank_study
from .recurrence import Tridiagonal, lanczos
from .results import Comparison, Density, Eigenvalues, Extremes, GroupStudy, Ordering, RankStudy
from .sources import from_file, from_hvp, from_jax, from_problem, from_torch
from .table import Result
from .traces import Estimate, diagonal, hutch_plus_plus, trace

__all__ = [
    "Comparison",
    "Density",
    "Eigenvalues",
    "Estimate",
    "Extremes",
    "GroupStudy",
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
    "from_matrix",
    "from_problem",
    "from_torch",
    "group_study",
    "hutch_plus_plus",
    "lanczos",
    "least_condition",
    "linear_operator",
    "named_subgroups",
    "preconditioned",
    "preconditioner_eigenvalues",
    "preconditioner_operator",
    "rank_study",
    "smoothed",
    "spread",
    "trace",
]
