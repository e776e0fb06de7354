"""Exact products beside differences of gradients, and the P that was fitted to either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from psgd_core.adapters.torch import functions
from psgd_core.curvature import Forward

from ...arrays import put, to_host
from .losses import loss as loss_of
from .measure import Measure

if TYPE_CHECKING:
    from .networks import NetworkTraining


class Products(Measure):
    """Products of the loss on held-out examples where the training ended; the same probes for all.

    Parameters
    ----------
    training : NetworkTraining
    examples : int
        How many of the test set, the first ones.
    probes : int
        At least 2.
    """

    def __init__(self, training: NetworkTraining, examples: int = 256, probes: int = 16) -> None:
        super().__init__(training)
        self._examples, self._probes = examples, probes

    def final(self) -> dict[str, Any]:
        """Return numbers of the products, and of P.

        "difference", the median of ``|h' - h| / |h|`` with h exact and h' a forward difference;
        "exact_asymmetry" and "difference_asymmetry", see `asymmetry`; "zero_elements" and "zero_products",
        the shares of elements, and of whole products, that are exactly 0; "refused", of the pairs that were
        evaluated. Of P, None where there is none: "criterion" and "difference_criterion", see `shape`, for
        both kinds of products; and "range", the decades between its extreme eigenvalues.
        """
        v, exact, differences = self.products()
        off = np.linalg.norm(differences - exact, axis=0)
        size = np.linalg.norm(exact, axis=0)
        usable = size > 0
        evaluated = max(self.training.steps.products, self.training.steps.gradients, 1)
        found: dict[str, Any] = {
            "difference": float(np.median(off[usable] / size[usable])) if usable.any() else None,
            "exact_asymmetry": asymmetry(v, exact),
            "difference_asymmetry": asymmetry(v, differences),
            "zero_elements": float(np.mean(exact == 0)),
            "zero_products": float(np.mean(~usable)),
            "refused": self.training.skipped / evaluated,
        }
        fitted = getattr(self.training.steps, "fitted", None)
        if fitted is None:
            return found | dict.fromkeys(("criterion", "difference_criterion", "range"))
        p, state = fitted
        return {
            **found,
            "criterion": shape(p, state, v, exact),
            "difference_criterion": shape(p, state, v, differences),
            "range": decades(p, state),
        }

    def products(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return probes, exact products and differences, each of shape (n, probes) and in float64."""
        training = self.training
        x, y = (z[: self._examples] for z in (training.examples.test_x, training.examples.test_y))
        model = training.model
        f = functions(lambda: loss_of(model(x), y), model)
        params = [p for p in model.parameters() if p.requires_grad]
        here = torch.nn.utils.parameters_to_vector(params).detach()
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn((self._probes, len(here)), generator=generator).T.to(here.device, here.dtype)
        model.eval()
        v, differences = Forward().pairs(f, here, f.gradient_at(here), drawn)
        exact = f.products(here, v)
        model.train()
        v, exact, differences = (to_host(z).astype(np.float64) for z in (v, exact, differences))
        return v, exact, differences


def asymmetry(v: np.ndarray, h: np.ndarray) -> float | None:
    """Return how far the matrix behind products is from a symmetric one.

    The root mean square of ``v_i^T h_j - v_j^T h_i`` in units of that of ``v_i^T h_j``, i and j different: 0
    for a symmetric matrix, about sqrt(2) for one without any relation, 2 for a skew one; None if all are 0.
    """
    forms = v.T @ h
    others = ~np.eye(len(forms), dtype=bool)
    size = np.sqrt(np.mean(forms[others] ** 2))
    return float(np.sqrt(np.mean((forms - forms.T)[others] ** 2)) / size) if size > 0 else None


def shape(p: Any, state: Any, v: np.ndarray, h: np.ndarray) -> float | None:
    """Return the criterion of P's best multiple in units of that of the identity's.

    ``sqrt(mean h^T P h  mean v^T P^{-1} v / (mean |h|^2 mean |v|^2))``: below 1 where P is of use. It does
    not depend on the scale of P, which whitening sets otherwise. None if all products are 0.
    """
    like = _like(state)
    a = to_host(p.apply(state, put(h, like))).astype(np.float64)
    b = to_host(p.solve_transpose(state, put(v, like))).astype(np.float64)
    size = np.sum(h**2) * np.sum(v**2)
    return float(np.sqrt(np.sum(a**2) * np.sum(b**2) / size)) if size > 0 else None


def decades(p: Any, state: Any) -> float:
    """Return ``log10`` of the ratio of P's extreme eigenvalues, each by Lanczos, to 0.1 %."""
    from scipy.sparse.linalg import eigsh

    from ... import spectrum

    like = _like(state)
    n = p.size(state)
    ends = []
    for product in (
        lambda x: p.precondition(state, x),
        lambda x: p.solve(state, p.solve_transpose(state, x)),
    ):
        operator = spectrum.linear_operator(spectrum.from_hvp(product, n, like, columns=True))
        start = np.random.default_rng(0).standard_normal(n).astype(operator.dtype)
        ends.append(eigsh(operator, k=1, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)[0])
    return float(np.log10(ends[0]) + np.log10(ends[1]))


def _like(state: Any) -> Any:
    """Return an array of a preconditioner's state."""
    return state.damping
