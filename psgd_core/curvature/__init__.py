"""Where curvature pairs (v, h) come from: h = H v, or a substitute.

A *source* is a small frozen object with one verb, ``source.pairs(functions, x, g, v) -> (v, h)``: `Exact`
calls the user's Hessian-vector product, `Forward` and `Central` difference gradients along v, `Secant`
differences them along the steps actually taken, as BFGS does, and `Whitening` takes the gradient itself for
h. `Functions` holds the user's functions. Stochastic functions get their sample there, once per step::

    here = functions.at(sample)  # value, gradient and hvp, all of the same sample
    v, h = source.pairs(here, x, here.gradient(x), probes.draw(rng, x))

so that both gradients of a difference share it. *Probes* v come from an explicit generator:
`Gaussian`, `Rademacher`, or `Orthogonal` blocks, k at a time.
"""

from ..arrays.draws import ByPlace, Seeds
from .functions import Functions, product_with
from .probes import Gaussian, Orthogonal, Probes, Rademacher, basis
from .sources import Along, Central, Exact, Forward, Secant, Source, Whitening

__all__ = [
    "Along",
    "ByPlace",
    "Central",
    "Exact",
    "Forward",
    "Functions",
    "Gaussian",
    "Orthogonal",
    "Probes",
    "Rademacher",
    "Secant",
    "Seeds",
    "Source",
    "Whitening",
    "basis",
    "product_with",
]
