"""Curvature-informed SGD with Lie-group preconditioners (PSGD, arXiv 2402.04553) on any array library.

One code base, written against the Python array API: NumPy, CuPy, PyTorch tensors and traced JAX arrays. A
preconditioner is configuration; its state is a NamedTuple of arrays that goes in and out of pure functions::

    p = psgd_core.XMat()
    state = p.init(n, like=x)
    state = p.update(state, v, h, step=0.1)  # h = H v, a Hessian-vector product
    y = p.precondition(state, g)  # P g, with P converging to |H|^{-1}
"""

from . import (
    adapters,
    checkpoint,
    convergence,
    criterion,
    curvature,
    descent,
    display,
    groups,
    kernels,
    preconditioners,
    schedules,
)
from .checkpoint import load, save
from .descent import PSGD, minimize
from .groups import PermutationSubgroup
from .preconditioners import (
    Blocks,
    Butterfly,
    ClosedForm,
    Dense,
    Diagonal,
    Ensemble,
    Kronecker,
    LowRank,
    Preconditioner,
    Replay,
    Sparse,
    XMat,
    normalizers,
)

__all__ = [
    "PSGD",
    "Blocks",
    "Butterfly",
    "ClosedForm",
    "Dense",
    "Diagonal",
    "Ensemble",
    "Kronecker",
    "LowRank",
    "PermutationSubgroup",
    "Preconditioner",
    "Replay",
    "Sparse",
    "XMat",
    "adapters",
    "checkpoint",
    "convergence",
    "criterion",
    "curvature",
    "descent",
    "display",
    "groups",
    "kernels",
    "load",
    "minimize",
    "normalizers",
    "preconditioners",
    "save",
    "schedules",
]

__version__ = "0.1.0.dev0"
