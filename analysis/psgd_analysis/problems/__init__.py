"""Hessians of known structure and functions to minimise, in array-API code.

`hessians` makes matrices to verify a preconditioner against, `pairs` and `exact_pairs` the curvature pairs of
a matrix, `load_hessian` reads a user's own. `get` makes a test function by name (`names`, `describe`,
`options`): a `Problem` with value, gradient and exact Hessian-vector product.
"""

from . import hessians
from .base import Permuted, Problem, pairs_to_flip, permuted
from .classics import more_garbow_hillstrom
from .coupled import broyden_tridiagonal, penalty_1, trigonometric, variably_dimensioned
from .curvature_pairs import Pairs, exact_pairs, pairs, probes
from .files import load_hessian, load_matrix, read_idx
from .least_squares import Blocks, LeastSquares, Residual, Windows
from .quadratics import Quadratic, QuadraticSample, hilbert, quadratic, quadratic_of
from .registry import describe, get, names, options
from .softmax import SoftmaxRegression, digits, mnist, softmax_regression
from .tensors import TensorRank, tensor_rank
from .valleys import rosenbrock, rosenbrock_pairs

__all__ = [
    "Blocks",
    "LeastSquares",
    "Pairs",
    "Permuted",
    "Problem",
    "Quadratic",
    "QuadraticSample",
    "Residual",
    "SoftmaxRegression",
    "TensorRank",
    "Windows",
    "broyden_tridiagonal",
    "describe",
    "digits",
    "exact_pairs",
    "get",
    "hessians",
    "hilbert",
    "load_hessian",
    "load_matrix",
    "mnist",
    "more_garbow_hillstrom",
    "names",
    "options",
    "pairs",
    "pairs_to_flip",
    "penalty_1",
    "permuted",
    "probes",
    "quadratic",
    "quadratic_of",
    "read_idx",
    "rosenbrock",
    "rosenbrock_pairs",
    "softmax_regression",
    "tensor_rank",
    "trigonometric",
    "variably_dimensioned",
]
